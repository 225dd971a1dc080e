//! GroupNorm (arXiv:1803.08494) from collected sums: per channel an affine map x·a + b.

use crate::blob::Norm;
use crate::math;
use crate::tensor::Floats;

/// Running Σx and Σx² per channel, collected while a tensor is written: f32 pairs, pixels in raster order.
pub(super) struct Statistics<'a>(pub(super) &'a mut [f32]);

impl Statistics<'_> {
    pub(super) fn clear(&mut self) {
        self.0.fill(0.0);
    }

    /// Adds one element of each of the channels `first`..; does nothing for a tensor without statistics.
    #[inline]
    pub(super) fn add(&mut self, first: usize, values: &[f32]) {
        let pairs = self.0.get_mut(2 * first..).unwrap_or(&mut []);
        for ([sum, squares], value) in pairs.as_chunks_mut().0.iter_mut().zip(values) {
            *sum += value;
            *squares += value * value;
        }
    }
}

/// Writes (a, b) per channel of the concatenated sources. `statistics` are those of the first and the second source (empty
/// when there is none), `pixels` is height · width.
pub(super) fn affine(
    norm: Norm,
    statistics: [&[f32]; 2],
    pixels: usize,
    gamma: Floats<'_>,
    beta: Floats<'_>,
    out: &mut [f32],
) {
    let channels = out.len() / 2;
    let group = (channels / usize::from(norm.groups)).max(1);
    let split = statistics[0].len() / 2;
    let sums = |channel: usize| match channel.checked_sub(split) {
        None => [statistics[0][2 * channel], statistics[0][2 * channel + 1]],
        Some(channel) => [statistics[1][2 * channel], statistics[1][2 * channel + 1]],
    };
    let count = (pixels * group) as f32;
    for first in (0..channels).step_by(group) {
        let (mut sum, mut squares) = (0.0f32, 0.0f32);
        for channel in first..first + group {
            let [s, q] = sums(channel);
            sum += s;
            squares += q;
        }
        let mean = sum / count;
        let variance = squares / count - mean * mean;
        let variance = if variance > 0.0 { variance } else { 0.0 };
        let inverse = 1.0 / math::sqrt(variance + norm.eps);
        for channel in first..first + group {
            let a = gamma.get(channel) * inverse;
            out[2 * channel] = a;
            out[2 * channel + 1] = beta.get(channel) - mean * a;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn matches_two_pass_group_norm_in_f64() {
        let (channels_a, channels_b, pixels) = (4usize, 2usize, 50usize);
        let channels = channels_a + channels_b;
        let mut stream = crate::rng::NoiseStream::new(3, 0);
        let x: Vec<f32> = (0..pixels * channels).map(|_| 0.7 + 1.3 * stream.next_gaussian()).collect();
        let (mut a, mut b) = (std::vec![0.0; 2 * channels_a], std::vec![0.0; 2 * channels_b]);
        for (i, &v) in x.iter().enumerate() {
            match (i % channels).checked_sub(channels_a) {
                None => Statistics(&mut a).add(i % channels, &[v]),
                Some(c) => Statistics(&mut b).add(c, &[v]),
            }
        }
        let bytes = |f: fn(usize) -> f32| (0..channels).flat_map(|c| f(c).to_le_bytes()).collect::<Vec<u8>>();
        let (gamma, beta) = (bytes(|c| 1.0 + 0.1 * c as f32), bytes(|c| 0.2 * c as f32));
        let mut out = std::vec![0.0; 2 * channels];
        let norm = Norm { groups: 2, eps: 1e-5 };
        affine(norm, [&a, &b], pixels, Floats::new(&gamma), Floats::new(&beta), &mut out);
        for group in 0..2 {
            let values = || x.iter().enumerate().filter(|(i, _)| i % channels / 3 == group).map(|(_, &v)| f64::from(v));
            let mean = values().sum::<f64>() / (3 * pixels) as f64;
            let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / (3 * pixels) as f64;
            for c in 3 * group..3 * group + 3 {
                let y = f64::from(x[c]);
                let want = (y - mean) / (variance + 1e-5).sqrt() * (1.0 + 0.1 * c as f64) + 0.2 * c as f64;
                let got = f64::from(x[c] * out[2 * c] + out[2 * c + 1]);
                // 150 f32 additions and a cancellation: a few 1e-6 relative.
                assert!((want - got).abs() < 1e-5 * (1.0 + want.abs()), "{want} {got}");
            }
        }
    }
}
