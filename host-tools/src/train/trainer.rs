//! The training loop: draw a batch, sum gradients over shards, update, report, save; resumable at any checkpoint.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};

use super::batch::{Batch, NoiseLevels, Order};
use super::lesson::{Course, Lesson};
use super::optimizer::{FlatLayout, State};
use super::progress::Progress;
use super::sample::sample_sheet;
use super::shards;
use super::unet::{Convolutions, UNet, initial_weights};
use super::variance;
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, TrainConfig};
use crate::data::Dataset;
use crate::files;

/// How to run, as opposed to what to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// The `.safetensors` file to write; `.json`, `.train.safetensors`, `.log` and `.sheet.png` lie beside it.
    pub out: PathBuf,
    /// Worker threads, at least 1; the result does not depend on it.
    pub threads: usize,
    /// Continue from the state beside `out`.
    pub resume: bool,
    /// Steps between checkpoints; 0 for only the last.
    pub checkpoint_every: usize,
    /// Steps between sample sheets; 0 for none.
    pub sample_every: usize,
    /// No progress on stderr.
    pub quiet: bool,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct TrainReport {
    /// Steps done in all, with those before a resumption.
    pub steps: usize,
    /// Mean loss of the last hundred steps of this run (NaN when it did none).
    pub loss: f64,
    /// Wall-clock time of this run.
    pub seconds: f64,
    /// Number of weights.
    pub weights: usize,
}

/// Trains the network of `config` on `data` and writes the averaged weights to `options.out`.
pub fn train(config: &ModelConfig, data: &Dataset, options: &TrainOptions) -> Result<TrainReport> {
    ensure!(
        config.tune.is_none() && config.grid.is_none(),
        "{} is a tuned model: train its base, then tune that",
        config.name
    );
    check(config, data, options)?;
    let first = |layout: &FlatLayout| State::new(layout.flatten(&initial_weights(config, config.train.seed)));
    run(config, Lesson::Denoise, config.clone(), data, options, first)
}

/// Tunes `base` to few steps, as the `tune` section of `config` says, and writes the averaged weights to `options.out`.
///
/// `config` is that of [`crate::tune::tuned_config`].
pub fn tune(base: &Checkpoint, config: &ModelConfig, data: &Dataset, options: &TrainOptions) -> Result<TrainReport> {
    check(config, data, options)?;
    let tuned = config.tune.as_ref().context("the config has no recipe of tuning")?;
    teach(base, config, (Lesson::Tune(tuned.recipe.clone()), &tuned.recipe.train), data, options)
}

/// Brings the weights of `base` onto the grid of its blob, as the `grid` section of `config` says, and writes them to
/// `options.out`.
///
/// `config` is that of [`crate::grid::grid_config`].
pub fn to_grid(base: &Checkpoint, config: &ModelConfig, data: &Dataset, options: &TrainOptions) -> Result<TrainReport> {
    check(config, data, options)?;
    let grid = config.grid.as_ref().context("the config has no recipe for the grid")?;
    teach(base, config, (Lesson::Grid, &grid.recipe.train), data, options)
}

/// A run that starts from the weights of `base`, which are also the teacher where there is one.
fn teach(
    base: &Checkpoint,
    config: &ModelConfig,
    (lesson, train): (Lesson, &TrainConfig),
    data: &Dataset,
    options: &TrainOptions,
) -> Result<TrainReport> {
    let taught = lesson.is_taught();
    let course = ModelConfig { train: train.clone(), ..config.clone() };
    let first = |layout: &FlatLayout| {
        let weights = layout.flatten(&base.tensors);
        State { teacher: if taught { weights.clone() } else { Vec::new() }, ..State::new(weights) }
    };
    run(config, lesson, course, data, options, first)
}

/// The loop. `saved` goes into the checkpoint; `config` is the same with the `train` section that this run follows.
fn run(
    saved: &ModelConfig,
    lesson: Lesson,
    config: ModelConfig,
    data: &Dataset,
    options: &TrainOptions,
    first: impl FnOnce(&FlatLayout) -> State,
) -> Result<TrainReport> {
    super::host::prepare();
    let layout = FlatLayout::new(&config);
    let state_path = options.out.with_extension("train.safetensors");
    let mut state = if options.resume { resume(saved, &layout, &options.out, &state_path)? } else { first(&layout) };
    let (levels, order) = (NoiseLevels::new(&config), Order::new(config.train.seed, data.len()));
    let mut course = Course { config: &config, data, levels, order, layout: &layout, threads: options.threads };
    let steps = config.train.steps;
    let mut progress = Progress::new(steps, options, state.step)?;
    while state.step < steps {
        lesson.begin(&config.train, &mut state);
        let (loss, mut gradient) = lesson.gradient(&mut course, &state)?;
        ensure!(
            loss.is_finite(),
            "training diverged: the loss of step {} is {loss}; lower train.learning_rate or train.clip_norm",
            state.step
        );
        let rate = lesson.rate(&config.train, state.step);
        let norm = state.update(&config.train, &layout, &mut gradient, rate);
        progress.step(state.step, loss, rate, norm)?;
        let due = |every: usize| state.step == steps || (every > 0 && state.step.is_multiple_of(every));
        if due(options.checkpoint_every) {
            state.checkpoint(saved, &layout).save(&options.out)?;
            state.save(&state_path)?;
        }
        if options.sample_every > 0 && due(options.sample_every) {
            let title = format!("{} step {}", config.name, state.step);
            let png = sample_sheet(&config, &layout.variables(&state.averaged(&config, &layout))?, &title)?;
            files::write_atomic(&options.out.with_extension("sheet.png"), &png)?;
        }
    }
    progress.finish();
    let seconds = progress.start.elapsed().as_secs_f64();
    Ok(TrainReport { steps: state.step, loss: progress.mean_loss(), seconds, weights: layout.len() })
}

fn check(config: &ModelConfig, data: &Dataset, options: &TrainOptions) -> Result<()> {
    config.validate()?;
    let image = config.image;
    ensure!(options.threads > 0, "threads is 0, but must be at least 1");
    ensure!(!data.is_empty(), "there is no image to train on");
    ensure!(
        (data.width, data.height, data.channels) == (image.width, image.height, image.channels),
        "the data has images of {}x{}x{}, but the config says {}x{}x{} (width x height x channels)",
        data.width,
        data.height,
        data.channels,
        image.width,
        image.height,
        image.channels
    );
    let classes = config.num_classes();
    if classes > 0 {
        ensure!(
            data.labels.len() == data.len(),
            "the config has {classes} classes, but the data has {} labels for {} images",
            data.labels.len(),
            data.len()
        );
        if let Some(unknown) = data.labels.iter().find(|label| usize::from(**label) >= classes) {
            bail!("the data has label {unknown}, but the config has {classes} classes");
        }
    }
    Ok(())
}

fn resume(config: &ModelConfig, layout: &FlatLayout, out: &Path, state_path: &Path) -> Result<State> {
    let json_path = out.with_extension("json");
    let json = files::read(&json_path).context("nothing to resume: train without --resume first")?;
    let before: ModelConfig =
        serde_json::from_slice(&json).with_context(|| format!("{} is not a model config", json_path.display()))?;
    ensure!(before == *config, "cannot resume: {} holds another config than the one given", json_path.display());
    State::load(state_path, layout.len())
}

/// Mean squared error over the batch (with learned variances also [`variance::loss`]), and its gradient.
pub fn loss_and_gradient(
    config: &ModelConfig,
    layout: &FlatLayout,
    weights: &[f32],
    batch: &Batch,
    threads: usize,
) -> Result<(f64, Vec<f32>)> {
    loss_and_gradient_with(config, layout, weights, batch, threads, Convolutions::Own)
}

/// The same with a choice of convolutions.
pub fn loss_and_gradient_with(
    config: &ModelConfig,
    layout: &FlatLayout,
    weights: &[f32],
    batch: &Batch,
    threads: usize,
    convolutions: Convolutions,
) -> Result<(f64, Vec<f32>)> {
    let image = config.image;
    let len = image.width * image.height * image.channels;
    shards::loss_and_gradient(layout, weights, batch.timesteps.len(), threads, |weights, range| {
        let shape = (range.len(), image.height, image.width, image.channels);
        let pixels = range.start * len..range.end * len;
        let x = Tensor::from_slice(&batch.noised[pixels.clone()], shape, &Device::Cpu)?;
        let target = Tensor::from_slice(&batch.target[pixels], shape, &Device::Cpu)?;
        let classes = if batch.classes.is_empty() { &[] } else { &batch.classes[range.clone()] };
        let unet = UNet::with(config, weights, convolutions);
        let output = unet.forward(&x, &batch.timesteps[range.clone()], classes)?;
        if !config.unet.learned_variance {
            return Ok((output - target)?.sqr()?.mean_all()?);
        }
        let half = |first: usize| output.narrow(3, first, image.channels);
        let squares = (half(0)? - target)?.sqr()?;
        let bounds = &batch.bounds[range];
        let bound = variance::loss(&half(image.channels)?, &squares, bounds, config.schedule.num_train_timesteps())?;
        Ok((squares.mean_all()? + bound)?)
    })
}
