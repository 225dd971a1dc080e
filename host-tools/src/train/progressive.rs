//! Progressive distillation (arXiv:2202.00512): one DDIM step of the student learns two of its teacher.
//!
//! In stage s the student has first_steps/2^s steps, at the trailing timesteps that DDIM uses for that number, and between
//! each of them its teacher stops once more. The student's estimate of x0 is held to the one that would lead where the
//! teacher arrived, weighted by max(SNR, 1). Guidance is that of the base, so it enters in the first stage only.

use std::ops::Range;

use anyhow::Result;
use candle_core::{Device, Tensor};
use picodream::rng::NoiseStream;
use picodream::spacing::Trailing;

use super::batch::Order;
use super::estimate::{Level, class_rows, estimate, estimate_values, guidance_shift, image_len};
use super::optimizer::{FlatLayout, State};
use super::sample::visited;
use super::shards::{self, Weights, detached};
use crate::config::ModelConfig;
use crate::data::Dataset;
use crate::tune::TuneRecipe;

/// Part of a run with one teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its first step of optimisation.
    pub start: usize,
    /// Its number of them.
    pub len: usize,
    /// Sampling steps of the student.
    pub steps: u16,
}

/// The stage of step number `step` of `total`; stages are equal but for rounding.
#[must_use]
pub fn stage(first_steps: u16, total: usize, step: usize) -> Stage {
    let stages = first_steps.ilog2() as usize + 1;
    let edge = |s: usize| (s * total).div_ceil(stages);
    let number = (0..stages).rev().find(|s| edge(*s) <= step).unwrap_or(0);
    Stage { start: edge(number), len: edge(number + 1) - edge(number), steps: first_steps >> number }
}

/// The images of one step, each where the student's step begins; images are B × (H·W·C).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Jumps {
    /// x_t.
    pub noised: Vec<f32>,
    /// Levels at the beginning of the student's step, where the teacher stops, and at its end.
    pub levels: Vec<[Level; 3]>,
    /// Rows of the class table; empty for a model without classes.
    pub classes: Vec<u32>,
    /// Whether the teacher is the base, whose guidance is distilled.
    pub guided: bool,
}

impl Jumps {
    /// The images of step number `step` (from 0).
    #[must_use]
    pub fn draw(config: &ModelConfig, stage: Stage, data: &Dataset, order: &mut Order, step: usize) -> Self {
        let train = &config.train;
        let mut stream = NoiseStream::new(train.seed, super::STREAM_TUNE + step as u64);
        let mut jumps = Self { guided: stage.start == 0, ..Self::default() };
        let grid = visited(config, Trailing, usize::from(stage.steps) * 2);
        for i in 0..train.batch_size {
            let index = order.index((step * train.batch_size + i) as u64);
            let from = stream.below(u32::from(stage.steps)) as usize * 2;
            jumps.levels.push([grid[from], grid[from + 1], grid[from + 2]]);
            let dropped = f64::from(stream.next_f32()) < train.label_dropout;
            if config.num_classes() > 0 {
                let null = config.num_classes() as u32;
                jumps.classes.push(if dropped { null } else { u32::from(data.labels[index]) });
            }
            let Level { signal, noise, .. } = grid[from];
            for pixel in data.image(index) {
                let x0 = (f32::from(*pixel) / 255.0 - config.data.mean) / config.data.std;
                jumps.noised.push(signal * x0 + noise * stream.next_gaussian());
            }
        }
        jumps
    }

    /// The estimates of x0 with which one step of the student arrives where two of the teacher do.
    pub fn targets(
        &self,
        config: &ModelConfig,
        recipe: &TuneRecipe,
        teacher: &Weights,
        range: Range<usize>,
    ) -> Result<Vec<f32>> {
        let len = image_len(config);
        let start = &self.noised[range.start * len..range.end * len];
        let levels = &self.levels[range.clone()];
        let classes = class_rows(&self.classes, range);
        let mut x = start.to_vec();
        for leg in 0..2 {
            let now: Vec<Level> = levels.iter().map(|l| l[leg]).collect();
            let mut clean = estimate_values(config, teacher, &x, &now, classes)?;
            if self.guided && recipe.guidance != 1.0 {
                let shift = guidance_shift(config, teacher, &x, &now, classes, recipe.guidance)?;
                clean.iter_mut().zip(shift).for_each(|(clean, shift)| *clean += shift);
            }
            let moved = |(i, x): (usize, &f32)| levels[i / len][leg].step_to(levels[i / len][leg + 1], *x, clean[i]);
            x = x.iter().enumerate().map(moved).collect();
        }
        let target = |(i, x): (usize, &f32)| {
            let [first, _, last] = levels[i / len];
            let ratio = last.noise / first.noise;
            (x - ratio * start[i]) / (last.signal - ratio * first.signal)
        };
        Ok(x.iter().enumerate().map(target).collect())
    }
}

/// Loss and gradient of one step: mean square error of x0 times max(SNR, 1).
pub fn loss_and_gradient(
    config: &ModelConfig,
    recipe: &TuneRecipe,
    layout: &FlatLayout,
    state: &State,
    jumps: &Jumps,
    threads: usize,
) -> Result<(f64, Vec<f32>)> {
    let len = image_len(config);
    let teacher = detached(&layout.variables(&state.teacher)?);
    shards::loss_and_gradient(layout, &state.weights, jumps.levels.len(), threads, |weights, range| {
        let targets = jumps.targets(config, recipe, &teacher, range.clone())?;
        let x = &jumps.noised[range.start * len..range.end * len];
        let now: Vec<Level> = jumps.levels[range.clone()].iter().map(|l| l[0]).collect();
        let estimates = estimate(config, weights, x, &now, class_rows(&jumps.classes, range))?;
        let targets = Tensor::from_slice(&targets, estimates.shape(), &Device::Cpu)?;
        let snr = |l: &Level| (l.signal / l.noise).powi(2).max(1.0);
        let factors = Tensor::from_vec(now.iter().map(snr).collect::<Vec<_>>(), now.len(), &Device::Cpu)?;
        let squares = (estimates - targets)?.sqr()?.flatten_from(1)?.mean(1)?;
        Ok((squares * factors)?.mean_all()?)
    })
}
