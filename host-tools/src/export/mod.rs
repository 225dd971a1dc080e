//! From a checkpoint to one blob: order → calibrate → quantise → lower → plan → pack.
//!
//! The same checkpoint gives the same bytes on machines whose f32 matrix kernels agree (`matrixmultiply` picks them by CPU);
//! elsewhere a few scales and weights may differ in their last bit. What a blob draws is the same everywhere.

pub mod calibrate;
pub mod grid;
pub mod lower;
pub mod moments;
pub mod nibbles;
pub mod order;
pub mod pack;
pub mod places;
pub mod plan;
pub mod quantise;
pub mod rounding;
pub mod target;
#[cfg(test)]
mod tests_bake;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

pub use calibrate::{Trajectories, timesteps_of};
pub use lower::Kernels;
pub use order::Order;
pub use quantise::Rules;
pub use target::Budget;

use crate::checkpoint::Checkpoint;
use crate::float::FloatPipeline;

/// How to export.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportOptions {
    /// What calibration draws.
    pub trajectories: Trajectories,
    /// How integers are chosen.
    pub rules: Rules,
    /// Which algorithms the convolutions get.
    pub kernels: Kernels,
    /// The only timesteps to draw with, whose biases are then baked into the blob; none for all timesteps. Trajectories must
    /// not stop at others.
    pub bake: Vec<f32>,
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
    /// Bytes of baked biases, and of the time embedding that they stand for; `None` when nothing is baked.
    pub baked_bytes: Option<[usize; 2]>,
    /// How the order of the operators was found.
    pub order: Order,
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
    export_with_progress(checkpoint, options, &mut |_, _| {})
}

/// Like [`export`]; `progress` is told how many pieces of work are done and how many there are.
pub fn export_with_progress(
    checkpoint: &Checkpoint,
    options: &ExportOptions,
    progress: &mut impl FnMut(usize, usize),
) -> Result<Exported> {
    checkpoint.config.validate()?;
    let mut pipeline = FloatPipeline::with_skips(checkpoint, options.rules.skips)?;
    let mut baked_bytes = None;
    if !options.bake.is_empty() {
        let (timesteps, classes) = (options.bake.len(), checkpoint.config.num_classes());
        ensure!(
            timesteps * (classes + 1) <= 512,
            "{timesteps} timesteps of {classes} classes and none make {} rows of baked biases; 512 at most: bake fewer steps",
            timesteps * (classes + 1)
        );
        let embedding = pipeline.net().graph().time_bytes();
        pipeline.bake(&options.bake);
        baked_bytes = Some([pipeline.net().graph().time_bytes(), embedding]);
    }
    let order = lower::best_order(pipeline.net().graph(), &options.rules, options.kernels);
    pipeline.reorder(&order.ops);
    let graph = pipeline.net().graph();
    let (mut done, total) = (0, options.trajectories.images + graph.ops.len());
    let mut piece_done = || {
        done += 1;
        progress(done, total);
    };
    let calibration =
        calibrate::calibrate(&pipeline, &options.trajectories, &mut piece_done).context("calibration failed")?;
    let on_grid = checkpoint.config.weight_format() == Some(options.rules.weights);
    let finer = checkpoint.config.grid.as_ref().map(|grid| grid.recipe.finer.clone()).unwrap_or_default();
    let rules = Rules { on_grid, finer, ..options.rules.clone() };
    let lowered = lower::lower_with_progress(graph, &calibration, &rules, options.kernels, &mut piece_done)?;
    let bytes = pack::pack(&checkpoint.config, &lowered)?;
    if let Kernels::Within(budget) = options.kernels {
        budget.check(bytes.len(), lowered.plan.peak)?;
    }
    let crc32 = picodream::Model::parse(&bytes).and_then(|model| model.header()).map_or(0, |header| header.crc32);
    let report = ExportReport {
        name: checkpoint.config.name.clone(),
        blob_bytes: bytes.len(),
        crc32,
        arena_bytes: lowered.plan.peak,
        arena_lower_bound_bytes: lowered.plan.lower_bound,
        peak_op: lowered.names[lowered.plan.peak_op].clone(),
        baked_bytes,
        order,
        op_count: lowered.ops.len(),
        macs_per_step: (0..graph.ops.len()).map(|index| graph.macs(index)).sum(),
    };
    Ok(Exported { bytes, report })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ImageConfig, UNetConfig};
    use crate::diff::{Arena, DiffOptions, diff};
    use crate::float::random;
    use crate::grid::{GridRecipe, grid_config};
    use picodream::blob::{Algorithm, ConvOp, Op, WeightFormat};
    use picodream::{Config, Model, Pipeline, Progress};

    const IMAGE: ImageConfig = ImageConfig { width: 8, height: 8, channels: 3 };

    fn unet() -> UNetConfig {
        let unet = UNetConfig { block_out_channels: vec![8, 16, 16], layers_per_block: 2, ..UNetConfig::default() };
        UNetConfig { attention_levels: vec![false, true, false], attention_heads: 2, norm_num_groups: 4, ..unet }
    }

    fn quick(rules: Rules) -> ExportOptions {
        let trajectories = Trajectories { images: 3, steps: vec![4], guidance: vec![1.0], ..Trajectories::default() };
        ExportOptions { trajectories, rules, ..ExportOptions::default() }
    }

    #[test]
    fn every_lowered_op_computes_what_the_graph_says() {
        // With 13-bit inputs only the weights' rounding is left; a wrong layout, scale or operand would give 20 dB or less.
        let rules = Rules { qmax_sample: 4095, qmax_raw: 4095, qmax_silu: 4095, qmax: 4095, ..Rules::default() };
        for classes in [0, 3] {
            let checkpoint = random::checkpoint(random::config(IMAGE, unet(), classes), 3);
            let mut options = quick(rules.clone());
            // The very trajectories that are compared, so that nothing clips.
            options.trajectories.first_seed = 0;
            let exported = export(&checkpoint, &options).unwrap();
            let model = Model::parse(&exported.bytes).unwrap();
            let options = DiffOptions { steps: 4, count: 2, ..DiffOptions::default() };
            let report = diff(&model, &checkpoint, &options).unwrap();
            assert!(report.ops.iter().all(|op| op.local_sqnr_db > 32.0), "{:#?}", report.ops);
        }
    }

    #[test]
    fn on_a_grid_the_first_and_the_last_convolution_have_finer_inputs() {
        let mut checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let qmax = |checkpoint: &Checkpoint| {
            let exported = export(checkpoint, &quick(Rules::default())).unwrap();
            let model = Model::parse(&exported.bytes).unwrap();
            let header = model.header().unwrap();
            let convs = model.ops(&header).filter_map(|op| if let Op::Conv(op) = op { Some(op) } else { None });
            let of = |op: ConvOp| (op.qmax, op.src_a == header.sample, op.common.out == header.model_output);
            convs.map(of).collect::<Vec<_>>()
        };
        let allowed = |first: bool, last: bool| if first || last { 2047 } else { 511 };
        assert!(qmax(&checkpoint).iter().all(|&(qmax, first, _)| qmax <= allowed(first, false)));
        checkpoint.config = grid_config(&checkpoint.config, "w8", GridRecipe::new(&checkpoint.config, 8)).unwrap();
        let gridded = qmax(&checkpoint);
        assert!(gridded.iter().all(|&(qmax, first, last)| qmax <= allowed(first, last)));
        assert!(gridded.iter().any(|&(qmax, _, last)| last && qmax > 511));
    }

    #[test]
    fn sums_stay_within_what_packed_weights_allow() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let exported = export(&checkpoint, &quick(Rules { qmax_silu: 4095, ..Rules::default() })).unwrap();
        let model = Model::parse(&exported.bytes).unwrap();
        let header = model.header().unwrap();
        let tensors: Vec<_> = model.tensors(&header).collect();
        let mut narrowed = 0;
        for op in model.ops(&header) {
            let Op::Conv(op) = op else { continue };
            let channels = |index: u16| u32::from(tensors[usize::from(index)].channels);
            let (cin, cout) = (channels(op.src_a) + op.src_b.map_or(0, channels), channels(op.common.out));
            // Direct weights: per pair of output channels, halfwords of 256 · odd + even.
            let weight = model.array(&header, &op.common, op.data_layout(cin, cout, 0).weight);
            let (mut even, mut odd) = (vec![], vec![]);
            for pair in weight.chunks_exact(weight.len() / cout.div_ceil(2) as usize) {
                let halves = pair.as_chunks::<2>().0.iter().map(|half| i64::from(i16::from_le_bytes(*half)));
                even.push(halves.clone().map(|half| i64::from(half as i8).abs()).sum::<i64>());
                odd.push(halves.map(|half| ((half - i64::from(half as i8)) / 256).abs()).sum::<i64>());
            }
            let largest = even.into_iter().chain(odd).max().unwrap();
            assert!(largest * (i64::from(op.qmax) + 1) < quantise::SUM_LIMIT);
            narrowed += usize::from(op.silu && op.qmax < 4095);
        }
        assert!(narrowed > 0);
    }

    /// Checksum of a small image.
    fn draw(blob: &[u8]) -> u32 {
        let model = Model::parse(blob).unwrap();
        let mut arena = Arena::new(model.arena_bytes());
        let config = Config { steps: 4, class: Some(1), ..Config::new(5) };
        let mut dream = Pipeline::new(&model, arena.bytes(), config).unwrap();
        while dream.step() == Progress::Running {}
        dream.image().crc32()
    }

    #[test]
    fn every_algorithm_draws_the_same_image() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let figures = |kernels| {
            let bytes = export(&checkpoint, &ExportOptions { kernels, ..quick(Rules::default()) }).unwrap().bytes;
            let model = Model::parse(&bytes).unwrap();
            let header = model.header().unwrap();
            let used = |algorithm| {
                model.ops(&header).filter(|op| matches!(op, Op::Conv(op) if op.algorithm == algorithm)).count()
            };
            (draw(&bytes), used(Algorithm::Winograd), used(Algorithm::Phases), used(Algorithm::Strided))
        };
        let [direct, small, fast, fewest] =
            [Kernels::Direct, Kernels::Small, Kernels::Fast, Kernels::Fewest].map(figures);
        assert_eq!((direct.0, direct.1, direct.2), (fast.0, 0, 0));
        assert!(fast.1 > 10 && fast.2 == 2, "{fast:?}");
        assert_eq!(small.0, fast.0);
        assert_eq!((fewest.0, fast.3, fewest.3), (fast.0, 0, 2));
    }

    #[test]
    fn weights_transformed_at_every_call_cost_neither_flash_nor_ram() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let export = |kernels| export(&checkpoint, &ExportOptions { kernels, ..quick(Rules::default()) }).unwrap();
        let (direct, small) = (export(Kernels::Direct), export(Kernels::Small));
        assert_eq!(small.bytes.len(), direct.bytes.len());
        assert_eq!(small.report.arena_bytes, direct.report.arena_bytes);
        // With some RAM to spare, and flash for the records of weights that wait in it, but not for larger weights.
        let (blob_bytes, arena_bytes) = (direct.bytes.len() as u32 + 1024, direct.report.arena_bytes + (12 << 10));
        let roomy = export(Kernels::Within(Budget { core: target::Core::Dsp, blob_bytes, arena_bytes }));
        let model = Model::parse(&roomy.bytes).unwrap();
        let header = model.header().unwrap();
        assert!(model.ops(&header).any(|op| matches!(op, Op::Conv(op) if op.per_call.is_some())));
        assert_eq!(draw(&roomy.bytes), draw(&direct.bytes));
    }

    #[test]
    fn a_budget_is_used_and_kept() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let export = |kernels| export(&checkpoint, &ExportOptions { kernels, ..quick(Rules::default()) });
        let (small, fast) = (export(Kernels::Small).unwrap(), export(Kernels::Fast).unwrap());
        let (least, most) = (small.bytes.len() as u32, fast.bytes.len() as u32);
        let within = |blob_bytes, arena_bytes| {
            export(Kernels::Within(Budget { core: target::Core::Dsp, blob_bytes, arena_bytes }))
        };
        // What saves nothing stays direct, so that less than the fast kernels' flash is enough.
        let most_useful = within(1 << 30, 1 << 30).unwrap().bytes;
        assert!(draw(&most_useful) == draw(&fast.bytes) && most_useful.len() <= fast.bytes.len());
        // The allowance for tables is larger than the tables of this network.
        let half = within((least + most) / 2 + 10_000, 1 << 30).unwrap();
        assert!((least..=(least + most) / 2 + 10_000).contains(&(half.bytes.len() as u32)));
        assert!(half.bytes != small.bytes && half.bytes != fast.bytes);
        assert_eq!(within(1 << 30, small.report.arena_bytes).unwrap().report.arena_bytes, small.report.arena_bytes);
        let arena = fast.report.arena_bytes;
        let expanded = within(half.bytes.len() as u32, arena + (most - least)).unwrap();
        assert_eq!(draw(&expanded.bytes), draw(&small.bytes), "expanded weights draw the same image");
        let model = Model::parse(&expanded.bytes).unwrap();
        let header = model.header().unwrap();
        let in_ram = model.ops(&header).filter(|op| matches!(op, Op::Conv(op) if op.expanded.is_some())).count();
        assert!(in_ram > 3 && expanded.report.arena_bytes > arena && expanded.bytes.len() <= half.bytes.len());
        assert!(within(least - 1, 1 << 30).unwrap_err().to_string().contains("the blob takes"));
        assert!(within(1 << 30, 1000).unwrap_err().to_string().contains("the arena takes"));
    }

    #[test]
    fn four_bits_cost_half_the_weights_and_some_quality() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let four = Rules { weights: WeightFormat::Int4, ..Rules::default() };
        let [whole, half] = [Rules::default(), four].map(|rules| export(&checkpoint, &quick(rules)).unwrap());
        let model = Model::parse(&half.bytes).unwrap();
        let header = model.header().unwrap();
        let ops: Vec<Op> = model.ops(&header).collect();
        let halved = |op: &Op| matches!(op, Op::Conv(op) if op.weights == WeightFormat::Int4);
        // Half of each weight's byte, less half a byte of multiplier for each 32 weights.
        let graph = FloatPipeline::new(&checkpoint).unwrap();
        let weight = |op: &crate::float::Op| if let crate::float::Op::Conv(op) = op { op.weight.len() } else { 0 };
        let of_ops = ops.iter().zip(&graph.net().graph().ops).filter(|(op, _)| halved(op));
        let bytes: usize = of_ops.map(|(_, op)| weight(op) * 31 / 64).sum();
        let saved = whole.bytes.len() - half.bytes.len();
        assert!(saved <= bytes && saved > bytes * 9 / 10, "{saved} of {bytes}");
        // The first and the last convolution keep their bits.
        let convolutions: Vec<&Op> = ops.iter().filter(|op| matches!(op, Op::Conv(_))).collect();
        assert!(convolutions[1..convolutions.len() - 1].iter().all(|op| halved(op)));
        assert!(!halved(convolutions[0]) && !halved(convolutions[convolutions.len() - 1]));
        // 15 levels up to a largest weight of p deviations: steps of 2·p/15 and 12·(7.5/p)² in power, 22 dB for the 2.1 of 32
        // Gaussian weights, 14 dB for p = 5 where a shortcut's group holds weights of two sources of different size.
        let report = diff(&model, &checkpoint, &DiffOptions { steps: 4, count: 2, ..DiffOptions::default() }).unwrap();
        let worst = report.ops.iter().min_by(|a, b| a.local_sqnr_db.total_cmp(&b.local_sqnr_db)).unwrap();
        assert!(worst.local_sqnr_db > 14.0, "{worst:?}");
    }

    #[test]
    fn the_same_checkpoint_gives_the_same_bytes() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let one = export(&checkpoint, &quick(Rules::default())).unwrap();
        assert_eq!(one, export(&checkpoint, &quick(Rules::default())).unwrap());
        assert_eq!(one.report.blob_bytes, one.bytes.len());
        assert!(f64::from(one.report.arena_bytes) <= 1.15 * f64::from(one.report.arena_lower_bound_bytes));
    }

    #[test]
    fn another_order_draws_the_same_image() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let options = quick(Rules::default());
        let given = export(&checkpoint, &options).unwrap();
        assert!(given.report.order.complete);
        let mut pipeline = FloatPipeline::new(&checkpoint).unwrap();
        // Whatever may trade places with the op before it does.
        let mut order: Vec<usize> = (0..pipeline.net().graph().ops.len()).collect();
        for place in 1..order.len() {
            order.swap(place - 1, place);
            if pipeline.net().graph().reordered(&order).is_none() {
                order.swap(place - 1, place);
            }
        }
        pipeline.reorder(&order);
        let calibration = calibrate::calibrate(&pipeline, &options.trajectories, &mut || {}).unwrap();
        let lowered = lower::lower(pipeline.net().graph(), &calibration, &options.rules, options.kernels).unwrap();
        let bytes = pack::pack(&checkpoint.config, &lowered).unwrap();
        assert_ne!(bytes, given.bytes);
        assert_eq!(draw(&bytes), draw(&given.bytes));
        // And what compares it with the checkpoint finds each op where it is.
        let diff_options = DiffOptions { steps: 4, count: 1, ..DiffOptions::default() };
        let worst = |bytes: &[u8]| {
            let report = diff(&Model::parse(bytes).unwrap(), &checkpoint, &diff_options).unwrap();
            report.ops.iter().map(|op| op.local_sqnr_db).fold(f64::INFINITY, f64::min)
        };
        assert!((worst(&bytes) - worst(&given.bytes)).abs() < 1e-9);
    }

    #[test]
    fn outputs_take_over_what_dies() {
        let checkpoint = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let exported = export(&checkpoint, &quick(Rules::default())).unwrap();
        let model = Model::parse(&exported.bytes).unwrap();
        let header = model.header().unwrap();
        let ops: Vec<(&str, Op)> = model.ops(&header).map(|op| (model.text(&header, op.common().name), op)).collect();
        let find = |name: &str| &ops.iter().find(|(n, _)| *n == name).unwrap().1;
        let Op::Conv(second) = find("mid_block.resnets.1.conv2") else { panic!("a convolution") };
        assert_eq!(second.residual, Some(second.common.out), "the residual dies where it is added");
        let Op::Conv(shortcut) = find("up_blocks.0.resnets.0.conv_shortcut") else { panic!("a convolution") };
        assert_eq!(shortcut.common.out, shortcut.src_a, "16 + 16 → 16 channels: the first source dies");
        let Op::Attention(attention) = find("mid_block.attentions.0") else { panic!("attention") };
        assert_eq!(attention.common.out, attention.src);
        let Op::Conv(kept) = find("down_blocks.0.resnets.1.conv2") else { panic!("a convolution") };
        assert_ne!(kept.residual, Some(kept.common.out), "the residual is a skip and lives on");
    }

    #[test]
    fn bad_input_is_one_clear_sentence() {
        let good = random::checkpoint(random::config(IMAGE, unet(), 3), 3);
        let error = |spoil: fn(&mut Checkpoint)| {
            let mut checkpoint = good.clone();
            spoil(&mut checkpoint);
            format!("{:#}", export(&checkpoint, &quick(Rules::default())).unwrap_err())
        };
        let missing = error(|c| drop(c.tensors.remove("conv_out.bias")));
        assert_eq!(missing, "checkpoint: the tensor conv_out.bias is missing");
        let nan = error(|c| c.tensors.get_mut("conv_in.weight").unwrap().data[0] = f32::NAN);
        assert!(nan.contains("samples are not finite"), "{nan}");
        let name = error(|c| c.config.data.class_names[1] = "a\nb".into());
        assert!(name.contains("class name \"a\\nb\" holds a line break"), "{name}");
        let long = error(|c| c.config.licence = "x".repeat(70_000));
        assert!(long.contains("more than 65535 bytes"), "{long}");
        let config = error(|c| c.config.image.width = 7);
        assert!(config.contains("image.width is 7"), "{config}");
        let shape = error(|c| c.tensors.get_mut("mid_block.resnets.0.conv1.weight").unwrap().data.truncate(9));
        assert!(shape.contains("mid_block.resnets.0.conv1.weight has 9 values"), "{shape}");
    }
}
