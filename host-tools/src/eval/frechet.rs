//! Fréchet distance between two Gaussians: |μ₁ − μ₂|² + tr(C₁ + C₂ − 2·(C₁^½·C₂·C₁^½)^½), in f64.
//!
//! (Dowson and Landau 1982.) The features are those of a small network of this project, so the figure compares only with
//! figures of the same network.

use anyhow::{Result, ensure};

use super::eigen::{Eigen, symmetric_eigen};

/// Mean and covariance of a set of feature vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    /// `[n]`.
    pub mean: Vec<f64>,
    /// `[n, n]`, row-major, divided by (number of vectors − 1).
    pub covariance: Vec<f64>,
}

impl Gaussian {
    /// Fits `features` (`[N, n]`, row-major); needs two vectors.
    pub fn fit(features: &[f32], n: usize) -> Result<Self> {
        let count = features.len() / n;
        ensure!(count >= 2, "a Fréchet distance needs at least 2 images, but there are {count}");
        let mut mean = vec![0.0; n];
        for row in features.chunks_exact(n) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
        }
        mean.iter_mut().for_each(|m| *m /= count as f64);
        let mut covariance = vec![0.0; n * n];
        let mut centred = vec![0.0; n];
        for row in features.chunks_exact(n) {
            centred.iter_mut().zip(row.iter().zip(&mean)).for_each(|(c, (&x, m))| *c = f64::from(x) - m);
            for (sums, &c) in covariance.chunks_exact_mut(n).zip(&centred) {
                sums.iter_mut().zip(&centred).for_each(|(s, d)| *s += c * d);
            }
        }
        covariance.iter_mut().for_each(|s| *s /= (count - 1) as f64);
        Ok(Self { mean, covariance })
    }

    /// Number of features.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mean.len()
    }

    /// True without a single feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mean.is_empty()
    }
}

/// The distance; 0 for equal Gaussians. Both must have the same number of features.
#[must_use]
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> f64 {
    let n = a.len();
    assert_eq!(n, b.len(), "the same features");
    let shift: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    let root = square_root(&a.covariance, n);
    let inner = product(&product(&root, &b.covariance, n), &root, n);
    let cross: f64 = symmetric_eigen(&symmetrised(&inner, n), n).values.iter().map(|v| v.max(0.0).sqrt()).sum();
    (shift + trace(&a.covariance, n) + trace(&b.covariance, n) - 2.0 * cross).max(0.0)
}

/// The symmetric root of a covariance; eigenvalues that rounding made negative count as zero.
fn square_root(matrix: &[f64], n: usize) -> Vec<f64> {
    let Eigen { values, vectors } = symmetric_eigen(matrix, n);
    let roots: Vec<f64> = values.iter().map(|v| v.max(0.0).sqrt()).collect();
    let mut out = vec![0.0; n * n];
    for (row, vi) in out.chunks_exact_mut(n).zip(vectors.chunks_exact(n)) {
        for (x, vj) in row.iter_mut().zip(vectors.chunks_exact(n)) {
            *x = (0..n).map(|k| vi[k] * roots[k] * vj[k]).sum();
        }
    }
    out
}

fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let mut out = vec![0.0; n * n];
    for (row, factors) in out.chunks_exact_mut(n).zip(a.chunks_exact(n)) {
        for (factor, line) in factors.iter().zip(b.chunks_exact(n)) {
            row.iter_mut().zip(line).for_each(|(x, y)| *x += factor * y);
        }
    }
    out
}

fn symmetrised(a: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|k| 0.5 * (a[k] + a[k % n * n + k / n])).collect()
}

fn trace(a: &[f64], n: usize) -> f64 {
    (0..n).map(|i| a[i * n + i]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::rng::NoiseStream;

    fn diagonal(mean: &[f64], variances: &[f64]) -> Gaussian {
        let n = mean.len();
        let covariance = (0..n * n).map(|k| if k / n == k % n { variances[k / n] } else { 0.0 }).collect();
        Gaussian { mean: mean.to_vec(), covariance }
    }

    #[test]
    fn diagonal_gaussians_have_a_closed_form() {
        let a = diagonal(&[1.0, 2.0, 3.0], &[4.0, 9.0, 0.0]);
        let b = diagonal(&[0.0, 2.0, 5.0], &[1.0, 16.0, 0.25]);
        // Σ (Δμ² + (σ₁ − σ₂)²) = 1 + 1, 0 + 1, 4 + 0.25.
        assert!((frechet_distance(&a, &b) - 7.25).abs() < 1e-12);
        assert!((frechet_distance(&b, &a) - 7.25).abs() < 1e-12);
    }

    #[test]
    fn a_rotation_changes_nothing() {
        // C = R·diag(4, 1)·Rᵀ by 30° against the same turned the other way: tr of the mixed root from 2×2 algebra,
        // tr((C₁^½ C₂ C₁^½)^½) = √(tr(C₁C₂) + 2·√(det C₁·det C₂)).
        let turned = |angle: f64| {
            let (s, c) = angle.sin_cos();
            let covariance = vec![4.0 * c * c + s * s, 3.0 * c * s, 3.0 * c * s, 4.0 * s * s + c * c];
            Gaussian { mean: vec![0.0; 2], covariance }
        };
        let (a, b) = (turned(0.5), turned(-0.5));
        let tr: f64 = trace(&product(&a.covariance, &b.covariance, 2), 2);
        let want = 10.0 - 2.0 * (tr + 2.0 * 4.0).sqrt();
        assert!((frechet_distance(&a, &b) - want).abs() < 1e-12);
        assert!(frechet_distance(&a, &turned(0.5)) < 1e-12);
    }

    #[test]
    fn a_set_is_at_distance_zero_from_itself_and_near_its_law() {
        let n = 8;
        let mut features = vec![0.0; 4000 * n];
        NoiseStream::new(3, 0).fill_gaussian(&mut features);
        let fitted = Gaussian::fit(&features, n).unwrap();
        assert!(frechet_distance(&fitted, &fitted) < 1e-12);
        // Against N(0, 1): about n/N for the mean and n·(n + 1)/8N·2 for the covariance, well below 0.02.
        assert!(frechet_distance(&fitted, &diagonal(&[0.0; 8], &[1.0; 8])) < 0.02);
    }

    #[test]
    fn one_image_is_too_few() {
        let error = Gaussian::fit(&[1.0, 2.0], 2).unwrap_err().to_string();
        assert_eq!(error, "a Fréchet distance needs at least 2 images, but there are 1");
    }
}
