//! From sums to f16 on the FPU: four pixels of two or four channels at a time.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use half::f16;

use super::super::{Finish, Residual};
use crate::blob::BLOCK_PIXELS;

/// What a loop is told. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: \[channel\]\[8\].
    acc: *const i32,
    /// 4: first channel of the first pixel.
    out: *mut f16,
    /// 8: the same place of the residual; only read by the loops that add one.
    residual: *const f16,
    /// 12.
    scale: *const [u8; 4],
    /// 16.
    bias: *const f32,
    /// 20: Σx and Σx² of each channel, where they are wanted.
    sums: *mut f32,
    /// 24: pairs of channels, or fours, not 0.
    groups: usize,
    /// 28: 1..=8.
    pixels: usize,
    /// 32: bytes from pixel to pixel.
    pitch: usize,
}

/// Like [`super::super::portable::finish_with`] for f16; declines when a pair of channels is no aligned word.
// Called once for every few outputs: compiled into its only caller, which knows half of the checks.
#[inline(always)]
pub fn finish(block: &Finish<'_>, residual: Residual<'_>, out: &mut [f16], sums: &mut [f32]) -> bool {
    let (channels, pixels) = (block.scale.len(), block.pixels);
    let reach = pixels.wrapping_sub(1) * block.pitch + channels;
    let (residual, added) = match residual {
        Residual::None => (out.as_ptr(), false),
        Residual::Elsewhere(values) if values.len() >= reach => (values.as_ptr(), true),
        Residual::Elsewhere(_) => return false,
        Residual::InPlace => (out.as_ptr(), true),
    };
    let words = out.as_ptr().addr() | residual.addr() | block.scale.as_ptr().addr();
    let even = (channels | block.pitch).is_multiple_of(2) && words.is_multiple_of(4) && channels > 0;
    let counted = pixels.wrapping_sub(1) < BLOCK_PIXELS && block.acc.len() >= channels * BLOCK_PIXELS;
    if !(even && counted && block.bias.len() == channels && out.len() >= reach) {
        return false;
    }
    if !sums.is_empty() && sums.len() != 2 * channels {
        return false;
    }
    // The loops over fours add nothing: two more of them would not fit the flash beside the largest models.
    let fours = channels.is_multiple_of(4) && pixels.is_multiple_of(4) && !added;
    let run = match (fours, added, sums.is_empty()) {
        (false, false, true) => store,
        (false, false, false) => store_and_sum,
        (_, true, true) => add_and_store,
        (_, true, false) => add_store_and_sum,
        (true, false, true) => store_fours,
        (true, false, false) => store_and_sum_fours,
    };
    let job = Job {
        acc: block.acc.as_ptr(),
        out: out.as_mut_ptr(),
        residual,
        scale: block.scale.as_ptr(),
        bias: block.bias.as_ptr(),
        sums: sums.as_mut_ptr(),
        groups: if fours { channels / 4 } else { channels / 2 },
        pixels,
        pitch: 2 * block.pitch,
    };
    // SAFETY: sums, scales and biases hold `channels` rows or values; output and residual reach to the last channel of the
    // last pixel, and are the same memory or apart; all are aligned to words.
    unsafe { run(&job) };
    true
}

/// A loop: what begins and ends a pair of channels, what happens to two values ($a and $b: registers s16 on) before they are
/// rounded to the word s0, and then to s0.
macro_rules! finish_loop {
    ($(#[$doc:meta])* $name:ident: $begin:ident, $add:ident, $sum:ident, $end:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(job: *const Job) {
            naked_asm!(
                core_directive!(),
                "push {{r4-r11, lr}}
                 vpush {{s16-s23}}
                 ldm r0, {{r0, r1, r2, r5, r6, r7, r8, r9, r10}}
                 2:
                 vldmia r5!, {{s8, s9}}
                 mov r3, r0
                 add lr, r0, #32
                 mov r4, r1
                 mov r11, r2",
                $begin!(),
                "subs r12, r9, #4
                 blo 4f
                 3:
                 vldmia r3!, {{s0-s3}}
                 vldmia lr!, {{s4-s7}}
                 vldm r6, {{s16, s17}}
                 vldm r6, {{s18, s19}}
                 vldm r6, {{s20, s21}}
                 vldm r6, {{s22, s23}}",
                scaled!("s16", "s0", "s17", "s4"),
                scaled!("s18", "s1", "s19", "s5"),
                scaled!("s20", "s2", "s21", "s6"),
                scaled!("s22", "s3", "s23", "s7"),
                $add!("s16", "s17"),
                stored!("s16", "s17"),
                $sum!(),
                $add!("s18", "s19"),
                stored!("s18", "s19"),
                $sum!(),
                $add!("s20", "s21"),
                stored!("s20", "s21"),
                $sum!(),
                $add!("s22", "s23"),
                stored!("s22", "s23"),
                $sum!(),
                "subs r12, #4
                 bhs 3b
                 4:
                 adds r12, #4
                 beq 6f
                 5:
                 vldmia r3!, {{s0}}
                 vldmia lr!, {{s4}}
                 vldm r6, {{s16, s17}}",
                scaled!("s16", "s0", "s17", "s4"),
                $add!("s16", "s17"),
                stored!("s16", "s17"),
                $sum!(),
                "subs r12, #1
                 bne 5b
                 6:",
                $end!(),
                "adds r0, #64
                 adds r1, #4
                 adds r2, #4
                 adds r6, #8
                 subs r8, #1
                 bne 2b
                 vpop {{s16-s23}}
                 pop {{r4-r11, pc}}",
            )
        }
    };
}

/// Nothing, where a loop leaves a step out.
macro_rules! nothing {
    () => {
        ""
    };
    ($($value:literal),+) => {
        ""
    };
}

/// bias, which is there, + sum · scale of two channels; VMLA rounds the product like a multiplication of its own.
macro_rules! scaled {
    ($a:literal, $sum_a:literal, $b:literal, $sum_b:literal) => {
        scaled!($a, $sum_a, $b, $sum_b, "s8", "s9")
    };
    ($a:literal, $sum_a:literal, $b:literal, $sum_b:literal, $scale_a:literal, $scale_b:literal) => {
        concat!(
            "vcvt.f32.s32 ",
            $sum_a,
            ", ",
            $sum_a,
            "
             vcvt.f32.s32 ",
            $sum_b,
            ", ",
            $sum_b,
            "
             vmla.f32 ",
            $a,
            ", ",
            $sum_a,
            ", ",
            $scale_a,
            "
             vmla.f32 ",
            $b,
            ", ",
            $sum_b,
            ", ",
            $scale_b
        )
    };
}

/// Adds the residual at r11.
macro_rules! residual {
    ($a:literal, $b:literal) => {
        concat!(
            "vldr s0, [r11]
             add r11, r10
             vcvtb.f32.f16 s4, s0
             vcvtt.f32.f16 s5, s0
             vadd.f32 ",
            $a,
            ", ",
            $a,
            ", s4
             vadd.f32 ",
            $b,
            ", ",
            $b,
            ", s5"
        )
    };
}

/// Stores two values as the word s0 at r4, or four as two words.
macro_rules! stored {
    ($a:literal, $b:literal) => {
        concat!(
            "vcvtb.f16.f32 s0, ",
            $a,
            "
             vcvtt.f16.f32 s0, ",
            $b,
            "
             vstr s0, [r4]
             add r4, r10"
        )
    };
    ($low:literal, $high:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vcvtb.f16.f32 ",
            $low,
            ", ",
            $a,
            "
             vcvtt.f16.f32 ",
            $low,
            ", ",
            $b,
            "
             vcvtb.f16.f32 ",
            $high,
            ", ",
            $c,
            "
             vcvtt.f16.f32 ",
            $high,
            ", ",
            $d,
            "
             vstm r4, {{",
            $low,
            ", ",
            $high,
            "}}
             add r4, r10"
        )
    };
}

/// The two channels' Σx and Σx² so far.
macro_rules! begin_sums {
    () => {
        "vldm r7, {{s12-s15}}"
    };
}

/// Adds what was stored.
macro_rules! sum {
    () => {
        "vcvtb.f32.f16 s4, s0
         vcvtt.f32.f16 s5, s0
         vadd.f32 s12, s12, s4
         vadd.f32 s14, s14, s5
         vmla.f32 s13, s4, s4
         vmla.f32 s15, s5, s5"
    };
}

/// Puts the sums back.
macro_rules! end_sums {
    () => {
        "vstm r7!, {{s12-s15}}"
    };
}

finish_loop!(
    /// Stores.
    store: nothing, nothing, nothing, nothing
);

finish_loop!(
    /// Stores and sums.
    store_and_sum: begin_sums, nothing, sum, end_sums
);

finish_loop!(
    /// Adds the residual and stores.
    add_and_store: nothing, residual, nothing, nothing
);

finish_loop!(
    /// Adds the residual, stores and sums.
    add_store_and_sum: begin_sums, residual, sum, end_sums
);

/// A loop over fours of channels, for whole fours of pixels, whose values are in s16–s31: what happens to the words they are
/// rounded to, s0–s7.
macro_rules! fours_loop {
    ($(#[$doc:meta])* $name:ident: $sum:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(job: *const Job) {
            naked_asm!(
                core_directive!(),
                "push {{r4-r11, lr}}
                 vpush {{s16-s31}}
                 ldm r0, {{r0, r1, r2, r5, r6, r7, r8, r9, r10}}
                 2:
                 mov r3, r0
                 mov r4, r1
                 mov r11, r2
                 mov r12, r9
                 3:
                 vldm r5, {{s8-s11}}
                 vldm r6, {{s16-s19}}
                 vldm r6, {{s20-s23}}
                 vldm r6, {{s24-s27}}
                 vldm r6, {{s28-s31}}
                 vldm r3, {{s0-s3}}
                 add lr, r3, #32
                 vldm lr, {{s4-s7}}
                 add lr, #32",
                scaled!("s16", "s0", "s17", "s4", "s8", "s9"),
                scaled!("s20", "s1", "s21", "s5", "s8", "s9"),
                scaled!("s24", "s2", "s25", "s6", "s8", "s9"),
                scaled!("s28", "s3", "s29", "s7", "s8", "s9"),
                "vldm lr, {{s0-s3}}
                 add lr, #32
                 vldm lr, {{s4-s7}}
                 add r3, #16",
                scaled!("s18", "s0", "s19", "s4", "s10", "s11"),
                scaled!("s22", "s1", "s23", "s5", "s10", "s11"),
                scaled!("s26", "s2", "s27", "s6", "s10", "s11"),
                scaled!("s30", "s3", "s31", "s7", "s10", "s11"),
                stored!("s0", "s1", "s16", "s17", "s18", "s19"),
                stored!("s2", "s3", "s20", "s21", "s22", "s23"),
                stored!("s4", "s5", "s24", "s25", "s26", "s27"),
                stored!("s6", "s7", "s28", "s29", "s30", "s31"),
                $sum!(),
                "subs r12, #4
                 bne 3b
                 adds r0, #128
                 adds r1, #8
                 adds r2, #8
                 adds r5, #16
                 adds r6, #16
                 adds r7, #32
                 subs r8, #1
                 bne 2b
                 vpop {{s16-s31}}
                 pop {{r4-r11, pc}}",
            )
        }
    };
}

/// Adds what was stored of four pixels.
macro_rules! sums {
    () => {
        concat!(
            "vldm r7, {{s8-s15}}\n",
            sums!("s0", "s1"),
            sums!("s2", "s3"),
            sums!("s4", "s5"),
            sums!("s6", "s7"),
            "vstm r7, {{s8-s15}}"
        )
    };
    ($low:literal, $high:literal) => {
        concat!(
            "vcvtb.f32.f16 s16, ",
            $low,
            "
             vcvtt.f32.f16 s17, ",
            $low,
            "
             vcvtb.f32.f16 s18, ",
            $high,
            "
             vcvtt.f32.f16 s19, ",
            $high,
            "
             vadd.f32 s8, s8, s16
             vadd.f32 s10, s10, s17
             vadd.f32 s12, s12, s18
             vadd.f32 s14, s14, s19
             vmla.f32 s9, s16, s16
             vmla.f32 s11, s17, s17
             vmla.f32 s13, s18, s18
             vmla.f32 s15, s19, s19\n"
        )
    };
}

fours_loop!(
    /// Stores.
    store_fours: nothing
);

fours_loop!(
    /// Stores and sums.
    store_and_sum_fours: sums
);
