//! From halves and 8-bit integers to quantised rows without floats: the value in front of the quantiser is taken in fixed
//! point, with a bound of how far the definition's roundings may lie from it; only near a step do floats decide.

use half::f16;

use super::feed_loops::Loop;
use super::feed_rule::{Rule, Shared, Stored};
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, RowSource};
use crate::quant::Quantiser;
use crate::tensor::Elements;

/// As [`portable::feed`](crate::kernels::portable::feed). Apart, as everything here that is, for the stack's sake.
#[inline(never)]
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let width = feed.values.len() / feed.channels.max(1);
    feed_row(&RowSource { elements: Elements::F16(feed.values), first: 0, width, doubled: false }, feed, target)
}

/// As [`portable::feed_with`](crate::kernels::portable::feed_with), for halves and 8-bit integers.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let fits = feed.channels > 0 && (!source.doubled || (target.geometry.kernel, target.geometry.stride) == (3, 1));
    let (bytes, units, stored): (&[u8], &[f32], _) = match source.elements {
        Elements::F16(values) if fits => (bytemuck::cast_slice::<f16, u8>(values), &[], Stored::Halves),
        Elements::I8(values, units) if fits && units.len() == feed.channels => {
            (bytemuck::cast_slice(values), units, Stored::Bytes)
        }
        _ => return false,
    };
    let (first, len) = (source.first * stored.size(), source.width * feed.channels * stored.size());
    let Some(bytes) = bytes.get(first..first + len) else { return false };
    let Some(shared) = Shared::new(stored, feed.quantiser, largest(feed.affine, units)) else { return false };
    let places = Places::new(target, source.width, source.doubled);
    Row { bytes, units, feed, shared, places, doubled: source.doubled }.fill(target);
    true
}

/// A row on its way.
struct Row<'a> {
    bytes: &'a [u8],
    units: &'a [f32],
    feed: &'a Feed<'a>,
    shared: Shared,
    places: Places,
    doubled: bool,
}

impl Row<'_> {
    /// Channel by channel, so that a channel's constants are taken apart once a row; or, where there is one rule for all, every
    /// other channel together.
    fn fill(&self, target: &mut FeedTarget<'_>) {
        let Self { units, feed, ref shared, .. } = *self;
        let mut own = Loop::new(shared);
        let alike = feed.affine.is_empty() && units.is_empty() && matches!(feed.quantiser, Quantiser::Plain { .. });
        let mut rule = Rule::new(shared, units.first().copied(), None);
        own.set(&rule);
        for channel in 0..if alike { feed.channels.min(2) } else { feed.channels } {
            let affine = feed.affine.get(2 * channel..2 * channel + 2).map(|pair| (pair[0], pair[1]));
            if affine.is_some() || !units.is_empty() {
                rule = Rule::new(shared, units.get(channel).copied(), affine);
                own.set(&rule);
            }
            let channels = if alike { (feed.channels + 1 - channel) / 2 } else { 1 };
            self.channels(&mut own, &rule, (channel, channels), target);
        }
    }

    /// A channel and every other one behind it, `channels` of them.
    fn channels(
        &self,
        own: &mut Loop<'_>,
        rule: &Rule,
        (channel, channels): (usize, usize),
        target: &mut FeedTarget<'_>,
    ) {
        let (places, size) = (&self.places, self.shared.stored.size());
        for run in 0..places.runs {
            let stretch = Stretch {
                from: (run * places.advance * self.feed.channels + channel) * size,
                step: places.step * self.feed.channels * size,
                from_next: 2 * size,
                to: places.first(target.channel + channel, run),
                to_next: places.pair,
                count: places.count(run),
                runs: channels,
            };
            own.run(rule, self.bytes, target.row, &stretch);
            for channel in (0..channels).take_while(|_| self.doubled) {
                spread(target.row.get_mut(stretch.to + channel * places.pair..).unwrap_or(&mut []), stretch.count);
            }
        }
    }
}

/// Elements and their places: runs of elements that lie evenly apart, of which each goes two places further than the last.
pub(super) struct Stretch {
    /// First byte, bytes from an element to the next, and from a run to the next.
    pub(super) from: usize,
    pub(super) step: usize,
    pub(super) from_next: usize,
    /// First place, and places from a run to the next.
    pub(super) to: usize,
    pub(super) to_next: usize,
    /// Elements of a run, and runs: neither is 0.
    pub(super) count: usize,
    pub(super) runs: usize,
}

/// Writes every one of `count` pixels twice, side by side, from the last to the first.
fn spread(row: &mut [i16], count: usize) {
    for pixel in (0..count).rev() {
        let value = row.get(2 * pixel).copied().unwrap_or(0);
        row.iter_mut().skip(4 * pixel).step_by(2).take(2).for_each(|slot| *slot = value);
    }
}

/// The largest |a · unit|; in integers where there is one of the two only.
fn largest(affine: &[f32], units: &[f32]) -> f32 {
    let most = |floats: &mut dyn Iterator<Item = f32>| floats.fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
    f32::from_bits(match (affine, units) {
        ([], []) => return 1.0,
        ([], units) => most(&mut units.iter().copied()),
        (affine, []) => most(&mut affine.iter().copied().step_by(2)),
        (affine, units) => most(&mut affine.iter().step_by(2).zip(units).map(|(a, unit)| a * unit)),
    })
}

/// Where a row's pixels lie: in runs of which every other place is a channel's.
struct Places {
    /// Of channel 0 of the first run, and from a pair of channels, and a run, to the next.
    start: usize,
    pair: usize,
    run: usize,
    runs: usize,
    /// Pixels from the first of a run to the first of the next, and from one to the next of a run.
    advance: usize,
    step: usize,
    most: usize,
    width: usize,
}

impl Places {
    fn new(target: &FeedTarget<'_>, width: usize, doubled: bool) -> Self {
        let g = &target.geometry;
        let (advance, runs, step, most) = match (g.kernel, g.stride) {
            (1, _) => (BLOCK_PIXELS, width.div_ceil(BLOCK_PIXELS), 1, BLOCK_PIXELS),
            (_, 2) => (1, width.min(2), 2, usize::MAX),
            _ => (0, width.min(1), 1, usize::MAX),
        };
        let start = g.index(target.column, 0);
        let run = g.index(target.column + (advance << u32::from(doubled)), 0).wrapping_sub(start);
        Self { start, pair: g.index(0, 2) - g.index(0, 0), run, runs, advance, step, most, width }
    }

    /// Place of the first pixel of a run.
    fn first(&self, channel: usize, run: usize) -> usize {
        (self.start + channel / 2 * self.pair + channel % 2).wrapping_add(run * self.run)
    }

    /// Pixels of a run.
    fn count(&self, run: usize) -> usize {
        let left = self.width - run * self.advance;
        if self.step == 2 { left.div_ceil(2) } else { left.min(self.most) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{check, portable};

    #[test]
    fn rows_are_those_of_floats() {
        check::check_feed(|source, feed, target| {
            if !feed_row(source, feed, target) {
                let load = |at: usize, out: &mut [f32]| source.elements.load(source.first + at, out);
                portable::feed_with(load, feed, source.width, source.doubled, target);
            }
            true
        });
    }
}
