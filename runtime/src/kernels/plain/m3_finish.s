// From sums to f16 on Cortex-M3: the loops of finish.rs for one channel. Each stops in front of an element that integers
// cannot decide, and returns how many are left.

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
START picodream_plain_finish
    CONSTANTS
1:
    UNITS
    ldr r11, [sp]
    NEAREST 0
    .size picodream_plain_finish, . - picodream_plain_finish

// The same with the halves that lie `residual` bytes from the outputs: fn(sums, out, count, pitch, constants, residual) -> left.
START picodream_plain_finish_residual
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
