//! `picodream eval`: how close a model's images come to real ones.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::sample::{Engine, network};
use super::shipped::ModelFiles;
use crate::config::{ImageConfig, ModelConfig};
use crate::eval::{EvalReport, FeatureNet, evaluate};
use crate::files;
use crate::sampling::{DrawnImage, Request, Settings, available_threads, default_class, draw};

/// Measure how close a model's images come to the test split of its data.
///
/// Prints the Fréchet distance between features of drawn images and of the test split, in the 64 features of a small
/// network that is shipped with these tools: it is not FID, and it compares only models of the same data. The floor is
/// what as many real training images score. For models with classes also the share of images that the network takes for
/// the class that was asked for; for the faces the share that it takes for unbroken. Classes follow the seeds.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream eval fashion-16 --steps 50 --samples 5000
  picodream eval faces-16 --engine f32 --samples 1000 --json")]
pub struct EvalArgs {
    /// Path of a blob or checkpoint, or the name of a shipped model.
    model: String,
    /// DDIM steps.
    #[arg(long, default_value_t = 20)]
    steps: u16,
    /// Number of images to draw.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    samples: u32,
    /// Seed of the first image.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Classifier-free guidance scale; 1 is none.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f32,
    /// Which network draws.
    #[arg(long, value_enum, default_value_t = Engine::Int8)]
    engine: Engine,
    /// The data to compare with: fashion or faces [default: what the model was trained on].
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Worker threads [default: as many as the machine has].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Debug, Serialize)]
struct EvalJson {
    model: String,
    engine: &'static str,
    steps: u16,
    data: String,
    seconds: f64,
    #[serde(flatten)]
    report: EvalReport,
}

/// Runs the verb.
pub fn run(args: &EvalArgs, output: &Output) -> Result<()> {
    let files = ModelFiles::find(&args.model)?;
    let (network, names, label) = network(args.engine, &files)?;
    let data = match &args.data {
        Some(data) => data.clone(),
        None => trained_on(&files)?,
    };
    let settings = Settings { steps: args.steps, guidance: args.guidance, ..Settings::default() };
    let classes = u16::try_from(names.len())?;
    let requests: Vec<Request> = (0..u64::from(args.samples))
        .map(|i| args.seed.wrapping_add(i))
        .map(|seed| Request { seed, class: default_class(classes, seed) })
        .collect();
    let shape = network.image()?;
    let features = FeatureNet::for_source(&data, shape)?;

    let bar = output.progress(requests.len(), "drawing");
    let begin = Instant::now();
    let threads = args.threads.map_or_else(available_threads, usize::from);
    let drawn = draw(&network, &settings, &requests, threads, || bar.inc(1))?;
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let spinner = output.spinner("comparing");
    let report = compare(&drawn, shape, &features, &data)?;
    spinner.finish_and_clear();
    tell(&label, args, &report, seconds, output)?;
    let (model, engine, steps) = (args.model.clone(), args.engine.name(), args.steps);
    output.object(&EvalJson { model, engine, steps, data, seconds, report })
}

/// The data set that the model's config names.
pub fn trained_on(files: &ModelFiles) -> Result<String> {
    let path = files.checkpoint.with_extension("json");
    let json =
        files::read(&path).context("say with --data what to compare with, or keep the config beside the blob")?;
    let config: ModelConfig =
        serde_json::from_slice(&json).with_context(|| format!("{} is not a model config", path.display()))?;
    Ok(config.data.source)
}

fn compare(drawn: &[DrawnImage], shape: ImageConfig, features: &FeatureNet, data: &str) -> Result<EvalReport> {
    let images: Vec<u8> = drawn.iter().flat_map(|d| d.pixels.iter().copied()).collect();
    let labels: Vec<u16> = drawn.iter().filter_map(|d| d.request.class).collect();
    evaluate(&images, &labels, shape, features, data)
}

fn tell(label: &str, args: &EvalArgs, report: &EvalReport, seconds: f64, output: &Output) -> Result<()> {
    let (engine, steps, samples) = (args.engine.name(), args.steps, report.samples);
    output.line(format_args!("{label}: {samples} images, {engine}, DDIM-{steps}, {seconds:.0} s"))?;
    output.line(format_args!("Fréchet distance    {:.3}", report.fd))?;
    output.line(format_args!("floor (real images) {:.3}", report.fd_floor))?;
    if let Some(accuracy) = report.class_accuracy {
        output.line(format_args!("class accuracy      {:.1} %", 100.0 * accuracy))?;
    }
    if let Some(intact) = report.intact {
        output.line(format_args!("unbroken            {:.1} %", 100.0 * intact))?;
    }
    Ok(())
}
