//! `picodream emulate`: draw on an emulated Cortex-M.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use picodream::sampler::AnySampler;

use super::output::Output;
use super::rule::Rule;
use super::sampling_args::sampler_names;
use super::shipped::{ModelFiles, class_names};
use crate::data::class_index;
use crate::emulate::{
    Class, DEFAULT_MACHINE, EmulateOptions, EmulateReport, EmulatedImage, Form, Sampler, emulate, listed,
};
use crate::picture::Picture;

/// Draw images on an emulated microcontroller, and bring back what it took.
///
/// Builds the firmware around the blob, runs it under QEMU (which must be installed), and saves the images that the board
/// hands back: their CRCs equal those of `picodream sample` with the same options. Instructions are counted by QEMU; they
/// are not cycles.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream emulate fashion-16 --machine mps2-an386 --steps 20 --count 2
  picodream emulate faces-16 --core m3 --steps 4 --out on-an-m3
  picodream emulate fashion-16-fast --steps 2          a model tuned for few steps, by its own sampler

Machines and cores: mps2-an385 (m3: Cortex-M3, no FPU, no DSP), mps2-an386 (m4: Cortex-M4F), mps2-an500 (m7: Cortex-M7),
mps2-an505 (m33: Cortex-M33), mps3-an547 (m55: Cortex-M55), and m0plus: code for a Cortex-M0+, on mps2-an385.")]
pub struct EmulateArgs {
    /// Path of a blob, or the name of a shipped model.
    model: String,
    /// The machine, as QEMU names it.
    #[arg(long, default_value = DEFAULT_MACHINE, conflicts_with = "core")]
    machine: String,
    /// The machine by its core: m0plus, m3, m4, m7, m33 or m55.
    #[arg(long)]
    core: Option<String>,
    /// Denoising steps, 1 to the model's number of timesteps [default: 20, or 1 for consistency].
    #[arg(long)]
    steps: Option<u16>,
    /// Seed of the first image.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of images.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// A class by number or name, or `none` for the null class [default: seed mod classes].
    #[arg(long)]
    class: Option<String>,
    /// Classifier-free guidance scale; 1 is none.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f32,
    /// Update rule of a denoising step, over its usual levels of noise; all but ddim, ddpm and consistency need --loaded, whose
    /// firmware carries every one [default: consistency for a model tuned for it, else ddim].
    #[arg(long, value_name = "NAME", value_parser = sampler_names())]
    sampler: Option<String>,
    /// Share of ancestral noise in DDIM, 0 (deterministic) to 1 [default: 0].
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f32>,
    /// Read the blob into RAM at run time instead of building it into flash: one firmware for all blobs.
    #[arg(long)]
    loaded: bool,
    /// Folder of the PNGs.
    #[arg(long, value_name = "FOLDER", default_value = "emulated")]
    out: PathBuf,
}

/// A sampler by its name, with its usual levels.
fn sampler_named(name: &str, eta: f32) -> Sampler {
    match name {
        "ddim" => Sampler::Ddim(eta),
        "ddpm" => Sampler::Ddpm,
        "consistency" => Sampler::FewStep,
        // The name has been checked.
        _ => listed(AnySampler::ALL.iter().position(|(known, _)| *known == name).unwrap_or_default()),
    }
}

/// Runs the verb.
pub fn run(args: &EmulateArgs, output: &Output) -> Result<()> {
    let files = ModelFiles::find(&args.model)?;
    let model = files.model()?;
    let class = match args.class.as_deref() {
        None => Class::BySeed,
        Some("none") => Class::Null,
        Some(text) => Class::One(class_index(&class_names(&model)?, text)?),
    };
    let header = model.header().map_err(|error| anyhow::anyhow!("{error}"))?;
    let rule = Rule::of(&files);
    let name = args.sampler.as_deref().unwrap_or(if rule == Rule::Consistency { "consistency" } else { "ddim" });
    let sampler = sampler_named(name, args.eta.unwrap_or(0.0));
    ensure!(
        args.eta.is_none() || matches!(sampler, Sampler::Ddim(_)),
        "--eta was given, but {name} has no such share of noise on a board"
    );
    ensure!(
        args.loaded || !matches!(sampler, Sampler::Listed { .. }),
        "a firmware with the blob in flash has no {name}; --loaded has every sampler"
    );
    let usual_steps = if sampler == Sampler::FewStep { Rule::Consistency } else { Rule::Ddim }.default_steps();
    let options = EmulateOptions {
        machine: args.core.clone().unwrap_or_else(|| args.machine.clone()),
        steps: args.steps.unwrap_or(usual_steps),
        seed: args.seed,
        count: args.count,
        class,
        guidance: args.guidance,
        sampler,
        form: if args.loaded { Form::Loaded } else { Form::BuiltIn },
        out: Some(args.out.clone()),
        ..EmulateOptions::default()
    };
    let report = emulate(&files.path, &options)?;
    let shape = (header.width.into(), header.height.into(), header.channels.into());
    let picture = |image: &EmulatedImage| Picture::from_samples(shape.0, shape.1, shape.2, &image.pixels);
    output.pictures(&report.images.iter().map(picture).collect::<Vec<_>>())?;
    tell(&report, output)?;
    output.object(&report)
}

fn tell(report: &EmulateReport, output: &Output) -> Result<()> {
    output.line(format_args!("{} ({}), kernels: {}", report.machine, report.core, report.backend))?;
    output.line(format_args!("model           {}, CRC-32 {:08x}", report.model, report.blob_crc32))?;
    output.line(format_args!(
        "flash           {} bytes: blob {}, code {}",
        report.flash_bytes, report.blob_bytes, report.code_bytes
    ))?;
    let ram = u64::from(report.arena_bytes) + u64::from(report.stack_peak_bytes);
    output.line(format_args!(
        "RAM             {ram} bytes: arena {}, stack at most {}",
        report.arena_bytes, report.stack_peak_bytes
    ))?;
    output.line(format_args!("per step        {} instructions", report.instructions_per_step))?;
    for image in &report.images {
        let file = image.file.as_ref().map_or(String::new(), |file| file.display().to_string());
        output.line(format_args!("seed {} crc32 {:08x} {file}", image.seed, image.crc32))?;
    }
    output.line(format_args!("{} images in {:.1} s of emulation", report.images.len(), report.seconds))
}
