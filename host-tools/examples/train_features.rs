//! Trains a feature network of `picodream eval` and writes it to `models/` (or `--out`).

use std::path::PathBuf;

use clap::Parser;
use picodream_tools::{eval::features::shipped_path, train::classifier::train_features};

#[derive(Parser)]
struct Args {
    /// fashion, faces or emoji.
    source: String,
    /// Width and height of the images.
    #[arg(long, default_value_t = 16)]
    size: usize,
    /// Optimiser steps of 128 images.
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Seed of weights, order and noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The .safetensors file to write; the card goes beside it.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let out = args.out.unwrap_or_else(|| shipped_path(&args.source, args.size));
    let card = train_features(&args.source, args.size, args.steps, args.seed, &out)?;
    println!("{}", serde_json::to_string_pretty(&card)?);
    Ok(())
}
