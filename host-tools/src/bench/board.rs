//! One run of the measuring firmware: a blob in, the instructions of a step and of each operator out.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use picodream_wire::{Record, Records};

use crate::emulate::qemu::{self, Job};
use crate::emulate::{Machine, firmware, flash};

/// The firmware for one machine.
#[derive(Clone, Debug)]
pub struct Board {
    /// Where it runs.
    pub machine: &'static Machine,
    /// The firmware.
    pub elf: Vec<u8>,
}

/// What a network call took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Name of the integer kernels that ran.
    pub backend: String,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Instructions of a whole denoising step, sampler included.
    pub step: u64,
    /// Instructions of each operator of a network call.
    pub ops: Vec<u64>,
    /// Instructions of the row feed, and of products and sums, of the operators that tell them.
    pub integer: BTreeMap<usize, [u64; 2]>,
    /// Most bytes of stack in use.
    pub stack_peak_bytes: u32,
}

impl Board {
    /// Builds the firmware.
    ///
    /// # Errors
    /// When there is no compiler target, or it does not build.
    pub fn build(machine: &'static Machine) -> Result<Self> {
        Ok(Self { machine, elf: firmware::build(machine, firmware::Form::Bench, "".as_ref())? })
    }

    /// Bytes of the firmware: vectors, code, constants and initial values, measuring and reporting included, no blob.
    ///
    /// # Errors
    /// When the linker's output is no ELF file.
    pub fn code_bytes(&self) -> Result<u64> {
        flash::flash_bytes(&self.elf)
    }

    /// Runs a blob.
    ///
    /// # Errors
    /// When the board refuses the blob or crashes, or when its counter does not count instructions.
    pub fn measure(&self, blob: &[u8]) -> Result<Counts> {
        let run = qemu::run(&Job {
            machine: self.machine,
            elf: &self.elf,
            files: &[("model.pdm", blob)],
            steps: 1,
            patience: Duration::from_secs(300),
            show_progress: false,
        })?;
        read(&run.report, self.machine)
    }
}

/// How far a count may be off: one tick of the slowest SysTick (20 MHz) at either end.
const TWO_TICKS: u64 = 100;

fn read(report: &[u8], machine: &Machine) -> Result<Counts> {
    let mut counts = Counts::default();
    let (mut held_against, mut finished) = (None, false);
    for record in Records::new(report) {
        match record? {
            Record::Started { backend, arena_bytes, .. } => {
                (counts.backend, counts.arena_bytes) = (backend.to_owned(), arena_bytes);
            }
            Record::Yardstick { known, counted } => held_against = Some((known, counted)),
            Record::Step { instructions } => counts.step = instructions,
            Record::Op { index, instructions } => {
                ensure!(index as usize == counts.ops.len(), "operator {index} came after {}", counts.ops.len());
                counts.ops.push(instructions);
            }
            Record::Integer { index, feed, products } => {
                counts.integer.insert(index as usize, [feed, products]);
            }
            Record::Finished { stack_peak_bytes } => {
                (counts.stack_peak_bytes, finished) = (stack_peak_bytes, true);
            }
            Record::Refused(reason) => bail!("the board refused: {reason}"),
            Record::Pixels(_) | Record::Image { .. } => bail!("the board draws instead of measuring"),
            Record::Checked { .. } => bail!("the board checks its kernels instead of measuring"),
        }
    }
    ensure!(finished, "the report of {} ends after {} operators", machine.core_name, counts.ops.len());
    let Some((known, counted)) = held_against else { bail!("the board did not check its counter") };
    ensure!(
        known.abs_diff(counted) <= TWO_TICKS,
        "the counter of {} is wrong: a loop of {known} instructions counts as {counted}; is this another QEMU?",
        machine.core_name
    );
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            record.emit(&mut |piece| bytes.extend_from_slice(piece));
        }
        bytes
    }

    const STARTED: Record = Record::Started {
        blob_crc32: 1,
        arena_bytes: 64,
        width: 4,
        height: 4,
        channels: 1,
        backend: "portable",
        name: "random",
    };
    const YARDSTICK: Record = Record::Yardstick { known: 2_000_002, counted: 2_000_031 };
    const STEP: Record = Record::Step { instructions: 90 };
    const FINISHED: Record = Record::Finished { stack_peak_bytes: 7 };

    fn op(index: u32, instructions: u64) -> Record<'static> {
        Record::Op { index, instructions }
    }

    fn error(records: &[Record]) -> String {
        read(&report(records), Machine::named("m55").unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_report_is_read() {
        let integer = Record::Integer { index: 1, feed: 12, products: 34 };
        let bytes = report(&[STARTED, YARDSTICK, STEP, op(0, 30), integer, op(1, 50), FINISHED]);
        let counts = read(&bytes, Machine::named("m55").unwrap()).unwrap();
        let want = Counts {
            backend: "portable".into(),
            arena_bytes: 64,
            step: 90,
            ops: vec![30, 50],
            integer: BTreeMap::from([(1, [12, 34])]),
            stack_peak_bytes: 7,
        };
        assert_eq!(counts, want);
    }

    #[test]
    fn a_report_that_cannot_be_trusted_is_refused() {
        assert!(error(&[STARTED, YARDSTICK, STEP, op(0, 30)]).contains("ends after 1 operators"));
        assert!(error(&[STARTED, STEP, op(0, 30), FINISHED]).contains("did not check its counter"));
        assert!(error(&[STARTED, YARDSTICK, op(1, 30)]).contains("operator 1 came after 0"));
        let twice = Record::Yardstick { known: 2_000_002, counted: 4_000_000 };
        assert!(error(&[STARTED, twice, FINISHED]).contains("counts as 4000000"));
        assert!(error(&[Record::Refused("the arena is too small")]).contains("the arena is too small"));
    }
}
