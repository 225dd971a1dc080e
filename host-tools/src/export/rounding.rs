//! Rounding of weight rows where each column's error is made up for by the columns still to come (GPTQ, arXiv:2210.17323).
//!
//! With C the covariance of the inputs, a rounding error e of a row costs eᵀ·C·e at the output. Inputs of neighbouring
//! pixels and channels go together, so an error here can be taken back there; at run time it costs nothing.

use super::quantise::{QuantRows, WEIGHT_MAX};

/// Share of the mean variance that is added to every variance, so that inputs that never moved stay harmless.
const DAMPING: f64 = 0.01;

/// Row scales tried, as shares of the one that makes the largest weight ±127.
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

    /// Rounds every row with the scale that costs least.
    #[must_use]
    pub fn round_rows(&self, weight: &[f32]) -> QuantRows {
        let cols = self.order.len();
        let mut result = QuantRows { weight: vec![0; weight.len()], scale: Vec::new() };
        for (row, out) in weight.chunks_exact(cols).zip(result.weight.chunks_exact_mut(cols)) {
            let absmax = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let full = if absmax > 0.0 { absmax / WEIGHT_MAX } else { 1.0 };
            let mut best = (f64::INFINITY, Vec::new(), full);
            for share in SHARES {
                let rounded = self.round_row(row, full * share);
                let cost = self.cost(row, &rounded, full * share);
                if cost < best.0 {
                    best = (cost, rounded, full * share);
                }
            }
            for (&i, q) in self.order.iter().zip(best.1) {
                out[i] = q;
            }
            result.scale.push(best.2);
        }
        result
    }

    /// Integers in the order of rounding.
    fn round_row(&self, row: &[f32], scale: f32) -> Vec<i8> {
        let cols = self.order.len();
        let mut left: Vec<f64> = self.order.iter().map(|&i| f64::from(row[i])).collect();
        let limit = f64::from(WEIGHT_MAX);
        let mut rounded = Vec::with_capacity(cols);
        for j in 0..cols {
            let q = (left[j] / f64::from(scale)).round_ties_even().clamp(-limit, limit);
            let factor = &self.factor[j * cols..][..cols];
            let error = (left[j] - q * f64::from(scale)) / factor[j];
            left[j + 1..].iter_mut().zip(&factor[j + 1..]).for_each(|(w, u)| *w -= error * u);
            rounded.push(q as i8);
        }
        rounded
    }

    /// eᵀ·C·e.
    fn cost(&self, row: &[f32], rounded: &[i8], scale: f32) -> f64 {
        let error: Vec<f64> = self
            .order
            .iter()
            .zip(rounded)
            .map(|(&i, &q)| f64::from(row[i]) - f64::from(q) * f64::from(scale))
            .collect();
        let products = self.covariance.chunks_exact(error.len()).zip(&error);
        products.map(|(c, e)| e * c.iter().zip(&error).map(|(c, e)| c * e).sum::<f64>()).sum()
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
        let (plain, better) = (quantise_rows(&weight, n), compensator.round_rows(&weight));
        let cost = |rows: &QuantRows| -> f64 {
            let row = |o: usize| {
                let ordered: Vec<i8> = compensator.order.iter().map(|&i| rows.weight[o * n + i]).collect();
                compensator.cost(&weight[o * n..][..n], &ordered, rows.scale[o])
            };
            (0..6).map(row).sum()
        };
        assert!(cost(&better) < 0.25 * cost(&plain), "{} {}", cost(&better), cost(&plain));
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
