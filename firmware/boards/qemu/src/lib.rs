//! The emulated board: files of the computer over semihosting, SysTick as instruction counter, a painted stack.
#![no_std]

mod fault;
mod stack;
mod ticks;

use defmt_semihosting as _;
use picodream_app::{Board, Outcome};
use picodream_wire::{Record, Request};
use semihosting::fs::File;
use semihosting::io::{Read, Write};

/// One of QEMU's Cortex-M boards (`build.rs` has the list), started with `-semihosting-config enable=on` and `-icount shift=0` in a folder that
/// may hold `request.bin` and `model.pdm`; leaves `report.bin` there.
pub struct Qemu {
    report: File,
}

impl Qemu {
    /// Starts the counter and creates the report.
    #[must_use]
    pub fn start() -> Self {
        let peripherals = need(cortex_m::Peripherals::take().ok_or(()), "the board is started once");
        ticks::start(peripherals.SYST);
        Self { report: need(File::create(c"report.bin"), "report.bin can be created") }
    }

    /// The request that lies in `request.bin`; without that file, [`Request::default`].
    #[must_use]
    pub fn request(&self) -> Request {
        let mut bytes = [0; Request::BYTES];
        match File::open(c"request.bin") {
            Ok(file) => {
                let got = read_all(file, &mut bytes);
                need(Request::parse(&bytes[..got]), "request.bin holds a request")
            }
            Err(_) => Request::default(),
        }
    }

    /// The bytes of `model.pdm`, put into `room`, whose place is aligned as flash would be.
    pub fn read_blob(&self, room: &'static mut [u8]) -> &'static [u8] {
        let got = read_all(need(File::open(c"model.pdm"), "there is a model.pdm"), room);
        &room[..got]
    }

    /// Ends the emulation; its exit code is 0 when the work was done.
    pub fn exit(self, outcome: Outcome) -> ! {
        drop(self.report);
        semihosting::process::exit(match outcome {
            Outcome::Done => 0,
            Outcome::Refused => 1,
        })
    }
}

impl Board for Qemu {
    fn ticks(&mut self) -> u64 {
        ticks::elapsed()
    }

    fn instructions(&self, ticks: u64) -> u64 {
        ticks::instructions(ticks)
    }

    fn known_loop(&mut self) -> u64 {
        // cortex-m's loop of two instructions, taken once more than asked for.
        const TIMES: u32 = 1_000_000;
        cortex_m::asm::delay(TIMES);
        2 * (u64::from(TIMES) + 1)
    }

    fn stack_peak_bytes(&mut self) -> u32 {
        stack::peak_bytes()
    }

    fn send(&mut self, record: &Record) {
        record.emit(&mut |bytes| need(self.report.write_all(bytes), "report.bin can be written"));
    }
}

/// Fills `room` from the file; returns how far it came.
fn read_all(mut file: File, room: &mut [u8]) -> usize {
    let mut len = 0;
    loop {
        match need(file.read(&mut room[len..]), "the file can be read") {
            0 => return len,
            n => len += n,
        }
    }
}

/// Like `expect`, without the code that writes an error out in full.
fn need<T, E>(result: Result<T, E>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(_) => fault::stop(what),
    }
}
