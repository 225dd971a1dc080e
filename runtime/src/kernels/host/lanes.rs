//! Vectors: of output channels in the row loops, of keys or channels in attention; and those of plain arrays for every computer.

use core::mem::MaybeUninit;

use half::f16;

use super::prepare::{self, Block};
use crate::f16 as convert;

/// Most lanes of a vector.
pub(super) const MAX_WIDTH: usize = 16;

/// Dimensions of keys that [`Mixing::load_columns`] loads.
pub(super) const DIMS: usize = 16;

/// 32-bit lanes, each an output channel.
///
/// The implementations with processor features call instructions that only some processors have: they are used only inside
/// functions with those `target_feature`s, into which everything here is inlined.
pub(super) trait Lanes: Copy {
    /// Number of lanes.
    const WIDTH: usize;
    /// Pairs of input channels from which on `winograd.rs` was measured faster than nine products (layers of the shipped models:
    /// 1, 2, 4, 8 pairs and more).
    const LEAST_PAIRS: usize;
    /// The same number of f32.
    type Floats: Copy;

    /// Zeros.
    fn zero() -> Self;
    /// Words (pairs of i16) from memory.
    fn load(words: &[u32]) -> Self;
    /// Direct weights of eight pairs of output channels, `taps` words apart, and eight taps.
    fn block(words: &[[u8; 4]], taps: usize) -> Block;
    /// Of columns a, b, c, d, two to a word, from every other column on: a − c, b + c, c − b, b − d.
    fn horizontal_parts(columns: &[[i16; 2]; 10]) -> [[u32; 4]; 4];
    /// self + Σ of the two products of the i16 in a lane of `weight` and the i16 in `word`.
    fn add_products(self, weight: Self, word: u32) -> Self;
    /// Words to memory.
    fn store(self, words: &mut [MaybeUninit<u32>]);
    /// The i16 of self + those of other, wrapping.
    fn plus_halves(self, other: Self) -> Self;
    /// The i16 of self − those of other, wrapping.
    fn minus_halves(self, other: Self) -> Self;
    /// self + other, wrapping.
    fn plus(self, other: Self) -> Self;
    /// self − other, wrapping.
    fn minus(self, other: Self) -> Self;
    /// self / 4 of multiples of 4.
    fn quarter(self) -> Self;
    /// Odd lanes limited to 24 bits: see `portable::split`.
    fn wrap_odd(self) -> Self;
    /// Nearest f32.
    fn to_floats(self) -> Self::Floats;

    /// f32 from memory.
    fn load_floats(values: &[f32]) -> Self::Floats;
    /// The first and the second of each pair of f32 from memory.
    #[inline(always)]
    fn load_pairs(pairs: &[f32]) -> [Self::Floats; 2] {
        let mut lanes = [[0.0; MAX_WIDTH]; 2];
        for (lane, [first, second]) in pairs.as_chunks::<2>().0.iter().enumerate().take(Self::WIDTH) {
            (lanes[0][lane], lanes[1][lane]) = (*first, *second);
        }
        [Self::load_floats(&lanes[0]), Self::load_floats(&lanes[1])]
    }
    /// The inverse of [`Lanes::load_pairs`].
    #[inline(always)]
    fn store_pairs(values: [Self::Floats; 2], pairs: &mut [f32]) {
        let mut lanes = [[0.0; MAX_WIDTH]; 2];
        Self::store_floats(values[0], &mut lanes[0]);
        Self::store_floats(values[1], &mut lanes[1]);
        for (lane, pair) in pairs.as_chunks_mut::<2>().0.iter_mut().enumerate().take(Self::WIDTH) {
            *pair = [lanes[0][lane], lanes[1][lane]];
        }
    }
    /// f32 to memory.
    fn store_floats(values: Self::Floats, out: &mut [f32]);
    /// f16 from memory, exact.
    fn load_halves(values: &[f16]) -> Self::Floats;
    /// f16 to memory, nearest, ties to even; and what was stored.
    fn store_halves(values: Self::Floats, out: &mut [f16]) -> Self::Floats;
    /// a + b.
    fn add(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b.
    fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
}

/// What attention needs of them besides.
pub(super) trait Mixing: Lanes {
    /// a / b.
    fn div(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The larger; b where one is NaN.
    fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The same in every lane.
    fn splat(value: f32) -> Self::Floats;
    /// Element d of each of the first rows, as many as lanes, in vector d: all 16 or the first 8.
    fn load_columns(rows: &[&[f16]; MAX_WIDTH]) -> [Self::Floats; DIMS];
}

/// f32 to all of `out`, which may have fewer places than there are lanes.
#[inline(always)]
pub(super) fn store_floats<V: Lanes>(values: V::Floats, out: &mut [f32]) {
    if out.len() == V::WIDTH {
        return V::store_floats(values, out);
    }
    let mut lanes = [0.0; MAX_WIDTH];
    V::store_floats(values, &mut lanes);
    out.copy_from_slice(&lanes[..out.len()]);
}

/// Plain arrays, which the compiler turns into whatever vectors the build allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain([i32; 8]);

impl Lanes for Plain {
    const WIDTH: usize = 8;
    const LEAST_PAIRS: usize = 4;
    type Floats = [f32; 8];

    #[inline(always)]
    fn zero() -> Self {
        Self([0; 8])
    }

    #[inline(always)]
    fn load(words: &[u32]) -> Self {
        Self(core::array::from_fn(|i| words[i] as i32))
    }

    #[inline(always)]
    fn block(words: &[[u8; 4]], taps: usize) -> Block {
        prepare::plain_block(words, taps)
    }

    #[inline(always)]
    fn horizontal_parts(columns: &[[i16; 2]; 10]) -> [[u32; 4]; 4] {
        let mut parts = [[0; 4]; 4];
        for tile in 0..4 {
            let half = |at: usize, i: usize| columns[2 * tile + at][i];
            let parts_of = |i: usize| {
                [
                    half(0, i).wrapping_sub(half(2, i)),
                    half(1, i).wrapping_add(half(2, i)),
                    half(2, i).wrapping_sub(half(1, i)),
                    half(1, i).wrapping_sub(half(3, i)),
                ]
            };
            for (part, (low, high)) in parts.iter_mut().zip(parts_of(0).into_iter().zip(parts_of(1))) {
                part[tile] = u32::from(low as u16) | u32::from(high as u16) << 16;
            }
        }
        parts
    }

    #[inline(always)]
    fn add_products(self, weight: Self, word: u32) -> Self {
        let (low, high) = (i32::from(word as i16), (word as i32) >> 16);
        Self(core::array::from_fn(|i| {
            let products = i32::from(weight.0[i] as i16) * low + (weight.0[i] >> 16) * high;
            self.0[i].wrapping_add(products)
        }))
    }

    #[inline(always)]
    fn store(self, words: &mut [MaybeUninit<u32>]) {
        words[..8].copy_from_slice(&self.0.map(|x| MaybeUninit::new(x as u32)));
    }

    #[inline(always)]
    fn plus_halves(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| each_half(self.0[i], other.0[i], i16::wrapping_add)))
    }

    #[inline(always)]
    fn minus_halves(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| each_half(self.0[i], other.0[i], i16::wrapping_sub)))
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i].wrapping_add(other.0[i])))
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i].wrapping_sub(other.0[i])))
    }

    #[inline(always)]
    fn quarter(self) -> Self {
        Self(self.0.map(|x| x >> 2))
    }

    #[inline(always)]
    fn wrap_odd(self) -> Self {
        Self(core::array::from_fn(|i| if i % 2 == 1 { (self.0[i] << 8) >> 8 } else { self.0[i] }))
    }

    #[inline(always)]
    fn to_floats(self) -> [f32; 8] {
        self.0.map(|x| x as f32)
    }

    #[inline(always)]
    fn load_floats(values: &[f32]) -> [f32; 8] {
        core::array::from_fn(|i| values[i])
    }

    #[inline(always)]
    fn store_floats(values: [f32; 8], out: &mut [f32]) {
        out[..8].copy_from_slice(&values);
    }

    #[inline(always)]
    fn load_halves(values: &[f16]) -> [f32; 8] {
        core::array::from_fn(|i| convert::to_f32(values[i]))
    }

    #[inline(always)]
    fn store_halves(values: [f32; 8], out: &mut [f16]) -> [f32; 8] {
        let halves = values.map(convert::from_f32);
        out[..8].copy_from_slice(&halves);
        halves.map(convert::to_f32)
    }

    #[inline(always)]
    fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| a[i] * b[i])
    }
}

/// A rule for the lower and the upper half of a word.
#[inline(always)]
fn each_half(a: i32, b: i32, rule: impl Fn(i16, i16) -> i16) -> i32 {
    let [low, high] = [rule(a as i16, b as i16), rule((a >> 16) as i16, (b >> 16) as i16)];
    i32::from(high) << 16 | i32::from(low as u16)
}
