//! What the loops of direct and phase convolution share: the way over rows and pairs of input channels.
//!
//! A loop goes over the pairs of input channels of a row, one to eight pairs to a turn; it is entered where the rest of the
//! pairs ends with a turn's end. Rows of the widths that small models have lie at distances that the code knows.

use core::ptr::null;

/// What a loop is told, and what it remembers: copied to its stack. The assembly names the fields by their offsets.
#[repr(C)]
pub(super) struct Job {
    /// 0: end of the row under way.
    end: *const i16,
    /// 4: the next row.
    next: *const [*const i16; 2],
    /// 8: pairs of channels that the first turn leaves out.
    left_out: usize,
    /// 12: where the next sums go.
    acc: *mut i32,
    /// 16: pairs of output channels, not 0.
    out_pairs: usize,
    /// 20: bytes of weights between two pairs of output channels: those under absent rows.
    skip: usize,
    /// 24: bytes of a move along the row, where the code does not know them.
    step: usize,
    /// 28: where the inputs of each row begin and end; then null.
    rows: [[*const i16; 2]; 3],
    /// 52.
    last: *const i16,
    /// 56: weights of the first row that is there.
    weight: *const u8,
    /// How many rows are there.
    present: usize,
}

/// A loop.
pub(super) type Loop = unsafe extern "C" fn(*const Job);

/// How the loops of a geometry go over a row.
pub(super) struct Turns {
    /// Pairs of input channels.
    pub(super) pairs: usize,
    /// Pairs of channels to a turn, a power of two.
    pub(super) unrolled: usize,
    /// Bytes from the inputs of one pair to the next's.
    pub(super) pitch: usize,
    /// Bytes of a move along the row; 0 where the code knows the pitch.
    pub(super) step: usize,
    /// Bytes from the first input to where a loop that knows the pitch counts its first turn's places from (may be negative).
    pub(super) ahead: usize,
    /// Where in a row the first input lies, and where what is read ends.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Bytes of weights under a row.
    pub(super) row_bytes: usize,
}

impl Job {
    /// For up to three rows, weights of `out_pairs` pairs of output channels, and where the sums go. `None` when no row is there
    /// or one is missing between two others, when a row ends too early, and when something does not lie at words.
    pub(super) fn new(
        rows: &[Option<&[i16]>],
        turns: &Turns,
        weight: &[u8],
        out_pairs: usize,
        acc: &mut [i32],
    ) -> Option<Self> {
        let left_out = turns.pairs.wrapping_neg() & (turns.unrolled - 1);
        // A loop that knows the distances counts those of its first turn as if that were whole.
        let (before, ahead) = if turns.step == 0 { (left_out * turns.pitch, turns.ahead) } else { (0, 0) };
        let mut places = [[null(); 2]; 3];
        let (mut above, mut present, mut unaligned) = (0, 0, weight.as_ptr().addr());
        for (y, row) in rows.iter().enumerate() {
            let Some(row) = row else {
                above += usize::from(present == 0);
                continue;
            };
            if above + present != y || turns.end > row.len() {
                return None;
            }
            let at = row[turns.start..].as_ptr();
            unaligned |= at.addr();
            let at = at.wrapping_byte_add(ahead);
            *places.get_mut(present)? = [at.wrapping_byte_sub(before), at.wrapping_byte_add(turns.pairs * turns.pitch)];
            present += 1;
        }
        let whole = out_pairs > 0 && present > 0 && turns.row_bytes > 0 && unaligned.is_multiple_of(4);
        whole.then(|| Self {
            end: null(),
            next: null(),
            left_out,
            acc: acc.as_mut_ptr(),
            out_pairs,
            skip: (rows.len() - present) * turns.row_bytes,
            step: turns.step,
            rows: places,
            last: null(),
            weight: weight.as_ptr().wrapping_byte_add(above * turns.row_bytes),
            present,
        })
    }

    /// Goes four columns and four sums to the right.
    pub(super) fn move_on(&mut self) {
        self.acc = self.acc.wrapping_add(4);
        for [start, end] in self.rows.iter_mut().take(self.present) {
            (*start, *end) = (start.wrapping_add(8), end.wrapping_add(8));
        }
    }
}

/// Copies the job to the stack and finds where the loop is entered: `{copy}` bytes of code for each pair that is left out.
/// r0 = weights.
macro_rules! enter {
    () => {
        "push {{r4-r11, lr}}
         sub sp, #56
         mov r12, sp
         ldm r0!, {{r4-r10}}
         stm r12!, {{r4-r10}}
         ldm r0, {{r4-r11}}
         stm r12, {{r4-r10}}
         mov r0, r11
         ldr r2, [sp, #8]
         mov r3, #{copy}
         mul r2, r2, r3
         adr r3, 4f
         add r2, r3
         orr r2, r2, #1
         str r2, [sp, #8]
         b 2f"
    };
}

/// Ends a turn of the loop over pairs at 4, takes the next row, and falls through when there is none.
macro_rules! next_row {
    () => {
        "ldr r3, [sp]
         cmp r1, r3
         bne 4b
         ldr r3, [sp, #4]
         3:
         ldrd r1, r2, [r3], #8
         strd r2, r3, [sp]
         cbz r1, 5f
         ldr pc, [sp, #8]
         2:
         adr r2, 9f
         ldm r2, {{r4-r11}}
         add r3, sp, #28
         b 3b
         5:"
    };
}

/// Goes on with the next pair of output channels at 2 while there is one; else returns. r2 = the last pair's sums, r3 = how many
/// pairs were left before.
macro_rules! next_outputs {
    () => {
        "ldr r12, [sp, #20]
         add r0, r12
         adds r2, #64
         subs r3, #1
         strd r2, r3, [sp, #12]
         bne 2b
         add sp, #56
         pop {{r4-r11, pc}}
         .p2align 2
         9: .word 0, 0, 0, 0, 0, 0, 0, 0"
    };
}

/// Moves on by the step, where the code does not know it.
macro_rules! step {
    () => {
        ".if {known} == 0
         ldr.w r2, [sp, #24]
         add.w r1, r1, r2
         .endif"
    };
}
