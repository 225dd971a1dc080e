//! Sums of products by the M3's own loop.

use half::f16;

/// sum += x · y, each rounded, of up to `count` numbers that lie steps apart; returns how many: those in front of the first that
/// is no matter of integers.
pub(super) fn add_all(
    sum: &mut f32,
    (x, x_step): (&[f32], usize),
    (y, y_step): (&[f16], usize),
    count: usize,
) -> usize {
    unsafe extern "C" {
        fn picodream_plain_accumulate(_: *mut f32, _: *const f32, _: *const f16, _: usize, _: usize, _: usize)
        -> usize;
    }
    assert!(count > 0 && (count - 1) * x_step < x.len() && (count - 1) * y_step < y.len());
    // SAFETY: the loop reads `count` floats and halves, steps apart: the slices are as long as that.
    count - unsafe { picodream_plain_accumulate(sum, x.as_ptr(), y.as_ptr(), count, 4 * x_step, 2 * y_step) }
}

/// a + b.
pub(super) fn plus(a: f32, b: f32) -> f32 {
    a + b
}
