// From f16 to quantised rows and from sums to f16 on Cortex-M0+: the loops of feed.rs and finish.rs. Those of finish.rs stop
// in front of an element that integers cannot decide, and return how many are left; those of feed.rs ask for it.

// Asks the job's `exactly` for the element r4, and puts what it says into \to; the job is in r7. r12 and lr are kept, and with
// \silu r0 and r1, else r0 to r3.
.macro ASK to, silu
    .if \silu
    push {{r0, r1}}
    .else
    push {{r0-r3}}
    .endif
    mov r1, r12
    mov r2, lr
    push {{r1, r2}}
    movs r1, r4
    ldr r0, [r7, #28]
    ldr r2, [r7, #24]
    blx r2
    movs \to, r0
    pop {{r1, r2}}
    mov r12, r1
    mov lr, r2
    .if \silu
    pop {{r0, r1}}
    .else
    pop {{r0-r3}}
    .endif
.endm

// fn(job): feeds the job's runs of elements; the fields are those of feed_loops.rs. The words: 21 bits of the factor, offset with
// the error, twice the error in the upper half, twice what values are raised by, the negative of that, and from one run to the
// next, of elements and of places. r1 is behind a run's places, r2 what the next one is from there. A subnormal half counts as
// if it had a leading bit.
.macro FEED_PLAIN name, halves
START \name
    push {{r0}}
    ldr r3, [r0, #12]
    mov r8, r3
    ldr r3, [r0, #36]
    mov r10, r3
    ldr r3, [r0, #40]
    mov r11, r3
    ldr r3, [r0, #44]
    mov r12, r3
    ldr r3, [r0, #48]
    mov lr, r3
    movs r6, #22
    movs r3, #1
    lsls r3, r3, #10
    mov r9, r3
    ldr r3, [r0, #32]
10:
    ldr r7, [sp]
    ldm r7!, {{r0-r2}}
    lsls r2, r2, #2
    adds r1, r1, r2
    rsbs r2, r2, #0
1:
    .if \halves
    ldrh r4, [r0]
    lsls r5, r4, #17
    lsrs r5, r5, #27
    subs r5, r6, r5
    cmp r5, #2
    blt 7f
    lsls r7, r4, #22
    lsrs r7, r7, #22
    add r7, r9
    muls r7, r3, r7
    lsrs r7, r5
    lsls r5, r4, #17
    bcc 2f
    rsbs r7, r7, #0
2:
    .else
    ldrb r4, [r0]
    sxtb r7, r4
    muls r7, r3, r7
    asrs r7, r7, #2
    .endif
    add r7, r10
    lsls r5, r7, #16
    cmp r5, r11
    blo 7f
    asrs r7, r7, #16
    cmp r7, r12
    bhs 6f
    add r7, lr
3:
    add r0, r8
    strh r7, [r1, r2]
    adds r2, #4
    bne 1b
    ldr r7, [sp]
    ldr r0, [r7]
    ldr r1, [r7, #52]
    adds r0, r0, r1
    str r0, [r7]
    ldr r0, [r7, #4]
    ldr r1, [r7, #56]
    adds r0, r0, r1
    str r0, [r7, #4]
    ldr r0, [r7, #20]
    subs r0, #1
    str r0, [r7, #20]
    bne 10b
    add sp, #4
FINISH \name
6:
    // Below, the negative; above, one less than its opposite.
    asrs r5, r7, #31
    mov r7, lr
    mvns r7, r7
    eors r7, r5
    b 3b
7:
    ldr r7, [sp]
    ASK r7, 0
    b 3b
.endm

FEED_PLAIN picodream_plain_feed_halves, 1
FEED_PLAIN picodream_plain_feed_bytes, 0

// The same behind a SiLU, of a single run. Words: upper and lower half of the factor, offset, error, mask, bits behind the point,
// multiplier, table, qmax, 2^15, the factor's sign in that bit.
.macro FEED_SILU name, halves
START \name
    push {{r0}}
    movs r7, r0
    ldr r2, [r7, #8]
    mov lr, r2
    ldr r2, [r7, #12]
    mov r8, r2
    ldm r7!, {{r0, r1}}
    adds r7, #24
    ldr r2, [r7, #8]
    mov r10, r2
    ldr r2, [r7, #12]
    mov r12, r2
    ldr r2, [r7, #40]
    mov r11, r2
    movs r2, #1
    lsls r2, r2, #10
    mov r9, r2
1:
    .if \halves
    ldrh r2, [r0]
    lsls r3, r2, #17
    lsrs r3, r3, #27
    subs r4, r3, #1
    cmp r4, #20
    bhs 9f
    movs r4, #20
    subs r3, r4, r3
    lsls r4, r2, #22
    lsrs r4, r4, #22
    add r4, r9
    .else
    ldrb r2, [r0]
    sxtb r4, r2
    asrs r3, r4, #31
    eors r4, r3
    subs r4, r4, r3
    lsls r2, r2, #8
    movs r3, #0
    .endif
    ldr r5, [r7]
    muls r5, r4, r5
    lsls r5, r5, #4
    ldr r6, [r7, #4]
    muls r4, r6, r4
    lsrs r4, r4, #12
    adds r5, r5, r4
    lsrs r5, r3
    mov r3, r11
    eors r2, r3
    lsls r2, r2, #17
    bcc 2f
    rsbs r5, r5, #0
2:
    add r5, r10
    asrs r3, r5, #31
    movs r4, r5
    eors r4, r3
    lsrs r4, r4, #22
    add r4, r12
    adds r6, r5, r4
    ldr r2, [r7, #16]
    ands r6, r2
    lsls r4, r4, #1
    cmp r6, r4
    blo 9f
    ldr r2, [r7, #20]
    asrs r5, r2
    subs r5, r5, r3
    asrs r3, r5, #31
    eors r5, r3
    lsrs r4, r5, #16
    bne 9f
    lsrs r4, r5, #7
    lsls r4, r4, #2
    ldr r2, [r7, #28]
    ldr r4, [r2, r4]
    movs r6, #127
    ands r6, r5
    sxth r2, r4
    muls r6, r2, r6
    asrs r6, r6, #7
    asrs r4, r4, #16
    adds r4, r4, r6
    bics r5, r3
    subs r5, r5, r4
    ldr r2, [r7, #24]
    muls r5, r2, r5
    ldr r2, [r7, #36]
    adds r5, r5, r2
    asrs r5, r5, #16
    ldr r2, [r7, #32]
    cmp r5, r2
    ble 3f
    movs r5, r2
3:
    strh r5, [r1]
    adds r1, #4
    add r0, r8
    mov r2, lr
    subs r2, #1
    mov lr, r2
    bne 1b
    add sp, #4
FINISH \name
9:
    .if \halves
    ldrh r4, [r0]
    .else
    ldrb r4, [r0]
    .endif
    subs r7, #32
    ASK r5, 1
    adds r7, #32
    b 3b
.endm

FEED_SILU picodream_plain_feed_silu_halves, 1
FEED_SILU picodream_plain_feed_silu_bytes, 0

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
