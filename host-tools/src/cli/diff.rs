//! `picodream diff`: how far the int8 network is from the float one.

use anyhow::{Result, ensure};
use clap::Args;
use picodream::Model;
use serde::Serialize;

use super::output::{Output, command_name};
use super::rule::Rule;
use super::shipped::{ModelFiles, class_names};
use crate::checkpoint::Checkpoint;
use crate::data::class_index;
use crate::diff::repair::{self, Lift, Repair};
use crate::diff::{DiffOptions, DiffReport, PsnrDb, diff_with_progress};

/// Compare the int8 network with its f32 checkpoint: per denoising step, on finished images, and per operator.
///
/// Steps: both networks get the same noisy image; SQNR of the denoised estimate (x0) and of the raw output, in dB. The
/// raw output's SQNR falls at low noise, where the output itself vanishes. Images: PSNR between images drawn from the
/// same noise. Operators: worst first by what each does to finished images, which the f32 network draws with this one
/// operator in int8 (`images`, PSNR); SQNR of what each writes; `local` is the error that it adds by itself. --repair
/// exports the checkpoint in other ways and says which of them mends what.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream diff fashion-16 --steps 20
  picodream diff faces-16 --repair
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
    /// Number of images; classes take turns [default: 160 network calls' worth, 8 in 20 steps, 40 in 4].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    count: Option<u16>,
    /// One class for all images, by number or name.
    #[arg(long)]
    class: Option<String>,
    /// Classifier-free guidance scale.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f32,
    /// Images by which operators are ranked, of --count; 0 ranks them by their SQNR, which is quicker.
    #[arg(long, default_value_t = 4, value_name = "IMAGES")]
    rank: u16,
    /// Also measure what other options of `export` would repair.
    #[arg(long)]
    repair: bool,
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
    // With 8 images the figure of a single call stands off by 0.5 dB from that of 256 (docs/quantisation.md).
    let count = args.count.map_or((160 / usize::from(steps.max(1))).max(8), usize::from);
    let (seed, guidance) = (args.seed, args.guidance);
    let ranked = args.rank.into();
    ensure!(!args.repair || ranked > 0, "--repair needs operators ranked by images: --rank 1 or more");
    let options = DiffOptions { sampler: rule.choice(), steps, seed, count, class, guidance, ranked };
    let ops = if ranked > 0 { model.header().map_or(0, |header| header.op_count.into()) } else { 0 };
    let bar = output.progress(count + ops, "drawing with both networks");
    let report = diff_with_progress(&model, &checkpoint, &options, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    let repairs =
        if args.repair { measure_repairs(&model, &checkpoint, &options, &report, output)? } else { Vec::new() };
    output.object(&DiffJson { report: &report, repairs: &repairs })?;
    tell(&report, args.top, output)?;
    tell_repairs(&report, &repairs, args, output)
}

#[derive(Serialize)]
struct DiffJson<'a> {
    #[serde(flatten)]
    report: &'a DiffReport,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    repairs: &'a [Repair],
}

fn measure_repairs(
    model: &Model<'_>,
    checkpoint: &Checkpoint,
    options: &DiffOptions,
    report: &DiffReport,
    output: &Output,
) -> Result<Vec<Repair>> {
    let bar = output.progress(repair::count(model)?, "exporting in other ways");
    let repairs = repair::repairs(model, checkpoint, options, report, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(repairs)
}

fn tell(report: &DiffReport, top: usize, output: &Output) -> Result<()> {
    output.line(format_args!("{:>8} {:>12} {:>12}", "timestep", "x0 SQNR dB", "output dB"))?;
    for step in &report.steps {
        output.line(format_args!("{:>8.0} {:>12.2} {:>12.2}", step.timestep, step.x0_sqnr_db, step.output_sqnr_db))?;
    }
    let psnr = report.image_psnr_db;
    output.line(format_args!("\nimages: PSNR {:.2} dB on average, {:.2} dB the worst", psnr.mean, psnr.min))?;
    let width = report.ops.iter().map(|op| op.name.len()).max().unwrap_or(2);
    let title =
        |images: &str| format!("{:width$} {images:>9} {:>9} {:>9}   (worst first)", "operator", "SQNR dB", "local dB");
    output.line(format_args!("\n{}", title("images dB")))?;
    for op in report.ops.iter().take(top) {
        let images = op.image_psnr_db.map_or("-".into(), |psnr| format!("{psnr:.2}"));
        output.line(format_args!("{:width$} {images:>9} {:>9.2} {:>9.2}", op.name, op.sqnr_db, op.local_sqnr_db))?;
    }
    Ok(())
}

fn tell_repairs(report: &DiffReport, repairs: &[Repair], args: &DiffArgs, output: &Output) -> Result<()> {
    if !args.repair {
        let name = command_name();
        return output.line(format_args!("\nwhat would mend it: {name} diff {} --repair", args.model));
    }
    let width = repairs.iter().map(|repair| repair.export.len()).max().unwrap_or(6).max(6);
    output.line(format_args!(
        "\n{:width$} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "export", "x0 dB", "mean dB", "worst dB", "blob", "arena"
    ))?;
    let (psnr, x0) = (report.image_psnr_db, report.worst_x0_sqnr_db());
    output.line(format_args!("{:width$} {x0:>9.2} {:>9.2} {:>9.2}", "as it is", psnr.mean, psnr.min))?;
    for Repair { export, blob_bytes, arena_bytes, x0_sqnr_db, image_psnr_db, lifts } in repairs {
        let PsnrDb { mean, min } = image_psnr_db;
        output.line(format_args!(
            "{export:width$} {x0_sqnr_db:>9.2} {mean:>9.2} {min:>9.2} {blob_bytes:>8} {arena_bytes:>8}"
        ))?;
        for Lift { op, gain_db } in lifts {
            let gain = gain_db.map_or("no longer there".into(), |gain| format!("+{gain:.1} dB"));
            output.line(format_args!("    {op}: {gain}"))?;
        }
    }
    Ok(())
}
