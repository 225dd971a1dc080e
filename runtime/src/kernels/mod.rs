//! Integer inner loops, and the loops that feed and empty them. [`portable`] and the code that calls this module define every
//! result; a back end may only be faster, and may decline (`false`) what it has no loop for.

#[cfg(test)]
mod check;
mod geometry;
/// The integer halves of the back end for cores without FPU, for tests that hold them to the computer's floats.
#[cfg(all(test, not(picodream_backend = "plain")))]
#[path = "plain"]
#[allow(dead_code, reason = "only what is arithmetic is tested here; `bin/kernels` tests the rest on the cores")]
mod plain_integers {
    mod feed;
    #[path = "feed_model.rs"]
    mod feed_loops;
    mod feed_rule;
    mod finish;
    mod mix;
    mod products;
    mod statistics;
}
pub mod portable;

// One back end, by target (`build.rs`); each has the same functions and constants.
#[cfg_attr(picodream_backend = "dsp", path = "dsp.rs")]
#[cfg_attr(picodream_backend = "helium", path = "helium.rs")]
#[cfg_attr(picodream_backend = "plain", path = "plain.rs")]
#[cfg_attr(picodream_backend = "host", path = "host/mod.rs")]
mod backend;

pub use backend::{BACKEND, BLOB_ALIGN, direct, feed, finish, phase, winograd_input, winograd_products};
#[cfg(any(picodream_backend = "helium", all(picodream_backend = "plain", picodream_baseline)))]
pub use backend::{strided_input, strided_products};
pub use geometry::Geometry;
#[cfg(not(any(picodream_backend = "helium", all(picodream_backend = "plain", picodream_baseline))))]
pub use portable::{strided_input, strided_products};

pub use crate::tensor::ElementsMut;

// Larger loops, which computers have (and cores with DSP and FPU two of them); each says `false` when it leaves the
// work to the smaller ones.
mod declined;
#[cfg(picodream_backend = "host")]
pub(crate) use backend::{Prepared, direct_row, prepare};
#[cfg(not(picodream_backend = "host"))]
pub(crate) use declined::{Prepared, direct_row, prepare};

#[cfg(any(picodream_backend = "helium", picodream_backend = "dsp"))]
pub use backend::clear;
#[cfg(any(picodream_backend = "helium", all(picodream_backend = "dsp", target_abi = "eabihf")))]
pub use backend::dots;
#[cfg(picodream_backend = "dsp")]
pub use backend::expand;
#[cfg(not(all(picodream_backend = "dsp", not(target_abi = "eabihf"))))]
pub(crate) use backend::feed_row;
#[cfg(not(all(picodream_backend = "dsp", not(target_abi = "eabihf"))))]
use backend::mix as own_mix;
#[cfg(not(any(picodream_backend = "plain", all(picodream_backend = "dsp", not(target_abi = "eabihf")))))]
pub use backend::narrow;
#[cfg(picodream_backend = "helium")]
pub use backend::{Point, winograd_eight};
#[cfg(all(picodream_backend = "dsp", target_abi = "eabihf"))]
pub use backend::{add_and_clear, feed_doubled};
#[cfg(not(any(picodream_backend = "helium", all(picodream_backend = "dsp", target_abi = "eabihf"))))]
pub use declined::dots;
#[cfg(all(picodream_backend = "dsp", not(target_abi = "eabihf")))]
pub(crate) use declined::feed_row;
#[cfg(all(picodream_backend = "dsp", not(target_abi = "eabihf")))]
use declined::mix as own_mix;
#[cfg(any(picodream_backend = "plain", all(picodream_backend = "dsp", not(target_abi = "eabihf"))))]
pub use declined::narrow;
#[cfg(not(picodream_backend = "helium"))]
pub use declined::{Point, winograd_eight};
#[cfg(not(all(picodream_backend = "dsp", target_abi = "eabihf")))]
pub use declined::{add_and_clear, feed_doubled};

use half::f16;

use crate::blob::Algorithm;
use crate::quant::Quantiser;
use crate::tensor::Elements;

/// Whether this target computes [`Algorithm::Strided`]. Cores with DSP, and the Cortex-M3, would lose by it and refuse it, which
/// saves them its code.
pub const STRIDED: bool = cfg!(any(picodream_backend = "helium", picodream_backend = "host", picodream_baseline));

/// Fills a row, or several, with zeros.
#[cfg(not(any(picodream_backend = "helium", picodream_backend = "dsp")))]
pub fn clear(row: &mut [i16]) {
    row.fill(0);
}

/// Like [`Expansion::expand`](crate::blob::Expansion::expand).
#[cfg(not(picodream_backend = "dsp"))]
pub fn expand(expansion: &crate::blob::Expansion, direct: &[u8], out: &mut [u8]) {
    expansion.expand(direct, out);
}

/// Whether this back end gains by weights that are transformed at every call; elsewhere such a convolution is a direct one.
/// In tests it does them all.
pub(crate) const fn expands(algorithm: Algorithm) -> bool {
    let transformed = !matches!(algorithm, Algorithm::Direct);
    transformed && cfg!(any(picodream_backend = "dsp", test))
}

/// Quantised input rows under one output row of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a> {
    /// One row per kernel row; `None` where the row lies outside the image (all zeros).
    pub rows: [Option<&'a [i16]>; 3],
    /// Order of the values in a row.
    pub geometry: Geometry,
}

/// One row of one f16 source, on its way to integers.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// \[width\]\[channels\].
    pub values: &'a [f16],
    /// Channels of the source.
    pub channels: usize,
    /// Pairs (a, b) per channel, x · a + b comes before the quantiser; empty: x as it is.
    pub affine: &'a [f32],
    /// The rule.
    pub quantiser: Quantiser,
}

/// Where a fed row goes.
#[derive(Debug)]
pub struct FeedTarget<'a> {
    /// The quantised row.
    pub row: &'a mut [i16],
    /// Its order.
    pub geometry: Geometry,
    /// Column of the first pixel.
    pub column: usize,
    /// Channel of the source's first channel.
    pub channel: usize,
}

/// Sums of up to eight neighbouring pixels on their way to f16.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// i32 \[channels\]\[8\].
    pub acc: &'a [i32],
    /// Pixels in use, 1..=8.
    pub pixels: usize,
    /// Little-endian f32 \[channels\].
    pub scale: &'a [[u8; 4]],
    /// f32 \[channels\].
    pub bias: &'a [f32],
    /// Channels of a pixel of the output; those of `acc` may be some of them.
    pub pitch: usize,
}

/// What is added to the sums.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// From the same place as the output: first pixel, first channel of the block.
    Elsewhere(&'a [f16]),
    /// What the output's memory holds.
    InPlace,
}

/// One row of one source, of any storage.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "a back end without such a loop reads nothing of it")]
pub(crate) struct RowSource<'a> {
    pub(crate) elements: Elements<'a>,
    /// Index of the row's first element.
    pub(crate) first: usize,
    /// Pixels.
    pub(crate) width: usize,
    /// Whether every pixel is written twice, side by side.
    pub(crate) doubled: bool,
}

/// A few queries of self-attention on their way to what they mix from the values.
#[derive(Debug)]
pub struct Mix<'a> {
    /// f32 \[pixels\]\[channels\]: queries, and in their place, head by head, the mixed values.
    pub query: &'a mut [f32],
    /// Scratch for scores, f32 \[tokens\]\[[`QUERY_PIXELS`](crate::blob::QUERY_PIXELS)\].
    pub scores: &'a mut [f32],
    /// \[tokens\]\[key channels, value channels\].
    pub kv: &'a [f16],
    /// Heads; they divide the channels.
    pub heads: usize,
    /// Channels of all heads.
    pub channels: usize,
    /// Pixels that are attended to.
    pub tokens: usize,
    /// Queries, at most [`QUERY_PIXELS`](crate::blob::QUERY_PIXELS).
    pub pixels: usize,
}

/// Attention from queries to mixed values: scores, their softmax, and the sums of values; `false` leaves it to the caller.
pub fn mix(job: &mut Mix<'_>) -> bool {
    own_mix(job)
}
