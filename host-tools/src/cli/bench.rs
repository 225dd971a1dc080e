//! `picodream bench`: instruction counts on emulated cores, layer by layer and step by step.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use super::bench_train::{self, BenchTrainArgs};
use super::output::Output;
use super::shipped::{self, ModelFiles};
use crate::bench::snapshot::{self, Snapshot};
use crate::bench::{AlgorithmReport, BenchOptions, BenchReport, HostReport, LAYERS, LayerReport, StepReport, bench};
use crate::emulate::{MACHINES, Machine};
use crate::files;

/// Count instructions on emulated Cortex-M cores: single layers, and whole denoising steps.
///
/// Builds one firmware per core, runs it under QEMU (which must be installed), and counts what it retires. These are
/// instructions, never cycles: how long one takes depends on the chip. Per MAC means per multiply-accumulate of the
/// convolution as it is defined, with everything that the layer does beside it.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_long_help = "\
Examples:
  picodream bench                               everything, on every core
  picodream bench --core m4 --layers            one core, the layers only
  picodream bench --core m4 --core m55 --shape 3x3
  picodream bench --steps --model fashion-16 --json
  RUSTFLAGS='-C target-cpu=native' cargo run --release -- bench --host     with the vector instructions of this computer
  picodream bench train --naive                 what a training step costs on this machine

A shape is KERNELxKERNEL HEIGHTxWIDTHxCIN->COUT: `s2` is stride 2, `up` a nearest doubling before the convolution, and
`fused` adds what a ResBlock's convolution has: norm, SiLU, time bias, residual, sums for the next norm.")]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<OtherBench>,
    /// Measure on this core only: m0plus, m3, m4, m7, m33 or m55; may be repeated.
    #[arg(long, value_name = "CORE")]
    core: Vec<String>,
    /// Measure layers [default: layers, steps and this computer].
    #[arg(long)]
    layers: bool,
    /// Measure whole steps of the models.
    #[arg(long)]
    steps: bool,
    /// Measure this computer: a network call of the int8 runtime against the f32 network in candle, which is compiled once.
    #[arg(long)]
    host: bool,
    /// Measure only layers whose shape contains this text; implies --layers.
    #[arg(long, value_name = "TEXT", conflicts_with = "steps")]
    shape: Option<String>,
    /// Measure the steps of this model only, the path of a blob or a shipped name; may be repeated; implies --steps. With
    /// --host: the (first) model that is timed, whose checkpoint must lie beside it [default: fashion-16].
    #[arg(long, value_name = "MODEL")]
    model: Vec<String>,
    /// Measure what CI watches (every layer, and the steps of fashion-16, on every core) and write it to this table.
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["core", "layers", "steps", "host", "shape", "model"])]
    snapshot: Option<PathBuf>,
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
enum OtherBench {
    Train(BenchTrainArgs),
}

/// Runs the verb.
pub fn run(args: &BenchArgs, output: &Output) -> Result<ExitCode> {
    if let Some(OtherBench::Train(args)) = &args.other {
        return bench_train::run(args, output);
    }
    let parts = Parts::of(args);
    let options = options(args, parts)?;
    let name = args.model.first().map_or(snapshot::MODEL, String::as_str);
    let host =
        parts.host.then(|| ModelFiles::find(name).and_then(|files| Ok((files.checkpoint()?, files)))).transpose()?;
    #[cfg(not(feature = "train"))]
    if host.is_some() {
        return super::trainer_build::run("the f32 side of bench --host");
    }
    let bar = output.progress(0, "measurements");
    let report = bench(&options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    #[cfg_attr(not(feature = "train"), allow(unused_mut, reason = "the part below is compiled with candle only"))]
    let mut report = report?;
    #[cfg(feature = "train")]
    if let Some((checkpoint, files)) = host {
        let bar = output.progress(HOST_REPETITIONS, "network calls");
        let on_progress = |done: usize| bar.set_position(done as u64);
        report.host = Some(crate::bench::host::measure(&files.model()?, &checkpoint, HOST_REPETITIONS, on_progress)?);
        bar.finish_and_clear();
    }
    if let Some(path) = &args.snapshot {
        let mut table = serde_json::to_vec_pretty(&Snapshot::of(&report))?;
        table.push(b'\n');
        files::write_atomic(path, &table)?;
    }
    tell(&report, output)?;
    output.object(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// Calls of each network on this computer.
#[cfg(feature = "train")]
const HOST_REPETITIONS: usize = 101;

/// What is measured.
#[derive(Clone, Copy)]
struct Parts {
    layers: bool,
    steps: bool,
    host: bool,
}

impl Parts {
    /// What was asked for; everything when nothing was.
    fn of(args: &BenchArgs) -> Self {
        let layers = args.layers || args.shape.is_some();
        let steps = args.steps || (!args.model.is_empty() && !args.layers && !args.host);
        let all = !layers && !steps && !args.host && args.snapshot.is_none();
        Self { layers: layers || all, steps: steps || all, host: args.host || all }
    }
}

fn options(args: &BenchArgs, parts: Parts) -> Result<BenchOptions> {
    if args.snapshot.is_some() {
        return Ok(snapshot::options(ModelFiles::find(snapshot::MODEL)?.model()?.bytes().to_vec()));
    }
    let machines = if args.core.is_empty() {
        MACHINES.iter().collect()
    } else {
        args.core.iter().map(|core| Machine::named(core)).collect::<Result<_>>()?
    };
    let mut options = BenchOptions { machines, ..BenchOptions::default() };
    if parts.layers {
        let wanted = args.shape.as_deref().unwrap_or_default();
        options.layers = LAYERS.into_iter().filter(|layer| layer.shape().contains(wanted)).collect();
        ensure!(
            !options.layers.is_empty(),
            "no layer's shape contains '{wanted}'; there are {}",
            LAYERS.map(|layer| layer.shape()).join(", ")
        );
    }
    if parts.steps {
        let names = if args.model.is_empty() { shipped::names() } else { args.model.clone() };
        for name in names {
            let files = ModelFiles::find(&name)?;
            let blob = files.model()?.bytes().to_vec();
            options.models.push((name, blob));
        }
    }
    if options.layers.is_empty() && options.models.is_empty() {
        // Nothing to run: no firmware either.
        options.machines.clear();
    }
    Ok(options)
}

fn tell(report: &BenchReport, output: &Output) -> Result<()> {
    if !report.layers.is_empty() {
        tell_layers(&report.layers, output)?;
    }
    if !report.steps.is_empty() {
        tell_steps(&report.steps, output)?;
    }
    if let Some(host) = &report.host {
        tell_host(host, output)?;
    }
    if report.code.is_empty() {
        return Ok(());
    }
    output.line("code: flash of the measuring firmware, logs and reports included, no blob")?;
    for code in &report.code {
        output.line(format_args!("  {:<7} {:>7} bytes", code.core, code.code_bytes))?;
    }
    Ok(())
}

/// One line per shape and algorithm, one column per core, empty where the core lacks the algorithm.
fn tell_layers(layers: &[LayerReport], output: &Output) -> Result<()> {
    let mut cores: Vec<&str> = layers.iter().map(|layer| layer.core).collect();
    cores.dedup();
    let head: String = cores.iter().map(|core| format!("{core:>9}")).collect();
    output.line(format_args!("{:<30} {:<9}{head} {:>9} {:>10}", "instructions per MAC", "", "scratch", "constants"))?;
    for layer in layers.iter().filter(|layer| layer.core == cores[0]) {
        let same_shape = || layers.iter().filter(|other| other.shape == layer.shape);
        let all = same_shape().map(|other| &other.algorithms).max_by_key(|algorithms| algorithms.len());
        for way in all.unwrap_or(&layer.algorithms) {
            let ways = || same_shape().map(|other| other.algorithms.iter().find(|own| own.algorithm == way.algorithm));
            let column = |figure: fn(&AlgorithmReport) -> Option<f64>, places| -> String {
                let part =
                    |own: Option<&AlgorithmReport>| own.and_then(figure).map(|count| format!("{count:.places$}"));
                ways().map(|own| format!("{:>9}", part(own).unwrap_or_default())).collect()
            };
            let whole = column(|way| Some(way.instructions_per_mac), 3);
            output.line(format_args!(
                "{:<30} {:<9}{whole} {:>7} B {:>8} B",
                layer.shape, way.algorithm, way.scratch_bytes, way.constant_bytes
            ))?;
            if way.integer_instructions_per_mac.is_some() {
                let integer = column(|way| way.integer_instructions_per_mac, 3);
                output.line(format_args!("{:<30} {:<9}{integer}", "", "  integer"))?;
                let rest = column(|way| way.epilogue_instructions_per_output, 1);
                output.line(format_args!("{:<30} {:<9}{rest}", "", "  rest/out"))?;
            }
        }
    }
    output
        .line("integer: row feed, products and sums alone; rest/out: what turns sums into an f16 output, by output")?;
    output.line("")
}

fn tell_steps(steps: &[StepReport], output: &Output) -> Result<()> {
    output.line(format_args!(
        "{:<16} {:<7} {:>13} {:>8}  {:<20} share by operator",
        "whole step", "core", "instructions", "per MAC", "kernels"
    ))?;
    for step in steps {
        output.line(format_args!(
            "{:<16} {:<7} {:>13} {:>8.3}  {:<20} {}",
            step.model,
            step.core,
            step.instructions,
            step.instructions_per_mac,
            step.backend,
            shares(&step.shares)
        ))?;
    }
    output.line("")
}

fn tell_host(host: &HostReport, output: &Output) -> Result<()> {
    let HostReport { model, int8_ms, repetitions, backend, built_for, .. } = host;
    output.line(format_args!("this computer: a network call of {model}, one thread, medians of {repetitions}"))?;
    output.line(format_args!(
        "  int8                            {int8_ms:>9.3} ms  ({backend}, built for {built_for})"
    ))?;
    for (network, ms) in [
        ("f32, candle", host.f32_ms),
        ("f32, candle with our operators", host.f32_own_operators_ms),
        ("f32, our engine", host.float_engine_ms),
    ] {
        output.line(format_args!("  {network:<31} {ms:>9.3} ms  {:.2} times the int8", ms / int8_ms))?;
    }
    output.line("")
}

/// The largest share first.
fn shares(shares: &BTreeMap<String, f64>) -> String {
    let mut sorted: Vec<_> = shares.iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(a.1));
    sorted.iter().map(|(kind, share)| format!("{kind} {:.1} %", 100.0 * **share)).collect::<Vec<_>>().join(", ")
}
