//! Sums of products without calls of soft floats: f32 times f16, rounded, and added, rounded, in integers.
//!
//! A soft float's multiplication and addition look at every kind of number; between normal numbers half of that is enough.

use half::f16;

use super::statistics::add_positive;

/// sum += x · y, each rounded, of up to `count` numbers that lie steps apart; returns how many: all.
pub(super) fn add_all(
    sum: &mut f32,
    (x, x_step): (&[f32], usize),
    (y, y_step): (&[f16], usize),
    count: usize,
) -> usize {
    let (mut bits, mut at) = (sum.to_bits(), (0, 0));
    for _ in 0..count {
        bits = add_product(bits, x[at.0].to_bits(), y[at.1]);
        at = (at.0 + x_step, at.1 + y_step);
    }
    *sum = f32::from_bits(bits);
    count
}

/// a + b.
pub(super) fn plus(a: f32, b: f32) -> f32 {
    f32::from_bits(add(a.to_bits(), b.to_bits()))
}

/// The bits of sum + x · y, each rounded.
#[inline(always)]
fn add_product(sum: u32, x: u32, y: f16) -> u32 {
    let half = u32::from(y.to_bits());
    let (exponent, field) = (x >> 23 & 255, half >> 10 & 31);
    // Normal numbers only; exponents far from both ends, so that the product is one as well.
    if exponent.wrapping_sub(32) >= 190 || field.wrapping_sub(1) >= 30 {
        return exactly(sum, x, y);
    }
    let (mantissa, factor) = ((x & 0x007f_ffff) | 0x0080_0000, (half & 0x03ff) | 0x0400);
    // 34 or 35 bits, without the last four, of which remains whether one is set.
    let (upper, lower) = ((mantissa >> 12) * factor, (mantissa & 0x0fff) * factor);
    let product = ((upper << 8) + (lower >> 4)) | u32::from(lower & 15 != 0);
    let shift = 6 + (product >> 30);
    let rounded = (product + (1 << (shift - 1)) - 1 + (product >> shift & 1)) >> shift;
    let magnitude = rounded + ((exponent + field + shift - 22) << 23);
    add(sum, magnitude | ((x ^ half << 16) & 0x8000_0000))
}

/// The bits of a + b.
#[inline(always)]
fn add(a: u32, b: u32) -> u32 {
    let (larger, smaller) = if a & 0x7fff_ffff > b & 0x7fff_ffff { (a, b) } else { (b, a) };
    let magnitudes = (larger & 0x7fff_ffff, smaller & 0x7fff_ffff);
    // The smaller one is normal, and the difference of the two is, too, or 0; nothing becomes infinite.
    if magnitudes.1 < 32 << 23 || magnitudes.0 >= 250 << 23 {
        return if smaller == 0 && larger != 0x8000_0000 { larger } else { add_exactly(a, b) };
    }
    let sign = larger & 0x8000_0000;
    if (larger ^ smaller) & 0x8000_0000 == 0 {
        return sign | add_positive(magnitudes.0, magnitudes.1);
    }
    sign_of(subtract(magnitudes.0, magnitudes.1), sign)
}

/// A difference with a sign; zero has none.
#[inline(always)]
fn sign_of(magnitude: u32, sign: u32) -> u32 {
    if magnitude == 0 { 0 } else { magnitude | sign }
}

/// a − b of the bits of two normal positive numbers of which b is not the larger one.
#[inline(always)]
fn subtract(a: u32, b: u32) -> u32 {
    let distance = (a >> 23) - (b >> 23);
    if distance > 25 {
        return a;
    }
    let mantissa = |bits: u32| ((bits & 0x007f_ffff) | 0x0080_0000) << 7;
    let (above, below) = (mantissa(a), mantissa(b));
    let shifted = below >> distance;
    let lost = u32::from(shifted << distance != below);
    // What is lost makes the difference smaller: an odd last bit stands for it.
    let difference = (above - shifted - lost) | lost;
    if difference == 0 {
        return 0;
    }
    let zeros = difference.leading_zeros() - 1;
    let normal = difference << zeros;
    let rounded = (normal + 63 + (normal >> 7 & 1)) >> 7;
    rounded + (((a >> 23) - zeros - 1) << 23)
}

#[cold]
#[inline(never)]
fn exactly(sum: u32, x: u32, y: f16) -> u32 {
    (f32::from_bits(sum) + f32::from_bits(x) * crate::f16::to_f32(y)).to_bits()
}

#[cold]
#[inline(never)]
fn add_exactly(a: u32, b: u32) -> u32 {
    (f32::from_bits(a) + f32::from_bits(b)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::NoiseStream;

    fn same(got: u32, want: f32) -> bool {
        got == want.to_bits() || want.is_nan() && f32::from_bits(got).is_nan()
    }

    #[test]
    fn sums_and_products_are_those_of_floats() {
        let mut stream = NoiseStream::new(38, 0);
        for index in 0..6_000_000u32 {
            // Near each other, so that they cancel; with few bits, so that there are ties; and anything.
            let mask = [u32::MAX, 0xfff0_0000, 0xffff_ff00][index as usize % 3];
            let mut float = || {
                let exponent = if index.is_multiple_of(64) { stream.below(256) } else { 120 + stream.below(12) };
                (stream.next_u32() & 0x807f_ffff | exponent << 23) & mask
            };
            let (a, b, x) = (float(), float(), float());
            let want = f32::from_bits(a) + f32::from_bits(b);
            assert!(same(add(a, b), want), "{a:08x} + {b:08x}");
            let half = if index.is_multiple_of(16) { 0xffff } else { 0xbfff };
            let y = f16::from_bits(stream.next_u32() as u16 & half);
            let want = f32::from_bits(a) + f32::from_bits(x) * crate::f16::to_f32(y);
            assert!(same(add_product(a, x, y), want), "{a:08x} + {x:08x} · {y}");
            let near = -(f32::from_bits(x) * crate::f16::to_f32(y));
            let near = near.to_bits().wrapping_add(stream.below(5)).wrapping_sub(2);
            let want = f32::from_bits(near) + f32::from_bits(x) * crate::f16::to_f32(y);
            assert!(same(add_product(near, x, y), want), "{near:08x} + {x:08x} · {y}");
        }
    }
}
