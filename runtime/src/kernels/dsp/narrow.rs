//! From f16 to 8 bits with a scale for each channel: four channels at a time, the largest magnitude first, then the integers.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use half::f16;

use super::is_aligned;
use crate::f16 as convert;
use crate::quant::Quantiser;

/// Bits of an infinite half.
const INFINITE: u16 = 0x7c00;

/// What a loop over pixels is told of four channels.
#[repr(C)]
struct Constants {
    /// 0: 256 · 127 / largest.
    scale: [f32; 4],
    /// 16: 128.
    half: [f32; 4],
}

/// Like the loop of `ops/narrow.rs`; declines channels that are no fours of aligned words, and leaves a tensor with a NaN to it.
pub fn narrow(values: &[f16], integers: &mut [i8], scales: &mut [f32]) -> bool {
    let channels = scales.len();
    let pixels = values.len() / channels.max(1);
    let fours = channels.is_multiple_of(4) && is_aligned(values) && is_aligned(integers);
    if !(fours && pixels > 0 && values.len() == pixels * channels && integers.len() == values.len()) {
        return false;
    }
    for (group, scales) in scales.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let from = values[4 * group..].as_ptr();
        let mut largest = [0; 4];
        // SAFETY: four halves of each pixel are read from `from` on, a pixel is `channels` halves further than the one before;
        // they begin at words.
        unsafe { largest_magnitudes(from, pixels, 2 * channels, &mut largest) };
        if largest.iter().any(|bits| *bits > INFINITE) {
            return false;
        }
        let largest = largest.map(|bits| convert::to_f32(f16::from_bits(bits)));
        *scales = largest.map(|largest| largest / 127.0);
        let constants = Constants { scale: largest.map(scale_of), half: [128.0; 4] };
        let to = integers[4 * group..].as_mut_ptr();
        // SAFETY: as above, and four bytes of each pixel are written.
        unsafe { quantise(from, to, pixels, &constants, channels) };
    }
    true
}

/// The factor in front of the rounding, for a channel's largest magnitude.
fn scale_of(largest: f32) -> f32 {
    match Quantiser::new(false, if largest > 0.0 { 127.0 / largest } else { 0.0 }, 127) {
        Quantiser::Plain { scale, .. } => scale,
        Quantiser::Silu { .. } => 0.0,
    }
}

/// Largest bits without sign of four channels.
///
/// # Safety
/// `pixels` > 0 times four halves can be read, `pitch` bytes apart, all at words.
#[unsafe(naked)]
unsafe extern "C" fn largest_magnitudes(values: *const f16, pixels: usize, pitch: usize, largest: &mut [u16; 4]) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r7}}
         movs r4, #0
         movs r5, #0
         2:
         ldrd r6, r7, [r0]
         add r0, r2
         bic r6, r6, #0x80008000
         bic r7, r7, #0x80008000
         uqsub16 r6, r6, r4
         uqsub16 r7, r7, r5
         uadd16 r4, r4, r6
         uadd16 r5, r5, r7
         subs r1, #1
         bne 2b
         str r4, [r3]
         str r5, [r3, #4]
         pop {{r4-r7}}
         bx lr",
    )
}

/// Integers of four channels: 128 + x · scale, saturated to 16 bits, whose lower eight are dropped.
///
/// # Safety
/// As [`largest_magnitudes`]; four bytes of each pixel can be written, `channels` bytes apart, at words.
#[unsafe(naked)]
unsafe extern "C" fn quantise(
    values: *const f16,
    integers: *mut i8,
    pixels: usize,
    constants: *const Constants,
    channels: usize,
) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r8, lr}}
         ldr r4, [sp, #24]
         lsl r5, r4, #1
         vldmia r3!, {{s8-s11}}
         2:
         vldm r0, {{s4, s5}}
         add r0, r5
         vcvtt.f32.f16 s7, s5
         vcvtb.f32.f16 s6, s5
         vcvtt.f32.f16 s5, s4
         vcvtb.f32.f16 s4, s4
         vldm r3, {{s0-s3}}
         vmla.f32 s0, s4, s8
         vmla.f32 s1, s5, s9
         vmla.f32 s2, s6, s10
         vmla.f32 s3, s7, s11
         vcvt.s16.f32 s0, s0, #0
         vcvt.s16.f32 s1, s1, #0
         vcvt.s16.f32 s2, s2, #0
         vcvt.s16.f32 s3, s3, #0
         vmov r6, r7, s0, s1
         vmov r8, r12, s2, s3
         pkhbt r6, r6, r8, lsl #16
         pkhbt r7, r7, r12, lsl #16
         uxtb16 r6, r6, ror #8
         bic r7, r7, #0x00ff00ff
         orr r6, r6, r7
         str r6, [r1]
         add r1, r4
         subs r2, #1
         bne 2b
         pop {{r4-r8, pc}}",
    )
}
