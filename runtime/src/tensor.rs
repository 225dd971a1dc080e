//! Typed views of arena bytes and of blob constants: NHWC, batch 1.

use half::f16;

use crate::blob::{DType, Region};

/// Arena bytes as f32; empty when the length or place does not fit (never, after validation).
pub(crate) fn f32s(bytes: &[u8]) -> &[f32] {
    bytemuck::try_cast_slice(bytes).unwrap_or(&[])
}

/// Arena bytes as mutable f32; empty when they do not fit.
pub(crate) fn f32s_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// Arena bytes as mutable i32; empty when they do not fit.
pub(crate) fn i32s_mut(bytes: &mut [u8]) -> &mut [i32] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// Arena bytes as mutable i16; empty when they do not fit.
pub(crate) fn i16s_mut(bytes: &mut [u8]) -> &mut [i16] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])
}

/// The elements of a tensor, read as f32.
#[derive(Clone, Copy)]
pub(crate) enum Elements<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

impl<'a> Elements<'a> {
    pub(crate) fn new(bytes: &'a [u8], dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16(bytemuck::try_cast_slice(bytes).unwrap_or(&[])),
            DType::F32 => Self::F32(f32s(bytes)),
        }
    }

    /// Element `index` (exact).
    #[inline]
    pub(crate) fn get(self, index: usize) -> f32 {
        match self {
            Self::F16(values) => values[index].to_f32(),
            Self::F32(values) => values[index],
        }
    }
}

/// The elements of a tensor, written as f32.
pub(crate) enum ElementsMut<'a> {
    F16(&'a mut [f16]),
    F32(&'a mut [f32]),
}

impl<'a> ElementsMut<'a> {
    pub(crate) fn new(bytes: &'a mut [u8], dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16(bytemuck::try_cast_slice_mut(bytes).unwrap_or(&mut [])),
            DType::F32 => Self::F32(f32s_mut(bytes)),
        }
    }

    pub(crate) fn as_elements(&self) -> Elements<'_> {
        match self {
            Self::F16(values) => Elements::F16(values),
            Self::F32(values) => Elements::F32(values),
        }
    }

    /// Stores `value` rounded to the storage type (nearest, ties to even) and returns what was stored.
    #[inline]
    pub(crate) fn set(&mut self, index: usize, value: f32) -> f32 {
        match self {
            Self::F16(values) => {
                let rounded = f16::from_f32(value);
                values[index] = rounded;
                rounded.to_f32()
            }
            Self::F32(values) => {
                values[index] = value;
                value
            }
        }
    }
}

/// Constants of the blob, little-endian f32 at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Floats<'a>(pub(crate) &'a [u8]);

impl Floats<'_> {
    #[inline]
    pub(crate) fn get(self, index: usize) -> f32 {
        let at = index * 4;
        f32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Constants of the blob, little-endian f16 at any alignment.
#[derive(Clone, Copy)]
pub(crate) struct Halves<'a>(pub(crate) &'a [u8]);

impl Halves<'_> {
    #[inline]
    pub(crate) fn get(self, index: usize) -> f32 {
        f16::from_le_bytes([self.0[index * 2], self.0[index * 2 + 1]]).to_f32()
    }
}

/// Constants of the blob as i8.
pub(crate) fn i8s(bytes: &[u8]) -> &[i8] {
    bytemuck::cast_slice(bytes)
}

/// Disjoint parts of `bytes`, or `None` when two overlap or one lies outside (never, after validation). Empty regions give
/// empty slices wherever they point.
pub(crate) fn split<const N: usize>(bytes: &mut [u8], regions: [Region; N]) -> Option<[&mut [u8]; N]> {
    let ranges = regions.map(|region| if region.bytes == 0 { 0..0 } else { region.range() });
    bytes.get_disjoint_mut(ranges).ok()
}
