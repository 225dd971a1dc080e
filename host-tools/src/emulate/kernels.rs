//! Holds the kernels of an emulated core to the portable ones, bit by bit.

use std::time::Duration;

use anyhow::{Result, bail};
use picodream_wire::{Record, Records};

use super::{Form, Machine, firmware, qemu};

/// What was compared without a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelsReport {
    /// Name of the kernels that ran.
    pub backend: String,
    /// Cases: random shapes, tails, alignments and extreme values of every loop.
    pub cases: u32,
}

/// Builds and runs `firmware/boards/qemu/src/bin/kernels` on `machine`.
///
/// # Errors
/// When a result differs, with the loop and the case, or when the firmware does not build or run.
pub fn check_kernels(machine: &Machine) -> Result<KernelsReport> {
    let elf = firmware::build(machine, Form::Kernels, "".as_ref())?;
    let run = qemu::run(&qemu::Job {
        machine,
        elf: &elf,
        files: &[],
        steps: 1,
        patience: Duration::from_secs(300),
        show_progress: false,
    })?;
    read(&run.report, machine)
}

fn read(report: &[u8], machine: &Machine) -> Result<KernelsReport> {
    match Records::new(report).next() {
        Some(Ok(Record::Checked { backend, cases })) => Ok(KernelsReport { backend: backend.to_owned(), cases }),
        Some(Ok(Record::Refused(reason))) => bail!("{}: {reason}", machine.core_name),
        _ => bail!("the emulated {} did not say whether its kernels agree", machine.core_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_an_error_and_so_is_silence() {
        let machine = Machine::named("m4").unwrap();
        let of = |record: Record| {
            let mut bytes = Vec::new();
            record.emit(&mut |piece| bytes.extend_from_slice(piece));
            read(&bytes, machine)
        };
        let agreed = of(Record::Checked { backend: "portable", cases: 3 }).unwrap();
        assert_eq!(agreed, KernelsReport { backend: "portable".into(), cases: 3 });
        assert!(of(Record::Refused("case 7")).unwrap_err().to_string().contains("case 7"));
        assert!(read(&[], machine).is_err());
    }
}
