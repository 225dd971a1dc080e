// Attention's sums on Cortex-M3: f32 + f32 · f16, each rounded as floats are, in integers.

// The bit behind the 24 that \rounded has, in \rest's bit 31, and what comes after it round \rounded to nearest, ties to even.
.macro ROUND rounded, rest
    cmp \rest, #0x80000000
    adc \rounded, \rounded, #0
    it eq
    biceq \rounded, \rounded, #1
.endm

// \to += \a, shifted down by r7 with its last bit set when a bit is lost.
.macro ALIGN to, a, b
    asr r12, \b, r7
    lsl lr, r12, r7
    cmp lr, \b
    it ne
    orrne r12, r12, #1
    add \to, \a, r12
.endm

// fn(sum, x, y, count, x step, y step) -> left: *sum += *x · *y for `count` floats and halves that lie steps of bytes apart. Stops
// in front of a product that is not between normal numbers far from both ends, and of a sum that is none.
// r8 is the sum, its 24 bits times 2^5 with a sign, and r9 its exponent plus 14; a sum of zero has an exponent of zero.
START picodream_plain_accumulate
    push {{r0}}
    ldrd r10, r11, [sp, #40]
    ldr r4, [r0]
    movs r8, #0
    movs r9, #0
    lsls r5, r4, #1
    beq 1f
    lsrs r5, r5, #24
    sub r6, r5, #25
    cmp r6, #200
    bhs 99f
    add r9, r5, #14
    lsl r8, r4, #9
    lsr r8, r8, #4
    orr r8, r8, #0x10000000
    eor r8, r8, r4, asr #31
    sub r8, r8, r4, asr #31
1:
    ldr r4, [r1]
    ldrh r5, [r2]
    ubfx r6, r4, #23, #8
    ubfx r7, r5, #10, #5
    sub r12, r6, #56
    sub lr, r7, #1
    cmp r12, #144
    it lo
    cmplo lr, #30
    bhs 9f
    add r1, r1, r10
    add r2, r2, r11
    add r6, r6, r7
    eor r7, r4, r5, lsl #16
    lsls r4, r4, #8
    lsls r5, r5, #21
    orr r4, r4, #0x80000000
    orr r5, r5, #0x80000000
    umull r4, r5, r4, r5
    cmp r5, #0
    bmi 2f
    adds r4, r4, r4
    adcs r5, r5
    subs r6, #1
2:
    lsls r12, r5, #24
    orr r12, r12, r4, lsr #1
    lsrs r5, r5, #8
    ROUND r5, r12
    lsls r5, r5, #5
    eor r5, r5, r7, asr #31
    sub r5, r5, r7, asr #31
    subs r7, r9, r6
    bmi 3f
    ALIGN r8, r8, r5
    b 4f
3:
    rsbs r7, r7, #0
    ALIGN r8, r5, r8
    mov r9, r6
4:
    eor r12, r8, r8, asr #31
    subs r12, r12, r8, asr #31
    beq 6f
    clz lr, r12
    lsl r12, r12, lr
    sub r9, r9, lr
    adds r9, r9, #3
    lsl lr, r12, #24
    lsr r12, r12, #8
    ROUND r12, lr
    lsl r12, r12, #5
    eor r12, r12, r8, asr #31
    sub r8, r12, r8, asr #31
5:
    subs r3, #1
    bne 1b
9:
    // 2^23 or 2^24 without a sign, which carries into the exponent.
    eors r0, r0
    asrs r4, r8, #31
    eor r5, r8, r4
    subs r5, r5, r4
    lsrs r5, r5, #5
    beq 10f
    sub r9, r9, #15
    add r0, r5, r9, lsl #23
    bfi r0, r4, #31, #1
10:
    ldr r5, [sp]
    str r0, [r5]
99:
    mov r0, r3
    add sp, #4
    pop {{r4-r11, pc}}
6:
    movs r9, #0
    b 5b
    .size picodream_plain_accumulate, . - picodream_plain_accumulate
