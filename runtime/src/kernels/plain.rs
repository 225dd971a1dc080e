//! Cores without DSP and FPU: Cortex-M3 with one MLA a product, Cortex-M0+ with a multiplication in low registers.
#![allow(unsafe_code, reason = "calls of assembler, whose reads and writes are bounded by the checks before them")]

use core::arch::global_asm;

pub use super::portable::phase;
pub use direct::direct;
pub use feed::feed;
pub(crate) use feed::feed_row;
pub use finish::finish;
pub(crate) use mix::mix;
#[cfg(picodream_baseline)]
pub use strided::{strided_input, strided_products};
pub use winograd::{winograd_input, winograd_products};

#[path = "plain/direct.rs"]
mod direct;
#[path = "plain/feed.rs"]
mod feed;
#[cfg(picodream_baseline)]
#[path = "plain/m0_feed.rs"]
mod feed_core;
#[cfg(not(picodream_baseline))]
#[path = "plain/m3_feed.rs"]
mod feed_core;
#[path = "plain/feed_loops.rs"]
mod feed_loops;
#[path = "plain/feed_rule.rs"]
mod feed_rule;
#[path = "plain/finish.rs"]
mod finish;
#[path = "plain/mix.rs"]
mod mix;
#[cfg(picodream_baseline)]
#[path = "plain/products.rs"]
mod products;
#[cfg(not(picodream_baseline))]
#[path = "plain/m3_products.rs"]
mod products;
#[path = "plain/statistics.rs"]
mod statistics;
#[cfg(picodream_baseline)]
#[path = "plain/strided.rs"]
mod strided;
#[path = "plain/winograd.rs"]
mod winograd;

/// The back end in use, for firmware to log and tests to assert.
#[cfg(picodream_baseline)]
pub const BACKEND: &str = "cortex-m0plus-plain";
/// The back end in use, for firmware to log and tests to assert.
#[cfg(not(picodream_baseline))]
pub const BACKEND: &str = "cortex-m3-plain";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 4;

#[cfg(picodream_baseline)]
global_asm!(
    include_str!("plain/m0_direct.s"),
    include_str!("plain/m0_strided.s"),
    include_str!("plain/m0_winograd.s"),
    include_str!("plain/m0_feed.s"),
    include_str!("plain/m0_finish.s")
);
#[cfg(not(picodream_baseline))]
global_asm!(
    include_str!("plain/m3_direct.s"),
    include_str!("plain/m3_winograd.s"),
    include_str!("plain/m3_feed.s"),
    include_str!("plain/m3_finish.s"),
    include_str!("plain/m3_products.s")
);

unsafe extern "C" {
    fn picodream_plain_winograd_input(
        tiles: *mut i16,
        position: usize,
        row: *const i16,
        other: *const i16,
        pairs: usize,
        step: usize,
        sign: isize,
    );
    fn picodream_plain_winograd_products(tiles: *const i16, weight: *const u8, products: *mut i32, pairs: usize);
    fn picodream_plain_winograd_output(products: *const i32, acc: *mut i32);
    fn picodream_plain_finish(
        acc: *const i32,
        out: *mut half::f16,
        count: usize,
        pitch: usize,
        constants: *const finish::Units,
        residual: usize,
    ) -> usize;
    fn picodream_plain_finish_residual(
        acc: *const i32,
        out: *mut half::f16,
        count: usize,
        pitch: usize,
        constants: *const finish::Units,
        residual: usize,
    ) -> usize;
}

/// One of the loops of `finish.rs`: sums, outputs, how many, bytes from one output to the next, constants, bytes from an output
/// to its residual. Returns how many are left.
type FinishLoop = unsafe extern "C" fn(*const i32, *mut half::f16, usize, usize, *const finish::Units, usize) -> usize;

/// Whether the loops' words are where words may be.
fn aligned(row: &[i16], weight: &[u8]) -> bool {
    row.as_ptr().cast::<u32>().is_aligned() && weight.as_ptr().cast::<u32>().is_aligned()
}
