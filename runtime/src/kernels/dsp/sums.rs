//! Direct and phase convolution: sums of two output channels and four pixels at a time.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;
use core::ptr::null;

use super::super::{Geometry, Taps, portable};
use super::is_aligned;
use crate::blob::BLOCK_PIXELS;

/// What a loop is told; it moves the first two on. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: weights of the next pair of output channels.
    weight: *const u8,
    /// 4: where its sums go.
    acc: *mut i32,
    /// 8: pairs of output channels, not 0.
    out_pairs: usize,
    /// 12: bytes of weights under one row, not 0.
    row_bytes: usize,
    /// 16: bytes between the inputs of two channel pairs (stride 2: between the halves of one).
    step: usize,
    /// 20: first input of each row, null where there is none.
    rows: [*const i16; 3],
}

/// Like [`portable::direct`]; computes four pixels or eight.
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    let g = &taps.geometry;
    let row_bytes = 4 * g.pairs * g.kernel;
    let out_pairs = (weight.len() / (g.kernel * row_bytes).max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
    let rows = &taps.rows[..g.kernel];
    let shape_known =
        matches!((g.kernel, g.stride), (3, 1 | 2)) || (g.kernel, g.stride, rows[0].is_some()) == (1, 1, true);
    // The last word that is read: the last kernel column's under pixel 7 of the last pair.
    let last = g.window(x, g.pairs.saturating_sub(1), g.kernel - 1) + 2 * BLOCK_PIXELS;
    let fits = |row: &[i16]| is_aligned(row) && last <= row.len() && g.len() <= row.len();
    let runs_on = x.is_multiple_of(BLOCK_PIXELS) && row_bytes > 0 && out_pairs > 0;
    if !(shape_known && runs_on && is_aligned(weight) && rows.iter().flatten().all(|row| fits(row))) {
        return portable::direct(taps, weight, x, pixels, acc);
    }
    for first in (0..pixels.min(BLOCK_PIXELS)).step_by(4) {
        let start = g.window(x, 0, 0) + 2 * first;
        let mut job = Job {
            weight: weight.as_ptr(),
            acc: acc[first..].as_mut_ptr(),
            out_pairs,
            row_bytes,
            step: if g.stride == 2 { 2 * g.columns } else { 4 * g.columns },
            rows: taps.rows.map(|row| row.map_or(null(), |row| row[start..].as_ptr())),
        };
        // SAFETY: weights hold `out_pairs · kernel · row_bytes` and sums `out_pairs · 16` elements, of which those from
        // `first` on are written up to `first + 12` of the last pair; rows were checked up to the last word read; all are
        // aligned to words.
        unsafe {
            match (g.kernel, g.stride) {
                (1, _) => direct_1x1(&mut job),
                (_, 2) => direct_3x3_apart(&mut job),
                _ => direct_3x3(&mut job),
            }
        }
    }
}

/// One weight word: r12 as it is (T) and its low bytes in lr (S).
macro_rules! weight_word {
    ($at:literal) => {
        concat!("ldr r12, ", $at, "\n sxtb16 lr, r12")
    };
}

/// Two words of inputs.
macro_rules! inputs {
    ($at:literal) => {
        concat!("ldrd r2, r3, ", $at)
    };
}

/// Saves registers and lays [step, end of the row's weights, job, next row] on the stack; r0 = weights.
macro_rules! enter {
    () => {
        "push {{r4-r11, lr}}
         sub sp, #16
         ldr r2, [r0, #16]
         str r2, [sp]
         str r0, [sp, #8]
         ldr r0, [r0]"
    };
}

/// Begins a pair of output channels: sums are zero, the first row is next.
macro_rules! begin_pair {
    () => {
        "adr r2, 9f
         ldm r2, {{r4-r11}}
         ldr r2, [sp, #8]
         adds r2, #20
         str r2, [sp, #12]"
    };
}

/// Begins the next row, r1 = its inputs; an absent row's weights are passed over, on to 6.
macro_rules! begin_row {
    () => {
        "ldrd r2, r3, [sp, #8]
         ldr r1, [r3], #4
         str r3, [sp, #12]
         ldr r3, [r2, #12]
         adds r3, r0
         str r3, [sp, #4]
         cmp r1, #0
         itt eq
         moveq r0, r3
         beq 6f"
    };
}

/// Back to 4 while the row has channel pairs left; r1 moves on by the step.
macro_rules! end_inputs {
    () => {
        "ldrd r2, r3, [sp]
         add r1, r2
         cmp r0, r3
         bne 4b"
    };
}

/// Back to 3 while the job has rows left: of `$rows`.
macro_rules! end_row {
    ($end:literal) => {
        concat!(
            "6:
             ldrd r2, r3, [sp, #8]
             adds r2, #",
            $end,
            "\n cmp r2, r3
             bne 3b"
        )
    };
}

/// Takes the odd channel's sums out of T: (T − S) >> 8.
macro_rules! split_sums {
    () => {
        "subs r8, r8, r4
         subs r9, r9, r5
         subs r10, r10, r6
         subs r11, r11, r7
         asr r8, r8, #8
         asr r9, r9, #8
         asr r10, r10, #8
         asr r11, r11, #8"
    };
}

/// Stores the sums of two channels, eight words apart, and goes back to 2 while there are pairs left; else returns.
macro_rules! store_and_leave {
    () => {
        "ldr r1, [sp, #8]
         ldrd r2, r3, [r1, #4]
         stm r2, {{r4-r7}}
         add r12, r2, #32
         stm r12, {{r8-r11}}
         adds r2, #64
         subs r3, #1
         strd r2, r3, [r1, #4]
         bne 2b
         add sp, #16
         pop {{r4-r11, pc}}
         .p2align 2
         9: .word 0, 0, 0, 0, 0, 0, 0, 0"
    };
}

/// Direct 3×3 of neighbouring columns. Two of the six words under four pixels and a row of taps are read twice.
///
/// # Safety
/// The job's pointers reach as far as its counts say.
#[unsafe(naked)]
unsafe extern "C" fn direct_3x3(job: *mut Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        "2:",
        begin_pair!(),
        "3:",
        begin_row!(),
        "4:",
        weight_word!("[r0], #12"),
        inputs!("[r1]"),
        products!(low),
        inputs!("[r1, #8]"),
        products!(high),
        // The third column of taps has pixels 0 and 1 where the first has 2 and 3.
        weight_word!("[r0, #-4]"),
        products!(low),
        inputs!("[r1, #16]"),
        products!(high),
        weight_word!("[r0, #-8]"),
        inputs!("[r1, #4]"),
        products!(low),
        inputs!("[r1, #12]"),
        products!(high),
        end_inputs!(),
        end_row!("32"),
        split_sums!(),
        store_and_leave!(),
    )
}

/// Direct 3×3 of columns two apart: those of the odd taps lie half a row further on.
///
/// # Safety
/// As [`direct_3x3`].
#[unsafe(naked)]
unsafe extern "C" fn direct_3x3_apart(job: *mut Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        "2:",
        begin_pair!(),
        "3:",
        begin_row!(),
        "4:",
        weight_word!("[r0], #12"),
        inputs!("[r1]"),
        products!(low),
        inputs!("[r1, #8]"),
        products!(high),
        weight_word!("[r0, #-4]"),
        inputs!("[r1, #4]"),
        products!(low),
        inputs!("[r1, #12]"),
        products!(high),
        weight_word!("[r0, #-8]"),
        "ldr r2, [sp]
         add r1, r2",
        inputs!("[r1]"),
        products!(low),
        inputs!("[r1, #8]"),
        products!(high),
        end_inputs!(),
        end_row!("32"),
        split_sums!(),
        store_and_leave!(),
    )
}

/// Direct 1×1: a straight run of inputs, eight words a channel pair. The loop is unrolled eight times and entered where the
/// rest ends with its end.
///
/// # Safety
/// As [`direct_3x3`]; only the first row counts.
#[unsafe(naked)]
unsafe extern "C" fn direct_1x1(job: *mut Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        // Where to enter: 48 bytes of code for each of the (−pairs) mod 8 that are left out; [sp] in place of the step.
        "ldr r2, [sp, #8]
         ldr r2, [r2, #12]
         rsb r2, r2, #0
         and r2, r2, #28
         add r2, r2, r2, lsl #1
         adr r3, 4f
         add r2, r3, r2, lsl #2
         orr r2, r2, #1
         str r2, [sp]
         2:
         adr r2, 9f
         ldm r2, {{r4-r11}}
         ldr r2, [sp, #8]
         ldr r3, [r2, #12]
         adds r3, r0
         str r3, [sp, #4]
         ldr r1, [r2, #20]
         ldr pc, [sp]
         .p2align 2
         4:
         .rept 8
         ldr r12, [r0], #4
         ldrd r2, r3, [r1], #32
         sxtb16 lr, r12",
        products!(low),
        inputs!("[r1, #-24]"),
        products!(high),
        ".endr
         ldr r3, [sp, #4]
         cmp r0, r3
         bne 4b",
        split_sums!(),
        store_and_leave!(),
    )
}

/// Like [`portable::phase`].
pub fn phase(rows: [Option<&[i16]>; 2], g: &Geometry, weight: &[u8], x: usize, parity: usize, acc: &mut [i32]) {
    let row_bytes = 16 * g.pairs;
    let out_pairs = (weight.len() / (2 * row_bytes).max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
    // The last word that is read: column 1 of the kernel under pixel 3 of the last pair.
    let last = g.index(x + parity + 1, 2 * g.pairs.saturating_sub(1)) + BLOCK_PIXELS;
    let fits = |row: &[i16]| is_aligned(row) && last <= row.len();
    let shape_known = (g.kernel, g.stride) == (3, 1) && parity < 2 && row_bytes > 0 && out_pairs > 0;
    if !(shape_known && is_aligned(weight) && rows.iter().flatten().all(|row| fits(row))) {
        return portable::phase(rows, g, weight, x, parity, acc);
    }
    let start = g.index(x + parity, 0);
    let [above, below] = rows.map(|row| row.map_or(null(), |row| row[start..].as_ptr()));
    let mut job = Job {
        weight: weight.as_ptr(),
        acc: acc[parity..].as_mut_ptr(),
        out_pairs,
        row_bytes,
        step: 4 * g.columns,
        rows: [above, below, null()],
    };
    // SAFETY: as in `direct`; sums are written at `parity` + 0, 2, 4, 6 and 8, 10, 12, 14 of a pair's sixteen.
    unsafe { phase_2x2(&mut job) }
}

/// 2×2 kernels with weights of 16 bits: two columns of taps a channel pair, two words of weights each.
///
/// # Safety
/// As [`direct_3x3`], with two rows.
#[unsafe(naked)]
unsafe extern "C" fn phase_2x2(job: *mut Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        "2:",
        begin_pair!(),
        "3:",
        begin_row!(),
        "4:
         ldrd lr, r12, [r0], #16",
        inputs!("[r1]"),
        products!(low),
        inputs!("[r1, #8]"),
        products!(high),
        "ldrd lr, r12, [r0, #-8]",
        inputs!("[r1, #4]"),
        products!(low),
        inputs!("[r1, #12]"),
        products!(high),
        end_inputs!(),
        end_row!("28"),
        "ldr r1, [sp, #8]
         ldrd r2, r3, [r1, #4]
         str r4, [r2]
         str r5, [r2, #8]
         str r6, [r2, #16]
         str r7, [r2, #24]
         str r8, [r2, #32]
         str r9, [r2, #40]
         str r10, [r2, #48]
         str r11, [r2, #56]
         adds r2, #64
         subs r3, #1
         strd r2, r3, [r1, #4]
         bne 2b
         add sp, #16
         pop {{r4-r11, pc}}
         .p2align 2
         9: .word 0, 0, 0, 0, 0, 0, 0, 0",
    )
}
