//! The U-Net as a list of tensors and ops: the one lowering of a checkpoint, run in f32 here and quantised by `export`.
//!
//! Tensors are NHWC with batch 1. Convolution weights are `[cout][ky][kx][cin]`. A ResBlock becomes `NAME.conv1`, for a
//! changing width `NAME.conv_shortcut`, and `NAME.conv2`; an attention block becomes `NAME.kv` (a 1×1 convolution that
//! writes keys, then values, per token) and `NAME`. A skip concat is never made: ops read one or two sources. A skip is
//! narrowed (`NAME.skip`) once the way down has read it for the last time.

use anyhow::Result;

use super::build::Builder;
use crate::checkpoint::Checkpoint;

/// Index into [`Graph::tensors`].
pub type TensorId = usize;

/// One NHWC tensor, batch 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name of the op that writes it; `sample` for x_t.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// GroupNorm over the (concatenated) channels of an op's sources.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Scale per channel.
    pub gamma: Vec<f32>,
    /// Shift per channel.
    pub beta: Vec<f32>,
}

/// y = W·x + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out][in]`.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

impl Linear {
    /// Length of x.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// Length of y.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }
}

/// temb = SiLU(linear_2(SiLU(linear_1(sinusoids of t))) + class row).
#[derive(Clone, Debug)]
pub struct TimeEmbed {
    /// Length of the sinusoidal embedding: half cosines, then half sines.
    pub freq_dim: usize,
    /// First layer.
    pub linear_1: Linear,
    /// Second layer, before the class row is added.
    pub linear_2: Linear,
    /// `[num_classes + 1][E]`, the last row being the null class; empty for an unconditional model.
    pub classes: Vec<f32>,
    /// The only timesteps known, when the biases are baked ([`Graph::baked`]): then temb marks a row, and what makes it otherwise
    /// is empty.
    pub timesteps: Vec<f32>,
    /// Where temb goes.
    pub out: TensorId,
}

/// Norm → SiLU → convolution → + bias + time bias → + residual.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Name in the blob's op table.
    pub name: String,
    /// First source.
    pub src_a: TensorId,
    /// Second source (a skip), concatenated after the first.
    pub src_b: Option<TensorId>,
    /// Added to the output.
    pub residual: Option<TensorId>,
    /// Where the result goes.
    pub out: TensorId,
    /// 1 or 3; zero padding of `kernel / 2`.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Read the source at twice its size (nearest).
    pub upsample: bool,
    /// GroupNorm on the way in.
    pub norm: Option<Norm>,
    /// SiLU on the way in, after the norm.
    pub silu: bool,
    /// `[cout][ky][kx][cin]`.
    pub weight: Vec<f32>,
    /// `[cout]`.
    pub bias: Vec<f32>,
    /// Projects temb to a bias per output channel.
    pub time: Option<Linear>,
}

impl Conv {
    /// Output channels.
    #[must_use]
    pub fn cout(&self) -> usize {
        self.bias.len()
    }
}

/// out = x + projection(softmax(q·k/√d)·v), q from the normalised x, k and v already there.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Name in the blob's op table.
    pub name: String,
    /// The residual stream; every pixel is a token.
    pub x: TensorId,
    /// Keys, then values, per token: 2·C channels.
    pub kv: TensorId,
    /// Where the result goes; may share x's place.
    pub out: TensorId,
    /// GroupNorm before the query.
    pub norm: Norm,
    /// Heads; divides C.
    pub heads: usize,
    /// Wq.
    pub query: Linear,
    /// Wo.
    pub projection: Linear,
}

/// How a skip waits for the other side of the U-Net.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Skips {
    /// At 8 bits, by a [`Narrow`].
    #[default]
    Narrowed,
    /// As it is: twice the memory, no rounding.
    Whole,
}

/// Keeps a skip at 8 bits until it is read again; in f32 nothing changes.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// Name in the blob's op table.
    pub name: String,
    /// The tensor to keep.
    pub src: TensorId,
    /// What is read later.
    pub out: TensorId,
}

/// One entry of the op list.
#[derive(Clone, Debug)]
pub enum Op {
    /// Timestep and class to temb.
    TimeEmbed(TimeEmbed),
    /// Fused convolution.
    Conv(Conv),
    /// Self-attention, given keys and values.
    Attention(Attention),
    /// Rounding of a skip.
    Narrow(Narrow),
}

impl Op {
    /// Name in the op table.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::TimeEmbed(_) => "time_embed",
            Self::Conv(op) => &op.name,
            Self::Attention(op) => &op.name,
            Self::Narrow(op) => &op.name,
        }
    }

    /// The tensor it writes.
    #[must_use]
    pub fn out(&self) -> TensorId {
        match self {
            Self::TimeEmbed(op) => op.out,
            Self::Conv(op) => op.out,
            Self::Attention(op) => op.out,
            Self::Narrow(op) => op.out,
        }
    }

    /// The tensors it reads.
    #[must_use]
    pub fn reads(&self, temb: TensorId) -> Vec<TensorId> {
        match self {
            Self::TimeEmbed(_) => Vec::new(),
            Self::Conv(op) => {
                let temb = op.time.is_some().then_some(temb);
                [Some(op.src_a), op.src_b, op.residual, temb].into_iter().flatten().collect()
            }
            Self::Attention(op) => vec![op.x, op.kv],
            Self::Narrow(op) => vec![op.src],
        }
    }
}

/// A whole U-Net.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Every tensor.
    pub tensors: Vec<TensorInfo>,
    /// Ops in order of execution.
    pub ops: Vec<Op>,
    /// x_t.
    pub sample: TensorId,
    /// Time embedding, `[E]` as 1×1×E.
    pub temb: TensorId,
    /// Model output, shaped as x_t.
    pub output: TensorId,
    /// Classes without the null class.
    pub num_classes: usize,
}

impl Graph {
    /// Lowers a checkpoint; fails when a tensor is absent or of the wrong size.
    pub fn new(checkpoint: &Checkpoint, skips: Skips) -> Result<Self> {
        Builder::new(checkpoint).build(skips)
    }

    /// The same ops in another order; `None` unless `order` has every op once and behind those whose results it reads.
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Option<Self> {
        let mut written = vec![false; self.tensors.len()];
        written[self.sample] = true;
        let mut ops = Vec::with_capacity(order.len());
        for &index in order {
            let op = self.ops.get(index)?;
            if written[op.out()] || !op.reads(self.temb).into_iter().all(|id| written[id]) {
                return None;
            }
            written[op.out()] = true;
            ops.push(op.clone());
        }
        (ops.len() == self.ops.len()).then(|| Self { ops, ..self.clone() })
    }

    /// The only timesteps known, when the biases are baked.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        self.ops
            .iter()
            .find_map(|op| if let Op::TimeEmbed(op) = op { Some(&op.timesteps[..]) } else { None })
            .unwrap_or(&[])
    }

    /// Multiply-accumulates of op `index`, all its matrix products together.
    #[must_use]
    pub fn macs(&self, index: usize) -> u64 {
        let macs = match &self.ops[index] {
            Op::TimeEmbed(op) => op.linear_1.weight.len() + op.linear_2.weight.len(),
            Op::Conv(op) => {
                let out = &self.tensors[op.out];
                out.height * out.width * op.weight.len() + op.time.as_ref().map_or(0, |l| l.weight.len())
            }
            Op::Attention(op) => {
                let x = &self.tensors[op.x];
                let tokens = x.height * x.width;
                2 * tokens * tokens * x.channels + tokens * (op.query.weight.len() + op.projection.weight.len())
            }
            Op::Narrow(_) => 0,
        };
        macs as u64
    }
}
