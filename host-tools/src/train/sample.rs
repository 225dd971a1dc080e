//! Sample sheets while training: DDIM (η = 0) or consistency steps in f32 over a batch, to look at; not the shipped samplers.

use anyhow::Result;
use picodream::rng::NoiseStream;
use picodream::schedule::Schedule;
use picodream::spacing::{Spacing, Trailing};

use super::estimate::{Level, estimate_values, image_len};
use super::shards::Weights;
use crate::config::ModelConfig;
use crate::float::pipeline::schedule_bytes;
use crate::picture::{self, Picture, Sheet};
use crate::tune::Method;

const STEPS: usize = 20;
const COLUMNS: usize = 10;
/// Rows of a sheet, in two halves for a tuned model: one step and two.
const ROWS: usize = 4;

/// How x_t moves to the next level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// DDIM, η = 0.
    Ddim,
    /// The estimate of x0 under new noise.
    Consistency,
}

/// `ROWS` × `COLUMNS` images; column = class where there are classes.
pub fn sample_sheet(config: &ModelConfig, weights: &Weights, title: &str) -> Result<Vec<u8>> {
    let parts: Vec<(Rule, usize)> = match config.tune.as_ref().map(|tuned| tuned.recipe.method) {
        None => vec![(Rule::Ddim, STEPS)],
        Some(Method::Consistency { .. }) => vec![(Rule::Consistency, 1), (Rule::Consistency, 2)],
        Some(Method::Progressive { .. }) => vec![(Rule::Ddim, 1), (Rule::Ddim, 2)],
    };
    let count = ROWS * COLUMNS / parts.len();
    let classes: Vec<u32> = match config.num_classes() {
        0 => Vec::new(),
        classes => (0..count).map(|i| (i % COLUMNS % classes) as u32).collect(),
    };
    let (image, data) = (config.image, &config.data);
    let byte = |x: &f32| ((x * data.std + data.mean) * 255.0).round().clamp(0.0, 255.0) as u8;
    let (mut images, mut row_labels) = (Vec::new(), Vec::new());
    for (rule, steps) in parts {
        let pixels = draw(config, weights, rule, steps, &classes, count)?;
        images.extend(pixels.chunks_exact(image_len(config)).map(|x| {
            let bytes: Vec<u8> = x.iter().map(byte).collect();
            Picture::from_samples(image.width, image.height, image.channels, &bytes)
        }));
        row_labels.extend((0..count / COLUMNS).map(|_| format!("{steps}")));
    }
    let column_labels = data.class_names.iter().take(COLUMNS).cloned().collect();
    let (title, captions) = (title.into(), Vec::new());
    let sheet = Sheet { title, images, columns: COLUMNS, row_labels, column_labels, captions, scale: 4 };
    picture::sheet(&sheet).0.png()
}

/// The levels that `steps` sampling steps visit by a rule of the runtime, and the clean one that they end at.
#[must_use]
pub fn visited(config: &ModelConfig, spacing: impl Spacing, steps: usize) -> Vec<Level> {
    let bytes = schedule_bytes(config);
    let schedule = Schedule::new(&bytes);
    let level = |step: usize| {
        let level = spacing.level(&schedule, steps as u16, step as u16);
        Level { t: level.timestep, signal: level.alpha(), noise: level.sigma() }
    };
    (0..steps).map(level).chain([Level::CLEAN]).collect()
}

/// x_0 of `count` images on the network's scale, clipped to the range of pixels; the same number gives the same noise.
pub fn draw(
    config: &ModelConfig,
    weights: &Weights,
    rule: Rule,
    steps: usize,
    classes: &[u32],
    count: usize,
) -> Result<Vec<f32>> {
    let len = image_len(config);
    let (mean, std) = (config.data.mean, config.data.std);
    let steps = steps.min(config.schedule.num_train_timesteps());
    let mut streams: Vec<_> =
        (0..count).map(|i| NoiseStream::new(config.train.seed, super::STREAM_SHEET + i as u64)).collect();
    let mut x = vec![0.0; count * len];
    streams.iter_mut().zip(x.chunks_exact_mut(len)).for_each(|(stream, x)| stream.fill_gaussian(x));
    let levels = match rule {
        Rule::Ddim => visited(config, Trailing, steps),
        Rule::Consistency => visited(config, config.few_step(), steps),
    };
    for pair in levels.windows(2) {
        let (now, next) = (pair[0], pair[1]);
        let clean = estimate_values(config, weights, &x, &vec![now; count], classes)?;
        for (i, (x, clean)) in x.iter_mut().zip(clean).enumerate() {
            let clean = clean.clamp(-mean / std, (1.0 - mean) / std);
            *x = match rule {
                Rule::Ddim => now.step_to(next, *x, clean),
                Rule::Consistency if next == Level::CLEAN => clean,
                Rule::Consistency => next.signal * clean + next.noise * streams[i / len].next_gaussian(),
            };
        }
    }
    Ok(x)
}
