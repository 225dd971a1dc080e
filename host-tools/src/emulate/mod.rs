//! Runs a blob on an emulated Cortex-M: builds the firmware, starts QEMU, brings back images, memory and instruction counts.
//!
//! The firmware (`firmware/boards/qemu`) reads a request and leaves a report, both laid out by `picodream_wire`.

pub(crate) mod firmware;
pub(crate) mod flash;
mod kernels;
mod machines;
pub(crate) mod qemu;
mod report;

use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use picodream::Model;
use picodream::blob::{Algorithm, Op};
use picodream::sampler::AnySampler;
use picodream::spacing::{AnySpacing, FewStep};
use picodream_wire::Request;
use serde::{Serialize, Serializer};

pub use firmware::Form;
pub use kernels::{KernelsReport, check_kernels};
pub use machines::{DEFAULT_MACHINE, MACHINES, Machine};
pub use picodream_wire::{Class, Sampler};

use crate::sampling::usual_spacing;
use crate::{files, picture};
use report::Report;

/// What to draw, on which machine and how.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulateOptions {
    /// Name or core of one of [`MACHINES`].
    pub machine: String,
    /// Denoising steps per image.
    pub steps: u16,
    /// Seed of the first image; the others follow by one.
    pub seed: u64,
    /// Images.
    pub count: u32,
    /// The class of each image.
    pub class: Class,
    /// Classifier-free guidance scale; 1 is none.
    pub guidance: f32,
    /// Whether the estimate of x0 is clipped to the range of pixels.
    pub clip_sample: bool,
    /// The update rule.
    pub sampler: Sampler,
    /// How the blob gets onto the board.
    pub form: Form,
    /// Offer an arena this many bytes too small (to see it refused); 0 in earnest.
    pub arena_short_bytes: u32,
    /// Folder of the PNGs, `NAME-MACHINE-SEED.png`; `None` keeps the pixels in the report only.
    pub out: Option<PathBuf>,
    /// Give up when the board has done no step for this long.
    pub patience: Duration,
}

impl Default for EmulateOptions {
    /// One image of seed 0 in 20 steps of DDIM on the Cortex-M4F, blob in flash, no files.
    fn default() -> Self {
        Self {
            machine: DEFAULT_MACHINE.to_owned(),
            steps: 20,
            seed: 0,
            count: 1,
            class: Class::BySeed,
            guidance: 1.0,
            clip_sample: true,
            sampler: Sampler::Ddim(0.0),
            form: Form::BuiltIn,
            arena_short_bytes: 0,
            out: None,
            patience: Duration::from_secs(300),
        }
    }
}

/// What the emulated board said.
#[derive(Clone, Debug, Serialize)]
pub struct EmulateReport {
    /// QEMU's name of the machine.
    pub machine: &'static str,
    /// Its core.
    pub core: &'static str,
    /// Name of the model, as the board read it.
    pub model: String,
    /// Name of the integer kernels that ran.
    pub backend: String,
    /// CRC-32 of the blob, as the board read it.
    #[serde(serialize_with = "as_hex")]
    pub blob_crc32: u32,
    /// Bytes of the blob.
    pub blob_bytes: u64,
    /// Bytes of flash that code and constants take beside the blob, this program's log and report included.
    pub code_bytes: u64,
    /// Blob and code together.
    pub flash_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Most bytes of stack that were ever in use.
    pub stack_peak_bytes: u32,
    /// Mean over all steps of all images; instructions, not cycles.
    pub instructions_per_step: u64,
    /// Wall-clock seconds inside QEMU.
    pub seconds: f64,
    /// The images, in order of their seeds.
    pub images: Vec<EmulatedImage>,
    /// The firmware that ran, as an ELF file's bytes: what the log is decoded with.
    #[serde(skip)]
    pub elf: Vec<u8>,
    /// The defmt frames of the log.
    #[serde(skip)]
    pub log: Vec<u8>,
}

/// One image that the board drew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmulatedImage {
    /// Seed of its noise.
    pub seed: u64,
    /// Its class.
    pub class: Option<u16>,
    /// CRC-32/ISO-HDLC of its pixels.
    #[serde(serialize_with = "as_hex")]
    pub crc32: u32,
    /// Where its PNG was saved.
    pub file: Option<PathBuf>,
    /// `height · width · channels` bytes, channel-last.
    #[serde(skip)]
    pub pixels: Vec<u8>,
}

/// Sampler `number` of the runtime's list, over the levels of noise that are usual for it.
#[must_use]
pub fn listed(number: usize) -> Sampler {
    let usual = AnySampler::ALL.get(number).map(|(_, sampler)| discriminant(&usual_spacing(sampler, FewStep::ECT)));
    let spacing = AnySpacing::ALL.iter().position(|(_, spacing)| Some(discriminant(spacing)) == usual);
    Sampler::Listed { sampler: number as u16, spacing: spacing.unwrap_or_default() as u16 }
}

/// Draws with the blob at `path` on an emulated machine.
///
/// # Errors
/// One sentence each: no such machine, no QEMU, no compiler target, no or a broken blob, a request that the model refuses,
/// a board that crashed or fell silent.
pub fn emulate(path: &Path, options: &EmulateOptions) -> Result<EmulateReport> {
    let machine = Machine::named(&options.machine)?;
    ensure!(options.count > 0, "count is 0, but at least one image must be drawn");
    qemu::check_installed()?;
    let blob = files::read(path)?;
    let form = options.form.with(options.sampler);
    if form.is_built_in() {
        Model::parse(&blob).with_context(|| format!("{} cannot be built into a firmware", path.display()))?;
    }
    let elf = firmware::build(machine, form, path)?;
    let started = Instant::now();
    let request = request(options);
    let run = qemu::run(&qemu::Job {
        machine,
        elf: &elf,
        files: &[("model.pdm", &blob), ("request.bin", &request.emit())],
        steps: u64::from(request.steps) * u64::from(request.count),
        patience: options.patience,
        show_progress: true,
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let report = Report::read(&run.report).map_err(|error| match machine.has_strided() || !is_strided(&blob) {
        true => error,
        false => error.context(format!(
            "{} has strided convolutions, which only Cortex-M0+, Cortex-M55 and computers compute; export it for the {} instead",
            path.display(),
            machine.core_name
        )),
    })?;

    let flash = flash::flash_bytes(&elf)?;
    let blob_bytes = blob.len() as u64;
    let code_bytes = if form.is_built_in() { flash.saturating_sub(blob_bytes) } else { flash };
    let images = save_images(&report, machine, options)?;
    Ok(EmulateReport {
        machine: machine.name,
        core: machine.core_name,
        model: report.name,
        backend: report.backend,
        blob_crc32: report.blob_crc32,
        blob_bytes,
        code_bytes,
        flash_bytes: code_bytes + blob_bytes,
        arena_bytes: report.arena_bytes,
        stack_peak_bytes: report.stack_peak_bytes,
        instructions_per_step: report.instructions / u64::from(report.steps.max(1)),
        seconds,
        images,
        elf,
        log: run.log,
    })
}

/// Whether a blob has convolutions that not every core computes.
fn is_strided(blob: &[u8]) -> bool {
    let Ok(model) = Model::parse(blob) else { return false };
    let strided = |op: &Op| matches!(op, Op::Conv(op) if op.algorithm == Algorithm::Strided);
    model.header().is_ok_and(|header| model.ops(&header).any(|op| strided(&op)))
}

/// Whether firmware for `machine` can be built and run here.
///
/// # Errors
/// What is missing and how to get it, in one sentence.
pub fn check_ready(machine: &Machine) -> Result<()> {
    qemu::check_installed()?;
    firmware::check_target(machine)
}

/// A checksum as 8 hexadecimal digits.
fn as_hex<S: Serializer>(crc32: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{crc32:08x}"))
}

fn request(options: &EmulateOptions) -> Request {
    Request {
        seed: options.seed,
        steps: options.steps.into(),
        count: options.count,
        class: options.class,
        guidance: options.guidance,
        sampler: options.sampler,
        clip_sample: options.clip_sample,
        arena_short_bytes: options.arena_short_bytes,
    }
}

fn save_images(report: &Report, machine: &Machine, options: &EmulateOptions) -> Result<Vec<EmulatedImage>> {
    let mut images = Vec::new();
    for image in &report.images {
        let file = match &options.out {
            None => None,
            Some(folder) => {
                let file = folder.join(format!("{}-{}-{}.png", report.name, machine.name, image.seed));
                let (width, height) = (report.width as usize, report.height as usize);
                let png = picture::png_bytes(width, height, report.channels as usize, &image.pixels)?;
                files::write_atomic(&file, &png)?;
                Some(file)
            }
        };
        let pixels = image.pixels.clone();
        images.push(EmulatedImage { seed: image.seed, class: image.class, crc32: image.crc32, file, pixels });
    }
    Ok(images)
}
