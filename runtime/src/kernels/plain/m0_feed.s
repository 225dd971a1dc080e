// From f16 and 8-bit integers to quantised rows on Cortex-M0+: the loops of feed.rs, which ask where integers cannot decide.

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
    blo 5f
    asrs r7, r7, #16
4:
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
5:
    // Below zero, where integers are cut upwards, a step is only near the lower end of the doubt, and above near the upper one.
    movs r6, #1
    lsls r6, r6, #24
    asrs r7, r7, #16
    add r7, lr
    cmp r7, #0
    bgt 8f
    adds r5, r5, r6
    cmp r5, r11
    bls 7f
    b 9f
8:
    cmp r5, r6
    bhs 7f
    subs r7, #1
9:
    mov r6, lr
    subs r7, r7, r6
    movs r6, #22
    b 4b
6:
    // Below, the negative; above, one less than its opposite.
    asrs r5, r7, #31
    mov r7, lr
    mvns r7, r7
    eors r7, r5
    b 3b
7:
    movs r6, #22
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
