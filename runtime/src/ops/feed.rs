//! From source rows to quantised rows: load, norm, SiLU and quantise in one pass, into a ring of int16 rows.

use super::Source;
use crate::blob::{BLOCK_PIXELS, ConvOp};
use crate::kernels::{self, Feed, FeedTarget, Geometry, RowSource, portable};
use crate::quant::Quantiser;
use crate::tensor::Elements;

/// Rows that the ring may have.
const MAX_SLOTS: usize = if kernels::STRIDED { 5 } else { 4 };

/// One source of a convolution.
#[derive(Clone, Copy)]
pub(super) struct FeedSource<'a> {
    pub(super) elements: Source<'a>,
    pub(super) channels: usize,
    /// First of its channels among those of both sources.
    pub(super) first: usize,
    pub(super) quantiser: Quantiser,
}

/// Quantises source rows into a ring, each once.
pub(super) struct RowFeed<'a> {
    sources: [Option<FeedSource<'a>>; 2],
    /// Pairs (a, b) per channel of both sources; empty without a norm.
    affine: &'a [f32],
    geometry: Geometry,
    ring: &'a mut [i16],
    height: usize,
    width: usize,
    /// Whether every value is written twice, side by side.
    doubled: bool,
    /// Source row that each slot of the ring holds, one up (0: nothing, or zeros).
    held: [usize; MAX_SLOTS],
}

impl<'a> RowFeed<'a> {
    pub(super) fn new(
        op: &ConvOp,
        sources: [Option<FeedSource<'a>>; 2],
        affine: &'a [f32],
        (height, width): (usize, usize),
        ring: &'a mut [i16],
    ) -> Self {
        let channels: usize = sources.iter().flatten().map(|source| source.channels).sum();
        let geometry = Geometry {
            kernel: op.kernel.into(),
            stride: op.stride.into(),
            pairs: channels.div_ceil(2),
            columns: op.row_columns(width as u32) as usize,
        };
        let doubled = op.upsample && op.algorithm == crate::blob::Algorithm::Direct;
        kernels::clear(ring);
        Self { sources, affine, geometry, ring, height, width, doubled, held: [0; MAX_SLOTS] }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Makes source row `row` present, when there is such a row; returns its slot.
    pub(super) fn load(&mut self, row: Option<usize>, out: Elements<'_>) -> Option<usize> {
        let row = row.filter(|&row| row < self.height)?;
        let slots = (self.ring.len() / self.geometry.len().max(1)).clamp(1, MAX_SLOTS);
        let slot = row % slots;
        if self.held[slot] != row + 1 {
            self.held[slot] = row + 1;
            self.fill(row, slot, out);
        }
        Some(slot)
    }

    /// Like [`RowFeed::load`], with a row of zeros outside the image. `row` counts from one row above the image.
    pub(super) fn load_padded(&mut self, row: usize, out: Elements<'_>) -> usize {
        let slots = (self.ring.len() / self.geometry.len().max(1)).clamp(1, MAX_SLOTS);
        let slot = row % slots;
        match row.checked_sub(1).filter(|&inside| inside < self.height) {
            None => {
                self.held[slot] = 0;
                kernels::clear(self.slot_mut(slot));
            }
            Some(inside) if self.held[slot] != row => {
                self.held[slot] = row;
                self.fill(inside, slot, out);
            }
            Some(_) => {}
        }
        slot
    }

    /// The row in a slot.
    pub(super) fn row(&self, slot: usize) -> &[i16] {
        &self.ring[slot * self.geometry.len()..][..self.geometry.len()]
    }

    fn slot_mut(&mut self, slot: usize) -> &mut [i16] {
        &mut self.ring[slot * self.geometry.len()..][..self.geometry.len()]
    }

    fn fill(&mut self, row: usize, slot: usize, out: Elements<'_>) {
        let (geometry, width, doubled, affine) = (self.geometry, self.width, self.doubled, self.affine);
        // By number: an iterator would copy both sources for every row.
        for index in 0..self.sources.len() {
            let Some(source) = self.sources[index] else { continue };
            let elements = source.elements.or(out);
            let first = row * width * source.channels;
            let affine = affine.get(2 * source.first..).unwrap_or(&[]);
            let column = geometry.kernel / 2;
            let target = FeedTarget { row: self.slot_mut(slot), geometry, column, channel: source.first };
            feed_row(elements, first, width, &source, affine, doubled, target);
        }
    }
}

/// One row of one source.
fn feed_row(
    elements: Elements<'_>,
    first: usize,
    width: usize,
    source: &FeedSource<'_>,
    affine: &[f32],
    doubled: bool,
    mut target: FeedTarget<'_>,
) {
    let channels = source.channels;
    let affine = affine.get(..2 * channels).unwrap_or(&[]);
    let values = match elements {
        Elements::F16(values) => &values[first..first + width * channels],
        _ => &[],
    };
    let feed = Feed { values, channels, affine, quantiser: source.quantiser };
    let source = RowSource { elements, first, width, doubled };
    let fed = match (values.is_empty(), doubled) {
        (true, _) => false,
        (false, false) => kernels::feed(&feed, &mut target),
        (false, true) => kernels::feed_doubled(&feed, &mut target),
    };
    if fed || kernels::feed_row(&source, &feed, &mut target) {
        return;
    }
    match (elements, feed.quantiser, affine.is_empty() && !doubled) {
        (Elements::F32(values), Quantiser::Plain { scale, qmax }, true) => {
            feed_floats(&values[first..][..width * channels], channels, (scale, qmax), &mut target);
        }
        _ => defined(&source, &feed, &mut target),
    }
}

/// The definition; apart, so that its variables take no stack below the loops.
#[inline(never)]
fn defined(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) {
    let load = |at: usize, out: &mut [f32]| source.elements.load(source.first + at, out);
    portable::feed_with(load, feed, source.width, source.doubled, target);
}

/// Quantises f32 pixels \[pixels\]\[channels\] as they are.
fn feed_floats(values: &[f32], channels: usize, (scale, qmax): (f32, i32), target: &mut FeedTarget<'_>) {
    let (geometry, channel) = (target.geometry, target.channel);
    // From a pair of channels to the next it is always as far.
    let pitch = geometry.index(0, 2) - geometry.index(0, 0);
    for (x, pixel) in values.chunks_exact(channels).enumerate() {
        let mut at = geometry.index(target.column + x, channel);
        for (channel, value) in (channel..).zip(pixel) {
            target.row[at] = Quantiser::Plain { scale, qmax }.quantise(*value);
            at += if channel % 2 == 0 { 1 } else { pitch - 1 };
        }
    }
}

/// Quantises some pixels of a source from element `first` on, behind an affine map or none, into a row of a 1×1 kernel.
pub(super) fn feed_block(
    elements: Elements<'_>,
    first: usize,
    (channels, pixels): (usize, usize),
    affine: &[f32],
    quantiser: Quantiser,
    row: &mut [i16],
) {
    let geometry = Geometry { kernel: 1, stride: 1, pairs: channels.div_ceil(2), columns: BLOCK_PIXELS };
    let source = FeedSource { elements: Source::Own(elements), channels, first: 0, quantiser };
    feed_row(elements, first, pixels, &source, affine, false, FeedTarget { row, geometry, column: 0, channel: 0 });
}
