//! Operator records: what is computed, from which tensors, with which constants. 64 bytes each, executed in file order.
//!
//! The constants of an operator lie in one piece of the data section; their lengths follow from the shapes (`layout.rs`), so
//! the record stores only where the piece begins and how long it is.

use super::bytes::{f32_at, put, u8_at, u16_at, u32_at};
use super::header::{NONE, Region, TextRef};

/// Bytes of one record.
pub const OP_RECORD_BYTES: usize = 64;

const KIND_TIME_EMBED: u8 = 0;
const KIND_CONV: u8 = 1;
const KIND_ATTENTION: u8 = 2;
const KIND_NARROW: u8 = 3;

const FLAG_UPSAMPLE: u8 = 1;
const FLAG_NORM: u8 = 2;
const FLAG_SILU: u8 = 4;
const FLAG_INT4: u8 = 8;

/// GroupNorm in front of an operator; its groups run over the concatenated channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Number of groups; divides the channels.
    pub groups: u16,
    /// Added to the variance.
    pub eps: f32,
}

/// Fields that every operator has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OpCommon {
    /// Name, in the text section.
    pub name: TextRef,
    /// Index of the tensor that is written.
    pub out: u16,
    /// Working memory in the arena, 16-byte aligned.
    pub scratch: Region,
    /// Constants, in the data section.
    pub data: Region,
}

/// How a convolution computes its integer sums; all give the same values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// One product per weight and output; int8 weights.
    #[default]
    Direct,
    /// Exact integer F(2×2, 3×3) (arXiv:1509.09308, scaled by 4): 16 products where 36 were; stride 1 only, int16 weights.
    Winograd,
    /// After nearest doubling each output parity sees 2×2 distinct inputs: four kernels of summed int16 weights.
    Phases,
    /// Exact minimal filtering at stride 2: 25 products where 36 were; int16 weights. Only for cores with
    /// [loops for it](crate::kernels::STRIDED).
    Strided,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Direct, Self::Winograd, Self::Phases, Self::Strided];
}

/// How the blob keeps a convolution's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// 8 bits, packed for the algorithm.
    #[default]
    Int8,
    /// 4 bits with a multiplier per group (`nibbles.rs`), unpacked to direct weights in the scratch before the sums.
    Int4,
}

/// How a convolution whose weights lie in the blob as direct ones has them transformed at every call, a part at a time, in its
/// scratch. A core that gains nothing by it computes directly; the sums are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerCall {
    /// Pairs of output rows that are computed with the weights of one part before the next part is transformed; not 0.
    pub row_pairs: u8,
    /// Pairs of output channels of a part; not 0.
    pub out_pairs: u8,
}

/// (norm → SiLU →) quantise → integer convolution → scale, bias (+ time bias) (+ residual).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvOp {
    /// Name, output, scratch and constants.
    pub common: OpCommon,
    /// First source tensor.
    pub src_a: u16,
    /// Second source: its channels follow those of the first (a concat that is never stored).
    pub src_b: Option<u16>,
    /// Tensor of the output's shape that is added to the result.
    pub residual: Option<u16>,
    /// Time embedding (1×1×E, f32) whose projection is added to the bias.
    pub time: Option<u16>,
    /// 1 or 3, padded with (kernel − 1)/2 zeros.
    pub kernel: u8,
    /// 1 or 2.
    pub stride: u8,
    /// Whether the source is doubled by nearest neighbour first.
    pub upsample: bool,
    /// GroupNorm of the source.
    pub norm: Option<Norm>,
    /// Whether SiLU follows.
    pub silu: bool,
    /// How the sums are computed, which decides the layout of the weights.
    pub algorithm: Algorithm,
    /// How the blob keeps the weights; 4 bits with the direct algorithm only.
    pub weights: WeightFormat,
    /// Where Winograd weights are expanded to from the blob's direct weights, once per image (i16, \[cout / 2\]\[16\]\[4 · cin / 2\]);
    /// `None`: the blob's weights are those of the algorithm.
    pub expanded: Option<u16>,
    /// Whether Winograd or phase weights are transformed from the blob's direct weights at every call.
    pub per_call: Option<PerCall>,
    /// Quantised inputs are clamped to −(qmax + 1)..=qmax; qmax + 1 is a power of two.
    pub qmax: u16,
    /// Quantised input = round(x · inv_scale), for channels of `src_a`. Behind a SiLU a multiple of 1/16 below 512.
    pub inv_scale_a: f32,
    /// The same for channels of `src_b`; its weights carry the ratio of the scales.
    pub inv_scale_b: f32,
}

/// Self-attention over all pixels: x + proj(softmax(q·kᵀ)·v), where q = W·norm(x) and k, v are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOp {
    /// Name, output (may be `src` itself), scratch and constants.
    pub common: OpCommon,
    /// The tensor attended from, and added back.
    pub src: u16,
    /// Keys, then values: twice the channels of `src`.
    pub kv: u16,
    /// GroupNorm of `src`.
    pub norm: Norm,
    /// Heads; divides the channels.
    pub heads: u16,
    /// Quantised normed input and attention output are clamped to −(qmax + 1)..=qmax.
    pub qmax: u16,
    /// Quantised normed input = round(x · inv_scale_in).
    pub inv_scale_in: f32,
    /// Quantised attention output = round(y · inv_scale_proj).
    pub inv_scale_proj: f32,
}

/// SiLU(W₂·SiLU(W₁·[cos(t·f), sin(t·f)] + b₁) + b₂ + class embedding), or without a sinusoidal embedding what picks the row of
/// (timestep, class) from biases baked into the convolutions: 1 at the row, [`TimeEmbedOp::FINE`] at the row of the second half
/// of the output, 0 elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeEmbedOp {
    /// Name, output (1×1×E, f32), scratch and constants.
    pub common: OpCommon,
    /// Length of the sinusoidal embedding, even; 0 when the biases are baked.
    pub freq_dim: u16,
}

impl TimeEmbedOp {
    /// What the second half of a row weighs: baked biases have int8 weights in both, together good for 15 bits.
    pub const FINE: f32 = 1.0 / 128.0;
}

/// Rounds a tensor that is kept for later to 8 bits, each channel to 127 levels of its own largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NarrowOp {
    /// Name and output (i8); no scratch, no constants.
    pub common: OpCommon,
    /// The tensor that is narrowed (f16).
    pub src: u16,
}

/// One operator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Time and class embedding.
    TimeEmbed(TimeEmbedOp),
    /// Convolution with everything around it.
    Conv(ConvOp),
    /// Self-attention.
    Attention(AttentionOp),
    /// Rounding to 8 bits.
    Narrow(NarrowOp),
}

impl Op {
    /// Name, output, scratch and constants.
    #[must_use]
    pub const fn common(&self) -> &OpCommon {
        match self {
            Self::TimeEmbed(op) => &op.common,
            Self::Conv(op) => &op.common,
            Self::Attention(op) => &op.common,
            Self::Narrow(op) => &op.common,
        }
    }

    /// The same, to be changed.
    pub const fn common_mut(&mut self) -> &mut OpCommon {
        match self {
            Self::TimeEmbed(op) => &mut op.common,
            Self::Conv(op) => &mut op.common,
            Self::Attention(op) => &mut op.common,
            Self::Narrow(op) => &mut op.common,
        }
    }

    /// The tensors read, in record order.
    pub fn reads(&self) -> impl Iterator<Item = u16> {
        let reads = match self {
            Self::TimeEmbed(_) => [None; 4],
            Self::Conv(op) => [Some(op.src_a), op.src_b, op.residual, op.time],
            Self::Attention(op) => [Some(op.src), Some(op.kv), None, None],
            Self::Narrow(op) => [Some(op.src), None, None, None],
        };
        reads.into_iter().flatten()
    }

    /// Reads one record, or the rule that its bytes break. Tensors are not looked at here.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let common = OpCommon {
            name: TextRef { offset: u16_at(bytes, 2), bytes: u8_at(bytes, 4).into() },
            out: u16_at(bytes, 16),
            scratch: Region { offset: u32_at(bytes, 36), bytes: u32_at(bytes, 40) },
            data: Region { offset: u32_at(bytes, 44), bytes: u32_at(bytes, 48) },
        };
        let op = match u8_at(bytes, 0) {
            KIND_TIME_EMBED => Self::TimeEmbed(TimeEmbedOp { common, freq_dim: u16_at(bytes, 22) }),
            KIND_CONV => Self::Conv(read_conv(bytes, common)?),
            KIND_ATTENTION => Self::Attention(AttentionOp {
                common,
                src: u16_at(bytes, 8),
                kv: u16_at(bytes, 10),
                norm: Norm { groups: u16_at(bytes, 18), eps: f32_at(bytes, 24) },
                heads: u16_at(bytes, 22),
                qmax: u16_at(bytes, 20),
                inv_scale_in: f32_at(bytes, 28),
                inv_scale_proj: f32_at(bytes, 32),
            }),
            KIND_NARROW => Self::Narrow(NarrowOp { common, src: u16_at(bytes, 8) }),
            _ => return Err("the kind is unknown"),
        };
        // One record has one spelling: whatever a kind does not use is zero.
        let mut again = [0; OP_RECORD_BYTES];
        op.write(&mut again);
        if bytes == again { Ok(op) } else { Err("unused or reserved bytes are not zero") }
    }

    /// Writes the record over the first [`OP_RECORD_BYTES`] of `bytes` (which must be that long).
    pub fn write(&self, bytes: &mut [u8]) {
        let common = self.common();
        bytes[..OP_RECORD_BYTES].fill(0);
        put(bytes, 2, &common.name.offset.to_le_bytes());
        put(bytes, 4, &[common.name.bytes as u8]);
        put(bytes, 16, &common.out.to_le_bytes());
        put(bytes, 36, &common.scratch.offset.to_le_bytes());
        put(bytes, 40, &common.scratch.bytes.to_le_bytes());
        put(bytes, 44, &common.data.offset.to_le_bytes());
        put(bytes, 48, &common.data.bytes.to_le_bytes());
        match self {
            Self::TimeEmbed(op) => {
                put(bytes, 0, &[KIND_TIME_EMBED]);
                put(bytes, 22, &op.freq_dim.to_le_bytes());
            }
            Self::Conv(op) => write_conv(op, bytes),
            Self::Narrow(op) => {
                put(bytes, 0, &[KIND_NARROW]);
                put(bytes, 8, &op.src.to_le_bytes());
            }
            Self::Attention(op) => {
                put(bytes, 0, &[KIND_ATTENTION]);
                put(bytes, 8, &op.src.to_le_bytes());
                put(bytes, 10, &op.kv.to_le_bytes());
                put(bytes, 18, &op.norm.groups.to_le_bytes());
                put(bytes, 20, &op.qmax.to_le_bytes());
                put(bytes, 22, &op.heads.to_le_bytes());
                put(bytes, 24, &op.norm.eps.to_le_bytes());
                put(bytes, 28, &op.inv_scale_in.to_le_bytes());
                put(bytes, 32, &op.inv_scale_proj.to_le_bytes());
            }
        }
    }
}

fn read_conv(bytes: &[u8], common: OpCommon) -> Result<ConvOp, &'static str> {
    let tensor = |at| Some(u16_at(bytes, at)).filter(|&index| index != NONE);
    let flags = u8_at(bytes, 1);
    let norm = Norm { groups: u16_at(bytes, 18), eps: f32_at(bytes, 24) };
    Ok(ConvOp {
        common,
        src_a: tensor(8).ok_or("there is no source")?,
        src_b: tensor(10),
        residual: tensor(12),
        time: tensor(14),
        kernel: u8_at(bytes, 5),
        stride: u8_at(bytes, 6),
        algorithm: *Algorithm::ALL.get(usize::from(u8_at(bytes, 7))).ok_or("the algorithm is unknown")?,
        upsample: flags & FLAG_UPSAMPLE != 0,
        norm: (flags & FLAG_NORM != 0).then_some(norm),
        silu: flags & FLAG_SILU != 0,
        weights: if flags & FLAG_INT4 == 0 { WeightFormat::Int8 } else { WeightFormat::Int4 },
        expanded: tensor(52),
        per_call: match (u8_at(bytes, 54), u8_at(bytes, 55)) {
            (0, 0) => None,
            (row_pairs, out_pairs) => Some(PerCall { row_pairs, out_pairs }),
        },
        qmax: u16_at(bytes, 20),
        inv_scale_a: f32_at(bytes, 28),
        inv_scale_b: f32_at(bytes, 32),
    })
}

fn write_conv(op: &ConvOp, bytes: &mut [u8]) {
    let flag = |on: bool, bit| if on { bit } else { 0 };
    let flags = flag(op.upsample, FLAG_UPSAMPLE)
        | flag(op.norm.is_some(), FLAG_NORM)
        | flag(op.silu, FLAG_SILU)
        | flag(op.weights == WeightFormat::Int4, FLAG_INT4);
    put(bytes, 0, &[KIND_CONV, flags]);
    put(bytes, 5, &[op.kernel, op.stride, op.algorithm as u8]);
    put(bytes, 8, &op.src_a.to_le_bytes());
    for (at, tensor) in [(10, op.src_b), (12, op.residual), (14, op.time), (52, op.expanded)] {
        put(bytes, at, &tensor.unwrap_or(NONE).to_le_bytes());
    }
    if let Some(norm) = op.norm {
        put(bytes, 18, &norm.groups.to_le_bytes());
        put(bytes, 24, &norm.eps.to_le_bytes());
    }
    if let Some(PerCall { row_pairs, out_pairs }) = op.per_call {
        put(bytes, 54, &[row_pairs, out_pairs]);
    }
    put(bytes, 20, &op.qmax.to_le_bytes());
    put(bytes, 28, &op.inv_scale_a.to_le_bytes());
    put(bytes, 32, &op.inv_scale_b.to_le_bytes());
}
