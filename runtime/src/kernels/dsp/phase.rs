//! Phase convolution: sums of two output channels and four source columns at a time.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::super::{Geometry, portable};
use super::rows::{Job, Turns};
use crate::blob::BLOCK_PIXELS;

/// Like [`portable::phase`].
pub fn phase(rows: [Option<&[i16]>; 2], g: &Geometry, weight: &[u8], x: usize, parity: usize, acc: &mut [i32]) {
    let row_bytes = 16 * g.pairs;
    let turns = Turns {
        pairs: g.pairs,
        unrolled: 2,
        pitch: 4 * g.columns,
        step: 4 * g.columns,
        ahead: 0,
        start: g.index(x + parity, 0),
        // Column 1 of the kernel under pixel 3 of the last pair.
        end: g.index(x + parity + 1, 2 * g.pairs.saturating_sub(1)) + BLOCK_PIXELS,
        row_bytes,
    };
    let out_pairs = (weight.len() / (2 * row_bytes).max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
    let shape_known = (g.kernel, g.stride) == (3, 1) && parity < 2;
    let job = Job::new(&rows, &turns, weight, out_pairs, acc.get_mut(parity..).unwrap_or(&mut []));
    let Some(job) = job.filter(|_| shape_known) else {
        return portable::phase(rows, g, weight, x, parity, acc);
    };
    // SAFETY: as in `direct`; sums are written at `parity` + 0, 2, 4, 6 and 8, 10, 12, 14 of a pair's sixteen.
    unsafe { phase_2x2(&job) };
}

/// 2×2 kernels with weights of 16 bits: two columns of taps a channel pair, two words of weights each.
///
/// # Safety
/// The job's pointers reach as far as its counts say.
#[unsafe(naked)]
unsafe extern "C" fn phase_2x2(job: *const Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        ".p2align 2
         4:
         .rept 2
         ldrd lr, r12, [r0], #16
         ldrd r2, r3, [r1]",
        products!(low),
        "ldrd r2, r3, [r1, #8]",
        products!(high),
        "ldrd lr, r12, [r0, #-8]
         ldrd r2, r3, [r1, #4]",
        products!(low),
        "ldrd r2, r3, [r1, #12]",
        products!(high),
        step!(),
        ".endr",
        next_row!(),
        "ldrd r2, r3, [sp, #12]
         str r4, [r2]
         str r5, [r2, #8]
         str r6, [r2, #16]
         str r7, [r2, #24]
         str r8, [r2, #32]
         str r9, [r2, #40]
         str r10, [r2, #48]
         str r11, [r2, #56]",
        next_outputs!(),
        known = const 0,
        copy = const 96,
    )
}
