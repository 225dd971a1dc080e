//! `picodream train`: from images to a checkpoint.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use super::output::Output;
use crate::recipe::{Overrides, recipe};

/// Train a model on images: a config file, a built-in set, or a folder of your own pictures.
///
/// Writes OUT.safetensors (averaged weights) and OUT.json (config) for `picodream export`, and beside them what --resume
/// needs, a log and sheets of samples. The same config and seed give the same file, interrupted or not, with any number
/// of threads. The trainer (candle) is compiled the first time that it is used.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream train fashion --out fashion.safetensors
  picodream train my-pictures --size 16 --steps 20000 --out mine.safetensors
  picodream train mine.json --out mine.safetensors --resume

A folder's sub-folders are classes; one image in ten is held out for `picodream eval`. To change the network, train once
with --steps 1, edit the .json, and train from that.")]
pub struct TrainArgs {
    /// A config (.json), fashion, faces, emoji, the name of a shipped model, a folder of pictures, or an IDX images file;
    /// fashion:Bag,Sneaker means these classes only.
    #[arg(value_name = "CONFIG.json|NAME|FOLDER")]
    source: String,
    /// The checkpoint to write [default: NAME.safetensors].
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,
    /// Optimiser steps [default: as the config says].
    #[arg(long)]
    steps: Option<usize>,
    /// Seed of initial weights, data order and noise [default: as the config says].
    #[arg(long)]
    seed: Option<u64>,
    /// Width and height of the images, for a folder or IDX file.
    #[arg(long, value_parser = clap::value_parser!(u16).range(4..=64))]
    size: Option<u16>,
    /// Train on grey images, for a folder of pictures.
    #[arg(long)]
    grey: bool,
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

/// Runs the verb; what is wrong with the config is told before the trainer is built.
pub fn run(args: &TrainArgs, output: &Output) -> Result<ExitCode> {
    let overrides = Overrides { steps: args.steps, seed: args.seed, size: args.size.map(usize::from), grey: args.grey };
    let config = recipe(&args.source, &overrides)?;
    let out = args.out.clone().unwrap_or_else(|| Path::new(&config.name).with_extension("safetensors"));
    ensure!(
        out.extension().is_some_and(|e| e == "safetensors"),
        "--out is {}, but must end in .safetensors",
        out.display()
    );
    train(args, &config, out, output)
}

#[cfg(not(feature = "train"))]
fn train(_: &TrainArgs, _: &crate::config::ModelConfig, _: PathBuf, _: &Output) -> Result<ExitCode> {
    super::trainer_build::run("training")
}

#[cfg(feature = "train")]
fn train(args: &TrainArgs, config: &crate::config::ModelConfig, out: PathBuf, output: &Output) -> Result<ExitCode> {
    use crate::train::{TrainOptions, train};
    let data = crate::data::load_train(&config.data.source, config.image)?;
    let options = TrainOptions {
        out: out.clone(),
        threads: args.threads.map_or_else(crate::sampling::available_threads, usize::from),
        resume: args.resume,
        checkpoint_every: args.checkpoint_every,
        sample_every: args.sample_every,
        quiet: false,
    };
    let report = train(config, &data, &options)?;
    tell(&report, &out, output)
}

/// What a run of the trainer did, and what comes next.
#[cfg(feature = "train")]
pub(super) fn tell(report: &crate::train::TrainReport, out: &Path, output: &Output) -> Result<ExitCode> {
    output.line(format_args!(
        "{}: {} weights after {} steps, loss {:.4}, {:.0} s\nnext: {} export {}",
        out.display(),
        report.weights,
        report.steps,
        report.loss,
        report.seconds,
        super::output::command_name(),
        out.display()
    ))?;
    output.object(&serde_json::json!({
        "file": out, "steps": report.steps, "loss": report.loss, "seconds": report.seconds, "weights": report.weights,
    }))?;
    Ok(ExitCode::SUCCESS)
}
