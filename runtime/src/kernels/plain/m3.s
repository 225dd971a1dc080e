// Integer sums on Cortex-M3 (and any ARMv7-M or ARMv8-M mainline core without DSP): two output channels by four pixels, one MLA
// a product. r4 to r7 are the sums of one channel, r8 to r11 of the other.

.macro START name
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r11, lr}}
.endm

.macro ZERO
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
    mov r8, r4
    mov r9, r4
    mov r10, r4
    mov r11, r4
.endm

// Inputs of one channel as words \at bytes from r1, for \pixels pixels: r2 and r3 are the two weights.
.macro WORDS at, pixels
    ldrd r12, lr, [r1, #\at]
    mla r4, r2, r12, r4
    mla r8, r3, r12, r8
    mla r5, r2, lr, r5
    mla r9, r3, lr, r9
    .if \pixels == 4
    ldrd r12, lr, [r1, #\at + 8]
    mla r6, r2, r12, r6
    mla r10, r3, r12, r10
    mla r7, r2, lr, r7
    mla r11, r3, lr, r11
    .else
    ldr r12, [r1, #\at + 8]
    mla r6, r2, r12, r6
    mla r10, r3, r12, r10
    .endif
.endm

// One word of direct weights \weight bytes from r0, whole halfwords and their low bytes, and the inputs of its two channels,
// \lane bytes apart.
.macro TAP weight, at, lane, pixels
    ldrsh r2, [r0, #\weight]
    ldrsb r3, [r0, #\weight]
    WORDS \at, \pixels
    ldrsh r2, [r0, #\weight + 2]
    ldrsb r3, [r0, #\weight + 2]
    WORDS \at + \lane, \pixels
.endm

// Frame: 0 inputs, 4 acc, 8 pairs of outputs, 12 end of the weights; arguments 52 bytes from it.
// fn(inputs, weight, acc, pairs, job): adds to the sums, in front of the eighth bit whole halfwords' and even channels'; the job is
// the bytes of weights of a pair of outputs, the bytes from there to the next pair's, and whether to part the sums.
.macro DIRECT_START name
START \name
    push {{r0, r2, r3, r4}}
    mov r0, r1
10:
    ldr r2, [sp, #4]
    ldr r3, [sp, #52]
    ldr r1, [sp]
    ldr r12, [r3]
    ldrd r8, r9, [r2]
    ldrd r10, r11, [r2, #8]
    add r12, r12, r0
    ldrd r4, r5, [r2, #32]
    ldrd r6, r7, [r2, #40]
    str r12, [sp, #12]
11:
.endm

.macro DIRECT_END name, weights, inputs, pixels
    adds r0, #\weights
    ldr r12, [sp, #12]
    adds r1, #\inputs
    cmp r0, r12
    bne 11b
    ldr r2, [sp, #4]
    ldr r3, [sp, #52]
    ldrd r12, lr, [r3, #4]
    cmp lr, #0
    beq 12f
    subs r4, r4, r8
    subs r5, r5, r9
    sub r6, r6, r10
    sub r7, r7, r11
    asr r4, r4, #8
    asr r5, r5, #8
    asr r6, r6, #8
    asr r7, r7, #8
12:
    strd r8, r9, [r2]
    strd r4, r5, [r2, #32]
    .if \pixels == 4
    strd r10, r11, [r2, #8]
    strd r6, r7, [r2, #40]
    .else
    str r10, [r2, #8]
    str r6, [r2, #40]
    .endif
    adds r2, #64
    str r2, [sp, #4]
    add r0, r0, r12
    ldr r2, [sp, #8]
    subs r2, #1
    str r2, [sp, #8]
    bne 10b
    add sp, #16
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

// 1x1, \unroll pairs of input channels at a time.
.macro POINT name, unroll, pixels
DIRECT_START \name
    .set at, 0
    .rept \unroll
    TAP at, 16 * at, 32, \pixels
    .set at, at + 4
    .endr
DIRECT_END \name, 4 * \unroll, 64 * \unroll, \pixels
.endm

// 3x3, one row of the kernel and one pair of channels at a time.
.macro SQUARE name, lane, right, middle, pixels
DIRECT_START \name
    TAP 0, 0, \lane, \pixels
    TAP 8, \right, \lane, \pixels
    TAP 4, \middle, \lane, \pixels
DIRECT_END \name, 12, 2 * \lane, \pixels
.endm

POINT picodream_plain_point_1_3, 1, 3
POINT picodream_plain_point_1_4, 1, 4
POINT picodream_plain_point_4_3, 4, 3
POINT picodream_plain_point_4_4, 4, 4
SQUARE picodream_plain_square_1_3, 40, 8, 4, 3
SQUARE picodream_plain_square_1_4, 40, 8, 4, 4
SQUARE picodream_plain_square_2_3, 68, 4, 36, 3
SQUARE picodream_plain_square_2_4, 68, 4, 36, 4

// Two words \from bytes from \rows to words \at bytes from r1, the second channel's \lane further.
.macro TWO rows, from, at, lane
    ldrd r4, r5, [\rows, #\from]
    sxth r6, r4
    sxth r7, r5
    strd r6, r7, [r1, #\at]
    asrs r4, r4, #16
    asrs r5, r5, #16
    strd r4, r5, [r1, #\at + \lane]
.endm

// fn(row, inputs, pairs, step, odd): the inputs under eight pixels as words, \count pairs of columns of each pair of channels;
// with stride 2 the odd columns lie \odd bytes further.
.macro UNPACK name, lane, count
START \name
    .if \lane == 68
    ldr r8, [sp, #36]
    add r8, r8, r0
    .endif
1:
    .set at, 0
    .rept \count
    TWO r0, at, at, \lane
    .set at, at + 8
    .endr
    .if \lane == 68
    ldr r4, [r0, #32]
    sxth r5, r4
    asrs r4, r4, #16
    str r5, [r1, #32]
    str r4, [r1, #100]
    .set at, 0
    .rept 4
    TWO r8, at, at + 36, \lane
    .set at, at + 8
    .endr
    add r8, r8, r3
    .endif
    add r0, r0, r3
    adds r1, #2 * \lane
    subs r2, #1
    bne 1b
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

UNPACK picodream_plain_unpack_8, 32, 4
UNPACK picodream_plain_unpack_10, 40, 5
UNPACK picodream_plain_unpack_17, 68, 4

// Two sums of each of four inputs \at bytes from r1: r2 and r3 are the two weights.
.macro LANE at
    ldrsh r12, [r1, #\at]
    mla r4, r2, r12, r4
    mla r8, r3, r12, r8
    ldrsh r12, [r1, #\at + 4]
    mla r5, r2, r12, r5
    mla r9, r3, r12, r9
    ldrsh r12, [r1, #\at + 8]
    mla r6, r2, r12, r6
    mla r10, r3, r12, r10
    ldrsh r12, [r1, #\at + 12]
    mla r7, r2, r12, r7
    mla r11, r3, r12, r11
.endm

// fn(tiles, weight, products, in_pairs): Winograd's products of two output channels and four tiles.
.macro WINOGRAD name, unroll
START \name
    push {{r2, r3}}
    mov r12, #16
    push {{r12}}
    mov r3, r1
    mov r1, r0
    mov r0, r3
10:
    ldr lr, [sp, #8]
    ZERO
11:
    .set at, 0
    .rept \unroll
    ldrsh r2, [r0, #at]
    ldrsh r3, [r0, #at + 4]
    LANE 2 * at
    ldrsh r2, [r0, #at + 2]
    ldrsh r3, [r0, #at + 6]
    LANE 2 * at + 2
    .set at, at + 8
    .endr
    adds r0, #8 * \unroll
    adds r1, #16 * \unroll
    subs lr, #\unroll
    bne 11b
    ldr r2, [sp, #4]
    stm r2!, {{r4-r11}}
    str r2, [sp, #4]
    ldr r2, [sp]
    subs r2, #1
    str r2, [sp]
    bne 10b
    add sp, #12
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

WINOGRAD picodream_plain_winograd_1, 1
WINOGRAD picodream_plain_winograd_4, 4
