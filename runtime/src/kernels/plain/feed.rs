//! From f16 to quantised rows without floats: where rounding cannot matter, the product is taken in integers.

use half::f16;

use crate::kernels::{Feed, FeedTarget};
use crate::quant::Quantiser;

/// As [`portable::feed`](crate::kernels::portable::feed): pairs of channels and a plain quantiser without affine map.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (g, channels) = (target.geometry, feed.channels);
    let Some(rule) = Rule::new(feed.quantiser) else { return false };
    if !feed.affine.is_empty() || channels == 0 || !channels.is_multiple_of(2) || !target.channel.is_multiple_of(2) {
        return false;
    }
    let step = g.index(0, 2) - g.index(0, 0);
    for (x, pixel) in feed.values.chunks_exact(channels).enumerate() {
        let mut at = g.index(target.column + x, target.channel);
        for pair in pixel.as_chunks::<2>().0 {
            if let Some(word) = target.row.get_mut(at..at + 2) {
                word[0] = rule.quantise(pair[0]);
                word[1] = rule.quantise(pair[1]);
            }
            at += step;
        }
    }
    true
}

/// A plain quantiser, taken apart.
struct Rule {
    quantiser: Quantiser,
    /// 21 leading bits of the scale.
    mantissa: u32,
    /// A half of exponent field e times the mantissa is y · 2^(exponent − e) sixteenths.
    exponent: u32,
    /// Exponent fields above this one go through floats.
    largest: u32,
    qmax: i32,
}

/// Sixteenths on either side of a step between two integers in which rounding could matter: below 2²⁴, where every quantiser
/// clamps, 16 for the bits that the mantissa lacks, 1 for those that are cut off, ½ each for the f32 product's and sum's
/// rounding, and 16 more below a step of a negative sum, whose cut to an integer is upwards.
const DOUBT: u32 = 40;

impl Rule {
    fn new(quantiser: Quantiser) -> Option<Self> {
        let Quantiser::Plain { scale, qmax } = quantiser else { return None };
        let bits = scale.to_bits();
        let biased = bits >> 23;
        // Positive; below 2^20, so that subnormal halves are zeros; large enough for one to be another number.
        if !(127..147).contains(&biased) || qmax > 4095 {
            return None;
        }
        let exponent = 168 - biased;
        Some(Self {
            quantiser,
            mantissa: (bits >> 3 & 0x000f_ffff) | 0x0010_0000,
            exponent,
            largest: (exponent - 2).min(30),
            qmax,
        })
    }

    #[inline(always)]
    fn quantise(&self, value: f16) -> i16 {
        let bits = u32::from(value.to_bits());
        let field = bits >> 10 & 31;
        if field.wrapping_sub(1) >= self.largest {
            return if field == 0 { 0 } else { self.exactly(value) };
        }
        let shift = self.exponent - field;
        let product = ((bits & 0x03ff) | 0x0400) * self.mantissa;
        let sixteenths = if shift < 32 { (product >> shift) as i32 } else { 0 };
        let sum = if bits & 0x8000 == 0 { 2048 + sixteenths } else { 2048 - sixteenths };
        if (sum as u32).wrapping_add(DOUBT) & 4095 < 2 * DOUBT {
            return self.exactly(value);
        }
        (sum >> 12).clamp(-self.qmax - 1, self.qmax) as i16
    }

    #[cold]
    #[inline(never)]
    fn exactly(&self, value: f16) -> i16 {
        self.quantiser.quantise(crate::f16::to_f32(value))
    }
}
