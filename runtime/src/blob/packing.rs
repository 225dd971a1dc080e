//! The order of a convolution's weights in the blob, for each algorithm: written here, and read by the kernels.
//!
//! Output channels come in pairs and input channels in pairs (`cp`); odd ones are completed with zeros. A *word* is four
//! bytes, two little-endian halfwords for the two channels of a pair.
//!
//! - **direct** \[cout / 2\]\[ky\]\[cp\]\[kx\] words; a halfword is 256 · w(odd output channel) + w(even output channel).
//! - **winograd** \[cout / 2\]\[16\]\[cp\]\[2 output channels\] words of i16: U = 4 · G·g·Gᵀ.
//! - **strided** \[cout / 32\]\[16\]\[cp / 4\]\[16 pairs of output channels\]\[4 cp\]\[2 output channels\] words of i16, the last
//!   sixteen and the last four being as many as there are: sums w₀, w₁, w₀ + w₂ and w₂ in rows and in columns.
//! - **phases** \[row parity\]\[column parity\]\[cout / 2\]\[2 rows\]\[cp\]\[2 columns\]\[2 output channels\] words of i16 sums of weights.

use super::layout::STRIDED_PAIRS;

/// Bytes of one word.
const WORD: u64 = 4;

fn pairs(channels: u32) -> u64 {
    u64::from(channels).div_ceil(2)
}

/// Bytes of direct weights.
#[must_use]
pub fn direct_bytes(kernel: u32, cin: u32, cout: u32) -> u64 {
    pairs(cout) * u64::from(kernel) * u64::from(kernel) * pairs(cin) * WORD
}

/// Bytes of Winograd weights, or of strided ones.
#[must_use]
pub fn winograd_bytes(cin: u32, cout: u32) -> u64 {
    pairs(cout) * 16 * pairs(cin) * 2 * WORD
}

/// Bytes of phase weights.
#[must_use]
pub fn phases_bytes(cin: u32, cout: u32) -> u64 {
    4 * pairs(cout) * 2 * pairs(cin) * 2 * 2 * WORD
}

/// Plain weights, i8 \[cout\]\[kernel\]\[kernel\]\[cin\]; zero outside.
#[derive(Clone, Copy, Debug)]
pub struct PlainWeights<'a> {
    /// The weights.
    pub weight: &'a [i8],
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
}

impl PlainWeights<'_> {
    /// One weight; 0 outside.
    pub(super) fn get(&self, o: usize, ky: usize, kx: usize, c: usize) -> i32 {
        let inside = o < self.cout && c < self.cin;
        if inside { self.weight[((o * self.kernel + ky) * self.kernel + kx) * self.cin + c].into() } else { 0 }
    }

    fn pairs(&self) -> (usize, usize) {
        (self.cout.div_ceil(2), self.cin.div_ceil(2))
    }

    /// Writes direct weights over `out`, which holds [`direct_bytes`].
    pub fn pack_direct(&self, out: &mut [u8]) {
        let (out_pairs, in_pairs) = self.pairs();
        let mut halfwords = out.as_chunks_mut::<2>().0.iter_mut();
        for pair in 0..out_pairs {
            for ky in 0..self.kernel {
                for cp in 0..in_pairs {
                    for kx in 0..self.kernel {
                        for c in [2 * cp, 2 * cp + 1] {
                            let both = 256 * self.get(2 * pair + 1, ky, kx, c) + self.get(2 * pair, ky, kx, c);
                            put(&mut halfwords, both);
                        }
                    }
                }
            }
        }
    }

    /// Writes Winograd weights of a 3×3 kernel over `out`, which holds [`winograd_bytes`].
    pub fn pack_winograd(&self, out: &mut [u8]) {
        self.transformed(Transform::Winograd).write(|o, ky, kx, c| self.get(o, ky, kx, c), out);
    }

    /// Writes the strided weights of a 3×3 kernel at stride 2 over `out`, which holds [`winograd_bytes`]. Of two outputs, which
    /// share an input: m = (x₀ − x₂)·w₀, x₁·w₁, x₂·(w₀ + w₂), (x₄ − x₂)·w₂, x₃·w₁, and y₀ = m₀ + m₁ + m₂, y₁ = m₂ + m₃ + m₄.
    pub fn pack_strided(&self, out: &mut [u8]) {
        const SUMS: [&[usize]; 4] = [&[0], &[1], &[0, 2], &[2]];
        let (out_pairs, in_pairs) = self.pairs();
        let mut halfwords = out.as_chunks_mut::<2>().0.iter_mut();
        for first in (0..out_pairs).step_by(STRIDED_PAIRS) {
            let part = first..out_pairs.min(first + STRIDED_PAIRS);
            for (rows, columns) in SUMS.into_iter().flat_map(|rows| SUMS.map(|columns| (rows, columns))) {
                for quad in (0..in_pairs).step_by(4) {
                    for (pair, cp) in
                        part.clone().flat_map(|pair| (quad..in_pairs.min(quad + 4)).map(move |cp| (pair, cp)))
                    {
                        for (o, c) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                            let weight = |ky, kx| self.get(2 * pair + o, ky, kx, 2 * cp + c);
                            let along = |ky: &usize| columns.iter().map(|kx| weight(*ky, *kx)).sum::<i32>();
                            put(&mut halfwords, rows.iter().map(along).sum());
                        }
                    }
                }
            }
        }
    }

    /// Writes the phase weights of a 3×3 kernel behind nearest doubling over `out`, which holds [`phases_bytes`].
    pub fn pack_phases(&self, out: &mut [u8]) {
        self.transformed(Transform::Phases).write(|o, ky, kx, c| self.get(o, ky, kx, c), out);
    }

    fn transformed(&self, transform: Transform) -> Expansion {
        let (out_pairs, in_pairs) = self.pairs();
        Expansion { transform, in_pairs, out_pairs }
    }
}

/// What becomes of the nine weights of a 3×3 kernel: sixteen sums, four rows of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// 4 · G·g·Gᵀ of F(2×2, 3×3).
    Winograd,
    /// What each output parity sees of its 2×2 distinct inputs behind nearest doubling: even outputs {0} and {1, 2}, odd ones
    /// {0, 1} and {2}, in rows and in columns.
    Phases,
}

impl Transform {
    /// Four sums of three values.
    const fn sums(self, [a, b, c]: [i32; 3]) -> [i32; 4] {
        match self {
            Self::Winograd => [2 * a, a + b + c, a - b + c, 2 * c],
            Self::Phases => [a, b + c, a + b, c],
        }
    }
}

/// Transformed weights of some pairs of output channels, in the order that the kernels read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Of which kind.
    pub transform: Transform,
    /// Pairs of input channels.
    pub in_pairs: usize,
    /// Pairs of output channels.
    pub out_pairs: usize,
}

/// Words from one sum to another of the same channels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    /// Down from row 0 to 1 and from 2 to 3, and from 1 to 2.
    pub(crate) rows: [usize; 2],
    /// To the right, likewise.
    pub(crate) columns: [usize; 2],
    /// To the next pair of input channels.
    pub(crate) in_pair: usize,
    /// To the next pair of output channels.
    pub(crate) out_pair: usize,
}

impl Expansion {
    pub(crate) const fn steps(&self) -> Steps {
        let pairs = self.in_pairs;
        match self.transform {
            Transform::Winograd => {
                Steps { rows: [8 * pairs; 2], columns: [2 * pairs; 2], in_pair: 2, out_pair: 32 * pairs }
            }
            Transform::Phases => {
                let phase = 8 * pairs * self.out_pairs;
                Steps {
                    rows: [4 * pairs, 2 * phase - 4 * pairs],
                    columns: [2, phase - 2],
                    in_pair: 4,
                    out_pair: 8 * pairs,
                }
            }
        }
    }

    /// From direct weights of a 3×3 kernel, those of `out_pairs` pairs of output channels, over as many transformed ones.
    pub fn expand(&self, direct: &[u8], out: &mut [u8]) {
        let halfwords = direct.as_chunks::<2>().0;
        let weight = |o: usize, ky: usize, kx: usize, c: usize| {
            let word = ((o / 2 * 3 + ky) * self.in_pairs + c / 2) * 3 + kx;
            let both = i32::from(i16::from_le_bytes(halfwords[2 * word + c % 2]));
            let even = i32::from(both as i8);
            if o.is_multiple_of(2) { even } else { (both - even) >> 8 }
        };
        self.write(weight, out);
    }

    /// Writes the sums of all pairs; `weight` is asked for (o, ky, kx, c) up to the next even counts of channels.
    fn write(&self, weight: impl Fn(usize, usize, usize, usize) -> i32, out: &mut [u8]) {
        let (halfwords, steps) = (out.as_chunks_mut::<2>().0, self.steps());
        let along = |[near, far]: [usize; 2]| [0, near, near + far, 2 * near + far];
        for o in 0..2 * self.out_pairs {
            for c in 0..2 * self.in_pairs {
                let [a, b, d]: [[i32; 4]; 3] =
                    core::array::from_fn(|kx| self.transform.sums(core::array::from_fn(|ky| weight(o, ky, kx, c))));
                let word = o / 2 * steps.out_pair + c / 2 * steps.in_pair + o % 2;
                for (row, down) in along(steps.rows).into_iter().enumerate() {
                    let sums = self.transform.sums([a[row], b[row], d[row]]);
                    for (value, right) in sums.into_iter().zip(along(steps.columns)) {
                        // Sums of nine int8 weights fit.
                        halfwords[2 * (word + down + right) + c % 2] = (value as i16).to_le_bytes();
                    }
                }
            }
        }
    }
}

/// The next halfword. 256 · w + w' of weights within ±127 fits, and the sum of four.
fn put<'a>(halfwords: &mut impl Iterator<Item = &'a mut [u8; 2]>, value: i32) {
    if let Some(slot) = halfwords.next() {
        *slot = (value as i16).to_le_bytes();
    }
}
