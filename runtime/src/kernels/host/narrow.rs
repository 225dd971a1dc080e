//! Tensors that wait at 8 bits, with AVX2 and F16C: each channel's largest magnitude, then integers, eight channels at a time.
//!
//! The same arithmetic as `ops/narrow.rs`, operation by operation.

use core::arch::x86_64::*;

use half::f16;

use super::feed::{Plain, Rule};

/// Channels of a vector.
const CHANNELS: usize = 8;

/// As `ops/narrow.rs`; `false` when the channels, which are as many as scales, are not by eight.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn narrow(values: &[f16], integers: &mut [i8], scales: &mut [f32]) -> bool {
    let channels = scales.len();
    if channels == 0 || !channels.is_multiple_of(CHANNELS) || values.len() != integers.len() {
        return false;
    }
    for (group, scales) in scales.as_chunks_mut::<CHANNELS>().0.iter_mut().enumerate() {
        let first = group * CHANNELS;
        let mut largest = _mm256_setzero_ps();
        for pixel in values.chunks_exact(channels) {
            let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), load(&pixel[first..]));
            // Where an operand is NaN the second comes out.
            largest = _mm256_max_ps(magnitude, largest);
        }
        let [limit, none] = [_mm256_set1_ps(127.0), _mm256_setzero_ps()];
        let inverse = _mm256_and_ps(_mm256_div_ps(limit, largest), _mm256_cmp_ps::<_CMP_GT_OQ>(largest, none));
        // SAFETY: there is room for eight f32, and the store asks for no alignment.
        unsafe { _mm256_storeu_ps(scales.as_mut_ptr(), _mm256_div_ps(largest, limit)) };
        let rule = Plain::of_lanes(_mm256_mul_ps(inverse, _mm256_set1_ps(256.0)), 127);
        for (pixel, integers) in values.chunks_exact(channels).zip(integers.chunks_exact_mut(channels)) {
            let quantised = rule.quantise(load(&pixel[first..]));
            let (low, high) = (_mm256_castsi256_si128(quantised), _mm256_extracti128_si256::<1>(quantised));
            let halfwords = _mm_packs_epi32(low, high);
            let integers = &mut integers[first..first + CHANNELS];
            // SAFETY: there is room for eight bytes, and the store asks for no alignment.
            unsafe { _mm_storel_epi64(integers.as_mut_ptr().cast(), _mm_packs_epi16(halfwords, halfwords)) };
        }
    }
    true
}

/// Eight halves.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(values: &[f16]) -> __m256 {
    let values = &values[..CHANNELS];
    // SAFETY: eight halves are there, and the load asks for no alignment.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
}
