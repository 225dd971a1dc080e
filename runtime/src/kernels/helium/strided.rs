//! Minimal filtering at stride 2: a block's inputs into tiles, and its sums.

use super::aligned;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Geometry, portable};

/// What the transform of the inputs is told; the assembler knows the order.
#[repr(C)]
struct Input {
    /// The first column of each row.
    rows: [*const i16; 5],
    /// Bytes from the even columns to the odd ones.
    odd_columns: usize,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    pairs: usize,
    tiles: *mut i16,
    /// Bytes from position to position.
    tile_step: usize,
}

/// What the products are told; the assembler knows the order.
#[repr(C)]
struct Strided {
    tiles: *const i16,
    sums: *mut i32,
    weight: *const u8,
    /// Bytes from one sum of weights to the next.
    weight_step: usize,
    /// Bytes of the sums of all output channels, and of four pairs of input channels' weights.
    group_bytes: usize,
    /// Pairs of input channels by four, or for three tiles by eight.
    turns: usize,
    /// How often eight pairs of output channels, and how many of those the first time leaves out.
    eights: usize,
    left_out: usize,
    acc: *mut i32,
    channels: usize,
}

unsafe extern "C" {
    fn picodream_helium_strided_input(job: &Input);
    fn picodream_helium_strided_4(job: &Strided);
    fn picodream_helium_strided_3(job: &Strided);
}

/// As [`portable::strided_input`].
pub fn strided_input(rows: [&[i16]; 5], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let regular = (g.kernel, g.stride) == (3, 2) && g.pairs > 0 && x % 2 == 0 && x + 2 * BLOCK_PIXELS + 2 <= g.columns;
    let fits = tiles.len() >= 200 * g.pairs && tiles.as_ptr().cast::<u32>().is_aligned();
    if !regular || !fits || rows.iter().any(|row| row.len() < g.len() || !row.as_ptr().cast::<u32>().is_aligned()) {
        return portable::strided_input(rows, g, x, tiles);
    }
    let job = Input {
        rows: rows.map(|row| row[g.index(x, 0)..].as_ptr()),
        odd_columns: 2 * g.columns,
        pair_step: 4 * g.columns,
        pairs: g.pairs,
        tiles: tiles.as_mut_ptr(),
        tile_step: 16 * g.pairs,
    };
    // SAFETY: nine even columns and eight odd ones from `x` on are read of each pair of channels, all below `g.columns` in rows
    // of `g.len()` elements; 25 · g.pairs vectors are written over `tiles`, which holds them. All are at words' addresses.
    unsafe { picodream_helium_strided_input(&job) };
}

/// As [`portable::strided_products`].
pub fn strided_products(tiles: &[i16], pairs: usize, weight: &[u8], pixels: usize, sums: &mut [i32], acc: &mut [i32]) {
    let out_pairs = weight.len() / (128 * pairs).max(1);
    let fits = tiles.len() >= 200 * pairs && sums.len() >= 72 * out_pairs && acc.len() >= 32 * out_pairs;
    if !fits || pairs == 0 || out_pairs == 0 || !pairs.is_multiple_of(4) || !aligned(tiles, weight) {
        return portable::strided_products(tiles, pairs, weight, pixels, sums, acc);
    }
    let (run, quads): (unsafe extern "C" fn(&Strided), _) = if pixels <= 6 && pairs.is_multiple_of(8) {
        (picodream_helium_strided_3, 2)
    } else {
        (picodream_helium_strided_4, 1)
    };
    let job = Strided {
        tiles: tiles.as_ptr(),
        sums: sums.as_mut_ptr(),
        weight: weight.as_ptr(),
        weight_step: 8 * pairs * out_pairs,
        group_bytes: 32 * out_pairs,
        turns: pairs / 4 / quads,
        eights: out_pairs.div_ceil(8),
        left_out: out_pairs.wrapping_neg() % 8,
        acc: acc.as_mut_ptr(),
        channels: 2 * out_pairs,
    };
    // SAFETY: 25 positions of 8 · pairs inputs and 16 sums of 2 · pairs words of weights for each pair of output channels are
    // read, nine groups of eight sums and 32 outputs for each of those written: checked to fit.
    unsafe { run(&job) };
}
