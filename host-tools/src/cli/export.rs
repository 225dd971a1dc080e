//! `picodream export`: from a checkpoint to a blob.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use picodream::blob::WeightFormat;
use serde_json::json;

use super::output::Output;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::export::{
    Budget, ExportOptions, ExportReport, Exported, Kernels, Rules, Trajectories, export_with_progress, timesteps_of,
};
use crate::files;
use crate::float::Skips;

/// Quantise a checkpoint and pack it into one blob for the microcontroller.
///
/// Static scales are chosen on real sampling trajectories, weights become int8 per output channel, the network becomes an
/// operator list, the arena is planned, and everything is packed into one file. The same checkpoint gives the same bytes.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  picodream export my-faces.safetensors
  picodream export models/fashion-16.safetensors --out fashion-16.pdm
  picodream export models/fashion-16.safetensors --target nrf52840 --out fashion-16-nrf52840.pdm
  picodream export models/fashion-16.safetensors --weights 4 --out fashion-16-small.pdm")]
pub struct ExportArgs {
    /// The checkpoint; its config NAME.json lies beside it.
    #[arg(value_name = "CHECKPOINT.safetensors")]
    checkpoint: PathBuf,
    /// The blob to write [default: the checkpoint's name with .pdm].
    #[arg(long, value_name = "FILE.pdm")]
    out: Option<PathBuf>,
    /// `small`: least flash and RAM. `fast`: Winograd and phase convolutions wherever they fit; the same images.
    #[arg(long, value_enum, default_value_t)]
    kernels: Kernels,
    /// Bits of a convolution's weights (of all but the first and the last): 4 halve the blob at some loss of quality, with
    /// room for a layer's unpacked weights in the arena.
    /// [default: 8, or those of the grid that `tune --weights` brought the checkpoint onto].
    #[arg(long, value_parser = ["8", "4"])]
    weights: Option<String>,
    /// Bits of what enters the matrix products, 8 to 12 (fewer where a sum could leave 24 bits); the image itself always
    /// has 12. More than 10 cost instructions on all cores but the M55: 30 % on the M4 (docs/quantisation.md).
    #[arg(long, default_value_t = 10, value_name = "BITS", value_parser = clap::value_parser!(u8).range(8..=12))]
    input_bits: u8,
    /// Bits of a skip tensor while it waits for the other side of the U-Net: 16 take twice the memory.
    #[arg(long, default_value = "8", value_parser = ["8", "16"])]
    skips: String,
    /// Bake the biases of time and class for drawing in so many steps (of DDIM, or of the consistency sampler for a model tuned
    /// for it), in place of the layers that make them: some kB less flash, and no other steps. Several numbers: 1,2,4.
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=100))]
    bake: Vec<u16>,
    /// Choose the kernels of each layer by this board's flash and RAM (an unknown name lists them).
    #[arg(long, value_name = "BOARD", conflicts_with = "kernels")]
    target: Option<String>,
    /// Bytes of flash for code and blob, instead of the board's.
    #[arg(long, value_name = "BYTES", requires = "target")]
    flash: Option<u32>,
    /// Bytes of RAM for arena, stack and statics, instead of the board's.
    #[arg(long, value_name = "BYTES", requires = "target")]
    ram: Option<u32>,
}

impl ExportArgs {
    fn rules(&self, config: &ModelConfig) -> Rules {
        let weights = match self.weights.as_deref() {
            Some("4") => WeightFormat::Int4,
            Some(_) => WeightFormat::Int8,
            None => config.weight_format().unwrap_or_default(),
        };
        let skips = if self.skips == "16" { Skips::Whole } else { Skips::Narrowed };
        Rules { weights, skips, ..Rules::default() }.with_input_bits(self.input_bits)
    }

    fn kernels(&self) -> Result<Kernels> {
        match &self.target {
            Some(name) => Ok(Kernels::Within(Budget::new(name, self.flash, self.ram)?)),
            None => Ok(self.kernels),
        }
    }
}

/// Runs the verb.
pub fn run(args: &ExportArgs, output: &Output) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| args.checkpoint.with_extension("pdm"));
    ensure!(out != args.checkpoint, "--out is the checkpoint itself: {}", out.display());
    let kernels = args.kernels()?;
    let checkpoint = Checkpoint::load(&args.checkpoint)?;
    let rules = args.rules(&checkpoint.config);
    let bar = output.progress(0, "calibrating and quantising");
    let mut progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let bake = timesteps_of(&checkpoint.config, &args.bake);
    let trajectories = Trajectories::of(&checkpoint.config).within(&checkpoint.config, &bake);
    let options = ExportOptions { kernels, rules, trajectories, bake };
    let Exported { bytes, report } = export_with_progress(&checkpoint, &options, &mut progress)?;
    bar.finish_and_clear();
    files::write_atomic(&out, &bytes)?;
    let ExportReport {
        name,
        blob_bytes,
        crc32,
        arena_bytes,
        arena_lower_bound_bytes,
        peak_op,
        baked_bytes,
        order,
        op_count,
        macs_per_step,
    } = report;
    let crc32 = format!("{crc32:08x}");
    output.line(format_args!(
        "{}: {name}, {blob_bytes} bytes, CRC-32 {crc32}\narena {arena_bytes} bytes (lower bound {arena_lower_bound_bytes}, peak at {peak_op}), {op_count} operators, {macs_per_step} MACs per step\norder {order}",
        out.display()
    ))?;
    if let Some([baked, embedding]) = baked_bytes {
        output.line(format_args!("{}", baked_line(baked, embedding)))?;
    }
    output.object(&json!({
        "file": out, "name": name, "blob_bytes": blob_bytes, "crc32": crc32, "arena_bytes": arena_bytes,
        "arena_lower_bound_bytes": arena_lower_bound_bytes, "peak_op": peak_op, "order": order, "op_count": op_count,
        "macs_per_step": macs_per_step, "baked_bytes": baked_bytes.map(|[baked, _]| baked),
        "embedding_bytes": baked_bytes.map(|[_, embedding]| embedding),
    }))
}

/// What baking gains, or loses.
fn baked_line(baked: usize, embedding: usize) -> String {
    let advice = if baked < embedding { "" } else { ": bake fewer steps, or none" };
    let (more, word) = if baked < embedding { (embedding - baked, "less") } else { (baked - embedding, "more") };
    format!("baked biases take {baked} bytes, {more} {word} than the time embedding that they stand for{advice}")
}
