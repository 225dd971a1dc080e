//! Cortex-M4, M7 and M33: DSP instructions, and the FPU for what surrounds them.
//!
//! Every loop owns all fourteen registers, so each is a naked function in assembly behind a safe wrapper: it checks lengths and
//! alignment once a call, and leaves what does not fit to the portable loop. The integer loops share one plan: two output
//! channels times four pixels in r4–r11, two words of weights in r12 and lr, two words of inputs in r2 and r3.

/// What an assembly function begins with: a plain ARMv8-M target does not let the assembler use the DSP extension, and link-time
/// optimisation forgets that there is an FPU.
#[cfg(all(picodream_armv8m, target_abi = "eabihf"))]
macro_rules! core_directive {
    () => {
        ".cpu cortex-m33
         .fpu fpv5-sp-d16"
    };
}
#[cfg(all(not(picodream_armv8m), target_abi = "eabihf"))]
macro_rules! core_directive {
    () => {
        ".fpu fpv4-sp-d16"
    };
}
#[cfg(not(target_abi = "eabihf"))]
macro_rules! core_directive {
    () => {
        ""
    };
}

/// Multiplies the two words of inputs in r2, r3 by the weights in lr and r12: pixels 0 and 1 of four, or 2 and 3.
macro_rules! products {
    (low) => {
        "smlad r4, lr, r2, r4
         smlad r8, r12, r2, r8
         smlad r5, lr, r3, r5
         smlad r9, r12, r3, r9"
    };
    (high) => {
        "smlad r6, lr, r2, r6
         smlad r10, r12, r2, r10
         smlad r7, lr, r3, r7
         smlad r11, r12, r3, r11"
    };
}

#[cfg(target_abi = "eabihf")]
#[path = "dsp/dense.rs"]
mod dense;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/feed.rs"]
mod feed;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/finish.rs"]
mod finish;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/mix.rs"]
mod mix;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/narrow.rs"]
mod narrow;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/softmax.rs"]
mod softmax;
#[cfg(target_abi = "eabihf")]
#[path = "dsp/totals.rs"]
mod totals;
#[macro_use]
#[path = "dsp/rows.rs"]
mod rows;
#[path = "dsp/clear.rs"]
mod clear;
#[path = "dsp/direct.rs"]
mod direct;
#[path = "dsp/expand.rs"]
mod expand;
#[path = "dsp/phase.rs"]
mod phase;
#[path = "dsp/winograd.rs"]
mod winograd;

// Without an FPU the portable loops feed and finish.
#[cfg(not(target_abi = "eabihf"))]
pub use super::portable::{feed, finish};
pub use clear::clear;
pub use direct::direct;
pub use expand::expand;
pub use phase::phase;
pub use winograd::{winograd_input, winograd_products};
#[cfg(target_abi = "eabihf")]
pub use {
    dense::dots,
    feed::{feed, feed_doubled},
    finish::finish,
    narrow::narrow,
    totals::add_and_clear,
};

#[cfg(target_abi = "eabihf")]
pub(crate) use {feed::feed_row, mix::mix};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-dsp";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 4;

/// Whether words can be read at this address.
fn is_aligned<T>(slice: &[T]) -> bool {
    slice.as_ptr().addr().is_multiple_of(4)
}
