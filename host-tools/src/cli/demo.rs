//! No verb: the shipped models draw a sheet, and what that cost is told.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::output::{Output, command_name};
use super::sample::picture;
use super::shipped::{ModelFiles, class_names};
use crate::files;
use crate::inspect::{BlobReport, report};
use crate::picture::{Picture, Sheet, sheet};
use crate::sampling::{Network, Request, Settings, available_threads, default_class, draw};

/// What is drawn, and how much of each.
const MODELS: [&str; 2] = ["fashion-16", "faces-16"];
const COLUMNS: usize = 10;
const ROWS: usize = 2;
const STEPS: u16 = 20;
const FILE: &str = "picodream.png";

#[derive(Debug, Serialize)]
struct ModelFigures {
    name: String,
    blob_bytes: u32,
    arena_bytes: u32,
    macs_per_step: u64,
    steps: u16,
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
    for name in MODELS {
        let (part, figures) = draw_model(name, output)?;
        sheets.push(part);
        models.push(figures);
    }
    files::write_atomic(Path::new(FILE), &stacked(&sheets).png()?)?;
    for figures in &models {
        output.line(format_args!(
            "{:<12} {:>4} kB flash for the blob, {:>5.1} kB RAM for the arena, {:.1} M MACs per step; {} images of {} steps in {:.1} s",
            figures.name,
            figures.blob_bytes.div_ceil(1000),
            f64::from(figures.arena_bytes) / 1000.0,
            figures.macs_per_step as f64 / 1e6,
            figures.images,
            figures.steps,
            figures.seconds
        ))?;
    }
    let again = command_name();
    output.line(format_args!(
        "\nsaved as {FILE}. Next:\n  {again} sample faces-16 --count 24 --seed 100 --out faces.png\n  {again} sample fashion-16 --class all --count 8 --out garments.png --trajectory garments.gif\n  {again} inspect fashion-16 --svg memory.svg\n  {again} --help"
    ))?;
    output.object(&DemoJson { file: FILE.into(), engine: "int8", models })
}

fn draw_model(name: &str, output: &Output) -> Result<(Picture, ModelFigures)> {
    let files = ModelFiles::find(name)?;
    let model = files.model()?;
    let BlobReport { blob_bytes, arena_bytes, macs_per_step, .. } = report(&model)?;
    let names = class_names(&model)?;
    let classes = u16::try_from(names.len())?;
    let requests: Vec<Request> =
        (0..(ROWS * COLUMNS) as u64).map(|seed| Request { seed, class: default_class(classes, seed) }).collect();
    let settings = Settings { steps: STEPS, ..Settings::default() };
    let bar = output.progress(requests.len(), &format!("{name}: drawing"));
    let begin = Instant::now();
    let drawn = draw(&Network::Int8(model), &settings, &requests, available_threads(), || bar.inc(1))?;
    let seconds = begin.elapsed().as_secs_f64();
    bar.finish_and_clear();

    let images: Vec<Picture> = drawn.iter().map(picture).collect();
    output.pictures(&images)?;
    let column_labels = if names.len() == COLUMNS { names } else { Vec::new() };
    let title = format!("{name}: {blob_bytes} bytes of weights, {arena_bytes} bytes of RAM, int8, DDIM-{STEPS}");
    let (part, _) = sheet(&Sheet { title, images, columns: COLUMNS, column_labels, scale: 7, ..Sheet::default() });
    let figures = ModelFigures {
        name: name.into(),
        blob_bytes,
        arena_bytes,
        macs_per_step,
        steps: STEPS,
        images: requests.len(),
        seconds,
    };
    Ok((part, figures))
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
