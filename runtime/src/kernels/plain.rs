//! Cores without DSP and FPU: Cortex-M3 with one MLA a product, Cortex-M0+ with a multiplication in low registers.
#![allow(unsafe_code, reason = "calls of assembler, whose reads and writes are bounded by the checks before them")]

use core::arch::global_asm;

use super::portable;

pub use super::portable::phase;
pub use direct::direct;
pub use feed::feed;
pub(crate) use feed::feed_row;
pub use finish::finish;
pub(crate) use mix::mix;
pub use winograd::winograd_input;

#[path = "plain/direct.rs"]
mod direct;
#[path = "plain/feed.rs"]
mod feed;
#[path = "plain/feed_loops.rs"]
mod feed_loops;
#[path = "plain/finish.rs"]
mod finish;
#[path = "plain/mix.rs"]
mod mix;
#[path = "plain/statistics.rs"]
mod statistics;
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
global_asm!(include_str!("plain/m0.s"), include_str!("plain/m0_winograd.s"), include_str!("plain/m0_ends.s"));
#[cfg(not(picodream_baseline))]
global_asm!(include_str!("plain/m3.s"), include_str!("plain/m3_winograd.s"), include_str!("plain/m3_ends.s"));

/// Pixels up to which the smaller blocks are enough, and four, which the larger ones fit.
#[cfg(picodream_baseline)]
const fn is_few(pixels: usize) -> bool {
    pixels <= 6
}
/// Whether blocks of three pixels fit better than those of four.
#[cfg(not(picodream_baseline))]
const fn is_few(pixels: usize) -> bool {
    pixels <= 6 && pixels != 4
}

/// Pixels of the smaller and of the larger blocks.
const BLOCKS: [usize; 2] = if cfg!(picodream_baseline) { [6, 8] } else { [3, 4] };

unsafe extern "C" {
    fn picodream_plain_unpack_8(row: *const i16, words: *mut i32, pairs: usize, step: usize, odd: usize);
    fn picodream_plain_unpack_10(row: *const i16, words: *mut i32, pairs: usize, step: usize, odd: usize);
    fn picodream_plain_unpack_17(row: *const i16, words: *mut i32, pairs: usize, step: usize, odd: usize);
    fn picodream_plain_winograd_input(job: *mut winograd::InputJob, tiles: *mut i16);
    fn picodream_plain_winograd_output(products: *const i32, acc: *mut i32);
    fn picodream_plain_winograd_1(tiles: *const i16, weight: *const u8, products: *mut i32, in_pairs: usize);
    fn picodream_plain_winograd_4(tiles: *const i16, weight: *const u8, products: *mut i32, in_pairs: usize);
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
    fn picodream_plain_feed_silu(
        values: *const half::f16,
        row: *mut i16,
        count: usize,
        step: usize,
        constants: *const u32,
    ) -> usize;
}

/// One of the loops of `finish.rs`: sums, outputs, how many, bytes from one output to the next, constants, bytes from an output
/// to its residual. Returns how many are left.
type FinishLoop = unsafe extern "C" fn(*const i32, *mut half::f16, usize, usize, *const finish::Units, usize) -> usize;

/// One of the loops of `feed.rs`: values, places, how many, bytes from one value to the next, constants. Returns how many are left.
type FeedLoop = unsafe extern "C" fn(*const half::f16, *mut i16, usize, usize, *const u32) -> usize;

/// Whether the loops' words are where words may be.
fn aligned(row: &[i16], weight: &[u8]) -> bool {
    row.as_ptr().cast::<u32>().is_aligned() && weight.as_ptr().cast::<u32>().is_aligned()
}

/// As [`portable::winograd_products`].
pub fn winograd_products(tiles: &[i16], pairs: usize, weight: &[u8], products: &mut [i32], acc: &mut [i32]) {
    let fits = tiles.len() >= 128 * pairs && weight.len() >= 128 * pairs && products.len() >= 128;
    if !fits || pairs == 0 || !aligned(tiles, weight) {
        return portable::winograd_products(tiles, pairs, weight, products, acc);
    }
    // SAFETY: 16 times 8 · pairs inputs and 4 · pairs weights are read and 128 products written: checked to be there.
    unsafe {
        if pairs.is_multiple_of(4) {
            picodream_plain_winograd_4(tiles.as_ptr(), weight.as_ptr(), products.as_mut_ptr(), pairs);
        } else {
            picodream_plain_winograd_1(tiles.as_ptr(), weight.as_ptr(), products.as_mut_ptr(), pairs);
        }
    }
    winograd::output(products, acc);
}
