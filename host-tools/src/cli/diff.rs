//! `picodream diff`: how far the int8 network is from the float one.

use anyhow::Result;
use clap::Args;

use super::output::Output;
use super::rule::Rule;
use super::shipped::{ModelFiles, class_names};
use crate::data::class_index;
use crate::diff::{DiffOptions, DiffReport, diff_with_progress};

/// Compare the int8 network with its f32 checkpoint: per denoising step, on finished images, and per operator.
///
/// Steps: both networks get the same noisy image; SQNR of the denoised estimate (x0) and of the raw output, in dB. The
/// raw output's SQNR falls at low noise, where the output itself vanishes. Images: PSNR between images drawn from the
/// same noise. Operators: SQNR of what each writes, worst first; `local` is the error that it adds by itself.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream diff fashion-16 --steps 20
  picodream diff my-model.pdm --count 16 --top 5        the checkpoint my-model.safetensors lies beside the blob")]
pub struct DiffArgs {
    /// Path of a blob with its checkpoint beside it, or the name of a shipped model.
    model: String,
    /// Denoising steps [default: 20, or 4 for a model tuned for consistency].
    #[arg(long)]
    steps: Option<u16>,
    /// Update rule [default: consistency for a model tuned for it, else ddim].
    #[arg(long, value_enum)]
    sampler: Option<Rule>,
    /// Seed of the first image.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of images; classes take turns.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: u16,
    /// One class for all images, by number or name.
    #[arg(long)]
    class: Option<String>,
    /// Classifier-free guidance scale.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f32,
    /// Show only so many operators (the JSON has all).
    #[arg(long, default_value_t = 15)]
    top: usize,
}

/// Runs the verb.
pub fn run(args: &DiffArgs, output: &Output) -> Result<()> {
    let files = ModelFiles::find(&args.model)?;
    let model = files.model()?;
    let checkpoint = files.checkpoint()?;
    let names = class_names(&model)?;
    let class = args.class.as_deref().map(|text| class_index(&names, text)).transpose()?;
    let rule = args.sampler.unwrap_or_else(|| Rule::of(&files));
    let steps = args.steps.unwrap_or(if rule == Rule::Consistency { 4 } else { 20 });
    let (seed, count, guidance) = (args.seed, args.count.into(), args.guidance);
    let bar = output.progress(count, "drawing with both networks");
    let options = DiffOptions { sampler: rule.choice(), steps, seed, count, class, guidance };
    let report = diff_with_progress(&model, &checkpoint, &options, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    output.object(&report)?;
    tell(&report, args.top, output)
}

fn tell(report: &DiffReport, top: usize, output: &Output) -> Result<()> {
    output.line(format_args!("{:>8} {:>12} {:>12}", "timestep", "x0 SQNR dB", "output dB"))?;
    for step in &report.steps {
        output.line(format_args!("{:>8.0} {:>12.2} {:>12.2}", step.timestep, step.x0_sqnr_db, step.output_sqnr_db))?;
    }
    let psnr = report.image_psnr_db;
    output.line(format_args!("\nimages: PSNR {:.2} dB on average, {:.2} dB the worst", psnr.mean, psnr.min))?;
    let width = report.ops.iter().map(|op| op.name.len()).max().unwrap_or(2);
    output.line(format_args!("\n{:width$} {:>9} {:>9}   (worst first)", "operator", "SQNR dB", "local dB"))?;
    for op in report.ops.iter().take(top) {
        output.line(format_args!("{:width$} {:>9.2} {:>9.2}", op.name, op.sqnr_db, op.local_sqnr_db))?;
    }
    Ok(())
}
