//! 1×1 convolutions from quantised inputs to outputs: input channels by sixteen, output channels by eight.

use core::ptr::{null_mut, without_provenance};

use half::f16;

use super::ends::{first, normal};
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Finish, Geometry, Residual};
use crate::tensor::ElementsMut;

/// Words of sums of a pair of output channels: two by four pixels, and where its weights go on.
const PAIR_WORDS: usize = 9;

/// In the place of a residual: outputs are f32.
const FLOATS: *const f16 = without_provenance(1);

/// What the loop is told, and where it is in a row; the assembler knows the order.
#[repr(C)]
struct Job {
    /// One step of two quads before the first inputs.
    inputs: *const i16,
    /// Bytes to those of the next four pixels, and those to the ones after these besides.
    ahead: [usize; 2],
    /// Scratch for sums, and its end.
    acc: *mut i32,
    end: *mut i32,
    weight: *const u8,
    /// Bytes from behind the first two quads' weights of a pair of output channels to the next pair's.
    weight_step: usize,
    /// Pairs of input channels by eight.
    turns: usize,
    out: *mut u8,
    /// Null: none.
    residual: *const f16,
    scale: *const [u8; 4],
    bias: *const f32,
    /// Bytes between pixels.
    pitch: usize,
    pixels: usize,
    /// Output channels by eight.
    groups: usize,
    /// Null: none.
    sums: *mut f32,
}

unsafe extern "C" {
    fn picodream_helium_point(job: &mut Job);
}

/// A 1×1 convolution that the loop fits.
#[derive(Debug)]
pub struct Point<'a> {
    weight: &'a [u8],
    geometry: Geometry,
    scale: &'a [[u8; 4]],
    bias: &'a [f32],
}

impl<'a> Point<'a> {
    /// With direct weights, and a scale and a bias of each output channel; `None` leaves it to other loops.
    #[must_use]
    pub fn new(weight: &'a [u8], geometry: Geometry, scale: &'a [[u8; 4]], bias: &'a [f32]) -> Option<Self> {
        let Geometry { kernel, stride, pairs, columns } = geometry;
        let regular = (kernel, stride) == (1, 1) && pairs.is_multiple_of(8) && scale.len().is_multiple_of(8);
        let some = pairs > 0 && !scale.is_empty() && columns.is_multiple_of(BLOCK_PIXELS);
        let fits = weight.len() >= 2 * pairs * scale.len() && bias.len() >= scale.len();
        let aligned = weight.as_ptr().cast::<u32>().is_aligned() && scale.as_ptr().cast::<u32>().is_aligned();
        let block = Finish { acc: &[], pixels: 0, scale, bias, pitch: 0 };
        let fits = regular && some && fits && aligned && normal(&block);
        fits.then_some(Self { weight, geometry, scale, bias })
    }

    /// The first `pixels` outputs of a row, all channels: the sums of [`super::direct`], stored as by [`super::finish`] or,
    /// without residual and statistics, as f32; `acc` is scratch. `false` leaves them to others.
    pub fn row(
        &self,
        row: &[i16],
        pixels: usize,
        residual: Residual<'_>,
        out: ElementsMut<'_>,
        sums: &mut [f32],
        acc: &mut [i32],
    ) -> bool {
        let (g, channels) = (&self.geometry, self.scale.len());
        let (end, words) = (pixels * channels, PAIR_WORDS * channels / 2);
        let (out, from, size) = match out {
            ElementsMut::F16(out) if out.len() >= end => {
                let Some(from) = first(residual, out, end) else { return false };
                (out.as_mut_ptr().cast::<u8>(), from, 2)
            }
            ElementsMut::F32(out) if out.len() >= end && matches!(residual, Residual::None) && sums.is_empty() => {
                (out.as_mut_ptr().cast(), FLOATS, 4)
            }
            _ => return false,
        };
        let aligned =
            (out.addr() | row.as_ptr().addr()).is_multiple_of(4) && (size == 4 || from.addr().is_multiple_of(4));
        if !aligned || row.len() < g.len() || !(1..=g.columns).contains(&pixels) || acc.len() < words {
            return false;
        }
        let mut job = Job {
            inputs: row.as_ptr().wrapping_byte_sub(256),
            ahead: [2 * BLOCK_PIXELS, 4 * BLOCK_PIXELS * g.pairs],
            acc: acc.as_mut_ptr(),
            end: acc.as_mut_ptr().wrapping_add(words),
            weight: self.weight.as_ptr(),
            weight_step: 4 * g.pairs - 32,
            turns: g.pairs / 8,
            out,
            residual: from,
            scale: self.scale.as_ptr(),
            bias: self.bias.as_ptr(),
            pitch: size * channels,
            pixels,
            groups: channels / 8,
            sums: if sums.len() >= 2 * channels { sums.as_mut_ptr() } else { null_mut() },
        };
        // SAFETY: of the row, which has `g.len()` elements in blocks of eight columns, all channels of `pixels` pixels are
        // read, and those of three more columns at most, which are there; of each pair of output channels its weights, two
        // scales and two biases. Of each pixel all channels are written to the output and read from the residual, both of
        // which have `end` elements, at words' addresses; sums hold two of each channel, scratch nine words of each pair.
        unsafe { picodream_helium_point(&mut job) };
        true
    }
}
