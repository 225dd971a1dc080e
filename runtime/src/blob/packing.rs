//! The order of a convolution's weights in the blob, for each algorithm: written here, and read by the kernels.
//!
//! Output channels come in pairs and input channels in pairs (`cp`); odd ones are completed with zeros. A *word* is four
//! bytes, two little-endian halfwords for the two channels of a pair.
//!
//! - **direct** \[cout / 2\]\[ky\]\[cp\]\[kx\] words; a halfword is 256 · w(odd output channel) + w(even output channel).
//! - **winograd** \[cout / 2\]\[16\]\[cp\]\[2 output channels\] words of i16: U = 4 · G·g·Gᵀ.
//! - **phases** \[row parity\]\[column parity\]\[cout / 2\]\[2 rows\]\[cp\]\[2 columns\]\[2 output channels\] words of i16 sums of weights.

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

/// Bytes of Winograd weights.
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
        write_winograd(self.cin, self.cout, |o, ky, kx, c| self.get(o, ky, kx, c), out);
    }

    /// Writes the phase weights of a 3×3 kernel behind nearest doubling over `out`, which holds [`phases_bytes`].
    pub fn pack_phases(&self, out: &mut [u8]) {
        let (out_pairs, in_pairs) = self.pairs();
        let mut halfwords = out.as_chunks_mut::<2>().0.iter_mut();
        for (py, px) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for pair in 0..out_pairs {
                for (row, cp) in (0..2).flat_map(|row| (0..in_pairs).map(move |cp| (row, cp))) {
                    for (column, o) in [(0, 2 * pair), (0, 2 * pair + 1), (1, 2 * pair), (1, 2 * pair + 1)] {
                        for c in [2 * cp, 2 * cp + 1] {
                            put(&mut halfwords, self.phase_weight(o, c, (py, row), (px, column)));
                        }
                    }
                }
            }
        }
    }

    /// Sum of the kernel's rows and columns that read one source pixel.
    fn phase_weight(&self, o: usize, c: usize, rows: (usize, usize), columns: (usize, usize)) -> i32 {
        let columns = || phase_taps(columns.0, columns.1);
        phase_taps(rows.0, rows.1).map(|ky| columns().map(|kx| self.get(o, ky, kx, c)).sum::<i32>()).sum()
    }
}

/// Winograd weights from the direct weights of a 3×3 kernel, over `out`, which holds [`winograd_bytes`].
pub fn expand_winograd(direct: &[u8], cin: usize, cout: usize, out: &mut [u8]) {
    let halfwords = direct.as_chunks::<2>().0;
    let in_pairs = cin.div_ceil(2);
    let weight = |o: usize, ky: usize, kx: usize, c: usize| {
        let word = ((o / 2 * 3 + ky) * in_pairs + c / 2) * 3 + kx;
        let both = i32::from(i16::from_le_bytes(halfwords[2 * word + c % 2]));
        let even = i32::from(both as i8);
        if o.is_multiple_of(2) { even } else { (both - even) >> 8 }
    };
    write_winograd(cin, cout, weight, out);
}

/// Writes 4 · G·g·Gᵀ of every pair of channels; `weight` is asked for (o, ky, kx, c) up to the next even counts of channels.
fn write_winograd(cin: usize, cout: usize, weight: impl Fn(usize, usize, usize, usize) -> i32, out: &mut [u8]) {
    let halfwords = out.as_chunks_mut::<2>().0;
    let in_pairs = cin.div_ceil(2);
    for o in 0..cout.next_multiple_of(2) {
        for c in 0..2 * in_pairs {
            let [a, b, d]: [[i32; 4]; 3] =
                core::array::from_fn(|kx| combine(core::array::from_fn(|ky| weight(o, ky, kx, c))));
            for (row, ((a, b), d)) in a.into_iter().zip(b).zip(d).enumerate() {
                for (column, value) in combine([a, b, d]).into_iter().enumerate() {
                    let word = ((o / 2 * 16 + 4 * row + column) * in_pairs + c / 2) * 2 + o % 2;
                    halfwords[2 * word + c % 2] = (value as i16).to_le_bytes();
                }
            }
        }
    }
}

/// Taps of three that read source `index` (0, 1) of an output of this parity: even outputs see {0} and {1, 2}, odd ones
/// {0, 1} and {2}.
fn phase_taps(parity: usize, index: usize) -> core::ops::Range<usize> {
    match (parity, index) {
        (0, 0) => 0..1,
        (0, _) => 1..3,
        (_, 0) => 0..2,
        _ => 2..3,
    }
}

/// 2·G of F(2, 3) applied to three values.
fn combine([a, b, c]: [i32; 3]) -> [i32; 4] {
    [2 * a, a + b + c, a - b + c, 2 * c]
}

/// The next halfword. Sums of nine int8 weights and 256 · w + w' of weights within ±127 fit.
fn put<'a>(halfwords: &mut impl Iterator<Item = &'a mut [u8; 2]>, value: i32) {
    if let Some(slot) = halfwords.next() {
        *slot = (value as i16).to_le_bytes();
    }
}
