//! Sums of a row that are added to those of an image, on the FPU.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

/// Adds `row` to `totals` and clears it; declines what are not whole fours.
pub fn add_and_clear(totals: &mut [f32], row: &mut [f32]) -> bool {
    let count = totals.len();
    if count == 0 || !count.is_multiple_of(4) || row.len() != count {
        return false;
    }
    // SAFETY: both slices hold `count` floats, a multiple of four that is not 0.
    unsafe { add(totals.as_mut_ptr(), row.as_mut_ptr(), count) }
    true
}

/// # Safety
/// Both pointers hold `count` floats, a multiple of four that is not 0.
#[unsafe(naked)]
unsafe extern "C" fn add(totals: *mut f32, row: *mut f32, count: usize) {
    naked_asm!(
        core_directive!(),
        "movs r3, #0
         vmov s8, s9, r3, r3
         vmov s10, s11, r3, r3
         2:
         vldm r0, {{s0-s3}}
         vldm r1, {{s4-s7}}
         vadd.f32 s0, s0, s4
         vadd.f32 s1, s1, s5
         vadd.f32 s2, s2, s6
         vadd.f32 s3, s3, s7
         vstmia r0!, {{s0-s3}}
         vstmia r1!, {{s8-s11}}
         subs r2, #4
         bne 2b
         bx lr",
    )
}
