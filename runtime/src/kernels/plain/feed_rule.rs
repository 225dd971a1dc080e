//! What a channel's values go through in fixed point on their way to the quantiser, and how far that may lie from floats.

use half::f16;

use crate::quant::Quantiser;

/// What a source holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// f16.
    Halves,
    /// Integers of 8 bits, in units.
    Bytes,
}

impl Stored {
    /// Bytes of an element.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Halves => 2,
            Self::Bytes => 1,
        }
    }

    /// A mantissa m, field e and factor A · 2^(point + fraction) have the product m · A · 2^(e − 32 + fraction).
    const fn point(self) -> i32 {
        match self {
            Self::Halves => 7,
            Self::Bytes => 12,
        }
    }
}

/// What all channels of a row share.
pub(super) struct Shared {
    pub(super) stored: Stored,
    pub(super) quantiser: Quantiser,
    /// Bits of a fixed-point number behind the point, 2..=14.
    pub(super) fraction: u32,
    /// What is below a step of the quantiser.
    pub(super) mask: u32,
    /// The definition's roundings are off by 2^−slack of the value, all together.
    pub(super) slack: u32,
}

impl Shared {
    /// For factors up to `largest`.
    pub(super) fn new(stored: Stored, quantiser: Quantiser, largest: f32) -> Option<Self> {
        // Products and sums are each off by 2⁻²⁴ of themselves: two of them in front of a SiLU; at most five in front of a
        // plain quantiser, and two in this rule's factor.
        let (scale, step_bits, slack, most) = match quantiser {
            Quantiser::Plain { scale, .. } => (scale, 8, 21, PLAIN_FRACTION),
            Quantiser::Silu { .. } => (1.0, 0, SILU_SLACK, 14),
        };
        let exponent = ((largest * scale).to_bits() >> 23 & 255) as i32 - 127;
        // A factor has 31 bits.
        let fraction = (30 - stored.point() - exponent).min(most);
        if fraction < 2 {
            return None;
        }
        let mask = (1 << (fraction as u32 + step_bits)) - 1;
        Some(Self { stored, quantiser, fraction: fraction as u32, mask, slack })
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
    /// |factor| · 2^(point + fraction), below 2³¹.
    pub(super) factor: u32,
    pub(super) negative: bool,
    pub(super) offset: i32,
    /// Units by which offset and product may be wrong.
    pub(super) error: u32,
}

impl Rule {
    pub(super) fn new(shared: &Shared, unit: Option<f32>, affine: Option<(f32, f32)>) -> Self {
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
        let magnitude = fixed(factor, shared.stored.point() + shared.fraction as i32);
        let fits = units.is_some() && magnitude.is_some();
        let units = units.unwrap_or(0) as i32;
        Self {
            quantiser: shared.quantiser,
            unit: unit.unwrap_or(1.0),
            affine,
            factor: magnitude.unwrap_or(0),
            negative: is_negative(factor),
            offset: if is_negative(offset) { -units } else { units },
            // The product, the factor and the offset are cut off, and what is added to be cut off is rounded; what does not
            // fit is always in doubt.
            error: if fits { 6 + (units as u32 >> shared.slack) } else { 1 << 22 },
        }
    }

    /// Whether a half is only multiplied by the quantiser's scale: two roundings, none of them of the factor.
    pub(super) fn is_scale(&self) -> bool {
        self.affine.is_none() && self.unit == 1.0
    }

    /// The definition, for an element's bits.
    #[cold]
    #[inline(never)]
    pub(super) fn exactly(&self, stored: Stored, bits: u32) -> i16 {
        let value = match stored {
            Stored::Halves => crate::f16::to_f32(f16::from_bits(bits as u16)),
            Stored::Bytes => f32::from(bits as i8) * self.unit,
        };
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
