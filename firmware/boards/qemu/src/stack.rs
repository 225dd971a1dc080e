//! How deep the stack ever was: cortex-m-rt paints all RAM below it at reset, the highest scrubbed word tells.
#![allow(unsafe_code, reason = "reads the painted RAM between two linker symbols")]

use core::ptr::{addr_of, read_volatile};

use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

/// Bytes between the top of the stack and the lowest word that was ever written.
pub fn peak_bytes() -> u32 {
    let (low, high) = (addr_of!(_stack_end), addr_of!(_stack_start));
    let mut word = low;
    // SAFETY: both symbols are aligned ends of RAM that belongs to the stack alone (link.x asserts order and alignment),
    // so every word in between can be read; volatile, because the paint was put there behind the compiler's back.
    while word < high && unsafe { read_volatile(word) } == STACK_PAINT_VALUE {
        word = word.wrapping_add(1);
    }
    (high as usize - word as usize) as u32
}
