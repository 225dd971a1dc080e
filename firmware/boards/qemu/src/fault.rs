//! What ends badly ends the emulation at once, with a reason in the log and an exit code above 100.

use core::panic::PanicInfo;

const PANICKED: i32 = 101;
const FAULTED: i32 = 102;

/// Says what did not hold, and ends.
pub fn stop(what: &str) -> ! {
    defmt::error!("this must hold: {=str}", what);
    semihosting::process::exit(PANICKED)
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    // Place and constant text only: writing out any message would take kilobytes of code.
    let (file, line) = info.location().map_or(("?", 0), |place| (place.file(), place.line()));
    defmt::error!("panicked at {=str}:{=u32}: {=str}", file, line, info.message().as_str().unwrap_or("(with numbers)"));
    semihosting::process::exit(PANICKED)
}

#[defmt::panic_handler]
fn defmt_panic() -> ! {
    semihosting::process::exit(PANICKED)
}

#[cortex_m_rt::exception]
#[allow(unsafe_code, reason = "cortex-m-rt asks for the keyword; nothing unsafe is done")]
unsafe fn HardFault(frame: &cortex_m_rt::ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:#010x}, called from {=u32:#010x}", frame.pc(), frame.lr());
    semihosting::process::exit(FAULTED)
}
