//! Estimates of the clean image from the network's output, over a batch whose images have each their own noise level.

use std::ops::Range;

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::shards::Weights;
use super::unet::UNet;
use crate::config::{ModelConfig, PredictionType};

/// One noise level: x_t = signal·x0 + noise·ε at (fractional) timestep t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Timestep.
    pub t: f32,
    /// √ᾱ.
    pub signal: f32,
    /// √(1−ᾱ).
    pub noise: f32,
}

impl From<(f32, f32, f32)> for Level {
    fn from((t, signal, noise): (f32, f32, f32)) -> Self {
        Self { t, signal, noise }
    }
}

impl Level {
    /// No noise at all.
    pub const CLEAN: Self = Self { t: 0.0, signal: 1.0, noise: 0.0 };

    /// (a, b) with x0 = a·x_t + b·output.
    #[must_use]
    pub fn estimate(self, prediction: PredictionType) -> (f32, f32) {
        let Self { signal, noise, .. } = self;
        match prediction {
            PredictionType::Epsilon => (1.0 / signal, -noise / signal),
            PredictionType::Sample => (0.0, 1.0),
            PredictionType::VPrediction => (signal, -noise),
        }
    }

    /// DDIM (η = 0): x_t moves to level `next` with `x0` as the clean image.
    #[must_use]
    pub fn step_to(self, next: Self, x: f32, x0: f32) -> f32 {
        next.signal * x0 + next.noise * (x - self.signal * x0) / self.noise
    }
}

/// Bytes of one image of the network, H·W·C.
#[must_use]
pub fn image_len(config: &ModelConfig) -> usize {
    config.image.width * config.image.height * config.image.channels
}

/// The rows of `classes` for a range of images; nothing for a model without classes.
#[must_use]
pub fn class_rows(classes: &[u32], range: Range<usize>) -> &[u32] {
    if classes.is_empty() { &[] } else { &classes[range] }
}

/// x0 of each image [B, H, W, C] as a part of the graph; `x` and `levels` belong together, `classes` may be empty.
pub fn estimate(
    config: &ModelConfig,
    weights: &Weights,
    x: &[f32],
    levels: &[Level],
    classes: &[u32],
) -> Result<Tensor> {
    let image = config.image;
    let (count, len) = (levels.len(), image_len(config));
    let shape = (count, image.height, image.width, image.channels);
    let timesteps: Vec<f32> = levels.iter().map(|level| level.t).collect();
    let input = Tensor::from_slice(x, shape, &Device::Cpu)?;
    let output = UNet::new(config, weights).forward(&input, &timesteps, classes)?;
    // Variances, where the network gives them, stand behind.
    let output = output.narrow(3, 0, image.channels)?;
    let (a, b): (Vec<f32>, Vec<f32>) = levels.iter().map(|level| level.estimate(config.prediction_type)).unzip();
    let kept: Vec<f32> = x.chunks_exact(len).zip(a).flat_map(|(x, a)| x.iter().map(move |x| a * x)).collect();
    let factor = Tensor::from_vec(b, (count, 1, 1, 1), &Device::Cpu)?;
    Ok((output.broadcast_mul(&factor)? + Tensor::from_vec(kept, shape, &Device::Cpu)?)?)
}

/// The same as plain numbers, with weights outside the graph.
pub fn estimate_values(
    config: &ModelConfig,
    weights: &Weights,
    x: &[f32],
    levels: &[Level],
    classes: &[u32],
) -> Result<Vec<f32>> {
    Ok(estimate(config, weights, x, levels, classes)?.flatten_all()?.to_vec1()?)
}

/// (guidance − 1)·(x0 with the class − x0 without): what guidance adds to an estimate; zero for the null class.
pub fn guidance_shift(
    config: &ModelConfig,
    weights: &Weights,
    x: &[f32],
    levels: &[Level],
    classes: &[u32],
    guidance: f32,
) -> Result<Vec<f32>> {
    let with = estimate_values(config, weights, x, levels, classes)?;
    let null = vec![config.num_classes() as u32; classes.len()];
    let without = estimate_values(config, weights, x, levels, &null)?;
    Ok(with.iter().zip(without).map(|(with, without)| (guidance - 1.0) * (with - without)).collect())
}
