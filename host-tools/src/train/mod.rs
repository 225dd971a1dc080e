//! Training with candle: operators, network, noising, optimiser, and the loop that ties them together.
//!
//! Everything random is a function of (seed, purpose, number), and gradients are summed over shards of fixed size in a fixed
//! order: the same recipe gives the same file, with any number of threads, interrupted or not.

pub mod batch;
pub mod bench;
pub mod classifier;
pub mod consistency;
pub mod estimate;
pub mod grid;
pub mod host;
pub mod lesson;
pub mod ops;
pub mod optimizer;
mod progress;
pub mod progressive;
pub mod sample;
pub mod shards;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_grid;
#[cfg(test)]
mod tests_tune;
#[cfg(test)]
mod tests_variance;
pub mod trainer;
pub mod unet;
pub mod variance;

pub use trainer::{TrainOptions, TrainReport, to_grid, train, tune};

/// First noise stream of the initial weights (one per tensor).
pub(crate) const STREAM_INIT: u64 = 1 << 40;
/// First noise stream of the order of the data (one per epoch).
pub(crate) const STREAM_SHUFFLE: u64 = 2 << 40;
/// First noise stream of the training steps (one per step: timesteps, dropped labels, noise).
pub(crate) const STREAM_STEP: u64 = 3 << 40;
/// First noise stream of the sample sheets (one per image).
pub(crate) const STREAM_SHEET: u64 = 4 << 40;
/// First noise stream of the steps of tuning (one per step: levels, dropped labels, noise).
pub(crate) const STREAM_TUNE: u64 = 5 << 40;
