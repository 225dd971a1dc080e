//! The softmax of attention on the FPU.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use crate::blob::QUERY_PIXELS;
use crate::math::{EXP, ExpConstants};

/// Scores to e^(score − largest), as [`crate::math::exp`] has it, and their sums, tokens in order.
pub(super) fn exponentials(scores: &mut [[f32; QUERY_PIXELS]]) -> [f32; QUERY_PIXELS] {
    let mut totals = [0.0; QUERY_PIXELS];
    if !scores.is_empty() {
        // SAFETY: `tokens` > 0 rows of four scores may be written, and four floats for the largest of them.
        unsafe { largest(scores.as_mut_ptr().cast(), scores.len(), totals.as_mut_ptr()) };
        for (query, total) in totals.iter_mut().enumerate() {
            // SAFETY: each of the rows has a score of this query.
            *total =
                unsafe { softmax(scores.as_mut_ptr().cast::<f32>().wrapping_add(query), scores.len(), *total, &EXP) };
        }
    }
    totals
}

/// The largest of a query's scores: `$largest`, or `$score` when it is larger.
macro_rules! larger {
    ($score:literal, $largest:literal) => {
        concat!(
            "vcmp.f32 ",
            $score,
            ", ",
            $largest,
            "\n vmrs APSR_nzcv, fpscr\n it gt\n vmovgt.f32 ",
            $largest,
            ", ",
            $score
        )
    };
}

/// Of each query, from the least float on.
///
/// # Safety
/// `scores` holds `tokens` > 0 rows of four, `out` four floats.
#[unsafe(naked)]
unsafe extern "C" fn largest(scores: *const f32, tokens: usize, out: *mut f32) {
    naked_asm!(
        core_directive!(),
        "mvn r3, #0x00800000
         vmov s4, s5, r3, r3
         vmov s6, s7, r3, r3
         2:
         vldmia r0!, {{s0-s3}}",
        larger!("s0", "s4"),
        larger!("s1", "s5"),
        larger!("s2", "s6"),
        larger!("s3", "s7"),
        "subs r1, #1
         bne 2b
         vstm r2, {{s4-s7}}
         bx lr",
    )
}

/// e^(score − largest) in place, and their sum. The difference is never above 0 but for NaN, which becomes the limit. VMLA and
/// VMLS round the product like a multiplication of its own.
///
/// # Safety
/// `scores` is the first of `tokens` > 0 floats that are four apart.
#[unsafe(naked)]
unsafe extern "C" fn softmax(scores: *mut f32, tokens: usize, largest: f32, constants: &ExpConstants) -> f32 {
    naked_asm!(
        core_directive!(),
        "vpush {{s16-s27}}
         vmov.f32 s1, s0
         vldmia r2, {{s16-s27}}
         movs r2, #0
         vmov s0, r2
         2:
         vldr s2, [r0]
         vsub.f32 s2, s2, s1
         vcmp.f32 s2, s16
         vmrs APSR_nzcv, fpscr
         it le
         vmovle.f32 s2, s16",
        // n and r.
        "vmov.f32 s4, s17
         vmla.f32 s4, s2, s18
         vsub.f32 s5, s4, s17
         vmov r2, s4
         vmls.f32 s2, s5, s19
         vmls.f32 s2, s5, s20",
        // The polynomial.
        "vmov.f32 s6, s22
         vmla.f32 s6, s21, s2
         vmov.f32 s7, s23
         vmla.f32 s7, s6, s2
         vmov.f32 s6, s24
         vmla.f32 s6, s7, s2
         vmov.f32 s7, s25
         vmla.f32 s7, s6, s2
         vmov.f32 s6, s26
         vmla.f32 s6, s7, s2
         vmul.f32 s5, s2, s2
         vmla.f32 s2, s6, s5
         vadd.f32 s2, s2, s27",
        // 2ⁿ: above n there is nothing in the lowest nine bits of the rounded number.
        "lsls r2, r2, #23
         add r2, r2, #0x3f800000
         vmov s5, r2
         vmul.f32 s2, s2, s5
         vadd.f32 s0, s0, s2
         vstr s2, [r0]
         adds r0, #16
         subs r1, #1
         bne 2b
         vpop {{s16-s27}}
         bx lr",
    )
}
