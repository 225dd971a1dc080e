//! `picodream sample`: draw images with either engine into a sheet, single files and an animation.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use picodream::sampler::DdimInversion;
use picodream::spacing::{AnySpacing, Trailing};
use serde::Serialize;

use super::compare::{CompareArgs, compare};
use super::invert::{Invert, InvertArgs};
use super::output::Output;
use super::rule::Rule;
use super::sampling_args::SamplingArgs;
use super::shipped::{ModelFiles, class_names};
use crate::data::class_index;
use crate::files;
use crate::float::FloatPipeline;
use crate::inversion::Inversion;
use crate::picture::{Picture, Sheet, gif_bytes, png_bytes, sheet};
use crate::sampling::{DrawnImage, Network, Request, Settings, available_threads, default_class, draw};

/// Draw images: seeds S, S+1, ... with the int8 network of a blob or the f32 network of its checkpoint.
///
/// The same model, seed, class, steps and sampler give the same bytes everywhere, on any number of threads; with the int8
/// engine also on every microcontroller. Each image is named by its seed and the CRC-32 of its pixels (8 hexadecimal
/// digits, over grey or R,G,B bytes row by row).
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  picodream sample faces-16 --count 16 --out faces.png          a sheet
  picodream sample fashion-16 --class all --count 8 --out all.png   a row per class
  picodream sample fashion-16 --class Bag --count 100 --out bags    single PNGs in the folder bags/
  picodream sample faces-16 --seed 7 --steps 50 --trajectory dream.gif
  picodream sample faces-16 --engine f32 --count 4 --json
  picodream sample fashion-16 --sampler dpmpp-2m --spacing karras --steps 10
  picodream sample faces-16 --init me.png --strength 0.5        a picture, half drawn anew
  picodream sample faces-16 --init me.png --mask hat.png --repeats 10
  picodream sample faces-16 --invert me.png --engine f32        to its noise and back
  picodream sample fashion-16 --compare ddim,heun,unipc --compare-steps 4,8,16 --frechet 500

Classes go by number or name. Without --class the seed counts through them: class = seed mod number of classes.")]
pub struct SampleArgs {
    /// Path of a blob or checkpoint, or the name of a shipped model.
    model: String,
    /// Denoising steps, 1 to the model's number of timesteps [default: 20; 50 with --invert; 1
    /// for a model that was tuned for consistency].
    #[arg(long)]
    steps: Option<u16>,
    /// Seed of the first image.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of images (with `--class all`: of each class).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// A class by number or name, `all` for every class in turn, `none` for the null class [default: seed mod classes].
    #[arg(long)]
    class: Option<String>,
    /// Which network draws.
    #[arg(long, value_enum, default_value_t = Engine::Int8)]
    engine: Engine,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compare: CompareArgs,
    #[command(flatten)]
    invert: InvertArgs,
    /// A .png file (the image, or a sheet of several), or a folder for single PNGs [default: NAME.png].
    #[arg(long, value_name = "FILE.png|FOLDER")]
    out: Option<PathBuf>,
    /// Enlarge every pixel so many times [default: 1 for single images, to fit for sheets].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    scale: Option<u16>,
    /// Also write a looping GIF of the way from noise to image.
    #[arg(long, value_name = "FILE.gif")]
    trajectory: Option<PathBuf>,
    /// Worker threads [default: as many as the machine has]; the images do not depend on it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Which network draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The quantised network of the blob, as on the chips.
    Int8,
    /// The checkpoint in f32.
    F32,
}

impl Engine {
    /// As it is named on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::F32 => "f32",
        }
    }
}

#[derive(Debug, Serialize)]
struct ImageJson {
    seed: u64,
    class: Option<u16>,
    class_name: Option<String>,
    crc32: String,
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct SampleJson {
    model: String,
    engine: &'static str,
    steps: u16,
    sampler: String,
    guidance: f32,
    /// Of the first image; with guidance each is two passes.
    network_calls: u32,
    seconds: f64,
    image: crate::config::ImageConfig,
    images: Vec<ImageJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trajectory: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: &SampleArgs, output: &Output) -> Result<()> {
    let (out, trajectory) = (out_path(args), args.trajectory.as_deref());
    if let Some(path) = trajectory {
        ensure!(has_extension(path, "gif"), "--trajectory is {}, but must end in .gif", path.display());
    }
    let files = ModelFiles::find(&args.model)?;
    let args = &args.for_model(&files);
    let (network, names, label) = network(args.engine, &files)?;
    if args.invert.is_asked() {
        return invert(args, &network, &names, &label, &out, output);
    }
    let requests = requests(args, &names)?;
    let image = network.image()?;
    let settings = args.sampling.settings(args.steps(), image, &names)?;
    let settings = Settings { keep_frames: trajectory.is_some(), ..settings };
    if args.compare.is_asked() {
        let Some(&request) = requests.first() else { bail!("nothing is to be drawn") };
        let threads = args.threads.map_or_else(available_threads, usize::from);
        return compare(&args.compare, &network, &files, &settings, request, &label, &out, threads, output);
    }
    let bar = output.progress(requests.len(), "drawing");
    let begin = Instant::now();
    let threads = args.threads.map_or_else(available_threads, usize::from);
    let drawn = draw(&network, &settings, &requests, threads, || bar.inc(1))?;
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let pictures: Vec<Picture> = drawn.iter().map(picture).collect();
    let written = write_images(args, &out, &label, &names, &drawn, &pictures)?;
    if let Some(path) = trajectory {
        files::write_atomic(path, &trajectory_gif(args, &names, &drawn)?)?;
    }
    output.pictures(&pictures[..pictures.len().min(64)])?;
    tell(args, output, &drawn, &written, seconds)?;
    let Some(first) = drawn.first() else { bail!("nothing was drawn") };
    let images = drawn.iter().zip(written).map(|(d, file)| image_json(d, &names, file)).collect();
    output.object(&SampleJson {
        model: args.model.clone(),
        engine: args.engine.name(),
        steps: args.steps(),
        sampler: args.sampling.name().to_owned(),
        guidance: args.sampling.guidance,
        network_calls: first.network_calls,
        seconds,
        image,
        images,
        trajectory: args.trajectory.clone(),
    })
}

impl SampleArgs {
    /// With the update rule and the steps that the model was made for, where none were asked for.
    fn for_model(&self, files: &ModelFiles) -> Self {
        let mut args = self.clone();
        if !self.invert.is_asked() && self.sampling.sampler.is_none() && Rule::of(files) == Rule::Consistency {
            args.sampling.sampler = Some("consistency".into());
            args.steps = Some(self.steps.unwrap_or(Rule::Consistency.default_steps()));
        }
        args
    }

    fn steps(&self) -> u16 {
        self.steps.unwrap_or(if self.invert.is_asked() { 50 } else { 20 })
    }
}

/// Picture → noise → picture.
fn invert(
    args: &SampleArgs,
    network: &Network<'_>,
    names: &[String],
    label: &str,
    out: &Path,
    output: &Output,
) -> Result<()> {
    let (steps, spacing) = (args.steps(), args.sampling.spacing().unwrap_or(AnySpacing::Trailing(Trailing)));
    let inversion = Inversion { steps, spacing, calls: DdimInversion::default().calls, class: None };
    let (class, scale) = (args.class.as_deref(), args.scale.map(usize::from));
    let invert = Invert { network, names, label, engine: args.engine.name(), class, inversion, out, scale };
    args.invert.run(&invert, output)
}

/// The network with its class names and a name for files.
pub fn network(engine: Engine, files: &ModelFiles) -> Result<(Network<'_>, Vec<String>, String)> {
    match engine {
        Engine::Int8 => {
            let model = files.model()?;
            let header = model.header().map_err(|error| anyhow::anyhow!("{error}"))?;
            let label = model.text(&header, header.name).to_owned();
            Ok((Network::Int8(model), class_names(&model)?, label))
        }
        Engine::F32 => {
            let checkpoint = files.checkpoint()?;
            let network = Network::F32(FloatPipeline::new(&checkpoint)?);
            Ok((network, checkpoint.config.data.class_names, checkpoint.config.name))
        }
    }
}

/// Seeds S..S+K−1: counting through the classes, of one class, of the null class, or of every class in turn.
fn requests(args: &SampleArgs, names: &[String]) -> Result<Vec<Request>> {
    let last = args.seed.checked_add(u64::from(args.count) - 1);
    let last = last.with_context(|| format!("--seed {} with --count {} passes 2^64", args.seed, args.count))?;
    let seeds = args.seed..=last;
    let classes = u16::try_from(names.len())?;
    let of_class = |class: Option<u16>| seeds.clone().map(move |seed| Request { seed, class });
    Ok(match args.class.as_deref() {
        None => seeds.map(|seed| Request { seed, class: default_class(classes, seed) }).collect(),
        Some("none") => of_class(None).collect(),
        Some("all") => {
            ensure!(classes > 0, "--class all was asked for, but this model has no classes");
            (0..classes).flat_map(|class| of_class(Some(class))).collect()
        }
        Some(text) => of_class(Some(class_index(names, text)?)).collect(),
    })
}

fn out_path(args: &SampleArgs) -> PathBuf {
    let stem = Path::new(&args.model).file_stem().unwrap_or_default();
    args.out.clone().unwrap_or_else(|| PathBuf::from(stem).with_extension("png"))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// The image as it is, enlarged by nothing.
pub fn picture(drawn: &DrawnImage) -> Picture {
    Picture::from_samples(drawn.width, drawn.height, drawn.channels, &drawn.pixels)
}

/// Writes a sheet, one image, or a folder of images; returns the file of each.
fn write_images(
    args: &SampleArgs,
    out: &Path,
    label: &str,
    names: &[String],
    drawn: &[DrawnImage],
    pictures: &[Picture],
) -> Result<Vec<PathBuf>> {
    if !has_extension(out, "png") {
        return drawn.iter().map(|d| write_single(args, &out.join(single_name(label, d)), d)).collect();
    }
    if let [only] = drawn {
        return Ok(vec![write_single(args, out, only)?]);
    }
    let (sheet, _) = sheet(&layout(args, label, names, drawn, pictures.to_vec()));
    files::write_atomic(out, &sheet.png()?)?;
    Ok(vec![out.to_owned(); drawn.len()])
}

/// `NAME-s7-c3.png`: seed 7 of class 3.
fn single_name(label: &str, drawn: &DrawnImage) -> String {
    let class = drawn.request.class.map_or(String::new(), |class| format!("-c{class}"));
    format!("{label}-s{}{class}.png", drawn.request.seed)
}

/// Grey stays grey: at scale 1 the PNG's samples are the image's bytes.
fn write_single(args: &SampleArgs, path: &Path, drawn: &DrawnImage) -> Result<PathBuf> {
    let factor = args.scale.map_or(1, usize::from);
    let large = picture(drawn).enlarged(factor);
    let samples = if drawn.channels == 1 { large.grey() } else { large.rgb };
    files::write_atomic(path, &png_bytes(large.width, large.height, drawn.channels, &samples)?)?;
    Ok(path.to_owned())
}

/// Where each image of the sheet goes, and what is written beside it.
fn layout(args: &SampleArgs, label: &str, names: &[String], drawn: &[DrawnImage], images: Vec<Picture>) -> Sheet {
    let by_class = args.class.as_deref() == Some("all");
    let class_columns = args.class.is_none() && (2..=12).contains(&names.len()) && drawn.len() >= names.len();
    let columns = match drawn.len() {
        _ if by_class => args.count as usize,
        _ if class_columns => names.len(),
        n => balanced_columns(n),
    };
    let rows = drawn.len().div_ceil(columns);
    let class = |i: usize| drawn.get(i).and_then(|d| names.get(usize::from(d.request.class?)).cloned());
    let seed = |i: usize| drawn.get(i).map_or(String::new(), |d| format!("seed {}", d.request.seed));
    let row_labels = match rows {
        _ if by_class => (0..rows).map(|row| class(row * columns).unwrap_or_default()).collect(),
        1 => Vec::new(),
        _ => (0..rows).map(|row| seed(row * columns)).collect(),
    };
    let column_labels = match rows {
        _ if class_columns => (0..columns).map(|i| class(i).unwrap_or_default()).collect(),
        1 => (0..columns).map(seed).collect(),
        _ if by_class => (0..columns).map(seed).collect(),
        _ => Vec::new(),
    };
    let width = images.first().map_or(1, |p| p.width);
    let scale = args.scale.map_or_else(|| (1400 / (columns * width)).clamp(2, (128 / width).max(2)), usize::from);
    let sampler = args.sampling.title();
    let scale_of = args.sampling.guidance;
    let guidance = if scale_of == 1.0 { String::new() } else { format!(", guidance {scale_of}") };
    let title = format!("{label}, {}, {sampler}-{}{guidance}", args.engine.name(), args.steps());
    Sheet { title, images, columns, row_labels, column_labels, captions: Vec::new(), scale }
}

/// One row up to ten images; above, a grid wider than high, with a full last row where the count allows.
fn balanced_columns(count: usize) -> usize {
    if count <= 10 {
        return count.max(1);
    }
    let least = ((count as f64 * 1.5).sqrt().ceil() as usize).min(40);
    (least..=2 * least).find(|columns| count.is_multiple_of(*columns)).unwrap_or(least)
}

/// One frame per step, all images beside each other.
fn trajectory_gif(args: &SampleArgs, names: &[String], drawn: &[DrawnImage]) -> Result<Vec<u8>> {
    ensure!(drawn.len() <= 100, "--trajectory shows at most 100 images, but {} were asked for", drawn.len());
    let count = drawn.iter().map(|d| d.frames.len()).min().unwrap_or(0);
    let frame = |i: usize| {
        let images = drawn.iter().map(|d| Picture::from_samples(d.width, d.height, d.channels, &d.frames[i])).collect();
        let mut layout = layout(args, "", names, drawn, images);
        layout.title = String::new();
        layout.scale = args.scale.map_or(layout.scale.min(4), usize::from);
        sheet(&layout).0
    };
    let frames: Vec<Picture> = (0..count).map(frame).collect();
    let delay = (3000 / count.max(1)).clamp(30, 200) as u16;
    gif_bytes(&frames, delay, 1500)
}

fn image_json(drawn: &DrawnImage, names: &[String], file: PathBuf) -> ImageJson {
    let Request { seed, class } = drawn.request;
    let class_name = class.and_then(|c| names.get(usize::from(c)).cloned());
    ImageJson { seed, class, class_name, crc32: format!("{:08x}", drawn.crc32), file }
}

fn tell(args: &SampleArgs, output: &Output, drawn: &[DrawnImage], files: &[PathBuf], seconds: f64) -> Result<()> {
    for (image, file) in drawn.iter().zip(files) {
        let class = image.request.class.map_or("-".into(), |class| class.to_string());
        let file = file.display();
        output.line(format_args!("seed {} class {class} crc32 {:08x} {file}", image.request.seed, image.crc32))?;
    }
    if let Some(path) = &args.trajectory {
        output.line(format_args!("trajectory {}", path.display()))?;
    }
    let n = drawn.len();
    output.line(format_args!("{n} images in {seconds:.2} s with the {} engine", args.engine.name()))
}
