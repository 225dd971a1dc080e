//! Direct convolution: sums of two output channels and four pixels at a time.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::super::{Geometry, Taps, portable};
use super::rows::{Job, Loop, Turns};
use crate::blob::BLOCK_PIXELS;

/// Like [`portable::direct`]; computes four pixels or eight.
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    let g = &taps.geometry;
    let (pitch, step) = if g.kernel == 1 { (4 * BLOCK_PIXELS, 4) } else { (4 * g.columns, step(g)) };
    let unrolled = match (g.kernel, g.stride) {
        (3, _) if step != 0 => 1,
        (3, 1) => 4,
        _ => 8,
    };
    let row_bytes = 4 * g.pairs * g.kernel;
    let turns = Turns {
        pairs: g.pairs,
        unrolled,
        pitch,
        step,
        // From the last place of the turn before, or from the middle of a turn.
        ahead: if g.stride == 1 { LAST_PLACE.wrapping_sub(pitch) } else { unrolled / 2 * pitch },
        start: g.window(x, 0, 0),
        // The last kernel column's word under pixel 7 of the last pair.
        end: g.window(x, g.pairs.saturating_sub(1), g.kernel - 1) + 2 * BLOCK_PIXELS,
        row_bytes,
    };
    let out_pairs = (weight.len() / (g.kernel * row_bytes).max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
    // A block that does not begin where one of eight does has no straight run of inputs.
    let out_pairs = if x.is_multiple_of(BLOCK_PIXELS) { out_pairs } else { 0 };
    let Some(mut job) = Job::new(&taps.rows[..g.kernel], &turns, weight, out_pairs, acc) else {
        return not_at_words(taps, weight, x, pixels, acc);
    };
    // SAFETY: weights hold `out_pairs` times `kernel` rows of `row_bytes`; sums hold `out_pairs · 16` elements, of which those of
    // pixels 0–3, and then 4–7, are written; rows were checked up to the last word read; all are aligned to words.
    unsafe {
        loop_of(g, pixels)(&job);
        if pixels > 4 {
            job.move_on();
            loop_of(g, pixels - 4)(&job);
        }
    }
}

/// The definition; apart, because it takes more stack.
#[cold]
#[inline(never)]
fn not_at_words(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    portable::direct(taps, weight, x, pixels, acc);
}

/// Bytes from the first place under a channel pair to the last that [`direct_3x3`] reads.
const LAST_PLACE: usize = 12;

/// Bytes of a move along a row where the loop does not know them, else 0.
fn step(g: &Geometry) -> usize {
    match (g.stride, g.columns) {
        (1, 10 | 18) | (2, 34) => 0,
        _ => 4 * g.columns / g.stride,
    }
}

/// The loop for a geometry and so many pixels: rows of the widths of small models have their own.
fn loop_of(g: &Geometry, pixels: usize) -> Loop {
    match (g.kernel, g.stride, g.columns) {
        (1, ..) => direct_1x1,
        (_, 1, 10) => direct_3x3::<10>,
        (_, 1, 18) => direct_3x3::<18>,
        (_, 1, _) => direct_3x3::<0>,
        (_, _, 34) if pixels <= 2 => direct_3x3_apart::<34, 2>,
        (_, _, 34) => direct_3x3_apart::<34, 4>,
        _ => direct_3x3_apart::<0, 4>,
    }
}

/// One weight word: r12 as it is (T) and its low bytes in lr (S).
macro_rules! weight_word {
    ($at:literal) => {
        concat!("ldr r12, ", $at, "\n sxtb16 lr, r12")
    };
}

/// Takes the odd channel's sums out of T: (T − S) >> 8; stores both channels' sums, eight words apart.
macro_rules! store {
    () => {
        "subs r8, r8, r4
         subs r9, r9, r5
         asr r8, r8, #8
         asr r9, r9, #8
         ldrd r2, r3, [sp, #12]
         .if {pixels} == 4
         subs r10, r10, r6
         subs r11, r11, r7
         asr r10, r10, #8
         asr r11, r11, #8
         stm r2, {{r4-r7}}
         add r12, r2, #32
         stm r12, {{r8-r11}}
         .else
         strd r4, r5, [r2]
         strd r8, r9, [r2, #32]
         .endif"
    };
}

/// 3×3 of neighbouring columns, in rows of `COLUMNS` (0: of any length). Two of the six words under four pixels and a row of
/// taps are read twice. Where the code knows the distances, r1 is the last place of the turn before.
///
/// # Safety
/// The job's pointers reach as far as its counts say.
#[unsafe(naked)]
unsafe extern "C" fn direct_3x3<const COLUMNS: usize>(job: *const Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        ".p2align 2
         4:
         .irp k, 1, 2, 3, 4
         .if \\k <= {turn}",
        weight_word!("[r0], #12"),
        "ldrd r2, r3, [r1, #\\k * {known} - {last}]",
        products!(low),
        "ldrd r2, r3, [r1, #\\k * {known} - {last} + 8]",
        products!(high),
        // The third column of taps has pixels 0 and 1 where the first has 2 and 3.
        weight_word!("[r0, #-4]"),
        products!(low),
        "ldrd r2, r3, [r1, #\\k * {known} - {last} + 16]",
        products!(high),
        weight_word!("[r0, #-8]"),
        "ldrd r2, r3, [r1, #\\k * {known} - {last} + 4]",
        products!(low),
        ".if {known} && (\\k == {turn})
         ldrd r2, r3, [r1, #\\k * {known}]!
         .else
         ldrd r2, r3, [r1, #\\k * {known} - {last} + 12]
         .endif",
        products!(high),
        step!(),
        ".endif
         .endr",
        next_row!(),
        store!(),
        next_outputs!(),
        known = const 4 * COLUMNS,
        copy = const if COLUMNS == 0 { 148 } else { 140 },
        turn = const if COLUMNS == 0 { 1 } else { 4 },
        last = const if COLUMNS == 0 { 0 } else { LAST_PLACE },
        pixels = const 4,
    )
}

/// 3×3 of columns two apart, in rows of `COLUMNS` (0: of any length), four pixels or two: the columns of the odd taps lie half
/// a row further on.
///
/// # Safety
/// As [`direct_3x3`].
#[unsafe(naked)]
unsafe extern "C" fn direct_3x3_apart<const COLUMNS: usize, const PIXELS: usize>(job: *const Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        ".p2align 2
         4:
         .irp k, -4, -3, -2, -1, 0, 1, 2, 3
         .if (\\k >= -{turn} / 2) && (\\k < {turn} - {turn} / 2)",
        weight_word!("[r0], #12"),
        "ldrd r2, r3, [r1, #\\k * {known}]",
        products!(low),
        ".if {pixels} == 4
         ldrd r2, r3, [r1, #\\k * {known} + 8]",
        products!(high),
        ".endif",
        weight_word!("[r0, #-4]"),
        "ldrd r2, r3, [r1, #\\k * {known} + 4]",
        products!(low),
        ".if {pixels} == 4
         ldrd r2, r3, [r1, #\\k * {known} + 12]",
        products!(high),
        ".endif",
        step!(),
        weight_word!("[r0, #-8]"),
        "ldrd r2, r3, [r1, #\\k * {known} + {known} / 2]",
        products!(low),
        ".if {pixels} == 4
         ldrd r2, r3, [r1, #\\k * {known} + {known} / 2 + 8]",
        products!(high),
        ".endif",
        step!(),
        ".endif
         .endr
         .if {known}
         add r1, r1, #{turn} * {known}
         .endif",
        next_row!(),
        store!(),
        next_outputs!(),
        known = const 4 * COLUMNS,
        copy = const if PIXELS == 2 { 84 } else if COLUMNS == 0 { 160 } else { 144 },
        turn = const if COLUMNS == 0 { 1 } else { 8 },
        pixels = const PIXELS,
    )
}

/// 1×1: a straight run of inputs, eight words a channel pair.
///
/// # Safety
/// As [`direct_3x3`].
#[unsafe(naked)]
unsafe extern "C" fn direct_1x1(job: *const Job) {
    naked_asm!(
        core_directive!(),
        enter!(),
        ".p2align 2
         4:
         .rept 8
         ldr r12, [r0], #4
         ldrd r2, r3, [r1], #32
         sxtb16 lr, r12",
        products!(low),
        "ldrd r2, r3, [r1, #-24]",
        products!(high),
        ".endr",
        // There is but one row.
        "ldr r3, [sp, #32]
         cmp r1, r3
         bne 4b
         b 5f
         2:
         adr r2, 9f
         ldm r2, {{r4-r11}}
         ldr r1, [sp, #28]
         ldr pc, [sp, #8]
         5:",
        store!(),
        next_outputs!(),
        copy = const 48,
        pixels = const 4,
    )
}
