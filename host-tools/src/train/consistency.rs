//! Easy consistency tuning (arXiv:2406.14548): the estimate of x0 at one noise level learns to equal that at a lower one of
//! the same trajectory.
//!
//! With σ = √(1−ᾱ)/√ᾱ, the lower level is r = σ·(1 − 2^−(k+1)·(1 + 8·sigmoid(−σ))), at least 0, in stage k. Both levels share
//! image and noise; the estimate at r gets no gradient and is the clean image where r is below the schedule. The distance
//! is √(|a − b|² + small)·(1 + σ²)^(p/2)/(σ − r). Guidance enters by the direction from σ to r: what the frozen base's guidance adds to
//! its estimate is added to the clean image.

use std::ops::Range;

use anyhow::Result;
use candle_core::{Device, Tensor};
use picodream::rng::NoiseStream;

use super::batch::{NoiseLevels, Order};
use super::estimate::{Level, class_rows, estimate, estimate_values, guidance_shift, image_len};
use super::optimizer::{FlatLayout, State};
use super::shards::{self, Weights, detached};
use crate::config::{ModelConfig, TimestepDensity};
use crate::data::Dataset;
use crate::tune::{Direction, Method, TuneRecipe};

/// Under the root of the distance, so that its gradient stays finite.
const SMALL: f64 = 1e-6;

/// The images of one step, each at the noisier of its two levels; images are B × (H·W·C).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// x_σ.
    pub noised: Vec<f32>,
    /// x0.
    pub clean: Vec<f32>,
    /// The level of x_σ.
    pub now: Vec<Level>,
    /// The lower level; [`Level::CLEAN`] where the target is the clean image.
    pub next: Vec<Level>,
    /// (1 + σ²)^(p/2)/(σ − r).
    pub weights: Vec<f32>,
    /// Rows of the class table; empty for a model without classes.
    pub classes: Vec<u32>,
}

/// r of σ in stage k.
#[must_use]
pub fn lower_level(sigma: f64, k: u32) -> f64 {
    let sigmoid = 1.0 / (1.0 + sigma.exp());
    (sigma * (1.0 - 0.5f64.powi(k as i32 + 1) * (1.0 + 8.0 * sigmoid))).max(0.0)
}

impl Pairs {
    /// The pairs of step number `step` (from 0). The recipe must be one of consistency tuning.
    #[must_use]
    pub fn draw(
        config: &ModelConfig,
        recipe: &TuneRecipe,
        data: &Dataset,
        levels: &NoiseLevels,
        order: &mut Order,
        step: usize,
    ) -> Self {
        let train = &config.train;
        let mut stream = NoiseStream::new(train.seed, super::STREAM_TUNE + step as u64);
        let mut pairs = Self::default();
        for i in 0..train.batch_size {
            let index = order.index((step * train.batch_size + i) as u64);
            pairs.push_levels(recipe, levels, step, &mut stream);
            let dropped = f64::from(stream.next_f32()) < train.label_dropout;
            if config.num_classes() > 0 {
                let null = config.num_classes() as u32;
                pairs.classes.push(if dropped { null } else { u32::from(data.labels[index]) });
            }
            let Level { signal, noise, .. } = pairs.now[i];
            for pixel in data.image(index) {
                let x0 = (f32::from(*pixel) / 255.0 - config.data.mean) / config.data.std;
                pairs.clean.push(x0);
                pairs.noised.push(signal * x0 + noise * stream.next_gaussian());
            }
        }
        pairs
    }

    fn push_levels(&mut self, recipe: &TuneRecipe, levels: &NoiseLevels, step: usize, stream: &mut NoiseStream) {
        let Method::Consistency { stages, sigma_max, top_share, weight_power, .. } = recipe.method else { return };
        let TimestepDensity::LogNormalSigma { mean, std } = recipe.train.timestep_density else { return };
        let (first, last) = levels.range();
        let top = sigma_max.ln().min(last);
        let drawn = (mean + std * f64::from(stream.next_gaussian())).max(first);
        let at_top = f64::from(stream.next_f32()) < top_share || drawn >= top;
        let sigma = if at_top { top } else { drawn }.exp();
        let k = (step * stages as usize / recipe.train.steps) as u32;
        let r = lower_level(sigma, k);
        self.now.push(levels.at_ln_sigma(if at_top { last } else { drawn }).into());
        self.next.push(if r.ln() <= first { Level::CLEAN } else { levels.at_ln_sigma(r.ln()).into() });
        self.weights.push(((1.0 + sigma * sigma).powf(0.5 * weight_power) / (sigma - r)) as f32);
    }
}

/// What the estimates of a range of images should equal: nothing here gets a gradient.
pub fn targets(
    config: &ModelConfig,
    recipe: &TuneRecipe,
    student: &Weights,
    teacher: &Weights,
    pairs: &Pairs,
    range: Range<usize>,
) -> Result<Vec<f32>> {
    let len = image_len(config);
    let x = &pairs.noised[range.start * len..range.end * len];
    let (now, next) = (&pairs.now[range.clone()], &pairs.next[range.clone()]);
    let classes = class_rows(&pairs.classes, range.clone());
    let mut clean = match recipe.method {
        Method::Consistency { direction: Direction::Base, .. } => estimate_values(config, teacher, x, now, classes)?,
        _ => pairs.clean[range.start * len..range.end * len].to_vec(),
    };
    if recipe.guidance != 1.0 {
        let shift = guidance_shift(config, teacher, x, now, classes, recipe.guidance)?;
        clean.iter_mut().zip(shift).for_each(|(clean, shift)| *clean += shift);
    }
    let lower: Vec<f32> = (0..x.len()).map(|i| now[i / len].step_to(next[i / len], x[i], clean[i])).collect();
    let estimates = estimate_values(config, student, &lower, next, classes)?;
    let is_clean = |i: usize| next[i / len] == Level::CLEAN;
    Ok((0..x.len()).map(|i| if is_clean(i) { clean[i] } else { estimates[i] }).collect())
}

/// The mean distance of the estimates of a range of images from `targets`.
pub fn distance(
    config: &ModelConfig,
    weights: &Weights,
    pairs: &Pairs,
    range: Range<usize>,
    targets: &[f32],
) -> Result<Tensor> {
    let len = image_len(config);
    let x = &pairs.noised[range.start * len..range.end * len];
    let classes = class_rows(&pairs.classes, range.clone());
    let estimates = estimate(config, weights, x, &pairs.now[range.clone()], classes)?;
    let targets = Tensor::from_slice(targets, estimates.shape(), &Device::Cpu)?;
    let squares = (estimates - targets)?.sqr()?.flatten_from(1)?.sum(1)?;
    let count = range.len();
    let factors = Tensor::from_slice(&pairs.weights[range], count, &Device::Cpu)?;
    Ok(((squares + SMALL)?.sqrt()? * factors)?.mean_all()?)
}

/// Loss and gradient of one step.
pub fn loss_and_gradient(
    config: &ModelConfig,
    recipe: &TuneRecipe,
    layout: &FlatLayout,
    state: &State,
    pairs: &Pairs,
    threads: usize,
) -> Result<(f64, Vec<f32>)> {
    let teacher = if state.teacher.is_empty() { Weights::new() } else { detached(&layout.variables(&state.teacher)?) };
    shards::loss_and_gradient(layout, &state.weights, pairs.now.len(), threads, |weights, range| {
        let targets = targets(config, recipe, &detached(weights), &teacher, pairs, range.clone())?;
        distance(config, weights, pairs, range, &targets)
    })
}
