//! The middle of attention: scores of a vector of keys at a time, then a vector of channels of the values.
//!
//! The same f32 operations in the same order as the plain loop (`ops/attention.rs`): lanes are keys or channels, never parts of
//! one sum.

use super::lanes::{DIMS, MAX_WIDTH, Mixing, store_floats};
use crate::blob::QUERY_PIXELS;
use crate::kernels::Mix;
use crate::math;

/// Mixes the values; `false` when a head is not whole vectors of channels.
///
/// The scratch holds the scores of a vector of keys query by query: \[keys / lanes\]\[query\]\[lane\], the last vector only as long
/// as there are keys. To be inlined into a function with the features of `V`; without closures around vectors, which are compiled
/// apart and lack them.
#[inline(always)]
pub(super) fn mix<V: Mixing>(mix: &mut Mix<'_>) -> bool {
    let dim = mix.channels / mix.heads.max(1);
    if dim == 0 || !dim.is_multiple_of(V::WIDTH) || mix.tokens == 0 || mix.pixels == 0 {
        return false;
    }
    for head in 0..mix.heads {
        let mut largest = [V::splat(f32::MIN); QUERY_PIXELS];
        for j in (0..mix.tokens).step_by(V::WIDTH) {
            let scores = scores::<V>(mix, head * dim, dim, j);
            let count = V::WIDTH.min(mix.tokens - j);
            let slots = mix.scores[j * QUERY_PIXELS..].chunks_exact_mut(count);
            for ((score, largest), slots) in scores.into_iter().zip(&mut largest).zip(slots) {
                *largest = V::max(score, *largest);
                store_floats::<V>(score, slots);
            }
        }
        let (mut most, mut total) = ([f32::MIN; QUERY_PIXELS], [0.0f32; QUERY_PIXELS]);
        for (most, largest) in most.iter_mut().zip(largest) {
            let mut lanes = [f32::MIN; MAX_WIDTH];
            V::store_floats(largest, &mut lanes);
            *most = lanes.into_iter().fold(f32::MIN, |a, b| if b > a { b } else { a });
        }
        for scores in mix.scores[..mix.tokens * QUERY_PIXELS].chunks_mut(V::WIDTH * QUERY_PIXELS) {
            exponentials(scores, most, &mut total);
        }
        for first in (head * dim..(head + 1) * dim).step_by(V::WIDTH) {
            values::<V>(mix, first, total);
        }
    }
    true
}

/// Query · key of four queries and a vector of keys from `j` on (past the last, the last again).
#[inline(always)]
fn scores<V: Mixing>(mix: &Mix<'_>, first: usize, dim: usize, j: usize) -> [V::Floats; QUERY_PIXELS] {
    let mut sums = [V::splat(0.0); QUERY_PIXELS];
    for start in (0..dim).step_by(DIMS) {
        let len = DIMS.min(dim - start);
        let mut rows = [&mix.kv[..0]; MAX_WIDTH];
        for (k, row) in rows.iter_mut().enumerate().take(V::WIDTH) {
            *row = &mix.kv[(j + k).min(mix.tokens - 1) * 2 * mix.channels + first + start..][..len];
        }
        let keys = V::load_columns(&rows);
        for (p, sum) in sums.iter_mut().enumerate() {
            let query = &mix.query[p.min(mix.pixels - 1) * mix.channels + first + start..][..len];
            let mut lanes = [V::splat(0.0); 4];
            for (query, keys) in query.as_chunks::<4>().0.iter().zip(keys.as_chunks::<4>().0) {
                for l in 0..4 {
                    lanes[l] = V::add(lanes[l], V::mul(V::splat(query[l]), keys[l]));
                }
            }
            *sum = V::add(*sum, V::add(V::add(lanes[0], lanes[1]), V::add(lanes[2], lanes[3])));
        }
    }
    sums
}

/// e^(score − largest) of a vector of keys in place, added to the totals key by key.
#[inline(always)]
fn exponentials(scores: &mut [f32], largest: [f32; QUERY_PIXELS], total: &mut [f32; QUERY_PIXELS]) {
    let count = scores.len() / QUERY_PIXELS;
    for (scores, largest) in scores.chunks_exact_mut(count).zip(largest) {
        for score in scores {
            *score = math::exp(*score - largest);
        }
    }
    let [a, b, c, d] = by_query(scores);
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (total, score) in total.iter_mut().zip([a, b, c, d]) {
            *total += score;
        }
    }
}

/// The scores of each query.
#[inline(always)]
fn by_query(scores: &[f32]) -> [&[f32]; QUERY_PIXELS] {
    let count = scores.len() / QUERY_PIXELS;
    core::array::from_fn(|query| &scores[query * count..][..count])
}

/// Σ weight · value / total for a vector of channels, written over the queries.
#[inline(always)]
fn values<V: Mixing>(mix: &mut Mix<'_>, first: usize, total: [f32; QUERY_PIXELS]) {
    let mut sums = [V::splat(0.0); QUERY_PIXELS];
    let kv = mix.kv[..mix.tokens * 2 * mix.channels].chunks(V::WIDTH * 2 * mix.channels);
    for (weights, kv) in mix.scores.chunks(V::WIDTH * QUERY_PIXELS).zip(kv) {
        let [a, b, c, d] = by_query(&weights[..kv.len() / (2 * mix.channels) * QUERY_PIXELS]);
        for ((((kv, a), b), c), d) in kv.chunks_exact(2 * mix.channels).zip(a).zip(b).zip(c).zip(d) {
            let value = V::load_halves(&kv[mix.channels + first..]);
            for (sum, weight) in sums.iter_mut().zip([a, b, c, d]) {
                *sum = V::add(*sum, V::mul(V::splat(*weight), value));
            }
        }
    }
    for (p, (sum, total)) in sums.iter().zip(total).enumerate().take(mix.pixels) {
        V::store_floats(V::div(*sum, V::splat(total)), &mut mix.query[p * mix.channels + first..]);
    }
}
