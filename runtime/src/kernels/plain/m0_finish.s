// From sums to f16 on Cortex-M0+: the loops of finish.rs for one channel. Each stops in front of an element that integers
// cannot decide, and returns how many are left.

// \value shifted left by \step, and r6 raised by it, where that keeps it below 2^31.
.macro NORMALISE step
    lsrs r7, r4, #31 - \step
    bne 2f
    lsls r4, r4, #\step
    adds r6, #\step
2:
.endm

// fn(sums, out, count, pitch, constants, residual) -> left: with \residual, halves lie that many bytes from the outputs.
// Constants: three pieces of the factor, bias, least, exponent, half the error.
.macro ENDS name, residual
START \name
    mov r12, r3
    mov lr, r2
    ldr r2, [sp, #36]
    ldr r3, [r2, #12]
    mov r9, r3
    ldr r3, [r2, #16]
    mov r10, r3
    movs r3, #1
    lsls r3, r3, #19
    mov r11, r3
    lsls r3, r3, #2
    mov r8, r3
1:
    ldr r4, [r0]
    mov r5, r8
    adds r5, r5, r4
    lsrs r5, r5, #22
    bne 99f
    ldr r6, [r2, #8]
    muls r6, r4, r6
    asrs r6, r6, #8
    ldr r5, [r2, #4]
    muls r5, r4, r5
    adds r5, r5, r6
    asrs r5, r5, #7
    ldr r6, [r2]
    muls r4, r6, r4
    adds r4, r4, r5
    add r4, r9
    .if \residual
    ldr r5, [sp, #40]
    ldrh r5, [r1, r5]
    lsls r6, r5, #17
    lsrs r6, r6, #27
    beq 99f
    ldr r7, [r2, #20]
    subs r7, r7, r6
    subs r7, #2
    bmi 99f
    lsls r6, r5, #22
    lsrs r6, r6, #4
    movs r3, #1
    lsls r3, r3, #28
    adds r6, r6, r3
    lsrs r6, r7
    lsrs r3, r6, #24
    lsls r5, r5, #17
    bcc 3f
    rsbs r6, r6, #0
3:
    adds r4, r4, r6
    .endif
    asrs r5, r4, #31
    eors r4, r5
    subs r4, r4, r5
    cmp r4, r10
    blo 99f
    movs r6, #1
    NORMALISE 8
    NORMALISE 4
    NORMALISE 2
    NORMALISE 1
    ldr r7, [r2, #24]
    .if \residual
    adds r7, r7, r3
    lsls r7, r6
    lsrs r3, r7, #18
    bne 99f
    .else
    lsls r7, r6
    .endif
    adds r7, #255
    adds r7, #255
    add r4, r11
    adds r3, r4, r7
    lsls r3, r3, #12
    lsls r7, r7, #13
    cmp r3, r7
    blo 99f
    lsrs r4, r4, #20
    ldr r3, [r2, #20]
    subs r3, r3, r6
    lsls r3, r3, #10
    adds r4, r4, r3
    lsls r5, r5, #15
    orrs r4, r5
    strh r4, [r1]
    add r1, r12
    adds r0, #4
    mov r3, lr
    subs r3, #1
    mov lr, r3
    bne 1b
99:
    mov r0, lr
FINISH \name
.endm

ENDS picodream_plain_finish, 0
ENDS picodream_plain_finish_residual, 1
