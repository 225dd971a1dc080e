//! What the cores' loops that feed do, in Rust, for tests on a computer: the same fixed-point numbers, the same doubts.

use super::feed::Stretch;
use super::feed_rule::{Rule, Shared, Stored};
use crate::quant::{Quantiser, clamp, silu_fixed};

/// In place of a core's loop.
pub(super) struct Loop<'s> {
    shared: &'s Shared,
}

impl<'s> Loop<'s> {
    pub(super) fn new(shared: &'s Shared) -> Self {
        Self { shared }
    }

    /// There is nothing to prepare.
    pub(super) fn set(&mut self, _: &Rule) {}

    /// Quantises what a stretch names.
    pub(super) fn run(&mut self, rule: &Rule, bytes: &[u8], row: &mut [i16], stretch: &Stretch) {
        for (run, at) in (0..stretch.runs).flat_map(|run| (0..stretch.count).map(move |at| (run, at))) {
            let from = &bytes[stretch.from + run * stretch.from_next + at * stretch.step..];
            let bits = match self.shared.stored {
                Stored::Halves => u16::from_le_bytes([from[0], from[1]]).into(),
                Stored::Bytes => from[0].into(),
            };
            row[stretch.to + run * stretch.to_next + 2 * at] =
                integer(rule, self.shared, bits).unwrap_or_else(|| rule.exactly(self.shared.stored, bits));
        }
    }
}

/// Mantissa, at most 11 bits, field, at most 20, and sign; `None` for what only floats can take.
fn parts(stored: Stored, bits: u32) -> Option<(u32, u32, bool)> {
    let (field, negative) = (bits >> 10 & 31, bits & 0x8000 != 0);
    match stored {
        Stored::Bytes => Some(((bits as i8).unsigned_abs().into(), 20, (bits as i8) < 0)),
        Stored::Halves if field == 0 => Some((bits & 0x03ff, 1, negative)),
        Stored::Halves if field > 20 => None,
        Stored::Halves => Some(((bits & 0x03ff) | 0x0400, field, negative)),
    }
}

/// The quantised number, when it is the same anywhere near.
fn integer(rule: &Rule, shared: &Shared, bits: u32) -> Option<i16> {
    let (mantissa, field, negative) = parts(shared.stored, bits)?;
    let product = times(rule.factor, mantissa, field) as i32;
    let value = rule.offset + if negative == rule.negative { product } else { -product };
    // The quantiser's cut to an integer is towards zero.
    let value = value + if value < 0 { 1 << shared.fraction } else { 0 };
    let doubt = rule.error + ((value ^ (value >> 31)) as u32 >> shared.slack);
    if (value as u32).wrapping_add(doubt) & shared.mask < 2 * doubt {
        return None;
    }
    Some(match shared.quantiser {
        Quantiser::Silu { multiplier, qmax } => {
            let product = silu_fixed(value >> shared.fraction).wrapping_mul(multiplier);
            clamp(product.wrapping_add(1 << 15) >> 16, qmax)
        }
        Quantiser::Plain { qmax, .. } => clamp(value >> (shared.fraction + 8), qmax),
    })
}

/// ⌊factor · mantissa / 2^(32 − field)⌋ for a mantissa of 11 bits and a field up to 20, as the M3 has it.
fn times(factor: u32, mantissa: u32, field: u32) -> u32 {
    ((u64::from(factor) * u64::from(mantissa << field)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;

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
            let shared = Shared::new(Stored::Halves, quantiser, affine.map_or(1.0, |(a, _)| a.abs())).unwrap();
            let rule = Rule::new(&shared, None, affine);
            let mut exactly = 0;
            for bits in 0..=u16::MAX {
                let half = half::f16::from_bits(bits);
                if let Some(got) = integer(&rule, &shared, bits.into()) {
                    let want = rule.exactly(Stored::Halves, bits.into());
                    assert_eq!(got, want, "{half} · {affine:?}, {quantiser:?}");
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
            let factor = stream.next_u32() >> (1 + stream.below(16));
            let (mantissa, field) = (stream.below(2048), stream.below(21));
            let (upper, lower) = (factor >> 16, factor & 0xffff);
            let in_halves = (((mantissa * upper) << 4) + ((mantissa * lower) >> 12)) >> (20 - field);
            assert_eq!(times(factor, mantissa, field), in_halves);
        }
    }
}
