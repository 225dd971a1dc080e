//! f32 in messages, to four decimals: the core library's exact formatting would take ten kilobytes of flash.

use core::fmt;

/// Displays like the number itself; magnitudes outside 0.001..1e9 with an exponent of ten.
pub(crate) struct Decimal(pub(crate) f32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut magnitude = self.0.abs();
        if magnitude.is_nan() {
            return f.write_str("NaN");
        }
        if self.0 < 0.0 {
            f.write_str("-")?;
        }
        if magnitude.is_infinite() {
            return f.write_str("inf");
        }
        let mut exponent = 0i32;
        while magnitude >= 1e9 || (exponent > 0 && magnitude >= 10.0) {
            (magnitude, exponent) = (magnitude / 10.0, exponent + 1);
        }
        while magnitude > 0.0 && (magnitude < 1e-3 || (exponent < 0 && magnitude < 0.99995)) {
            (magnitude, exponent) = (magnitude * 10.0, exponent - 1);
        }
        write_plain(magnitude, f)?;
        if exponent == 0 { Ok(()) } else { write!(f, "e{exponent}") }
    }
}

/// A number below 2³⁰ with up to four decimals, without trailing zeros.
fn write_plain(magnitude: f32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = magnitude as u32;
    let mut decimals = ((magnitude - whole as f32) * 10_000.0 + 0.5) as u32;
    let whole = whole + decimals / 10_000;
    decimals %= 10_000;
    write!(f, "{whole}")?;
    let mut divisor = 1000;
    let mut first = true;
    while decimals > 0 {
        write!(f, "{}{}", if first { "." } else { "" }, decimals / divisor)?;
        (decimals, divisor, first) = (decimals % divisor, divisor / 10, false);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn reads_like_the_number() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-0.5, "-0.5"),
            (101.25, "101.25"),
            (0.0625, "0.0625"),
            (7.005, "7.005"),
            (0.99999, "1"),
            (-100.001, "-100.001"),
            (16_777_216.0, "16777216"),
            (1e-6, "1e-6"),
            (-2.5e12, "-2.5e12"),
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(Decimal(value).to_string(), text);
        }
        assert!(Decimal(f32::MAX).to_string().ends_with("e38"));
        assert!(Decimal(f32::MIN_POSITIVE).to_string().ends_with("e-38"));
    }
}
