//! Peak signal-to-noise ratio of pixels.

/// What a ratio without error is shown as, so that reports stay finite.
pub const LIMIT_DB: f64 = 200.0;

/// 10·log10(255²/mean square error) of two lists of pixels on the 0..=255 scale; at most [`LIMIT_DB`].
#[must_use]
pub fn psnr_db<T: Copy + Into<f64>>(reference: &[T], got: &[T]) -> f64 {
    let error: f64 = reference.iter().zip(got).map(|(&a, &b)| (a.into() - b.into()).powi(2)).sum();
    (10.0 * (255.0 * 255.0 * reference.len() as f64 / error).log10()).min(LIMIT_DB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_off_is_48_db_and_equal_is_the_limit() {
        // 20·log10(255).
        assert!((psnr_db(&[7u8, 9], &[8, 8]) - 48.1308).abs() < 1e-4);
        assert!((psnr_db(&[0u8; 4], &[255; 4])).abs() < 1e-12);
        assert_eq!(psnr_db(&[1u8, 2], &[1, 2]), LIMIT_DB);
    }
}
