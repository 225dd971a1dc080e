//! The order of the integers inside a quantised row: where the value of a column and a channel lies.
//!
//! Channels come in pairs, one 32-bit word per column, and the words of eight neighbouring outputs lie side by side:
//! - 3×3, stride 1: \[cp\]\[column\] words;
//! - 3×3, stride 2: \[cp\]\[column parity\]\[column / 2\] words, because neighbouring outputs are two columns apart;
//! - 1×1: \[column / 8\]\[cp\]\[column % 8\] words, so that a block of outputs is read straight on.

use crate::blob::BLOCK_PIXELS;

/// The shape of a quantised row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Pairs of channels.
    pub pairs: usize,
    /// Columns with padding; a multiple of 8 for a 1×1 kernel, even for stride 2.
    pub columns: usize,
}

impl Geometry {
    /// Elements of a row.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.columns * self.pairs * 2
    }

    /// Whether the row has no element.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the value of `column` and `channel` lies.
    #[inline]
    #[must_use]
    pub const fn index(&self, column: usize, channel: usize) -> usize {
        let pair = channel / 2;
        let word = if self.kernel == 1 {
            (column / BLOCK_PIXELS * self.pairs + pair) * BLOCK_PIXELS + column % BLOCK_PIXELS
        } else if self.stride == 2 {
            pair * self.columns + (column % 2) * (self.columns / 2) + column / 2
        } else {
            pair * self.columns + column
        };
        2 * word + channel % 2
    }

    /// Whether the words of eight neighbouring columns, from a multiple of eight on (or, where there is padding, from any), lie
    /// side by side.
    #[inline]
    #[must_use]
    pub const fn is_contiguous(&self) -> bool {
        self.kernel == 1 || self.stride == 1
    }

    /// Where the words under output `x` (a multiple of 4) and its right neighbours begin, for a pair of channels and a
    /// kernel column.
    #[inline]
    #[must_use]
    pub const fn window(&self, x: usize, pair: usize, kernel_column: usize) -> usize {
        self.index(x * self.stride + kernel_column, 2 * pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn a_row_holds_every_value_once_and_windows_run_on() {
        for (kernel, stride, columns) in [(1, 1, 16), (3, 1, 18), (3, 2, 34)] {
            let geometry = Geometry { kernel, stride, pairs: 3, columns };
            let mut seen = vec![false; geometry.len()];
            for column in 0..columns {
                for channel in 0..6 {
                    let index = geometry.index(column, channel);
                    assert!(!seen[index]);
                    seen[index] = true;
                }
            }
            for x in [0, 8] {
                for (pair, kx) in (0..3).flat_map(|pair| (0..kernel).map(move |kx| (pair, kx))) {
                    for p in 0..8 {
                        let at = geometry.index((x + p) * stride + kx, 2 * pair);
                        assert_eq!(at, geometry.window(x, pair, kx) + 2 * p);
                    }
                }
            }
        }
    }
}
