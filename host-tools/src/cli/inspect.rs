//! `picodream inspect`: what a blob holds and costs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::output::Output;
use super::shipped::ModelFiles;
use crate::files;
use crate::inspect::{BlobReport, report};
use crate::picture::memory_map_svg;

/// Show what a blob holds and costs: header, operators with MACs and bytes, arena plan, peak and lower bound.
///
/// MACs are multiply-accumulates of one network pass (a step with guidance has two). `arena` columns are byte addresses
/// inside the one buffer that a pipeline needs; `live` is what must exist at once while an operator runs.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream inspect fashion-16
  picodream inspect my-model.pdm --svg memory.svg
  picodream inspect faces-16 --json | jq .arena_bytes")]
pub struct InspectArgs {
    /// Path of a blob, or the name of a shipped model.
    model: String,
    /// Also draw the arena plan (time x address) into this SVG file.
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

/// Runs the verb.
pub fn run(args: &InspectArgs, output: &Output) -> Result<()> {
    let files = ModelFiles::find(&args.model)?;
    let report = report(&files.model()?)?;
    if let Some(svg) = &args.svg {
        files::write_atomic(svg, memory_map_svg(&report.memory_map()).as_bytes())?;
    }
    output.object(&report)?;
    header(&report, output)?;
    table(&report, output)?;
    if let Some(svg) = &args.svg {
        output.line(format_args!("\nmemory map: {}", svg.display()))?;
    }
    Ok(())
}

fn header(report: &BlobReport, output: &Output) -> Result<()> {
    let BlobReport { name, licence, data_licence, blob_bytes, crc32, arena_bytes, arena_lower_bound_bytes, .. } =
        report;
    output.line(format_args!("name            {name}"))?;
    output.line(format_args!("licence         {licence} (data: {data_licence})"))?;
    output.line(format_args!("blob            {blob_bytes} bytes, CRC-32 {crc32}"))?;
    output.line(format_args!(
        "arena           {arena_bytes} bytes; lower bound {arena_lower_bound_bytes} (x{:.3}), peak at {}",
        f64::from(*arena_bytes) / f64::from((*arena_lower_bound_bytes).max(1)),
        report.peak_op
    ))?;
    let image = report.image;
    output.line(format_args!("image           {}x{}x{}", image.width, image.height, image.channels))?;
    output.line(format_args!(
        "prediction      {}{} over {} timesteps",
        report.prediction_type,
        if report.learned_variance { " and variances" } else { "" },
        report.num_train_timesteps
    ))?;
    if !report.baked_timesteps.is_empty() {
        let timesteps: Vec<String> = report.baked_timesteps.iter().map(|t| format!("{t}")).collect();
        output.line(format_args!("baked           for timesteps {} only", timesteps.join(", ")))?;
    }
    let classes = report.class_names.join(", ");
    output.line(format_args!("classes         {}", if classes.is_empty() { "none".into() } else { classes }))?;
    output.line(format_args!("MACs per step   {}", report.macs_per_step))
}

fn table(report: &BlobReport, output: &Output) -> Result<()> {
    let width = report.ops.iter().map(|op| op.name.len()).max().unwrap_or(4);
    let kind_width = report.ops.iter().map(|op| op.kind.len()).max().unwrap_or(4);
    output.line(format_args!(
        "\n{:>3} {:width$} {:kind_width$} {:9} {:>11} {:>9} {:>7} {:>13} {:>13} {:>6}",
        "op", "name", "kind", "algorithm", "output", "MACs", "bytes", "arena output", "scratch", "live"
    ))?;
    for (i, op) in report.ops.iter().enumerate() {
        let [h, w, c] = op.out_shape;
        let range = |offset: u32, bytes: u32| if bytes == 0 { "-".into() } else { format!("{offset}+{bytes}") };
        output.line(format_args!(
            "{i:>3} {:width$} {:kind_width$} {:9} {:>11} {:>9} {:>7} {:>13} {:>13} {:>6}{}",
            op.name,
            op.kind,
            op.algorithm.unwrap_or("-"),
            format!("{h}x{w}x{c}"),
            op.macs,
            op.blob_bytes,
            range(op.out_offset, op.out_bytes),
            range(op.scratch_offset, op.scratch_bytes),
            op.live_bytes,
            if op.name == report.peak_op { "  <- peak" } else { "" }
        ))?;
    }
    Ok(())
}
