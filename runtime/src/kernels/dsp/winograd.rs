//! Winograd F(2×2, 3×3): two lanes at once into the tiles, sixteen small products, and back.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::super::{Geometry, portable};
use super::is_aligned;

/// Columns under four tiles.
const COLUMNS: usize = 10;

/// What [`transform`] is told; it moves the rows on. The assembly names the fields by their offsets.
#[repr(C)]
struct InputJob {
    /// 0: first input of each row.
    rows: [*const i16; 4],
    /// 16: bytes between two channel pairs of a row.
    step: usize,
    /// 20: bytes between two positions of the tiles.
    position: usize,
    /// 24: channel pairs, not 0.
    pairs: usize,
}

/// Like [`portable::winograd_input`].
pub fn winograd_input(rows: [&[i16]; 4], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let last = g.index(x, 2 * g.pairs.saturating_sub(1)) + 2 * COLUMNS;
    let fits = |row: &&[i16]| is_aligned(row) && last <= row.len();
    let known = (g.kernel, g.stride) == (3, 1) && g.pairs > 0;
    if !(known && rows.iter().all(fits) && is_aligned(tiles) && tiles.len() >= 128 * g.pairs) {
        return portable::winograd_input(rows, g, x, tiles);
    }
    let start = g.index(x, 0);
    let mut job = InputJob {
        rows: rows.map(|row| row[start..].as_ptr()),
        step: 4 * g.columns,
        position: 16 * g.pairs,
        pairs: g.pairs,
    };
    // SAFETY: every row holds ten words of every pair from its pointer on, the tiles 16 positions of all pairs; all are
    // aligned to words.
    unsafe { transform(&mut job, tiles.as_mut_ptr()) }
}

/// One row of Bᵀ·d·B for four tiles: rows at `$a` and `$b` of the job are combined by `$op` into ten columns, in two halves of
/// which the second has two in common with the first; r0 comes out at the next row's positions.
macro_rules! tile_row {
    ($a:literal, $b:literal, $op:literal) => {
        concat!(
            "ldr r10, [lr, #",
            $a,
            "]\n ldr r11, [lr, #",
            $b,
            "]\n ldm r10!, {{r2-r7}}\n ldrd r8, r9, [r11]\n",
            $op,
            " r2, r2, r8\n",
            $op,
            " r3, r3, r9\n ldrd r8, r9, [r11, #8]\n",
            $op,
            " r4, r4, r8\n",
            $op,
            " r5, r5, r9\n ldrd r8, r9, [r11, #16]\n",
            $op,
            " r6, r6, r8\n",
            $op,
            " r7, r7, r9\n",
            "ssub16 r8, r2, r4
             ssub16 r9, r4, r6
             strd r8, r9, [r0]
             sadd16 r8, r3, r4
             sadd16 r9, r5, r6
             add r0, r1
             strd r8, r9, [r0]
             ssub16 r8, r4, r3
             ssub16 r9, r6, r5
             add r0, r1
             strd r8, r9, [r0]
             ssub16 r8, r3, r5
             ssub16 r9, r5, r7
             add r0, r1
             strd r8, r9, [r0]
             ldm r10, {{r2-r5}}
             ldrd r8, r9, [r11, #24]\n",
            $op,
            " r2, r2, r8\n",
            $op,
            " r3, r3, r9\n ldrd r8, r9, [r11, #32]\n",
            $op,
            " r4, r4, r8\n",
            $op,
            " r5, r5, r9\n",
            "ssub16 r8, r7, r3
             ssub16 r9, r3, r5
             strd r8, r9, [r0, #8]
             ssub16 r8, r2, r7
             ssub16 r9, r4, r3
             sub r0, r1
             strd r8, r9, [r0, #8]
             sadd16 r8, r7, r2
             sadd16 r9, r3, r4
             sub r0, r1
             strd r8, r9, [r0, #8]
             ssub16 r8, r6, r2
             ssub16 r9, r2, r4
             sub r0, r1
             strd r8, r9, [r0, #8]
             add r0, r0, r1, lsl #2"
        )
    };
}

/// Transforms every channel pair of one block.
///
/// # Safety
/// The job's rows hold ten words of each pair, `tiles` 16 positions of all pairs.
#[unsafe(naked)]
unsafe extern "C" fn transform(job: *mut InputJob, tiles: *mut i16) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r11, lr}}
         mov lr, r0
         mov r0, r1
         ldr r1, [lr, #20]
         2:",
        tile_row!("0", "8", "ssub16"),
        tile_row!("4", "8", "sadd16"),
        tile_row!("8", "4", "ssub16"),
        tile_row!("4", "12", "ssub16"),
        "sub r0, r0, r1, lsl #4
         adds r0, #16
         ldm lr, {{r2-r6}}
         add r2, r6
         add r3, r6
         add r4, r6
         add r5, r6
         stm lr, {{r2-r5}}
         ldr r2, [lr, #24]
         subs r2, #1
         str r2, [lr, #24]
         bne 2b
         pop {{r4-r11, pc}}",
    )
}

/// Like [`portable::winograd_products`].
pub fn winograd_products(tiles: &[i16], pairs: usize, weight: &[u8], products: &mut [i32], acc: &mut [i32]) {
    let whole = pairs > 0 && tiles.len() >= 128 * pairs && weight.len() >= 128 * pairs;
    if !(whole && is_aligned(tiles) && is_aligned(weight) && products.len() >= 128 && acc.len() >= 32) {
        return portable::winograd_products(tiles, pairs, weight, products, acc);
    }
    // SAFETY: tiles and weights hold 16 positions of `pairs`, `products` 128 and `acc` 32 words; all are aligned to words.
    unsafe {
        multiply(weight.as_ptr(), tiles.as_ptr(), products.as_mut_ptr(), pairs);
        output(products.as_ptr(), acc.as_mut_ptr());
    }
}

/// Sums of two channels and four tiles at each of the 16 positions. The loop is unrolled eight times and entered where the
/// rest ends with its end.
///
/// # Safety
/// `weight` and `tiles` hold 16 positions of `pairs` > 0 channel pairs, `products` 128 words.
#[unsafe(naked)]
unsafe extern "C" fn multiply(weight: *const u8, tiles: *const i16, products: *mut i32, pairs: usize) {
    naked_asm!(
        core_directive!(),
        // On the stack: where to enter (44 bytes of code for each of the (−pairs) mod 8 that are left out), end of a
        // position's weights, products, bytes of a position's weights, end of all weights.
        "push {{r4-r11, lr}}
         sub sp, #20
         lsl r3, r3, #3
         add r12, r0, r3
         strd r12, r2, [sp, #4]
         add r12, r0, r3, lsl #4
         strd r3, r12, [sp, #12]
         rsb r2, r3, #0
         and r2, r2, #56
         add r12, r2, r2, lsl #2
         add r12, r12, r2, lsr #1
         adr r2, 4f
         add r2, r12
         orr r2, r2, #1
         str r2, [sp]
         2:
         adr r2, 9f
         ldm r2, {{r4-r11}}
         ldr pc, [sp]
         .p2align 2
         4:
         .rept 8
         ldrd lr, r12, [r0], #8
         ldrd r2, r3, [r1], #16",
        products!(low),
        "ldrd r2, r3, [r1, #-8]",
        products!(high),
        ".endr
         ldrd r2, r3, [sp, #4]
         cmp r0, r2
         bne 4b
         stm r3!, {{r4-r11}}
         ldrd r12, lr, [sp, #12]
         add r2, r12
         strd r2, r3, [sp, #4]
         cmp r0, lr
         bne 2b
         add sp, #20
         pop {{r4-r11, pc}}
         .p2align 2
         9: .word 0, 0, 0, 0, 0, 0, 0, 0",
    )
}

/// Columns of a row of products, for two tiles: 32 bytes from one to the next, a row takes 128.
macro_rules! load_columns {
    ($first:literal, $m0:literal, $m1:literal, $m2:literal, $m3:literal) => {
        concat!(
            "ldrd ",
            $m0,
            ", [r0, #",
            $first,
            "]\n ldrd ",
            $m1,
            ", [r0, #",
            $first,
            "+32]\n ldrd ",
            $m2,
            ", [r0, #",
            $first,
            "+64]\n ldrd ",
            $m3,
            ", [r0, #",
            $first,
            "+96]"
        )
    };
}

/// Aᵀ·M·A / 4 of two channels and four tiles, two tiles of a channel at a time: r4–r7 are the upper four pixels, r8–r11 the
/// lower four.
///
/// # Safety
/// `products` holds 128 words, `acc` 32.
#[unsafe(naked)]
unsafe extern "C" fn output(products: *const i32, acc: *mut i32) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r11, lr}}
         add r2, r0, #32
         push {{r2}}
         2:",
        // Row 0 and row 1: (m0 + m1 + m2, m1 − m2 − m3) of each tile.
        load_columns!("0", "r4, r6", "r2, r3", "r12, lr", "r5, r7"),
        "add r4, r2
         sub r5, r2, r5
         add r6, r3
         sub r7, r3, r7
         add r4, r12
         sub r5, r5, r12
         add r6, lr
         sub r7, r7, lr",
        load_columns!("128", "r8, r10", "r2, r3", "r12, lr", "r9, r11"),
        "add r8, r2
         sub r9, r2, r9
         add r10, r3
         sub r11, r3, r11
         add r8, r12
         sub r9, r9, r12
         add r10, lr
         sub r11, r11, lr
         add r4, r8
         add r5, r9
         add r6, r10
         add r7, r11",
        // Row 2 goes to the upper pixels and, negated, to the lower: m1 − m2 in place of m2, m1 + m2 in place of m1.
        "ldrd r2, r3, [r0, #256+32]
         ldrd r12, lr, [r0, #256+64]
         sub r12, r2, r12
         sub lr, r3, lr
         rsb r2, r12, r2, lsl #1
         rsb r3, lr, r3, lsl #1
         add r4, r2
         sub r8, r8, r2
         add r6, r3
         sub r10, r10, r3
         add r5, r12
         sub r9, r9, r12
         add r7, lr
         sub r11, r11, lr
         ldrd r2, r3, [r0, #256]
         ldrd r12, lr, [r0, #256+96]
         add r4, r2
         sub r8, r8, r2
         add r6, r3
         sub r10, r10, r3
         sub r5, r5, r12
         add r9, r12
         sub r7, r7, lr
         add r11, lr",
        // Row 3 goes to the lower pixels, negated.
        "ldrd r2, r3, [r0, #384]
         ldrd r12, lr, [r0, #384+96]
         sub r8, r8, r2
         sub r10, r10, r3
         add r9, r12
         add r11, lr
         ldrd r2, r3, [r0, #384+32]
         ldrd r12, lr, [r0, #384+64]
         sub r8, r8, r2
         sub r9, r9, r2
         sub r10, r10, r3
         sub r11, r11, r3
         sub r8, r8, r12
         add r9, r12
         sub r10, r10, lr
         add r11, lr",
        "asr r4, r4, #2
         asr r5, r5, #2
         asr r6, r6, #2
         asr r7, r7, #2
         asr r8, r8, #2
         asr r9, r9, #2
         asr r10, r10, #2
         asr r11, r11, #2
         add r2, r1, #64
         stm r1!, {{r4-r7}}
         stm r2, {{r8-r11}}
         adds r0, #8
         ldr r2, [sp]
         cmp r0, r2
         bne 2b
         add sp, #4
         pop {{r4-r11, pc}}",
    )
}
