//! The U-Net in plain f32 on the host: one op list shared with the blob, and the reference engine that runs it.
//!
//! [`graph`] turns a checkpoint into tensors and ops at exactly the blob's granularity; [`engine`] executes them, batch 1,
//! and shows every op's inputs and output to an observer: calibration and `diff` are observers.

mod bake;
mod build;
pub mod engine;
pub mod gemm;
pub mod graph;
pub mod pipeline;
pub mod random;

#[cfg(test)]
mod tests;

pub use engine::{FloatUNet, OpCall, OpTrace};
pub use graph::{Attention, Conv, Graph, Linear, Norm, Op, Skips, TensorId, TensorInfo, TimeEmbed};
pub use pipeline::{FloatDrawing, FloatPipeline, StepTrace};
