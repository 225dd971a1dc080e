//! Where an operator's arrays lie: constants in its piece of the data section, working arrays in its scratch.
//!
//! Both follow from the record and the shapes, each array at a 16-byte boundary. The order of weights inside their array is
//! that of `packing.rs`.

use super::header::Region;
use super::nibbles::{group_bytes, nibble_bytes};
use super::ops::{Algorithm, AttentionOp, ConvOp, TimeEmbedOp, WeightFormat};
use super::packing::{direct_bytes, phases_bytes, winograd_bytes};
use super::tensors::{DType, TensorRecord};
use crate::kernels::STRIDED;

/// Output pixels of a row that are computed together.
pub const BLOCK_PIXELS: usize = 8;

/// Query pixels that attention handles together.
pub const QUERY_PIXELS: usize = 4;

/// Arrays of a [`ConvOp`] as ranges of its piece of the data section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvData {
    /// Packed for the algorithm, or in 4 bits; cin = channels of a, then of b.
    pub weight: Region,
    /// Multipliers of 4-bit weights; empty for 8 bits.
    pub groups: Region,
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
    /// \[C\]\[C\], packed as a direct 1×1 convolution.
    pub q_weight: Region,
    /// f32 \[C\], 1/√(C/heads) included.
    pub q_scale: Region,
    /// f32 \[C\], 1/√(C/heads) included.
    pub q_bias: Region,
    /// f32 \[C\].
    pub gamma: Region,
    /// f32 \[C\].
    pub beta: Region,
    /// \[C\]\[C\], packed as a direct 1×1 convolution.
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
    /// f32 \[F/2\]; this and all others are empty with baked biases.
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
    #[inline(never)]
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
        let kernel = self.kernel.into();
        let weight_bytes = match (self.weights, self.algorithm) {
            (WeightFormat::Int4, _) => nibble_bytes(kernel, cin, cout),
            (_, Algorithm::Winograd) if !self.from_direct() => winograd_bytes(cin, cout),
            (_, Algorithm::Phases) if !self.from_direct() => phases_bytes(cin, cout),
            (_, Algorithm::Strided) if STRIDED => winograd_bytes(cin, cout),
            _ => direct_bytes(kernel, cin, cout),
        };
        let groups = if self.weights == WeightFormat::Int4 { group_bytes(kernel, cin, cout) } else { 0 };
        let (cin, cout) = (u64::from(cin), u64::from(cout));
        let normed = if self.norm.is_some() { cin } else { 0 };
        let timed = if self.time.is_some() { cout } else { 0 };
        let mut at = Placer(0);
        ConvData {
            weight: at.place(weight_bytes, 1),
            groups: at.place(groups, 1),
            scale: at.place(cout, 4),
            bias: at.place(cout, 4),
            gamma: at.place(normed, 4),
            beta: at.place(normed, 4),
            time_weight: at.place(timed * u64::from(time_dim), 1),
            time_scale: at.place(timed, 4),
            bytes: at.bytes(),
        }
    }

    /// Whether the blob's weights are direct ones, whatever the algorithm.
    #[must_use]
    pub const fn from_direct(&self) -> bool {
        self.expanded.is_some() || self.per_call.is_some()
    }

    /// The same convolution computed directly, from weights that are direct ones.
    #[must_use]
    pub const fn directly(&self) -> Self {
        Self { algorithm: Algorithm::Direct, per_call: None, ..*self }
    }

    /// Rows of the source that are needed at once.
    #[must_use]
    pub fn ring_rows(&self) -> usize {
        match self.algorithm {
            Algorithm::Winograd => 4,
            Algorithm::Strided if STRIDED => 5,
            Algorithm::Direct | Algorithm::Strided => self.kernel.into(),
            Algorithm::Phases => 2 + self.per_call.map_or(1, |parts| parts.row_pairs.into()),
        }
    }

    /// Blocks of [`BLOCK_PIXELS`] columns and two rows whose tiles are kept at once by [`Algorithm::Winograd`], for a source
    /// `width` pixels wide.
    #[must_use]
    pub fn blocks_at_once(&self, width: usize) -> usize {
        self.per_call.map_or(1, |parts| usize::from(parts.row_pairs) * width.div_ceil(BLOCK_PIXELS))
    }

    /// The tensor that Winograd weights are expanded to, at offset 0.
    #[must_use]
    pub fn expanded_record(cin: u32, cout: u32) -> TensorRecord {
        let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        TensorRecord {
            height: clamp(cout.div_ceil(2)),
            width: 16,
            channels: clamp(4 * cin.div_ceil(2)),
            dtype: DType::I16,
            statistics: false,
            offset: 0,
        }
    }

    /// Columns of a quantised row of a source `width` pixels wide: whole blocks of outputs, with their padding.
    #[must_use]
    pub fn row_columns(&self, width: u32) -> u32 {
        let doubled = self.upsample && self.algorithm == Algorithm::Direct;
        let outputs = (width << u32::from(doubled)).div_ceil(u32::from(self.stride).max(1));
        let blocks = outputs.next_multiple_of(BLOCK_PIXELS as u32) * u32::from(self.stride);
        blocks + if self.kernel == 1 { 0 } else { 2 }
    }

    /// Where the working arrays lie in the scratch, for a source `width` pixels wide and an output with or without
    /// statistics.
    #[must_use]
    pub fn scratch_layout(&self, cin: u32, cout: u32, width: u32, statistics: bool) -> ConvScratch {
        let columns = u64::from(self.row_columns(width));
        let direct = direct_bytes(self.kernel.into(), cin, cout);
        let (cin, cout) = (u64::from(cin), u64::from(cout));
        let (cin_even, cout_even) = (cin.next_multiple_of(2), cout.next_multiple_of(2));
        let winograd = self.algorithm == Algorithm::Winograd;
        let strided = STRIDED && self.algorithm == Algorithm::Strided;
        // Direct computation must find its place too.
        let (least, rows_at_once, part) = match self.per_call {
            None => (0, if winograd || strided { 2 } else { 1 }, cout_even),
            Some(parts) => {
                let direct = self.directly().scratch_layout(cin as u32, cout as u32, width, statistics).bytes;
                (direct, 2 * u64::from(parts.row_pairs), 2 * u64::from(parts.out_pairs))
            }
        };
        let expanded = match self.per_call {
            Some(_) if winograd => winograd_bytes(cin as u32, part as u32),
            Some(_) => phases_bytes(cin as u32, part as u32),
            None => 0,
        };
        let tiles = match self.algorithm {
            Algorithm::Winograd => 64 * cin_even * self.blocks_at_once(width as usize) as u64,
            Algorithm::Strided if STRIDED => 100 * cin_even,
            _ => 0,
        };
        let acc = match self.algorithm {
            Algorithm::Winograd => WINOGRAD_ACC as u64,
            Algorithm::Strided if STRIDED => STRIDED_ACC as u64 * cout_even.min(2 * STRIDED_PAIRS as u64),
            _ => BLOCK_PIXELS as u64 * part,
        };
        let mut at = Placer(0);
        ConvScratch {
            affine: at.place(if self.norm.is_some() { 2 * cin } else { 0 }, 4),
            bias: at.place(cout, 4),
            sums: at.place(if statistics { rows_at_once * 2 * cout } else { 0 }, 4),
            acc: at.place(acc, 4),
            tiles: at.place(tiles, 2),
            rows: at.place(self.ring_rows() as u64 * columns * cin_even, 2),
            unpacked: at.place(if self.weights == WeightFormat::Int4 { direct } else { 0 }, 1),
            expanded: at.place(expanded, 1),
            bytes: at.bytes().max(least),
        }
    }
}

/// Words of `acc` for [`Algorithm::Winograd`]: products \[16\]\[2\]\[4\], then sums \[2 rows\]\[2\]\[8\].
pub const WINOGRAD_ACC: usize = 128 + 32;

/// Words of `acc` for each output channel of [`Algorithm::Strided`]: nine sums for four tiles, then two rows of eight.
pub const STRIDED_ACC: usize = 9 * 4 + 2 * BLOCK_PIXELS;

/// Pairs of output channels that [`Algorithm::Strided`] computes together.
pub const STRIDED_PAIRS: usize = 16;

/// Working arrays of a [`ConvOp`] in its scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvScratch {
    /// f32 pairs (a, b) per input channel, y = x·a + b, when there is a norm.
    pub affine: Region,
    /// f32 \[cout\]: bias plus time bias.
    pub bias: Region,
    /// f32 pairs (Σx, Σx²) \[rows at once\]\[cout\] of the output rows being written, when the output carries statistics.
    pub sums: Region,
    /// i32 \[cout, or channels of a part\]\[[`BLOCK_PIXELS`]\], or \[[`WINOGRAD_ACC`]\], or [`STRIDED_ACC`] for each channel.
    pub acc: Region,
    /// Winograd's transformed inputs of four tiles: i16 \[16\]\[cin / 2\]\[4\]\[2\], or strided ones: 25 instead of 16.
    pub tiles: Region,
    /// i16 \[rows\]\[columns · cin\]: a ring of quantised input rows, with their padding; cin is rounded up to even. The order
    /// inside a row is the back end's.
    pub rows: Region,
    /// Direct weights, when the blob keeps them in 4 bits.
    pub unpacked: Region,
    /// Winograd or phase weights of a part of the output channels, when they are transformed at every call.
    pub expanded: Region,
    /// Length of the scratch.
    pub bytes: u32,
}

/// Working arrays of an [`AttentionOp`] over C channels and N pixels in its scratch; Q is [`QUERY_PIXELS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionScratch {
    /// f32 pairs (a, b) per channel.
    pub affine: Region,
    /// f32 \[C\]: the projection's bias.
    pub bias: Region,
    /// f32 \[Q\]\[C\]: queries, and in their place, head by head, the mixed values.
    pub query: Region,
    /// Integer sums i32 \[C\]\[[`BLOCK_PIXELS`]\], and between the two projections the scores f32 \[N\]\[Q\].
    pub scores: Region,
    /// i16: a quantised row of [`BLOCK_PIXELS`] columns of which Q are used.
    pub row: Region,
    /// f32 pairs (Σx, Σx²) \[C\] of the output row being written, when the output carries statistics.
    pub sums: Region,
    /// Length of the scratch.
    pub bytes: u32,
}

impl AttentionOp {
    /// Where the arrays lie for C `channels`.
    #[must_use]
    pub fn data_layout(&self, channels: u32) -> AttentionData {
        let matrix = direct_bytes(1, channels, channels);
        let c = u64::from(channels);
        let mut at = Placer(0);
        AttentionData {
            q_weight: at.place(matrix, 1),
            q_scale: at.place(c, 4),
            q_bias: at.place(c, 4),
            gamma: at.place(c, 4),
            beta: at.place(c, 4),
            proj_weight: at.place(matrix, 1),
            proj_scale: at.place(c, 4),
            proj_bias: at.place(c, 4),
            bytes: at.bytes(),
        }
    }

    /// Where the working arrays lie in the scratch, for C `channels` and N `pixels`.
    #[must_use]
    pub fn scratch_layout(&self, channels: u32, pixels: u32, statistics: bool) -> AttentionScratch {
        let (c, q) = (u64::from(channels), QUERY_PIXELS as u64);
        let even = c.next_multiple_of(2);
        let mut at = Placer(0);
        AttentionScratch {
            affine: at.place(2 * c, 4),
            bias: at.place(c, 4),
            query: at.place(q * c, 4),
            scores: at.place((q * u64::from(pixels)).max(BLOCK_PIXELS as u64 * even), 4),
            row: at.place(BLOCK_PIXELS as u64 * even, 2),
            sums: at.place(if statistics { 2 * c } else { 0 }, 4),
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
        let f = u64::from(self.freq_dim);
        let e = if f == 0 { 0 } else { u64::from(time_dim) };
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
            hidden: at.place(if self.freq_dim == 0 { 0 } else { time_dim.into() }, 4),
            bytes: at.bytes(),
        }
    }
}
