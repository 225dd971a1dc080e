//! From sums to f16 without floats: the value is taken in fixed point, with a bound of how far the definition's three
//! roundings may lie from it; only where a step between two halves lies within that bound do floats decide.

use half::f16;

use super::statistics;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Finish, Residual};

/// As [`portable::finish`](crate::kernels::portable::finish).
pub fn finish(block: &Finish<'_>, residual: Residual<'_>, out: &mut [f16], sums: &mut [f32]) -> bool {
    let (pixels, pitch) = (block.pixels.min(BLOCK_PIXELS), block.pitch.max(1));
    let reach = (pixels.saturating_sub(1)) * pitch + block.scale.len();
    if pixels == 0 || out.len() < reach || matches!(residual, Residual::Elsewhere(values) if values.len() < reach) {
        return false;
    }
    let mut statistics = sums.as_chunks_mut().0.iter_mut();
    let constants = block.scale.iter().zip(block.bias).zip(block.acc.as_chunks::<BLOCK_PIXELS>().0);
    for (channel, ((scale, bias), acc)) in constants.enumerate() {
        let rule = Epilogue::new(f32::from_le_bytes(*scale), *bias);
        let out = &mut out[channel..];
        let residual = match residual {
            Residual::Elsewhere(values) => Residual::Elsewhere(&values[channel..]),
            other => other,
        };
        let mut done = 0;
        while done < pixels {
            done += rule.fill(&acc[done..pixels], residual, done * pitch, pitch, out);
            if done < pixels {
                let at = done * pitch;
                out[at] = rule.exactly(acc[done], before(residual, at, out));
                done += 1;
            }
        }
        if let Some(pair) = statistics.next() {
            statistics::collect(out.iter().step_by(pitch).take(pixels), pair);
        }
    }
    true
}

/// The residual of an element.
#[inline(always)]
fn before(residual: Residual<'_>, at: usize, out: &[f16]) -> Option<f16> {
    match residual {
        Residual::None => None,
        Residual::Elsewhere(values) => Some(values[at]),
        Residual::InPlace => Some(out[at]),
    }
}

/// Sums at or above this one, or below its negative, go through floats.
#[cfg(test)]
const ACC_LIMIT: i32 = 1 << 21;

/// Scale and bias of a channel, taken apart. Values are counted in units of 2^−fraction, in which every sum below 2²¹
/// times the scale lies below 2³⁰.
struct Epilogue {
    units: Units,
    scale: f32,
    bias: f32,
}

/// What the loops read, in their order.
#[repr(C)]
pub(super) struct Units {
    factor: Factor,
    bias: i32,
    /// Magnitudes below this one go through floats; all do when it is `u32::MAX`.
    least: u32,
    /// 45 − fraction.
    exponent: u32,
    /// Half the units by which the fixed-point value may be wrong, with what the definition's roundings add for the bias.
    error: u32,
}

impl Epilogue {
    fn new(scale: f32, bias: f32) -> Self {
        let (mantissa, scale_exponent) = parts(scale);
        // Of the units, and of the bias in them; below 16 a value may be infinite as a half.
        let fraction = 8 - scale_exponent;
        let (bias_mantissa, bias_exponent) = parts(bias);
        let shift = bias_exponent - 23 + fraction;
        let fits = (16..=38).contains(&fraction) && shift <= 4 && scale.to_bits() >> 31 == 0;
        let magnitude = match shift {
            0..=4 => bias_mantissa << shift,
            -31..0 => bias_mantissa >> -shift,
            _ => 0,
        };
        // One for the product, one for the bias, one for a residual, each cut off; one for what is below a unit.
        let error = 3 + (magnitude >> 25);
        // Below that everything is in doubt, or a half is subnormal.
        let least = (error << 14).max(1 << ((fraction - 14).max(0) & 31));
        let units = Units {
            factor: Factor::new(mantissa),
            bias: if bias.to_bits() >> 31 != 0 { -(magnitude as i32) } else { magnitude as i32 },
            least: if fits { least } else { u32::MAX },
            exponent: (45 - fraction) as u32,
            error,
        };
        Self { units, scale, bias }
    }

    /// Stores elements every `pitch` until one is in doubt; returns how many were.
    #[cfg(test)]
    fn fill(&self, acc: &[i32], residual: Residual<'_>, first: usize, pitch: usize, out: &mut [f16]) -> usize {
        for (done, acc) in acc.iter().enumerate() {
            let at = first + done * pitch;
            match self.units.round(*acc, before(residual, at, out)) {
                Some(half) => out[at] = half,
                None => return done,
            }
        }
        acc.len()
    }

    /// Stores elements every `pitch` until one is in doubt; returns how many were.
    #[cfg(not(test))]
    fn fill(&self, acc: &[i32], residual: Residual<'_>, first: usize, pitch: usize, out: &mut [f16]) -> usize {
        let Some(out) = out.get_mut(first..) else { return 0 };
        debug_assert!((acc.len() - 1) * pitch < out.len());
        let (function, residual): (super::FinishLoop, usize) = match residual {
            Residual::None => (super::picodream_plain_finish, 0),
            Residual::InPlace => (super::picodream_plain_finish_residual, 0),
            Residual::Elsewhere(values) => {
                let from = values[first..].as_ptr() as usize;
                (super::picodream_plain_finish_residual, from.wrapping_sub(out.as_ptr() as usize))
            }
        };
        // SAFETY: the loop reads acc.len() sums and residuals and writes as many outputs, every `pitch` from `first` on: the
        // caller has checked that both slices reach that far.
        let left = unsafe { function(acc.as_ptr(), out.as_mut_ptr(), acc.len(), 2 * pitch, &self.units, residual) };
        acc.len() - left
    }

    /// The definition.
    #[cold]
    #[inline(never)]
    fn exactly(&self, acc: i32, residual: Option<f16>) -> f16 {
        let value = acc as f32 * self.scale + self.bias;
        crate::f16::from_f32(residual.map_or(value, |residual| value + crate::f16::to_f32(residual)))
    }
}

#[cfg(test)]
impl Units {
    /// f16((acc · scale + bias) + residual), unless it is in doubt.
    #[inline(always)]
    fn round(&self, acc: i32, residual: Option<f16>) -> Option<f16> {
        if acc.wrapping_add(ACC_LIMIT) as u32 >= 2 * ACC_LIMIT as u32 {
            return None;
        }
        let units = self.factor.times(acc) + self.bias;
        let Some(residual) = residual else { return self.nearest(units, self.error) };
        let bits = u32::from(residual.to_bits());
        // A half of field e and mantissa m is m · 2^(e − 25 + fraction) units, below 2²⁹ of them.
        let shift = self.exponent.wrapping_sub(2).wrapping_sub(bits >> 10 & 31);
        if shift > 31 || bits & 0x7c00 == 0 {
            return None;
        }
        let magnitude = (((bits & 0x03ff) | 0x0400) << 18) >> shift;
        let units = units + if bits & 0x8000 == 0 { magnitude as i32 } else { -(magnitude as i32) };
        self.nearest(units, self.error + (magnitude >> 24))
    }

    /// The half nearest to `units`, when it is the same 2 · `error` units and the definition's roundings away.
    ///
    /// With p = acc · scale, q = p + bias and r = q + residual, each rounded, the three are off by 2⁻²⁴ of themselves at most:
    /// together by 2⁻²⁴ · (3 · |r| + 2 · |residual| + |bias|).
    #[inline(always)]
    fn nearest(&self, units: i32, error: u32) -> Option<f16> {
        let magnitude = units.unsigned_abs();
        if magnitude < self.least {
            return None;
        }
        let (normal, shift) = normalise(magnitude);
        // 3 · 2⁻²⁴ of less than 2³¹, and some more for what is small of second order.
        let doubt = 512 + (error << (shift + 1));
        let rounded = normal + (1 << 19);
        if (rounded + doubt) & 0x000f_ffff < 2 * doubt {
            return None;
        }
        // The leading bit, and a carry out of the mantissa, raise the exponent.
        let half = (rounded >> 20) + ((self.exponent - 1 - shift) << 10);
        Some(f16::from_bits(half as u16 | (units as u32 >> 16 & 0x8000) as u16))
    }
}

/// Mantissa with its leading bit, and exponent, of a normal number: mantissa · 2^(exponent − 23).
fn parts(x: f32) -> (u32, i32) {
    let bits = x.to_bits();
    ((bits & 0x007f_ffff) | 0x0080_0000, (bits >> 23 & 255) as i32 - 127)
}

/// `magnitude` (2¹⁴ or more, below 2³¹) shifted up to 2³⁰ or more, and by how much.
#[cfg(test)]
fn normalise(magnitude: u32) -> (u32, u32) {
    if cfg!(picodream_baseline) {
        return normalise_without_clz(magnitude);
    }
    let shift = magnitude.leading_zeros() - 1;
    (magnitude << shift, shift)
}

/// As [`normalise`], for cores that do not count zeros.
#[cfg(test)]
fn normalise_without_clz(mut magnitude: u32) -> (u32, u32) {
    let mut shift = 0;
    for step in [16, 8, 4, 2, 1] {
        if magnitude >> (31 - step) == 0 {
            (magnitude, shift) = (magnitude << step, shift + step);
        }
    }
    (magnitude, shift)
}

/// A mantissa of 24 bits as the core multiplies with it.
#[repr(C)]
struct Factor {
    /// The mantissa times 2⁷.
    #[cfg(any(test, not(picodream_baseline)))]
    whole: u32,
    /// 9, 7 and 8 bits.
    #[cfg(any(test, picodream_baseline))]
    pieces: [i32; 3],
}

impl Factor {
    fn new(mantissa: u32) -> Self {
        Self {
            #[cfg(any(test, not(picodream_baseline)))]
            whole: mantissa << 7,
            #[cfg(any(test, picodream_baseline))]
            pieces: [mantissa >> 15, mantissa >> 8 & 127, mantissa & 255].map(|piece| piece as i32),
        }
    }

    /// ⌊mantissa · acc / 2¹⁵⌋ for an `acc` below 2²¹.
    #[cfg(test)]
    fn times(&self, acc: i32) -> i32 {
        ((i64::from(acc << 10) * i64::from(self.whole)) >> 32) as i32
    }

    /// As [`Factor::times`], as cores whose products have 32 bits take it.
    #[cfg(test)]
    fn times_in_pieces(&self, acc: i32) -> i32 {
        let [high, middle, low] = self.pieces;
        acc * high + ((acc * middle + ((acc * low) >> 8)) >> 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;

    /// Scales and biases as networks have them, and beyond.
    fn draw(stream: &mut NoiseStream, index: u32) -> (f32, f32) {
        let mut float = |least: u32, exponents: u32| {
            f32::from_bits((least + stream.below(exponents)) << 23 | stream.next_u32() >> 9)
        };
        let scale = if index.is_multiple_of(8) { float(1, 253) } else { float(105, 12) };
        let bias = if index % 8 == 1 { float(1, 253) } else { float(115, 15) };
        (scale, if index.is_multiple_of(2) { bias } else { -bias })
    }

    /// Holds the loops' value to the definition; whether integers had one.
    fn check(rule: &Epilogue, acc: i32, residual: Option<f16>) -> bool {
        let got = rule.units.round(acc, residual);
        let want = rule.exactly(acc, residual);
        let same = got.is_none_or(|got| got.to_bits() == want.to_bits());
        assert!(same, "{acc} · {:e} + {:e} + {residual:?}: {got:?}, not {want:?}", rule.scale, rule.bias);
        got.is_some()
    }

    #[test]
    fn every_value_is_the_floats_value() {
        let mut stream = NoiseStream::new(31, 0);
        let (mut by_integers, mut usual) = (0, 0);
        for index in 0..40_000 {
            let (scale, bias) = draw(&mut stream, index);
            let rule = Epilogue::new(scale, bias);
            for k in 0..100u32 {
                let acc = stream.next_u32() as i32 >> (stream.below(32));
                let any = stream.next_u32();
                let residual = f16::from_bits(if k % 16 == 0 { any as u16 } else { (any & 0xbfff | 0x2000) as u16 });
                let decided = [None, Some(residual)].map(|residual| check(&rule, acc, residual));
                if index % 8 > 1 && (1 << 14..ACC_LIMIT).contains(&acc.abs()) {
                    usual += 1;
                    by_integers += u32::from(decided[0]);
                }
            }
        }
        // Integers decide nearly everything that networks hold.
        assert!(by_integers > usual / 10 * 9, "{by_integers} of {usual}");
    }

    #[test]
    fn values_next_to_a_step_between_halves_are_the_floats_value() {
        // What lies within the roundings of a midpoint of two halves, for each of many scales.
        let mut stream = NoiseStream::new(32, 0);
        for index in 0..100_000 {
            let (scale, _) = draw(&mut stream, 2 * index + 3);
            let acc = stream.below(1 << 21) as i32;
            let low = f16::from_bits(0x2400 + stream.below(0x3000) as u16);
            let middle = f64::from(low.to_f32() + f16::from_bits(low.to_bits() + 1).to_f32()) / 2.0;
            let bias = (middle - f64::from(acc as f32 * scale)) as f32;
            let residual = f16::from_f32(acc as f32 * scale);
            for bias in [bias, bias.next_up(), bias.next_down(), bias * (1.0 + 3e-7), bias * (1.0 - 3e-7)] {
                let rule = Epilogue::new(scale, bias);
                check(&rule, acc, None);
                check(&rule, -acc, Some(residual));
            }
        }
    }

    #[test]
    fn the_cores_without_long_products_and_counts_of_zeros_agree() {
        let mut stream = NoiseStream::new(33, 0);
        for _ in 0..1_000_000 {
            let factor = Factor::new(stream.next_u32() >> 8 | 0x0080_0000);
            let acc = stream.below(1 << 22) as i32 - (1 << 21);
            assert_eq!(factor.times(acc), factor.times_in_pieces(acc));
            let magnitude = (stream.next_u32() >> (1 + stream.below(17))).max(1 << 14);
            assert_eq!(normalise(magnitude), normalise_without_clz(magnitude));
        }
    }
}
