//! The training loop: draw a batch, sum gradients over shards, update, report, save; resumable at any checkpoint.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};

use super::batch::{Batch, NoiseLevels, Order};
use super::optimizer::{FlatLayout, State, learning_rate};
use super::sample::sample_sheet;
use super::unet::{UNet, initial_weights};
use crate::config::ModelConfig;
use crate::data::Dataset;
use crate::files;

/// Images per shard. Gradients are summed shard by shard, so this number (not that of the threads) fixes the result.
const SHARD_IMAGES: usize = 16;
/// Steps between two lines of the log.
const LOG_EVERY: usize = 100;

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
    /// Mean loss of the last `LOG_EVERY` steps of this run (NaN when it did none).
    pub loss: f64,
    /// Wall-clock time of this run.
    pub seconds: f64,
    /// Number of weights.
    pub weights: usize,
}

/// Trains the network of `config` on `data` and writes the averaged weights to `options.out`.
pub fn train(config: &ModelConfig, data: &Dataset, options: &TrainOptions) -> Result<TrainReport> {
    check(config, data, options)?;
    super::host::prepare();
    let layout = FlatLayout::new(config);
    let state_path = options.out.with_extension("train.safetensors");
    let mut state = if options.resume {
        resume(config, &layout, &options.out, &state_path)?
    } else {
        State::new(layout.flatten(&initial_weights(config, config.train.seed)))
    };
    let (levels, mut order) = (NoiseLevels::new(config), Order::new(config.train.seed, data.len()));
    let mut progress = Progress::new(config, options, state.step)?;
    while state.step < config.train.steps {
        let batch = Batch::draw(config, data, &levels, &mut order, state.step);
        let (loss, mut gradient) = loss_and_gradient(config, &layout, &state.weights, &batch, options.threads)?;
        ensure!(
            loss.is_finite(),
            "training diverged: the loss of step {} is {loss}; lower train.learning_rate or train.clip_norm",
            state.step
        );
        let rate = learning_rate(&config.train, state.step);
        let norm = state.update(&config.train, &layout, &mut gradient);
        progress.step(state.step, loss, rate, norm)?;
        let done = state.step == config.train.steps;
        let due = |every: usize| done || (every > 0 && state.step.is_multiple_of(every));
        if due(options.checkpoint_every) {
            state.checkpoint(config, &layout).save(&options.out)?;
            state.save(&state_path)?;
        }
        if options.sample_every > 0 && due(options.sample_every) {
            let title = format!("{} step {}", config.name, state.step);
            let png = sample_sheet(config, &layout.variables(&state.ema)?, &title)?;
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

/// Mean squared error over the batch, and its gradient; shards go to threads in turn and are summed in their own order.
pub fn loss_and_gradient(
    config: &ModelConfig,
    layout: &FlatLayout,
    weights: &[f32],
    batch: &Batch,
    threads: usize,
) -> Result<(f64, Vec<f32>)> {
    let variables = layout.variables(weights)?;
    let shards = batch.timesteps.len().div_ceil(SHARD_IMAGES);
    let threads = threads.min(shards);
    let work = |first: usize| -> Vec<Result<(f64, Vec<f32>)>> {
        (first..shards).step_by(threads).map(|s| shard_gradient(config, layout, &variables, batch, s)).collect()
    };
    let mut results: Vec<_> = if threads == 1 {
        vec![work(0).into_iter()]
    } else {
        std::thread::scope(|scope| {
            let work = &work;
            let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
            handles.into_iter().map(|h| h.join().expect("a training thread panicked").into_iter()).collect()
        })
    };
    let (mut loss, mut gradient) = (0.0, vec![0.0; layout.len()]);
    for shard in 0..shards {
        let (shard_loss, shard_gradient) = results[shard % threads].next().expect("one result per shard")?;
        loss += shard_loss;
        gradient.iter_mut().zip(shard_gradient).for_each(|(sum, g)| *sum += g);
    }
    Ok((loss, gradient))
}

/// Loss and gradient of shard number `shard`, weighted by its part of the batch.
fn shard_gradient(
    config: &ModelConfig,
    layout: &FlatLayout,
    variables: &BTreeMap<String, Tensor>,
    batch: &Batch,
    shard: usize,
) -> Result<(f64, Vec<f32>)> {
    let image = config.image;
    let len = image.width * image.height * image.channels;
    let all = batch.timesteps.len();
    let (start, end) = (shard * SHARD_IMAGES, ((shard + 1) * SHARD_IMAGES).min(all));
    let shape = (end - start, image.height, image.width, image.channels);
    let x = Tensor::from_slice(&batch.noised[start * len..end * len], shape, &Device::Cpu)?;
    let target = Tensor::from_slice(&batch.target[start * len..end * len], shape, &Device::Cpu)?;
    let classes = if batch.classes.is_empty() { &[] } else { &batch.classes[start..end] };
    let output = UNet::new(config, variables).forward(&x, &batch.timesteps[start..end], classes)?;
    let loss = (output - target)?.sqr()?.mean_all()?;
    let grads = loss.backward()?;
    let part = (end - start) as f64 / all as f64;
    let gradient = layout.gradients(&grads, variables, part as f32)?;
    Ok((f64::from(loss.to_scalar::<f32>()?) * part, gradient))
}

/// The bar (or plain lines) on stderr and the log file.
struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    log: std::fs::File,
    recent: Vec<f64>,
    total: usize,
    first: usize,
    start: Instant,
}

impl Progress {
    fn new(config: &ModelConfig, options: &TrainOptions, step: usize) -> Result<Self> {
        let path = options.out.with_extension("log");
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = OpenOptions::new()
            .create(true)
            .write(true)
            .append(options.resume)
            .truncate(!options.resume)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !options.quiet).then(|| {
            let bar = ProgressBar::new(config.train.steps as u64).with_position(step as u64);
            let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg} {per_sec} ETA {eta}");
            bar.with_style(style.expect("a valid template"))
        });
        let plain = !terminal && !options.quiet;
        let (total, start) = (config.train.steps, Instant::now());
        Ok(Self { bar, plain, log, recent: Vec::new(), total, first: step, start })
    }

    fn step(&mut self, step: usize, loss: f64, rate: f64, norm: f32) -> Result<()> {
        if self.recent.len() == LOG_EVERY {
            self.recent.remove(0);
        }
        self.recent.push(loss);
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
            bar.set_message(format!("loss {:.4} rate {rate:.2e}", self.mean_loss()));
        }
        if step.is_multiple_of(LOG_EVERY) || step == self.total {
            let elapsed = self.start.elapsed();
            let per_step = elapsed.as_secs_f64() / (step - self.first) as f64;
            let left = Duration::from_secs((per_step * (self.total - step) as f64) as u64);
            let line = format!(
                "step {step}/{} loss {:.5} rate {rate:.3e} grad {norm:.3} {:.1} ms/step elapsed {}s left {}s",
                self.total,
                self.mean_loss(),
                per_step * 1e3,
                elapsed.as_secs(),
                left.as_secs()
            );
            writeln!(self.log, "{line}").context("cannot write the training log")?;
            if self.plain {
                eprintln!("{line}");
            }
        }
        Ok(())
    }

    fn mean_loss(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len() as f64
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
