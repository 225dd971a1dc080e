//! Second moments of what a matrix product reads: the measure by which its weights are rounded.

use crate::float::gemm::{MatRef, gemm};

/// Sums over the rows that entered a product, one row per output pixel: \[kernel\]\[kernel\]\[cin\] inputs.
#[derive(Clone, Debug)]
pub struct InputMoments {
    cols: usize,
    rows: usize,
    sums: Vec<f64>,
    products: Vec<f32>,
}

impl InputMoments {
    /// Nothing seen yet, of rows of `cols` inputs.
    #[must_use]
    pub fn new(cols: usize) -> Self {
        Self { cols, rows: 0, sums: vec![0.0; cols], products: vec![0.0; cols * cols] }
    }

    /// Adds rows.
    pub fn add(&mut self, columns: &[f32]) {
        let rows = columns.len() / self.cols.max(1);
        if rows == 0 {
            return;
        }
        let matrix = MatRef::new(columns, rows, self.cols, self.cols);
        gemm(1.0, matrix.t(), matrix, 1.0, &mut self.products, self.cols);
        for row in columns.chunks_exact(self.cols) {
            self.sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        self.rows += rows;
    }

    /// Mean of each input.
    #[must_use]
    pub fn means(&self) -> Vec<f64> {
        let rows = self.rows.max(1) as f64;
        self.sums.iter().map(|sum| sum / rows).collect()
    }

    /// Covariance of the inputs, each divided by its `scales` (cycling), `[cols][cols]`. A constant error is left out: the
    /// bias makes up for it.
    #[must_use]
    pub fn covariance(&self, scales: &[f32]) -> Vec<f64> {
        let (means, rows) = (self.means(), self.rows.max(1) as f64);
        let scale = |i: usize| f64::from(scales[i % scales.len()]);
        let mut result = Vec::with_capacity(self.products.len());
        for i in 0..self.cols {
            let row = &self.products[i * self.cols..][..self.cols];
            let entry = |(j, &p): (usize, &f32)| (f64::from(p) / rows - means[i] * means[j]) / (scale(i) * scale(j));
            result.extend(row.iter().enumerate().map(entry));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_rows() {
        let mut moments = InputMoments::new(2);
        moments.add(&[1.0, 10.0, 3.0, 10.0]);
        moments.add(&[5.0, 40.0]);
        assert_eq!(moments.means(), [3.0, 20.0]);
        // Variances 8/3 and 200, covariance 20; the second input divided by 10.
        let want = [8.0 / 3.0, 2.0, 2.0, 2.0];
        assert!(moments.covariance(&[1.0, 10.0]).iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-5));
    }
}
