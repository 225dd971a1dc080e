//! Dense layers of floats and 8-bit weights on the FPU: the four partial sums of [`crate::math::dot`] in registers.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::is_aligned;

/// out\[o\] = [`crate::math::dot`] of `x` and row o of `weight`; declines rows that are not whole words.
pub fn dots(x: &[f32], weight: &[i8], out: &mut [f32]) -> bool {
    let len = x.len();
    if !(len > 0 && len.is_multiple_of(4) && is_aligned(weight) && weight.len() >= len * out.len()) || out.is_empty() {
        return false;
    }
    // SAFETY: `x` holds `len` floats, the weights `len` bytes for each of the outputs, at words; neither is empty.
    unsafe { rows(x.as_ptr(), weight.as_ptr(), out.as_mut_ptr(), len, out.len()) };
    true
}

/// Four products a turn. That a partial sum starts with 0 is part of the definition.
///
/// # Safety
/// `x` holds `len` > 0 floats, a multiple of four, `weight` as many bytes for each of `outputs` > 0 floats at `out`, at words.
#[unsafe(naked)]
unsafe extern "C" fn rows(x: *const f32, weight: *const i8, out: *mut f32, len: usize, outputs: usize) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r9, lr}}
         ldr r4, [sp, #28]
         movs r5, #0
         2:
         mov r6, r0
         add r7, r1, r3
         vmov s0, s1, r5, r5
         vmov s2, s3, r5, r5
         3:
         vldmia r6!, {{s4-s7}}
         ldr r8, [r1], #4
         sxtb r9, r8
         sxtb r12, r8, ror #8
         sxtb lr, r8, ror #16
         asr r8, r8, #24
         vmov s8, s9, r9, r12
         vmov s10, s11, lr, r8
         vcvt.f32.s32 s8, s8
         vcvt.f32.s32 s9, s9
         vcvt.f32.s32 s10, s10
         vcvt.f32.s32 s11, s11
         vmla.f32 s0, s4, s8
         vmla.f32 s1, s5, s9
         vmla.f32 s2, s6, s10
         vmla.f32 s3, s7, s11
         cmp r1, r7
         bne 3b
         vadd.f32 s0, s0, s1
         vadd.f32 s2, s2, s3
         vadd.f32 s0, s0, s2
         vstmia r2!, {{s0}}
         subs r4, #1
         bne 2b
         pop {{r4-r9, pc}}",
    )
}
