//! No verb: the shipped models draw a sheet, and what that cost is told.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::output::{Output, command_name};
use super::rule::Rule;
use super::sample::picture;
use super::shipped::{ModelFiles, class_names};
use crate::config::ImageConfig;
use crate::data;
use crate::files;
use crate::inspect::{BlobReport, report};
use crate::picture::{Picture, Sheet, sheet};
use crate::sampling::{Network, Request, Settings, available_threads, default_class, draw};

/// One model: its name, the data whose real images stand above, and the steps of each row.
struct Part {
    name: &'static str,
    data: &'static str,
    steps: [u16; 3],
}

/// What is drawn.
const PARTS: [Part; 2] = [
    Part { name: "fashion-16-fast", data: "fashion-mini", steps: [1, 2, 4] },
    Part { name: "faces-16-fast", data: "faces", steps: [1, 2, 4] },
];
const COLUMNS: usize = 10;
const FILE: &str = "picodream.png";

#[derive(Debug, Serialize)]
struct ModelFigures {
    name: String,
    blob_bytes: u32,
    arena_bytes: u32,
    macs_per_step: u64,
    steps: [u16; 3],
    images: usize,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct DemoJson {
    file: PathBuf,
    engine: &'static str,
    models: Vec<ModelFigures>,
}

/// Draws, shows, saves and tells.
pub fn run(output: &Output) -> Result<()> {
    let mut sheets = Vec::new();
    let mut models = Vec::new();
    for part in &PARTS {
        let (part, figures) = draw_part(part, output)?;
        sheets.push(part);
        models.push(figures);
    }
    files::write_atomic(Path::new(FILE), &stacked(&sheets).png()?)?;
    for figures in &models {
        output.line(format_args!(
            "{:<15} {:>4} kB flash for the blob, {:>5.1} kB RAM for the arena, {:.1} M MACs per step; {} images of {} steps in {:.1} s",
            figures.name,
            figures.blob_bytes.div_ceil(1000),
            f64::from(figures.arena_bytes) / 1000.0,
            figures.macs_per_step as f64 / 1e6,
            figures.images,
            figures.steps.map(|steps| steps.to_string()).join(", "),
            figures.seconds
        ))?;
    }
    let again = command_name();
    output.line(format_args!(
        "\nsaved as {FILE}. Next:\n  {again} sample faces-16 --count 24 --seed 100 --out faces.png\n  {again} sample fashion-16 --class all --count 8 --out garments.png --trajectory garments.gif\n  {again} inspect fashion-16 --svg memory.svg\n  {again} --help"
    ))?;
    output.object(&DemoJson { file: FILE.into(), engine: "int8", models })
}

/// Real images above, then a row for each number of steps, all rows from the same noise.
fn draw_part(part: &Part, output: &Output) -> Result<(Picture, ModelFigures)> {
    let files = ModelFiles::find(part.name)?;
    let model = files.model()?;
    let BlobReport { blob_bytes, arena_bytes, macs_per_step, .. } = report(&model)?;
    let names = class_names(&model)?;
    let classes = u16::try_from(names.len())?;
    let rule = Rule::of(&files);
    let requests: Vec<Request> =
        (0..COLUMNS as u64).map(|seed| Request { seed, class: default_class(classes, seed) }).collect();
    let network = Network::Int8(model);
    let mut images = real_images(part.data, network.image()?, &requests)?;
    let bar = output.progress(requests.len() * part.steps.len(), &format!("{}: drawing", part.name));
    let begin = Instant::now();
    for steps in part.steps {
        let settings = Settings { steps, sampler: rule.choice(), ..Settings::default() };
        let drawn = draw(&network, &settings, &requests, available_threads(), || bar.inc(1))?;
        images.extend(drawn.iter().map(picture));
    }
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();
    images.chunks(COLUMNS).try_for_each(|row| output.pictures(row))?;

    let label = |steps: u16| format!("{steps} step{}", if steps == 1 { "" } else { "s" });
    let (name, steps, rule) = (part.name, part.steps, rule.name());
    let (part, _) = sheet(&Sheet {
        title: format!("{name}: {blob_bytes} bytes of weights, {arena_bytes} bytes of RAM, int8, {rule}"),
        images,
        columns: COLUMNS,
        row_labels: std::iter::once("real".into()).chain(steps.map(label)).collect(),
        column_labels: if names.len() == COLUMNS { names } else { Vec::new() },
        scale: 7,
        ..Sheet::default()
    });
    let (name, images) = (name.into(), requests.len() * steps.len());
    Ok((part, ModelFigures { name, blob_bytes, arena_bytes, macs_per_step, steps, images, seconds }))
}

/// For each request a test image that the network has not seen, of the class that is asked for.
fn real_images(data: &str, image: ImageConfig, requests: &[Request]) -> Result<Vec<Picture>> {
    let data = data::load_test(data, image)?;
    let mut left: Vec<usize> = (0..data.len()).collect();
    let mut pick = |class: Option<u16>| {
        let of_class = |&i: &usize| class.is_none_or(|class| data.labels.get(i) == Some(&class));
        let found = left.iter().position(of_class).unwrap_or(0);
        left.remove(found)
    };
    let pixels = requests.iter().map(|request| data.image(pick(request.class)));
    Ok(pixels.map(|pixels| Picture::from_samples(data.width, data.height, data.channels, pixels)).collect())
}

/// Pictures one below the other.
fn stacked(parts: &[Picture]) -> Picture {
    let width = parts.iter().map(|p| p.width).max().unwrap_or(1);
    let height = parts.iter().map(|p| p.height).sum();
    let mut out = Picture::new(width, height, parts.first().map_or([0; 3], |p| p.pixel(0, 0)));
    let mut y = 0;
    for part in parts {
        out.paste(0, y, part);
        y += part.height;
    }
    out
}
