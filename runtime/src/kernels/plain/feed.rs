//! From halves and 8-bit integers to quantised rows without floats: the value in front of the quantiser is taken in fixed
//! point, with a bound of how far the definition's roundings may lie from it; only near a step do floats decide.

use half::f16;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, RowSource};
use crate::quant::{Quantiser, clamp, silu_fixed};
use crate::tensor::Elements;

/// As [`portable::feed`](crate::kernels::portable::feed). Apart, as everything here that is, for the stack's sake.
#[inline(never)]
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let width = feed.values.len() / feed.channels.max(1);
    feed_row(&RowSource { elements: Elements::F16(feed.values), first: 0, width, doubled: false }, feed, target)
}

/// As [`portable::feed_with`](crate::kernels::portable::feed_with), for halves and 8-bit integers.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (first, len) = (source.first, source.width * feed.channels);
    let fits = feed.channels > 0 && (!source.doubled || (target.geometry.kernel, target.geometry.stride) == (3, 1));
    match source.elements {
        Elements::F16(values) if fits => {
            let Some(values) = values.get(first..first + len) else { return false };
            feed_channels(values, &[], source.doubled, feed, target)
        }
        Elements::I8(values, scales) if fits && scales.len() == feed.channels => {
            let Some(values) = values.get(first..first + len) else { return false };
            feed_channels(values, scales, source.doubled, feed, target)
        }
        _ => false,
    }
}

/// Channel by channel, so that a channel's constants are taken apart once a row, or once for all where there is no norm.
fn feed_channels<T: Element>(
    values: &[T],
    units: &[f32],
    doubled: bool,
    feed: &Feed<'_>,
    target: &mut FeedTarget<'_>,
) -> bool {
    let Some(shared) = Shared::new::<T>(feed.quantiser, largest(feed.affine, units)) else { return false };
    let places = Places::new(target, values.len() / feed.channels, doubled);
    let mut rule = Rule::new::<T>(&shared, units.first().copied(), None);
    let mut constants = T::constants(&rule, &shared);
    for channel in 0..feed.channels {
        let affine = feed.affine.get(2 * channel..2 * channel + 2);
        if affine.is_some() || !units.is_empty() {
            rule = Rule::new::<T>(&shared, units.get(channel).copied(), affine.map(|pair| (pair[0], pair[1])));
            constants = T::constants(&rule, &shared);
        }
        for run in 0..places.runs {
            let from = values.get(run * places.advance * feed.channels + channel..).unwrap_or(&[]);
            let row = target.row.get_mut(places.first(target.channel + channel, run)..).unwrap_or(&mut []);
            let (count, step) = (places.count(run), places.step * feed.channels);
            match &constants {
                Some(constants) => T::fill(&rule, constants, from, step, count, row),
                None => rule.fill(&shared, from, step, count, row),
            }
            if doubled {
                spread(row, count);
            }
        }
    }
    true
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

/// A stored number.
pub(super) trait Element: Copy {
    /// A mantissa m, field e and factor A · 2^(POINT + fraction) have the product m · A · 2^(e − 32 + fraction).
    const POINT: i32;

    /// Mantissa, at most 11 bits, field, at most 20, and sign; `None` for what only floats can take.
    fn parts(self) -> Option<(u32, u32, bool)>;

    /// The number, given the channel's unit.
    fn value(self, unit: f32) -> f32;

    /// What the core's own loop reads, where there is one.
    fn constants(_: &Rule, _: &Shared) -> Option<Constants> {
        None
    }

    /// As [`Rule::fill`], by that loop.
    fn fill(_: &Rule, _: &Constants, _from: &[Self], _step: usize, _count: usize, _row: &mut [i16]) {}
}

impl Element for f16 {
    const POINT: i32 = 7;

    #[inline(always)]
    fn parts(self) -> Option<(u32, u32, bool)> {
        let bits = u32::from(self.to_bits());
        let field = bits >> 10 & 31;
        let negative = bits & 0x8000 != 0;
        if field.wrapping_sub(1) >= 20 {
            return if field == 0 { Some((bits & 0x03ff, 1, negative)) } else { None };
        }
        Some(((bits & 0x03ff) | 0x0400, field, negative))
    }

    fn value(self, _unit: f32) -> f32 {
        crate::f16::to_f32(self)
    }

    #[cfg(picodream_backend = "plain")]
    fn constants(rule: &Rule, shared: &Shared) -> Option<Constants> {
        super::feed_loops::constants(rule, shared)
    }

    #[cfg(picodream_backend = "plain")]
    fn fill(rule: &Rule, constants: &Constants, from: &[Self], step: usize, count: usize, row: &mut [i16]) {
        super::feed_loops::fill(rule, constants, from, step, count, row);
    }
}

impl Element for i8 {
    const POINT: i32 = 12;

    #[inline(always)]
    fn parts(self) -> Option<(u32, u32, bool)> {
        Some((self.unsigned_abs().into(), 20, self < 0))
    }

    fn value(self, unit: f32) -> f32 {
        f32::from(self) * unit
    }
}

/// What a core's own loop reads.
#[cfg(picodream_backend = "plain")]
pub(super) type Constants = super::feed_loops::Constants;
#[cfg(not(picodream_backend = "plain"))]
type Constants = ();

/// What all channels of a row share.
pub(super) struct Shared {
    pub(super) quantiser: Quantiser,
    /// Bits of a fixed-point number behind the point, 2..=14.
    pub(super) fraction: u32,
    /// What is below a step of the quantiser.
    pub(super) mask: u32,
    /// The definition's roundings are off by 2^−slack of the value, all together.
    slack: u32,
}

impl Shared {
    /// For factors up to `largest`.
    fn new<T: Element>(quantiser: Quantiser, largest: f32) -> Option<Self> {
        // Products and sums are each off by 2⁻²⁴ of themselves: two of them in front of a SiLU; at most five in front of a
        // plain quantiser, and two in this rule's factor.
        let (scale, step_bits, slack, most) = match quantiser {
            Quantiser::Plain { scale, .. } => (scale, 8, 21, PLAIN_FRACTION),
            Quantiser::Silu { .. } => (1.0, 0, SILU_SLACK, 14),
        };
        let exponent = ((largest * scale).to_bits() >> 23 & 255) as i32 - 127;
        // A factor has 31 bits.
        let fraction = (30 - T::POINT - exponent).min(most);
        if fraction < 2 {
            return None;
        }
        let mask = (1 << (fraction as u32 + step_bits)) - 1;
        Some(Self { quantiser, fraction: fraction as u32, mask, slack })
    }
}

/// Bits behind the point that the loops for plain quantisers have.
pub(super) const PLAIN_FRACTION: i32 = 8;

/// As [`Shared::slack`], in front of a SiLU.
const SILU_SLACK: u32 = 22;

/// A channel's way to the quantiser: element · factor + offset, in units of 2^−fraction.
pub(super) struct Rule {
    quantiser: Quantiser,
    /// Of an 8-bit integer.
    unit: f32,
    affine: Option<(f32, f32)>,
    /// |factor| · 2^(POINT + fraction); [`Factor`] has it in pieces where products have 32 bits.
    pub(super) factor: Factor,
    pub(super) negative: bool,
    pub(super) offset: i32,
    /// Units by which offset and product may be wrong.
    pub(super) error: u32,
}

impl Rule {
    fn new<T: Element>(shared: &Shared, unit: Option<f32>, affine: Option<(f32, f32)>) -> Self {
        // No more float arithmetic than there must be: this is done for every channel of every row.
        let mut factor = affine.map_or(1.0, |(a, _)| a);
        let mut offset = affine.map_or(0.0, |(_, b)| b);
        if let Some(unit) = unit {
            factor *= unit;
        }
        if let Quantiser::Plain { scale, .. } = shared.quantiser {
            factor *= scale;
            offset = offset * scale + 128.0;
        }
        let units = fixed(offset, shared.fraction as i32).filter(|units| *units < 1 << 30);
        let magnitude = fixed(factor, T::POINT + shared.fraction as i32);
        let fits = units.is_some() && magnitude.is_some();
        let units = units.unwrap_or(0) as i32;
        Self {
            quantiser: shared.quantiser,
            unit: unit.unwrap_or(1.0),
            affine,
            factor: Factor::new(magnitude.unwrap_or(0)),
            negative: is_negative(factor),
            offset: if is_negative(offset) { -units } else { units },
            // The product, the factor and the offset are cut off, and what is added to be cut off is rounded; what does not
            // fit is always in doubt.
            error: if fits { 6 + (units as u32 >> shared.slack) } else { 1 << 22 },
        }
    }

    /// Quantises `count` elements, every `step` of `from`, to every other place of a row.
    fn fill<T: Element>(&self, shared: &Shared, from: &[T], step: usize, count: usize, row: &mut [i16]) {
        for (slot, element) in row.chunks_mut(2).zip(from.chunks(step)).take(count) {
            let decided = match shared.quantiser {
                Quantiser::Silu { .. } => self.integer::<T, true>(element[0], shared),
                Quantiser::Plain { .. } => self.integer::<T, false>(element[0], shared),
            };
            slot[0] = match decided {
                Some(quantised) => quantised,
                None => self.exactly(element[0]),
            };
        }
    }

    /// The quantised number, when it is the same anywhere near.
    #[inline(always)]
    fn integer<T: Element, const SILU: bool>(&self, element: T, shared: &Shared) -> Option<i16> {
        let (mantissa, field, negative) = element.parts()?;
        let product = self.factor.times(mantissa, field) as i32;
        let value = self.offset + if negative == self.negative { product } else { -product };
        // The quantiser's cut to an integer is towards zero.
        let value = value + if value < 0 { 1 << shared.fraction } else { 0 };
        let doubt = self.error + ((value ^ (value >> 31)) as u32 >> shared.slack);
        if (value as u32).wrapping_add(doubt) & shared.mask < 2 * doubt {
            return None;
        }
        Some(match shared.quantiser {
            Quantiser::Silu { multiplier, qmax } if SILU => {
                let product = silu_fixed(value >> shared.fraction).wrapping_mul(multiplier);
                clamp(product.wrapping_add(1 << 15) >> 16, qmax)
            }
            Quantiser::Silu { qmax, .. } | Quantiser::Plain { qmax, .. } => clamp(value >> (shared.fraction + 8), qmax),
        })
    }

    #[cold]
    #[inline(never)]
    pub(super) fn exactly<T: Element>(&self, element: T) -> i16 {
        let value = element.value(self.unit);
        self.quantiser.quantise(self.affine.map_or(value, |(a, b)| value * a + b))
    }
}

/// Whether the sign is set: without a call, which a comparison would be.
fn is_negative(x: f32) -> bool {
    x.to_bits() >> 31 != 0
}

/// ⌊|x| · 2^shift⌋ when that is below 2³¹; never for an infinite x or NaN.
#[inline(never)]
fn fixed(x: f32, shift: i32) -> Option<u32> {
    let bits = x.to_bits();
    let (mantissa, exponent) = ((bits & 0x007f_ffff) | 0x0080_0000, (bits >> 23 & 255) as i32);
    match exponent - 150 + shift {
        0..=7 => Some(mantissa << (exponent - 150 + shift)),
        down @ -23..0 if exponent > 0 => Some(mantissa >> -down),
        ..0 => Some(0),
        _ => None,
    }
}

/// A factor below 2³¹ as the core multiplies with it.
pub(super) struct Factor {
    #[cfg(any(test, not(picodream_baseline)))]
    pub(super) whole: u32,
    /// The upper and the lower 16 bits.
    #[cfg(any(test, picodream_baseline))]
    pub(super) halves: [u32; 2],
}

impl Factor {
    fn new(factor: u32) -> Self {
        Self {
            #[cfg(any(test, not(picodream_baseline)))]
            whole: factor,
            #[cfg(any(test, picodream_baseline))]
            halves: [factor >> 16, factor & 0xffff],
        }
    }

    /// ⌊factor · mantissa / 2^(32 − field)⌋ for a mantissa of 11 bits and a field up to 20.
    #[cfg(not(picodream_baseline))]
    #[inline(always)]
    fn times(&self, mantissa: u32, field: u32) -> u32 {
        ((u64::from(self.whole) * u64::from(mantissa << field)) >> 32) as u32
    }

    /// As [`Factor::times`], for cores whose products have 32 bits.
    #[cfg(picodream_baseline)]
    #[inline(always)]
    fn times(&self, mantissa: u32, field: u32) -> u32 {
        self.times_in_halves(mantissa, field)
    }

    #[cfg(any(test, picodream_baseline))]
    #[inline(always)]
    fn times_in_halves(&self, mantissa: u32, field: u32) -> u32 {
        let [upper, lower] = self.halves;
        (((mantissa * upper) << 4) + ((mantissa * lower) >> 12)) >> (20 - field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{check, portable};
    use crate::rng::NoiseStream;

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

    #[test]
    fn every_half_is_quantised_as_by_floats() {
        let mut stream = NoiseStream::new(36, 0);
        for index in 0..60u32 {
            let mut float = |exponent: u32| f32::from_bits((exponent + stream.below(6)) << 23 | stream.next_u32() >> 9);
            let silu = index % 2 == 0;
            let base = if silu { 136 } else { 124 };
            let affine = (silu || index % 5 != 1).then_some((float(base), -float(base - 1)));
            let affine = affine.map(|(a, b)| if index % 3 == 0 { (-a, -b) } else { (a, b) });
            let inv_scale = (float(131) * 16.0).trunc() / 16.0;
            let quantiser = Quantiser::new(silu, inv_scale, 511);
            let shared = Shared::new::<f16>(quantiser, affine.map_or(1.0, |(a, _)| a.abs())).unwrap();
            let rule = Rule::new::<f16>(&shared, None, affine);
            let mut exactly = 0;
            for bits in 0..=u16::MAX {
                let half = f16::from_bits(bits);
                let got = if silu {
                    rule.integer::<f16, true>(half, &shared)
                } else {
                    rule.integer::<f16, false>(half, &shared)
                };
                if let Some(got) = got {
                    assert_eq!(got, rule.exactly(half), "{half} · {affine:?}, {quantiser:?}");
                } else if half.to_f32().abs() < 4.0 {
                    exactly += 1;
                }
            }
            // Of 2 · 17,408 halves below 4: what is left to floats is a small part.
            assert!(exactly < 1800, "{exactly} of {affine:?}, {quantiser:?}");
        }
    }

    #[test]
    fn the_core_without_long_products_agrees() {
        let mut stream = NoiseStream::new(37, 0);
        for _ in 0..1_000_000 {
            let factor = Factor::new(stream.next_u32() >> (1 + stream.below(16)));
            let (mantissa, field) = (stream.below(2048), stream.below(21));
            assert_eq!(factor.times(mantissa, field), factor.times_in_halves(mantissa, field));
        }
    }
}
