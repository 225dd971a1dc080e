//! `picodream sample --compare`: one image for each sampler and number of steps, on one sheet.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::Args;
use picodream::sampler::AnySampler;
use serde::Serialize;

use super::eval::trained_on;
use super::output::Output;
use super::sample::picture;
use super::shipped::ModelFiles;
use crate::eval::{FeatureNet, evaluate};
use crate::files;
use crate::picture::{Picture, Sheet, sheet};
use crate::sampling::{DrawnImage, Network, Request, Settings, default_class, draw, draw_one};

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// Draw the first seed with each of these samplers and each of --compare-steps, on one sheet with the network calls of
    /// each image; `all` are all samplers.
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', conflicts_with_all = [
        "sampler", "variance", "eta", "tolerance", "steps", "count", "guidance_per_step", "trajectory", "scale",
    ])]
    compare: Vec<String>,
    /// Numbers of steps of --compare.
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_values_t = [4, 8, 16, 32], requires = "compare")]
    compare_steps: Vec<u16>,
    /// With --compare: also the Fréchet distance of so many images of each sampler and number of steps.
    #[arg(long, value_name = "IMAGES", default_value_t = 0, requires = "compare")]
    frechet: u32,
}

impl CompareArgs {
    /// Whether `--compare` was given.
    pub fn is_asked(&self) -> bool {
        !self.compare.is_empty()
    }

    /// Names and samplers, in order.
    fn samplers(&self) -> Result<Vec<(String, AnySampler)>> {
        if self.compare.iter().any(|name| name == "all") {
            return Ok(AnySampler::ALL.map(|(name, sampler)| (name.to_owned(), sampler)).to_vec());
        }
        let named = |name: &String| match AnySampler::named(name) {
            Some(sampler) => Ok((name.clone(), sampler)),
            None => bail!(
                "--compare has {name}, but the samplers are {}, or all",
                AnySampler::ALL.map(|(name, _)| name).join(", ")
            ),
        };
        self.compare.iter().map(named).collect()
    }
}

/// One image of the sheet.
#[derive(Debug, Serialize)]
struct Cell {
    sampler: String,
    steps: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_calls: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frechet_distance: Option<f64>,
    /// Why there is no image.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip)]
    drawn: Option<DrawnImage>,
}

#[derive(Debug, Serialize)]
struct CompareJson {
    model: String,
    seed: u64,
    class: Option<u16>,
    frechet_images: u32,
    file: std::path::PathBuf,
    cells: Vec<Cell>,
}

/// Draws and writes the sheet.
#[allow(clippy::too_many_arguments)] // What `sample` has found out about model, settings and output.
pub fn compare(
    args: &CompareArgs,
    network: &Network<'_>,
    files: &ModelFiles,
    settings: &Settings,
    request: Request,
    label: &str,
    out: &Path,
    threads: usize,
    output: &Output,
) -> Result<()> {
    let samplers = args.samplers()?;
    ensure!(args.frechet != 1, "--frechet is 1, but a distance needs at least 2 images, and means little below 500");
    let judge = if args.frechet > 0 { Some(Judge::new(network, files, args.frechet)?) } else { None };
    let per_cell = 1 + u64::from(args.frechet);
    let bar = output.progress((samplers.len() * args.compare_steps.len()) * per_cell as usize, "drawing");
    let mut cells = Vec::new();
    for (name, sampler) in &samplers {
        for &steps in &args.compare_steps {
            let settings = Settings { steps, sampler: *sampler, ..settings.clone() };
            let mut cell = match draw_one(network, &settings, request) {
                Ok(drawn) => Cell::of(name, steps, drawn),
                Err(error) => Cell::refused(name, steps, &error),
            };
            if let (Some(judge), true) = (&judge, cell.drawn.is_some()) {
                cell.frechet_distance = Some(judge.distance(network, &settings, threads, || bar.inc(1))?);
            }
            bar.inc(1);
            cells.push(cell);
        }
    }
    bar.finish_and_clear();
    let columns = args.compare_steps.len();
    let title = format!("{label}, seed {}", request.seed);
    files::write_atomic(out, &layout(&cells, columns, title)?.png()?)?;
    tell(&cells, out, output)?;
    output.object(&CompareJson {
        model: label.to_owned(),
        seed: request.seed,
        class: request.class,
        frechet_images: args.frechet,
        file: out.to_owned(),
        cells,
    })
}

impl Cell {
    fn of(sampler: &str, steps: u16, drawn: DrawnImage) -> Self {
        let (sampler, network_calls) = (sampler.to_owned(), Some(drawn.network_calls));
        Self { sampler, steps, network_calls, frechet_distance: None, refused: None, drawn: Some(drawn) }
    }

    fn refused(sampler: &str, steps: u16, error: &anyhow::Error) -> Self {
        let (sampler, refused) = (sampler.to_owned(), Some(error.to_string()));
        Self { sampler, steps, network_calls: None, frechet_distance: None, refused, drawn: None }
    }

    /// `12 calls`, `12 calls 3.14`.
    fn caption(&self) -> String {
        match (self.network_calls, self.frechet_distance) {
            (Some(calls), Some(distance)) => format!("{calls} calls {distance:.2}"),
            (Some(calls), None) => format!("{calls} calls"),
            _ => "refused".into(),
        }
    }
}

/// Measures Fréchet distances to the data that the model was trained on.
struct Judge {
    source: String,
    features: FeatureNet,
    requests: Vec<Request>,
}

impl Judge {
    fn new(network: &Network<'_>, files: &ModelFiles, images: u32) -> Result<Self> {
        let source = trained_on(files)?;
        let features = FeatureNet::for_source(&source, network.image()?)?;
        let classes = network.num_classes()?;
        let request = |seed| Request { seed, class: default_class(classes, seed) };
        Ok(Self { source, features, requests: (0..u64::from(images)).map(request).collect() })
    }

    fn distance(
        &self,
        network: &Network<'_>,
        settings: &Settings,
        threads: usize,
        on_image: impl Fn() + Sync,
    ) -> Result<f64> {
        let drawn = draw(network, settings, &self.requests, threads, on_image)?;
        let images: Vec<u8> = drawn.iter().flat_map(|d| d.pixels.iter().copied()).collect();
        Ok(evaluate(&images, &[], network.image()?, &self.features, &self.source)?.fd)
    }
}

fn layout(cells: &[Cell], columns: usize, title: String) -> Result<Picture> {
    let Some(first) = cells.iter().find_map(|cell| cell.drawn.as_ref()) else {
        let reason = cells.first().and_then(|cell| cell.refused.as_deref()).unwrap_or("nothing was asked for");
        bail!("nothing could be drawn: {reason}");
    };
    let blank = Picture::new(first.width, first.height, [40, 42, 48]);
    let images = cells.iter().map(|cell| cell.drawn.as_ref().map_or_else(|| blank.clone(), picture)).collect();
    let rows = cells.chunks(columns.max(1));
    let spec = Sheet {
        title,
        images,
        columns,
        row_labels: rows.map(|row| row[0].sampler.clone()).collect(),
        column_labels: cells.iter().take(columns).map(|cell| format!("{} steps", cell.steps)).collect(),
        captions: cells.iter().map(Cell::caption).collect(),
        // Room for a caption of 16 characters.
        scale: 136usize.div_ceil(first.width).max(2),
    };
    Ok(sheet(&spec).0)
}

fn tell(cells: &[Cell], out: &Path, output: &Output) -> Result<()> {
    for cell in cells {
        let said = cell.refused.clone().unwrap_or_else(|| cell.caption());
        output.line(format_args!("{:<20} {:>4} steps  {said}", cell.sampler, cell.steps))?;
    }
    output.line(format_args!("sheet {}", out.display()))
}
