// From f16 to quantised rows and from sums to f16 on Cortex-M3: the loops of feed.rs and finish.rs for one channel. Each stops
// in front of an element that integers cannot decide, and returns how many are left.

.macro LOOP name
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r11, lr}}
.endm

// The half at r0 as a signed number of 2^-25 in lr; r7 is the half. Leaves the loop for a field above 20, and with \subnormal
// for one of 0, which else counts as if it had a leading bit.
.macro HALF subnormal
    ldrsh r7, [r0]
    ubfx r12, r7, #10, #5
    .if \subnormal
    sub lr, r12, #1
    cmp lr, #19
    .else
    cmp r12, #20
    .endif
    bhi 99f
    ubfx lr, r7, #0, #10
    orr lr, lr, #0x400
    lsl lr, lr, r12
    eor lr, lr, r7, asr #31
    sub lr, lr, r7, asr #31
.endm

// fn(values, row, count, step, constants) -> left; constants: factor, offset with the error, twice the error in the upper half.
.macro FEED_PLAIN name, bits
LOOP \name
    ldr r7, [sp, #36]
    ldm r7, {{r4-r6}}
1:
    HALF 0
    smull r12, lr, lr, r4
    add lr, lr, r5
    cmp r6, lr, lsl #16
    bhi 99f
    add r0, r0, r3
    asr lr, lr, #16
    ssat lr, #\bits, lr
    strh lr, [r1], #4
    subs r2, #1
    bne 1b
99:
    mov r0, r2
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

FEED_PLAIN picodream_plain_feed_10, 10
FEED_PLAIN picodream_plain_feed_12, 12

// The same behind a SiLU; constants: factor, offset, error, mask, bits behind the point, multiplier, table, qmax.
LOOP picodream_plain_feed_silu
    ldr r7, [sp, #36]
    push {{r3}}
    ldm r7, {{r4-r6, r8-r11}}
    ldr r3, [r7, #28]
1:
    HALF 1
    smull r12, lr, lr, r4
    add lr, lr, r5
    eor r12, lr, lr, asr #31
    add r12, r6, r12, lsr #22
    add r7, r12, lr
    and r7, r7, r8
    cmp r7, r12, lsl #1
    blo 99f
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
    ldr r12, [sp]
    add r7, r7, #0x8000
    add r0, r0, r12
    asr r7, r7, #16
    cmp r7, r3
    it gt
    movgt r7, r3
    strh r7, [r1], #4
    subs r2, #1
    bne 1b
99:
    mov r0, r2
    add sp, #4
    pop {{r4-r11, pc}}
    .size picodream_plain_feed_silu, . - picodream_plain_feed_silu

// Sum at r0 to units in r7. Leaves the loop for one beyond 2^21.
.macro UNITS
    ldr r7, [r0]
    add lr, r7, #0x200000
    cmp lr, #0x400000
    bhs 99f
    lsl r7, r7, #10
    smull r12, r7, r7, r4
    add r7, r7, r5
.endm

// The half nearest to r7 units, which may be off by twice r11, to r1. Leaves the loop where it is in doubt; with \wide that is
// looked at where r11 may be any.
.macro NEAREST wide
    eor r12, r7, r7, asr #31
    sub r12, r12, r7, asr #31
    cmp r12, r6
    blo 99f
    clz lr, r12
    lsl r12, r12, lr
    lsl r11, r11, lr
    .if \wide
    cmp r11, #0x40000
    bhs 99f
    .endif
    add r11, r11, #512
    add r12, r10, r12, lsr #1
    add r8, r12, r11
    lsl r8, r8, #12
    cmp r8, r11, lsl #13
    blo 99f
    lsr r12, r12, #20
    sub lr, r9, lr
    add r12, r12, lr, lsl #10
    lsr r7, r7, #31
    orr r12, r12, r7, lsl #15
    strh r12, [r1]
    add r1, r1, r3
    add r0, r0, #4
    subs r2, #1
    bne 1b
99:
    mov r0, r2
    add sp, #8
    pop {{r4-r11, pc}}
.endm

.macro CONSTANTS
    ldr r7, [sp, #36]
    ldr r8, [sp, #40]
    ldm r7, {{r4-r6, r9}}
    ldr r7, [r7, #16]
    push {{r7, r8}}
    mov r10, #0x80000
.endm

// fn(sums, out, count, pitch, constants, 0) -> left; constants: factor, bias, least, exponent, half the error.
LOOP picodream_plain_finish
    CONSTANTS
1:
    UNITS
    ldr r11, [sp]
    NEAREST 0
    .size picodream_plain_finish, . - picodream_plain_finish

// The same with the halves that lie `residual` bytes from the outputs: fn(sums, out, count, pitch, constants, residual) -> left.
LOOP picodream_plain_finish_residual
    CONSTANTS
1:
    UNITS
    ldr r8, [sp, #4]
    ldrsh r8, [r1, r8]
    ubfx r12, r8, #10, #5
    cmp r12, #0
    beq 99f
    sub lr, r9, r12
    subs lr, #2
    bmi 99f
    ubfx r12, r8, #0, #10
    orr r12, r12, #0x400
    lsl r12, r12, #18
    lsr r12, r12, lr
    ldr r11, [sp]
    add r11, r11, r12, lsr #24
    eor r12, r12, r8, asr #31
    sub r12, r12, r8, asr #31
    add r7, r7, r12
    NEAREST 1
    .size picodream_plain_finish_residual, . - picodream_plain_finish_residual
