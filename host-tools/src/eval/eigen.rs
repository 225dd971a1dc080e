//! Eigenvalues and eigenvectors of a symmetric matrix by Jacobi's cyclic rotations, in f64.

/// A·v = λ·v for every pair.
pub struct Eigen {
    /// The n eigenvalues, in no particular order.
    pub values: Vec<f64>,
    /// `[n, n]`, row-major: column k belongs to `values[k]`; orthonormal.
    pub vectors: Vec<f64>,
}

/// Sweeps until what lies off the diagonal is nothing beside what lies on it; far fewer are needed in practice.
const MAX_SWEEPS: usize = 60;

/// Decomposes `matrix` (`[n, n]`, row-major, symmetric).
#[must_use]
pub fn symmetric_eigen(matrix: &[f64], n: usize) -> Eigen {
    assert_eq!(matrix.len(), n * n, "a square matrix");
    let mut a = matrix.to_vec();
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    for _ in 0..MAX_SWEEPS {
        // Summed apart: their difference from one sum would drown in its rounding.
        let (mut on, mut off) = (0.0, 0.0);
        for (k, x) in a.iter().enumerate() {
            *(if k / n == k % n { &mut on } else { &mut off }) += x * x;
        }
        if off <= 1e-28 * on {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, n, p, q);
            }
        }
    }
    Eigen { values: (0..n).map(|i| a[i * n + i]).collect(), vectors }
}

/// One rotation that makes a[p, q] zero.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    let turn = |x: &mut f64, y: &mut f64| (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    for k in 0..n {
        let (mut x, mut y) = (a[k * n + p], a[k * n + q]);
        turn(&mut x, &mut y);
        (a[k * n + p], a[k * n + q]) = (x, y);
        let (mut x, mut y) = (vectors[k * n + p], vectors[k * n + q]);
        turn(&mut x, &mut y);
        (vectors[k * n + p], vectors[k * n + q]) = (x, y);
    }
    let (upper, lower) = a.split_at_mut(q * n);
    for (x, y) in upper[p * n..(p + 1) * n].iter_mut().zip(&mut lower[..n]) {
        turn(x, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::rng::NoiseStream;

    #[test]
    fn two_by_two_closed_form() {
        // [[2, 1], [1, 2]] has eigenvalues 1 and 3.
        let mut values = symmetric_eigen(&[2.0, 1.0, 1.0, 2.0], 2).values;
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14);
    }

    #[test]
    fn vectors_rebuild_the_matrix() {
        let n = 64;
        let mut stream = NoiseStream::new(1, 0);
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let x = f64::from(stream.next_gaussian());
                (matrix[i * n + j], matrix[j * n + i]) = (x, x);
            }
        }
        let Eigen { values, vectors } = symmetric_eigen(&matrix, n);
        for i in 0..n {
            for j in 0..n {
                let back: f64 = (0..n).map(|k| vectors[i * n + k] * values[k] * vectors[j * n + k]).sum();
                assert!((back - matrix[i * n + j]).abs() < 1e-11, "({i}, {j})");
            }
        }
    }

    #[test]
    fn the_zero_matrix_is_its_own_answer() {
        assert_eq!(symmetric_eigen(&[0.0; 9], 3).values, [0.0; 3]);
    }
}
