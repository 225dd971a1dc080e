//! `picodream sample --invert`: a picture, the noise that it is made of, and what is drawn from that again, on one sheet.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde::Serialize;

use super::output::Output;
use crate::config::ImageConfig;
use crate::data::{class_index, folder};
use crate::files;
use crate::inversion::{Inversion, Inverted, there_and_back};
use crate::picture::{Picture, Sheet, sheet};
use crate::sampling::Network;

/// What to invert.
#[derive(Args, Clone, Debug)]
pub struct InvertArgs {
    /// Take this PNG or JPEG of the model's size to the noise that DDIM makes it of, and draw it again from there; writes
    /// the three on one sheet and tells the PSNR.
    #[arg(long, value_name = "PICTURE", conflicts_with_all = [
        "compare", "compare_steps", "frechet", "init", "strength", "mask", "repeats", "to_seed", "weight", "sampler", "variance",
        "eta", "tolerance", "guidance", "guidance_per_step", "guidance_interval", "negative_class", "no_clip", "seed", "count",
        "trajectory", "threads",
    ])]
    invert: Option<PathBuf>,
    /// With --invert: network calls a step on the way to the noise, 1 to 50; 1 is the usual approximation.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "invert")]
    calls: u16,
}

/// What `sample` has found out about model and settings.
pub struct Invert<'a> {
    /// The network.
    pub network: &'a Network<'a>,
    /// Names of its classes.
    pub names: &'a [String],
    /// The model's name.
    pub label: &'a str,
    /// The engine's name.
    pub engine: &'static str,
    /// `--class` as it was given.
    pub class: Option<&'a str>,
    /// Steps and levels; `calls` and `class` are this verb's to set.
    pub inversion: Inversion,
    /// Where the sheet goes.
    pub out: &'a Path,
    /// Enlargement of the sheet's pixels.
    pub scale: Option<usize>,
}

#[derive(Debug, Serialize)]
struct InvertJson {
    model: String,
    engine: &'static str,
    picture: PathBuf,
    steps: u16,
    calls: u16,
    class: Option<u16>,
    class_name: Option<String>,
    network_calls: u32,
    seconds: f64,
    psnr_db: f64,
    image: ImageConfig,
    file: PathBuf,
}

impl InvertArgs {
    /// Whether `--invert` was given.
    pub fn is_asked(&self) -> bool {
        self.invert.is_some()
    }

    /// Inverts, draws again, writes the sheet.
    pub fn run(&self, invert: &Invert<'_>, output: &Output) -> Result<()> {
        let Some(path) = &self.invert else { bail!("there is no picture to invert") };
        let out = invert.out;
        ensure!(
            out.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")),
            "--out is {}, but --invert writes one sheet: it must end in .png",
            out.display()
        );
        let image = invert.network.image()?;
        let picture = pixels(path, image, invert.label)?;
        let class = class(invert)?;
        let inversion = Inversion { calls: self.calls, class, ..invert.inversion };
        let steps = inversion.steps;
        let bar = output.progress(2 * usize::from(steps), "inverting");
        let begin = Instant::now();
        let inverted = there_and_back(invert.network, &picture, &inversion, || bar.inc(1))?;
        let seconds = begin.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let pictures = [&picture, &inverted.noise_pixels, &inverted.pixels]
            .map(|pixels| Picture::from_samples(image.width, image.height, image.channels, pixels));
        files::write_atomic(out, &layout(invert, &inverted, pictures.to_vec()).png()?)?;
        output.pictures(&pictures)?;
        let Inverted { psnr_db, network_calls, .. } = inverted;
        output.line(format_args!(
            "{}: PSNR {psnr_db:.1} dB after {steps} steps to the noise and {steps} back, {network_calls} network calls, {seconds:.2} s with the {} engine",
            path.display(),
            invert.engine
        ))?;
        output.line(format_args!("sheet {}", out.display()))?;
        output.object(&InvertJson {
            model: invert.label.to_owned(),
            engine: invert.engine,
            picture: path.clone(),
            steps,
            calls: self.calls,
            class,
            class_name: class.and_then(|class| invert.names.get(usize::from(class)).cloned()),
            network_calls,
            seconds,
            psnr_db,
            image,
            file: out.to_owned(),
        })
    }
}

/// One class, or the null class.
fn class(invert: &Invert<'_>) -> Result<Option<u16>> {
    match invert.class {
        None | Some("none") => Ok(None),
        Some("all") => bail!("--class all was asked for, but the picture of --invert has one class or none"),
        Some(text) => class_index(invert.names, text).map(Some),
    }
}

/// The picture's pixels. Another size is refused: what comes back could not be compared with it.
fn pixels(path: &Path, image: ImageConfig, label: &str) -> Result<Vec<u8>> {
    let picture = folder::read_picture(path)?;
    let path = path.display();
    ensure!(
        (picture.width, picture.height) == (image.width, image.height),
        "{path} has {}x{} pixels, but {label} draws {}x{}: fit it first, with sample {label} --init {path} --strength 0 --out fitted.png",
        picture.width,
        picture.height,
        image.width,
        image.height
    );
    Ok(if image.channels == 1 { picture.grey() } else { picture.rgb })
}

fn layout(invert: &Invert<'_>, inverted: &Inverted, images: Vec<Picture>) -> Picture {
    let steps = invert.inversion.steps;
    let title = format!("{}, {}, inversion-{steps}, {:.1} dB", invert.label, invert.engine, inverted.psnr_db);
    let scale = invert.scale.unwrap_or_else(|| 128usize.div_ceil(images[0].width).max(2));
    let column_labels = ["picture", "noise", "drawn again"].map(String::from).to_vec();
    sheet(&Sheet { title, images, columns: 3, row_labels: Vec::new(), column_labels, captions: Vec::new(), scale }).0
}
