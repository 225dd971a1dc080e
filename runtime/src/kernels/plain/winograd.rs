//! Winograd F(2×2, 3×3): inputs into the tiles, products, and sums back to pixels.

use super::{
    aligned, picodream_plain_winograd_input, picodream_plain_winograd_output, picodream_plain_winograd_products,
};
use crate::kernels::{Geometry, portable};

/// Columns under four tiles.
const COLUMNS: usize = 10;

/// As [`portable::winograd_input`].
pub fn winograd_input(rows: [&[i16]; 4], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let (start, last) = (g.index(x, 0), g.index(x, 2 * g.pairs.saturating_sub(1)) + 2 * COLUMNS);
    let fits = |row: &&[i16]| row.as_ptr().cast::<u32>().is_aligned() && last <= row.len();
    let known = (g.kernel, g.stride) == (3, 1) && g.pairs > 0;
    if !(known && rows.iter().all(fits) && tiles.as_ptr().cast::<u32>().is_aligned() && tiles.len() >= 128 * g.pairs) {
        return portable::winograd_input(rows, g, x, tiles);
    }
    // Each row of Bᵀ is one row plus or minus another.
    for (tiles, (a, b, sign)) in
        tiles.chunks_exact_mut(32 * g.pairs).zip([(0, 2, -1), (1, 2, 1), (2, 1, -1), (1, 3, -1)])
    {
        let [a, b] = [a, b].map(|row: usize| rows[row][start..].as_ptr());
        // SAFETY: both rows hold ten words of every pair from here on, the tiles four positions of all pairs; all are aligned
        // to words.
        unsafe { picodream_plain_winograd_input(tiles.as_mut_ptr(), 16 * g.pairs, a, b, g.pairs, 4 * g.columns, sign) }
    }
}

/// As [`portable::winograd_products`].
pub fn winograd_products(tiles: &[i16], pairs: usize, weight: &[u8], products: &mut [i32], acc: &mut [i32]) {
    let fits = tiles.len() >= 128 * pairs && weight.len() >= 128 * pairs && products.len() >= 128 && acc.len() >= 32;
    if !fits || pairs == 0 || !aligned(tiles, weight) {
        return portable::winograd_products(tiles, pairs, weight, products, acc);
    }
    // SAFETY: 16 times 8 · pairs inputs and 4 · pairs weights are read, 128 products written and read and 32 sums written: checked to
    // be there.
    unsafe {
        picodream_plain_winograd_products(tiles.as_ptr(), weight.as_ptr(), products.as_mut_ptr(), pairs);
        picodream_plain_winograd_output(products.as_ptr(), acc.as_mut_ptr());
    }
}
