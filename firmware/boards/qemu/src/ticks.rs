//! SysTick as a clock without end: its 24 bits, and a count of how often they ran out.
//!
//! Under `qemu-system-arm -icount shift=0` one instruction takes one nanosecond of virtual time, so a tick of 25 MHz is
//! exactly 40 instructions. On a real chip the same ticks would be time, not instructions.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{SCB, SYST};

/// Ticks in a second of virtual time; `build.rs` knows the machine's.
const HZ: u64 = match u64::from_str_radix(env!("PICODREAM_SYSTICK_HZ"), 10) {
    Ok(hz) => hz,
    Err(_) => panic!("build.rs gives a number"),
};

const PERIOD: u32 = 1 << 24;

static WRAPS: AtomicU32 = AtomicU32::new(0);

/// Starts counting from zero.
pub fn start(mut systick: SYST) {
    systick.set_clock_source(SystClkSource::Core);
    systick.set_reload(PERIOD - 1);
    systick.clear_current();
    systick.enable_interrupt();
    systick.enable_counter();
}

/// Ticks since [`start`].
pub fn elapsed() -> u64 {
    let (wraps, current) = cortex_m::interrupt::free(|_| {
        let before = SYST::get_current();
        // Ran out, but the handler has not run yet: a reading from just after then belongs to the next period.
        let pending = u32::from(SCB::is_pendst_pending());
        let current = if pending == 1 { SYST::get_current() } else { before };
        (WRAPS.load(Ordering::Relaxed) + pending, current)
    });
    u64::from(wraps) * u64::from(PERIOD) + u64::from(PERIOD - 1 - current)
}

/// Instructions that so many ticks take.
pub fn instructions(ticks: u64) -> u64 {
    ticks * 1_000_000_000 / HZ
}

#[cortex_m_rt::exception]
fn SysTick() {
    // Only this handler writes, and a plain load and store suit every core.
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
