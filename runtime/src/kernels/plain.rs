//! Cores without DSP and FPU: Cortex-M3 with one MLA a product, Cortex-M0+ with a multiplication in low registers.
#![allow(unsafe_code, reason = "calls of assembler, whose reads and writes are bounded by the checks before them")]

use core::arch::global_asm;

use super::{Taps, portable};
use crate::blob::BLOCK_PIXELS;

pub use super::portable::{finish, phase, winograd_input};
pub use feed::feed;

#[path = "plain/feed.rs"]
mod feed;

/// The back end in use, for firmware to log and tests to assert.
#[cfg(picodream_baseline)]
pub const BACKEND: &str = "cortex-m0plus-plain";
/// The back end in use, for firmware to log and tests to assert.
#[cfg(not(picodream_baseline))]
pub const BACKEND: &str = "cortex-m3-plain";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 4;

#[cfg(picodream_baseline)]
global_asm!(include_str!("plain/m0.s"));
#[cfg(not(picodream_baseline))]
global_asm!(include_str!("plain/m3.s"));

/// Pixels of a block.
#[cfg(picodream_baseline)]
const PIXELS: usize = 3;
/// Pixels of a block.
#[cfg(not(picodream_baseline))]
const PIXELS: usize = 4;

/// Pairs of input channels that the unrolled loop of a 1×1 kernel takes.
#[cfg(picodream_baseline)]
const UNROLLED: usize = 3;
/// Pairs of input channels that the unrolled loop of a 1×1 kernel takes.
#[cfg(not(picodream_baseline))]
const UNROLLED: usize = 4;

/// Rows times pairs of channels that one call of a loop may sum, twice with stride 2, and the end of the list.
const MAX_ADDRESSES: usize = 193;

unsafe extern "C" {
    fn picodream_plain_square_1(list: *const *const i16, weight: *const u8, acc: *mut i32, pairs: usize, skip: usize);
    fn picodream_plain_square_2(list: *const *const i16, weight: *const u8, acc: *mut i32, pairs: usize, skip: usize);
    fn picodream_plain_winograd_1(tiles: *const i16, weight: *const u8, products: *mut i32, in_pairs: usize);
    fn picodream_plain_winograd_4(tiles: *const i16, weight: *const u8, products: *mut i32, in_pairs: usize);
    fn picodream_plain_point_1(inputs: *const i16, weight: *const u8, acc: *mut i32, pairs: usize, in_pairs: usize);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_point_3")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_point_4")]
    fn point_unrolled(inputs: *const i16, weight: *const u8, acc: *mut i32, pairs: usize, in_pairs: usize);
}

/// As [`portable::direct`].
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    let done = match (taps.geometry.kernel, taps.geometry.stride) {
        (1, 1) => point(taps, weight, x, pixels, acc),
        (3, 1 | 2) => square(taps, weight, x, pixels, acc),
        _ => None,
    };
    if done.is_none() {
        portable::direct(taps, weight, x, pixels, acc);
    }
}

/// Whether the loops' words are where words may be.
fn aligned(row: &[i16], weight: &[u8]) -> bool {
    row.as_ptr().cast::<u32>().is_aligned() && weight.as_ptr().cast::<u32>().is_aligned()
}

/// Pairs of output channels that both have weights and room for sums.
fn out_pairs(weight: &[u8], pair_bytes: usize, acc: &[i32]) -> usize {
    (weight.len() / pair_bytes.max(1)).min(acc.len() / (2 * BLOCK_PIXELS))
}

/// First pixels of the blocks that hold the first `pixels` of eight; blocks overlap where they would pass the eighth.
fn blocks(pixels: usize) -> impl Iterator<Item = usize> {
    (0..pixels.min(BLOCK_PIXELS)).step_by(PIXELS).map(|first| first.min(BLOCK_PIXELS - PIXELS))
}

/// A 1×1 kernel, or `None` for other loops to do it.
fn point(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let block = taps.rows[0]?.get(g.index(x, 0)..)?.get(..2 * BLOCK_PIXELS * g.pairs)?;
    let pairs = out_pairs(weight, 4 * g.pairs, acc);
    if g.pairs == 0 || pairs == 0 || !x.is_multiple_of(BLOCK_PIXELS) || !aligned(block, weight) {
        return None;
    }
    for first in blocks(pixels) {
        let inputs = block[2 * first..].as_ptr();
        let acc = acc[first..].as_mut_ptr();
        // SAFETY: the loop reads PIXELS words of the eight of each pair of input channels from `first` on, all in `block`, and
        // 4 · g.pairs bytes of weights for each of `pairs`; it writes PIXELS of the 8 sums of each of 2 · `pairs` channels.
        unsafe {
            if g.pairs.is_multiple_of(UNROLLED) {
                point_unrolled(inputs, weight.as_ptr(), acc, pairs, g.pairs);
            } else {
                picodream_plain_point_1(inputs, weight.as_ptr(), acc, pairs, g.pairs);
            }
        }
    }
    Some(())
}

/// A 3×3 kernel, or `None` for other loops to do it.
fn square(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let ky_bytes = 12 * g.pairs;
    let pairs = out_pairs(weight, 3 * ky_bytes, acc);
    let first = taps.rows.iter().position(Option::is_some)?;
    let rows = taps.rows[first..].iter().map_while(|row| *row).count();
    let all = taps.rows.iter().flatten().count() == rows && (x + BLOCK_PIXELS) * g.stride + 2 <= g.columns;
    if !all || pairs == 0 || g.pairs == 0 || rows * g.pairs * g.stride >= MAX_ADDRESSES {
        return None;
    }
    if taps.rows.iter().flatten().any(|row| row.len() < g.len() || !aligned(row, weight)) {
        return None;
    }
    let weight = weight[first * ky_bytes..].as_ptr();
    let skip = (3 - rows) * ky_bytes;
    for first in blocks(pixels) {
        let mut list = [core::ptr::null(); MAX_ADDRESSES];
        let mut slots = list.iter_mut();
        for (row, pair) in taps.rows.iter().flatten().flat_map(|row| (0..g.pairs).map(move |pair| (row, pair))) {
            for (column, slot) in (0..g.stride).zip(&mut slots) {
                *slot = row[g.window(x, pair, column) + 2 * first..].as_ptr();
            }
        }
        let acc = acc[first..].as_mut_ptr();
        // SAFETY: the list holds the addresses of each row and pair of channels, and null behind them; three columns of PIXELS
        // pixels lie below `g.columns` (`all`) in rows of `g.len()` elements. 12 bytes of weights are read for each address,
        // and `skip` passed over for each of `pairs`. PIXELS of the 8 sums of each of 2 · `pairs` channels are written.
        unsafe {
            if g.stride == 1 {
                picodream_plain_square_1(list.as_ptr(), weight, acc, pairs, skip);
            } else {
                picodream_plain_square_2(list.as_ptr(), weight, acc, pairs, skip);
            }
        }
    }
    Some(())
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
    portable::winograd_output(products, acc);
}
