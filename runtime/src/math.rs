//! Elementary functions in plain f32, with one written order of operations, so that every core computes the same bits.
//!
//! Only IEEE add, subtract, multiply, divide and square root are used, and Rust never fuses them: the FPU cores, the
//! soft-float cores and the host agree. Error bounds are checked against f64 on the host (`tests` below); the contract is
//! written down in `docs/numerics.md`.

use core::f32::consts::{FRAC_PI_2, FRAC_PI_4, LN_2, LOG2_E};

/// Correctly rounded square root.
#[must_use]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Adding and subtracting 1.5 · 2²³ rounds an f32 of magnitude below 2²² to the nearest integer, ties to even.
const ROUND_MAGIC: f32 = 12_582_912.0;

/// Nearest integer, ties to even, for |x| < 2²².
#[must_use]
pub fn round_ties_even(x: f32) -> i32 {
    let biased = (x + ROUND_MAGIC).to_bits() as i32;
    biased - ROUND_MAGIC.to_bits() as i32
}

/// What e^x is computed with; `kernels/dsp/softmax.rs` counts on the order.
#[repr(C)]
pub(crate) struct ExpConstants {
    /// Arguments are limited to ± it.
    limit: f32,
    round: f32,
    log2_e: f32,
    /// 355/512: n · `ln2_hi` is exact.
    ln2_hi: f32,
    ln2_lo: f32,
    /// Cephes expf: degree 5 on |r| ≤ ln2/2, highest power first.
    powers: [f32; 6],
    one: f32,
}

pub(crate) const EXP: ExpConstants = ExpConstants {
    limit: -87.0,
    round: ROUND_MAGIC,
    log2_e: LOG2_E,
    ln2_hi: 0.693_359_4,
    ln2_lo: -2.121_944_4e-4,
    powers: [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
    one: 1.0,
};

/// e^x, relative error below 2e-7; arguments are limited to ±87, so the result is always finite and positive.
#[must_use]
pub fn exp(x: f32) -> f32 {
    let x = if x > EXP.limit { x } else { EXP.limit };
    let x = if x < -EXP.limit { x } else { -EXP.limit };
    let n = round_ties_even(x * EXP.log2_e);
    let nf = n as f32;
    let r = (x - nf * EXP.ln2_hi) - nf * EXP.ln2_lo;
    let p = EXP.powers[0] * r + EXP.powers[1];
    let p = p * r + EXP.powers[2];
    let p = p * r + EXP.powers[3];
    let p = p * r + EXP.powers[4];
    let p = p * r + EXP.powers[5];
    let y = (p * (r * r) + r) + 1.0;
    // |n| ≤ 126, so the scale is a normal number.
    y * f32::from_bits(((n + 127) as u32) << 23)
}

/// x · σ(x) = x / (1 + e^(−x)).
#[must_use]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Natural logarithm of a positive normal number, absolute error below 1e-6 on (0, 1].
#[must_use]
pub fn ln(x: f32) -> f32 {
    // x = m · 2^e with m in [√½, √2): Cephes logf.
    let bits = x.to_bits();
    let mut e = (bits >> 23) as i32 - 126;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000); // [0.5, 1)
    if m < 0.707_106_77 {
        e -= 1;
        m = m + m - 1.0;
    } else {
        m -= 1.0;
    }
    let z = m * m;
    let p = 7.037_683_6e-2 * m - 1.151_461e-1;
    let p = p * m + 1.167_699_9e-1;
    let p = p * m - 1.242_014_1e-1;
    let p = p * m + 1.424_932_3e-1;
    let p = p * m - 1.666_805_7e-1;
    let p = p * m + 2.000_071_5e-1;
    let p = p * m - 2.499_999_4e-1;
    let p = p * m + 3.333_333e-1;
    let y = (p * m) * z;
    let y = y - 0.5 * z;
    (m + y) + e as f32 * LN_2
}

/// (sin x, cos x), absolute error below 2e-7 · (1 + |x|/100) for |x| ≤ 8192.
#[must_use]
pub fn sin_cos(x: f32) -> (f32, f32) {
    // Three-part π/2 (Cody–Waite): n · HI and n · MID are exact for the n that occur here.
    const HI: f32 = 1.570_312_5;
    const MID: f32 = 4.837_513e-4;
    const LO: f32 = 7.549_79e-8;
    let n = round_ties_even(x / FRAC_PI_2);
    let nf = n as f32;
    let r = ((x - nf * HI) - nf * MID) - nf * LO;
    let z = r * r;
    let s = -1.951_529_6e-4 * z + 8.332_161e-3;
    let s = s * z - 1.666_665_5e-1;
    let s = (s * z) * r + r;
    let c = 2.443_315_7e-5 * z - 1.388_731_6e-3;
    let c = c * z + 4.166_664_6e-2;
    let c = ((c * z) * z - 0.5 * z) + 1.0;
    match n & 3 {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// The angle of the point (x, y) in the first quadrant, 0..=π/2, absolute error below 3e-7.
#[must_use]
pub fn angle(x: f32, y: f32) -> f32 {
    const TAN_PI_8: f32 = 0.414_213_57;
    // Mirrored at the diagonal, then turned by an eighth of a circle where that makes the tangent small.
    let (long, short) = if x > y { (x, y) } else { (y, x) };
    let (turn, t) = match short / long {
        t if t > TAN_PI_8 => (FRAC_PI_4, (short - long) / (short + long)),
        t => (0.0, t),
    };
    let z = t * t;
    // Cephes atanf.
    let p = 8.053_744_7e-2 * z - 1.387_768_6e-1;
    let p = p * z + 1.997_771_1e-1;
    let p = p * z - 3.333_295e-1;
    let near = turn + ((p * z) * t + t);
    if x > y { near } else { FRAC_PI_2 - near }
}

/// Σ x\[i\] · y\[i\] in four partial sums: lane l adds the products of i ≡ l (mod 4) in order, then (s₀ + s₁) + (s₂ + s₃).
/// `y` is converted to f32 exactly.
#[must_use]
pub fn dot<Y: Copy + Into<f32>>(x: &[f32], y: &[Y]) -> f32 {
    let mut lanes = [0.0f32; 4];
    let (x_chunks, x_rest) = x.as_chunks::<4>();
    let (y_chunks, y_rest) = y.as_chunks::<4>();
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for l in 0..4 {
            lanes[l] += x[l] * y[l].into();
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *lane += x * y.into();
    }
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(lo: f64, hi: f64, n: usize) -> impl Iterator<Item = f32> {
        (0..=n).map(move |i| (lo + (hi - lo) * i as f64 / n as f64) as f32)
    }

    #[test]
    fn exp_is_close_to_f64() {
        for x in grid(-86.9, 86.9, 200_000) {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2e-7, "exp({x})");
        }
        assert!(exp(f32::NAN).is_finite() && exp(1e30).is_finite() && exp(-1e30) > 0.0);
    }

    #[test]
    fn ln_is_close_to_f64() {
        for x in grid(1e-7, 1.0, 200_000).chain(grid(1.0, 1000.0, 100_000)) {
            assert!((f64::from(ln(x)) - f64::from(x).ln()).abs() < 1e-6, "ln({x})");
        }
    }

    #[test]
    fn sin_cos_is_close_to_f64() {
        for x in grid(-1100.0, 8192.0, 400_000) {
            let (s, c) = sin_cos(x);
            let bound = 2e-7 * (1.0 + f64::from(x).abs() / 100.0);
            assert!((f64::from(s) - f64::from(x).sin()).abs() < bound, "sin({x})");
            assert!((f64::from(c) - f64::from(x).cos()).abs() < bound, "cos({x})");
        }
    }

    #[test]
    fn angle_is_close_to_f64() {
        for want in grid(0.0, std::f64::consts::FRAC_PI_2, 100_000) {
            let (y, x) = f64::from(want).sin_cos();
            for scale in [1.0, 1e-3, 50.0] {
                let (x, y) = ((x * scale) as f32, (y.max(0.0) * scale) as f32);
                let exact = f64::from(y).atan2(f64::from(x));
                assert!((f64::from(angle(x, y)) - exact).abs() < 3e-7, "{want}: {}", angle(x, y));
            }
        }
    }

    #[test]
    fn dot_sums_in_four_lanes() {
        // 2²⁴ + 1 is not an f32: the order of additions shows.
        let x = [16_777_216.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(dot(&x, &[1i8; 6]), ((16_777_216.0f32 + 1.0) + (1.0 + 1.0)) + (1.0 + 1.0));
        assert_eq!(dot(&x[..1], &[-2i8]), -33_554_432.0);
        assert_eq!(dot::<f32>(&[], &[]), 0.0);
    }

    #[test]
    fn rounds_ties_to_even() {
        for x in grid(-300.0, 300.0, 4800) {
            assert_eq!(round_ties_even(x), x.round_ties_even() as i32, "{x}");
        }
    }
}
