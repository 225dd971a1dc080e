//! Winograd F(2×2, 3×3) around the products: inputs into the tiles, and sums back to pixels.

use crate::kernels::{Geometry, portable};

/// Columns under four tiles.
const COLUMNS: usize = 10;

/// What the loop over a block's inputs is told; it moves the rows on. The assembler names the fields by their offsets.
#[repr(C)]
pub(super) struct InputJob {
    /// 0: first input of each row.
    rows: [*const i16; 4],
    /// 16: bytes between two pairs of channels of a row.
    step: usize,
    /// 20: bytes between two positions of the tiles.
    position: usize,
    /// 24: pairs of channels, not 0.
    pairs: usize,
}

/// As [`portable::winograd_input`].
pub fn winograd_input(rows: [&[i16]; 4], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let last = g.index(x, 2 * g.pairs.saturating_sub(1)) + 2 * COLUMNS;
    let fits = |row: &&[i16]| row.as_ptr().cast::<u32>().is_aligned() && last <= row.len();
    let known = (g.kernel, g.stride) == (3, 1) && g.pairs > 0;
    if !(known && rows.iter().all(fits) && tiles.as_ptr().cast::<u32>().is_aligned() && tiles.len() >= 128 * g.pairs) {
        return portable::winograd_input(rows, g, x, tiles);
    }
    let start = g.index(x, 0);
    let mut job = InputJob {
        rows: rows.map(|row| row[start..].as_ptr()),
        step: 4 * g.columns,
        position: 16 * g.pairs,
        pairs: g.pairs,
    };
    // SAFETY: every row holds ten words of every pair from its pointer on, the tiles 16 positions of all pairs; all are
    // aligned to words.
    unsafe { super::picodream_plain_winograd_input(&mut job, tiles.as_mut_ptr()) }
}

/// Aᵀ·M·A / 4 of two channels and four tiles: `products` \[16\]\[2\]\[4\] to `acc` \[row\]\[channel\]\[8\].
pub(super) fn output(products: &[i32], acc: &mut [i32]) {
    if products.len() < 128 || acc.len() < 32 {
        return portable::winograd_output(products, acc);
    }
    // SAFETY: 128 products are read and 32 sums written: there are as many.
    unsafe { super::picodream_plain_winograd_output(products.as_ptr(), acc.as_mut_ptr()) }
}
