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

// \a and \b += the products of the next four words: two pixels' two channels.
.macro PRODUCTS a, b
    ldm r1!, {{r2-r5}}
    muls r2, r6, r2
    muls r3, r7, r3
    muls r4, r6, r4
    muls r5, r7, r5
    adds r2, r2, r3
    adds r4, r4, r5
    add \a, r2
    add \b, r4
.endm

// The next word of direct weights, whole halfwords or with \even their low bytes, times the inputs of \pixels pixels.
.macro WORD even, pixels
    ldm r0!, {{r7}}
    .if \even
    sxtb r6, r7
    asrs r7, r7, #16
    sxtb r7, r7
    .else
    sxth r6, r7
    asrs r7, r7, #16
    .endif
    PRODUCTS r8, r9
    PRODUCTS r10, r11
    .if \pixels == 6
    PRODUCTS r12, lr
    .endif
.endm

// Bytes of code of a WORD.
.macro WORD_BYTES reg, even, pixels
    movs \reg, #6 + 2 * \even + 9 * \pixels
.endm

// Sums at r2, or zeros.
.macro LOAD_SUMS pixels
    ldr r3, [sp, #72]
    cmp r3, #0
    beq 1f
    mov r3, r2
    ldm r3!, {{r4-r7}}
    mov r8, r4
    mov r9, r5
    mov r10, r6
    mov r11, r7
    .if \pixels == 6
    ldm r3!, {{r4, r5}}
    mov r12, r4
    mov lr, r5
    .endif
    b 2f
1:
    mov r8, r3
    mov r9, r3
    mov r10, r3
    mov r11, r3
    .if \pixels == 6
    mov r12, r3
    mov lr, r3
    .endif
2:
.endm

.macro STORE_SUMS pixels
    mov r4, r8
    mov r5, r9
    mov r6, r10
    mov r7, r11
    stm r2!, {{r4-r7}}
    .if \pixels == 6
    mov r4, r12
    mov r5, lr
    stm r2!, {{r4, r5}}
    .endif
.endm

// \sum becomes what is left of \whole in front of the eighth bit.
.macro PART sum, whole
    mov r3, \whole
    subs \sum, r3, \sum
    asrs \sum, \sum, #8
.endm

// Adds up four words of weights at a time; where their number is no multiple of four, the first time begins in the middle.
.macro STREAM even, pixels, entry
    ldr r1, [sp, #4]
    ldr r3, [sp, #\entry]
    bx r3
    .p2align 2
3\even:
    .rept 4
    WORD \even, \pixels
    .endr
    ldr r2, [sp]
    cmp r0, r2
    bne 3\even\()b
    ldr r2, [sp, #8]
.endm

// fn(weight, inputs, acc, end, bytes, skip, load, part): adds the products of a pair of output channels with `bytes` of
// weights, behind which `skip` bytes are left out, and goes on with the next pair until acc is at its end. The inputs are words
// [word of weights][pixel][input channel] of \pixels pixels; as many sums of each output channel are written. They begin as
// zeros or, with `load`, as what is there. First those of low bytes are added up, S, for the even channel; then those of whole
// halfwords, T, for the odd one, which with `part` come out as (T - S) >> 8.
// Frame: 0 end of a pair's weights, 4 inputs, 8 acc, 12 end, 16 beginning of a pair's weights, where the streams begin: 20 of low
// bytes, 24 of halfwords; 64 bytes, 68 skip, 72 load, 76 part.
.macro SUMS name, pixels
START \name
    sub sp, #28
    str r1, [sp, #4]
    str r2, [sp, #8]
    str r3, [sp, #12]
    ldr r4, [sp, #64]
    rsbs r4, r4, #0
    lsls r4, r4, #28
    lsrs r4, r4, #30
    WORD_BYTES r5, 1, \pixels
    WORD_BYTES r6, 0, \pixels
    muls r5, r4, r5
    muls r6, r4, r6
    // Addresses of Thumb code are odd.
    adds r5, #1
    adds r6, #1
    adr r3, 31f
    adds r5, r5, r3
    str r5, [sp, #20]
    adr r3, 30f
    adds r6, r6, r3
    str r6, [sp, #24]
10:
    str r0, [sp, #16]
    ldr r3, [sp, #64]
    adds r3, r3, r0
    str r3, [sp]
    ldr r2, [sp, #8]
    LOAD_SUMS \pixels
    STREAM 1, \pixels, 20
    STORE_SUMS \pixels
    adds r2, #32 - 4 * \pixels
    LOAD_SUMS \pixels
    ldr r0, [sp, #16]
    STREAM 0, \pixels, 24
    ldr r3, [sp, #76]
    cmp r3, #0
    beq 11f
    ldm r2!, {{r4-r7}}
    PART r4, r8
    PART r5, r9
    PART r6, r10
    PART r7, r11
    .if \pixels == 6
    mov r8, r4
    mov r9, r5
    ldm r2!, {{r4, r5}}
    PART r4, r12
    PART r5, lr
    mov r12, r4
    mov lr, r5
    adds r2, #8
    mov r4, r8
    mov r5, r9
    stm r2!, {{r4-r7}}
    mov r4, r12
    mov r5, lr
    stm r2!, {{r4, r5}}
    .else
    adds r2, #16
    stm r2!, {{r4-r7}}
    .endif
    b 12f
11:
    adds r2, #32
    STORE_SUMS \pixels
12:
    adds r2, #32 - 4 * \pixels
    str r2, [sp, #8]
    ldr r3, [sp, #68]
    adds r0, r0, r3
    ldr r3, [sp, #12]
    cmp r2, r3
    beq 13f
    b 10b
13:
    add sp, #28
FINISH \name
.endm

SUMS picodream_plain_sums_4, 4
SUMS picodream_plain_sums_6, 6

// Two words from r0 to two pairs of words at r1.
.macro TWO
    ldm r0!, {{r4, r6}}
    asrs r5, r4, #16
    sxth r4, r4
    asrs r7, r6, #16
    sxth r6, r6
    stm r1!, {{r4-r7}}
.endm

// fn(row, words, pairs, step, columns, starts): the words under \pixels pixels of each pair of channels and each column of the
// kernel, as pairs of words. Pairs are `step` bytes apart in the row, where each column has a start.
// Frame: 0 row, 4 words, 8 pairs; 48 columns, 52 starts.
.macro UNPACK name, pixels
START \name
    push {{r0-r2}}
    subs r3, #4 * \pixels
    mov r8, r3
    ldr r3, [sp, #48]
    subs r3, #1
    movs r4, #8 * \pixels
    muls r3, r4, r3
1:
    ldr r4, [sp, #52]
    ldm r4!, {{r5}}
    str r4, [sp, #52]
    ldr r0, [sp]
    adds r0, r0, r5
    ldr r2, [sp, #8]
2:
    .rept \pixels / 2
    TWO
    .endr
    add r0, r8
    adds r1, r1, r3
    subs r2, #1
    bne 2b
    ldr r1, [sp, #4]
    adds r1, #8 * \pixels
    str r1, [sp, #4]
    ldr r2, [sp, #48]
    subs r2, #1
    str r2, [sp, #48]
    bne 1b
    add sp, #12
FINISH \name
.endm

UNPACK picodream_plain_unpack_4, 4
UNPACK picodream_plain_unpack_6, 6
