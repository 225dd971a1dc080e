//! The middle of attention with AVX2 and F16C: scores of eight keys at a time, then eight channels of the values.
//!
//! The same f32 operations in the same order as the plain loop (`ops/attention.rs`): lanes are keys or channels, never parts of
//! one sum.

use core::arch::x86_64::*;

use half::f16;

use super::avx2::transpose;
use crate::blob::QUERY_PIXELS;
use crate::kernels::Mix;
use crate::math;

/// Lanes.
const WIDTH: usize = 8;
/// Dimensions whose products are summed together, in four sums.
const CHUNK: usize = 16;

/// Mixes the values; `false` when a head is no multiple of eight channels.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn mix(mix: &mut Mix<'_>) -> bool {
    let dim = mix.channels / mix.heads.max(1);
    if !dim.is_multiple_of(WIDTH) || mix.tokens == 0 || mix.pixels == 0 {
        return false;
    }
    for head in 0..mix.heads {
        let mut largest = [f32::MIN; QUERY_PIXELS];
        for j in (0..mix.tokens).step_by(WIDTH) {
            let scores = scores(mix, head * dim, dim, j);
            for (k, slot) in
                mix.scores.as_chunks_mut::<QUERY_PIXELS>().0[..mix.tokens][j..].iter_mut().take(WIDTH).enumerate()
            {
                for ((slot, scores), largest) in slot.iter_mut().zip(&scores).zip(&mut largest) {
                    *slot = scores[k];
                    *largest = if scores[k] > *largest { scores[k] } else { *largest };
                }
            }
        }
        let total = exponentials(&mut mix.scores[..mix.tokens * QUERY_PIXELS], largest);
        for first in (head * dim..(head + 1) * dim).step_by(WIDTH) {
            values(mix, first, total);
        }
    }
    true
}

/// Query · key of four queries and the eight keys from `j` on (past the last, the last again).
#[inline(always)]
fn scores(mix: &Mix<'_>, first: usize, dim: usize, j: usize) -> [[f32; WIDTH]; QUERY_PIXELS] {
    let mut out = [[0.0; WIDTH]; QUERY_PIXELS];
    // SAFETY (of every block here): AVX2 and F16C exist, because this is inlined into `mix`; what is loaded and stored is a
    // whole slice of eight, and the instructions ask for no alignment.
    let zero = unsafe { _mm256_setzero_ps() };
    let mut sums = [zero; QUERY_PIXELS];
    for start in (0..dim).step_by(CHUNK) {
        let len = CHUNK.min(dim - start);
        let mut keys = [zero; CHUNK];
        for half in (0..len).step_by(WIDTH) {
            // SAFETY: as above.
            let mut rows = [unsafe { _mm256_setzero_si256() }; WIDTH];
            for (k, row) in rows.iter_mut().enumerate() {
                let key = (j + k).min(mix.tokens - 1);
                let key = load(&mix.kv[key * 2 * mix.channels + first + start + half..]);
                // SAFETY: as above.
                *row = unsafe { _mm256_castps_si256(key) };
            }
            for (key, column) in keys[half..].iter_mut().zip(transpose(rows)) {
                // SAFETY: as above.
                *key = unsafe { _mm256_castsi256_ps(column) };
            }
        }
        for (p, sum) in sums.iter_mut().enumerate() {
            let query = &mix.query[p.min(mix.pixels - 1) * mix.channels + first + start..][..len];
            let mut lanes = [zero; 4];
            for (query, keys) in query.as_chunks::<4>().0.iter().zip(keys.as_chunks::<4>().0) {
                for l in 0..4 {
                    // SAFETY: as above.
                    lanes[l] = unsafe { _mm256_add_ps(lanes[l], _mm256_mul_ps(_mm256_set1_ps(query[l]), keys[l])) };
                }
            }
            // SAFETY: as above.
            unsafe {
                let dot = _mm256_add_ps(_mm256_add_ps(lanes[0], lanes[1]), _mm256_add_ps(lanes[2], lanes[3]));
                *sum = _mm256_add_ps(*sum, dot);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}

/// e^(score − largest) in place, and the sums over all keys, in order.
#[inline(always)]
fn exponentials(scores: &mut [f32], largest: [f32; QUERY_PIXELS]) -> [f32; QUERY_PIXELS] {
    for scores in scores.as_chunks_mut::<QUERY_PIXELS>().0 {
        for (score, largest) in scores.iter_mut().zip(&largest) {
            *score = math::exp(*score - largest);
        }
    }
    let mut total = [0.0f32; QUERY_PIXELS];
    for scores in scores.as_chunks::<QUERY_PIXELS>().0 {
        for (total, score) in total.iter_mut().zip(scores) {
            *total += score;
        }
    }
    total
}

/// Σ weight · value / total for eight channels, written over the queries.
#[inline(always)]
fn values(mix: &mut Mix<'_>, first: usize, total: [f32; QUERY_PIXELS]) {
    // SAFETY (of every block here): as in `scores`.
    let mut sums = [unsafe { _mm256_setzero_ps() }; QUERY_PIXELS];
    let weights = mix.scores.as_chunks::<QUERY_PIXELS>().0;
    for (weights, kv) in weights.iter().zip(mix.kv.chunks_exact(2 * mix.channels)).take(mix.tokens) {
        let value = load(&kv[mix.channels + first..]);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            // SAFETY: as above.
            *sum = unsafe { _mm256_add_ps(*sum, _mm256_mul_ps(_mm256_set1_ps(*weight), value)) };
        }
    }
    for (p, (sum, total)) in sums.iter().zip(total).enumerate().take(mix.pixels) {
        let out = &mut mix.query[p * mix.channels + first..][..WIDTH];
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_div_ps(*sum, _mm256_set1_ps(total))) };
    }
}

/// Eight halves.
#[inline(always)]
fn load(values: &[f16]) -> __m256 {
    let values = &values[..WIDTH];
    // SAFETY: F16C exists; eight halves are there, and the load asks for no alignment.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
}
