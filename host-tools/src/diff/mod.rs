//! How far the int8 network is from the float one: per op, per denoising step, and on finished images.
//!
//! - **Steps**: both networks get the same x_t, taken from the float trajectory. SQNR = 10·log10(Σ f² / Σ (f − q)²) over all
//!   elements and images, of the raw output and of the denoised estimate x̂0 before clipping; of the conditional pass when
//!   there is guidance.
//! - **Images**: both run freely from the same noise. PSNR over pixels 0..=255 as real numbers: clamped, not rounded.
//! - **Ops**: `sqnr_db` of what each op writes when everything before it was int8 too (the error that has piled up), and
//!   `local_sqnr_db` when the op reads the float network's tensors (the error it adds by itself), over all steps and images.
//!   Their rank is the damage to finished images (`damage.rs`).

mod damage;
mod operands;
pub mod repair;

use anyhow::{Result, anyhow, ensure};
use picodream::blob::Op as BlobOp;
use picodream::sampler::predictions;
use picodream::spacing::AnySpacing;
use picodream::{Config, Ddim, Model, Pipeline, Progress, UNet};
use serde::{Serialize, Serializer};

use crate::checkpoint::Checkpoint;
use crate::float::{FloatPipeline, Graph, Op, Skips};
use crate::inspect::baked_timesteps;
use crate::picture::{LIMIT_DB, psnr_db};
use crate::sampling::{SamplerChoice, usual_spacing};

pub(crate) use operands::Arena;
use operands::{LoneOp, read_tensor};

/// What to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffOptions {
    /// The update rule, over the levels that are usual for it.
    pub sampler: SamplerChoice,
    /// Denoising steps.
    pub steps: u16,
    /// Seed of the first image; the others follow.
    pub seed: u64,
    /// Images; classes (and the null class last) take turns unless `class` is set.
    pub count: usize,
    /// One class for all images.
    pub class: Option<u16>,
    /// Guidance scale for images that have a class.
    pub guidance: f32,
    /// Of how many images (of `count`) the damage of each op is measured; 0: not at all.
    pub ranked: usize,
}

impl Default for DiffOptions {
    fn default() -> Self {
        let sampler = SamplerChoice::Ddim(Ddim::default());
        Self { sampler, steps: 20, seed: 0, count: 8, class: None, guidance: 1.0, ranked: 0 }
    }
}

/// One denoising step, noisiest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepDiff {
    /// Its timestep; few-step levels lie between whole ones.
    #[serde(serialize_with = "whole_or_fraction")]
    pub timestep: f32,
    /// Of the denoised estimate.
    pub x0_sqnr_db: f64,
    /// Of the network's output, variances included where it gives them.
    pub output_sqnr_db: f64,
}

/// 999 rather than 999.0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn whole_or_fraction<S: Serializer>(timestep: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    // Below T ≤ 4096.
    if timestep.fract() == 0.0 {
        serializer.serialize_u16(*timestep as u16)
    } else {
        serializer.serialize_f32(*timestep)
    }
}

/// One operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpDiff {
    /// Its name.
    pub name: String,
    /// Of its output, with the error of everything before it.
    pub sqnr_db: f64,
    /// Of its output, given the float network's inputs.
    pub local_sqnr_db: f64,
    /// Of finished images when this op alone is int8, where that was asked for: PSNR over all pixels of all images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_psnr_db: Option<f64>,
}

/// PSNR over the images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PsnrDb {
    /// Mean of the images' PSNRs.
    pub mean: f64,
    /// The worst image.
    pub min: f64,
}

/// int8 against f32.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DiffReport {
    /// Name of the model.
    pub name: String,
    /// Per step.
    pub steps: Vec<StepDiff>,
    /// On finished images.
    pub image_psnr_db: PsnrDb,
    /// Per op, worst first: by `image_psnr_db` where it was measured, else by `sqnr_db`.
    pub ops: Vec<OpDiff>,
}

/// Signal and error power.
#[derive(Clone, Copy, Debug, Default)]
struct Power {
    signal: f64,
    error: f64,
}

impl Power {
    fn add(&mut self, reference: f32, got: f32) {
        self.signal += f64::from(reference).powi(2);
        self.error += (f64::from(reference) - f64::from(got)).powi(2);
    }

    fn add_all(&mut self, reference: &[f32], got: &[f32]) {
        reference.iter().zip(got).for_each(|(&reference, &got)| self.add(reference, got));
    }

    fn db(self) -> f64 {
        (10.0 * (self.signal / self.error).log10()).clamp(-LIMIT_DB, LIMIT_DB)
    }
}

/// Compares a blob with the checkpoint it was exported from.
///
/// Fails when the two are not the same network, or when an option is out of range; one sentence each.
pub fn diff(model: &Model<'_>, checkpoint: &Checkpoint, options: &DiffOptions) -> Result<DiffReport> {
    diff_with_progress(model, checkpoint, options, &mut || {})
}

/// Like [`diff`]; `done` is called after each of `count` images, and when ops are ranked after each op.
pub fn diff_with_progress(
    model: &Model<'_>,
    checkpoint: &Checkpoint,
    options: &DiffOptions,
    done: &mut (impl FnMut() + Send),
) -> Result<DiffReport> {
    let unet = UNet::new(model).map_err(|error| anyhow!("{error}"))?;
    let mut float = FloatPipeline::with_skips(checkpoint, skips_of(&unet))?;
    let baked = baked_timesteps(model, unet.header());
    if !baked.is_empty() {
        float.bake(&baked);
    }
    float.reorder(&order_of(&unet, float.net().graph()));
    check_same_network(&unet, &float, checkpoint)?;
    ensure!(options.count > 0, "count is 0, but must be at least 1");
    let graph = float.net().graph();
    let mut comparison = Comparison {
        unet,
        graph,
        arena: Arena::new(model.arena_bytes()),
        lone: LoneOp::new(unet, graph),
        steps: vec![(0.0, Power::default(), Power::default()); options.steps.into()],
        ops: vec![(Power::default(), Power::default()); graph.ops.len()],
    };
    let mut psnrs = Vec::with_capacity(options.count);
    for i in 0..options.count {
        let config = image_config(options, i, &float);
        let x0 = comparison.follow(&float, &config)?;
        psnrs.push(psnr(&float, &x0, &int8_image(model, &config)?));
        done();
    }
    let mean = psnrs.iter().sum::<f64>() / psnrs.len() as f64;
    let min = psnrs.iter().copied().fold(f64::INFINITY, f64::min);
    let mut report = comparison.report(&checkpoint.config.name, PsnrDb { mean, min });
    if options.ranked > 0 {
        let configs: Vec<_> =
            (0..options.ranked.min(options.count)).map(|i| image_config(options, i, &float)).collect();
        let damage = damage::of_each_op(unet, &float, &configs, done)?;
        report.ops.iter_mut().zip(damage).for_each(|(op, psnr)| op.image_psnr_db = Some(psnr));
    }
    report.ops.sort_by(|a, b| a.rank().total_cmp(&b.rank()));
    Ok(report)
}

impl DiffReport {
    /// Smallest SQNR of x̂0 over the steps.
    #[must_use]
    pub fn worst_x0_sqnr_db(&self) -> f64 {
        self.steps.iter().map(|step| step.x0_sqnr_db).fold(f64::INFINITY, f64::min)
    }
}

impl OpDiff {
    fn rank(&self) -> f64 {
        self.image_psnr_db.unwrap_or(self.sqnr_db)
    }
}

/// How the blob keeps its skips.
fn skips_of(unet: &UNet<'_>) -> Skips {
    let mut ops = unet.model().ops(unet.header());
    if ops.any(|op| matches!(op, BlobOp::Narrow(_))) { Skips::Narrowed } else { Skips::Whole }
}

/// The float network's ops in the blob's order, by name; those that the blob lacks are left out.
fn order_of(unet: &UNet<'_>, graph: &Graph) -> Vec<usize> {
    let (model, header) = (unet.model(), unet.header());
    let place = |name: &str| graph.ops.iter().position(|op| op.name() == name);
    model.ops(header).filter_map(|op| place(model.text(header, op.common().name))).collect()
}

fn check_same_network(unet: &UNet<'_>, float: &FloatPipeline, checkpoint: &Checkpoint) -> Result<()> {
    let (model, header) = (unet.model(), unet.header());
    let names: Vec<&str> = model.ops(header).map(|op| model.text(header, op.common().name)).collect();
    let graph = float.net().graph();
    let same_ops = names.iter().copied().eq(graph.ops.iter().map(Op::name));
    let shape_of = |op: &Op| {
        let tensor = &graph.tensors[op.out()];
        (tensor.height, tensor.width, tensor.channels)
    };
    let same_shapes = model.ops(header).zip(&graph.ops).all(|(record, op)| {
        let out = unet.tensor(record.common().out);
        (out.height.into(), out.width.into(), out.channels.into()) == shape_of(op)
    });
    let same_classes = usize::from(header.num_classes) == graph.num_classes;
    ensure!(
        same_ops && same_shapes && same_classes,
        "blob '{}' was not exported from checkpoint '{}': their operators differ; export it again",
        model.text(header, header.name),
        checkpoint.config.name
    );
    Ok(())
}

fn image_config(options: &DiffOptions, i: usize, float: &FloatPipeline) -> Config<SamplerChoice, AnySpacing> {
    let num_classes = float.net().graph().num_classes;
    let turn = i % (num_classes + 1);
    let class = options.class.or((turn < num_classes).then_some(turn as u16));
    let guidance = if class.is_some() { options.guidance } else { 1.0 };
    let plain = Config::with_spacing(
        options.seed + i as u64,
        options.sampler,
        usual_spacing(&options.sampler, float.few_step()),
    );
    Config { steps: options.steps, class, guidance, ..plain }
}

/// x_0 of the free-running int8 pipeline.
fn int8_image(model: &Model<'_>, config: &Config<SamplerChoice, AnySpacing>) -> Result<Vec<f32>> {
    let mut arena = Arena::new(Config::<SamplerChoice, AnySpacing>::arena_bytes(model));
    let mut pipeline = Pipeline::new(model, arena.bytes(), *config).map_err(|error| anyhow!("{error}"))?;
    while pipeline.step() == Progress::Running {}
    Ok(pipeline.sample().to_vec())
}

/// PSNR of pixels, peak 255.
fn psnr(float: &FloatPipeline, reference: &[f32], got: &[f32]) -> f64 {
    let (scale, offset) = float.pixel_mapping();
    let pixels =
        |values: &[f32]| values.iter().map(|x| f64::from(x * scale + offset).clamp(0.0, 255.0)).collect::<Vec<_>>();
    psnr_db(&pixels(reference), &pixels(got))
}

/// One pass of the float network: every op's output.
struct Pass {
    outputs: Vec<Vec<f32>>,
}

struct Comparison<'m, 'g> {
    unet: UNet<'m>,
    graph: &'g Graph,
    arena: Arena,
    lone: LoneOp<'m, 'g>,
    /// Per step: timestep, power of x̂0, power of the output.
    steps: Vec<(f32, Power, Power)>,
    /// Per op: piled up, local.
    ops: Vec<(Power, Power)>,
}

impl Comparison<'_, '_> {
    /// Follows one float trajectory, comparing at each of its x_t; returns its x_0.
    fn follow(&mut self, float: &FloatPipeline, config: &Config<SamplerChoice, AnySpacing>) -> Result<Vec<f32>> {
        let mut passes: Vec<Pass> = Vec::new();
        let mut states: Vec<(f32, f32, f32, Vec<f32>)> = Vec::new();
        let op_count = self.graph.ops.len();
        let mut outputs: Vec<Vec<f32>> = Vec::new();
        let x0 = float.run_traced(
            config,
            &mut |step| {
                let level = step.level;
                states.push((level.timestep, level.alpha(), level.sigma(), step.sample.to_vec()));
            },
            &mut |_, trace| {
                outputs.push(trace.output.to_vec());
                if outputs.len() == op_count {
                    passes.push(Pass { outputs: std::mem::take(&mut outputs) });
                }
            },
        )?;
        // With guidance the unconditional pass comes first; the conditional one is the last of its step.
        let per_step = passes.len() / states.len().max(1);
        let class = config.class.unwrap_or(self.unet.header().num_classes);
        let channels = float.info().channels;
        for (step, (timestep, alpha, sigma, sample)) in states.iter().enumerate() {
            let pass = &passes[(step + 1) * per_step - 1];
            let output = self.compare_pass(pass, sample, *timestep, class);
            let (_, x0_power, output_power) = &mut self.steps[step];
            let prediction_type = self.unet.header().prediction_type;
            let reference = &pass.outputs[op_count - 1];
            output_power.add_all(reference, &output);
            let predicted = predictions(reference, channels).zip(predictions(&output, channels));
            for (&x, (reference, got)) in sample.iter().zip(predicted) {
                // Not clipped.
                let x0_of = |output| prediction_type.x0_and_noise(*alpha, *sigma, x, output).0;
                x0_power.add(x0_of(reference), x0_of(got));
            }
            self.steps[step].0 = *timestep;
        }
        Ok(x0)
    }

    /// Runs the int8 network on one x_t, op by op; returns its output.
    fn compare_pass(&mut self, pass: &Pass, sample: &[f32], timestep: f32, class: u16) -> Vec<f32> {
        self.unet.begin(self.arena.bytes());
        self.unet.sample_mut(self.arena.bytes()).copy_from_slice(sample);
        for index in 0..self.graph.ops.len() {
            let Some(op) = self.unet.op(index as u16) else { continue };
            let out = self.unet.tensor(op.common().out);
            self.unet.run_op(index as u16, timestep, class, self.arena.bytes());
            let reference = &pass.outputs[index];
            self.ops[index].0.add_all(reference, &read_tensor(&out, self.arena.bytes()));
            let writer = |id| self.graph.ops.iter().position(|op| op.out() == id);
            let value = |id| writer(id).map_or(sample, |writer| &pass.outputs[writer]);
            self.ops[index].1.add_all(reference, &self.lone.run(index, (timestep, class), value));
        }
        self.unet.model_output(self.arena.bytes()).to_vec()
    }

    fn report(self, name: &str, image_psnr_db: PsnrDb) -> DiffReport {
        let step = |(timestep, x0, output): (f32, Power, Power)| StepDiff {
            timestep,
            x0_sqnr_db: x0.db(),
            output_sqnr_db: output.db(),
        };
        let ops = self.graph.ops.iter().zip(&self.ops);
        let ops: Vec<OpDiff> = ops
            .map(|(op, (piled, local))| OpDiff {
                name: op.name().to_owned(),
                sqnr_db: piled.db(),
                local_sqnr_db: local.db(),
                image_psnr_db: None,
            })
            .collect();
        DiffReport { name: name.to_owned(), steps: self.steps.into_iter().map(step).collect(), image_psnr_db, ops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ImageConfig, UNetConfig};
    use crate::export::{ExportOptions, Trajectories, export};
    use crate::float::random;

    fn small(classes: usize, seed: u64) -> Checkpoint {
        let unet = UNetConfig { block_out_channels: vec![8, 16], norm_num_groups: 4, ..UNetConfig::default() };
        random::checkpoint(random::config(ImageConfig { width: 8, height: 8, channels: 1 }, unet, classes), seed)
    }

    fn quick() -> ExportOptions {
        let trajectories = Trajectories { images: 4, steps: vec![4], ..Trajectories::default() };
        ExportOptions { trajectories, ..ExportOptions::default() }
    }

    #[test]
    fn power_is_the_textbook_ratio() {
        let mut power = Power::default();
        power.add_all(&[1.0, -1.0], &[1.1, -1.0]);
        assert!((power.db() - 10.0 * (2.0f64 / 0.01).log10()).abs() < 1e-5);
        assert_eq!(Power { signal: 1.0, error: 0.0 }.db(), LIMIT_DB);
    }

    #[test]
    fn int8_follows_the_float_network() {
        let checkpoint = small(2, 7);
        let exported = export(&checkpoint, &quick()).unwrap();
        let model = Model::parse(&exported.bytes).unwrap();
        let options = DiffOptions { steps: 4, count: 3, guidance: 1.5, ..DiffOptions::default() };
        let report = diff(&model, &checkpoint, &options).unwrap();
        assert_eq!(report.steps.iter().map(|s| s.timestep).collect::<Vec<_>>(), [999.0, 749.0, 499.0, 249.0]);
        assert!(report.steps.iter().all(|s| s.output_sqnr_db > 20.0), "{:#?}", report.steps);
        // One op alone is good to 8 bits; attention, through the exponential of its scores, to less.
        assert!(report.ops.iter().all(|op| op.local_sqnr_db > 24.0), "{:#?}", report.ops);
        assert!(report.ops.is_sorted_by(|a, b| a.sqnr_db <= b.sqnr_db));
    }

    #[test]
    fn the_op_that_spoils_the_images_ranks_first() {
        let checkpoint = small(2, 7);
        let options = DiffOptions { steps: 3, count: 2, ranked: 2, ..DiffOptions::default() };
        for culprit in ["mid_block.resnets.0.conv1", "up_blocks.1.resnets.0.conv2"] {
            // A blob whose one op has other weights, as if its rounding were that bad.
            let mut spoilt = checkpoint.clone();
            let weight = spoilt.tensors.get_mut(&format!("{culprit}.weight")).unwrap();
            weight.data.iter_mut().step_by(2).for_each(|w| *w *= 1.5);
            let exported = export(&spoilt, &quick()).unwrap();
            let report = diff(&Model::parse(&exported.bytes).unwrap(), &checkpoint, &options).unwrap();
            let damage = |op: &OpDiff| op.image_psnr_db.unwrap();
            assert_eq!(report.ops[0].name, culprit);
            assert!(damage(&report.ops[0]) + 6.0 < damage(&report.ops[1]), "{:#?}", report.ops);
            assert!(report.ops.is_sorted_by(|a, b| damage(a) <= damage(b)));
        }
    }

    #[test]
    fn another_network_is_refused() {
        let exported = export(&small(2, 7), &quick()).unwrap();
        let model = Model::parse(&exported.bytes).unwrap();
        let error = diff(&model, &small(3, 7), &DiffOptions::default()).unwrap_err().to_string();
        assert!(error.contains("was not exported from checkpoint 'random'"), "{error}");
        let none = DiffOptions { count: 0, ..DiffOptions::default() };
        assert!(diff(&model, &small(2, 7), &none).unwrap_err().to_string().contains("count is 0"));
    }
}
