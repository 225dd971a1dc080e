//! Tensors that wait at 8 bits: each channel's largest magnitude, then integers, eight channels at a time.
//!
//! Nothing is subnormal here but halves, which are normal as f32: a factor lies between 127 · 256 / 65504 and 127 · 256 · 2²⁴.

use core::arch::global_asm;

use half::f16;

use crate::f16::to_f32;
use crate::quant::Quantiser;

// The assembler of module text does not know the target's CPU.
global_asm!(".cpu cortex-m55", include_str!("narrow.s"));

unsafe extern "C" {
    fn picodream_helium_largest(values: *const f16, largest: &mut [f16; 8], step: usize, pixels: usize);
    fn picodream_helium_narrow(
        values: *const f16,
        integers: *mut i8,
        factors: &[f32; 8],
        channels: usize,
        pixels: usize,
    );
}

/// As `ops/narrow.rs`, for channels by eight; declines infinities and NaN, and may have written then.
// Apart, or its variables are on the stack of all that its caller calls.
#[inline(never)]
pub fn narrow(values: &[f16], integers: &mut [i8], scales: &mut [f32]) -> bool {
    let channels = scales.len();
    let pixels = values.len() / channels.max(1);
    let whole = channels > 0 && channels.is_multiple_of(8) && pixels > 0;
    if !whole || values.len() != pixels * channels || integers.len() != values.len() {
        return false;
    }
    for (group, scales) in scales.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (values, integers) = (&values[8 * group..], &mut integers[8 * group..]);
        let mut largest = [f16::ZERO; 8];
        // SAFETY: eight values of each of `pixels` pixels are read, all of them in `values`.
        unsafe { picodream_helium_largest(values.as_ptr(), &mut largest, 2 * channels, pixels) };
        let mut factors = [0.0; 8];
        for ((largest, scale), factor) in largest.into_iter().map(to_f32).zip(scales).zip(&mut factors) {
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            match Quantiser::new(false, inverse, 127) {
                Quantiser::Plain { scale, .. } if largest < f32::INFINITY => *factor = scale,
                _ => return false,
            }
            *scale = largest / 127.0;
        }
        // SAFETY: as many values are read and integers written.
        unsafe { picodream_helium_narrow(values.as_ptr(), integers.as_mut_ptr(), &factors, channels, pixels) };
    }
    true
}
