//! What other ways to export a checkpoint would repair: each is exported in memory and compared like the blob itself.

use anyhow::{Result, anyhow};
use picodream::Model;
use picodream::blob::{Op, WeightFormat};
use serde::Serialize;

use super::{DiffOptions, DiffReport, PsnrDb, diff_with_progress};
use crate::checkpoint::Checkpoint;
use crate::export::{ExportOptions, Exported, Kernels, Rules, Trajectories, export};
use crate::float::Skips;
use crate::inspect::baked_timesteps;

/// Bits that `--input-bits` allows at most.
const MOST_INPUT_BITS: u8 = 12;

/// One way to export, and what it gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repair {
    /// The options of `picodream export`, complete.
    pub export: String,
    /// Length of its blob.
    pub blob_bytes: usize,
    /// Bytes of its arena.
    pub arena_bytes: u32,
    /// Smallest SQNR of x̂0 over the steps.
    pub x0_sqnr_db: f64,
    /// On finished images.
    pub image_psnr_db: PsnrDb,
    /// Which of the eight worst ops it lifts by 1 dB or more: by how many dB the images gain with that op alone in
    /// int8.
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

/// The rules that a blob was exported by, as far as its records tell.
fn rules_of(model: &Model<'_>) -> Result<Rules> {
    let header = model.header().map_err(|error| anyhow!("{error}"))?;
    let (mut qmax, mut int4, mut narrowed) = (0, false, false);
    for op in model.ops(&header) {
        match op {
            // The first and the last convolution have bits of their own; others may have been given fewer, for their sums' sake.
            Op::Conv(op) if op.src_a != header.sample && op.common.out != header.model_output => {
                qmax = qmax.max(op.qmax);
                int4 |= op.weights == WeightFormat::Int4;
            }
            Op::Narrow(_) => narrowed = true,
            _ => {}
        }
    }
    let weights = if int4 { WeightFormat::Int4 } else { WeightFormat::Int8 };
    let skips = if narrowed { Skips::Narrowed } else { Skips::Whole };
    Ok(Rules { weights, skips, ..Rules::default() }.with_input_bits((u16::BITS - qmax.leading_zeros()) as u8 + 1))
}

/// The options of `picodream export` that say these rules; what is the default goes without saying.
fn options_of(rules: &Rules) -> String {
    let bits = u16::BITS - rules.qmax.leading_zeros() + 1;
    let options = [
        (rules.weights == WeightFormat::Int4).then(|| "--weights 4".to_owned()),
        (rules.skips == Skips::Whole).then(|| "--skips 16".to_owned()),
        (rules.qmax != Rules::default().qmax).then(|| format!("--input-bits {bits}")),
    ];
    let options: Vec<String> = options.into_iter().flatten().collect();
    if options.is_empty() { "the defaults".to_owned() } else { options.join(" ") }
}

/// The ways that may repair a blob of these rules: each thing that can still be made finer alone, then all together.
fn ways(now: &Rules) -> Vec<Rules> {
    let alone = [
        now.clone().with_input_bits(MOST_INPUT_BITS),
        Rules { skips: Skips::Whole, ..now.clone() },
        Rules { weights: WeightFormat::Int8, ..now.clone() },
    ];
    let together =
        Rules { weights: WeightFormat::Int8, skips: Skips::Whole, ..now.clone() }.with_input_bits(MOST_INPUT_BITS);
    let mut ways: Vec<Rules> = alone.into_iter().filter(|way| way != now).collect();
    if ways.len() > 1 {
        ways.push(together);
    }
    ways
}

/// How many ways [`repairs`] will measure.
pub fn count(model: &Model<'_>) -> Result<usize> {
    Ok(ways(&rules_of(model)?).len())
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
    for rules in ways(&rules_of(model)?) {
        let export_options = options_of(&rules);
        let bake = baked_timesteps(model, &model.header().map_err(|error| anyhow!("{error}"))?);
        let trajectories = Trajectories::of(&checkpoint.config).within(&checkpoint.config, &bake);
        let Exported { bytes, report: exported } =
            export(checkpoint, &ExportOptions { trajectories, rules, kernels: Kernels::Small, bake })?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(now: &Rules) -> Vec<String> {
        ways(now).iter().map(options_of).collect()
    }

    #[test]
    fn only_what_the_blob_lacks_is_offered_and_each_is_a_whole_command() {
        let usual = Rules::default();
        let four = Rules { weights: WeightFormat::Int4, ..usual.clone() };
        assert_eq!(offered(&usual), ["--input-bits 12", "--skips 16", "--skips 16 --input-bits 12"]);
        assert_eq!(
            offered(&four),
            ["--weights 4 --input-bits 12", "--weights 4 --skips 16", "the defaults", "--skips 16 --input-bits 12"]
        );
        // One thing left: nothing to put together.
        assert_eq!(offered(&usual.clone().with_input_bits(12)), ["--skips 16 --input-bits 12"]);
        assert!(offered(&Rules { skips: Skips::Whole, ..usual }.with_input_bits(12)).is_empty());
    }

    #[test]
    fn a_blob_tells_the_rules_that_it_was_exported_by() {
        let image = crate::config::ImageConfig { width: 8, height: 8, channels: 3 };
        let unet = crate::config::UNetConfig {
            block_out_channels: vec![8, 16],
            norm_num_groups: 4,
            ..crate::config::UNetConfig::default()
        };
        let checkpoint = crate::float::random::checkpoint(crate::float::random::config(image, unet, 0), 3);
        let trajectories = Trajectories { images: 1, steps: vec![2], guidance: vec![1.0], ..Trajectories::default() };
        let four = Rules { weights: WeightFormat::Int4, ..Rules::default() };
        for rules in [
            Rules::default(),
            four.clone(),
            four.with_input_bits(8),
            Rules { skips: Skips::Whole, ..Rules::default() }.with_input_bits(11),
        ] {
            let options =
                ExportOptions { trajectories: trajectories.clone(), rules: rules.clone(), ..ExportOptions::default() };
            let blob = export(&checkpoint, &options).unwrap().bytes;
            assert_eq!(rules_of(&Model::parse(&blob).unwrap()).unwrap(), rules);
        }
    }
}
