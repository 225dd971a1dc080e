//! Attention's sums of products without calls of soft floats: f32 times f16, rounded, and added, rounded, in integers.
//!
//! A soft float's multiplication and addition look at every kind of number; between normal numbers half of that is enough.

use half::f16;

use super::statistics::add_positive;
use crate::blob::QUERY_PIXELS;
use crate::kernels::Mix;
use crate::math;
use crate::tensor::CHUNK;

/// Scores, their softmax, and the mixed values; always `true`. Apart, so that its variables take stack only while it runs.
#[inline(never)]
pub(crate) fn mix(mix: &mut Mix<'_>) -> bool {
    let Mix { ref mut query, ref mut scores, kv, heads, channels, tokens, pixels } = *mix;
    let dim = channels / heads;
    for first in (0..heads).map(|head| head * dim) {
        let scores = &mut scores.as_chunks_mut::<QUERY_PIXELS>().0[..tokens];
        for (j, scores) in scores.iter_mut().enumerate() {
            let keys = &kv[j * 2 * channels + first..][..dim];
            for (p, score) in scores.iter_mut().enumerate().take(pixels) {
                *score = score_of(&query[p * channels + first..][..dim], keys);
            }
        }
        for p in 0..pixels {
            let total = softmax(scores, p);
            for d in 0..dim {
                let values = kv[channels + first + d..].iter().step_by(2 * channels);
                let sum =
                    scores.iter().zip(values).fold(0, |sum, (weights, v)| add_product(sum, weights[p].to_bits(), *v));
                query[p * channels + first + d] = f32::from_bits(sum) / total;
            }
        }
    }
    true
}

/// query · key: chunk by chunk, in each four sums, as [`math::dot`] has them.
fn score_of(query: &[f32], keys: &[f16]) -> f32 {
    let mut score = 0;
    for (query, keys) in query.chunks(CHUNK).zip(keys.chunks(CHUNK)) {
        let mut lanes = [0u32; 4];
        for (query, keys) in query.chunks(4).zip(keys.chunks(4)) {
            for (lane, (q, k)) in lanes.iter_mut().zip(query.iter().zip(keys)) {
                *lane = add_product(*lane, q.to_bits(), *k);
            }
        }
        score = add(score, add(add(lanes[0], lanes[1]), add(lanes[2], lanes[3])));
    }
    f32::from_bits(score)
}

/// Turns the scores of query `p` into weights, and returns their sum.
fn softmax(scores: &mut [[f32; QUERY_PIXELS]], p: usize) -> f32 {
    let mut largest = f32::MIN;
    for score in scores.iter().map(|scores| scores[p]) {
        largest = if score > largest { score } else { largest };
    }
    let mut total = 0.0f32;
    for scores in scores.iter_mut() {
        scores[p] = math::exp(scores[p] - largest);
        total += scores[p];
    }
    total
}

/// The bits of sum + x · y, each rounded.
#[inline(always)]
fn add_product(sum: u32, x: u32, y: f16) -> u32 {
    let half = u32::from(y.to_bits());
    let (exponent, field) = (x >> 23 & 255, half >> 10 & 31);
    // Normal numbers only; exponents far from both ends, so that the product is one as well.
    if exponent.wrapping_sub(32) >= 190 || field.wrapping_sub(1) >= 30 {
        return exactly(sum, x, y);
    }
    let (mantissa, factor) = ((x & 0x007f_ffff) | 0x0080_0000, (half & 0x03ff) | 0x0400);
    // 34 or 35 bits, without the last four, of which remains whether one is set.
    let (upper, lower) = ((mantissa >> 12) * factor, (mantissa & 0x0fff) * factor);
    let product = ((upper << 8) + (lower >> 4)) | u32::from(lower & 15 != 0);
    let shift = 6 + (product >> 30);
    let rounded = (product + (1 << (shift - 1)) - 1 + (product >> shift & 1)) >> shift;
    let magnitude = rounded + ((exponent + field + shift - 22) << 23);
    add(sum, magnitude | ((x ^ half << 16) & 0x8000_0000))
}

/// The bits of a + b.
#[inline(always)]
fn add(a: u32, b: u32) -> u32 {
    let (larger, smaller) = if a & 0x7fff_ffff > b & 0x7fff_ffff { (a, b) } else { (b, a) };
    let magnitudes = (larger & 0x7fff_ffff, smaller & 0x7fff_ffff);
    // The smaller one is normal, and the difference of the two is, too, or 0; nothing becomes infinite.
    if magnitudes.1 < 32 << 23 || magnitudes.0 >= 250 << 23 {
        return if smaller == 0 && larger != 0x8000_0000 { larger } else { add_exactly(a, b) };
    }
    let sign = larger & 0x8000_0000;
    if (larger ^ smaller) & 0x8000_0000 == 0 {
        return sign | add_positive(magnitudes.0, magnitudes.1);
    }
    sign_of(subtract(magnitudes.0, magnitudes.1), sign)
}

/// A difference with a sign; zero has none.
#[inline(always)]
fn sign_of(magnitude: u32, sign: u32) -> u32 {
    if magnitude == 0 { 0 } else { magnitude | sign }
}

/// a − b of the bits of two normal positive numbers of which b is not the larger one.
#[inline(always)]
fn subtract(a: u32, b: u32) -> u32 {
    let distance = (a >> 23) - (b >> 23);
    if distance > 25 {
        return a;
    }
    let mantissa = |bits: u32| ((bits & 0x007f_ffff) | 0x0080_0000) << 7;
    let (above, below) = (mantissa(a), mantissa(b));
    let shifted = below >> distance;
    let lost = u32::from(shifted << distance != below);
    // What is lost makes the difference smaller: an odd last bit stands for it.
    let difference = (above - shifted - lost) | lost;
    if difference == 0 {
        return 0;
    }
    let zeros = difference.leading_zeros() - 1;
    let normal = difference << zeros;
    let rounded = (normal + 63 + (normal >> 7 & 1)) >> 7;
    rounded + (((a >> 23) - zeros - 1) << 23)
}

#[cold]
#[inline(never)]
fn exactly(sum: u32, x: u32, y: f16) -> u32 {
    (f32::from_bits(sum) + f32::from_bits(x) * crate::f16::to_f32(y)).to_bits()
}

#[cold]
#[inline(never)]
fn add_exactly(a: u32, b: u32) -> u32 {
    (f32::from_bits(a) + f32::from_bits(b)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;
    use std::vec::Vec;

    fn same(got: u32, want: f32) -> bool {
        got == want.to_bits() || want.is_nan() && f32::from_bits(got).is_nan()
    }

    #[test]
    fn sums_and_products_are_those_of_floats() {
        let mut stream = NoiseStream::new(38, 0);
        for index in 0..6_000_000u32 {
            // Near each other, so that they cancel; with few bits, so that there are ties; and anything.
            let mask = [u32::MAX, 0xfff0_0000, 0xffff_ff00][index as usize % 3];
            let mut float = || {
                let exponent = if index.is_multiple_of(64) { stream.below(256) } else { 120 + stream.below(12) };
                (stream.next_u32() & 0x807f_ffff | exponent << 23) & mask
            };
            let (a, b, x) = (float(), float(), float());
            let want = f32::from_bits(a) + f32::from_bits(b);
            assert!(same(add(a, b), want), "{a:08x} + {b:08x}");
            let half = if index.is_multiple_of(16) { 0xffff } else { 0xbfff };
            let y = f16::from_bits(stream.next_u32() as u16 & half);
            let want = f32::from_bits(a) + f32::from_bits(x) * crate::f16::to_f32(y);
            assert!(same(add_product(a, x, y), want), "{a:08x} + {x:08x} · {y}");
            let near = -(f32::from_bits(x) * crate::f16::to_f32(y));
            let near = near.to_bits().wrapping_add(stream.below(5)).wrapping_sub(2);
            let want = f32::from_bits(near) + f32::from_bits(x) * crate::f16::to_f32(y);
            assert!(same(add_product(near, x, y), want), "{near:08x} + {x:08x} · {y}");
        }
    }

    #[test]
    fn mixes_as_the_definition_does() {
        let mut stream = NoiseStream::new(39, 0);
        for (heads, dim, tokens) in [(1, 8, 1), (2, 16, 9), (1, 32, 16), (2, 5, 7), (1, 40, 5)] {
            let channels = heads * dim;
            let kv: Vec<f16> =
                (0..tokens * 2 * channels).map(|_| crate::f16::from_f32(2.0 * stream.next_gaussian())).collect();
            let mut query: Vec<f32> = (0..2 * channels).map(|_| stream.next_gaussian()).collect();
            let want = defined(&query, &kv, (heads, channels, tokens));
            let mut scores = std::vec![0.0; tokens * QUERY_PIXELS];
            let job = &mut Mix { query: &mut query, scores: &mut scores, kv: &kv, heads, channels, tokens, pixels: 2 };
            assert!(mix(job));
            assert_eq!(query, want, "{heads} heads of {dim}, {tokens} tokens");
        }
    }

    /// docs/numerics.md, line by line.
    fn defined(query: &[f32], kv: &[f16], (heads, channels, tokens): (usize, usize, usize)) -> Vec<f32> {
        let dim = channels / heads;
        let at = |j: usize, c: usize| crate::f16::to_f32(kv[j * 2 * channels + c]);
        let mut mixed = query.to_vec();
        for (p, first) in (0..query.len() / channels).flat_map(|p| (0..heads).map(move |head| (p, head * dim))) {
            let q = &query[p * channels + first..][..dim];
            let score = |j: usize| {
                let keys: Vec<f32> = (0..dim).map(|d| at(j, first + d)).collect();
                q.chunks(CHUNK).zip(keys.chunks(CHUNK)).fold(0.0f32, |sum, (q, keys)| sum + math::dot(q, keys))
            };
            let scores: Vec<f32> = (0..tokens).map(score).collect();
            let largest = scores.iter().fold(f32::MIN, |most, score| if *score > most { *score } else { most });
            let weights: Vec<f32> = scores.iter().map(|score| math::exp(score - largest)).collect();
            let total = weights.iter().fold(0.0f32, |sum, w| sum + w);
            for d in 0..dim {
                let sum = (0..tokens).fold(0.0f32, |sum, j| sum + weights[j] * at(j, channels + first + d));
                mixed[p * channels + first + d] = sum / total;
            }
        }
        mixed
    }
}
