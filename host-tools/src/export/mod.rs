//! From a checkpoint to one blob: calibrate → quantise → lower → plan → pack. The same checkpoint gives the same bytes.

pub mod calibrate;
pub mod lower;
pub mod pack;
pub mod places;
pub mod plan;
pub mod quantise;

use anyhow::{Context, Result};
use serde::Serialize;

pub use calibrate::Trajectories;
pub use quantise::Rules;

use crate::checkpoint::Checkpoint;
use crate::float::FloatPipeline;

/// How to export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportOptions {
    /// What calibration draws.
    pub trajectories: Trajectories,
    /// How integers are chosen.
    pub rules: Rules,
}

/// The figures of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Name of the model.
    pub name: String,
    /// Length of the blob.
    pub blob_bytes: usize,
    /// CRC-32 in the blob's header.
    pub crc32: u32,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Largest live set: no plan needs less.
    pub arena_lower_bound_bytes: u32,
    /// The operator with the largest live set.
    pub peak_op: String,
    /// Operators.
    pub op_count: usize,
    /// Multiply-accumulates of one network call.
    pub macs_per_step: u64,
}

/// A blob and its figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The blob, as it is written to disk.
    pub bytes: Vec<u8>,
    /// Its figures.
    pub report: ExportReport,
}

/// Calibrates, quantises, lowers, plans and packs a checkpoint; the runtime has accepted what comes back.
///
/// Fails when a tensor is missing or misshapen, when the network exceeds what a blob can hold, or when its float forward
/// pass does not stay finite; one sentence each.
pub fn export(checkpoint: &Checkpoint, options: &ExportOptions) -> Result<Exported> {
    checkpoint.config.validate()?;
    let pipeline = FloatPipeline::new(checkpoint)?;
    let calibration = calibrate::calibrate(&pipeline, &options.trajectories).context("calibration failed")?;
    let graph = pipeline.net().graph();
    let lowered = lower::lower(graph, &calibration, &options.rules)?;
    let bytes = pack::pack(&checkpoint.config, &lowered)?;
    let crc32 = picodream::Model::parse(&bytes).and_then(|model| model.header()).map_or(0, |header| header.crc32);
    let report = ExportReport {
        name: checkpoint.config.name.clone(),
        blob_bytes: bytes.len(),
        crc32,
        arena_bytes: lowered.plan.peak,
        arena_lower_bound_bytes: lowered.plan.lower_bound,
        peak_op: lowered.names[lowered.plan.peak_op].clone(),
        op_count: lowered.ops.len(),
        macs_per_step: (0..graph.ops.len()).map(|index| graph.macs(index)).sum(),
    };
    Ok(Exported { bytes, report })
}
