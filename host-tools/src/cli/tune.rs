//! `picodream tune`: from a trained checkpoint to one that draws in one to four steps, or to one on the grid of its blob.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::output::Output;
use super::shipped::ModelFiles;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::grid::{GridRecipe, grid_config};
use crate::recipe::{TuneOverrides, tune_recipe};
use crate::tune::{Method, tuned_config};

/// Tune a trained model to draw good images in one to four steps, one network call each.
///
/// Starts from a checkpoint of `picodream train`, needs its data again, and writes OUT.safetensors and OUT.json for
/// `picodream export`, and beside them what --resume needs, a log and sheets of samples at one and two steps. Guidance of
/// the base is built in, so that a tuned model needs no second call for it. The same checkpoint, recipe and seed give the
/// same file, interrupted or not, with any number of threads.
///
/// With --weights the model (tuned before or not) keeps its steps, and its weights come onto the grid on which the blob keeps
/// them, taught by the real ones: `export` then has nothing to round.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream tune fashion-16 --out fashion-16-fast.safetensors
  picodream tune mine.safetensors --steps 3000 --guidance 1.5
  picodream tune mine.safetensors --method progressive --out mine-fast.safetensors
  picodream tune mine-fast.safetensors --weights 4 --out mine-fast-w4.safetensors")]
pub struct TuneArgs {
    /// A checkpoint (.safetensors with its .json), or the name of a shipped model.
    #[arg(value_name = "CHECKPOINT")]
    base: String,
    /// The checkpoint to write [default: NAME.safetensors].
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Name of the tuned model [default: that of the base with -fast, or with -w8 or -w4].
    #[arg(long)]
    name: Option<String>,
    /// A recipe of tuning (.json) [default: the shipped one of this model, or the measured one].
    #[arg(long, value_name = "RECIPE.json", conflicts_with = "method")]
    recipe: Option<PathBuf>,
    /// How to tune.
    #[arg(long, value_enum)]
    method: Option<MethodName>,
    /// Bring the weights onto the blob's grid of so many bits, instead of tuning to few steps.
    #[arg(long, value_name = "BITS", value_parser = ["8", "4"], conflicts_with_all = ["recipe", "method", "guidance"])]
    weights: Option<String>,
    /// Guidance to build in; 1 is none [default: as the recipe says].
    #[arg(long, allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Optimiser steps [default: as the recipe says].
    #[arg(long)]
    steps: Option<usize>,
    /// Seed of data order, noise levels and noise [default: as the recipe says].
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from the state beside --out.
    #[arg(long)]
    resume: bool,
    /// Worker threads [default: as many as the machine has]; the result does not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Steps between checkpoints, which --resume goes on from; 0 for only the last.
    #[arg(long, default_value_t = 1000)]
    checkpoint_every: usize,
    /// Steps between sheets of samples; 0 for none.
    #[arg(long, default_value_t = 1000)]
    sample_every: usize,
}

/// Methods by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum MethodName {
    /// Easy consistency tuning: no teacher, best measured.
    Consistency,
    /// Progressive distillation: halves the steps of DDIM again and again.
    Progressive,
}

/// Runs the verb; what is wrong with checkpoint or recipe is told before the trainer is built.
pub fn run(args: &TuneArgs, output: &Output) -> Result<ExitCode> {
    let files = ModelFiles::find(&args.base)?;
    let base = Checkpoint::load(&files.checkpoint)?;
    let config = match args.weights.as_deref() {
        Some(bits) => on_grid(args, &base.config, if bits == "4" { 4 } else { 8 })?,
        None => in_few_steps(args, &base.config)?,
    };
    let out = args.out.clone().unwrap_or_else(|| Path::new(&config.name).with_extension("safetensors"));
    ensure!(
        out.extension().is_some_and(|e| e == "safetensors"),
        "--out is {}, but must end in .safetensors",
        out.display()
    );
    ensure!(
        absolute(&out)? != absolute(&files.checkpoint)?,
        "--out is {}, the checkpoint to start from: give it another name",
        out.display()
    );
    tune(args, &base, &config, out, output)
}

fn in_few_steps(args: &TuneArgs, base: &ModelConfig) -> Result<ModelConfig> {
    let overrides = TuneOverrides {
        method: args.method.map(|method| match method {
            MethodName::Consistency => Method::CONSISTENCY,
            MethodName::Progressive => Method::PROGRESSIVE,
        }),
        guidance: args.guidance,
        steps: args.steps,
        seed: args.seed,
    };
    let recipe = tune_recipe(base, args.recipe.as_deref(), &overrides)?;
    tuned_config(base, &args.name.clone().unwrap_or_else(|| format!("{}-fast", base.name)), recipe)
}

fn on_grid(args: &TuneArgs, base: &ModelConfig, weight_bits: u8) -> Result<ModelConfig> {
    let mut recipe = GridRecipe::new(base, weight_bits);
    recipe.train.steps = args.steps.unwrap_or(recipe.train.steps);
    recipe.train.seed = args.seed.unwrap_or(recipe.train.seed);
    grid_config(base, &args.name.clone().unwrap_or_else(|| format!("{}-w{weight_bits}", base.name)), recipe)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("there is no path {}", path.display()))
}

#[cfg(not(feature = "train"))]
fn tune(_: &TuneArgs, _: &Checkpoint, _: &ModelConfig, _: PathBuf, _: &Output) -> Result<ExitCode> {
    super::trainer_build::run("tuning")
}

#[cfg(feature = "train")]
fn tune(args: &TuneArgs, base: &Checkpoint, config: &ModelConfig, out: PathBuf, output: &Output) -> Result<ExitCode> {
    use crate::export::Trajectories;
    use crate::grid::measured;
    use crate::train::{TrainOptions, to_grid, tune};
    let data = crate::data::load_train(&config.data.source, config.image)?;
    let options = TrainOptions {
        out: out.clone(),
        threads: args.threads.map_or_else(crate::sampling::available_threads, usize::from),
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        sample_every: args.sample_every,
        quiet: false,
    };
    let report = match config.grid {
        Some(_) => {
            let bar = output.progress(Trajectories::of(&base.config).images, "measuring inputs");
            let config = measured(base, config.clone(), &mut || bar.inc(1))?;
            bar.finish_and_clear();
            to_grid(base, &config, &data, &options)?
        }
        None => tune(base, config, &data, &options)?,
    };
    super::train::tell(&report, &out, output)
}
