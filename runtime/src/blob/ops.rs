//! Operator records: what is computed, from which tensors, with which constants. 64 bytes each, executed in file order.
//!
//! The constants of an operator lie in one piece of the data section, in the order of the fields of [`ConvData`],
//! [`AttentionData`] and [`TimeEmbedData`], each array at a 16-byte boundary. Their lengths follow from the shapes, so the
//! record stores only where the piece begins and how long it is.

use super::bytes::{f32_at, put, u8_at, u16_at, u32_at};
use super::header::{NONE, Region, TextRef};

/// Bytes of one record.
pub const OP_RECORD_BYTES: usize = 64;

const KIND_TIME_EMBED: u8 = 0;
const KIND_CONV: u8 = 1;
const KIND_ATTENTION: u8 = 2;

const FLAG_UPSAMPLE: u8 = 1;
const FLAG_NORM: u8 = 2;
const FLAG_SILU: u8 = 4;

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
    /// Quantised inputs are clamped to ±qmax.
    pub qmax: u16,
    /// Quantised input = round(x · inv_scale), for channels of `src_a`.
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
    /// Quantised normed input and attention output are clamped to ±qmax.
    pub qmax: u16,
    /// Quantised normed input = round(x · inv_scale_in).
    pub inv_scale_in: f32,
    /// Quantised attention output = round(y · inv_scale_proj).
    pub inv_scale_proj: f32,
}

/// SiLU(W₂·SiLU(W₁·[cos(t·f), sin(t·f)] + b₁) + b₂ + class embedding).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeEmbedOp {
    /// Name, output (1×1×E, f32), scratch and constants.
    pub common: OpCommon,
    /// Length of the sinusoidal embedding, even.
    pub freq_dim: u16,
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
}

/// Arrays of a [`ConvOp`] as ranges of its piece of the data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvData {
    /// i8 \[cout\]\[kernel\]\[kernel\]\[cin\], cin = channels of a, then of b.
    pub weight: Region,
    /// f32 \[cout\]: result = sum · scale + bias.
    pub scale: Region,
    /// f32 \[cout\], the time projection's bias included.
    pub bias: Region,
    /// f32 \[cin\] when there is a norm.
    pub gamma: Region,
    /// f32 \[cin\] when there is a norm.
    pub beta: Region,
    /// i8 \[cout\]\[E\] when there is a time embedding.
    pub time_weight: Region,
    /// f32 \[cout\] when there is a time embedding.
    pub time_scale: Region,
    /// Length of the piece.
    pub bytes: u32,
}

/// Arrays of an [`AttentionOp`] over C channels as ranges of its piece of the data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionData {
    /// i8 \[C\]\[C\].
    pub q_weight: Region,
    /// f32 \[C\], 1/√(C/heads) included.
    pub q_scale: Region,
    /// f32 \[C\], 1/√(C/heads) included.
    pub q_bias: Region,
    /// f32 \[C\].
    pub gamma: Region,
    /// f32 \[C\].
    pub beta: Region,
    /// i8 \[C\]\[C\].
    pub proj_weight: Region,
    /// f32 \[C\].
    pub proj_scale: Region,
    /// f32 \[C\].
    pub proj_bias: Region,
    /// Length of the piece.
    pub bytes: u32,
}

/// Arrays of a [`TimeEmbedOp`] (F = `freq_dim`, E = channels of its output) as ranges of its piece of the data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEmbedData {
    /// f32 \[F/2\].
    pub freqs: Region,
    /// i8 \[E\]\[F\].
    pub weight_1: Region,
    /// f32 \[E\].
    pub scale_1: Region,
    /// f32 \[E\].
    pub bias_1: Region,
    /// i8 \[E\]\[E\].
    pub weight_2: Region,
    /// f32 \[E\].
    pub scale_2: Region,
    /// f32 \[E\].
    pub bias_2: Region,
    /// f16 \[classes + 1\]\[E\], the null class last; empty for an unconditional model.
    pub class_embedding: Region,
    /// Length of the piece.
    pub bytes: u32,
}

/// Places arrays one after another at 16-byte boundaries. Lengths past 32 bits saturate and are then refused, because the
/// piece cannot lie inside a section.
struct Placer(u64);

impl Placer {
    fn place(&mut self, elements: u64, element_bytes: u64) -> Region {
        let bytes = elements.saturating_mul(element_bytes);
        let clamp = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
        let region = Region { offset: clamp(self.0), bytes: clamp(bytes) };
        self.0 = self.0.saturating_add(bytes).saturating_add(15) & !15;
        region
    }

    fn bytes(&self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

impl ConvOp {
    /// Where the arrays lie; `time_dim` is E, or 0 without a time embedding.
    #[must_use]
    pub fn data_layout(&self, cin: u32, cout: u32, time_dim: u32) -> ConvData {
        let (cin, cout, taps) = (u64::from(cin), u64::from(cout), u64::from(self.kernel) * u64::from(self.kernel));
        let normed = if self.norm.is_some() { cin } else { 0 };
        let timed = if self.time.is_some() { cout } else { 0 };
        let mut at = Placer(0);
        ConvData {
            weight: at.place(cout * taps * cin, 1),
            scale: at.place(cout, 4),
            bias: at.place(cout, 4),
            gamma: at.place(normed, 4),
            beta: at.place(normed, 4),
            time_weight: at.place(timed * u64::from(time_dim), 1),
            time_scale: at.place(timed, 4),
            bytes: at.bytes(),
        }
    }

    /// Where the working arrays lie in the scratch, for a source `width` pixels wide.
    #[must_use]
    pub fn scratch_layout(&self, cin: u32, cout: u32, width: u32) -> ConvScratch {
        let (cin, cout) = (u64::from(cin), u64::from(cout));
        let padding = u64::from(self.kernel) - 1;
        let columns = (u64::from(width) << u64::from(self.upsample)) + padding;
        let mut at = Placer(0);
        ConvScratch {
            affine: at.place(if self.norm.is_some() { 2 * cin } else { 0 }, 4),
            bias: at.place(cout, 4),
            acc: at.place(BLOCK_PIXELS as u64 * cout, 4),
            rows: at.place(u64::from(self.kernel) * columns * cin, 2),
            bytes: at.bytes(),
        }
    }
}

/// Output pixels that are computed together.
pub const BLOCK_PIXELS: usize = 4;

/// Working arrays of a [`ConvOp`] in its scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvScratch {
    /// f32 pairs (a, b) per input channel, y = x·a + b, when there is a norm.
    pub affine: Region,
    /// f32 \[cout\]: bias plus time bias.
    pub bias: Region,
    /// i32 \[[`BLOCK_PIXELS`]\]\[cout\].
    pub acc: Region,
    /// i16 \[kernel\]\[columns\]\[cin\]: a ring of quantised input rows, with their padding.
    pub rows: Region,
    /// Length of the scratch.
    pub bytes: u32,
}

/// Working arrays of an [`AttentionOp`] over C channels and N pixels in its scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionScratch {
    /// f32 pairs (a, b) per channel.
    pub affine: Region,
    /// f32 \[C\]: the pixel as it is read.
    pub source: Region,
    /// f32 \[C\].
    pub query: Region,
    /// f32 \[C\].
    pub mixed: Region,
    /// f32 \[N\].
    pub scores: Region,
    /// i32 \[C\].
    pub acc: Region,
    /// i16 \[C\].
    pub row: Region,
    /// Length of the scratch.
    pub bytes: u32,
}

impl AttentionOp {
    /// Where the arrays lie for C `channels`.
    #[must_use]
    pub fn data_layout(&self, channels: u32) -> AttentionData {
        let c = u64::from(channels);
        let mut at = Placer(0);
        AttentionData {
            q_weight: at.place(c * c, 1),
            q_scale: at.place(c, 4),
            q_bias: at.place(c, 4),
            gamma: at.place(c, 4),
            beta: at.place(c, 4),
            proj_weight: at.place(c * c, 1),
            proj_scale: at.place(c, 4),
            proj_bias: at.place(c, 4),
            bytes: at.bytes(),
        }
    }

    /// Where the working arrays lie in the scratch, for C `channels` and N `pixels`.
    #[must_use]
    pub fn scratch_layout(&self, channels: u32, pixels: u32) -> AttentionScratch {
        let c = u64::from(channels);
        let mut at = Placer(0);
        AttentionScratch {
            affine: at.place(2 * c, 4),
            source: at.place(c, 4),
            query: at.place(c, 4),
            mixed: at.place(c, 4),
            scores: at.place(u64::from(pixels), 4),
            acc: at.place(c, 4),
            row: at.place(c, 2),
            bytes: at.bytes(),
        }
    }
}

/// Working arrays of a [`TimeEmbedOp`] in its scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEmbedScratch {
    /// f32 \[F\].
    pub embedding: Region,
    /// f32 \[E\].
    pub hidden: Region,
    /// Length of the scratch.
    pub bytes: u32,
}

impl TimeEmbedOp {
    /// Where the arrays lie, for E `time_dim` and the model's number of classes (0: unconditional).
    #[must_use]
    pub fn data_layout(&self, time_dim: u32, num_classes: u32) -> TimeEmbedData {
        let (f, e) = (u64::from(self.freq_dim), u64::from(time_dim));
        let rows = if num_classes == 0 { 0 } else { u64::from(num_classes) + 1 };
        let mut at = Placer(0);
        TimeEmbedData {
            freqs: at.place(f / 2, 4),
            weight_1: at.place(e * f, 1),
            scale_1: at.place(e, 4),
            bias_1: at.place(e, 4),
            weight_2: at.place(e * e, 1),
            scale_2: at.place(e, 4),
            bias_2: at.place(e, 4),
            class_embedding: at.place(rows * e, 2),
            bytes: at.bytes(),
        }
    }

    /// Where the working arrays lie in the scratch.
    #[must_use]
    pub fn scratch_layout(&self, time_dim: u32) -> TimeEmbedScratch {
        let mut at = Placer(0);
        TimeEmbedScratch {
            embedding: at.place(self.freq_dim.into(), 4),
            hidden: at.place(time_dim.into(), 4),
            bytes: at.bytes(),
        }
    }
}

impl Op {
    /// Name, output, scratch and constants.
    #[must_use]
    pub const fn common(&self) -> &OpCommon {
        match self {
            Self::TimeEmbed(op) => &op.common,
            Self::Conv(op) => &op.common,
            Self::Attention(op) => &op.common,
        }
    }

    /// The tensors read, in record order.
    pub fn reads(&self) -> impl Iterator<Item = u16> {
        let reads = match self {
            Self::TimeEmbed(_) => [None; 4],
            Self::Conv(op) => [Some(op.src_a), op.src_b, op.residual, op.time],
            Self::Attention(op) => [Some(op.src), Some(op.kv), None, None],
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
        upsample: flags & FLAG_UPSAMPLE != 0,
        norm: (flags & FLAG_NORM != 0).then_some(norm),
        silu: flags & FLAG_SILU != 0,
        qmax: u16_at(bytes, 20),
        inv_scale_a: f32_at(bytes, 28),
        inv_scale_b: f32_at(bytes, 32),
    })
}

fn write_conv(op: &ConvOp, bytes: &mut [u8]) {
    let flag = |on: bool, bit| if on { bit } else { 0 };
    let flags = flag(op.upsample, FLAG_UPSAMPLE) | flag(op.norm.is_some(), FLAG_NORM) | flag(op.silu, FLAG_SILU);
    put(bytes, 0, &[KIND_CONV, flags]);
    put(bytes, 5, &[op.kernel, op.stride]);
    put(bytes, 8, &op.src_a.to_le_bytes());
    for (at, tensor) in [(10, op.src_b), (12, op.residual), (14, op.time)] {
        put(bytes, at, &tensor.unwrap_or(NONE).to_le_bytes());
    }
    if let Some(norm) = op.norm {
        put(bytes, 18, &norm.groups.to_le_bytes());
        put(bytes, 24, &norm.eps.to_le_bytes());
    }
    put(bytes, 20, &op.qmax.to_le_bytes());
    put(bytes, 28, &op.inv_scale_a.to_le_bytes());
    put(bytes, 32, &op.inv_scale_b.to_le_bytes());
}
