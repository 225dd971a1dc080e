//! Sums of halves and of their squares, rounded after every addition as f32 is, in integers.

use half::f16;

/// sum += v and squares += v · v for every value, in order.
pub(super) fn collect<'v>(values: impl Iterator<Item = &'v f16> + Clone, [sum, squares]: &mut [f32; 2]) {
    *sum = match integer_sum(*sum, values.clone()) {
        Some(sum) => sum,
        None => values.clone().fold(*sum, |sum, value| sum + crate::f16::to_f32(*value)),
    };
    *squares = add_squares(*squares, values);
}

/// Halves are multiples of 2⁻²⁴, and so is what they round to when they are added: the sum in that unit. `None` for what
/// does not fit, and for a sum that is no such multiple.
fn integer_sum<'v>(sum: f32, values: impl Iterator<Item = &'v f16>) -> Option<f32> {
    let mut units = to_units(sum)?;
    for value in values {
        let bits = u32::from(value.to_bits());
        let field = bits >> 10 & 31;
        if field > 20 {
            return None;
        }
        let magnitude = if field == 0 { bits & 0x03ff } else { ((bits & 0x03ff) | 0x0400) << (field - 1) } as i32;
        units = units.checked_add(if bits & 0x8000 == 0 { magnitude } else { -magnitude })?;
        units = round_to_24_bits(units)?;
    }
    // Exact: no more than 24 bits; 24 less of the exponent divide by 2²⁴.
    Some(if units == 0 { 0.0 } else { f32::from_bits((units as f32).to_bits() - (24 << 23)) })
}

/// x · 2²⁴, when that is an integer below 2³¹.
fn to_units(x: f32) -> Option<i32> {
    let bits = x.to_bits();
    let (mantissa, exponent) = (((bits & 0x007f_ffff) | 0x0080_0000) as i32, (bits >> 23 & 255) as i32 - 126);
    let magnitude = match exponent {
        0..=7 => mantissa.checked_shl(exponent as u32).filter(|magnitude| *magnitude > 0)?,
        -23..0 if mantissa & ((1 << -exponent) - 1) == 0 => mantissa >> -exponent,
        -126 if bits == 0 => 0,
        _ => return None,
    };
    Some(if bits >> 31 != 0 { -magnitude } else { magnitude })
}

/// To nearest, ties to even, with 24 significant bits.
#[inline(always)]
fn round_to_24_bits(units: i32) -> Option<i32> {
    // Of a negative power of two one bit less is counted: it is exact whatever the shift.
    let zeros = ((units ^ (units >> 31)) as u32).leading_zeros();
    if zeros >= 8 {
        return Some(units);
    }
    let shift = 8 - zeros;
    let half = (1 << (shift - 1)) - 1 + (units >> shift & 1);
    Some((units.checked_add(half)? >> shift) << shift)
}

/// squares + Σ v · v, rounded after every addition; the squares themselves are exact.
fn add_squares<'v>(squares: f32, values: impl Iterator<Item = &'v f16>) -> f32 {
    let mut total = squares.to_bits();
    for value in values {
        let bits = u32::from(value.to_bits());
        let field = bits >> 10 & 31;
        // Zero, subnormal, infinite or NaN; or a total that is no normal number, or near the end of them.
        if field.wrapping_sub(1) >= 30 || total.wrapping_sub(0x0080_0000) >= 0x7e00_0000 {
            let value = crate::f16::to_f32(*value);
            total = (f32::from_bits(total) + value * value).to_bits();
            continue;
        }
        let mantissa = (bits & 0x03ff) | 0x0400;
        // 2²⁰ or more, below 2²²: the leading bit goes to bit 23, where it raises the exponent.
        let square = mantissa * mantissa;
        let low = u32::from(square >> 21 == 0);
        let square = (square << (2 + low)) + ((2 * field + 97 - low) << 23);
        total = add_positive(total, square);
    }
    f32::from_bits(total)
}

/// a + b of the bits of two normal positive numbers whose sum is one as well.
#[inline(always)]
pub(super) fn add_positive(a: u32, b: u32) -> u32 {
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    let distance = (large >> 23) - (small >> 23);
    if distance > 25 {
        return large;
    }
    let mantissa = |bits: u32| ((bits & 0x007f_ffff) | 0x0080_0000) << 7;
    let (above, below) = (mantissa(large), mantissa(small));
    let shifted = below >> distance;
    let lost = u32::from(shifted << distance != below);
    let sum = (above + shifted) | lost;
    let shift = 7 + (sum >> 31);
    let rounded = (sum + (1 << (shift - 1)) - 1 + (sum >> shift & 1)) >> shift;
    // The leading bit of the mantissa raises the exponent by one.
    rounded + (((large >> 23) + shift - 8) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;

    #[test]
    fn sums_and_squares_are_those_of_floats() {
        let mut stream = NoiseStream::new(34, 0);
        let mut in_integers = 0;
        for index in 0..300_000u32 {
            let mut values = [f16::ZERO; 8];
            let mask = [0xffff, 0xbfff, 0xb7ff, 0xc3ff][index as usize % 4];
            let set = [0, 0x2000, 0x3000, 0x0000][index as usize % 4];
            values.iter_mut().for_each(|v| *v = f16::from_bits(stream.next_u32() as u16 & mask | set));
            let mut start = [0.0, 0.0];
            if index % 3 > 0 {
                // What rows before have left, and anything at all.
                let scale = [0.0, 1.0, 1e3][index as usize % 3];
                start = [scale * stream.next_gaussian(), scale * stream.next_gaussian().abs()];
            }
            if index % 3 == 1 {
                start[0] = (start[0] * 4096.0).trunc() / 4096.0;
            }
            let mut want = start;
            for value in values {
                let value = crate::f16::to_f32(value);
                want[0] += value;
                want[1] += value * value;
            }
            let mut got = start;
            collect(values.iter(), &mut got);
            in_integers += u32::from(integer_sum(start[0], values.iter()).is_some());
            let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same(got[0], want[0]) && same(got[1], want[1]), "{start:?} {values:?}: {got:?}, not {want:?}");
        }
        assert!(in_integers > 50_000, "{in_integers}");
    }

    #[test]
    fn positive_numbers_add_as_floats_do() {
        let mut stream = NoiseStream::new(35, 0);
        for index in 0..3_000_000u32 {
            let a = (100 + stream.below(30)) << 23 | stream.next_u32() >> 9;
            // Near ties too: few bits in one of the two.
            let mask = if index % 2 == 0 { u32::MAX } else { 0xfff8_0000 };
            let b = ((100 + stream.below(30)) << 23 | stream.next_u32() >> 9) & mask;
            let want = f32::from_bits(a) + f32::from_bits(b);
            assert_eq!(add_positive(a, b), want.to_bits(), "{a:08x} {b:08x}");
        }
    }
}
