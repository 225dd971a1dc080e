//! Attention on cores without FPU: its sums of products in integers, the rest in soft floats.

use half::f16;

use super::products;
use crate::blob::QUERY_PIXELS;
use crate::kernels::Mix;
use crate::math;
use crate::tensor::CHUNK;

/// Scores, their softmax, and the mixed values; always `true`. Apart, so that its variables take stack only while it runs.
#[inline(never)]
pub(crate) fn mix(mix: &mut Mix<'_>) -> bool {
    let Mix { ref mut query, ref mut scores, kv, heads, channels, tokens, pixels } = *mix;
    let dim = channels / heads;
    let scores = &mut scores[..tokens * QUERY_PIXELS];
    for first in (0..heads).map(|head| head * dim) {
        for (j, scores) in scores.as_chunks_mut::<QUERY_PIXELS>().0.iter_mut().enumerate() {
            let keys = &kv[j * 2 * channels + first..][..dim];
            for (p, score) in scores.iter_mut().enumerate().take(pixels) {
                *score = score_of(&query[p * channels + first..][..dim], keys);
            }
        }
        for p in 0..pixels {
            let total = softmax(scores.as_chunks_mut().0, p);
            for channel in first..first + dim {
                let sum = accumulate((&scores[p..], QUERY_PIXELS), (&kv[channels + channel..], 2 * channels), tokens);
                query[p * channels + channel] = sum / total;
            }
        }
    }
    true
}

/// query · key: chunk by chunk, in each four sums, as [`math::dot`] has them.
fn score_of(query: &[f32], keys: &[f16]) -> f32 {
    let mut score = 0.0;
    for (query, keys) in query.chunks(CHUNK).zip(keys.chunks(CHUNK)) {
        let lane = |l: usize| {
            accumulate((&query[l.min(query.len())..], 4), (&keys[l.min(keys.len())..], 4), (query.len() + 3 - l) / 4)
        };
        let sum = products::plus(products::plus(lane(0), lane(1)), products::plus(lane(2), lane(3)));
        score = products::plus(score, sum);
    }
    score
}

/// Σ x · y, from zero and in order, of `count` numbers that lie steps apart.
#[inline(never)]
fn accumulate((x, x_step): (&[f32], usize), (y, y_step): (&[f16], usize), count: usize) -> f32 {
    let (mut sum, mut done) = (0.0, 0);
    while done < count {
        done += products::add_all(&mut sum, (&x[done * x_step..], x_step), (&y[done * y_step..], y_step), count - done);
        if done < count {
            sum += x[done * x_step] * crate::f16::to_f32(y[done * y_step]);
            done += 1;
        }
    }
    sum
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;
    use std::vec::Vec;

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
