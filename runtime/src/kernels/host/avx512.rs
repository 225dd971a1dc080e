//! Sixteen output channels in an AVX-512 register, both products of a lane added by one VNNI instruction.
//!
//! Every function here is inlined into one with the `target_feature`s of `Level::Avx512`, which `detect` has found: that is why
//! the instructions exist. The conversions agree with [`crate::f16`] on every value (tests of the module above).

use core::arch::x86_64::*;

use half::f16;

use super::lanes::Lanes;

/// Sixteen lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(__m512i);

impl Lanes for Avx512 {
    const WIDTH: usize = 16;
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
    fn add_products(self, weight: Self, word: u32) -> Self {
        // SAFETY: AVX-512 exists.
        Self(unsafe { _mm512_dpwssd_epi32(self.0, weight.0, _mm512_set1_epi32(word as i32)) })
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
