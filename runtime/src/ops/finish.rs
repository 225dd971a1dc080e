//! From integer sums to a stored tensor: scale, bias, residual, rounding to storage, and the statistics of the next norm.

use super::Source;
use super::norm::Statistics;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{self, Finish, Point, Prepared, Residual, Taps, portable};
use crate::tensor::{CHUNK, Elements, ElementsMut, Floats};

/// The output of an operator as it is being written.
pub(super) struct Output<'a> {
    pub(super) out: ElementsMut<'a>,
    pub(super) residual: Option<Source<'a>>,
    /// Little-endian f32 \[cout\].
    pub(super) scale: &'a [[u8; 4]],
    /// f32 \[cout\].
    pub(super) bias: &'a [f32],
    pub(super) statistics: Statistics<'a>,
}

/// Some pixels of a row and some of their channels.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// i32 \[channels\]\[8\].
    pub(super) acc: &'a [i32],
    /// First pixel, in raster order.
    pub(super) pixel: usize,
    /// 1..=8.
    pub(super) pixels: usize,
    /// First channel.
    pub(super) channel: usize,
    pub(super) channels: usize,
    /// Which of the rows at once: whose sums are collected.
    pub(super) row: usize,
}

impl Output<'_> {
    /// (sum · scale + bias) + residual, stored.
    pub(super) fn finish(&mut self, block: &Block<'_>) {
        let (finish, first) = self.parts(block);
        let sums = self.statistics.row_mut(block.row, block.channel..block.channel + block.channels);
        if !fast(&finish, self.residual, &mut self.out, first, sums) {
            self.finish_any(block);
        }
    }

    /// The same for any storage and alignment; apart, so that what is called for every few outputs is short.
    #[inline(never)]
    fn finish_any(&mut self, block: &Block<'_>) {
        let (finish, first) = self.parts(block);
        let sums = self.statistics.row_mut(block.row, block.channel..block.channel + block.channels);
        let (residual, out) = (self.residual, &mut self.out);
        let (channels, plain) = (finish.scale.len(), residual.is_none() && sums.is_empty());
        if let (ElementsMut::F32(out), true) = (&mut *out, plain && channels == finish.pitch) {
            let (scale, bias) = (finish.scale.as_flattened(), bytemuck::cast_slice(finish.bias));
            let out = &mut out[first..][..finish.pixels * channels];
            return dequantise(finish.acc, Floats::new(scale), Floats::new(bias), out, channels);
        }
        let put = |at: usize, values: &mut [f32]| {
            add_residual(residual, out.as_elements(), first + at, values);
            out.store(first + at, values);
        };
        portable::finish_with(&finish, put, sums);
    }

    /// Output row `y` of a direct convolution at once; `false` when the back end has no loop for it.
    pub(super) fn direct_row(&mut self, prepared: &mut Prepared, y: usize, taps: &Taps<'_>, block: &Block<'_>) -> bool {
        let (finish, first) = self.parts(block);
        let sums = self.statistics.row_mut(block.row, block.channel..block.channel + block.channels);
        let Some((residual, out)) = storages(self.residual, &mut self.out, first) else { return false };
        kernels::direct_row(prepared, y, taps, &finish, residual, out, sums)
    }

    /// The same of a 1×1 convolution that a loop fits: some pixels of a row, all channels; `acc` is scratch.
    pub(super) fn point_row(&mut self, point: &Point<'_>, row: &[i16], block: &Block<'_>, acc: &mut [i32]) -> bool {
        let first = block.pixel * self.scale.len();
        let sums = self.statistics.row_mut(0, 0..self.scale.len());
        let Some((residual, out)) = storages(self.residual, &mut self.out, first) else { return false };
        point.row(row, block.pixels, residual, out, sums, acc)
    }

    /// A block as the loops take it, and where in the output it begins.
    #[inline(always)]
    fn parts<'s>(&self, block: &Block<'s>) -> (Finish<'s>, usize)
    where
        Self: 's,
    {
        let cout = self.scale.len();
        let channels = block.channel..block.channel + block.channels;
        let finish = Finish {
            acc: block.acc,
            pixels: block.pixels,
            scale: &self.scale[channels.clone()],
            bias: &self.bias[channels],
            pitch: cout,
        };
        (finish, block.pixel * cout + block.channel)
    }

    /// Adds the sums of the `rows` rows at once to the totals, in order, and begins new ones.
    pub(super) fn end_rows(&mut self, rows: usize) {
        self.statistics.end_rows(rows);
    }
}

/// The back end's loop, when it has one for these storages.
#[inline(always)]
fn fast(
    finish: &Finish<'_>,
    residual: Option<Source<'_>>,
    out: &mut ElementsMut<'_>,
    first: usize,
    sums: &mut [f32],
) -> bool {
    let ElementsMut::F16(out) = out else { return false };
    let Some(residual) = halves(residual, first) else { return false };
    kernels::finish(finish, residual, &mut out[first..], sums)
}

/// Residual and output from an element on; `None` for storages that no loop for whole rows has.
#[inline(always)]
fn storages<'s>(
    residual: Option<Source<'s>>,
    out: &'s mut ElementsMut<'_>,
    first: usize,
) -> Option<(Residual<'s>, ElementsMut<'s>)> {
    let residual = halves(residual, first)?;
    match out {
        ElementsMut::F16(out) => Some((residual, ElementsMut::F16(&mut out[first..]))),
        ElementsMut::F32(out) if matches!(residual, Residual::None) => {
            Some((residual, ElementsMut::F32(&mut out[first..])))
        }
        ElementsMut::F32(_) => None,
    }
}

/// A residual of halves, or none at all; `None` for one of another storage.
#[inline(always)]
fn halves(residual: Option<Source<'_>>, first: usize) -> Option<Residual<'_>> {
    match residual {
        None => Some(Residual::None),
        Some(Source::Own(Elements::F16(values))) => Some(Residual::Elsewhere(&values[first..])),
        Some(Source::Own(_)) => None,
        Some(Source::Output) => Some(Residual::InPlace),
    }
}

fn add_residual(residual: Option<Source<'_>>, out: Elements<'_>, index: usize, values: &mut [f32]) {
    let Some(residual) = residual else { return };
    let mut buffer = [0.0; CHUNK];
    residual.or(out).load(index, &mut buffer[..values.len()]);
    for (value, residual) in values.iter_mut().zip(&buffer) {
        *value += residual;
    }
}

/// f32\[pixels\]\[channels\] = sum · scale + bias, of an i32 \[channels\]\[8\] block.
pub(super) fn dequantise(acc: &[i32], scale: Floats<'_>, bias: Floats<'_>, out: &mut [f32], channels: usize) {
    let constants = scale.iter_from(0).zip(bias.iter_from(0)).take(channels);
    for ((channel, (scale, bias)), sums) in constants.enumerate().zip(acc.as_chunks::<BLOCK_PIXELS>().0) {
        let values = out.iter_mut().skip(channel).step_by(channels);
        for (value, sum) in values.zip(sums) {
            *value = *sum as f32 * scale + bias;
        }
    }
}
