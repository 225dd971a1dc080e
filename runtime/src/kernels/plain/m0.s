// Integer sums on Cortex-M0+ (ARMv6-M, ARMv8-M baseline): sums live in the high registers, everything else in the low ones. A
// product is MULS and ADD, and a copy where the value is needed again.

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

// \acc += r4 · r3 + r5 · r2 for the next two words of inputs.
.macro PRODUCTS acc
    ldm r1!, {{r4, r5}}
    muls r4, r3, r4
    muls r5, r2, r5
    adds r4, r4, r5
    add \acc, r4
.endm

// The word of direct weights \at bytes from r0 times the inputs of \pixels pixels: whole halfwords, or with \even their low bytes.
.macro TAP even, at, pixels
    ldr r2, [r0, #\at]
    .if \even
    sxtb r3, r2
    asrs r2, r2, #16
    sxtb r2, r2
    .else
    sxth r3, r2
    asrs r2, r2, #16
    .endif
    PRODUCTS r6
    PRODUCTS r7
    PRODUCTS r8
    PRODUCTS r9
    PRODUCTS r10
    PRODUCTS r11
    .if \pixels == 8
    PRODUCTS r12
    PRODUCTS lr
    .endif
.endm

// Moves r1, which is behind a tap's \pixels pixels, on by \by pixels less.
.macro BACK by
    .if (\by) > 0
    subs r1, #8 * (\by)
    .endif
    .if (\by) < 0
    adds r1, #-8 * (\by)
    .endif
.endm

.macro LOAD_HIGH reg, at
    ldr r3, [r2, #\at]
    mov \reg, r3
.endm

// Eight sums \at bytes from the pair's.
.macro LOAD_SUMS at
    ldr r2, [sp, #4]
    ldr r6, [r2, #\at]
    ldr r7, [r2, #\at + 4]
    LOAD_HIGH r8, \at + 8
    LOAD_HIGH r9, \at + 12
    LOAD_HIGH r10, \at + 16
    LOAD_HIGH r11, \at + 20
    LOAD_HIGH r12, \at + 24
    LOAD_HIGH lr, \at + 28
.endm

// A sum to \at bytes from r2, and, with \parted, what is left of the one behind in front of the eighth bit.
.macro STORE_SUM reg, at, parted
    mov r3, \reg
    str r3, [r2, #\at]
    .if \parted
    ldr r4, [r2, #\at + 32]
    subs r4, r4, r3
    asrs r4, r4, #8
    str r4, [r2, #\at + 32]
    .endif
.endm

.macro STORE_SUMS at, pixels, parted
    ldr r2, [sp, #4]
    STORE_SUM r6, \at, \parted
    STORE_SUM r7, \at + 4, \parted
    STORE_SUM r8, \at + 8, \parted
    STORE_SUM r9, \at + 12, \parted
    STORE_SUM r10, \at + 16, \parted
    STORE_SUM r11, \at + 20, \parted
    .if \pixels == 8
    STORE_SUM r12, \at + 24, \parted
    STORE_SUM lr, \at + 28, \parted
    .endif
.endm

// Frame: 0 inputs, 4 acc, 8 pairs of outputs, 12 end of the weights, 16 their beginning; arguments 56 bytes from it.
// fn(inputs, weight, acc, pairs, job): adds to the sums, of whole halfwords first and of even channels then; the job is the bytes
// of weights of a pair of outputs, the bytes from there to the next pair's, and whether to part the sums.
.macro DIRECT_START name
START \name
    sub sp, #20
    str r0, [sp]
    str r2, [sp, #4]
    str r3, [sp, #8]
    movs r0, r1
10:
    str r0, [sp, #16]
    ldr r2, [sp, #56]
    ldr r2, [r2]
    adds r2, r2, r0
    str r2, [sp, #12]
    LOAD_SUMS 32
    ldr r1, [sp]
11:
.endm

.macro NEXT weights, loop, end
    adds r0, #\weights
    ldr r2, [sp, #12]
    cmp r0, r2
    beq \end
    b \loop
.endm

.macro DIRECT_MIDDLE weights, pixels
    NEXT \weights, 11b, 12f
12:
    STORE_SUMS 32, \pixels, 0
    LOAD_SUMS 0
    ldr r0, [sp, #16]
    ldr r1, [sp]
13:
.endm

.macro DIRECT_END name, weights, pixels
    NEXT \weights, 13b, 14f
14:
    ldr r1, [sp, #56]
    ldr r2, [r1, #8]
    cmp r2, #0
    beq 15f
    STORE_SUMS 0, \pixels, 1
    b 16f
15:
    STORE_SUMS 0, \pixels, 0
16:
    adds r2, #64
    str r2, [sp, #4]
    ldr r2, [r1, #4]
    adds r0, r0, r2
    ldr r2, [sp, #8]
    subs r2, #1
    str r2, [sp, #8]
    beq 17f
    b 10b
17:
    add sp, #20
FINISH \name
.endm

// \unroll pairs of input channels.
.macro POINTS even, unroll, pixels
    .set at, 0
    .rept \unroll
    TAP \even, at, \pixels
    BACK \pixels - 8
    .set at, at + 4
    .endr
.endm

// 1x1, \unroll pairs of input channels at a time.
.macro POINT name, unroll, pixels
DIRECT_START \name
    POINTS 0, \unroll, \pixels
DIRECT_MIDDLE 4 * \unroll, \pixels
    POINTS 1, \unroll, \pixels
DIRECT_END \name, 4 * \unroll, \pixels
.endm

// One row of the kernel: columns lie side by side, or with stride 2 nine even ones in front of eight odd ones.
.macro ROW even, stride, pixels
    TAP \even, 0, \pixels
    BACK \pixels - 1
    .if \stride == 1
    TAP \even, 4, \pixels
    BACK \pixels - 1
    TAP \even, 8, \pixels
    BACK \pixels - 8
    .else
    TAP \even, 8, \pixels
    BACK \pixels - 8
    TAP \even, 4, \pixels
    BACK \pixels - 8
    .endif
.endm

// 3x3, one row of the kernel and one pair of channels at a time.
.macro SQUARE name, stride, pixels
DIRECT_START \name
    ROW 0, \stride, \pixels
DIRECT_MIDDLE 12, \pixels
    ROW 1, \stride, \pixels
DIRECT_END \name, 12, \pixels
.endm

POINT picodream_plain_point_1_6, 1, 6
POINT picodream_plain_point_1_8, 1, 8
POINT picodream_plain_point_4_6, 4, 6
POINT picodream_plain_point_4_8, 4, 8
SQUARE picodream_plain_square_1_6, 1, 6
SQUARE picodream_plain_square_1_8, 1, 8
SQUARE picodream_plain_square_2_6, 2, 6
SQUARE picodream_plain_square_2_8, 2, 8

// Two words from \rows to two pairs of words at r1.
.macro TWO rows
    ldm \rows!, {{r4, r6}}
    asrs r5, r4, #16
    sxth r4, r4
    asrs r7, r6, #16
    sxth r6, r6
    stm r1!, {{r4-r7}}
.endm

// fn(row, inputs, pairs, step, odd): the inputs under eight pixels as words, \count pairs of columns of each pair of channels; with
// stride 2 the odd columns lie `odd` bytes further.
.macro UNPACK name, stride, count
START \name
    mov r8, r3
    .if \stride == 2
    ldr r3, [sp, #36]
    .endif
1:
    mov r9, r0
    .rept \count
    TWO r0
    .endr
    .if \stride == 2
    ldm r0!, {{r4}}
    asrs r5, r4, #16
    sxth r4, r4
    stm r1!, {{r4, r5}}
    mov r0, r9
    adds r0, r0, r3
    .rept \count
    TWO r0
    .endr
    .endif
    mov r0, r9
    add r0, r8
    subs r2, #1
    bne 1b
FINISH \name
.endm

UNPACK picodream_plain_unpack_8, 1, 4
UNPACK picodream_plain_unpack_10, 1, 5
UNPACK picodream_plain_unpack_17, 2, 4

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
