//! `picodream eval`: how close a model's images come to real ones.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::output::Output;
use super::rule::Rule;
use super::sample::{Engine, network};
use super::shipped::ModelFiles;
use crate::config::{ImageConfig, ModelConfig};
use crate::data::{self, Dataset};
use crate::eval::confidence::{Confidence, summarise};
use crate::eval::neighbours::neighbours;
use crate::eval::{EvalReport, FeatureNet, evaluate};
use crate::files;
use crate::sampling::{DrawnImage, Network, Request, Settings, available_threads, default_class, draw};

/// Measure how close a model's images come to the test split of its data.
///
/// Prints the Fréchet distance between features of drawn images and of the test split, in the 64 features of a small
/// network that is shipped with these tools: it is not FID, and it compares only models of the same data. The floor is
/// what as many real training images score. For models with classes also the share of images that the network takes for
/// the class that was asked for, in all and by class; for faces and emoji the share that it takes for unbroken. Classes follow
/// the seeds. --repeats says how sure the figures are, --neighbours how varied the images are and how near to the
/// training images they come.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream eval fashion-16 --steps 50 --samples 5000
  picodream eval fashion-16-fast.safetensors --engine f32 --steps 1 --repeats 3
  picodream eval faces-16 --engine f32 --samples 1000 --neighbours --json")]
pub struct EvalArgs {
    /// Path of a blob or checkpoint, or the name of a shipped model.
    model: String,
    /// Sampling steps [default: 20, or 1 for a model tuned for consistency].
    #[arg(long)]
    steps: Option<u16>,
    /// Update rule [default: consistency for a model tuned for it, else ddim].
    #[arg(long, value_enum)]
    sampler: Option<Rule>,
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
    /// The data to compare with: fashion, faces or emoji [default: what the model was trained on].
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Evaluate so many times, each with seeds of its own, and tell the mean and its 95 % interval.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    repeats: u16,
    /// Also tell density, coverage and the distance to training images; needs the data.
    #[arg(long)]
    neighbours: bool,
    /// Worker threads [default: as many as the machine has].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

#[derive(Debug, Serialize)]
struct EvalJson {
    model: String,
    engine: &'static str,
    sampler: &'static str,
    steps: u16,
    data: String,
    seconds: f64,
    #[serde(flatten)]
    report: EvalReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<Confidence>,
}

/// Runs the verb.
pub fn run(args: &EvalArgs, output: &Output) -> Result<()> {
    let files = ModelFiles::find(&args.model)?;
    let (network, names, label) = network(args.engine, &files)?;
    let data = args.data.clone().map_or_else(|| trained_on(&files), Ok)?;
    let rule = args.sampler.unwrap_or_else(|| Rule::of(&files));
    let steps = args.steps.unwrap_or_else(|| rule.default_steps());
    let settings = Settings { steps, guidance: args.guidance, sampler: rule.choice(), ..Settings::default() };
    let shape = network.image()?;
    let judge = Judge::new(&data, shape, args.neighbours)?;

    let begin = Instant::now();
    let reports = (0..u64::from(args.repeats))
        .map(|repeat| {
            // The seeds of a repeat follow those of the one before.
            let seeds = (args.seed.wrapping_add(repeat * u64::from(args.samples)), args.samples);
            judge.report(&draw_seeds(seeds, &network, &settings, (names.len(), args.threads), output)?, output)
        })
        .collect::<Result<Vec<_>>>()?;
    let seconds = begin.elapsed().as_secs_f64();
    let (report, confidence) = summarise(&reports);
    let title = format!("{label}: {} images, {}, {}-{steps}", report.samples, args.engine.name(), rule.name());
    tell(&title, &report, confidence.as_ref(), seconds, output)?;
    let (model, engine, sampler) = (args.model.clone(), args.engine.name(), rule.name());
    output.object(&EvalJson { model, engine, sampler, steps, data, seconds, report, confidence })
}

/// So many images from the seed on; classes follow the seeds.
pub fn draw_seeds(
    (first, samples): (u64, u32),
    network: &Network<'_>,
    settings: &Settings,
    (classes, threads): (usize, Option<u16>),
    output: &Output,
) -> Result<Vec<DrawnImage>> {
    let classes = u16::try_from(classes)?;
    let requests: Vec<Request> = (0..u64::from(samples))
        .map(|i| first.wrapping_add(i))
        .map(|seed| Request { seed, class: default_class(classes, seed) })
        .collect();
    let bar = output.progress(requests.len(), "drawing");
    let threads = threads.map_or_else(available_threads, usize::from);
    let drawn = draw(network, settings, &requests, threads, || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(drawn)
}

/// The data set that the model's config names.
pub fn trained_on(files: &ModelFiles) -> Result<String> {
    let config = config(files).context("say with --data what to compare with, or keep the config beside the blob")?;
    Ok(config.data.source)
}

/// The config beside the model.
fn config(files: &ModelFiles) -> Result<ModelConfig> {
    let path = files.checkpoint.with_extension("json");
    let json = files::read(&path)?;
    serde_json::from_slice(&json).with_context(|| format!("{} is not a model config", path.display()))
}

/// What images are compared with.
pub struct Judge {
    data: String,
    shape: ImageConfig,
    features: FeatureNet,
    /// Training and test split, for neighbours.
    splits: Option<[Dataset; 2]>,
}

impl Judge {
    /// With the feature network of the data, and the data themselves where neighbours are wanted.
    pub fn new(data: &str, shape: ImageConfig, neighbours: bool) -> Result<Self> {
        let features = FeatureNet::for_source(data, shape)?;
        let splits = match neighbours {
            true => Some([data::load_train(data, shape)?, data::load_test(data, shape)?]),
            false => None,
        };
        Ok(Self { data: data.to_owned(), shape, features, splits })
    }

    /// The figures of drawn images.
    pub fn report(&self, drawn: &[DrawnImage], output: &Output) -> Result<EvalReport> {
        let spinner = output.spinner("comparing");
        let images: Vec<u8> = drawn.iter().flat_map(|d| d.pixels.iter().copied()).collect();
        let labels: Vec<u16> = drawn.iter().filter_map(|d| d.request.class).collect();
        let mut report = evaluate(&images, &labels, self.shape, &self.features, &self.data)?;
        if let Some([train, test]) = &self.splits {
            report.neighbours = Some(neighbours(&images, &self.features, train, test)?);
        }
        spinner.finish_and_clear();
        Ok(report)
    }
}

fn tell(
    title: &str,
    report: &EvalReport,
    confidence: Option<&Confidence>,
    seconds: f64,
    output: &Output,
) -> Result<()> {
    let repeats = confidence.map_or(String::new(), |c| format!(", {} times", c.repeats));
    output.line(format_args!("{title}{repeats}, {seconds:.0} s"))?;
    let sure = |width: Option<f64>, scale: f64, digits: usize| {
        width.map_or(String::new(), |w| format!(" ± {:.digits$}", scale * w))
    };
    output.line(format_args!("Fréchet distance    {:.3}{}", report.fd, sure(confidence.map(|c| c.fd), 1.0, 3)))?;
    output.line(format_args!("floor (real images) {:.3}", report.fd_floor))?;
    let percent = |name: &str, share: f64, width: Option<f64>| {
        output.line(format_args!("{name:19} {:.1} %{}", 100.0 * share, sure(width, 100.0, 1)))
    };
    if let Some(accuracy) = report.class_accuracy {
        percent("class accuracy", accuracy, confidence.and_then(|c| c.class_accuracy))?;
    }
    for class in &report.per_class {
        percent(&format!("  {}", class.class), class.accuracy, None)?;
    }
    if let Some(intact) = report.intact {
        percent("unbroken", intact, confidence.and_then(|c| c.intact))?;
    }
    if let Some(n) = &report.neighbours {
        let density = sure(confidence.and_then(|c| c.density), 1.0, 3);
        output.line(format_args!("density             {:.3}{density}", n.density))?;
        percent("coverage", n.coverage, confidence.and_then(|c| c.coverage))?;
        percent("  of real images", n.coverage_floor, None)?;
        percent("near a training one", n.near_training, confidence.and_then(|c| c.near_training))?;
        output.line(format_args!(
            "distance to nearest training image {:.1} levels, of test images {:.1}",
            n.train_distance, n.train_distance_test
        ))?;
    }
    Ok(())
}
