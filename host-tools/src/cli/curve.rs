//! `picodream curve`: quality against cost of several models and step counts, as a table and as a picture.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::eval::{Judge, draw_seeds, trained_on};
use super::output::Output;
use super::rule::Rule;
use super::shipped::{ModelFiles, class_names};
use crate::files;
use crate::inspect;
use crate::picture::{Curve, CurvePoint, CurveSeries, curve_svg};
use crate::sampling::{Network, Settings};

/// Show what quality models give for what they cost: Fréchet distance against multiply-accumulates of an image.
///
/// Every model draws with its int8 network at every number of steps, from the same seeds; all must be judged by the same
/// data and size of image. For choosing widths and steps: the lowest point that your board has time and flash for.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream curve fashion-16 fashion-16-fast --samples 2000 --out quality.svg
  picodream curve narrow.pdm wide.pdm --steps 1,2,4 --json")]
pub struct CurveArgs {
    /// Paths of blobs with their configs beside them, or names of shipped models.
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Numbers of steps [default: 1,2,4 for a model tuned for consistency, else 5,10,20].
    #[arg(long, value_delimiter = ',', value_name = "STEPS,STEPS,...")]
    steps: Vec<u16>,
    /// Number of images at each point.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    samples: u32,
    /// Seed of the first image.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The picture to write.
    #[arg(long, value_name = "FILE.svg")]
    out: Option<PathBuf>,
    /// Worker threads [default: as many as the machine has].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// One model at one number of steps.
#[derive(Clone, Debug, Serialize)]
struct Point {
    model: String,
    sampler: &'static str,
    steps: u16,
    blob_bytes: u32,
    arena_bytes: u32,
    macs_per_image: u64,
    fd: f64,
    fd_floor: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_accuracy: Option<f64>,
}

/// Runs the verb.
pub fn run(args: &CurveArgs, output: &Output) -> Result<()> {
    let models = args.models.iter().map(|name| Compared::find(name)).collect::<Result<Vec<_>>>()?;
    let data = &models[0].data;
    if let Some(other) = models.iter().find(|model| model.data != *data) {
        bail!(
            "{} was trained on {}, but {} on {data}; compare models of one data set",
            other.name,
            other.data,
            models[0].name
        );
    }
    let mut points = Vec::new();
    for model in &models {
        model.measure(args, &mut points, output)?;
    }
    let floors: Vec<f64> = points.iter().map(|point| point.fd_floor).collect();
    ensure!(
        floors.windows(2).all(|pair| pair[0] == pair[1]),
        "the models draw images of different sizes, whose distances cannot be compared; draw one curve for each size"
    );
    if let Some(path) = &args.out {
        files::write_atomic(path, curve_svg(&drawing(args, &points)).as_bytes())?;
        output.line(format_args!("wrote {}", path.display()))?;
    }
    output.object(&serde_json::json!({ "samples": args.samples, "seed": args.seed, "points": points }))
}

/// A model to be measured.
struct Compared<'a> {
    name: &'a str,
    files: ModelFiles,
    data: String,
}

impl<'a> Compared<'a> {
    fn find(name: &'a str) -> Result<Self> {
        let files = ModelFiles::find(name)?;
        let data = trained_on(&files)?;
        Ok(Self { name, files, data })
    }

    fn measure(&self, args: &CurveArgs, points: &mut Vec<Point>, output: &Output) -> Result<()> {
        let Self { name, files, data } = self;
        let model = files.model()?;
        let classes = class_names(&model)?.len();
        let blob = inspect::report(&model)?;
        let network = Network::Int8(model);
        let judge = Judge::new(data, network.image()?, false)?;
        let rule = Rule::of(files);
        let usual: &[u16] = if rule == Rule::Consistency { &[1, 2, 4] } else { &[5, 10, 20] };
        for &steps in if args.steps.is_empty() { usual } else { &args.steps } {
            let settings = Settings { steps, sampler: rule.choice(), ..Settings::default() };
            let drawn = draw_seeds((args.seed, args.samples), &network, &settings, (classes, args.threads), output)?;
            let report = judge.report(&drawn, output)?;
            let macs_per_image = blob.macs_per_step * u64::from(steps);
            let accuracy = report.class_accuracy.map_or(String::new(), |share| format!(", class accuracy {share:.3}"));
            let cost = format!("{:.1} M multiply-accumulates an image", macs_per_image as f64 / 1e6);
            let quality = format!("Fréchet distance {:.3} ({:.2} × floor)", report.fd, report.fd / report.fd_floor);
            let (bytes, sampler) = (blob.blob_bytes, rule.name());
            output.line(format_args!("{name}: {bytes} bytes, {sampler}-{steps}, {cost}: {quality}{accuracy}"))?;
            points.push(Point {
                model: (*name).to_owned(),
                sampler: rule.name(),
                steps,
                blob_bytes: blob.blob_bytes,
                arena_bytes: blob.arena_bytes,
                macs_per_image,
                fd: report.fd,
                fd_floor: report.fd_floor,
                class_accuracy: report.class_accuracy,
            });
        }
        Ok(())
    }
}

fn drawing(args: &CurveArgs, points: &[Point]) -> Curve {
    let series = args.models.iter().map(|model| {
        let own = || points.iter().filter(|point| point.model == *model);
        let bytes = own().next().map_or(0, |point| point.blob_bytes);
        let sampler = own().next().map_or("", |point| point.sampler);
        let points = own().map(|point| CurvePoint {
            cost: point.macs_per_image as f64,
            value: point.fd,
            label: point.steps.to_string(),
        });
        CurveSeries {
            name: format!("{model}: {} kB of blob, {sampler}", bytes.div_ceil(1000)),
            points: points.collect(),
        }
    });
    Curve {
        title: format!("Quality against cost, int8, {} images a point; numbers are steps", args.samples),
        cost: "multiply-accumulates of an image".into(),
        value: "Fréchet distance to the test split".into(),
        floor: points.first().map(|point| (point.fd_floor, "as many real images".into())),
        series: series.collect(),
    }
}
