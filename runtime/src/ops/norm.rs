//! GroupNorm (arXiv:1803.08494) from collected sums: per channel an affine map x·a + b.

use crate::blob::Norm;
use crate::kernels;
use crate::math;
use crate::quant::SILU_FRACTION_BITS;
use crate::tensor::Floats;

/// Σx and Σx² per channel, collected while a tensor is written: f32 pairs. Each row's sums are added up from left to right,
/// the rows' sums then from top to bottom.
pub(super) struct Statistics<'a> {
    /// Of the rows that are finished; empty for a tensor without statistics.
    totals: &'a mut [f32],
    /// Of the rows under way, one after the other.
    rows: &'a mut [f32],
}

impl<'a> Statistics<'a> {
    pub(super) fn new(totals: &'a mut [f32], rows: &'a mut [f32]) -> Self {
        totals.fill(0.0);
        rows.fill(0.0);
        Self { totals, rows }
    }

    /// The sums of some channels of row `row` of those under way.
    #[inline(always)]
    pub(super) fn row_mut(&mut self, row: usize, channels: core::ops::Range<usize>) -> &mut [f32] {
        let first = row * self.totals.len();
        self.rows.get_mut(first + 2 * channels.start..first + 2 * channels.end).unwrap_or(&mut [])
    }

    /// Adds the first `rows` rows under way to the totals, in order, and begins new ones.
    pub(super) fn end_rows(&mut self, rows: usize) {
        for row in self.rows.chunks_exact_mut(self.totals.len().max(1)).take(rows) {
            if kernels::add_and_clear(self.totals, row) {
                continue;
            }
            for (total, sum) in self.totals.iter_mut().zip(row) {
                *total += *sum;
                *sum = 0.0;
            }
        }
    }
}

/// Writes (a, b) per channel of the concatenated sources. `statistics` are those of the first and the second source (empty
/// when there is none), `pixels` is height · width; with `silu`, a and b come times 2¹², exactly.
pub(super) fn affine(
    norm: Norm,
    statistics: [&[f32]; 2],
    pixels: usize,
    (gamma, beta): (Floats<'_>, Floats<'_>),
    silu: bool,
    out: &mut [f32],
) {
    let channels = out.len() / 2;
    let group = (channels / usize::from(norm.groups)).max(1);
    let mut sums = statistics.into_iter().flat_map(|source| source.as_chunks::<2>().0);
    let (mut gamma, mut beta) = (gamma.iter_from(0), beta.iter_from(0));
    let count = (pixels * group) as f32;
    let factor = if silu { (1 << SILU_FRACTION_BITS) as f32 } else { 1.0 };
    for affine in out.chunks_exact_mut(2 * group) {
        let (mut sum, mut squares) = (0.0f32, 0.0f32);
        for [s, q] in sums.by_ref().take(group) {
            sum += s;
            squares += q;
        }
        let mean = sum / count;
        let variance = squares / count - mean * mean;
        let variance = if variance > 0.0 { variance } else { 0.0 };
        let inverse = 1.0 / math::sqrt(variance + norm.eps);
        for (([a, b], gamma), beta) in affine.as_chunks_mut::<2>().0.iter_mut().zip(gamma.by_ref()).zip(beta.by_ref()) {
            let scale = gamma * inverse;
            *a = scale * factor;
            *b = (beta - mean * scale) * factor;
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
        let add = |sums: &mut [f32], channel: usize, value: f32| {
            sums[2 * channel] += value;
            sums[2 * channel + 1] += value * value;
        };
        for (i, &v) in x.iter().enumerate() {
            match (i % channels).checked_sub(channels_a) {
                None => add(&mut a, i % channels, v),
                Some(c) => add(&mut b, c, v),
            }
        }
        let bytes = |f: fn(usize) -> f32| (0..channels).flat_map(|c| f(c).to_le_bytes()).collect::<Vec<u8>>();
        let (gamma, beta) = (bytes(|c| 1.0 + 0.1 * c as f32), bytes(|c| 0.2 * c as f32));
        let mut out = std::vec![0.0; 2 * channels];
        let norm = Norm { groups: 2, eps: 1e-5 };
        affine(norm, [&a, &b], pixels, (Floats::new(&gamma), Floats::new(&beta)), false, &mut out);
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
