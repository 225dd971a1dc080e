//! Cortex-M55 and M85: Helium vectors of eight int16 products, four f32 values at a time around them.
//!
//! The loops take input channels by eight; other counts, and addresses that are not those of words, get the portable loops.
#![allow(unsafe_code, reason = "calls of assembler, whose reads and writes are bounded by the checks before them")]

use core::arch::global_asm;
use core::ptr::null;

use super::{Geometry, Taps, portable};
use crate::blob::BLOCK_PIXELS;

#[path = "helium/ends.rs"]
mod ends;
#[path = "helium/mix.rs"]
mod mix;
#[path = "helium/narrow.rs"]
mod narrow;
#[path = "helium/point.rs"]
mod point;
#[path = "helium/strided.rs"]
mod strided;

pub use ends::{clear, feed, finish};
pub use mix::dots;
pub use narrow::narrow;
pub use point::Point;
pub use strided::{strided_input, strided_products};

pub(crate) use {ends::feed_row, mix::mix};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-helium";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 4;

// The assembler of module text does not know the target's CPU.
global_asm!(
    ".cpu cortex-m55",
    include_str!("helium/sums.s"),
    include_str!("helium/winograd.s"),
    include_str!("helium/strided.s")
);

/// Rows times quads of channels that one call of a phase may sum: a word of stack each.
const MAX_ADDRESSES: usize = 96;

/// Pairs of output channels that one call of a direct loop may sum: eight words of stack each.
const MAX_PAIRS: usize = 16;

/// What the loops of a direct convolution are told; the assembler knows the order.
#[repr(C)]
struct Direct {
    /// First inputs of the rows that are there, and how many.
    rows: [*const i16; 3],
    row_count: usize,
    /// Pairs of input channels by four.
    quads: usize,
    /// Bytes from the last columns of four pairs of channels to the first of the next.
    quad_step: usize,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    /// Bytes of weights of a pair of output channels.
    weight_step: usize,
    /// Bytes from the even columns to the odd ones.
    odd_columns: usize,
    weight: *const u8,
    /// Bytes from behind the last pair of output channels' weights to the same ones of the first, to the next ones of the first,
    /// and on from there to the very first ones.
    back: [usize; 3],
    /// Pairs of output channels, how often four of them, and how many of those the first time leaves out.
    pairs: usize,
    fours: usize,
    left_out: usize,
    acc: *mut i32,
    /// Bytes of the pixels' sums of a channel.
    pixel_bytes: usize,
    /// Pairs of input channels, where they are less than four.
    mask: usize,
}

/// What the loop of a phase is told; the assembler knows the order.
#[repr(C)]
struct Phase {
    /// Addresses of the inputs, one for each row and each four pairs of channels.
    list: *const *const i16,
    quads: usize,
    /// One step before the first weights.
    weight: *const u8,
    acc: *mut i32,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    /// Bytes of weights of rows that are not there.
    skip: usize,
    /// End of `acc`.
    end: *mut i32,
}

unsafe extern "C" {
    fn picodream_helium_direct_s1p4(job: &Direct);
    fn picodream_helium_direct_s1p3(job: &Direct);
    fn picodream_helium_direct_s2p4(job: &Direct);
    fn picodream_helium_direct_s2p3(job: &Direct);
    fn picodream_helium_direct_masked(job: &Direct);
    fn picodream_helium_direct_point(job: &Direct);
    fn picodream_helium_phase(job: &Phase);
    fn picodream_helium_winograd_input(
        rows: &[*const i16; 4],
        tiles: *mut i16,
        row_step: usize,
        tile_step: usize,
        pairs: usize,
    );
    fn picodream_helium_winograd_few(tiles: *const i16, weight: *const u8, acc: *mut i32, loops: usize, count: usize);
    fn picodream_helium_winograd_1(tiles: *const i16, weight: *const u8, acc: *mut i32, loops: usize, count: usize);
    fn picodream_helium_winograd_2(tiles: *const i16, weight: *const u8, acc: *mut i32, loops: usize, count: usize);
    fn picodream_helium_winograd_4(tiles: *const i16, weight: *const u8, acc: *mut i32, loops: usize, count: usize);
    fn picodream_helium_winograd_8(tiles: *const i16, weight: *const u8, acc: *mut i32, loops: usize, count: usize);
}

/// As [`portable::direct`].
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    if direct_loop(taps, weight, x, pixels, acc).is_none() {
        portable::direct(taps, weight, x, pixels, acc);
    }
}

/// The loop that fits, or `None` for others to do it.
fn direct_loop(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let (point, masked) = (g.kernel == 1, g.pairs < 4);
    let (quads, row_bytes) = (if masked { 1 } else { g.pairs / 4 }, 4 * g.kernel * g.pairs);
    let weight_step = g.kernel * row_bytes;
    let pairs = out_pairs(weight, weight_step, acc);
    let inside = if point {
        g.stride == 1 && x.is_multiple_of(BLOCK_PIXELS) && x + BLOCK_PIXELS <= g.columns
    } else {
        (x + BLOCK_PIXELS) * g.stride + 2 <= g.columns
    };
    let regular = if masked { (g.kernel, g.stride) == (3, 1) } else { g.pairs.is_multiple_of(4) };
    let (len, start) = (g.len(), g.window(x, 0, 0));
    if !inside || !regular || start >= len || pairs == 0 || !weight.as_ptr().cast::<u32>().is_aligned() {
        return None;
    }
    let (mut rows, mut row_count, mut first) = ([null(); 3], 0, 0);
    for (k, row) in taps.rows.iter().enumerate() {
        let Some(row) = row else { continue };
        first = if row_count == 0 { k } else { first };
        if row.len() < len || !row.as_ptr().cast::<u32>().is_aligned() || k != first + row_count {
            return None;
        }
        rows[row_count] = row.as_ptr().wrapping_add(start);
        row_count += 1;
    }
    if row_count == 0 {
        return None;
    }
    // Six pixels are two times three.
    let run = match (g.stride, matches!(pixels, 5 | 6)) {
        _ if point => picodream_helium_direct_point as unsafe extern "C" fn(&Direct),
        _ if masked => picodream_helium_direct_masked,
        (1, false) => picodream_helium_direct_s1p4,
        (1, true) => picodream_helium_direct_s1p3,
        (_, false) => picodream_helium_direct_s2p4,
        (_, true) => picodream_helium_direct_s2p3,
    };
    let odd_columns = if g.stride == 2 { 2 * g.columns } else { 0 };
    let pair_step = 4 * if point { BLOCK_PIXELS } else { g.columns };
    let quad_bytes = row_bytes / quads;
    for at in (0..pairs).step_by(MAX_PAIRS) {
        let pairs = MAX_PAIRS.min(pairs - at);
        let all = pairs * weight_step;
        let job = Direct {
            rows,
            row_count,
            quads,
            quad_step: 4 * pair_step - odd_columns,
            pair_step,
            weight_step,
            odd_columns,
            weight: weight[at * weight_step + first * row_bytes..].as_ptr(),
            back: [all, all.wrapping_sub(quad_bytes), row_count * row_bytes],
            pairs,
            fours: pairs.div_ceil(4),
            left_out: pairs.wrapping_neg() % 4,
            acc: acc[2 * BLOCK_PIXELS * at..].as_mut_ptr(),
            pixel_bytes: 4 * pixels.min(BLOCK_PIXELS),
            mask: g.pairs,
        };
        // SAFETY: the inputs of a block's eight pixels lie below `g.columns` (`inside`), in rows of `g.len()` elements; of each
        // pair of output channels, which has `weight_step` bytes of weights, those of the rows that are there are read; sums
        // are written four at a time into the 8 of a channel, of so many pairs as `acc` has. The stack holds MAX_PAIRS.
        unsafe { run(&job) };
    }
    Some(())
}

/// Whether the loops' words are where words may be.
fn aligned(row: &[i16], weight: &[u8]) -> bool {
    row.as_ptr().cast::<u32>().is_aligned() && weight.as_ptr().cast::<u32>().is_aligned()
}

/// Pairs of output channels that both have weights and room for sums.
fn out_pairs(weight: &[u8], pair_bytes: usize, acc: &[i32]) -> usize {
    (weight.len() / pair_bytes.max(1)).min(acc.len() / (2 * BLOCK_PIXELS))
}

/// As [`portable::phase`].
pub fn phase(rows: [Option<&[i16]>; 2], g: &Geometry, weight: &[u8], x: usize, parity: usize, acc: &mut [i32]) {
    if phase_loop(rows, g, weight, x, parity, acc).is_none() {
        portable::phase(rows, g, weight, x, parity, acc);
    }
}

fn phase_loop(
    rows: [Option<&[i16]>; 2],
    g: &Geometry,
    weight: &[u8],
    x: usize,
    parity: usize,
    acc: &mut [i32],
) -> Option<()> {
    let row_bytes = 16 * g.pairs;
    let pairs = out_pairs(weight, 2 * row_bytes, acc);
    let present = rows.iter().flatten().count();
    let quads = present * (g.pairs / 4);
    let regular = (g.kernel, g.stride) == (3, 1) && parity < 2 && x + parity + 5 <= g.columns;
    if !regular || !g.pairs.is_multiple_of(4) || quads == 0 || quads > MAX_ADDRESSES || pairs == 0 {
        return None;
    }
    if rows.iter().flatten().any(|row| row.len() < g.len() || !aligned(row, weight)) {
        return None;
    }
    let mut list = [core::ptr::null(); MAX_ADDRESSES];
    let entries = rows.iter().flatten().flat_map(|row| (0..g.pairs / 4).map(move |quad| (row, quad)));
    for (slot, (row, quad)) in list.iter_mut().zip(entries) {
        *slot = row[g.index(x + parity, 8 * quad)..].as_ptr();
    }
    let first = usize::from(rows[0].is_none());
    let job = Phase {
        list: list.as_ptr(),
        quads,
        weight: weight[first * row_bytes..].as_ptr().wrapping_sub(64),
        acc: acc.as_mut_ptr().wrapping_add(parity),
        pair_step: 4 * g.columns,
        skip: (2 - present) * row_bytes,
        end: acc.as_mut_ptr().wrapping_add(parity + 2 * BLOCK_PIXELS * pairs),
    };
    // SAFETY: the list holds `quads` addresses of inputs, whose five columns lie below `g.columns` (`regular`), in rows of
    // `g.len()` elements; weights are read from the first row that is there, 64 bytes for each address, and `skip` more for
    // each pair of output channels; of the 8 sums of a channel before `end`, those of one parity are written.
    unsafe { picodream_helium_phase(&job) };
    Some(())
}

/// As [`portable::winograd_input`].
pub fn winograd_input(rows: [&[i16]; 4], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let regular = (g.kernel, g.stride) == (3, 1) && g.pairs > 0 && x + BLOCK_PIXELS + 2 <= g.columns;
    let fits = tiles.len() >= 128 * g.pairs && tiles.as_ptr().cast::<u32>().is_aligned();
    if !regular || !fits || rows.iter().any(|row| row.len() < g.len() || !row.as_ptr().cast::<u32>().is_aligned()) {
        return portable::winograd_input(rows, g, x, tiles);
    }
    let rows = rows.map(|row| row[g.index(x, 0)..].as_ptr());
    // SAFETY: ten columns from `x` on are read of each pair of channels, all below `g.columns` in rows of `g.len()`
    // elements; 16 · g.pairs vectors are written over `tiles`, which holds them. All are at words' addresses.
    unsafe { picodream_helium_winograd_input(&rows, tiles.as_mut_ptr(), 4 * g.columns, 16 * g.pairs, g.pairs) };
}

/// As [`portable::winograd_products`].
pub fn winograd_products(tiles: &[i16], pairs: usize, weight: &[u8], products: &mut [i32], acc: &mut [i32]) {
    if !winograd_outputs(tiles, pairs, weight, 1, acc) {
        portable::winograd_products(tiles, pairs, weight, products, acc);
    }
}

/// The sums of eight output channels, whose weights are one after the other: acc\[row 0, 1\]\[8 channels\]\[8\].
pub fn winograd_eight(tiles: &[i16], pairs: usize, weight: &[u8], acc: &mut [i32]) -> bool {
    winograd_outputs(tiles, pairs, weight, 4, acc)
}

/// The sums of `count` pairs of output channels: acc\[row 0, 1\]\[2 · count\]\[8\]; `false` leaves them to other loops.
fn winograd_outputs(tiles: &[i16], pairs: usize, weight: &[u8], count: usize, acc: &mut [i32]) -> bool {
    let fits = tiles.len() >= 128 * pairs && weight.len() >= 128 * pairs * count && acc.len() >= 32 * count;
    if !fits || pairs == 0 || !aligned(tiles, weight) {
        return false;
    }
    let (tiles, weight, acc, quads) = (tiles.as_ptr(), weight.as_ptr(), acc.as_mut_ptr(), pairs / 4);
    // SAFETY: 16 times 8 · pairs inputs, and 4 · pairs weights for each pair of output channels, are read, and 32 sums
    // written for each: checked to fit.
    unsafe {
        match quads {
            _ if !pairs.is_multiple_of(4) => picodream_helium_winograd_few(tiles, weight, acc, pairs, count),
            2 => picodream_helium_winograd_2(tiles, weight, acc, 1, count),
            4 => picodream_helium_winograd_4(tiles, weight, acc, 1, count),
            _ if quads % 4 == 0 => picodream_helium_winograd_8(tiles, weight, acc, quads / 4, count),
            _ => picodream_helium_winograd_1(tiles, weight, acc, quads, count),
        }
    }
    true
}
