//! Real weights and inputs to small integers: int8 weights per output row, static symmetric input scales per branch.
//!
//! A convolution's sum is Σ w·x over both branches. With x ≈ q_x · s_branch the scales go into the weights first,
//! w' = w · s_branch, and then w' ≈ q_w · scale\[o\] per output row: one i32 sum serves both branches.

use std::collections::BTreeMap;

use picodream::blob::{WeightFormat, group_of};

use crate::float::{Linear, Skips};

use super::calibrate::BranchStats;
use super::grid::RowGrid;
use super::moments::InputMoments;
use super::rounding::Compensator;

/// Largest |weight|.
pub const WEIGHT_MAX: f32 = 127.0;

/// How clips and weights are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Clip inputs where the mean square error is least, instead of at the largest value seen.
    pub clip_by_error: bool,
    /// Round weights by what their errors cost at the output and correct the bias, instead of each to the nearest.
    pub compensate: bool,
    /// `qmax` of `conv_in`, whose input is the sample itself.
    pub qmax_sample: u16,
    /// `qmax` of convolutions that read the residual stream raw: shortcuts, downsampling, upsampling.
    pub qmax_raw: u16,
    /// `qmax` of convolutions behind a SiLU, whose output never goes below −0.28.
    pub qmax_silu: u16,
    /// `qmax` of `conv_out` where weights stand on a grid ([`Rules::on_grid`]): its rounding is the image's own, and nothing
    /// that follows can take it up.
    pub qmax_last: u16,
    /// `qmax` of everything else: keys and values, queries, attention outputs.
    pub qmax: u16,
    /// How skips wait to be read again.
    pub skips: Skips,
    /// How weights of convolutions are kept, but for the first and the last, which see the image itself and are small.
    pub weights: WeightFormat,
    /// Whether the weights stand on the grid of `weights` already ([`crate::grid`]; [`super::export`] takes it from the
    /// checkpoint). They are then taken as they are, which ties the scales of both branches to each other.
    pub on_grid: bool,
    /// Of such weights, [`crate::grid::GridRecipe::finer`].
    pub finer: BTreeMap<String, f32>,
}

impl Default for Rules {
    /// Rows are int16 in every kernel, so 10 bits cost what 8 do; the M4's feed loops know no more. Measured on faces-16
    /// (smallest SQNR of x̂0 over DDIM-20): 255 behind SiLU 33.5 dB, 511 36.2 dB, 1023 37.8 dB; [`SUM_LIMIT`] rules out more.
    fn default() -> Self {
        Self {
            clip_by_error: true,
            compensate: true,
            qmax_sample: 2047,
            qmax_raw: 511,
            qmax_silu: 511,
            qmax_last: 2047,
            qmax: 511,
            skips: Skips::Narrowed,
            weights: WeightFormat::Int8,
            on_grid: false,
            finer: BTreeMap::new(),
        }
    }
}

impl Rules {
    /// With inputs of so many bits, 8 to 12, for every matrix product but those that keep 12: `conv_in`'s, and on a grid
    /// `conv_out`'s.
    #[must_use]
    pub fn with_input_bits(self, bits: u8) -> Self {
        let qmax = (1 << (bits.clamp(8, 12) - 1)) - 1;
        Self { qmax_raw: qmax, qmax_silu: qmax, qmax, ..self }
    }
}

/// Integer sums of convolutions stay below this (`qmax` is halved until they do), so that kernels may keep two weights in
/// one halfword and take both sums from one register.
pub const SUM_LIMIT: i64 = 1 << 23;

/// int8 rows with one scale each: w ≈ q · scale\[row\].
#[derive(Clone, Debug, PartialEq)]
pub struct QuantRows {
    /// `[rows][cols]`, ±127; of 4-bit weights the products with their multipliers.
    pub weight: Vec<i8>,
    /// `[rows][groups]` of 4-bit weights; empty for 8 bits.
    pub multipliers: Vec<u8>,
    /// `[rows]`.
    pub scale: Vec<f32>,
}

impl QuantRows {
    /// The largest |sum| that inputs in −(`qmax` + 1)..=`qmax` can reach.
    #[must_use]
    pub fn largest_sum(&self, qmax: u16) -> i64 {
        let cols = self.weight.len() / self.scale.len().max(1);
        let row = |row: &[i8]| row.iter().map(|&w| i64::from(w).abs()).sum::<i64>();
        self.weight.chunks_exact(cols.max(1)).map(row).max().unwrap_or(0) * (i64::from(qmax) + 1)
    }
}

/// inv_scale with q = round(x · inv_scale) for one branch; 1 for a branch that is always zero. Behind a SiLU it is a multiple
/// of 1/16 below 512, as the runtime's integer rule wants.
#[must_use]
pub fn inverse_scale(stats: &BranchStats, inputs: Precision, by_error: bool) -> f32 {
    let clip = if by_error { stats.clip_by_error(inputs.qmax) } else { stats.absmax };
    let exact = if clip > 0.0 { f32::from(inputs.qmax) / clip } else { 1.0 };
    on_silu_grid(exact, inputs.silu)
}

fn on_silu_grid(inverse: f32, silu: bool) -> f32 {
    if silu { (inverse * 16.0).floor().clamp(1.0, 8191.0) / 16.0 } else { inverse }
}

/// How a product is quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Precision {
    /// Largest integer of the inputs.
    pub qmax: u16,
    /// Whether they come out of a SiLU.
    pub silu: bool,
    /// How the weights are kept.
    pub weights: WeightFormat,
    /// How many times finer than those of the first branch the inputs of the second must be kept, for weights that stand on a
    /// grid ([`crate::grid::GridRecipe::finer`]); for others it follows from the inputs.
    pub finer: f32,
}

impl Default for Precision {
    fn default() -> Self {
        Self { qmax: WEIGHT_MAX as u16, silu: false, weights: WeightFormat::Int8, finer: 1.0 }
    }
}

/// Rounds rows of `cols` weights to the nearest; the largest of a row becomes ±[`WEIGHT_MAX`].
#[must_use]
pub fn quantise_rows(weight: &[f32], cols: usize) -> QuantRows {
    let mut result = QuantRows { weight: Vec::with_capacity(weight.len()), multipliers: Vec::new(), scale: Vec::new() };
    for row in weight.chunks_exact(cols) {
        let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let scale = if absmax > 0.0 { absmax / WEIGHT_MAX } else { 1.0 };
        let round = |&w: &f32| (w / scale).round_ties_even().clamp(-WEIGHT_MAX, WEIGHT_MAX) as i8;
        result.weight.extend(row.iter().map(round));
        result.scale.push(scale);
    }
    result
}

/// A linear layer with f32 inputs: int8 rows as they stand if they are on a grid, else rounded; bias unchanged.
#[must_use]
pub fn quantise_linear(layer: &Linear) -> QuantRows {
    let cols = layer.inputs();
    rows_on_grid(&layer.weight, cols, WeightFormat::Int8, &vec![0; cols])
        .unwrap_or_else(|| quantise_rows(&layer.weight, cols))
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

/// Quantises `weight` (`[cout][taps][channels of a, channels of b]`) for inputs with these statistics, one
/// [`BranchStats`] for each branch with channels, and these moments.
#[must_use]
pub fn quantise_product(
    (weight, bias): (&[f32], &[f32]),
    channels: [usize; 2],
    stats: [&BranchStats; 2],
    moments: &InputMoments,
    inputs: Precision,
    rules: &Rules,
) -> QuantProduct {
    let present = || (0..2).filter(|&branch| channels[branch] > 0);
    let mut inv_scale = [0.0; 2];
    present().for_each(|branch| inv_scale[branch] = inverse_scale(stats[branch], inputs, rules.clip_by_error));
    let mut exact = inv_scale;
    if rules.on_grid && channels[1] > 0 {
        exact[0] = on_silu_grid(inv_scale[0].min(inv_scale[1] / inputs.finer), inputs.silu);
        exact[1] = exact[0] * inputs.finer;
        // To the runtime's 1/16 where it must be: some 10⁻⁴ of a weight.
        inv_scale = [exact[0], on_silu_grid(exact[1], inputs.silu)];
    }
    let scales: Vec<f32> =
        present().flat_map(|branch| std::iter::repeat_n(1.0 / exact[branch], channels[branch])).collect();
    let cols = weight.len() / bias.len();
    let folded: Vec<f32> = weight.iter().enumerate().map(|(i, w)| w * scales[i % scales.len()]).collect();
    let groups = nibble_groups(cols, scales.len());
    let plainly = match inputs.weights {
        weights if rules.on_grid => rows_on_grid(&folded, cols, weights, &groups),
        WeightFormat::Int8 if !rules.compensate => Some(quantise_rows(&folded, cols)),
        _ => None,
    };
    if let Some(rows) = plainly {
        return QuantProduct { rows, bias: bias.to_vec(), inv_scale };
    }
    let covariance = if rules.compensate { moments.covariance(&scales) } else { identity(cols) };
    let compensator = Compensator::new(&covariance, cols);
    let rows = match inputs.weights {
        WeightFormat::Int8 => compensator.round_rows(&folded),
        WeightFormat::Int4 => compensator.round_nibbles(&folded, &groups),
    };
    if !rules.compensate {
        return QuantProduct { rows, bias: bias.to_vec(), inv_scale };
    }
    let mut bias = bias.to_vec();
    correct_bias(&mut bias, &rows, &folded, &scales, &moments.means());
    QuantProduct { rows, bias, inv_scale }
}

/// Rows as they stand; `None` if one stands on no grid.
fn rows_on_grid(weight: &[f32], cols: usize, format: WeightFormat, groups: &[usize]) -> Option<QuantRows> {
    let mut rows = QuantRows { weight: Vec::with_capacity(weight.len()), multipliers: Vec::new(), scale: Vec::new() };
    for row in weight.chunks_exact(cols) {
        let (grid, row) = RowGrid::of(row, format, groups)?;
        rows.weight.extend(row);
        rows.multipliers.extend(grid.multipliers);
        rows.scale.push(grid.scale);
    }
    Some(rows)
}

/// The covariance of inputs that know nothing of each other.
fn identity(cols: usize) -> Vec<f64> {
    (0..cols * cols).map(|i| f64::from(u8::from(i / cols == i % cols))).collect()
}

/// The group of each of the `[taps][cin]` columns that share a multiplier in the blob.
fn nibble_groups(cols: usize, cin: usize) -> Vec<usize> {
    let kernel = if cols == cin { 1 } else { 3 };
    (0..cols).map(|i| group_of(kernel, cin, (i / cin / kernel, i / cin % kernel, i % cin))).collect()
}

/// bias\[o\] −= Σ (w_q − w) · E\[x\]: what rounding the (folded) weights shifts the mean output by.
fn correct_bias(bias: &mut [f32], rows: &QuantRows, folded: &[f32], scales: &[f32], means: &[f64]) {
    for (o, bias) in bias.iter_mut().enumerate() {
        let shift = |i: usize| {
            let at = o * means.len() + i;
            let error = f64::from(rows.weight[at]) * f64::from(rows.scale[o]) - f64::from(folded[at]);
            error * means[i] / f64::from(scales[i % scales.len()])
        };
        *bias -= (0..means.len()).map(shift).sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::quant::Quantiser;
    use picodream::rng::NoiseStream;

    const PLAIN: Precision = Precision { qmax: 127, silu: false, weights: WeightFormat::Int8, finer: 1.0 };

    fn gaussian(seed: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        NoiseStream::new(seed, 0).fill_gaussian(&mut values);
        values
    }

    fn stats(values: &[f32]) -> BranchStats {
        let mut stats = BranchStats::default();
        stats.add(values);
        stats
    }

    #[test]
    fn weights_on_the_grid_come_back_exactly() {
        let ints: Vec<i8> = (0..60).map(|i| if i % 20 == 0 { -127 } else { (i * 37 % 255 - 127) as i8 }).collect();
        let weight: Vec<f32> = ints.iter().enumerate().map(|(i, &q)| f32::from(q) * [0.5, 0.01, 3.0][i / 20]).collect();
        let rows = quantise_rows(&weight, 20);
        assert_eq!(rows.weight, ints);
        assert!(rows.scale.iter().zip([0.5, 0.01, 3.0]).all(|(s, want)| (s / want - 1.0).abs() < 1e-6));
    }

    #[test]
    fn rounding_errs_by_half_a_step_at_most_and_zero_rows_stay_zero() {
        let mut weight = gaussian(3, 200);
        weight[100..].fill(0.0);
        let rows = quantise_rows(&weight, 100);
        for (i, (&w, &q)) in weight.iter().zip(&rows.weight).enumerate() {
            assert!((w - f32::from(q) * rows.scale[i / 100]).abs() <= 0.5001 * rows.scale[i / 100]);
        }
        assert!(rows.weight[100..].iter().all(|&q| q == 0) && rows.scale[1] == 1.0);
    }

    #[test]
    fn one_sum_serves_two_branches_of_different_size() {
        // Branch b is a hundred times smaller than a: with one scale its 8 bits would be gone.
        let (a, b) = (gaussian(6, 4000), gaussian(7, 4000).iter().map(|x| 0.01 * x).collect::<Vec<_>>());
        let weight: Vec<f32> =
            gaussian(8, 6 * 8).iter().enumerate().map(|(i, w)| w * [1.0, 100.0][i % 8 / 4]).collect();
        let mut moments = InputMoments::new(8);
        a.chunks(4).zip(b.chunks(4)).for_each(|(a, b)| moments.add(&[a, b].concat()));
        let (of_a, of_b) = (stats(&a), stats(&b));
        let product =
            quantise_product((&weight, &[0.0; 6]), [4, 4], [&of_a, &of_b], &moments, PLAIN, &Rules::default());
        let (mut signal, mut error) = (0.0, 0.0);
        for (a, b) in a.chunks(4).zip(b.chunks(4)) {
            let x = [a, b].concat();
            let q: Vec<i32> =
                (0..8).map(|i| Quantiser::new(false, product.inv_scale[i / 4], 127).quantise(x[i]).into()).collect();
            for o in 0..6 {
                let want: f32 = (0..8).map(|i| weight[o * 8 + i] * x[i]).sum();
                let sum: i32 = (0..8).map(|i| i32::from(product.rows.weight[o * 8 + i]) * q[i]).sum();
                signal += want * want;
                error += (want - sum as f32 * product.rows.scale[o] - product.bias[o]).powi(2);
            }
        }
        let db = 10.0 * (signal / error).log10();
        assert!(db > 35.0, "{db}");
    }

    #[test]
    fn weights_trained_on_a_grid_are_taken_as_they_are() {
        // Branch b is eight times smaller than a: by scales of their own the row of both would be on no grid.
        let (of_a, of_b) = (stats(&[8.0, -8.0]), stats(&[1.0, -1.0]));
        let ints: Vec<i8> = (0..24).map(|i| if i % 8 == 3 { 127 } else { (i * 37 % 255 - 127) as i8 }).collect();
        let steps = [0.5f32, 0.01, 3.0];
        let weight: Vec<f32> = ints.iter().enumerate().map(|(i, &q)| f32::from(q) * steps[i / 8]).collect();
        let rules = Rules { on_grid: true, ..Rules::default() };
        let bias = [1.0, 2.0, 3.0];
        let moments = InputMoments::new(8);
        let product = quantise_product((&weight, &bias), [4, 4], [&of_a, &of_b], &moments, PLAIN, &rules);
        assert_eq!((&product.rows.weight, &product.bias[..]), (&ints, &bias[..]));
        assert_eq!(product.inv_scale[0], product.inv_scale[1]);
        for (scale, step) in product.rows.scale.iter().zip(steps) {
            assert!((scale * product.inv_scale[0] / step - 1.0).abs() < 1e-6);
        }
        // On the grid of 4-bit weights: one group of 8 columns with the multiplier 5.
        let nibbles = Precision { weights: WeightFormat::Int4, ..PLAIN };
        let ints: Vec<i8> = (0..24).map(|i| if i % 8 == 3 { -40 } else { (i * 37 % 15 - 7) as i8 * 5 }).collect();
        let weight: Vec<f32> = ints.iter().enumerate().map(|(i, &q)| f32::from(q) * steps[i / 8]).collect();
        let product = quantise_product((&weight, &bias), [4, 4], [&of_a, &of_b], &moments, nibbles, &rules);
        let value = |i: usize| f32::from(product.rows.weight[i]) * product.rows.scale[i / 8] * product.inv_scale[0];
        assert!((0..24).all(|i| (value(i) - weight[i]).abs() <= 1e-6 * weight[i].abs()));
        assert_eq!((product.inv_scale[0], &product.bias[..]), (product.inv_scale[1], &bias[..]));
        // The second half of each row on a grid 2.5 times coarser.
        let coarse: Vec<f32> = weight.iter().enumerate().map(|(i, w)| w * if i % 8 < 4 { 1.0 } else { 2.5 }).collect();
        let finer = Precision { finer: 2.5, ..PLAIN };
        let product = quantise_product((&coarse, &bias), [4, 4], [&of_a, &of_b], &moments, finer, &rules);
        assert_eq!(product.inv_scale[1], 2.5 * product.inv_scale[0]);
        let value =
            |i: usize| f32::from(product.rows.weight[i]) * product.rows.scale[i / 8] * product.inv_scale[i % 8 / 4];
        assert!((0..24).all(|i| (value(i) - coarse[i]).abs() <= 1e-6 * coarse[i].abs()));
    }

    #[test]
    fn linear_rows_on_a_grid_are_taken_as_they_are_even_when_their_largest_weight_is_not_127() {
        let ints: Vec<i8> = (0..32).map(|i| if i % 16 == 5 { 119 } else { (i * 37 % 239 - 119) as i8 }).collect();
        let on_grid: Vec<f32> = ints.iter().enumerate().map(|(i, &q)| f32::from(q) * [0.5, 0.01][i / 16]).collect();
        let rows = |weight: &[f32]| quantise_linear(&Linear { weight: weight.to_vec(), bias: vec![0.0; 2] });
        assert_eq!(rows(&on_grid).weight, ints);
        // Real ones are rounded, the largest to 127.
        let real = gaussian(12, 32);
        assert_eq!(rows(&real), quantise_rows(&real, 16));
    }

    #[test]
    fn bias_correction_removes_the_mean_error() {
        let x: Vec<f32> = gaussian(9, 4000).iter().map(|x| x + 3.0).collect();
        let weight = gaussian(10, 5 * 4);
        let mut moments = InputMoments::new(4);
        moments.add(&x);
        let mean_error = |compensate| {
            let rules = Rules { compensate, ..Rules::default() };
            let stats = stats(&x);
            let product = quantise_product((&weight, &[0.0; 5]), [4, 0], [&stats; 2], &moments, PLAIN, &rules);
            let means = moments.means();
            let error = |o: usize| {
                let got =
                    |i: usize| f32::from(product.rows.weight[o * 4 + i]) * product.rows.scale[o] * product.inv_scale[0];
                let shift: f32 = (0..4).map(|i| (got(i) - weight[o * 4 + i]) * means[i] as f32).sum();
                (shift + product.bias[o]).abs()
            };
            (0..5).map(error).fold(0.0, f32::max)
        };
        assert!(mean_error(true) < 1e-5 && mean_error(false) > 1e-3, "{} {}", mean_error(true), mean_error(false));
    }

    #[test]
    fn a_dead_branch_has_a_finite_scale() {
        assert_eq!(inverse_scale(&stats(&[0.0; 8]), PLAIN, true), 1.0);
        assert_eq!(inverse_scale(&stats(&[0.5, -2.0]), PLAIN, false), 63.5);
        assert_eq!(inverse_scale(&stats(&[0.5, -2.0]), Precision { silu: true, qmax: 255, ..PLAIN }, false), 127.5);
        assert_eq!(inverse_scale(&stats(&[0.0, 3.0]), Precision { silu: true, qmax: 511, ..PLAIN }, false), 170.3125);
        assert_eq!(inverse_scale(&stats(&[0.001]), Precision { silu: true, qmax: 511, ..PLAIN }, false), 511.9375);
    }
}
