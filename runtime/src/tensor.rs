//! Typed views of arena bytes and of blob constants: NHWC, batch 1.

use crate::blob::{DType, Region};
use crate::f16;

/// Arena bytes as f32; empty when the length or place does not fit (never, after validation).
#[inline(never)]
pub(crate) fn f32s(bytes: &[u8]) -> &[f32] {
    bytemuck::try_cast_slice(bytes).unwrap_or(&[])
}

/// Arena bytes as mutable f32; empty when they do not fit.
#[inline(never)]
pub(crate) fn f32s_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// Arena bytes as mutable i32; empty when they do not fit.
#[inline(never)]
pub(crate) fn i32s_mut(bytes: &mut [u8]) -> &mut [i32] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// Arena bytes as mutable i16; empty when they do not fit.
#[inline(never)]
pub(crate) fn i16s_mut(bytes: &mut [u8]) -> &mut [i16] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// Arena bytes as mutable i8.
pub(crate) fn i8s_mut(bytes: &mut [u8]) -> &mut [i8] {
    bytemuck::cast_slice_mut(bytes)
}

/// Elements that are converted together: long enough for vector code, short enough for a Cortex-M stack.
pub(crate) const CHUNK: usize = 16;

/// The elements of a tensor, read as f32.
#[derive(Clone, Copy)]
pub(crate) enum Elements<'a> {
    F16(&'a [half::f16]),
    F32(&'a [f32]),
    /// Integers, and the scale of each channel.
    I8(&'a [i8], &'a [f32]),
}

impl<'a> Elements<'a> {
    /// `scales` are those of an 8-bit tensor.
    pub(crate) fn new(bytes: &'a [u8], dtype: DType, scales: &'a [u8]) -> Self {
        match dtype {
            DType::I8 => Self::I8(i8s(bytes), f32s(scales)),
            // Weights are no operand.
            DType::I16 => Self::F32(&[]),
            DType::F16 => Self::F16(bytemuck::try_cast_slice(bytes).unwrap_or(&[])),
            DType::F32 => Self::F32(f32s(bytes)),
        }
    }

    /// Elements `first`.. into `out` (exact but for an 8-bit tensor, whose value is integer · scale); all of one pixel when the
    /// tensor has 8 bits.
    #[inline]
    pub(crate) fn load(self, first: usize, out: &mut [f32]) {
        match self {
            Self::F16(values) => {
                for (value, half) in out.iter_mut().zip(&values[first..]) {
                    *value = f16::to_f32(*half);
                }
            }
            Self::F32(values) => out.copy_from_slice(&values[first..first + out.len()]),
            Self::I8(values, scales) => {
                let scales = &scales[first % scales.len().max(1)..];
                for ((value, integer), scale) in out.iter_mut().zip(&values[first..]).zip(scales) {
                    *value = f32::from(*integer) * scale;
                }
            }
        }
    }
}

/// The elements of a tensor, written as f32.
#[derive(Debug)]
pub enum ElementsMut<'a> {
    /// Halves.
    F16(&'a mut [half::f16]),
    /// Floats.
    F32(&'a mut [f32]),
}

impl<'a> ElementsMut<'a> {
    pub(crate) fn new(bytes: &'a mut [u8], dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16(bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])),
            // Nothing but `ops/narrow.rs` writes 8 bits, and not through here.
            DType::I8 | DType::I16 => Self::F32(&mut []),
            DType::F32 => Self::F32(f32s_mut(bytes)),
        }
    }

    pub(crate) fn as_elements(&self) -> Elements<'_> {
        match self {
            Self::F16(values) => Elements::F16(values),
            Self::F32(values) => Elements::F32(values),
        }
    }

    /// Stores `values` at `first`.., rounded to the storage type (nearest, ties to even), and leaves what was stored in
    /// `values`.
    #[inline]
    pub(crate) fn store(&mut self, first: usize, values: &mut [f32]) {
        match self {
            Self::F16(out) => {
                for (half, value) in out[first..].iter_mut().zip(values) {
                    *half = f16::from_f32(*value);
                    *value = f16::to_f32(*half);
                }
            }
            Self::F32(out) => out[first..first + values.len()].copy_from_slice(values),
        }
    }
}

/// Constants of the blob, little-endian f32 at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a>(&'a [[u8; 4]]);

impl<'a> Floats<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> f32 {
        f32::from_le_bytes(self.0[index])
    }

    /// The constants from `first` on.
    #[inline]
    pub(crate) fn iter_from(self, first: usize) -> impl Iterator<Item = f32> + use<'a> {
        self.0[first..].iter().map(|bytes| f32::from_le_bytes(*bytes))
    }
}

/// Constants of the blob, little-endian f16 at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Halves<'a>(&'a [[u8; 2]]);

impl<'a> Halves<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    #[inline]
    pub(crate) fn get(self, index: usize) -> f32 {
        f16::to_f32(half::f16::from_le_bytes(self.0[index]))
    }
}

/// Constants of the blob as i8.
pub(crate) fn i8s(bytes: &[u8]) -> &[i8] {
    bytemuck::cast_slice(bytes)
}

/// Disjoint parts of `bytes`, or `None` when two overlap or one lies outside (never, after validation). Empty regions give
/// empty slices wherever they point.
pub(crate) fn split<const N: usize>(bytes: &mut [u8], regions: [Region; N]) -> Option<[&mut [u8]; N]> {
    let mut parts = [(); N].map(|()| &mut [][..]);
    carve(bytes, &regions, &mut parts).then_some(parts)
}

/// [`split`] for any number of regions, so that the program has it once: takes them off in the order of their offsets.
/// Returns whether all were there.
#[inline(never)]
fn carve<'a>(mut rest: &'a mut [u8], regions: &[Region], parts: &mut [&'a mut [u8]]) -> bool {
    let mut at = 0;
    for _ in 0..regions.iter().filter(|region| region.bytes > 0).count() {
        // A region that begins inside the one before is never found: one too few.
        let ahead = regions.iter().zip(&mut *parts).filter(|(region, _)| region.bytes > 0 && region.offset >= at);
        let Some((region, part)) = ahead.min_by_key(|(region, _)| region.offset) else { return false };
        let (gap, bytes) = ((region.offset - at) as usize, region.bytes as usize);
        let Some((_, tail)) = rest.split_at_mut_checked(gap) else { return false };
        let Some((taken, tail)) = tail.split_at_mut_checked(bytes) else { return false };
        (*part, rest) = (taken, tail);
        at = region.offset.saturating_add(region.bytes);
    }
    true
}
