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
    /// `qmax` of everything else.
    pub qmax: u16,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clip_by_error: true,
            search_weights: true,
            correct_bias: true,
            qmax_sample: 2047,
            qmax_raw: 127,
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
