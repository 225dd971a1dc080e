//! Direct weights to those of Winograd and phases: two input channels at a time, first along the rows, then down the columns.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::is_aligned;
use crate::blob::{Expansion, Transform};

/// What a loop is told, and what it moves on. The assembly names the fields by their offsets, once they are on its stack.
#[repr(C)]
struct Job {
    /// 0: where the next sums go.
    out: *mut u8,
    /// 4: weights of the next pair of input channels.
    weight: *const u8,
    /// 8: bytes of weights from row to row.
    row: usize,
    /// 12: bytes to the sums one row down.
    down: usize,
    /// 16: bytes to the sums two rows down.
    down_two: usize,
    /// 20: bytes to the sums one column to the right, twice, with one between that goes from the second to the third.
    right: [usize; 2],
    /// 28: bytes from the last column back to the first, one output channel on.
    back: usize,
    /// 32: bytes from the sums of one pair of input channels, both output channels done, to the next.
    next: usize,
    /// 36: pairs of input channels, not 0.
    pairs: usize,
}

/// Like [`Expansion::expand`]; does nothing when there is too little of anything, or when `out` is not aligned to double words
/// (never, after validation).
pub fn expand(expansion: &Expansion, direct: &[u8], out: &mut [u8]) {
    let Expansion { in_pairs, out_pairs, transform } = *expansion;
    let whole = direct.len() >= 36 * in_pairs * out_pairs && out.len() >= 128 * in_pairs * out_pairs;
    if !whole || !out.as_ptr().addr().is_multiple_of(8) || in_pairs == 0 {
        return;
    }
    let steps = expansion.steps();
    let [near, far] = steps.columns;
    let run = match transform {
        Transform::Winograd => winograd,
        Transform::Phases => phases,
    };
    for pair in 0..out_pairs {
        let mut job = Job {
            out: out[4 * pair * steps.out_pair..].as_mut_ptr(),
            weight: direct[36 * in_pairs * pair..].as_ptr(),
            row: 12 * in_pairs,
            down: 4 * steps.rows[0],
            down_two: 4 * (steps.rows[0] + steps.rows[1]),
            right: [4 * near, 4 * far],
            back: (8 * near + 4 * far).wrapping_neg().wrapping_add(4),
            next: 4 * steps.in_pair - 8,
            pairs: in_pairs,
        };
        if is_aligned(direct) {
            // SAFETY: three rows of `in_pairs` times three words of weights, and sixteen sums of as many pairs of channels, lie
            // inside the slices, aligned to words and to double words.
            unsafe { run(&job) };
            continue;
        }
        for at in 0..in_pairs {
            let mut words = [[0u32; 3]; 3];
            for (row, words) in words.iter_mut().enumerate() {
                let bytes = &direct[36 * in_pairs * pair + 12 * (in_pairs * row + at)..][..12];
                words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
            }
            (job.weight, job.row, job.pairs) = (words.as_ptr().cast(), 12, 1);
            // SAFETY: as above, for one pair of input channels, whose weights were copied to where words may be.
            unsafe { run(&job) };
            job.out = job.out.wrapping_add(4 * steps.in_pair);
        }
    }
}

/// Three words of weights of a row.
macro_rules! words {
    ($a:literal, $b:literal, $c:literal) => {
        concat!("ldm r0, {{", $a, ", ", $b, ", ", $c, "}}\n")
    };
}

/// The even output channel of three words.
macro_rules! even {
    ($a:literal, $b:literal, $c:literal) => {
        concat!("sxtb16 ", $a, ", ", $a, "\n sxtb16 ", $b, ", ", $b, "\n sxtb16 ", $c, ", ", $c, "\n")
    };
}

/// The odd one: 256 · odd + even, half of 256 added, without the lower byte.
macro_rules! odd {
    ($a:literal, $b:literal, $c:literal) => {
        concat!(
            "sadd16 ",
            $a,
            ", ",
            $a,
            ", r12\n sadd16 ",
            $b,
            ", ",
            $b,
            ", r12\n sadd16 ",
            $c,
            ", ",
            $c,
            ", r12\n",
            "sxtb16 ",
            $a,
            ", ",
            $a,
            ", ror #8\n sxtb16 ",
            $b,
            ", ",
            $b,
            ", ror #8\n sxtb16 ",
            $c,
            ", ",
            $c,
            ", ror #8\n"
        )
    };
}

/// Sums of a row, in place: `$a`, `$b`, `$c` hold the weights in `$a`, `$b`, `$d`.
macro_rules! winograd_row {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "sadd16 r1, ",
            $a,
            ", ",
            $d,
            "\n sadd16 ",
            $a,
            ", ",
            $a,
            ", ",
            $a,
            "\n ssub16 ",
            $c,
            ", r1, ",
            $b,
            "\n sadd16 ",
            $b,
            ", r1, ",
            $b,
            "\n sadd16 ",
            $d,
            ", ",
            $d,
            ", ",
            $d,
            "\n"
        )
    };
}

/// The same for phases.
macro_rules! phases_row {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!("sadd16 ", $c, ", ", $a, ", ", $b, "\n sadd16 ", $b, ", ", $b, ", ", $d, "\n")
    };
}

/// Sums of a column, of which the first is stored: then `$a` has the second, r0 the third, `$c` the fourth.
macro_rules! winograd_column {
    ($a:literal, $b:literal, $c:literal) => {
        concat!(
            "sadd16 r0, ",
            $a,
            ", ",
            $c,
            "\n sadd16 ",
            $a,
            ", ",
            $a,
            ", ",
            $a,
            "\n str ",
            $a,
            ", [r1]\n sadd16 ",
            $a,
            ", r0, ",
            $b,
            "\n ssub16 r0, r0, ",
            $b,
            "\n sadd16 ",
            $c,
            ", ",
            $c,
            ", ",
            $c,
            "\n"
        )
    };
}

/// The same for phases.
macro_rules! phases_column {
    ($a:literal, $b:literal, $c:literal) => {
        concat!("str ", $a, ", [r1]\n sadd16 r0, ", $a, ", ", $b, "\n sadd16 ", $a, ", ", $b, ", ", $c, "\n")
    };
}

/// The other three sums of a column behind the first, one, two and three rows down.
macro_rules! store_column {
    ($a:literal, $c:literal) => {
        concat!("str ", $a, ", [r1, r6]\n str r0, [r1, r2]\n str ", $c, ", [r1, r10]\n")
    };
}

/// A loop over pairs of input channels: r2–r5, r6–r9 and r10–r12, lr are three rows of four sums each; r0 and r1 point to weights
/// and out, and hold what passes.
macro_rules! expand_loop {
    ($(#[$doc:meta])* $name:ident: $row:ident, $column:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(job: *const Job) {
            naked_asm!(
                core_directive!(),
                "push {{r4-r11, lr}}
                 sub sp, #44
                 ldm r0, {{r1-r10}}
                 stm sp, {{r1-r10}}
                 2:
                 ldrd r0, lr, [sp, #4]",
                words!("r2", "r3", "r5"),
                even!("r2", "r3", "r5"),
                $row!("r2", "r3", "r4", "r5"),
                "add r0, lr",
                words!("r6", "r7", "r9"),
                even!("r6", "r7", "r9"),
                $row!("r6", "r7", "r8", "r9"),
                "add r0, lr",
                words!("r10", "r11", "lr"),
                even!("r10", "r11", "lr"),
                $row!("r10", "r11", "r12", "lr"),
                "b 4f
                 3:
                 mov r12, #0x00800080
                 ldrd r0, lr, [sp, #4]",
                words!("r2", "r3", "r5"),
                odd!("r2", "r3", "r5"),
                $row!("r2", "r3", "r4", "r5"),
                "add r0, lr",
                words!("r6", "r7", "r9"),
                odd!("r6", "r7", "r9"),
                $row!("r6", "r7", "r8", "r9"),
                "add r0, lr",
                words!("r10", "r11", "lr"),
                odd!("r10", "r11", "lr"),
                $row!("r10", "r11", "r12", "lr"),
                "4:
                 ldr r1, [sp]",
                $column!("r2", "r6", "r10"),
                // Distances down replace what the first column does not need any more.
                "ldr r6, [sp, #12]
                 str r2, [r1, r6]
                 ldr r2, [sp, #16]
                 str r0, [r1, r2]
                 add r0, r2, r6
                 str r10, [r1, r0]
                 mov r10, r0
                 ldr r0, [sp, #20]
                 add r1, r0",
                $column!("r3", "r7", "r11"),
                store_column!("r3", "r11"),
                "ldr r0, [sp, #24]
                 add r1, r0",
                $column!("r4", "r8", "r12"),
                store_column!("r4", "r12"),
                "ldr r0, [sp, #20]
                 add r1, r0",
                $column!("r5", "r9", "lr"),
                store_column!("r5", "lr"),
                "ldr r0, [sp, #28]
                 add r1, r0
                 str r1, [sp]
                 tst r1, #4
                 bne 3b
                 ldrd r2, r3, [sp, #32]
                 ldr r0, [sp, #4]
                 add r1, r2
                 adds r0, #12
                 strd r1, r0, [sp]
                 subs r3, #1
                 str r3, [sp, #36]
                 bne 2b
                 add sp, #44
                 pop {{r4-r11, pc}}",
            )
        }
    };
}

expand_loop!(
    /// 4 · G·g·Gᵀ.
    winograd: winograd_row, winograd_column
);
expand_loop!(
    /// What each output parity sees of its inputs.
    phases: phases_row, phases_column
);
