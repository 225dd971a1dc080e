//! Tensor records: shape, storage type and place in the arena, 16 bytes each.

use super::bytes::{align16, put, u8_at, u16_at, u32_at};
use super::header::Region;

/// Bytes of one record.
pub const TENSOR_RECORD_BYTES: usize = 16;

/// How a tensor's elements are stored in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
    /// Integers ±127 with one scale per channel, which lie behind elements and statistics.
    I8,
    /// Weights of a convolution, expanded from the blob's once per image.
    I16,
}

impl DType {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::F16 | Self::I16 => 2,
            Self::F32 => 4,
            Self::I8 => 1,
        }
    }
}

/// A tensor of batch 1 in NHWC order, at a fixed place of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRecord {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
    /// Channels, the fastest-varying index.
    pub channels: u16,
    /// Storage type.
    pub dtype: DType,
    /// Whether (Σx, Σx²) per channel, f32 pairs, follow the elements (16-byte aligned).
    pub statistics: bool,
    /// First byte in the arena, a multiple of 16.
    pub offset: u32,
}

impl TensorRecord {
    /// height · width · channels.
    #[must_use]
    pub const fn len(&self) -> u32 {
        // At most 256 · 256 · 1024 = 2²⁶ for the dimensions that validation lets through.
        self.height as u32 * self.width as u32 * self.channels as u32
    }

    /// Whether the tensor has no element.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Arena bytes of the elements.
    #[must_use]
    #[inline(never)]
    pub fn elements(&self) -> Region {
        Region { offset: self.offset, bytes: self.len() * self.dtype.bytes() }
    }

    /// Arena bytes of the statistics (empty when there are none), 2 · channels f32.
    #[must_use]
    #[inline(never)]
    pub fn statistics_region(&self) -> Region {
        let bytes = if self.statistics { u32::from(self.channels) * 8 } else { 0 };
        Region { offset: self.offset.saturating_add(self.padded_elements()), bytes }
    }

    /// Arena bytes of the scales (empty but for [`DType::I8`]), channels f32.
    #[must_use]
    #[inline(never)]
    pub fn scales_region(&self) -> Region {
        let bytes = if self.dtype == DType::I8 { u32::from(self.channels) * 4 } else { 0 };
        Region { offset: self.offset.saturating_add(self.padded_elements() + self.padded_statistics()), bytes }
    }

    /// All arena bytes of the tensor, elements, statistics and scales, a multiple of 16.
    #[must_use]
    pub fn region(&self) -> Region {
        let scales = align16(self.scales_region().bytes).unwrap_or(0);
        Region { offset: self.offset, bytes: self.padded_elements() + self.padded_statistics() + scales }
    }

    fn padded_statistics(&self) -> u32 {
        align16(self.statistics_region().bytes).unwrap_or(0)
    }

    fn padded_elements(&self) -> u32 {
        align16(self.len() * self.dtype.bytes()).unwrap_or(!15)
    }

    /// Whether the two have the same height, width, channels and storage type.
    #[must_use]
    pub fn same_shape(&self, other: &Self) -> bool {
        (self.height, self.width, self.channels, self.dtype) == (other.height, other.width, other.channels, other.dtype)
    }

    /// Reads one record, or the rule that its bytes break.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let dtype = match u8_at(bytes, 6) {
            0 => DType::F16,
            1 => DType::F32,
            2 => DType::I8,
            3 => DType::I16,
            _ => return Err("the storage type is unknown"),
        };
        let statistics = match u8_at(bytes, 7) {
            0 => false,
            1 => true,
            _ => return Err("the statistics flag is neither 0 nor 1"),
        };
        if u32_at(bytes, 12) != 0 {
            return Err("reserved bytes are not zero");
        }
        let record = Self {
            height: u16_at(bytes, 0),
            width: u16_at(bytes, 2),
            channels: u16_at(bytes, 4),
            dtype,
            statistics,
            offset: u32_at(bytes, 8),
        };
        if !(1..=256).contains(&record.height) || !(1..=256).contains(&record.width) {
            return Err("height and width must be 1..=256");
        }
        if !(1..=1024).contains(&record.channels) {
            return Err("channels must be 1..=1024");
        }
        if !record.offset.is_multiple_of(16) {
            return Err("the arena offset is not a multiple of 16");
        }
        Ok(record)
    }

    /// Writes the record over the first [`TENSOR_RECORD_BYTES`] of `bytes` (which must be that long).
    pub fn write(&self, bytes: &mut [u8]) {
        let dtype = match self.dtype {
            DType::F16 => 0,
            DType::F32 => 1,
            DType::I8 => 2,
            DType::I16 => 3,
        };
        bytes[..TENSOR_RECORD_BYTES].fill(0);
        put(bytes, 0, &self.height.to_le_bytes());
        put(bytes, 2, &self.width.to_le_bytes());
        put(bytes, 4, &self.channels.to_le_bytes());
        put(bytes, 6, &[dtype, u8::from(self.statistics)]);
        put(bytes, 8, &self.offset.to_le_bytes());
    }
}
