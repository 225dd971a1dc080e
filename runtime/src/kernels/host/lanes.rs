//! Vectors of output channels: what the row loop needs of them, and one of plain arrays for every computer.

use half::f16;

use crate::f16 as convert;

/// Dimensions of keys that [`Lanes::load_columns`] loads.
pub(super) const DIMS: usize = 16;

/// 32-bit lanes, one an output channel.
///
/// The implementations with processor features call instructions that only some processors have: they are used only inside
/// functions with those `target_feature`s, into which everything here is inlined.
pub(super) trait Lanes: Copy {
    /// Number of lanes.
    const WIDTH: usize;
    /// The same number of f32.
    type Floats: Copy;

    /// Zeros.
    fn zero() -> Self;
    /// Words (pairs of i16) from memory.
    fn load(words: &[u32]) -> Self;
    /// self + Σ of the two products of the i16 in a lane of `weight` and the i16 in `word`.
    fn add_products(self, weight: Self, word: u32) -> Self;
    /// Odd lanes limited to 24 bits: see `portable::split`.
    fn wrap_odd(self) -> Self;
    /// Nearest f32.
    fn to_floats(self) -> Self::Floats;

    /// f32 from memory.
    fn load_floats(values: &[f32]) -> Self::Floats;
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
    /// a / b.
    fn div(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The larger; b where one is NaN.
    fn max(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// The same in every lane.
    fn splat(value: f32) -> Self::Floats;
    /// Element d of each of the first rows, as many as lanes, in vector d: all 16 or the first 8.
    fn load_columns(rows: &[&[f16]; 16]) -> [Self::Floats; DIMS];
}

/// Plain arrays, which the compiler turns into whatever vectors the build allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain([i32; 8]);

impl Lanes for Plain {
    const WIDTH: usize = 8;
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
    fn add_products(self, weight: Self, word: u32) -> Self {
        let (low, high) = (i32::from(word as i16), (word as i32) >> 16);
        Self(core::array::from_fn(|i| {
            let products = i32::from(weight.0[i] as i16) * low + (weight.0[i] >> 16) * high;
            self.0[i].wrapping_add(products)
        }))
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

    #[inline(always)]
    fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        core::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn splat(value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    fn load_columns(rows: &[&[f16]; 16]) -> [[f32; 8]; DIMS] {
        core::array::from_fn(|d| core::array::from_fn(|k| rows[k].get(d).map_or(0.0, |half| convert::to_f32(*half))))
    }
}
