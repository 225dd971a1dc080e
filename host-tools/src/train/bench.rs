//! What a training step costs: milliseconds and GFLOP/s by part, one thread against two, and against candle's own convolution.
//!
//! The variants take turns, step by step, and the median of each is taken, so that a busy machine hurts all alike.

use std::time::Instant;

use anyhow::{Result, ensure};
use picodream::rng::NoiseStream;
use serde::Serialize;

use super::batch::{Batch, NoiseLevels, Order};
use super::ops::clock::{self, Part};
use super::optimizer::{FlatLayout, State, learning_rate};
use super::trainer::loss_and_gradient_with;
use super::unet::{Convolutions, initial_weights};
use crate::config::{ModelConfig, TrainConfig};
use crate::data::Dataset;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainBenchOptions {
    /// Images per step.
    pub batch: usize,
    /// Steps of each variant.
    pub steps: usize,
    /// Whether candle's own convolution takes its turn.
    pub naive: bool,
}

impl Default for TrainBenchOptions {
    fn default() -> Self {
        Self { batch: 64, steps: 10, naive: false }
    }
}

/// One part of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartReport {
    /// What it is.
    pub part: &'static str,
    /// Milliseconds per step.
    pub ms: f64,
    /// Achieved rate in convolutions and attention; absent where arithmetic is not what it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
}

/// What a step costs. All times are medians.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainBenchReport {
    /// The model.
    pub model: String,
    /// Its weights.
    pub weights: usize,
    /// Images per step.
    pub batch: usize,
    /// Milliseconds per step on one thread.
    pub ms_per_step: f64,
    /// The same on two threads.
    pub ms_per_step_two_threads: f64,
    /// The same on one thread with candle's own convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms_per_step_naive: Option<f64>,
    /// How many times as long that takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub naive_ratio: Option<f64>,
    /// Convolution and attention arithmetic of a step over its time, on one thread.
    pub gflops: f64,
    /// Where the time of one thread goes.
    pub parts: Vec<PartReport>,
}

/// Measures training steps of the network of `config`, from random images; `on_step` is called after each.
pub fn bench(config: &ModelConfig, options: TrainBenchOptions, on_step: &dyn Fn()) -> Result<TrainBenchReport> {
    ensure!(options.batch > 0 && options.steps > 0, "batch and steps must be at least 1");
    super::host::prepare();
    let train = TrainConfig { batch_size: options.batch, steps: 1_000_000, ..config.train.clone() };
    let config = &ModelConfig { train, tune: None, grid: None, ..config.clone() };
    config.validate()?;
    let mut runner = Runner::new(config);
    let (own, naive) = (Convolutions::Own, Convolutions::Candle);
    runner.step(own, 2)?; // Fills caches and the allocator.
    let (mut one, mut two, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = [(0.0, 0); Part::ALL.len()];
    for _ in 0..options.steps {
        let (ms, sums) = clock::count(|| runner.step(own, 1));
        one.push(ms?);
        parts.iter_mut().zip(sums).for_each(|(sum, (s, ops))| *sum = (sum.0 + s, sum.1 + ops));
        two.push(runner.step(own, 2)?);
        if options.naive {
            slow.push(runner.step(naive, 1)?);
        }
        on_step();
    }
    let mean_ms = one.iter().sum::<f64>() / one.len() as f64;
    let (ms_per_step, two_threads) = (median(one), median(two));
    let naive_ms = options.naive.then(|| median(slow));
    let operations: u64 = parts.iter().map(|(_, operations)| operations).sum();
    Ok(TrainBenchReport {
        model: config.name.clone(),
        weights: runner.layout.len(),
        batch: options.batch,
        ms_per_step,
        ms_per_step_two_threads: two_threads,
        ms_per_step_naive: naive_ms,
        naive_ratio: naive_ms.map(|ms| ms / ms_per_step),
        gflops: operations as f64 / options.steps as f64 / ms_per_step * 1e-6,
        parts: part_reports(&parts, options.steps, mean_ms, &runner),
    })
}

fn part_reports(sums: &[(f64, u64)], steps: usize, mean_ms: f64, runner: &Runner<'_>) -> Vec<PartReport> {
    let per_step = |seconds: f64| 1e3 * seconds / steps as f64;
    let one = |(part, (seconds, operations)): (&Part, &(f64, u64))| PartReport {
        part: part.name(),
        ms: per_step(*seconds),
        gflops: (*operations > 0 && *seconds > 0.0).then(|| *operations as f64 / seconds * 1e-9),
    };
    let plain = |part, ms| PartReport { part, ms, gflops: None };
    let mut parts: Vec<_> = Part::ALL.iter().zip(sums).map(one).collect();
    let (draw, update) = runner.outside();
    parts.extend([plain("drawing the batch", draw), plain("optimiser", update)]);
    let known: f64 = parts.iter().map(|part| part.ms).sum();
    parts.push(plain("the rest: graph, additions, copies", (mean_ms - known).max(0.0)));
    parts
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) }
}

/// Training with a stopwatch.
struct Runner<'a> {
    config: &'a ModelConfig,
    data: Dataset,
    levels: NoiseLevels,
    order: Order,
    layout: FlatLayout,
    state: State,
    /// Seconds of drawing batches and of the optimiser, in the steps of one thread.
    outside: (f64, f64),
    counted: usize,
}

impl<'a> Runner<'a> {
    fn new(config: &'a ModelConfig) -> Self {
        let layout = FlatLayout::new(config);
        let state = State::new(layout.flatten(&initial_weights(config, config.train.seed)));
        let data = noise_images(config, 4 * config.train.batch_size);
        let order = Order::new(config.train.seed, data.len());
        Self { config, levels: NoiseLevels::new(config), data, order, layout, state, outside: (0.0, 0.0), counted: 0 }
    }

    /// One step; its milliseconds.
    fn step(&mut self, convolutions: Convolutions, threads: usize) -> Result<f64> {
        let Self { config, data, levels, order, layout, state, .. } = self;
        let begin = Instant::now();
        let batch = Batch::draw(config, data, levels, order, state.step);
        let drawn = begin.elapsed();
        let (_, mut gradient) = loss_and_gradient_with(config, layout, &state.weights, &batch, threads, convolutions)?;
        let summed = begin.elapsed();
        let rate = learning_rate(&config.train, state.step);
        state.update(&config.train, layout, &mut gradient, rate);
        let all = begin.elapsed();
        if threads == 1 && convolutions == Convolutions::Own {
            self.outside.0 += drawn.as_secs_f64();
            self.outside.1 += (all - summed).as_secs_f64();
            self.counted += 1;
        }
        Ok(1e3 * all.as_secs_f64())
    }

    /// Milliseconds per step of drawing the batch and of the optimiser.
    fn outside(&self) -> (f64, f64) {
        let per_step = |seconds: f64| 1e3 * seconds / self.counted.max(1) as f64;
        (per_step(self.outside.0), per_step(self.outside.1))
    }
}

/// Images of noise, one class after the other.
fn noise_images(config: &ModelConfig, count: usize) -> Dataset {
    let crate::config::ImageConfig { width, height, channels } = config.image;
    let mut stream = NoiseStream::new(1, 0);
    let images = (0..count * width * height * channels).map(|_| stream.below(256) as u8).collect();
    let classes = config.num_classes();
    let labels = if classes == 0 { Vec::new() } else { (0..count).map(|i| (i % classes) as u16).collect() };
    Dataset { width, height, channels, images, labels, class_names: config.data.class_names.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::tiny;

    #[test]
    fn a_report_adds_up() {
        let options = TrainBenchOptions { batch: 20, steps: 2, naive: true };
        let calls = std::cell::Cell::new(0);
        let report = bench(&tiny(), options, &|| calls.set(calls.get() + 1)).unwrap();
        assert_eq!((report.batch, calls.get(), report.parts.len()), (20, 2, 10));
        assert!(report.ms_per_step > 0.0 && report.ms_per_step_two_threads > 0.0 && report.gflops > 0.0);
        let ratio = report.ms_per_step_naive.unwrap() / report.ms_per_step;
        assert!((report.naive_ratio.unwrap() - ratio).abs() < 1e-12);
        // Every operator ran, so every part took some time.
        assert!(report.parts[..9].iter().all(|part| part.ms > 0.0), "{report:?}");
    }

    #[test]
    fn medians_of_odd_and_even_lists() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }

    #[test]
    fn nothing_to_measure_is_an_error() {
        let error = bench(&tiny(), TrainBenchOptions { steps: 0, ..TrainBenchOptions::default() }, &|| ()).unwrap_err();
        assert_eq!(error.to_string(), "batch and steps must be at least 1");
    }
}
