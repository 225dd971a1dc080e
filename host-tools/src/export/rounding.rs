//! Rounding of weight rows where each column's error is made up for by the columns still to come (GPTQ, arXiv:2210.17323).
//!
//! With C the covariance of the inputs, a rounding error e of a row costs eᵀ·C·e at the output. Inputs of neighbouring
//! pixels and channels go together, so an error here can be taken back there; at run time it costs nothing.

use super::nibbles;
use super::quantise::{QuantRows, WEIGHT_MAX};

/// Share of the mean variance that is added to every variance, so that inputs that never moved stay harmless.
const DAMPING: f64 = 0.01;

/// Row scales tried, as shares of the one that makes the largest weight the largest integer.
const SHARES: [f32; 5] = [1.0, 0.95, 0.9, 0.85, 0.8];

/// What the covariance says about rounding, for all rows of a product.
#[derive(Clone, Debug)]
pub struct Compensator {
    /// Columns in the order of rounding: largest variance first.
    order: Vec<usize>,
    /// The damped covariance in that order.
    covariance: Vec<f64>,
    /// Upper triangular U with Uᵀ·U the inverse of the damped covariance, in that order.
    factor: Vec<f64>,
}

impl Compensator {
    /// From a covariance `[cols][cols]`.
    #[must_use]
    pub fn new(covariance: &[f64], cols: usize) -> Self {
        let mean = (0..cols).map(|i| covariance[i * cols + i].max(0.0)).sum::<f64>() / cols as f64;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        let mut order: Vec<usize> = (0..cols).collect();
        order.sort_by(|&i, &j| covariance[j * cols + j].total_cmp(&covariance[i * cols + i]));
        let mut damped = Vec::with_capacity(covariance.len());
        for &i in &order {
            damped.extend(order.iter().map(|&j| covariance[i * cols + j] + if i == j { damping } else { 0.0 }));
        }
        let factor = inverse_upper(&upper_factor(&damped, cols), cols);
        Self { order, covariance: damped, factor }
    }

    /// Rounds every row to int8 with the scale that costs least.
    #[must_use]
    pub fn round_rows(&self, weight: &[f32]) -> QuantRows {
        self.round(weight, &|row, absmax, share| {
            let scale = absmax / WEIGHT_MAX * share;
            let grid = Grid { steps: vec![f64::from(scale); row.len()], low: -WEIGHT_MAX, high: WEIGHT_MAX };
            (scale, Vec::new(), grid)
        })
    }

    /// Rounds every row to 4 bits with the scale that costs least; `groups` says which columns share a multiplier.
    #[must_use]
    pub fn round_nibbles(&self, weight: &[f32], groups: &[usize]) -> QuantRows {
        let cols = self.order.len();
        let mut variance = vec![0.0; cols];
        self.order.iter().enumerate().for_each(|(j, &i)| variance[i] = self.covariance[j * cols + j]);
        self.round(weight, &|row, absmax, share| {
            let scale = absmax / (nibbles::HIGH * f32::from(nibbles::MULTIPLIER_MAX)) * share;
            let multipliers = nibbles::multipliers(row, &variance, groups, scale);
            let step = |&i: &usize| f64::from(scale) * f64::from(multipliers[groups[i]]);
            let steps = self.order.iter().map(step).collect();
            (scale, multipliers, Grid { steps, low: nibbles::LOW, high: nibbles::HIGH })
        })
    }

    /// Rounds every row on the best of some grids; `grid_of` gives scale, multipliers and grid of a row, its largest
    /// magnitude and a share of it.
    fn round(&self, weight: &[f32], grid_of: &impl Fn(&[f32], f32, f32) -> (f32, Vec<u8>, Grid)) -> QuantRows {
        let cols = self.order.len();
        let mut result = QuantRows { weight: vec![0; weight.len()], multipliers: Vec::new(), scale: Vec::new() };
        for (row, out) in weight.chunks_exact(cols).zip(result.weight.chunks_exact_mut(cols)) {
            let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            // A row of zeros has the scale 1.
            let absmax = if absmax > 0.0 { absmax } else { WEIGHT_MAX };
            let mut best: Option<(f64, Vec<f64>, f32, Vec<u8>)> = None;
            for share in SHARES {
                let (scale, multipliers, grid) = grid_of(row, absmax, share);
                let rounded = self.round_row(row, &grid);
                let cost = self.cost(row, &rounded);
                if best.as_ref().is_none_or(|best| cost < best.0) {
                    let integers = rounded.iter().map(|value| (value / f64::from(scale)).round_ties_even()).collect();
                    best = Some((cost, integers, scale, multipliers));
                }
            }
            let (_, integers, scale, multipliers) = best.unwrap_or_default();
            self.order.iter().zip(integers).for_each(|(&i, q)| out[i] = q as i8);
            result.scale.push(scale);
            result.multipliers.extend(multipliers);
        }
        result
    }

    /// Values on the grid, in the order of rounding.
    fn round_row(&self, row: &[f32], grid: &Grid) -> Vec<f64> {
        let cols = self.order.len();
        let mut left: Vec<f64> = self.order.iter().map(|&i| f64::from(row[i])).collect();
        let mut rounded = Vec::with_capacity(cols);
        for j in 0..cols {
            let value = grid.nearest(j, left[j]);
            let factor = &self.factor[j * cols..][..cols];
            let error = (left[j] - value) / factor[j];
            left[j + 1..].iter_mut().zip(&factor[j + 1..]).for_each(|(w, u)| *w -= error * u);
            rounded.push(value);
        }
        rounded
    }

    /// eᵀ·C·e.
    fn cost(&self, row: &[f32], rounded: &[f64]) -> f64 {
        let error: Vec<f64> = self.order.iter().zip(rounded).map(|(&i, &value)| f64::from(row[i]) - value).collect();
        let products = self.covariance.chunks_exact(error.len()).zip(&error);
        products.map(|(c, e)| e * c.iter().zip(&error).map(|(c, e)| c * e).sum::<f64>()).sum()
    }
}

/// What the weights of a row may become: whole multiples of a step per column, in the order of rounding.
struct Grid {
    steps: Vec<f64>,
    low: f32,
    high: f32,
}

impl Grid {
    fn nearest(&self, column: usize, x: f64) -> f64 {
        let step = self.steps[column];
        let limits = (f64::from(self.low), f64::from(self.high));
        if step > 0.0 { (x / step).round_ties_even().clamp(limits.0, limits.1) * step } else { 0.0 }
    }
}

/// R upper triangular with R·Rᵀ = `matrix` (positive definite).
fn upper_factor(matrix: &[f64], n: usize) -> Vec<f64> {
    let mut r = vec![0.0; n * n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let dot: f64 = (j + 1..n).map(|k| r[i * n + k] * r[j * n + k]).sum();
            let rest = matrix[i * n + j] - dot;
            // The damping keeps the diagonal positive but for rounding.
            r[i * n + j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / r[j * n + j] };
        }
    }
    r
}

/// The inverse of an upper triangular matrix.
fn inverse_upper(r: &[f64], n: usize) -> Vec<f64> {
    let mut u = vec![0.0; n * n];
    for i in (0..n).rev() {
        // Row i of the inverse from the rows below: U_i = (e_i − Σ_{k>i} r_ik · U_k) / r_ii.
        let (upper, lower) = u.split_at_mut((i + 1) * n);
        let row = &mut upper[i * n..];
        for k in i + 1..n {
            let factor = r[i * n + k];
            row[k..].iter_mut().zip(&lower[(k - i - 1) * n + k..][..n - k]).for_each(|(x, y)| *x -= factor * y);
        }
        row[i] = 1.0;
        row.iter_mut().for_each(|x| *x /= r[i * n + i]);
    }
    u
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::quantise::quantise_rows;
    use picodream::rng::NoiseStream;

    fn gaussian(seed: u64, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        NoiseStream::new(seed, 0).fill_gaussian(&mut values);
        values
    }

    /// A covariance A·Aᵀ/n with strong correlations: n rows share few directions.
    fn correlated(n: usize) -> Vec<f64> {
        let a = gaussian(1, n * 4);
        let noise = |i: usize, j: usize| if i == j { 0.05 } else { 0.0 };
        let entry =
            |i: usize, j: usize| (0..4).map(|k| f64::from(a[i * 4 + k] * a[j * 4 + k])).sum::<f64>() + noise(i, j);
        (0..n * n).map(|p| entry(p / n, p % n)).collect()
    }

    #[test]
    fn factor_of_the_inverse() {
        let n = 7;
        let c = correlated(n);
        let u = inverse_upper(&upper_factor(&c, n), n);
        // C · Uᵀ·U = 1.
        for i in 0..n {
            for j in 0..n {
                let inverse = |k: usize| (0..n).map(|l| u[l * n + k] * u[l * n + j]).sum::<f64>();
                let got: f64 = (0..n).map(|k| c[i * n + k] * inverse(k)).sum();
                assert!((got - f64::from(u8::from(i == j))).abs() < 1e-8, "({i}, {j}): {got}");
            }
        }
        assert!((0..n).all(|i| (0..i).all(|j| u[i * n + j] == 0.0)));
    }

    #[test]
    fn correlated_inputs_are_rounded_with_a_fraction_of_the_error() {
        let n = 32;
        let compensator = Compensator::new(&correlated(n), n);
        let weight = gaussian(2, n * 6);
        let cost = |rows: &QuantRows| -> f64 {
            let row = |o: usize| {
                let value = |&i: &usize| f64::from(rows.weight[o * n + i]) * f64::from(rows.scale[o]);
                let ordered: Vec<f64> = compensator.order.iter().map(value).collect();
                compensator.cost(&weight[o * n..][..n], &ordered)
            };
            (0..6).map(row).sum()
        };
        let (plain, better) = (cost(&quantise_rows(&weight, n)), cost(&compensator.round_rows(&weight)));
        assert!(better < 0.25 * plain, "{better} {plain}");
        // The same with 4 bits, two groups of columns, held to inputs that know nothing of each other.
        let groups: Vec<usize> = (0..n).map(|i| i / 16).collect();
        let apart: Vec<f64> = (0..n * n).map(|p| f64::from(u8::from(p / n == p % n))).collect();
        let plain = cost(&Compensator::new(&apart, n).round_nibbles(&weight, &groups));
        let rows = compensator.round_nibbles(&weight, &groups);
        assert!(cost(&rows) < 0.25 * plain, "{} {plain}", cost(&rows));
        for (i, &w) in rows.weight.iter().enumerate() {
            let m = rows.multipliers[i / n * 2 + groups[i % n]];
            assert!(w % m as i8 == 0 && (-8..=7).contains(&(w / m as i8)), "{w} {m}");
        }
    }

    #[test]
    fn independent_inputs_are_rounded_to_the_nearest() {
        let n = 16;
        let identity: Vec<f64> = (0..n * n).map(|p| f64::from(u8::from(p / n == p % n))).collect();
        let weight = gaussian(3, n * 3);
        let rows = Compensator::new(&identity, n).round_rows(&weight);
        for (i, (&w, &q)) in weight.iter().zip(&rows.weight).enumerate() {
            let nearest = (w / rows.scale[i / n]).round_ties_even().clamp(-127.0, 127.0);
            assert!((nearest - f32::from(q)).abs() < 1e-6);
        }
    }

    #[test]
    fn inputs_that_never_move_and_zero_rows_are_harmless() {
        let rows = Compensator::new(&[0.0; 16], 4).round_rows(&[0.0, 0.0, 0.0, 0.0, 1.0, -0.5, 0.25, 0.0]);
        assert!(rows.weight[..4].iter().all(|&q| q == 0) && rows.scale[0] == 1.0);
        assert_eq!(rows.weight[4], 127);
    }
}
