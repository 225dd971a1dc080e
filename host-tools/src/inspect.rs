//! What a blob holds and costs: header, operators with MACs and bytes, the arena plan with its peak and lower bound.

use anyhow::{Result, anyhow};
use picodream::blob::{Algorithm, DType, Header, NONE, Op, TensorRecord, TimeEmbedOp, WeightFormat};
use picodream::{Model, PredictionType};
use serde::Serialize;

use crate::export::plan::{Buffer, lower_bound};
use crate::picture::{MapTensor, MemoryMap};

/// Shape of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageReport {
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// 1 (grey) or 3 (RGB).
    pub channels: u8,
}

/// One operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpReport {
    /// Name, as in the checkpoint.
    pub name: String,
    /// What it does: `time_embed`, `conv3x3`, `conv1x1`, `conv3x3_stride2`, `conv3x3_upsample`, `attention`.
    pub kind: String,
    /// How a convolution computes its sums: `direct`, `winograd` or `phases`; `None` for the others.
    pub algorithm: Option<&'static str>,
    /// Height, width, channels of its output.
    pub out_shape: [u16; 3],
    /// Multiply-accumulates of one pass.
    pub macs: u64,
    /// Constants in the blob, in bytes.
    pub blob_bytes: u32,
    /// First arena byte of its output.
    pub out_offset: u32,
    /// Arena bytes of its output, statistics included.
    pub out_bytes: u32,
    /// First arena byte of its working memory.
    pub scratch_offset: u32,
    /// Arena bytes of its working memory.
    pub scratch_bytes: u32,
    /// Arena bytes alive while it runs.
    pub live_bytes: u32,
}

/// One tensor of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorReport {
    /// The operator that writes it, `x_t` or `guidance`.
    pub name: String,
    /// Height, width, channels.
    pub shape: [u16; 3],
    /// First arena byte.
    pub offset: u32,
    /// Arena bytes, statistics included.
    pub bytes: u32,
    /// First operator at which it is alive.
    pub first_op: usize,
    /// Last operator at which it is alive.
    pub last_op: usize,
}

/// Everything `picodream inspect` says of a blob.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlobReport {
    /// Name of the model.
    pub name: String,
    /// Licence of the weights.
    pub licence: String,
    /// Licence of the training data.
    pub data_licence: String,
    /// Length of the blob: its flash.
    pub blob_bytes: u32,
    /// The blob's checksum, 8 hexadecimal digits.
    pub crc32: String,
    /// Bytes of the arena: its RAM.
    pub arena_bytes: u32,
    /// Largest sum of bytes alive at once: no plan can need less.
    pub arena_lower_bound_bytes: u32,
    /// The operator where that happens.
    pub peak_op: String,
    /// Multiply-accumulates of one network pass; a step with guidance has two.
    pub macs_per_step: u64,
    /// Shape of the images.
    pub image: ImageReport,
    /// `epsilon`, `sample` or `v_prediction`.
    pub prediction_type: &'static str,
    /// Whether the network also gives variances.
    pub learned_variance: bool,
    /// T.
    pub num_train_timesteps: u16,
    /// The only timesteps that it draws at, when their biases are baked (`export --bake`); empty for all.
    pub baked_timesteps: Vec<f32>,
    /// Class names; empty for an unconditional model.
    pub class_names: Vec<String>,
    /// Operators in order of execution.
    pub ops: Vec<OpReport>,
    /// Tensors in file order.
    pub tensors: Vec<TensorReport>,
}

/// The only timesteps that a blob draws at, noisiest first, when their biases are baked into it; empty for all.
#[must_use]
pub fn baked_timesteps(model: &Model<'_>, header: &Header) -> Vec<f32> {
    model.baked_timesteps(header).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Reads a blob that [`Model::parse`] accepted.
pub fn report(model: &Model<'_>) -> Result<BlobReport> {
    let header = model.header().map_err(|error| anyhow!("{error}"))?;
    let ops: Vec<Op> = model.ops(&header).collect();
    let records: Vec<TensorRecord> = model.tensors(&header).collect();
    let names: Vec<&str> = ops.iter().map(|op| model.text(&header, op.common().name)).collect();
    let tensors = tensor_reports(&header, &ops, &names, &records);
    let (peak, bound) = lower_bound(&buffers(&ops, &tensors));
    let mut reports: Vec<OpReport> = ops.iter().zip(&names).map(|(op, name)| op_report(op, name, &records)).collect();
    for (i, op) in reports.iter_mut().enumerate() {
        let alive = tensors.iter().filter(|t| t.first_op <= i && i <= t.last_op);
        op.live_bytes =
            alive.map(|t| t.bytes.next_multiple_of(16)).sum::<u32>() + op.scratch_bytes.next_multiple_of(16);
    }
    Ok(BlobReport {
        name: model.text(&header, header.name).into(),
        licence: model.text(&header, header.licence).into(),
        data_licence: model.text(&header, header.data_licence).into(),
        blob_bytes: header.total_bytes,
        crc32: format!("{:08x}", header.crc32),
        arena_bytes: header.arena_bytes,
        arena_lower_bound_bytes: bound,
        peak_op: names.get(peak).copied().unwrap_or_default().into(),
        macs_per_step: reports.iter().map(|op| op.macs).sum(),
        image: ImageReport { width: header.width, height: header.height, channels: header.channels },
        prediction_type: match header.prediction_type {
            PredictionType::Epsilon => "epsilon",
            PredictionType::Sample => "sample",
            PredictionType::VPrediction => "v_prediction",
            PredictionType::Score => "score",
            PredictionType::FlowVelocity => "flow_velocity",
        },
        learned_variance: model
            .tensors(&header)
            .nth(header.model_output.into())
            .is_some_and(|t| t.channels > header.channels.into()),
        num_train_timesteps: header.num_train_timesteps,
        baked_timesteps: baked_timesteps(model, &header),
        class_names: model.text(&header, header.class_names).lines().map(String::from).collect(),
        ops: reports,
        tensors,
    })
}

/// First and last op of every tensor, by the rules of the loader: x_t and the guidance buffer live through the whole
/// step, the output until its end.
fn tensor_reports(header: &Header, ops: &[Op], names: &[&str], records: &[TensorRecord]) -> Vec<TensorReport> {
    let last = ops.len().saturating_sub(1);
    let report = |(index, record): (usize, &TensorRecord)| {
        let touches = |op: &Op| usize::from(op.common().out) == index || op.reads().any(|t| usize::from(t) == index);
        let writer = ops.iter().position(|op| usize::from(op.common().out) == index);
        let expands = |op: &Op| matches!(op, Op::Conv(op) if op.expanded.map(usize::from) == Some(index));
        let expanded = ops.iter().position(expands).map(|op| format!("{}.expanded", names[op]));
        let endpoint = index == usize::from(header.sample) || index == usize::from(header.guidance);
        let whole_step = endpoint || expanded.is_some();
        let name = match (index, writer) {
            _ if expanded.is_some() => expanded.as_deref().unwrap_or_default(),
            (i, _) if i == usize::from(header.sample) => "x_t",
            (i, _) if i == usize::from(header.guidance) && header.guidance != NONE => "guidance",
            (_, Some(op)) => names[op],
            (_, None) => "unused",
        };
        let last_use = ops.iter().rposition(touches).unwrap_or(0);
        let until_end = whole_step || index == usize::from(header.model_output);
        TensorReport {
            name: name.into(),
            shape: [record.height, record.width, record.channels],
            offset: record.offset,
            bytes: record.region().bytes,
            first_op: if whole_step { 0 } else { writer.unwrap_or(0) },
            last_op: if until_end { last } else { last_use },
        }
    };
    records.iter().enumerate().map(report).collect()
}

/// Tensors and scratch as the planner sees them.
fn buffers(ops: &[Op], tensors: &[TensorReport]) -> Vec<Buffer> {
    let scratch = ops.iter().enumerate().map(|(i, op)| Buffer { bytes: op.common().scratch.bytes, first: i, last: i });
    tensors.iter().map(|t| Buffer { bytes: t.bytes, first: t.first_op, last: t.last_op }).chain(scratch).collect()
}

fn op_report(op: &Op, name: &str, tensors: &[TensorRecord]) -> OpReport {
    const ABSENT: TensorRecord =
        TensorRecord { height: 0, width: 0, channels: 0, dtype: DType::F32, statistics: false, offset: 0 };
    let tensor = |index: u16| tensors.get(usize::from(index)).copied().unwrap_or(ABSENT);
    let common = op.common();
    let out = tensor(common.out);
    let pixels = |t: TensorRecord| u64::from(t.height) * u64::from(t.width);
    let channels = |t: TensorRecord| u64::from(t.channels);
    let (kind, macs) = match op {
        Op::TimeEmbed(TimeEmbedOp { freq_dim: 0, .. }) => ("time_embed".into(), 0),
        Op::TimeEmbed(op) => ("time_embed".into(), channels(out) * (u64::from(op.freq_dim) + channels(out))),
        Op::Conv(op) => {
            let cin = channels(tensor(op.src_a)) + op.src_b.map_or(0, |b| channels(tensor(b)));
            let taps = u64::from(op.kernel) * u64::from(op.kernel);
            let time = op.time.map_or(0, |time| channels(tensor(time)) * channels(out));
            let stride = if op.stride == 2 { "_stride2" } else { "" };
            let upsample = if op.upsample { "_upsample" } else { "" };
            let kind = format!("conv{0}x{0}{stride}{upsample}", op.kernel);
            (kind, pixels(out) * taps * cin * channels(out) + time)
        }
        Op::Narrow(_) => ("narrow".into(), 0),
        Op::Attention(_) => {
            let (n, c) = (pixels(out), channels(out));
            ("attention".into(), 2 * n * n * c + 2 * n * c * c)
        }
    };
    OpReport {
        name: name.into(),
        kind,
        algorithm: algorithm_name(op),
        out_shape: [out.height, out.width, out.channels],
        macs,
        blob_bytes: common.data.bytes,
        out_offset: out.offset,
        out_bytes: out.region().bytes,
        scratch_offset: common.scratch.offset,
        scratch_bytes: common.scratch.bytes,
        live_bytes: 0,
    }
}

fn algorithm_name(op: &Op) -> Option<&'static str> {
    let op = match op {
        Op::Conv(op) => op,
        Op::TimeEmbed(op) => return (op.freq_dim == 0).then_some("baked"),
        Op::Narrow(_) | Op::Attention(_) => return None,
    };
    Some(match (op.weights, op.algorithm) {
        (WeightFormat::Int4, _) => "4 bits",
        (_, Algorithm::Winograd) if op.per_call.is_some() => "winograd, per call",
        (_, Algorithm::Phases) if op.per_call.is_some() => "phases, per call",
        (_, Algorithm::Direct) => "direct",
        (_, Algorithm::Winograd) => "winograd",
        (_, Algorithm::Phases) => "phases",
        (_, Algorithm::Strided) => "strided",
    })
}

impl BlobReport {
    /// The plan as [`crate::picture::memory_map_svg`] draws it.
    #[must_use]
    pub fn memory_map(&self) -> MemoryMap {
        let tensors = self.tensors.iter().map(|t| MapTensor {
            name: t.name.clone(),
            offset: t.offset as usize,
            bytes: t.bytes as usize,
            first_op: t.first_op,
            last_op: t.last_op,
        });
        let scratch = self.ops.iter().enumerate().filter(|(_, op)| op.scratch_bytes > 0).map(|(i, op)| MapTensor {
            name: "scratch".into(),
            offset: op.scratch_offset as usize,
            bytes: op.scratch_bytes as usize,
            first_op: i,
            last_op: i,
        });
        MemoryMap {
            title: format!("{}: arena of {} bytes, peak at {}", self.name, self.arena_bytes, self.peak_op),
            ops: self.ops.iter().map(|op| op.name.clone()).collect(),
            tensors: tensors.chain(scratch).collect(),
            arena_bytes: self.arena_bytes as usize,
            lower_bound_bytes: self.arena_lower_bound_bytes as usize,
            peak_op: self.ops.iter().position(|op| op.name == self.peak_op).unwrap_or(0),
        }
    }
}
