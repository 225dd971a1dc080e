//! Zeros into memory, four words at a time: what comes with the compiler is built for least size and stores bytes.
#![allow(unsafe_code, reason = "assembly writes through a pointer; the call says why that is sound")]

use core::arch::naked_asm;

use super::is_aligned;

/// Fills a row, or several, with zeros.
pub fn clear(row: &mut [i16]) {
    if !is_aligned(row) || !row.len().is_multiple_of(2) {
        return row.fill(0);
    }
    // SAFETY: the slice is as many words, aligned.
    unsafe { clear_words(row.as_mut_ptr(), row.len() / 2) }
}

/// # Safety
/// `words` aligned words may be written.
#[unsafe(naked)]
unsafe extern "C" fn clear_words(row: *mut i16, words: usize) {
    naked_asm!(
        core_directive!(),
        "push {{r4, lr}}
         movs r2, #0
         mov r3, r2
         mov r12, r2
         mov lr, r2
         subs r1, #4
         blo 3f
         2:
         stm r0!, {{r2, r3, r12, lr}}
         subs r1, #4
         bhs 2b
         3:
         adds r1, #4
         beq 5f
         4:
         str r2, [r0], #4
         subs r1, #1
         bne 4b
         5:
         pop {{r4, pc}}",
    )
}
