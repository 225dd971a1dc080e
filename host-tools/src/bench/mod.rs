//! Instruction counts on emulated Cortex-M cores: single layers, and whole steps of a model.
//!
//! The firmware `firmware/boards/qemu/src/bin/bench.rs` counts with QEMU's SysTick under `-icount shift=0`; before every
//! measurement the counter is held against a loop of known length. Counts are instructions, never cycles or time.

pub mod board;
#[cfg(feature = "train")]
pub mod host;
pub mod layers;
pub mod snapshot;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow};
use picodream::Model;
use picodream::blob::Algorithm;
use serde::Serialize;

use crate::emulate::{Machine, qemu};
use crate::inspect::{self, BlobReport};
use crate::sampling::available_threads;
pub use board::{Board, Counts};
use layers::{LAYER_NAME, LayerBlob};
pub use layers::{LAYERS, Layer};

/// A layer on a core.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// `3x3 28x28x16->16`: kernel (`s2` with stride 2, `up` behind nearest ×2), input, output channels; ` fused` with
    /// norm, SiLU, time bias and residual.
    pub shape: String,
    /// The core, as `--core` names it.
    pub core: &'static str,
    /// Name of the kernels that ran.
    pub backend: String,
    /// Of the algorithm with the fewest instructions: everything the layer does, per multiply-accumulate of its definition.
    pub instructions_per_mac: f64,
    /// Of that algorithm: row feed, products and sums alone, without the float epilogue of an output; none for a layer with
    /// a norm.
    pub integer_instructions_per_mac: Option<f64>,
    /// Working memory of that algorithm.
    pub scratch_bytes: u32,
    /// Name of that algorithm.
    pub algorithm: &'static str,
    /// Multiply-accumulates of the layer's definition.
    pub macs: u64,
    /// Every algorithm that the layer has.
    pub algorithms: Vec<AlgorithmReport>,
}

/// One way to compute a layer.
#[derive(Clone, Debug, Serialize)]
pub struct AlgorithmReport {
    /// Its name.
    pub algorithm: &'static str,
    /// Instructions of the layer's operator.
    pub instructions: u64,
    /// The same per multiply-accumulate.
    pub instructions_per_mac: f64,
    /// The integer part per multiply-accumulate: row feed, products and sums.
    pub integer_instructions_per_mac: Option<f64>,
    /// Of which the row feed.
    pub feed_instructions_per_mac: Option<f64>,
    /// What is left, per output: scale, bias, f16, and the loops around.
    pub epilogue_instructions_per_output: Option<f64>,
    /// Working memory in the arena.
    pub scratch_bytes: u32,
    /// Constants of the layer in the blob.
    pub constant_bytes: u32,
}

/// A whole denoising step on a core.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Name of the model.
    pub model: String,
    /// The core, as `--core` names it.
    pub core: &'static str,
    /// Name of the kernels that ran.
    pub backend: String,
    /// Instructions of the step: network call and sampler.
    pub instructions: u64,
    /// The same per multiply-accumulate of the convolutions.
    pub instructions_per_mac: f64,
    /// Multiply-accumulates of the convolutions, time projections included.
    pub macs: u64,
    /// Share of the step by kind of operator; adds up to 1.
    pub shares: BTreeMap<String, f64>,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// Most bytes of stack in use.
    pub stack_peak_bytes: u32,
}

/// How much code a core takes.
#[derive(Clone, Debug, Serialize)]
pub struct CodeReport {
    /// The core, as `--core` names it.
    pub core: &'static str,
    /// Bytes of the measuring firmware in flash: runtime, logs and reports, no blob.
    pub code_bytes: u64,
}

/// One network call on this computer: medians, and what they are of each other.
#[derive(Clone, Debug, Serialize)]
pub struct HostReport {
    /// Name of the model.
    pub model: String,
    /// The int8 runtime, in milliseconds.
    pub int8_ms: f64,
    /// The f32 network in candle, with candle's own convolution, in milliseconds.
    pub f32_ms: f64,
    /// `f32_ms` by `int8_ms`.
    pub ratio: f64,
    /// The same with the operators of the trainer in candle's place, in milliseconds.
    pub f32_own_operators_ms: f64,
    /// The f32 engine that calibration runs, in milliseconds.
    pub float_engine_ms: f64,
    /// Calls of each.
    pub repetitions: usize,
    /// Name of the integer kernels.
    pub backend: &'static str,
    /// Vector instructions that the compiler was allowed to use.
    pub built_for: &'static str,
}

/// Vector instructions that this build may use.
#[must_use]
pub const fn built_for() -> &'static str {
    if cfg!(target_feature = "avx512bw") {
        "AVX-512"
    } else if cfg!(target_feature = "avx2") {
        "AVX2"
    } else {
        "the target's baseline"
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BenchReport {
    /// Layers, core by core.
    pub layers: Vec<LayerReport>,
    /// Steps, core by core.
    pub steps: Vec<StepReport>,
    /// Code, core by core.
    pub code: Vec<CodeReport>,
    /// This computer, when it was measured.
    pub host: Option<HostReport>,
}

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// The cores.
    pub machines: Vec<&'static Machine>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// Names and blobs of the models whose steps are measured.
    pub models: Vec<(String, Vec<u8>)>,
}

/// One blob to run.
enum Subject<'a> {
    Layer(LayerBlob),
    Model(&'a str, &'a [u8]),
}

impl Subject<'_> {
    fn name(&self) -> String {
        match self {
            Self::Layer(way) => format!("{} ({})", way.layer.shape(), way.algorithm_name()),
            Self::Model(name, _) => (*name).into(),
        }
    }

    fn blob(&self) -> &[u8] {
        match self {
            Self::Layer(way) => &way.blob,
            Self::Model(_, blob) => blob,
        }
    }

    /// Whether a core has the loops for it.
    fn suits(&self, machine: &Machine) -> bool {
        match self {
            Self::Layer(way) => way.algorithm != Algorithm::Strided || machine.has_strided(),
            Self::Model(..) => true,
        }
    }
}

/// Builds one firmware for each core and measures; `on_progress` hears how many of how many measurements are done.
///
/// # Errors
/// When there is no QEMU, a firmware does not build, or a board refuses or miscounts.
pub fn bench(options: &BenchOptions, on_progress: &(impl Fn(usize, usize) + Sync)) -> Result<BenchReport> {
    if !options.machines.is_empty() {
        qemu::check_installed()?;
    }
    let mut subjects = Vec::new();
    for layer in &options.layers {
        subjects.extend(layer.blobs()?.into_iter().map(Subject::Layer));
    }
    subjects.extend(options.models.iter().map(|(name, blob)| Subject::Model(name, blob)));
    let suiting = |machine: &Machine| subjects.iter().filter(|subject| subject.suits(machine)).collect::<Vec<_>>();
    let total = options.machines.iter().map(|machine| suiting(machine).len()).sum();
    let (mut behind, mut report) = (0, BenchReport::default());
    for machine in &options.machines {
        let (board, subjects) = (Board::build(machine)?, suiting(machine));
        report.code.push(CodeReport { core: machine.core, code_bytes: board.code_bytes()? });
        let all = measure_all(&board, &subjects, &|done| on_progress(behind + done, total))?;
        behind += subjects.len();
        for (subject, counts) in subjects.into_iter().zip(&all) {
            match subject {
                Subject::Layer(way) => {
                    add_layer(&mut report.layers, &board, &way.layer, counts, algorithm_report(way, counts)?);
                }
                Subject::Model(name, blob) => report.steps.push(step_report(name, machine.core, blob, counts)?),
            }
        }
    }
    Ok(report)
}

/// Runs all subjects on a board, as many at a time as there are processors: counts do not depend on it.
fn measure_all(board: &Board, subjects: &[&Subject<'_>], on_done: &(impl Fn(usize) + Sync)) -> Result<Vec<Counts>> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let results = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(subject) = subjects.get(index) else { return };
            let counts = board.measure(subject.blob()).with_context(|| subject.name());
            if let Ok(mut results) = results.lock() {
                results.insert(index, counts);
            }
            on_done(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        (1..available_threads()).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let results = results.into_inner().map_err(|_| anyhow!("a measuring thread stopped early"))?;
    results.into_values().collect()
}

fn algorithm_report(way: &LayerBlob, counts: &Counts) -> Result<AlgorithmReport> {
    let inspected = inspected(&way.blob)?;
    let index = inspected.ops.iter().position(|op| op.name == LAYER_NAME);
    let index = index.with_context(|| format!("the blob has no operator '{LAYER_NAME}'"))?;
    let (op, instructions, integer) = (&inspected.ops[index], counts.ops[index], counts.integer.get(&index));
    let per_mac = |instructions: u64| instructions as f64 / way.layer.macs() as f64;
    Ok(AlgorithmReport {
        algorithm: way.algorithm_name(),
        instructions,
        instructions_per_mac: per_mac(instructions),
        integer_instructions_per_mac: integer.map(|[feed, products]| per_mac(feed + products)),
        feed_instructions_per_mac: integer.map(|[feed, _]| per_mac(*feed)),
        epilogue_instructions_per_output: integer
            .map(|[feed, products]| instructions.saturating_sub(feed + products) as f64 / way.layer.outputs() as f64),
        scratch_bytes: op.scratch_bytes,
        constant_bytes: op.blob_bytes,
    })
}

/// Adds a way to compute a layer to the layer's report, which shows the one with the fewest instructions.
fn add_layer(layers: &mut Vec<LayerReport>, board: &Board, layer: &Layer, counts: &Counts, report: AlgorithmReport) {
    let (shape, core) = (layer.shape(), board.machine.core);
    let known = layers.iter().position(|l| l.shape == shape && l.core == core);
    let index = known.unwrap_or_else(|| {
        layers.push(LayerReport {
            shape,
            core,
            backend: counts.backend.clone(),
            instructions_per_mac: f64::INFINITY,
            integer_instructions_per_mac: None,
            scratch_bytes: 0,
            algorithm: report.algorithm,
            macs: layer.macs(),
            algorithms: Vec::new(),
        });
        layers.len() - 1
    });
    let best = &mut layers[index];
    if report.instructions_per_mac < best.instructions_per_mac {
        best.instructions_per_mac = report.instructions_per_mac;
        best.integer_instructions_per_mac = report.integer_instructions_per_mac;
        (best.scratch_bytes, best.algorithm) = (report.scratch_bytes, report.algorithm);
    }
    best.algorithms.push(report);
}

fn step_report(model: &str, core: &'static str, blob: &[u8], counts: &Counts) -> Result<StepReport> {
    let inspected = inspected(blob)?;
    let mut by_kind: BTreeMap<String, u64> = BTreeMap::new();
    for (op, instructions) in inspected.ops.iter().zip(&counts.ops) {
        *by_kind.entry(op.kind.clone()).or_default() += instructions;
    }
    let network: u64 = counts.ops.iter().sum();
    by_kind.insert("sampler".into(), counts.step.saturating_sub(network));
    let macs = inspected.ops.iter().filter(|op| op.kind.starts_with("conv")).map(|op| op.macs).sum::<u64>();
    let share = |instructions: u64| instructions as f64 / counts.step as f64;
    Ok(StepReport {
        model: model.into(),
        core,
        backend: counts.backend.clone(),
        instructions: counts.step,
        instructions_per_mac: counts.step as f64 / macs as f64,
        macs,
        shares: by_kind.into_iter().map(|(kind, instructions)| (kind, share(instructions))).collect(),
        arena_bytes: counts.arena_bytes,
        stack_peak_bytes: counts.stack_peak_bytes,
    })
}

fn inspected(blob: &[u8]) -> Result<BlobReport> {
    inspect::report(&Model::parse(blob).map_err(|error| anyhow!("{error}"))?)
}
