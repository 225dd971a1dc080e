// Integer sums on Cortex-M0+ (ARMv6-M, ARMv8-M baseline): sums live in the high registers, everything else in the low ones. A
// product is a copy, MULS and ADD; the last one of a value needs no copy.

.macro START name
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r7, lr}}
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    push {{r4-r7}}
.endm

.macro FINISH name
    pop {{r4-r7}}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    pop {{r4-r7, pc}}
    .size \name, . - \name
.endm

// \a += r6 · x0 + r2 · x1, \b += r7 · x0 + r3 · x1 for the two halves of the word at \at.
.macro PIXEL at, a, b
    ldr r4, [r1, #\at]
    sxth r5, r4
    asrs r4, r4, #16
    mov r0, r6
    muls r0, r5, r0
    add \a, r0
    muls r5, r7, r5
    add \b, r5
    mov r0, r2
    muls r0, r4, r0
    add \a, r0
    muls r4, r3, r4
    add \b, r4
.endm

// One word of direct weights: whole halfwords and their low bytes. [sp]: weights.
.macro WORD weight, at, pixels
    ldr r0, [sp]
    ldr r2, [r0, #\weight]
    sxth r6, r2
    sxtb r7, r2
    asrs r2, r2, #16
    sxtb r3, r2
    PIXEL \at, r8, r11
    PIXEL \at + 4, r9, r12
    .if \pixels == 3
    PIXEL \at + 8, r10, lr
    .endif
.endm

.macro ZERO
    movs r0, #0
    mov r8, r0
    mov r9, r0
    mov r10, r0
    mov r11, r0
    mov r12, r0
    mov lr, r0
.endm

// The sums S of a pixel to r0 + \at, (T - S) >> 8 to 32 bytes behind.
.macro SPLIT t, s, at
    mov r2, \t
    mov r3, \s
    subs r2, r2, r3
    asrs r2, r2, #8
    str r3, [r0, #\at]
    str r2, [r0, #\at + 32]
.endm

.macro STORE pixels
    SPLIT r8, r11, 0
    SPLIT r9, r12, 4
    .if \pixels == 3
    SPLIT r10, lr, 8
    .endif
.endm

// Frame: 0 weights, 4 list now, 8 list, 12 acc, 16 pairs; arguments behind it and 36 bytes of registers.
// fn(list, weight, acc, pairs, skip): 3x3; the list ends with null and is read again for each pair of output channels.
.macro SQUARE name, stride, pixels
START \name
    sub sp, #20
    str r1, [sp]
    str r0, [sp, #8]
    str r2, [sp, #12]
    str r3, [sp, #16]
10:
    ZERO
    ldr r0, [sp, #8]
    ldm r0!, {{r1}}
    str r0, [sp, #4]
11:
    WORD 0, 0, \pixels
    .if \stride == 1
    WORD 4, 4, \pixels
    WORD 8, 8, \pixels
    .else
    WORD 8, 4, \pixels
    ldr r0, [sp, #4]
    ldm r0!, {{r1}}
    str r0, [sp, #4]
    WORD 4, 0, \pixels
    .endif
    ldr r0, [sp]
    adds r0, #12
    str r0, [sp]
    ldr r0, [sp, #4]
    ldm r0!, {{r1}}
    str r0, [sp, #4]
    cmp r1, #0
    beq 12f
    b 11b
12:
    ldr r0, [sp, #12]
    STORE \pixels
    adds r0, #64
    str r0, [sp, #12]
    ldr r0, [sp]
    ldr r1, [sp, #56]
    adds r0, r0, r1
    str r0, [sp]
    ldr r0, [sp, #16]
    subs r0, #1
    str r0, [sp, #16]
    beq 13f
    b 10b
13:
    add sp, #20
FINISH \name
.endm

SQUARE picodream_plain_square_1, 1, 3
SQUARE picodream_plain_square_2, 2, 3

// Frame: 0 weights, 4 end of the inputs, 8 inputs, 12 acc, 16 pairs.
// fn(inputs, weight, acc, pairs, in_pairs): 1x1; \unroll pairs of input channels at a time.
.macro POINT name, unroll
START \name
    sub sp, #20
    str r1, [sp]
    str r0, [sp, #8]
    str r2, [sp, #12]
    str r3, [sp, #16]
    ldr r1, [sp, #56]
    lsls r1, r1, #5
    adds r0, r0, r1
    str r0, [sp, #4]
10:
    ZERO
    ldr r1, [sp, #8]
11:
    .set at, 0
    .rept \unroll
    WORD at, 8 * at, 3
    .set at, at + 4
    .endr
    ldr r0, [sp]
    adds r0, #4 * \unroll
    str r0, [sp]
    adds r1, #32 * \unroll
    ldr r0, [sp, #4]
    cmp r0, r1
    beq 12f
    b 11b
12:
    ldr r0, [sp, #12]
    STORE 3
    adds r0, #64
    str r0, [sp, #12]
    ldr r0, [sp, #16]
    subs r0, #1
    str r0, [sp, #16]
    beq 13f
    b 10b
13:
    add sp, #20
FINISH \name
.endm

POINT picodream_plain_point_1, 1
POINT picodream_plain_point_3, 3

// Two pairs of weights \at bytes from r12, and the inputs of two tiles: r8, r9 and r10, r11.
.macro PRODUCT weight, at
    mov r0, r12
    ldr r2, [r0, #\weight]
    ldr r3, [r0, #\weight + 4]
    sxth r6, r2
    asrs r2, r2, #16
    sxth r7, r3
    asrs r3, r3, #16
    PIXEL \at, r8, r9
    PIXEL \at + 4, r10, r11
.endm

// Frame: 0 inputs, 4 weights, 8 products, 12 positions left, 16 in_pairs · 8, 20 which half of the tiles.
// fn(tiles, weight, products, in_pairs): Winograd's products of two output channels and four tiles, two at a time.
.macro WINOGRAD name, unroll
START \name
    sub sp, #24
    str r0, [sp]
    str r1, [sp, #4]
    str r2, [sp, #8]
    movs r0, #16
    str r0, [sp, #12]
    lsls r3, r3, #3
    str r3, [sp, #16]
9:
    movs r0, #0
    str r0, [sp, #20]
10:
    ldr r0, [sp, #4]
    mov r12, r0
    ldr r2, [sp, #16]
    adds r0, r0, r2
    mov lr, r0
    ldr r1, [sp]
    ldr r0, [sp, #20]
    adds r1, r1, r0
    movs r0, #0
    mov r8, r0
    mov r9, r0
    mov r10, r0
    mov r11, r0
11:
    .set at, 0
    .rept \unroll
    PRODUCT at, 2 * at
    .set at, at + 8
    .endr
    adds r1, #16 * \unroll
    movs r0, #8 * \unroll
    add r12, r0
    cmp r12, lr
    beq 12f
    b 11b
12:
    ldr r0, [sp, #8]
    ldr r2, [sp, #20]
    adds r0, r0, r2
    mov r3, r8
    str r3, [r0]
    mov r3, r10
    str r3, [r0, #4]
    mov r3, r9
    str r3, [r0, #16]
    mov r3, r11
    str r3, [r0, #20]
    movs r3, #8
    str r3, [sp, #20]
    cmp r2, #0
    bne 13f
    b 10b
13:
    ldr r0, [sp, #8]
    adds r0, #32
    str r0, [sp, #8]
    ldr r2, [sp, #16]
    ldr r0, [sp, #4]
    adds r0, r0, r2
    str r0, [sp, #4]
    ldr r0, [sp]
    adds r0, r0, r2
    adds r0, r0, r2
    str r0, [sp]
    ldr r0, [sp, #12]
    subs r0, #1
    str r0, [sp, #12]
    beq 14f
    b 9b
14:
    add sp, #24
FINISH \name
.endm

WINOGRAD picodream_plain_winograd_1, 1
WINOGRAD picodream_plain_winograd_4, 4
