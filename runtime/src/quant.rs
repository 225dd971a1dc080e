//! Real numbers to small integers: one rule for values as they are, one with a SiLU in front, in integer arithmetic.

/// Fraction bits of the numbers in front of a SiLU: inputs arrive times 2¹².
pub const SILU_FRACTION_BITS: u32 = 12;

/// Turns f32 values into integers in −(qmax + 1)..=qmax.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantiser {
    /// round(x · inv_scale), to nearest up to 1/256 of a step.
    Plain {
        /// 256 · inv_scale.
        scale: f32,
        /// qmax; qmax + 1 is a power of two.
        qmax: i32,
    },
    /// round(SiLU(x) · inv_scale) of an x that comes times 2¹².
    Silu {
        /// 16 · inv_scale, below 8192.
        multiplier: i32,
        /// qmax; qmax + 1 is a power of two.
        qmax: i32,
    },
}

impl Quantiser {
    /// For `inv_scale`, which behind a SiLU is a multiple of 1/16 below 512.
    #[must_use]
    pub fn new(silu: bool, inv_scale: f32, qmax: u16) -> Self {
        let qmax = qmax.into();
        if silu {
            Self::Silu { multiplier: (inv_scale * 16.0) as i32, qmax }
        } else {
            Self::Plain { scale: inv_scale * 256.0, qmax }
        }
    }

    /// The rule; NaN counts as 0.
    #[inline]
    #[must_use]
    pub fn quantise(self, x: f32) -> i16 {
        match self {
            Self::Plain { scale, qmax } => clamp(((x * scale + 128.0) as i32) >> 8, qmax),
            Self::Silu { multiplier, qmax } => {
                clamp((silu_fixed(x as i32).wrapping_mul(multiplier).wrapping_add(1 << 15)) >> 16, qmax)
            }
        }
    }
}

#[inline]
pub(crate) fn clamp(value: i32, qmax: i32) -> i16 {
    value.clamp(-qmax - 1, qmax) as i16
}

/// SiLU(x) of an x with 12 fraction bits, limited to ±32: max(x, 0) − h(|x|), h(z) = z / (1 + e^z) from [`SILU_TABLE`] with
/// linear interpolation. Within 3/4096 of the true value.
#[inline]
#[must_use]
pub fn silu_fixed(x: i32) -> i32 {
    let x = x.clamp(-(1 << 17), (1 << 17) - 1);
    let sign = x >> 31;
    let magnitude = (x ^ sign).min(0xffff);
    let entry = SILU_TABLE[(magnitude >> 7) as usize & 511];
    let (base, delta) = (entry >> 16, i32::from(entry as i16));
    let h = base + ((delta * (magnitude & 127)) >> 7);
    (x & !sign) - h
}

/// h(z) = z / (1 + e^z) at z = i/32: the value with 12 fraction bits in the upper half of a word, the difference to the next
/// value in the lower half.
pub static SILU_TABLE: [i32; 512] = silu_table();

const fn silu_table() -> [i32; 512] {
    let mut table = [0; 512];
    let mut i = 0;
    let mut now = 0;
    // e^(i/32), by repeated multiplication: relative error below 1e-13 at the end.
    let mut power = 1.0f64;
    while i < 512 {
        power *= 1.031_743_407_499_102_7;
        let z = (i + 1) as f64 / 32.0;
        let next = (z / (1.0 + power) * 4096.0 + 0.5) as i32;
        table[i] = (now << 16) | ((next - now) & 0xffff);
        now = next;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_rounding_and_clamping() {
        for i in -40_000..=40_000 {
            // No ties, and none so close to one that 1/256 of a step matters.
            let x = (i as f32 + 0.25) / 16.0;
            for qmax in [127u16, 2047] {
                let want = x.round().clamp(-f32::from(qmax) - 1.0, qmax.into()) as i16;
                assert_eq!(Quantiser::new(false, 1.0, qmax).quantise(x), want, "{x}");
            }
        }
        let plain = Quantiser::new(false, 1.0, 127);
        assert_eq!(plain.quantise(f32::NAN), 0);
        assert_eq!(plain.quantise(f32::INFINITY), 127);
        assert_eq!(plain.quantise(f32::NEG_INFINITY), -128);
        assert_eq!(plain.quantise(-3.5), -3, "the 128 that is added moves ties upwards");
    }

    #[test]
    fn silu_is_close_to_the_real_one_everywhere() {
        for x in -(20 << 12)..(20 << 12) {
            let real = f64::from(x) / 4096.0;
            let want = real / (1.0 + (-real).exp()) * 4096.0;
            // Interpolation 1/4, the table's two roundings 1/2 each, the shift 1, ones' complement 1/2.
            assert!((f64::from(silu_fixed(x)) - want).abs() <= 3.0, "{real}");
        }
        assert_eq!(silu_fixed(0), 0);
        assert_eq!(silu_fixed(i32::MAX), (1 << 17) - 1);
        assert_eq!(silu_fixed(i32::MIN), 0);
    }

    #[test]
    fn silu_is_scaled_rounded_and_clamped() {
        let rule = Quantiser::new(true, 85.25, 511);
        for i in -4000..4000 {
            let x = i as f32 / 256.0;
            let want = f64::from(silu_fixed((x * 4096.0) as i32)) / 4096.0 * 85.25;
            let want = (want + 0.5).floor().clamp(-512.0, 511.0) as i16;
            assert_eq!(rule.quantise(x * 4096.0), want, "{x}");
        }
    }
}
