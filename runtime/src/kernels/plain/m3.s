// Integer sums on Cortex-M3 (and any ARMv7-M or ARMv8-M mainline core without DSP): blocks of two output channels by four pixels,
// one MLA a product. r4 to r7 are the sums of one channel, r8 to r11 of the other.

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

// One word of direct weights at \weight bytes from r0: whole halfwords and their low bytes.
.macro WORD weight, at
    ldrsh r2, [r0, #\weight]
    ldrsb r3, [r0, #\weight]
    LANE \at
    ldrsh r2, [r0, #\weight + 2]
    ldrsb r3, [r0, #\weight + 2]
    LANE \at + 2
.endm

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

// Stores the sums S at r2 and (T - S) >> 8 behind them.
.macro SPLIT channel, low, high, at
    sub \low, \low, \high
    asr \low, \low, #8
    str \high, [r2, #\at]
    str \low, [r2, #\at + 32]
.endm

.macro STORE
    SPLIT 0, r4, r8, 0
    SPLIT 0, r5, r9, 4
    SPLIT 0, r6, r10, 8
    SPLIT 0, r7, r11, 12
.endm

// fn(list, weight, acc, pairs): 3x3; the list ends with null and is read again for each pair of output channels; [sp]: bytes of
// weights of rows that are not there.
.macro SQUARE name, stride
START \name
    push {{r0, r2, r3}}
    mov lr, r0
    mov r0, r1
10:
    ZERO
    ldr r1, [lr], #4
11:
    WORD 0, 0
    .if \stride == 1
    WORD 4, 4
    WORD 8, 8
    .else
    WORD 8, 4
    ldr r1, [lr], #4
    WORD 4, 0
    .endif
    ldr r1, [lr], #4
    adds r0, #12
    cmp r1, #0
    bne 11b
    ldr r2, [sp, #4]
    STORE
    adds r2, #64
    str r2, [sp, #4]
    ldr lr, [sp]
    ldr r2, [sp, #48]
    add r0, r2
    ldr r2, [sp, #8]
    subs r2, #1
    str r2, [sp, #8]
    bne 10b
    add sp, #12
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

SQUARE picodream_plain_square_1, 1
SQUARE picodream_plain_square_2, 2

// fn(inputs, weight, acc, pairs, in_pairs): 1x1; \unroll pairs of input channels at a time.
.macro POINT name, unroll
START \name
    push {{r0, r2, r3}}
    mov r2, r0
    mov r0, r1
10:
    ldr lr, [sp, #48]
    ldr r1, [sp]
    ZERO
11:
    .set at, 0
    .rept \unroll
    WORD at, 8 * at
    .set at, at + 4
    .endr
    adds r0, #4 * \unroll
    adds r1, #32 * \unroll
    subs lr, #\unroll
    bne 11b
    ldr r2, [sp, #4]
    STORE
    adds r2, #64
    str r2, [sp, #4]
    ldr r2, [sp, #8]
    subs r2, #1
    str r2, [sp, #8]
    bne 10b
    add sp, #12
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

POINT picodream_plain_point_1, 1
POINT picodream_plain_point_4, 4

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
