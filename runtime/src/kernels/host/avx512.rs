//! Sixteen output channels in an AVX-512 register, both products of a lane added by one VNNI instruction.
//!
//! Every function here is inlined into one with the `target_feature`s of `Level::Avx512`, which `detect` has found: that is why
//! the instructions exist. The conversions agree with [`crate::f16`] on every value (tests of the module above).

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use half::f16;

use super::avx2::Avx2;
use super::lanes::{DIMS, Lanes, MAX_WIDTH, Mixing};
use super::prepare::Block;

/// Sixteen lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(__m512i);

impl Lanes for Avx512 {
    const WIDTH: usize = 16;
    const LEAST_PAIRS: usize = 9;
    type Floats = __m512;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: AVX-512 exists (see the head of the file).
        Self(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    fn load(words: &[u32]) -> Self {
        let words = &words[..16];
        // SAFETY: AVX-512 exists; sixteen words are there, and the load asks for no alignment.
        Self(unsafe { _mm512_loadu_si512(words.as_ptr().cast()) })
    }

    #[inline(always)]
    fn block(words: &[[u8; 4]], taps: usize) -> Block {
        Avx2::block(words, taps)
    }

    #[inline(always)]
    fn horizontal_parts(columns: &[[i16; 2]; 10]) -> [[u32; 4]; 4] {
        Avx2::horizontal_parts(columns)
    }

    #[inline(always)]
    fn add_products(self, weight: Self, word: u32) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_dpwssd_epi32(self.0, weight.0, _mm512_set1_epi32(word as i32)) })
    }

    #[inline(always)]
    fn store(self, words: &mut [MaybeUninit<u32>]) {
        let words = &mut words[..16];
        // SAFETY: AVX-512 exists; there is room for sixteen words, and the store asks for no alignment.
        unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    fn plus_halves(self, other: Self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_add_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn minus_halves(self, other: Self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_sub_epi16(self.0, other.0) })
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_sub_epi32(self.0, other.0) })
    }

    #[inline(always)]
    fn quarter(self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_srai_epi32::<2>(self.0) })
    }

    #[inline(always)]
    fn wrap_odd(self) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe {
            let shift = _mm512_setr_epi32(0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8);
            _mm512_srav_epi32(_mm512_sllv_epi32(self.0, shift), shift)
        })
    }

    #[inline(always)]
    fn to_floats(self) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_cvtepi32_ps(self.0) }
    }

    #[inline(always)]
    fn load_floats(values: &[f32]) -> __m512 {
        let values = &values[..16];
        // SAFETY: AVX-512 exists; sixteen values are there, and the load asks for no alignment.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_pairs(pairs: &[f32]) -> [__m512; 2] {
        let [low, high] = [Self::load_floats(pairs), Self::load_floats(&pairs[16..])];
        // SAFETY: AVX-512 exists.
        unsafe {
            let first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
            [_mm512_permutex2var_ps(low, first, high), _mm512_permutex2var_ps(low, second, high)]
        }
    }

    #[inline(always)]
    fn store_pairs([first, second]: [__m512; 2], pairs: &mut [f32]) {
        // SAFETY: AVX-512 exists.
        let [low, high] = unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            [_mm512_permutex2var_ps(first, low, second), _mm512_permutex2var_ps(first, high, second)]
        };
        Self::store_floats(low, pairs);
        Self::store_floats(high, &mut pairs[16..]);
    }

    #[inline(always)]
    fn store_floats(values: __m512, out: &mut [f32]) {
        let out = &mut out[..16];
        // SAFETY: AVX-512 exists; there is room for sixteen values, and the store asks for no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
    }

    #[inline(always)]
    fn load_halves(values: &[f16]) -> __m512 {
        let values = &values[..16];
        // SAFETY: AVX-512 exists; sixteen halves are there, and the load asks for no alignment.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_halves(values: __m512, out: &mut [f16]) -> __m512 {
        let out = &mut out[..16];
        // SAFETY: AVX-512 exists; there is room for sixteen halves, and the store asks for no alignment.
        unsafe {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
            _mm512_cvtph_ps(halves)
        }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_mul_ps(a, b) }
    }
}

impl Mixing for Avx512 {
    #[inline(always)]
    fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn splat(value: f32) -> __m512 {
        // SAFETY: AVX-512 exists.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load_columns(rows: &[&[f16]; MAX_WIDTH]) -> [__m512; DIMS] {
        let mut columns = [Self::splat(0.0); DIMS];
        // SAFETY: AVX-512 exists; sixteen halves of a row are there, and the loads ask for no alignment.
        unsafe {
            // A quarter of 128 bits has eight halves: of row i the first and the second, then of row i + 8.
            let mut words = [_mm512_setzero_si512(); 8];
            for (i, words) in words.iter_mut().enumerate() {
                let [low, high] = [&rows[i][..DIMS], &rows[i + 8][..DIMS]];
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(low.as_ptr().cast()));
                *words = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(high.as_ptr().cast()));
            }
            let quarters = _mm512_setr_epi64(0, 1, 4, 5, 2, 3, 6, 7);
            for (d, words) in transpose_quarters(words).into_iter().enumerate() {
                let words = _mm512_permutexvar_epi64(quarters, words);
                columns[d] = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
                columns[d + 8] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(words));
            }
        }
        columns
    }
}

/// Transposes eight by eight halfwords in each quarter.
#[inline(always)]
fn transpose_quarters(rows: [__m512i; 8]) -> [__m512i; 8] {
    // SAFETY: AVX-512 exists.
    unsafe {
        // Rows 2i and 2i + 1: columns 0 to 3, columns 4 to 7.
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm512_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]);
        }
        // Rows 4h to 4h + 3: two columns each.
        let mut fours = pairs;
        for h in 0..2 {
            let [a, b, c, d] = [pairs[4 * h], pairs[4 * h + 1], pairs[4 * h + 2], pairs[4 * h + 3]];
            fours[4 * h] = _mm512_unpacklo_epi32(a, c);
            fours[4 * h + 1] = _mm512_unpackhi_epi32(a, c);
            fours[4 * h + 2] = _mm512_unpacklo_epi32(b, d);
            fours[4 * h + 3] = _mm512_unpackhi_epi32(b, d);
        }
        let mut columns = fours;
        for i in 0..4 {
            columns[2 * i] = _mm512_unpacklo_epi64(fours[i], fours[i + 4]);
            columns[2 * i + 1] = _mm512_unpackhi_epi64(fours[i], fours[i + 4]);
        }
        columns
    }
}
