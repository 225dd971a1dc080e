//! The first 144 bytes of a blob: identity, image, schedule length, text references and the section table.

use super::bytes::{align16, f32_at, put, u8_at, u16_at, u32_at};
use super::error::ParseError;
use crate::checksum::CRC32;
use crate::spacing::FewStep;

/// Format version that this module reads and writes.
pub const VERSION: u16 = 2;
/// Bytes of the header; the first section begins here.
pub const HEADER_BYTES: usize = 144;
/// Largest blob accepted, in bytes.
pub const MAX_BLOB_BYTES: u32 = 16 << 20;
/// Largest arena accepted, in bytes.
pub const MAX_ARENA_BYTES: u32 = 16 << 20;
/// Number of sections, in file order [`SectionKind`].
pub const SECTION_COUNT: usize = 5;
/// Marks an absent tensor in a record.
pub const NONE: u16 = u16::MAX;

/// Byte offsets of the header's fields.
mod field {
    pub const MAGIC: usize = 0;
    pub const VERSION: usize = 4;
    pub const HEADER_BYTES: usize = 6;
    pub const TOTAL_BYTES: usize = 8;
    pub const CRC32: usize = 12;
    pub const ARENA_BYTES: usize = 16;
    pub const WIDTH: usize = 20;
    pub const HEIGHT: usize = 22;
    pub const CHANNELS: usize = 24;
    pub const PREDICTION_TYPE: usize = 25;
    pub const NUM_CLASSES: usize = 26;
    pub const NUM_TRAIN_TIMESTEPS: usize = 28;
    pub const SAMPLE: usize = 30;
    pub const MODEL_OUTPUT: usize = 32;
    pub const GUIDANCE: usize = 34;
    pub const TENSOR_COUNT: usize = 36;
    pub const OP_COUNT: usize = 38;
    pub const PIXEL_SCALE: usize = 40;
    pub const PIXEL_OFFSET: usize = 44;
    pub const NAME: usize = 48;
    pub const LICENCE: usize = 52;
    pub const DATA_LICENCE: usize = 56;
    pub const CLASS_NAMES: usize = 60;
    pub const FEW_STEPS: usize = 64;
    pub const PADDING: usize = 65;
    pub const FEW_STEP_SIGMA: usize = 68;
    pub const RESERVED: usize = 72;
    pub const SECTIONS: usize = 80;
    pub const END: usize = 140;
}

const MAGIC: [u8; 4] = *b"PDRM";

/// What the network predicts from x_t = √ᾱ·x0 + √(1−ᾱ)·ε.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PredictionType {
    /// The noise ε (DDPM, arXiv:2006.11239).
    Epsilon,
    /// The clean image x0.
    Sample,
    /// v = √ᾱ·ε − √(1−ᾱ)·x0 (arXiv:2202.00512).
    VPrediction,
    /// The score ∇ ln p(x_t) = −ε/√(1−ᾱ) (arXiv:2011.13456).
    Score,
    /// The velocity ε − x0 of x = (1 − s)·x0 + s·ε, which is also what the network is shown (arXiv:2209.03003).
    FlowVelocity,
}

/// The sections, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// UTF-8: names and licences.
    Text,
    /// `alphas_cumprod`, f32 per timestep.
    Schedule,
    /// Tensor records.
    Tensors,
    /// Operator records.
    Ops,
    /// Weights, scales, biases.
    Data,
}

/// A byte range, of the file or of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset: u32,
    /// Length in bytes.
    pub bytes: u32,
}

impl Region {
    /// One past the last byte, or `None` when that does not fit in 32 bits.
    #[must_use]
    pub const fn end(self) -> Option<u32> {
        self.offset.checked_add(self.bytes)
    }

    /// Whether the two ranges share a byte.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.bytes != 0
            && other.bytes != 0
            && u64::from(self.offset) < u64::from(other.offset) + u64::from(other.bytes)
            && u64::from(other.offset) < u64::from(self.offset) + u64::from(self.bytes)
    }

    /// The range as slice indices.
    #[must_use]
    pub fn range(self) -> core::ops::Range<usize> {
        let start = self.offset as usize;
        start..start.saturating_add(self.bytes as usize)
    }
}

/// A string of the text section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextRef {
    /// First byte in the text section.
    pub offset: u16,
    /// Length in bytes.
    pub bytes: u16,
}

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Header {
    /// Length of the whole blob.
    pub total_bytes: u32,
    /// CRC-32/ISO-HDLC over every byte but these four.
    pub crc32: u32,
    /// Bytes of the arena, exactly.
    pub arena_bytes: u32,
    /// Pixels across.
    pub width: u16,
    /// Pixels down.
    pub height: u16,
    /// 1 (grey) or 3 (RGB).
    pub channels: u8,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Classes without the null class; 0 for an unconditional model.
    pub num_classes: u16,
    /// T, the length of `alphas_cumprod`.
    pub num_train_timesteps: u16,
    /// Tensor that holds x_t (f32).
    pub sample: u16,
    /// Tensor that receives the network's output (f32).
    pub model_output: u16,
    /// Tensor that keeps the unconditional output during guidance, or [`NONE`].
    pub guidance: u16,
    /// Records in the tensor section.
    pub tensor_count: u16,
    /// Records in the operator section.
    pub op_count: u16,
    /// Pixel value 0..=255 = x · `pixel_scale` + `pixel_offset`.
    pub pixel_scale: f32,
    /// See `pixel_scale`.
    pub pixel_offset: f32,
    /// Name of the model.
    pub name: TextRef,
    /// Licence of the weights.
    pub licence: TextRef,
    /// Licence of the training data.
    pub data_licence: TextRef,
    /// Class names, separated by newlines.
    pub class_names: TextRef,
    /// Most steps that the model was tuned to draw in with the consistency sampler; 0 when it was not. Tools take it for their
    /// defaults, the pipeline does not look at it.
    pub few_steps: u8,
    /// σ̂ of the middle of its few-step levels ([`Header::few_step`]), measured for its data; 0 when `few_steps` is 0.
    pub few_step_sigma: f32,
    /// The section table, in the order of [`SectionKind`].
    pub sections: [Region; SECTION_COUNT],
}

/// Places sections of the given lengths one after another, each 16-byte aligned; returns the table and the blob's length.
#[must_use]
pub fn place_sections(bytes: [u32; SECTION_COUNT]) -> Option<([Region; SECTION_COUNT], u32)> {
    let mut at = HEADER_BYTES as u32;
    let mut table = [Region::default(); SECTION_COUNT];
    for (slot, bytes) in table.iter_mut().zip(bytes) {
        *slot = Region { offset: at, bytes };
        at = align16(at.checked_add(bytes)?)?;
    }
    Some((table, at))
}

impl Header {
    /// The checks that `const` evaluation can afford: magic, version and length.
    pub(super) const fn check_front(blob: &[u8]) -> Result<(), ParseError> {
        let got = if blob.len() > u32::MAX as usize { u32::MAX } else { blob.len() as u32 };
        // Four bytes tell another kind of file from a picodream blob that was cut short.
        let mut i = 0;
        while i < MAGIC.len() && i < blob.len() {
            if u8_at(blob, field::MAGIC + i) != MAGIC[i] {
                return Err(ParseError::NotABlob);
            }
            i += 1;
        }
        if blob.len() < HEADER_BYTES {
            return Err(ParseError::Truncated { needed: HEADER_BYTES as u32, got });
        }
        let found = u16_at(blob, field::VERSION);
        if found != VERSION {
            return Err(ParseError::Version { found, supported: VERSION });
        }
        let total = u32_at(blob, field::TOTAL_BYTES);
        if total > got {
            return Err(ParseError::Truncated { needed: total, got });
        }
        if total < got {
            return Err(ParseError::TrailingBytes { expected: total, got });
        }
        if total > MAX_BLOB_BYTES {
            return Err(ParseError::Header { field: "total_bytes", value: total });
        }
        let arena = u32_at(blob, field::ARENA_BYTES);
        if arena == 0 || arena > MAX_ARENA_BYTES || !arena.is_multiple_of(16) {
            return Err(ParseError::Header { field: "arena_bytes", value: arena });
        }
        Ok(())
    }

    /// Arena bytes of a blob whose front has been checked.
    pub(super) const fn arena_bytes_of(blob: &[u8]) -> u32 {
        u32_at(blob, field::ARENA_BYTES)
    }

    /// height · width · channels · 4 of a blob whose front has been checked; saturates where the validation refuses.
    pub(super) const fn image_bytes_of(blob: &[u8]) -> usize {
        let (width, height) = (u16_at(blob, field::WIDTH) as usize, u16_at(blob, field::HEIGHT) as usize);
        width.saturating_mul(height).saturating_mul(4 * u8_at(blob, field::CHANNELS) as usize)
    }

    /// Reads and checks every field of the header, and that the sections tile the blob.
    pub fn read(blob: &[u8]) -> Result<Self, ParseError> {
        Self::check_front(blob)?;
        let bad = |field, value: u32| ParseError::Header { field, value };
        let u16_of = |at| u16_at(blob, at);
        let text = |at| TextRef { offset: u16_at(blob, at), bytes: u16_at(blob, at + 2) };
        if usize::from(u16_of(field::HEADER_BYTES)) != HEADER_BYTES {
            return Err(bad("header_bytes", u16_of(field::HEADER_BYTES).into()));
        }
        let prediction_type = match u8_at(blob, field::PREDICTION_TYPE) {
            0 => PredictionType::Epsilon,
            1 => PredictionType::Sample,
            2 => PredictionType::VPrediction,
            3 => PredictionType::Score,
            4 => PredictionType::FlowVelocity,
            other => return Err(bad("prediction_type", other.into())),
        };
        let mut sections = [Region::default(); SECTION_COUNT];
        for (i, section) in sections.iter_mut().enumerate() {
            let at = field::SECTIONS + 12 * i;
            if u32_at(blob, at) != i as u32 {
                return Err(ParseError::Section { index: i as u8 });
            }
            *section = Region { offset: u32_at(blob, at + 4), bytes: u32_at(blob, at + 8) };
        }
        let header = Self {
            total_bytes: u32_at(blob, field::TOTAL_BYTES),
            crc32: u32_at(blob, field::CRC32),
            arena_bytes: u32_at(blob, field::ARENA_BYTES),
            width: u16_of(field::WIDTH),
            height: u16_of(field::HEIGHT),
            channels: u8_at(blob, field::CHANNELS),
            prediction_type,
            num_classes: u16_of(field::NUM_CLASSES),
            num_train_timesteps: u16_of(field::NUM_TRAIN_TIMESTEPS),
            sample: u16_of(field::SAMPLE),
            model_output: u16_of(field::MODEL_OUTPUT),
            guidance: u16_of(field::GUIDANCE),
            tensor_count: u16_of(field::TENSOR_COUNT),
            op_count: u16_of(field::OP_COUNT),
            pixel_scale: f32_at(blob, field::PIXEL_SCALE),
            pixel_offset: f32_at(blob, field::PIXEL_OFFSET),
            name: text(field::NAME),
            licence: text(field::LICENCE),
            data_licence: text(field::DATA_LICENCE),
            class_names: text(field::CLASS_NAMES),
            few_steps: u8_at(blob, field::FEW_STEPS),
            few_step_sigma: f32_at(blob, field::FEW_STEP_SIGMA),
            sections,
        };
        header.check(blob)?;
        Ok(header)
    }

    /// The levels that a tuned model draws in few steps with, the usual ones of a model that was not tuned for them.
    #[must_use]
    pub fn few_step(&self) -> FewStep {
        if self.few_steps == 0 { FewStep::ECT } else { FewStep { sigma: self.few_step_sigma } }
    }

    fn check(&self, blob: &[u8]) -> Result<(), ParseError> {
        let within = |field, value: u32, low: u32, high: u32| {
            if (low..=high).contains(&value) { Ok(()) } else { Err(ParseError::Header { field, value }) }
        };
        within("width", self.width.into(), 1, 256)?;
        within("height", self.height.into(), 1, 256)?;
        if !matches!(self.channels, 1 | 3) {
            return Err(ParseError::Header { field: "channels", value: self.channels.into() });
        }
        within("few_steps", self.few_steps.into(), 0, 16)?;
        let sigma = self.few_step_sigma;
        if !(if self.few_steps == 0 { sigma.to_bits() == 0 } else { (1e-3..=1e3).contains(&sigma) }) {
            return Err(ParseError::Header { field: "few_step_sigma (bits)", value: sigma.to_bits() });
        }
        within("num_classes", self.num_classes.into(), 0, 1000)?;
        within("num_train_timesteps", self.num_train_timesteps.into(), 1, 4096)?;
        within("tensor_count", self.tensor_count.into(), 1, 256)?;
        within("op_count", self.op_count.into(), 1, 256)?;
        within("sample", self.sample.into(), 0, u32::from(self.tensor_count) - 1)?;
        within("model_output", self.model_output.into(), 0, u32::from(self.tensor_count) - 1)?;
        if self.guidance != NONE {
            within("guidance", self.guidance.into(), 0, u32::from(self.tensor_count) - 1)?;
        }
        if (self.guidance == NONE) != (self.num_classes == 0) {
            return Err(ParseError::Header { field: "guidance", value: self.guidance.into() });
        }
        // A scale below 1/1000 or above 10⁶ pixels per unit is damage, and so is anything not finite.
        if !(self.pixel_scale >= 1e-3 && self.pixel_scale <= 1e6) {
            return Err(ParseError::Header { field: "pixel_scale (bits)", value: self.pixel_scale.to_bits() });
        }
        if !(self.pixel_offset >= -1e6 && self.pixel_offset <= 1e6) {
            return Err(ParseError::Header { field: "pixel_offset (bits)", value: self.pixel_offset.to_bits() });
        }
        let padding = field::PADDING..field::FEW_STEP_SIGMA;
        for at in padding.chain(field::RESERVED..field::SECTIONS).chain(field::END..HEADER_BYTES) {
            if u8_at(blob, at) != 0 {
                return Err(ParseError::Header { field: "reserved", value: u8_at(blob, at).into() });
            }
        }
        self.check_sections(blob)
    }

    /// Sections follow one another at 16-byte boundaries, with zeros between, and end with the blob.
    fn check_sections(&self, blob: &[u8]) -> Result<(), ParseError> {
        let lengths = self.sections.map(|s| s.bytes);
        let Some((table, total)) = place_sections(lengths) else {
            return Err(ParseError::Section { index: 0 });
        };
        for (i, (want, found)) in table.iter().zip(&self.sections).enumerate() {
            let error = ParseError::Section { index: i as u8 };
            let next = table.get(i + 1).map_or(total, |s| s.offset);
            let end = found.end().ok_or(error)?;
            if want != found || next > self.total_bytes {
                return Err(error);
            }
            let padding = blob.get(end as usize..next as usize).ok_or(error)?;
            if padding.iter().any(|&b| b != 0) {
                return Err(error);
            }
        }
        if total == self.total_bytes { Ok(()) } else { Err(ParseError::Section { index: SECTION_COUNT as u8 - 1 }) }
    }

    /// Writes the header over the first [`HEADER_BYTES`] of `blob` (which must be that long); the checksum is set by
    /// [`seal`](super::seal).
    pub fn write(&self, blob: &mut [u8]) {
        let prediction_type = match self.prediction_type {
            PredictionType::Epsilon => 0u8,
            PredictionType::Sample => 1,
            PredictionType::VPrediction => 2,
            PredictionType::Score => 3,
            PredictionType::FlowVelocity => 4,
        };
        blob[..HEADER_BYTES].fill(0);
        put(blob, field::MAGIC, &MAGIC);
        put(blob, field::VERSION, &VERSION.to_le_bytes());
        put(blob, field::HEADER_BYTES, &(HEADER_BYTES as u16).to_le_bytes());
        put(blob, field::TOTAL_BYTES, &self.total_bytes.to_le_bytes());
        put(blob, field::CRC32, &self.crc32.to_le_bytes());
        put(blob, field::ARENA_BYTES, &self.arena_bytes.to_le_bytes());
        put(blob, field::CHANNELS, &[self.channels, prediction_type]);
        put(blob, field::FEW_STEPS, &[self.few_steps]);
        put(blob, field::FEW_STEP_SIGMA, &self.few_step_sigma.to_le_bytes());
        for (at, value) in [
            (field::WIDTH, self.width),
            (field::HEIGHT, self.height),
            (field::NUM_CLASSES, self.num_classes),
            (field::NUM_TRAIN_TIMESTEPS, self.num_train_timesteps),
            (field::SAMPLE, self.sample),
            (field::MODEL_OUTPUT, self.model_output),
            (field::GUIDANCE, self.guidance),
            (field::TENSOR_COUNT, self.tensor_count),
            (field::OP_COUNT, self.op_count),
        ] {
            put(blob, at, &value.to_le_bytes());
        }
        put(blob, field::PIXEL_SCALE, &self.pixel_scale.to_le_bytes());
        put(blob, field::PIXEL_OFFSET, &self.pixel_offset.to_le_bytes());
        for (at, text) in [
            (field::NAME, self.name),
            (field::LICENCE, self.licence),
            (field::DATA_LICENCE, self.data_licence),
            (field::CLASS_NAMES, self.class_names),
        ] {
            put(blob, at, &text.offset.to_le_bytes());
            put(blob, at + 2, &text.bytes.to_le_bytes());
        }
        for (i, section) in self.sections.iter().enumerate() {
            let at = field::SECTIONS + 12 * i;
            put(blob, at, &(i as u32).to_le_bytes());
            put(blob, at + 4, &section.offset.to_le_bytes());
            put(blob, at + 8, &section.bytes.to_le_bytes());
        }
    }
}

/// Checksum over every byte but the checksum's own four.
#[must_use]
pub(super) fn checksum(blob: &[u8]) -> u32 {
    let mut digest = CRC32.digest();
    digest.update(&blob[..field::CRC32]);
    digest.update(&blob[field::CRC32 + 4..]);
    digest.finalize()
}

/// Writes the checksum of a finished blob (at least [`HEADER_BYTES`] long) into its header.
pub fn seal(blob: &mut [u8]) {
    let crc32 = checksum(blob);
    put(blob, field::CRC32, &crc32.to_le_bytes());
}
