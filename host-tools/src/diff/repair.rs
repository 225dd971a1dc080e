//! What other ways to export a checkpoint would repair: each is exported in memory and compared like the blob itself.

use anyhow::{Result, anyhow};
use picodream::Model;
use picodream::blob::{Op, WeightFormat};
use serde::Serialize;

use super::{DiffOptions, DiffReport, PsnrDb, diff_with_progress};
use crate::checkpoint::Checkpoint;
use crate::export::{ExportOptions, Exported, Kernels, Rules, Trajectories, export};
use crate::float::Skips;

/// Bits that `--input-bits` allows at most.
const MOST_INPUT_BITS: u8 = 12;

/// One way to export, and what it gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repair {
    /// The options of `picodream export`.
    pub export: String,
    /// Length of its blob.
    pub blob_bytes: usize,
    /// Bytes of its arena.
    pub arena_bytes: u32,
    /// Smallest SQNR of x̂0 over the steps.
    pub x0_sqnr_db: f64,
    /// On finished images.
    pub image_psnr_db: PsnrDb,
    /// The ops that it lifts most: name, and by how many dB the images gain with that op alone in int8.
    pub lifts: Vec<Lift>,
}

/// What one op gains.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lift {
    /// Its name.
    pub op: String,
    /// PSNR gained, in dB; nothing for an op that is no longer there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain_db: Option<f64>,
}

/// The worst ops that a repair is asked about.
const OPS: usize = 8;

/// What counts as a gain.
const GAIN_DB: f64 = 1.0;

/// The ways that may repair this blob, by their options.
fn ways(model: &Model<'_>) -> Result<Vec<(String, Rules)>> {
    let header = model.header().map_err(|error| anyhow!("{error}"))?;
    let any = |test: fn(&Op) -> bool| model.ops(&header).any(|op| test(&op));
    let int4 = any(|op| matches!(op, Op::Conv(op) if op.weights == WeightFormat::Int4));
    let narrowed = any(|op| matches!(op, Op::Narrow(_)));
    let now = Rules {
        weights: if int4 { WeightFormat::Int4 } else { WeightFormat::Int8 },
        skips: if narrowed { Skips::Narrowed } else { Skips::Whole },
        ..Rules::default()
    };
    // What the blob has already is left out.
    let weights = int4.then(|| ("--weights 8", Rules { weights: WeightFormat::Int8, ..now.clone() }));
    let skips = narrowed.then(|| ("--skips 16", Rules { skips: Skips::Whole, ..now.clone() }));
    let inputs = ("--input-bits 12", now.clone().with_input_bits(MOST_INPUT_BITS));
    let mut ways: Vec<_> =
        [Some(inputs), skips, weights].into_iter().flatten().map(|(o, r)| (o.to_owned(), r)).collect();
    let all = Rules { weights: WeightFormat::Int8, skips: Skips::Whole, ..now }.with_input_bits(MOST_INPUT_BITS);
    ways.push((ways.iter().map(|(options, _)| options.as_str()).collect::<Vec<_>>().join(" "), all));
    Ok(ways)
}

/// How many ways [`repairs`] will measure.
pub fn count(model: &Model<'_>) -> Result<usize> {
    Ok(ways(model)?.len())
}

/// Measures each way against the report of the blob as it is, which must have its ops ranked; `done` is called after each.
pub fn repairs(
    model: &Model<'_>,
    checkpoint: &Checkpoint,
    options: &DiffOptions,
    report: &DiffReport,
    done: &mut impl FnMut(),
) -> Result<Vec<Repair>> {
    let mut repairs = Vec::new();
    for (export_options, rules) in ways(model)? {
        let trajectories = Trajectories::of(&checkpoint.config);
        let Exported { bytes, report: exported } =
            export(checkpoint, &ExportOptions { trajectories, rules, kernels: Kernels::Small })?;
        let other = Model::parse(&bytes).map_err(|error| anyhow!("{error}"))?;
        let better = diff_with_progress(&other, checkpoint, options, &mut || {})?;
        repairs.push(Repair {
            export: export_options,
            blob_bytes: exported.blob_bytes,
            arena_bytes: exported.arena_bytes,
            x0_sqnr_db: better.worst_x0_sqnr_db(),
            image_psnr_db: better.image_psnr_db,
            lifts: lifts(report, &better),
        });
        done();
    }
    Ok(repairs)
}

/// The worst ops of `before` that `after` makes better.
fn lifts(before: &DiffReport, after: &DiffReport) -> Vec<Lift> {
    let lift = |op: &super::OpDiff| {
        let gain = |other: &super::OpDiff| Some(other.image_psnr_db? - op.image_psnr_db?);
        let other = after.ops.iter().find(|other| other.name == op.name);
        match other.map(gain) {
            None => Some(Lift { op: op.name.clone(), gain_db: None }),
            Some(gain_db) => {
                gain_db.filter(|&gain| gain >= GAIN_DB).map(|gain| Lift { op: op.name.clone(), gain_db: Some(gain) })
            }
        }
    };
    before.ops.iter().take(OPS).filter_map(lift).collect()
}
