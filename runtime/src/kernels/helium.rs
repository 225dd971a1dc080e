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

pub use ends::{feed, finish};
pub use mix::dots;
pub use narrow::narrow;

pub(crate) use {ends::feed_row, mix::mix};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-helium";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 4;

// The assembler of module text does not know the target's CPU.
global_asm!(".cpu cortex-m55", include_str!("helium/sums.s"), include_str!("helium/winograd.s"));

/// Rows times quads of channels that one call of a loop may sum: a word of stack each.
const MAX_ADDRESSES: usize = 96;

/// What the sums' loops are told; the assembler knows the order.
#[repr(C)]
struct Job {
    /// Addresses of the inputs, one for each row and each four pairs of channels; for a 1×1 kernel the only one itself.
    list: *const *const i16,
    /// How often the unrolled loop runs.
    unrolled: usize,
    /// Bytes of code that its first run leaves out.
    rest: usize,
    /// First weights; where vectors of addresses move before they read, one step before them.
    weight: *const u8,
    acc: *mut i32,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    /// Bytes from the even columns to the odd ones.
    odd_columns: usize,
    /// Bytes of weights of rows that are not there.
    skip: usize,
    /// End of `acc`.
    end: *mut i32,
}

/// What the loops of a 3×3 kernel are told; the assembler knows the order, and changes it.
#[repr(C)]
struct Square {
    /// First inputs of the rows that are there, and how many.
    rows: [*const i16; 3],
    row_count: usize,
    /// The loops' own: steps between the places of the inputs, on the stack.
    list: *const usize,
    /// Bytes from where four pairs of channels end to where the next begin.
    quad_step: usize,
    /// Bytes from a row's first place to where its last pairs end.
    row_end: usize,
    /// Pairs of channels by four.
    quads: usize,
    /// Rows times quads, and one.
    entries: usize,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    /// Bytes from the even columns to the odd ones; bytes of a row's weights where pairs are less than four.
    odd_columns: usize,
    /// One step before the first weights; the first where pairs are less than four.
    weight: *const u8,
    acc: *mut i32,
    /// Bytes of weights of rows that are not there.
    skip: usize,
    /// End of `acc`.
    end: *mut i32,
    /// How often the loop is run again, for the next pixels.
    again: usize,
    /// Pairs of channels, where they are less than four.
    pairs: usize,
}

unsafe extern "C" {
    fn picodream_helium_direct_s1p4(job: &mut Square);
    fn picodream_helium_direct_s1p3(job: &mut Square);
    fn picodream_helium_direct_s2p4(job: &mut Square);
    fn picodream_helium_direct_s2p3(job: &mut Square);
    fn picodream_helium_direct_masked(job: &mut Square);
    fn picodream_helium_point(job: &Job);
    fn picodream_helium_phase(job: &Job);
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
    let g = &taps.geometry;
    let done = match (g.kernel, g.stride) {
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

/// A 1×1 kernel, or `None` for other loops to do it.
fn point(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let row = taps.rows[0]?;
    let block = row.get(g.index(x, 0)..)?.get(..2 * BLOCK_PIXELS * g.pairs)?;
    let pairs = out_pairs(weight, 4 * g.pairs, acc);
    if !g.pairs.is_multiple_of(4)
        || g.pairs == 0
        || pairs == 0
        || !x.is_multiple_of(BLOCK_PIXELS)
        || !aligned(block, weight)
    {
        return None;
    }
    let quads = g.pairs / 4;
    for half in 0..pixels.div_ceil(4).min(2) {
        let job = Job {
            // One step of 128 bytes before the first.
            list: block.as_ptr().wrapping_add(8 * half).wrapping_sub(64).cast(),
            unrolled: quads.div_ceil(4),
            // Four pairs of channels are 14 instructions.
            rest: 56 * (quads.wrapping_neg() % 4),
            weight: weight.as_ptr(),
            acc: acc.as_mut_ptr().wrapping_add(4 * half),
            pair_step: 0,
            odd_columns: 0,
            skip: 0,
            end: acc.as_mut_ptr().wrapping_add(4 * half + 2 * BLOCK_PIXELS * pairs),
        };
        // SAFETY: the loop reads `block`, of which it takes four pixels at `half`, and 4 · g.pairs bytes of weights for each
        // pair of output channels, and writes 4 of each 8 sums before `end`; all lie in their slices, at words' addresses.
        unsafe { picodream_helium_point(&job) };
    }
    Some(())
}

/// A 3×3 kernel, or `None` for other loops to do it.
fn square(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let masked = g.pairs < 4;
    let (quads, ky_bytes) = (if masked { 1 } else { g.pairs / 4 }, 12 * g.pairs);
    let pairs = out_pairs(weight, 3 * ky_bytes, acc);
    let (mut rows, mut row_count, mut first) = ([null(); 3], 0, 0);
    for (k, row) in taps.rows.iter().enumerate() {
        let Some(row) = row else { continue };
        first = if row_count == 0 { k } else { first };
        if row.len() < g.len() || !row.as_ptr().cast::<u32>().is_aligned() || k != first + row_count {
            return None;
        }
        rows[row_count] = row[g.window(x, 0, 0)..].as_ptr();
        row_count += 1;
    }
    let entries = row_count * quads;
    let inside = (x + BLOCK_PIXELS) * g.stride + 2 <= g.columns && weight.as_ptr().cast::<u32>().is_aligned();
    let regular = if masked { g.stride == 1 && g.pairs > 0 } else { g.pairs.is_multiple_of(4) };
    if !inside || !regular || !(1..=MAX_ADDRESSES).contains(&entries) || pairs == 0 {
        return None;
    }
    let odd_columns = if g.stride == 2 { 2 * g.columns } else { 0 };
    let mut job = Square {
        rows,
        row_count,
        list: null(),
        quad_step: (16 * g.columns).wrapping_sub(odd_columns),
        row_end: 16 * g.columns * (quads - 1) + odd_columns,
        quads,
        entries: entries + 1,
        pair_step: 4 * g.columns,
        odd_columns: if masked { ky_bytes } else { odd_columns },
        weight: weight[first * ky_bytes..].as_ptr().wrapping_sub(if masked { 0 } else { 48 }),
        acc: acc.as_mut_ptr(),
        skip: (3 - row_count) * ky_bytes,
        end: acc.as_mut_ptr().wrapping_add(2 * BLOCK_PIXELS * pairs),
        again: 0,
        pairs: g.pairs,
    };
    // Six pixels are two times three.
    let at_once = if matches!(pixels, 5 | 6) && !masked { 3 } else { 4 };
    job.again = usize::from(pixels > at_once);
    // SAFETY: the `entries` places are of inputs whose pixels lie below `g.columns` (`inside`), in
    // rows of `g.len()` elements; weights are read from the first row that is there, those of four pairs, or of as many as
    // there are, for each place, and `skip` more for each pair of output channels; sums are written four at a time into the 8
    // of a channel before `end`.
    unsafe {
        match (g.stride, at_once) {
            _ if masked => picodream_helium_direct_masked(&mut job),
            (1, 4) => picodream_helium_direct_s1p4(&mut job),
            (1, _) => picodream_helium_direct_s1p3(&mut job),
            (_, 4) => picodream_helium_direct_s2p4(&mut job),
            _ => picodream_helium_direct_s2p3(&mut job),
        }
    }
    Some(())
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
    let job = Job {
        list: list.as_ptr(),
        unrolled: quads,
        rest: 0,
        weight: weight[first * row_bytes..].as_ptr().wrapping_sub(64),
        acc: acc.as_mut_ptr().wrapping_add(parity),
        pair_step: 4 * g.columns,
        odd_columns: 0,
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
