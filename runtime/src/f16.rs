//! binary16 to f32 and back in integer arithmetic: short, inlined, and the same on every core.
//!
//! [`half::f16`] is the storage type; its own conversions are calls on the chips and run-time feature tests on the host.
//! These agree with them on every value (tests below).

use half::f16;

/// Exact.
#[inline]
#[must_use]
pub fn to_f32(h: f16) -> f32 {
    let bits = u32::from(h.to_bits());
    let magnitude = bits & 0x7fff;
    let rebased = (magnitude << 13) + (112 << 23);
    let magnitude = if magnitude < 0x0400 {
        // Zero or subnormal: magnitude · 2⁻²⁴, exact.
        (magnitude as f32 * 5.960_464_5e-8).to_bits()
    } else if magnitude < 0x7c00 {
        rebased
    } else {
        rebased + (112 << 23)
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// Nearest, ties to even; above 65,504 infinity, NaN stays NaN.
#[inline]
#[must_use]
pub fn from_f32(x: f32) -> f16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude < 0x3880_0000 {
        // Below 2⁻¹⁴: adding 0.5 rounds to the subnormal grid of 2⁻²⁴ in the sum's low bits.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000
    } else if magnitude < 0x4780_0000 {
        // A carry out of the mantissa rightly raises the exponent, up to infinity.
        (magnitude - (112 << 23) + 0x0fff + (magnitude >> 13 & 1)) >> 13
    } else if magnitude <= 0x7f80_0000 {
        0x7c00
    } else {
        0x7e00
    };
    f16::from_bits(half as u16 | (bits >> 16 & 0x8000) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_agrees_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let h = f16::from_bits(bits);
            if h.is_nan() {
                assert!(to_f32(h).is_nan());
                continue;
            }
            assert_eq!(to_f32(h).to_bits(), h.to_f32().to_bits(), "{bits:04x}");
            assert_eq!(from_f32(h.to_f32()), h, "{bits:04x}");
        }
    }

    #[test]
    fn rounding_agrees_with_the_half_crate() {
        // Every half, every midpoint between two halves, and one step of f32 to either side; then a walk over all exponents.
        for bits in 0..0x7c00u16 {
            let low = f16::from_bits(bits).to_f32();
            let high = if bits == 0x7bff { 65536.0 } else { f16::from_bits(bits + 1).to_f32() };
            let middle = (low + high) / 2.0;
            for x in [low, middle, middle.next_up(), middle.next_down(), high.next_down()] {
                assert_eq!(from_f32(x), f16::from_f32(x), "{x}");
                assert_eq!(from_f32(-x), f16::from_f32(-x), "{x}");
            }
        }
        for bits in (0..=u32::MAX).step_by(4093) {
            let x = f32::from_bits(bits);
            assert!(x.is_nan() && from_f32(x).is_nan() || from_f32(x) == f16::from_f32(x), "{x}");
        }
    }
}
