//! Real numbers to small integers, symmetric, with one rounding rule.

/// 1.5 · 2²³: adding it leaves the nearest integer (ties to even) in the low bits of the sum.
const ROUND_MAGIC: f32 = 12_582_912.0;

/// clamp(x · inv_scale, ±limit) rounded to the nearest integer, ties to even; NaN gives −limit. `limit` ≤ 4095.
#[inline]
#[must_use]
pub fn quantise(x: f32, inv_scale: f32, limit: f32) -> i16 {
    let y = x * inv_scale;
    let y = if y > -limit { y } else { -limit };
    let y = if y < limit { y } else { limit };
    (y + ROUND_MAGIC).to_bits() as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_rounding_and_clamping() {
        for i in -40_000..=40_000 {
            let x = i as f32 / 16.0;
            for limit in [127.0, 2047.0] {
                let want = x.clamp(-limit, limit).round_ties_even() as i16;
                assert_eq!(quantise(x, 1.0, limit), want, "{x}");
            }
        }
        assert_eq!(quantise(f32::NAN, 1.0, 127.0), -127);
        assert_eq!(quantise(f32::INFINITY, 1.0, 127.0), 127);
        assert_eq!(quantise(f32::NEG_INFINITY, 1.0, 127.0), -127);
    }
}
