//! Loops that not every back end has: here every one is declined, and the smaller loops do the work.
#![allow(dead_code, reason = "each back end lacks others of them")]

use core::convert::Infallible;
use core::marker::PhantomData;

use super::{Feed, FeedTarget, Finish, Geometry, Mix, Residual, RowSource, Taps};
use crate::tensor::ElementsMut;

/// Direct weights in an order of the back end's own: there is none.
pub(crate) struct Prepared;

impl Prepared {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Whether weights are there: never.
    pub(crate) const fn is_ready(&self) -> bool {
        false
    }
}

/// Brings direct weights of `cout` channels into the order of [`direct_row`], for rows of a geometry.
pub(crate) fn prepare(_weight: &[u8], _geometry: &Geometry, _cout: usize, _prepared: &mut Prepared) {}

/// Output row `y`, whole: the sums of [`super::direct`], stored as by [`super::finish`]; `block.acc` is not used.
pub(crate) fn direct_row(
    _prepared: &mut Prepared,
    _y: usize,
    _taps: &Taps<'_>,
    _block: &Finish<'_>,
    _residual: Residual<'_>,
    _out: ElementsMut<'_>,
    _sums: &mut [f32],
) -> bool {
    false
}

/// A 1×1 convolution that a loop from inputs to outputs fits: there is none.
#[derive(Debug)]
pub struct Point<'a>(Infallible, PhantomData<&'a [u8]>);

impl<'a> Point<'a> {
    /// With direct weights, and a scale and a bias of each output channel.
    #[must_use]
    pub fn new(_weight: &'a [u8], _geometry: Geometry, _scale: &'a [[u8; 4]], _bias: &'a [f32]) -> Option<Self> {
        None
    }

    /// The first outputs of a row, all channels: the sums of [`super::direct`], stored as by [`super::finish`] or, without
    /// residual and statistics, as f32; `acc` is scratch.
    pub fn row(
        &self,
        _row: &[i16],
        _pixels: usize,
        _residual: Residual<'_>,
        _out: ElementsMut<'_>,
        _sums: &mut [f32],
        _acc: &mut [i32],
    ) -> bool {
        match self.0 {}
    }
}

/// Quantises a row of halves, every pixel twice, side by side.
pub fn feed_doubled(_feed: &Feed<'_>, _target: &mut FeedTarget<'_>) -> bool {
    false
}

/// Quantises a row of any storage.
pub(crate) fn feed_row(_source: &RowSource<'_>, _feed: &Feed<'_>, _target: &mut FeedTarget<'_>) -> bool {
    false
}

/// Attention from queries to mixed values.
pub(crate) fn mix(_mix: &mut Mix<'_>) -> bool {
    false
}

/// A tensor to 8 bits, as `ops/narrow.rs` does it; its channels are as many as scales.
pub fn narrow(_values: &[half::f16], _integers: &mut [i8], _scales: &mut [f32]) -> bool {
    false
}

/// The sums of eight output channels as [`super::winograd_products`] has them of two: acc\[row 0, 1\]\[8 channels\]\[8\].
pub fn winograd_eight(_tiles: &[i16], _pairs: usize, _weight: &[u8], _acc: &mut [i32]) -> bool {
    false
}

/// Adds a row's sums to those of the image, and clears them.
pub fn add_and_clear(_totals: &mut [f32], _row: &mut [f32]) -> bool {
    false
}

/// out\[o\] = [`crate::math::dot`] of `x` and row o of `weight`.
pub fn dots(_x: &[f32], _weight: &[i8], _out: &mut [f32]) -> bool {
    false
}
