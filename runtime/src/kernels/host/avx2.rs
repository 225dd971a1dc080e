//! Eight output channels in an AVX2 register, halves converted by F16C.
//!
//! Every function here is inlined into one with the `target_feature`s `avx2` and `f16c`, which `detect` has found: that is why
//! the instructions exist. The conversions agree with [`crate::f16`] on every value (tests of the module above).

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use half::f16;

use super::lanes::{DIMS, Lanes, MAX_WIDTH, Mixing};
use super::prepare::Block;

/// Eight lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(__m256i);

impl Lanes for Avx2 {
    const WIDTH: usize = 8;
    const LEAST_PAIRS: usize = 9;
    type Floats = __m256;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: AVX exists (see the head of the file).
        Self(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    fn load(words: &[u32]) -> Self {
        let words = &words[..8];
        // SAFETY: AVX exists; eight words are there, and the load asks for no alignment.
        Self(unsafe { _mm256_loadu_si256(words.as_ptr().cast()) })
    }

    #[inline(always)]
    fn block(words: &[[u8; 4]], taps: usize) -> Block {
        block(words, taps)
    }

    #[inline(always)]
    fn horizontal_parts(columns: &[[i16; 2]; 10]) -> [[u32; 4]; 4] {
        let mut parts = [[0; 4]; 4];
        // SAFETY: AVX2 exists; ten words are there, of which each load takes eight, and there is room for four in each store; none asks
        // for an alignment.
        unsafe {
            let each_other = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
            let load = |words: &[[i16; 2]]| _mm256_loadu_si256(words[..8].as_ptr().cast());
            let ab = _mm256_permutevar8x32_epi32(load(&columns[..8]), each_other);
            let cd = _mm256_permutevar8x32_epi32(load(&columns[2..]), each_other);
            let [a, b] = [_mm256_castsi256_si128(ab), _mm256_extracti128_si256::<1>(ab)];
            let [c, d] = [_mm256_castsi256_si128(cd), _mm256_extracti128_si256::<1>(cd)];
            let each = [_mm_sub_epi16(a, c), _mm_add_epi16(b, c), _mm_sub_epi16(c, b), _mm_sub_epi16(b, d)];
            for (words, part) in parts.iter_mut().zip(each) {
                _mm_storeu_si128(words.as_mut_ptr().cast(), part);
            }
        }
        parts
    }

    #[inline(always)]
    fn add_products(self, weight: Self, word: u32) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_add_epi32(self.0, _mm256_madd_epi16(weight.0, _mm256_set1_epi32(word as i32))) })
    }

    #[inline(always)]
    fn store(self, words: &mut [MaybeUninit<u32>]) {
        let words = &mut words[..8];
        // SAFETY: AVX2 exists; there is room for eight words, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn plus_halves(self, other: Self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_add_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn minus_halves(self, other: Self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_sub_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_sub_epi32(self.0, other.0) })
    }

    #[inline(always)]
    fn quarter(self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe { _mm256_srai_epi32::<2>(self.0) })
    }

    #[inline(always)]
    fn wrap_odd(self) -> Self {
        // SAFETY: AVX2 exists.
        Self(unsafe {
            let shift = _mm256_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8);
            _mm256_srav_epi32(_mm256_sllv_epi32(self.0, shift), shift)
        })
    }

    #[inline(always)]
    fn to_floats(self) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_cvtepi32_ps(self.0) }
    }

    #[inline(always)]
    fn load_floats(values: &[f32]) -> __m256 {
        let values = &values[..8];
        // SAFETY: AVX exists; eight values are there, and the load asks for no alignment.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store_floats(values: __m256, out: &mut [f32]) {
        let out = &mut out[..8];
        // SAFETY: AVX exists; there is room for eight values, and the store asks for no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn load_halves(values: &[f16]) -> __m256 {
        let values = &values[..8];
        // SAFETY: F16C exists; eight halves are there, and the load asks for no alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_halves(values: __m256, out: &mut [f16]) -> __m256 {
        let out = &mut out[..8];
        // SAFETY: F16C exists; there is room for eight halves, and the store asks for no alignment.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
            _mm256_cvtph_ps(halves)
        }
    }

    #[inline(always)]
    fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_mul_ps(a, b) }
    }
}

impl Mixing for Avx2 {
    #[inline(always)]
    fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn splat(value: f32) -> __m256 {
        // SAFETY: AVX exists.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load_columns(rows: &[&[f16]; MAX_WIDTH]) -> [__m256; DIMS] {
        let mut columns = [Self::splat(0.0); DIMS];
        for (half, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            if rows[0].len() <= 8 * half {
                break;
            }
            // SAFETY: AVX exists.
            let mut words = [unsafe { _mm256_setzero_si256() }; 8];
            for (words, row) in words.iter_mut().zip(rows) {
                // SAFETY: AVX exists.
                *words = unsafe { _mm256_castps_si256(Self::load_halves(&row[8 * half..])) };
            }
            for (column, words) in columns.iter_mut().zip(transpose(words)) {
                // SAFETY: AVX exists.
                *column = unsafe { _mm256_castsi256_ps(words) };
            }
        }
        columns
    }
}

/// As [`super::prepare::plain_block`]: a transposition of eight by eight words, each split into two.
#[inline(always)]
fn block(words: &[[u8; 4]], taps: usize) -> Block {
    let mut block = [[0; 16]; 8];
    // SAFETY: AVX2 exists; eight words are there for each load, sixteen for each two stores, and none asks for an alignment.
    unsafe {
        let mut rows = [_mm256_setzero_si256(); 8];
        for (pair, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_si256(words[pair * taps..][..8].as_ptr().cast());
        }
        for (words, lanes) in transpose(rows).into_iter().zip(&mut block) {
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words));
            let odd = _mm256_srai_epi16::<8>(_mm256_sub_epi16(words, even));
            // Channels 0–3, 8–11 and 4–7, 12–15.
            let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
            let [first, second] = [lanes[..8].as_mut_ptr(), lanes[8..].as_mut_ptr()];
            _mm256_storeu_si256(first.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(second.cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }
    block
}

/// Transposes words.
#[inline(always)]
fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: AVX2 exists.
    unsafe {
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // Columns c and c + 4 of rows 0–3 in `fours[c]`, of rows 4–7 in `fours[c + 4]`.
        let mut fours = pairs;
        for half in 0..2 {
            let [a, b, c, d] = [pairs[4 * half], pairs[4 * half + 1], pairs[4 * half + 2], pairs[4 * half + 3]];
            fours[4 * half] = _mm256_unpacklo_epi64(a, c);
            fours[4 * half + 1] = _mm256_unpackhi_epi64(a, c);
            fours[4 * half + 2] = _mm256_unpacklo_epi64(b, d);
            fours[4 * half + 3] = _mm256_unpackhi_epi64(b, d);
        }
        let mut columns = fours;
        for c in 0..4 {
            columns[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[c + 4]);
            columns[c + 4] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[c + 4]);
        }
        columns
    }
}
