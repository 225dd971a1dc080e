//! A checked wrapper around `matrixmultiply::sgemm`: the only `unsafe` of the float engine.

/// A matrix inside a slice: element (i, j) lies at `i·row_stride + j·col_stride`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// `rows × cols`, consecutive rows `row_stride` apart. Panics when `data` is too short.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && cols > 0, "a matrix has at least one row and one column");
        let last = (rows - 1) * row_stride + cols - 1;
        assert!(last < data.len(), "matrix of {rows} × {cols} does not fit {} elements", data.len());
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// c = alpha·a·b + beta·c, c with `a.rows` rows of `b.cols`, `c_stride` apart. Panics when shapes or lengths disagree.
#[allow(unsafe_code, reason = "matrixmultiply takes pointers; everything they reach is checked here")]
pub fn gemm(alpha: f32, a: MatRef<'_>, b: MatRef<'_>, beta: f32, c: &mut [f32], c_stride: usize) {
    assert_eq!(a.cols, b.rows, "inner dimensions differ");
    assert!(c_stride >= b.cols, "rows of c overlap");
    assert!((a.rows - 1) * c_stride + b.cols <= c.len(), "c is too short");
    // SAFETY: `MatRef::new` checked the last element of a and b (strides are non-negative, so it is the furthest), the
    // asserts above checked that of c, its rows do not overlap, and c is borrowed mutably, so it aliases neither a nor b.
    unsafe {
        matrixmultiply::sgemm(
            a.rows,
            a.cols,
            b.cols,
            alpha,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            beta,
            c.as_mut_ptr(),
            c_stride as isize,
            1,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_loops_with_strides_and_transposes() {
        let a: Vec<f32> = (0..35).map(|i| (i as f32 * 0.37).sin()).collect(); // 5 rows, stride 7, 4 columns
        let b: Vec<f32> = (0..24).map(|i| (i as f32 * 0.61).cos()).collect(); // 3 rows, stride 8, 4 columns
        let mut c = vec![1.0; 5 * 6];
        gemm(2.0, MatRef::new(&a, 5, 4, 7), MatRef::new(&b, 3, 4, 8).t(), 0.5, &mut c, 6);
        for (i, row) in c.chunks(6).enumerate() {
            for (j, &got) in row.iter().enumerate() {
                let dot: f32 = (0..4).map(|k| a[i * 7 + k] * b[(j.min(2)) * 8 + k]).sum();
                let want = if j < 3 { 2.0 * dot + 0.5 } else { 1.0 };
                assert!((got - want).abs() < 1e-5, "({i}, {j})");
            }
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn short_data_is_refused() {
        let _ = MatRef::new(&[0.0; 11], 3, 4, 4);
    }
}
