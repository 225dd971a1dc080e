//! `picodream bench train`: what a training step costs on this machine, part by part.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::output::Output;
use crate::config::ModelConfig;
use crate::recipe::{Overrides, recipe};

/// Measure training steps: milliseconds and GFLOP/s by part, one thread against two.
///
/// The variants take turns and the medians are told, so that a busy machine hurts all alike. --naive lets candle's own
/// convolution take its turn, as a measure that does not depend on the machine.
#[derive(Args, Debug)]
pub struct BenchTrainArgs {
    /// What to train: anything that `picodream train` takes.
    #[arg(default_value = "fashion-16")]
    source: String,
    /// Images per step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Steps of each variant.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    steps: u16,
    /// Also measure candle's own convolution.
    #[arg(long)]
    naive: bool,
}

/// Runs the verb; what is wrong with the config is told before the trainer is built.
pub fn run(args: &BenchTrainArgs, output: &Output) -> Result<ExitCode> {
    let config = recipe(&args.source, &Overrides::default())?;
    measure(args, &config, output)
}

#[cfg(not(feature = "train"))]
fn measure(_: &BenchTrainArgs, _: &ModelConfig, _: &Output) -> Result<ExitCode> {
    super::trainer_build::run("measuring the trainer")
}

#[cfg(feature = "train")]
fn measure(args: &BenchTrainArgs, config: &ModelConfig, output: &Output) -> Result<ExitCode> {
    use crate::train::bench::{TrainBenchOptions, bench};
    let options = TrainBenchOptions { batch: args.batch.into(), steps: args.steps.into(), naive: args.naive };
    let bar = output.progress(options.steps, "steps");
    let report = bench(config, options, &|| bar.inc(1));
    bar.finish_and_clear();
    let report = report?;
    output.line(format_args!("{}: {} weights, batch {}", report.model, report.weights, report.batch))?;
    output.line(format_args!("one thread   {:.1} ms per step, {:.1} GFLOP/s", report.ms_per_step, report.gflops))?;
    output.line(format_args!("two threads  {:.1} ms per step", report.ms_per_step_two_threads))?;
    if let (Some(ms), Some(ratio)) = (report.ms_per_step_naive, report.naive_ratio) {
        output.line(format_args!("candle's own convolution {ms:.1} ms per step, {ratio:.1} times as long"))?;
    }
    for part in &report.parts {
        let rate = part.gflops.map_or(String::new(), |rate| format!("  {rate:.1} GFLOP/s"));
        output.line(format_args!("  {:36} {:7.2} ms{rate}", part.part, part.ms))?;
    }
    output.object(&report)?;
    Ok(ExitCode::SUCCESS)
}
