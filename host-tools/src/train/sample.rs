//! Sample sheets while training: DDIM (η = 0) in f32 over a batch, good enough to look at, not the shipped sampler.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use picodream::rng::NoiseStream;

use super::batch::NoiseLevels;
use super::unet::UNet;
use crate::config::{ModelConfig, PredictionType};
use crate::picture::{self, Picture, Sheet};

const STEPS: usize = 20;
const COLUMNS: usize = 10;
const ROWS: usize = 4;

/// `ROWS` × `COLUMNS` images; column = class where there are classes.
pub fn sample_sheet(config: &ModelConfig, weights: &BTreeMap<String, Tensor>, title: &str) -> Result<Vec<u8>> {
    let count = ROWS * COLUMNS;
    let classes: Vec<u32> = match config.num_classes() {
        0 => Vec::new(),
        classes => (0..count).map(|i| (i % COLUMNS % classes) as u32).collect(),
    };
    let (image, data) = (config.image, &config.data);
    let len = image.width * image.height * image.channels;
    let pixels = ddim(config, weights, count, &classes)?;
    let byte = |x: &f32| ((x * data.std + data.mean) * 255.0).round().clamp(0.0, 255.0) as u8;
    let images = pixels
        .chunks_exact(len)
        .map(|x| {
            let bytes: Vec<u8> = x.iter().map(byte).collect();
            Picture::from_samples(image.width, image.height, image.channels, &bytes)
        })
        .collect();
    let column_labels = data.class_names.iter().take(COLUMNS).cloned().collect();
    let sheet =
        Sheet { title: title.into(), images, columns: COLUMNS, row_labels: Vec::new(), column_labels, scale: 4 };
    picture::sheet(&sheet).0.png()
}

/// x_0 of `count` images, on the network's scale.
fn ddim(config: &ModelConfig, weights: &BTreeMap<String, Tensor>, count: usize, classes: &[u32]) -> Result<Vec<f32>> {
    let image = config.image;
    let len = image.width * image.height * image.channels;
    let levels = NoiseLevels::new(config);
    let last = config.schedule.num_train_timesteps() - 1;
    let steps = STEPS.min(last);
    let times: Vec<usize> = (0..steps).map(|i| last - i * last / steps).collect();
    let mut x = vec![0.0; count * len];
    for (i, x) in x.chunks_exact_mut(len).enumerate() {
        NoiseStream::new(config.train.seed, super::STREAM_SHEET + i as u64).fill_gaussian(x);
    }
    let network = UNet::new(config, weights);
    for (i, &t) in times.iter().enumerate() {
        let input = Tensor::from_slice(&x, (count, image.height, image.width, image.channels), &Device::Cpu)?;
        let output = network.forward(&input, &vec![t as f32; count], classes)?.flatten_all()?.to_vec1::<f32>()?;
        let next = times.get(i + 1).map_or((1.0, 0.0), |&t| levels.at(t));
        for (x, output) in x.iter_mut().zip(output) {
            *x = ddim_step(config, *x, output, levels.at(t), next);
        }
    }
    Ok(x)
}

/// One value from noise level `now` to `next`, each (√ᾱ, √(1−ᾱ)); the clean estimate is clipped to the range of pixels.
fn ddim_step(config: &ModelConfig, x: f32, output: f32, now: (f32, f32), next: (f32, f32)) -> f32 {
    let (signal, noise) = now;
    let x0 = match config.prediction_type {
        PredictionType::Epsilon => (x - noise * output) / signal,
        PredictionType::Sample => output,
        PredictionType::VPrediction => signal * x - noise * output,
    };
    let (mean, std) = (config.data.mean, config.data.std);
    let x0 = x0.clamp(-mean / std, (1.0 - mean) / std);
    next.0 * x0 + next.1 * (x - signal * x0) / noise
}
