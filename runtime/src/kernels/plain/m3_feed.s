// From f16 and 8-bit integers to quantised rows on Cortex-M3: the loops of feed.rs, which ask where integers cannot decide.

    .section .text.picodream_plain_feed, "ax", %progbits

.macro ENTRY name
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
.endm

// Asks the job's `exactly` for the element r7, and goes on at lr with what it says: in r12, or as if it were a value there.
9:
    push {{r0-r4, lr}}
    bl 13f
    mov r12, r0
    pop {{r0-r4, pc}}
11:
    push {{r0-r4, lr}}
12:
    bl 13f
    add r12, r0, r11, lsr #1
    lsl r12, r12, #16
    pop {{r0-r4, pc}}
13:
    ldr r12, [sp, #24]
    mov r1, r7
    ldrd r4, r0, [r12, #24]
    bx r4

// The same for a value r12 near a step, if need be: below zero, where integers are cut upwards, a step is only near the lower
// end of the doubt, and above zero near the upper one.
14:
    push {{r0-r4, lr}}
    sub r0, r12, r11, lsl #15
    uxth r1, r0
    asrs r0, r0, #16
    bgt 15f
    add r1, r1, #256
    cmp r1, r6, lsr #16
    bls 12b
    pop {{r0-r4, pc}}
15:
    cmp r1, #256
    bhs 12b
    sub r12, r12, #0x10000
    pop {{r0-r4, pc}}

// From the job r0, r0 behind the elements of a run, r1 its first place, r2 what r0 is from the first element, which is kept in
// place of the count, r3 the bytes from an element to the next; r12 is the job.
.macro START_RUN
    mov r12, r0
    ldm r0, {{r0-r3}}
    mul r2, r2, r3
    add r0, r0, r2
    rsbs r2, r2, #0
    str r2, [r12, #8]
.endm

// fn(job): feeds the job's runs of elements, each by the job's body; the fields are those of feed_loops.rs. Its words: factor,
// offset with the error, twice the error in the upper half, from one run to the next and from the end of its places to the next
// one's, and twice what values are raised by. r9 is a leading bit.
ENTRY picodream_plain_feed
    push {{r0, r4-r11, lr}}
    START_RUN
    ldr lr, [r12, #16]
    add r12, r12, #32
    ldm r12, {{r4-r6, r8, r10, r11}}
    mov r9, #0x400
    bx lr
10:
    ldr r12, [sp]
    add r0, r0, r8
    ldr r7, [r12, #20]
    add r1, r1, r10
    ldr r2, [r12, #8]
    subs r7, #1
    str r7, [r12, #20]
    it ne
    ldrne pc, [r12, #16]
    pop {{r0, r4-r11, pc}}

// The half at r0 as a number of 2^-25 in lr, one less where it is negative; r7 is the half. Goes to 8 for a field above 20; one
// of 0 counts as if it had a leading bit.
.macro HALF
    ldrsh r7, [r0, r2]
    ubfx r12, r7, #10, #5
    cmp r12, #20
    bhi 8f
    bfi r9, r7, #0, #10
    lsl lr, r9, r12
    eor lr, lr, r7, asr #31
.endm

// The 8-bit integer at r0 times 2^20 in lr.
.macro BYTE
    ldrsb r7, [r0, r2]
    lsl lr, r7, #20
.endm

// A body: to \bits or, where those are 0, below a limit.
.macro FEED_PLAIN name, source, bits
ENTRY \name
1:
    \source
    smull lr, r12, lr, r4
    add r12, r12, r5
    cmp r6, r12, lsl #16
    bhi 7f
2:
    .if \bits
    ssat r12, #\bits, r12, asr #16
    .else
    asr r12, r12, #16
    cmp r12, r11
    bhs 6f
    sub r12, r12, r11, lsr #1
    .endif
3:
    adds r2, r2, r3
    strh r12, [r1], #4
    bne 1b
    b 10b
    .if \bits == 0
6:
    lsr lr, r11, #1
    sub lr, lr, #1
    eor r12, lr, r12, asr #31
    b 3b
    .endif
7:
    bl 14b
    b 2b
8:
    bl 11b
    b 2b
    .size \name, . - \name
.endm

FEED_PLAIN picodream_plain_feed_halves_10, HALF, 10
FEED_PLAIN picodream_plain_feed_halves_12, HALF, 12
FEED_PLAIN picodream_plain_feed_halves, HALF, 0
FEED_PLAIN picodream_plain_feed_bytes, BYTE, 0

// The same behind a SiLU, of a single run. Words: factor, offset, error, mask, bits behind the point, multiplier, table, qmax.
ENTRY picodream_plain_feed_silu
    push {{r4-r11, lr}}
    START_RUN
    push {{r3, r12}}
    push {{r12}}
    ldr lr, [r12, #16]
    ldr r3, [r12, #60]
    add r12, r12, #32
    ldm r12, {{r4-r6, r8-r11}}
    bx lr

// As HALF, but stays at the half, and goes to 8 for a field of 0 as well.
.macro NORMAL_HALF
    ldrsh r7, [r0, r2]
    ubfx r12, r7, #10, #5
    sub lr, r12, #1
    cmp lr, #19
    bhi 8f
    ubfx lr, r7, #0, #10
    orr lr, lr, #0x400
    lsl lr, lr, r12
    eor lr, lr, r7, asr #31
.endm

.macro FEED_SILU name, load
ENTRY \name
1:
    .ifc \load, ldrsh
    NORMAL_HALF
    .else
    \load r7, [r0, r2]
    lsl lr, r7, #20
    .endif
    smull r12, lr, lr, r4
    add lr, lr, r5
    eor r12, lr, lr, asr #31
    add r12, r6, r12, lsr #22
    add r7, r12, lr
    and r7, r7, r8
    cmp r7, r12, lsl #1
    blo 8f
    asr r7, lr, r9
    add r7, r7, lr, lsr #31
    ssat r7, #18, r7
    eor r12, r7, r7, asr #31
    usat r12, #16, r12
    lsr lr, r12, #7
    ldr lr, [r11, lr, lsl #2]
    and r12, r12, #127
    bic r7, r7, r7, asr #31
    sub r7, r7, lr, asr #16
    sxth lr, lr
    mul r12, r12, lr
    sub r7, r7, r12, asr #7
    mul r7, r7, r10
    add r7, r7, #0x8000
    asr r12, r7, #16
    cmp r12, r3
    it gt
    movgt r12, r3
2:
    ldr lr, [sp, #4]
    strh r12, [r1], #4
    adds r2, r2, lr
    bne 1b
    add sp, #12
    pop {{r4-r11, pc}}
8:
    \load r7, [r0, r2]
    bl 9b
    b 2b
    .size \name, . - \name
.endm

FEED_SILU picodream_plain_feed_silu_halves, ldrsh
FEED_SILU picodream_plain_feed_silu_bytes, ldrsb
