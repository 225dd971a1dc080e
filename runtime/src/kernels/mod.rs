//! Integer inner loops. [`portable`] defines every result; a back end may only be faster.

pub mod portable;

pub use portable::{conv_block, linear};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "portable";

/// Quantised input rows under one output row of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a> {
    /// One row per kernel row, i16 \[columns\]\[cin\] with its horizontal padding; `None` where the row lies outside the
    /// image (all zeros).
    pub rows: [Option<&'a [i16]>; 3],
    /// 1 or 3: how many of `rows` are used, and the columns under one output.
    pub kernel: usize,
    /// Columns between neighbouring outputs.
    pub stride: usize,
    /// Channels of a column.
    pub cin: usize,
}
