//! From sums to f16 on the FPU: a pair of channels at a time, pixel by pixel.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use half::f16;

use super::super::{Finish, Residual};
use super::is_aligned;
use crate::blob::BLOCK_PIXELS;

/// What a loop is told. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: \[channel\]\[8\].
    acc: *const i32,
    /// 4: first channel of the first pixel.
    out: *mut f16,
    /// 8: the same place of the residual, where there is one.
    residual: *const f16,
    /// 12.
    scale: *const [u8; 4],
    /// 16.
    bias: *const f32,
    /// 20: Σx and Σx² of each channel, where they are wanted.
    sums: *mut f32,
    /// 24: pairs of channels, not 0.
    pairs: usize,
    /// 28: 1..=8.
    pixels: usize,
    /// 32: bytes from pixel to pixel.
    pitch: usize,
}

/// Like [`super::super::portable::finish_with`] for f16; declines when a pair of channels is no aligned word.
pub fn finish(block: &Finish<'_>, residual: Residual<'_>, out: &mut [f16], sums: &mut [f32]) -> bool {
    let (channels, pixels) = (block.scale.len(), block.pixels);
    let even = channels > 0 && channels.is_multiple_of(2) && block.pitch.is_multiple_of(2);
    let counted = (1..=BLOCK_PIXELS).contains(&pixels) && block.bias.len() == channels;
    let reach = (pixels.max(1) - 1) * block.pitch + channels;
    let residual = match residual {
        Residual::None => None,
        Residual::Elsewhere(values) if is_aligned(values) && values.len() >= reach => Some(values.as_ptr()),
        Residual::Elsewhere(_) => return false,
        Residual::InPlace => Some(out.as_ptr()),
    };
    let whole =
        block.acc.len() >= channels * BLOCK_PIXELS && out.len() >= reach && [0, 2 * channels].contains(&sums.len());
    if !(even && counted && whole && is_aligned(out) && is_aligned(block.scale)) {
        return false;
    }
    let job = Job {
        acc: block.acc.as_ptr(),
        out: out.as_mut_ptr(),
        residual: residual.unwrap_or(core::ptr::null()),
        scale: block.scale.as_ptr(),
        bias: block.bias.as_ptr(),
        sums: sums.as_mut_ptr(),
        pairs: channels / 2,
        pixels,
        pitch: 2 * block.pitch,
    };
    // SAFETY: sums, scales and biases hold `channels` rows or values; output and residual reach to the last channel of the
    // last pixel, and are the same memory or apart; all are aligned to words.
    unsafe {
        match (residual.is_some(), sums.is_empty()) {
            (false, true) => store(&job),
            (false, false) => store_and_sum(&job),
            (true, true) => add_and_store(&job),
            (true, false) => add_store_and_sum(&job),
        }
    }
    true
}

/// A loop: what happens to s0 and s1 before, and to the stored word s2 after the rounding.
macro_rules! finish_loop {
    ($(#[$doc:meta])* $name:ident, $begin:literal, $add:literal, $sum:literal, $end:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(job: *const Job) {
            naked_asm!(
                core_directive!(),
                "push {{r4-r11, lr}}
                 ldm r0, {{r0, r1, r2, r5, r6, r7, r8, r9, r10}}
                 2:
                 vldmia r5!, {{s8, s9}}
                 vldmia r6!, {{s10, s11}}",
                $begin,
                "mov r3, r0
                 mov r4, r1
                 mov r11, r2
                 mov r12, r9
                 tst r9, #1
                 beq 5f
                 subs r12, #1",
                // One pixel, where their number is odd, then two at a time.
                finish_pixel!("", $add, $sum),
                "adds r3, #4
                 cmp r12, #0
                 beq 4f
                 5:",
                finish_pixel!("", $add, $sum),
                finish_pixel!("+4", $add, $sum),
                "adds r3, #8
                 subs r12, #2
                 bne 5b
                 4:",
                $end,
                "adds r0, #64
                 adds r1, #4
                 adds r2, #4
                 subs r8, #1
                 bne 2b
                 pop {{r4-r11, pc}}",
            )
        }
    };
}

/// One pixel at r3, its output at r4 and its residual at r11.
macro_rules! finish_pixel {
    ($at:literal, $add:literal, $sum:literal) => {
        concat!(
            "vldr s0, [r3, #0",
            $at,
            "]
             vldr s1, [r3, #32",
            $at,
            "]
             vcvt.f32.s32 s0, s0
             vcvt.f32.s32 s1, s1
             vmul.f32 s0, s0, s8
             vmul.f32 s1, s1, s9
             vadd.f32 s0, s0, s10
             vadd.f32 s1, s1, s11\n",
            $add,
            "\n vcvtb.f16.f32 s2, s0
             vcvtt.f16.f32 s2, s1
             vstr s2, [r4]
             add r4, r10\n",
            $sum
        )
    };
}

finish_loop!(
    /// Stores.
    store,
    "",
    "",
    "",
    ""
);

finish_loop!(
    /// Stores and sums; VMLA rounds the product like a multiplication of its own.
    store_and_sum,
    "vldm r7, {{s12-s15}}",
    "",
    "vcvtb.f32.f16 s0, s2
     vcvtt.f32.f16 s1, s2
     vadd.f32 s12, s12, s0
     vadd.f32 s14, s14, s1
     vmla.f32 s13, s0, s0
     vmla.f32 s15, s1, s1",
    "vstm r7!, {{s12-s15}}"
);

finish_loop!(
    /// Adds the residual and stores.
    add_and_store,
    "",
    "vldr s3, [r11]
     add r11, r10
     vcvtb.f32.f16 s4, s3
     vcvtt.f32.f16 s5, s3
     vadd.f32 s0, s0, s4
     vadd.f32 s1, s1, s5",
    "",
    ""
);

finish_loop!(
    /// Adds the residual, stores and sums.
    add_store_and_sum,
    "vldm r7, {{s12-s15}}",
    "vldr s3, [r11]
     add r11, r10
     vcvtb.f32.f16 s4, s3
     vcvtt.f32.f16 s5, s3
     vadd.f32 s0, s0, s4
     vadd.f32 s1, s1, s5",
    "vcvtb.f32.f16 s0, s2
     vcvtt.f32.f16 s1, s2
     vadd.f32 s12, s12, s0
     vadd.f32 s14, s14, s1
     vmla.f32 s13, s0, s0
     vmla.f32 s15, s1, s1",
    "vstm r7!, {{s12-s15}}"
);
