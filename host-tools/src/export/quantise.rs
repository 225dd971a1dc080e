//! Real weights and inputs to small integers: int8 weights per output row, static symmetric input scales per branch.
//!
//! A convolution's sum is Σ w·x over both branches. With x ≈ q_x · s_branch the scales go into the weights first,
//! w' = w · s_branch, and then w' ≈ q_w · scale\[o\] per output row: one i32 sum serves both branches.

use crate::float::Linear;

use super::calibrate::BranchStats;

/// Largest |weight|.
pub const WEIGHT_MAX: f32 = 127.0;

/// How clips and scales are chosen; every switch earned its place by a figure (see `docs`).
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Clip inputs where the mean square error is least, instead of at the largest value seen.
    pub clip_by_error: bool,
    /// Choose each weight row's scale by the error of its products, instead of by its largest weight.
    pub search_weights: bool,
    /// Correct the bias for the mean of the weights' rounding errors.
    pub correct_bias: bool,
    /// `qmax` of `conv_in`, whose input is the sample itself.
    pub qmax_sample: u16,
    /// `qmax` of convolutions that read the residual stream raw: shortcuts, downsampling, upsampling.
    pub qmax_raw: u16,
    /// `qmax` of convolutions behind a SiLU. It never goes below −0.28, so 255 is 8 bits and a sign that is hardly used.
    pub qmax_silu: u16,
    /// `qmax` of everything else: keys and values, queries, attention outputs.
    pub qmax: u16,
}

impl Default for Rules {
    /// Rows are int16 in every kernel, so bits above 8 cost nothing there; wide sums must only stay below 2²³ for packed
    /// pairs of weights, which is why the raw inputs stop at 10 bits.
    fn default() -> Self {
        Self {
            clip_by_error: true,
            search_weights: true,
            correct_bias: true,
            qmax_sample: 2047,
            qmax_raw: 511,
            qmax_silu: 255,
            qmax: 127,
        }
    }
}

/// int8 rows with one scale each: w ≈ q · scale\[row\].
#[derive(Clone, Debug, PartialEq)]
pub struct QuantRows {
    /// `[rows][cols]`, ±127.
    pub weight: Vec<i8>,
    /// `[rows]`.
    pub scale: Vec<f32>,
}

/// inv_scale with q = round(x · inv_scale) for one branch; 1 for a branch that is always zero.
#[must_use]
pub fn inverse_scale(stats: &BranchStats, qmax: u16, by_error: bool) -> f32 {
    let clip = if by_error { stats.clip_by_error(qmax) } else { stats.absmax };
    if clip > 0.0 { f32::from(qmax) / clip } else { 1.0 }
}

/// Rounds rows of `cols` weights. `importance` (one per column, or empty) weighs the columns' errors in the search for the
/// scale; without it the largest weight becomes ±127.
#[must_use]
pub fn quantise_rows(weight: &[f32], cols: usize, importance: &[f32]) -> QuantRows {
    let mut result = QuantRows { weight: Vec::with_capacity(weight.len()), scale: Vec::new() };
    for row in weight.chunks_exact(cols) {
        let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let full = if absmax > 0.0 { absmax / WEIGHT_MAX } else { 1.0 };
        let scale = if importance.is_empty() || absmax == 0.0 { full } else { search_scale(row, importance, full) };
        result.weight.extend(row.iter().map(|&w| round(w, scale) as i8));
        result.scale.push(scale);
    }
    result
}

/// The nearest integer to w / scale within ±127.
fn round(w: f32, scale: f32) -> f32 {
    (w / scale).round_ties_even().clamp(-WEIGHT_MAX, WEIGHT_MAX)
}

/// The scale between 70 % and 100 % of `full` with the least weighted square error.
fn search_scale(row: &[f32], importance: &[f32], full: f32) -> f32 {
    let error = |scale: f32| -> f64 {
        let terms = row.iter().zip(importance);
        terms.map(|(&w, &h)| f64::from(h) * f64::from(w - round(w, scale) * scale).powi(2)).sum()
    };
    let candidates = (0..=60).map(|i| full * (1.0 - 0.005 * i as f32));
    candidates.map(|scale| (error(scale), scale)).fold((f64::INFINITY, full), |a, b| if b.0 < a.0 { b } else { a }).1
}

/// A linear layer with f32 inputs: int8 rows, bias unchanged.
#[must_use]
pub fn quantise_linear(layer: &Linear) -> QuantRows {
    quantise_rows(&layer.weight, layer.inputs(), &[])
}

/// A matrix product with quantised inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantProduct {
    /// Weights and the scale of the i32 sum.
    pub rows: QuantRows,
    /// f32, corrected when asked.
    pub bias: Vec<f32>,
    /// Inverse scale of each branch; 0 for an absent one.
    pub inv_scale: [f32; 2],
}

/// Quantises `weight` (`[cout][taps][channels of a, channels of b]`) for inputs with these statistics.
#[must_use]
pub fn quantise_product(
    weight: &[f32],
    bias: &[f32],
    channels: [usize; 2],
    stats: &[BranchStats; 2],
    qmax: u16,
    rules: &Rules,
) -> QuantProduct {
    let mut inv_scale = [0.0; 2];
    let (mut scales, mut means, mut importance) = (Vec::new(), Vec::new(), Vec::new());
    for branch in (0..2).filter(|&branch| channels[branch] > 0) {
        let stats = &stats[branch];
        inv_scale[branch] = inverse_scale(stats, qmax, rules.clip_by_error);
        let scale = 1.0 / inv_scale[branch];
        scales.extend(std::iter::repeat_n(scale, channels[branch]));
        means.extend(stats.means());
        importance.extend(stats.mean_squares().iter().map(|square| square / (scale * scale)));
    }
    let cin = scales.len();
    let cols = weight.len() / bias.len();
    let folded: Vec<f32> = weight.iter().enumerate().map(|(i, w)| w * scales[i % cin]).collect();
    let importance = if rules.search_weights { importance.repeat(cols / cin) } else { Vec::new() };
    let rows = quantise_rows(&folded, cols, &importance);
    let mut bias = bias.to_vec();
    if rules.correct_bias {
        correct_bias(&mut bias, &rows, weight, &scales, &means);
    }
    QuantProduct { rows, bias, inv_scale }
}

/// bias\[o\] −= Σ (w_q − w) · E\[x\]: what rounding the weights shifts the mean output by.
fn correct_bias(bias: &mut [f32], rows: &QuantRows, weight: &[f32], scales: &[f32], means: &[f32]) {
    let (cin, cols) = (scales.len(), weight.len() / bias.len());
    for (o, bias) in bias.iter_mut().enumerate() {
        let shift = |i: usize| {
            let rounded = f32::from(rows.weight[o * cols + i]) * rows.scale[o] / scales[i % cin];
            f64::from(rounded - weight[o * cols + i]) * f64::from(means[i % cin])
        };
        *bias -= (0..cols).map(shift).sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::rng::NoiseStream;

    fn gaussian(seed: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        NoiseStream::new(seed, 0).fill_gaussian(&mut values);
        values
    }

    fn stats(values: &[f32], channels: usize) -> BranchStats {
        let mut stats = BranchStats::new(channels);
        stats.add(values);
        stats
    }

    #[test]
    fn weights_on_the_grid_come_back_exactly() {
        let ints: Vec<i8> = (0..60).map(|i| if i % 20 == 0 { -127 } else { (i * 37 % 255 - 127) as i8 }).collect();
        let weight: Vec<f32> = ints.iter().enumerate().map(|(i, &q)| f32::from(q) * [0.5, 0.01, 3.0][i / 20]).collect();
        let rows = quantise_rows(&weight, 20, &[]);
        assert_eq!(rows.weight, ints);
        assert!(rows.scale.iter().zip([0.5, 0.01, 3.0]).all(|(s, want)| (s / want - 1.0).abs() < 1e-6));
    }

    #[test]
    fn rounding_errs_by_half_a_step_at_most_and_zero_rows_stay_zero() {
        let mut weight = gaussian(3, 200);
        weight[100..].fill(0.0);
        let rows = quantise_rows(&weight, 100, &[]);
        for (i, (&w, &q)) in weight.iter().zip(&rows.weight).enumerate() {
            assert!((w - f32::from(q) * rows.scale[i / 100]).abs() <= 0.5001 * rows.scale[i / 100]);
        }
        assert!(rows.weight[100..].iter().all(|&q| q == 0) && rows.scale[1] == 1.0);
    }

    #[test]
    fn searched_scales_are_never_worse_by_their_own_measure() {
        let (weight, importance) = (gaussian(4, 64 * 8), gaussian(5, 64).iter().map(|x| x * x).collect::<Vec<_>>());
        let error = |rows: &QuantRows| -> Vec<f64> {
            let row = |o: usize| {
                let term = |i: usize| {
                    let w = weight[o * 64 + i] - f32::from(rows.weight[o * 64 + i]) * rows.scale[o];
                    f64::from(w * w * importance[i])
                };
                (0..64).map(term).sum()
            };
            (0..8).map(row).collect()
        };
        let (plain, searched) = (quantise_rows(&weight, 64, &[]), quantise_rows(&weight, 64, &importance));
        assert!(error(&searched).iter().zip(error(&plain)).all(|(s, p)| *s <= p * 1.000_001));
    }

    #[test]
    fn one_sum_serves_two_branches_of_different_size() {
        // Branch b is a hundred times smaller than a: with one scale its 8 bits would be gone.
        let (a, b) = (gaussian(6, 4000), gaussian(7, 4000).iter().map(|x| 0.01 * x).collect::<Vec<_>>());
        let weight: Vec<f32> =
            gaussian(8, 6 * 8).iter().enumerate().map(|(i, w)| w * [1.0, 100.0][i % 8 / 4]).collect();
        let rules = Rules { correct_bias: false, ..Rules::default() };
        let product = quantise_product(&weight, &[0.0; 6], [4, 4], &[stats(&a, 4), stats(&b, 4)], 127, &rules);
        let (mut signal, mut error) = (0.0, 0.0);
        for (a, b) in a.chunks(4).zip(b.chunks(4)) {
            let x = [a, b].concat();
            let q: Vec<i32> =
                (0..8).map(|i| picodream::quant::quantise(x[i], product.inv_scale[i / 4], 127.0).into()).collect();
            for o in 0..6 {
                let want: f32 = (0..8).map(|i| weight[o * 8 + i] * x[i]).sum();
                let sum: i32 = (0..8).map(|i| i32::from(product.rows.weight[o * 8 + i]) * q[i]).sum();
                signal += want * want;
                error += (want - sum as f32 * product.rows.scale[o]).powi(2);
            }
        }
        let db = 10.0 * (signal / error).log10();
        assert!(db > 35.0, "{db}");
    }

    #[test]
    fn bias_correction_removes_the_mean_error() {
        let x: Vec<f32> = gaussian(9, 4000).iter().map(|x| x + 3.0).collect();
        let weight = gaussian(10, 5 * 4);
        let mean_error = |correct_bias| {
            let rules = Rules { correct_bias, ..Rules::default() };
            let stats = [stats(&x, 4), BranchStats::new(0)];
            let product = quantise_product(&weight, &[0.0; 5], [4, 0], &stats, 127, &rules);
            let means = stats[0].means();
            let error = |o: usize| {
                let got =
                    |i: usize| f32::from(product.rows.weight[o * 4 + i]) * product.rows.scale[o] * product.inv_scale[0];
                let shift: f32 = (0..4).map(|i| (got(i) - weight[o * 4 + i]) * means[i]).sum();
                (shift + product.bias[o]).abs()
            };
            (0..5).map(error).fold(0.0, f32::max)
        };
        assert!(mean_error(true) < 1e-5 && mean_error(false) > 1e-3, "{} {}", mean_error(true), mean_error(false));
    }

    #[test]
    fn a_dead_branch_has_a_finite_scale() {
        assert_eq!(inverse_scale(&stats(&[0.0; 8], 4), 127, true), 1.0);
        assert_eq!(inverse_scale(&stats(&[0.5, -2.0], 1), 127, false), 63.5);
    }
}
