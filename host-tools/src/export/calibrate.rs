//! What the network's inputs look like along real sampling trajectories: the data that static scales are chosen from.
//!
//! Every op's inputs are recorded after norm and SiLU: per branch a histogram of |x| for the clip, and of some of the passes
//! the moments of what enters each matrix product, for the rounding of the weights.

use anyhow::{Result, ensure};
use picodream::sampler::Consistency;
use picodream::schedule::Schedule;
use picodream::spacing::Spacing;
use picodream::{Config, Ddim};

use super::moments::InputMoments;
use crate::config::ModelConfig;
use crate::float::engine::columns;
use crate::float::pipeline::schedule_bytes;
use crate::float::{FloatPipeline, Graph, Op, OpTrace};
use crate::sampling::{SamplerChoice, usual_spacing};
use crate::tune::Method;

/// Bins of a histogram; its range doubles when a larger value comes.
const BINS: usize = 4096;

/// Moments are taken of every so many passes; no divisor of the step counts, so that all timesteps are seen.
const MOMENTS_EVERY: usize = 7;

/// Which trajectories to record.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectories {
    /// How many images are drawn.
    pub images: usize,
    /// Seed of the first; the others follow.
    pub first_seed: u64,
    /// The update rule, over the levels that are usual for it.
    pub sampler: SamplerChoice,
    /// Step counts, in turn.
    pub steps: Vec<u16>,
    /// Guidance scales, in turn, for images that have a class.
    pub guidance: Vec<f32>,
}

impl Default for Trajectories {
    /// 44 images, DDIM-20 and DDIM-50, without guidance and at 2: every class (and null) of ten at least four times.
    fn default() -> Self {
        let sampler = SamplerChoice::Ddim(Ddim::default());
        Self { images: 44, first_seed: 1 << 32, sampler, steps: vec![20, 50], guidance: vec![1.0, 1.0, 2.0] }
    }
}

impl Trajectories {
    /// What a model of this config is made for: the default, or after tuning about as many network calls of
    /// the few steps that it was tuned to, without guidance, which is built in.
    #[must_use]
    pub fn of(config: &ModelConfig) -> Self {
        let plain = Self::default();
        let Some(tuned) = &config.tune else { return plain };
        let (sampler, steps) = match tuned.recipe.method {
            Method::Consistency { .. } => (SamplerChoice::Consistency(Consistency::default()), vec![1, 2, 4]),
            Method::Progressive { first_steps } => {
                (plain.sampler, (0..16).map(|k| 1 << k).take_while(|&steps| steps <= first_steps).collect())
            }
        };
        Self { sampler, guidance: vec![1.0], ..plain }.in_steps(steps)
    }

    /// With all step counts up to 100 that stop at none but these timesteps; unchanged if there are none.
    #[must_use]
    pub fn within(self, config: &ModelConfig, timesteps: &[f32]) -> Self {
        if timesteps.is_empty() {
            return self;
        }
        let inside = |steps: &u16| timesteps_of(config, &[*steps]).iter().all(|t| timesteps.contains(t));
        let most = config.schedule.num_train_timesteps().min(100) as u16;
        self.in_steps((1..=most).filter(inside).collect())
    }

    /// In other numbers of steps, with about as many network calls as before.
    fn in_steps(self, steps: Vec<u16>) -> Self {
        let calls = |steps: &[u16]| steps.iter().copied().map(usize::from).sum::<usize>().max(1);
        let images = self.images * calls(&self.steps) * steps.len() / (calls(&steps) * self.steps.len());
        Self { images, steps, ..self }
    }
}

/// The timesteps that drawing in any of these numbers of steps stops at, by the sampler that a model of this config is made
/// for; noisiest first.
#[must_use]
pub fn timesteps_of(config: &ModelConfig, steps: &[u16]) -> Vec<f32> {
    let spacing = usual_spacing(&Trajectories::of(config).sampler, config.few_step());
    let bytes = schedule_bytes(config);
    let schedule = Schedule::new(&bytes);
    let stops = |&steps: &u16| (0..steps).map(move |step| spacing.level(&schedule, steps, step).timestep);
    let mut timesteps: Vec<f32> = steps.iter().flat_map(stops).collect();
    timesteps.sort_by(|a, b| b.total_cmp(a));
    timesteps.dedup();
    timesteps
}

/// Values of one branch of one op's input.
#[derive(Clone, Debug)]
pub struct BranchStats {
    /// Largest |x|.
    pub absmax: f32,
    range: f32,
    histogram: Vec<u64>,
    count: u64,
}

impl Default for BranchStats {
    /// Nothing seen yet.
    fn default() -> Self {
        Self { absmax: 0.0, range: 2f32.powi(-20), histogram: vec![0; BINS], count: 0 }
    }
}

impl BranchStats {
    /// Adds values.
    pub fn add(&mut self, values: &[f32]) {
        let absmax = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        self.absmax = self.absmax.max(absmax);
        while self.range < absmax {
            self.double_range();
        }
        let to_bin = BINS as f32 / self.range;
        for x in values {
            self.histogram[((x.abs() * to_bin) as usize).min(BINS - 1)] += 1;
        }
        self.count += values.len() as u64;
    }

    fn double_range(&mut self) {
        self.range *= 2.0;
        for i in 0..BINS / 2 {
            self.histogram[i] = self.histogram[2 * i] + self.histogram[2 * i + 1];
        }
        self.histogram[BINS / 2..].fill(0);
    }

    /// Mean square error of rounding to multiples of `clip / qmax` within ±`clip`.
    #[must_use]
    pub fn quantisation_error(&self, clip: f32, qmax: u16) -> f64 {
        let step = f64::from(clip) / f64::from(qmax);
        let width = f64::from(self.range) / BINS as f64;
        let error = |i: usize| {
            let x = (i as f64 + 0.5) * width;
            let q = (x / step).round().min(qmax.into()) * step;
            // A bin wider than the step hides the rounding error inside it: step²/12 then, or the bin's own if clipped.
            if x <= f64::from(clip) && width > step { step * step / 12.0 } else { (x - q).powi(2) }
        };
        let total: f64 = self.histogram.iter().enumerate().map(|(i, &n)| n as f64 * error(i)).sum();
        total / self.count.max(1) as f64
    }

    /// The clip with the least mean square error, searched from `absmax` downwards in steps of 2 %.
    #[must_use]
    pub fn clip_by_error(&self, qmax: u16) -> f32 {
        let mut best = (f64::INFINITY, self.absmax);
        for i in 0..40 {
            let clip = self.absmax * (1.0 - 0.02 * i as f32);
            let error = self.quantisation_error(clip, qmax);
            if error < best.0 {
                best = (error, clip);
            }
        }
        best.1
    }
}

/// What one op reads.
#[derive(Clone, Debug)]
pub struct OpStats {
    /// The two branches of [`OpTrace::inputs`].
    pub branches: [BranchStats; 2],
    /// A convolution's product, or an attention's query and projection; empty where there is none.
    pub products: [InputMoments; 2],
}

impl OpStats {
    fn new(op: &Op) -> Self {
        let cols = match op {
            Op::TimeEmbed(_) | Op::Narrow(_) => [0, 0],
            Op::Conv(op) => [op.weight.len() / op.cout(), 0],
            Op::Attention(op) => [op.query.inputs(), op.projection.inputs()],
        };
        Self { branches: Default::default(), products: cols.map(InputMoments::new) }
    }

    fn add(&mut self, graph: &Graph, op: &Op, trace: &OpTrace<'_>, with_moments: bool) {
        self.branches.iter_mut().zip(trace.inputs).for_each(|(stats, values)| stats.add(values));
        match op {
            _ if !with_moments => {}
            Op::TimeEmbed(_) | Op::Narrow(_) => {}
            Op::Conv(op) => self.products[0].add(&columns(graph, op, trace.inputs)),
            Op::Attention(_) => self.products.iter_mut().zip(trace.inputs).for_each(|(m, rows)| m.add(rows)),
        }
    }
}

/// Statistics of every op.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// One entry per op, in order.
    pub ops: Vec<OpStats>,
}

/// Draws the images with the float network and records every op's inputs; `image_done` is called after each.
pub fn calibrate(
    pipeline: &FloatPipeline,
    trajectories: &Trajectories,
    image_done: &mut impl FnMut(),
) -> Result<Calibration> {
    let Trajectories { images, first_seed, sampler, steps, guidance } = trajectories;
    let spacing = usual_spacing(sampler, pipeline.few_step());
    ensure!(*images > 0, "calibration needs at least one image");
    ensure!(
        !steps.is_empty() && !guidance.is_empty(),
        "calibration needs at least one step count and one guidance scale"
    );
    let graph = pipeline.net().graph();
    let mut ops: Vec<OpStats> = graph.ops.iter().map(OpStats::new).collect();
    let mut calls = 0;
    let mut record = |_: &str, trace: &OpTrace<'_>| {
        let (pass, index) = (calls / ops.len(), calls % ops.len());
        ops[index].add(graph, &graph.ops[index], trace, pass % MOMENTS_EVERY == 0);
        calls += 1;
    };
    for i in 0..*images {
        // Classes and the null class take turns, and so do step counts and guidance, with periods that do not divide each other.
        let class = i % (graph.num_classes + 1);
        let class = (class < graph.num_classes).then_some(class as u16);
        let guidance = if class.is_some() { guidance[i % guidance.len()] } else { 1.0 };
        let plain = Config::with_spacing(first_seed + i as u64, *sampler, spacing);
        let config = Config { steps: steps[i / 2 % steps.len()], class, guidance, ..plain };
        let image = pipeline.run_traced(&config, &mut |_| {}, &mut record)?;
        ensure!(
            image.iter().all(|x| x.is_finite()),
            "the float network's samples are not finite (seed {}); train it again with a lower learning rate",
            config.seed
        );
        image_done();
    }
    Ok(Calibration { ops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ImageConfig, UNetConfig};
    use crate::float::random;
    use crate::tune::{TuneRecipe, Tuned};
    use picodream::rng::NoiseStream;

    #[test]
    fn uniform_data_has_the_textbook_rounding_error_and_no_clipping() {
        let mut stats = BranchStats::default();
        let mut stream = NoiseStream::new(1, 0);
        let values: Vec<f32> = (0..400_000).map(|_| 2.0 * stream.next_f32() - 1.0).collect();
        stats.add(&values);
        let step = 1.0 / 127.0f64;
        let error = stats.quantisation_error(1.0, 127);
        assert!((error / (step * step / 12.0) - 1.0).abs() < 0.02, "{error}");
        assert!(stats.clip_by_error(127) > 0.99);
        // 12 bits: the step is narrower than a bin.
        let step = 1.0 / 2047.0f64;
        assert!((stats.quantisation_error(1.0, 2047) / (step * step / 12.0) - 1.0).abs() < 0.25);
    }

    #[test]
    fn outliers_are_clipped_when_that_costs_less() {
        let mut stats = BranchStats::default();
        let mut values = vec![0.0; 100_000];
        NoiseStream::new(1, 0).fill_gaussian(&mut values);
        values[0] = 100.0;
        stats.add(&values);
        let clip = stats.clip_by_error(127);
        assert!(clip < 90.0 && clip > 4.0, "{clip}");
        let brute = |clip: f32| {
            let step = clip / 127.0;
            let q = |x: f32| (x / step).round_ties_even().clamp(-127.0, 127.0) * step;
            values.iter().map(|&x| f64::from(x - q(x)).powi(2)).sum::<f64>() / values.len() as f64
        };
        for test in [clip, 10.0, 80.0] {
            let (got, want) = (stats.quantisation_error(test, 127), brute(test));
            assert!((got / want - 1.0).abs() < 0.1, "{test}: {got} {want}");
        }
    }

    #[test]
    fn a_tuned_model_is_calibrated_on_the_steps_it_was_tuned_to() {
        let unet = UNetConfig { block_out_channels: vec![8], attention_levels: vec![false], ..UNetConfig::default() };
        let config = random::config(ImageConfig { width: 4, height: 4, channels: 1 }, unet, 2);
        assert_eq!(Trajectories::of(&config), Trajectories::default());
        let of = |method| {
            let recipe = TuneRecipe { method, guidance: 1.5, few_step_sigma: 2.0, train: config.train.clone() };
            Trajectories::of(&ModelConfig { tune: Some(Tuned { base: "base".into(), recipe }), ..config.clone() })
        };
        let consistency = of(Method::CONSISTENCY);
        assert!(matches!(consistency.sampler, SamplerChoice::Consistency(_)));
        assert_eq!((consistency.steps, consistency.guidance), (vec![1, 2, 4], vec![1.0]));
        let progressive = of(Method::Progressive { first_steps: 4 });
        assert!(matches!(progressive.sampler, SamplerChoice::Ddim(_)));
        assert_eq!(progressive.steps, [1, 2, 4]);
        // Few calls an image, so more images: as many calls as without tuning, 44 · 35.
        let calls = progressive.images * 7 / 3;
        assert!(calls > 1400 && calls < 1900, "{calls}");
    }

    #[test]
    fn every_branch_of_every_op_is_seen() {
        let unet = UNetConfig { block_out_channels: vec![8, 16], ..UNetConfig::default() };
        let image = ImageConfig { width: 8, height: 8, channels: 1 };
        let checkpoint = random::checkpoint(random::config(image, unet, 2), 2);
        let pipeline = FloatPipeline::new(&checkpoint).unwrap();
        let short = Trajectories { images: 3, steps: vec![2], guidance: vec![1.5], ..Trajectories::default() };
        let calibration = calibrate(&pipeline, &short, &mut || {}).unwrap();
        for (op, stats) in pipeline.net().graph().ops.iter().zip(&calibration.ops) {
            let branches = match op {
                Op::TimeEmbed(_) | Op::Narrow(_) => 0,
                Op::Conv(op) => 1 + usize::from(op.src_b.is_some()),
                Op::Attention(_) => 2,
            };
            let seen = |stats: &&BranchStats| stats.absmax > 0.0 && stats.count > 0;
            assert_eq!(stats.branches.iter().filter(seen).count(), branches, "{}", op.name());
        }
        let none = Trajectories { images: 0, ..short };
        assert!(calibrate(&pipeline, &none, &mut || {}).unwrap_err().to_string().contains("at least one image"));
    }
}
