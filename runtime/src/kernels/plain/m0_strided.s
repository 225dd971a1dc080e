// Minimal filtering at stride 2 on Cortex-M0+: products of one or two positions, for all output channels. Behind
// `m0_direct.s`, whose macros it uses.

// \a += the products of the next two words: one tile's two channels.
.macro PRODUCT_OF_ONE a
    ldm r1!, {{r2, r3}}
    muls r2, r6, r2
    muls r3, r7, r3
    adds r2, r2, r3
    add \a, r2
.endm

// The word of weights \at bytes from r0 by the inputs of \tiles tiles.
.macro STRIDED_WORD at, tiles
    ldr r7, [r0, #\at]
    sxth r6, r7
    asrs r7, r7, #16
    PRODUCTS r8, r9
    .if \tiles == 4
    PRODUCTS r10, r11
    .else
    PRODUCT_OF_ONE r10
    .endif
.endm

// fn(weight, inputs, sums, end, quad_step, bytes, load, jump): adds the products of a position to four sums of each output
// channel, up to `end`: four words of weights at a time, every other word, `quad_step` bytes apart, `bytes` of them; then, when
// `jump` is not 0, those of a second position as many bytes on, less 1. The other channel of a pair of output channels has the
// words between, the next pair those 32 bytes on. Inputs are words [position][pair of input channels][tile][2]. The sums begin
// as zeros or, with `load`, as what is there.
// Frame: 4 inputs, 8 sums, 12 end, 16 weights of the pair of output channels, 20 those of this one; r12: end of the weights,
// lr: jump or 0.
.macro STRIDED_SUMS name, tiles
START \name
    sub sp, #28
    str r1, [sp, #4]
    str r2, [sp, #8]
    str r3, [sp, #12]
10:
    str r0, [sp, #16]
11:
    str r0, [sp, #20]
    ldr r2, [sp, #8]
    LOAD_SUMS 4
    ldr r1, [sp, #4]
    ldr r3, [sp, #76]
    mov lr, r3
12:
    ldr r3, [sp, #68]
    adds r3, r3, r0
    mov r12, r3
31:
    STRIDED_WORD 0, \tiles
    STRIDED_WORD 8, \tiles
    STRIDED_WORD 16, \tiles
    STRIDED_WORD 24, \tiles
    ldr r3, [sp, #64]
    adds r0, r0, r3
    cmp r0, r12
    bne 31b
    mov r3, lr
    cmp r3, #0
    beq 13f
    adds r0, r0, r3
    subs r0, #1
    movs r3, #0
    mov lr, r3
    b 12b
13:
    ldr r2, [sp, #8]
    STORE_SUMS 4
    str r2, [sp, #8]
    // The other channel of the pair begins a word further, the next pair eight.
    ldr r0, [sp, #20]
    ldr r3, [sp, #16]
    cmp r0, r3
    bne 14f
    adds r0, #4
    b 11b
14:
    adds r0, #28
    ldr r3, [sp, #12]
    cmp r2, r3
    beq 15f
    b 10b
15:
    add sp, #28
FINISH \name
.endm

STRIDED_SUMS picodream_plain_strided_4, 4
STRIDED_SUMS picodream_plain_strided_3, 3

// fn(inputs, words, pairs): the words of \tiles of four tiles of each pair of channels, as pairs of words.
.macro STRIDED_UNPACK name, tiles
START \name
1:
    TWO
    .if \tiles == 4
    TWO
    .else
    ldm r0!, {{r4, r6}}
    asrs r5, r4, #16
    sxth r4, r4
    stm r1!, {{r4, r5}}
    .endif
    subs r2, #1
    bne 1b
FINISH \name
.endm

STRIDED_UNPACK picodream_plain_strided_unpack_4, 4
STRIDED_UNPACK picodream_plain_strided_unpack_3, 3

// Behind an exclusive or with 2^15, which r1 is, a word is upper · 2^16 + lower + 2^15, and differences of such words are numbers
// without a carry in between: the word \reg of such a number to r0, which then moves on by \step.
.macro PUT_NUMBER reg, step
    adds \reg, \reg, r1
    eors \reg, r1
    str \reg, [r0]
    .ifnb \step
    add r0, \step
    .endif
.endm

.macro PUT_WORD reg, step
    str \reg, [r0]
    .ifnb \step
    add r0, \step
    .endif
.endm

// Less the number of the row in the middle at [sp, #\at].
.macro LESS reg, at
    ldr r3, [sp, #\at]
    subs \reg, \reg, r3
.endm

// Of the row at [sp, #\row]: the first column less the third one to r4, the third one to r5, the fifth less the third one to r6,
// with r2 at the second and the fourth one.
.macro ACROSS_ROW row
    ldr r2, [sp, #\row]
    add r2, r12
    ldm r2!, {{r4, r5}}
    ldr r6, [r2]
    add r2, r11
    eors r4, r1
    eors r5, r1
    eors r6, r1
    subs r4, r4, r5
    subs r6, r6, r5
.endm

// A row less the one in the middle: its positions are 1, 4, 6 and 7 from the first.
.macro OUTER_ROW row
    ACROSS_ROW \row
    LESS r4, 0
    PUT_NUMBER r4, r8
    ldr r4, [r2]
    eors r4, r1
    LESS r4, 4
    PUT_NUMBER r4, r10
    LESS r5, 8
    PUT_NUMBER r5, r9
    LESS r6, 12
    PUT_NUMBER r6, r8
    ldr r4, [r2, #4]
    eors r4, r1
    LESS r4, 16
    PUT_NUMBER r4
.endm

// A row as it is: its positions are 1, 3, 6 and 7 from the first.
.macro INNER_ROW row
    ACROSS_ROW \row
    PUT_NUMBER r4, r8
    ldr r4, [r2]
    PUT_WORD r4, r9
    eors r5, r1
    PUT_WORD r5, r10
    PUT_NUMBER r6, r8
    ldr r4, [r2, #4]
    PUT_WORD r4
.endm

// fn(job: &Input): 25 positions of four tiles of every pair of channels. r8, r9, r10: one, two and three positions, r11: from the
// even columns to the odd ones, less 8, r12: how far the tile is from the beginning of a row, lr: from four tiles to the next.
// Frame: 0 the row in the middle, 20 the rows, 40 first position, 44 tiles left, 48 pairs left.
START picodream_plain_strided_input
    sub sp, #52
    mov r7, r0
    add r6, sp, #20
    ldm r7!, {{r1-r5}}
    stm r6!, {{r1-r5}}
    // Odd columns, pair step, pairs, tiles, bytes of a position.
    ldm r7!, {{r1-r5}}
    subs r1, #8
    mov r11, r1
    subs r2, #32
    mov lr, r2
    str r3, [sp, #48]
    str r4, [sp, #40]
    mov r8, r5
    lsls r1, r5, #1
    mov r9, r1
    adds r1, r1, r5
    mov r10, r1
    movs r1, #0
    mov r12, r1
    movs r1, #1
    lsls r1, r1, #15
1:
    movs r3, #4
    str r3, [sp, #44]
2:
    ACROSS_ROW 28
    str r4, [sp]
    str r5, [sp, #8]
    str r6, [sp, #12]
    ldm r2!, {{r4, r5}}
    eors r4, r1
    eors r5, r1
    str r4, [sp, #4]
    str r5, [sp, #16]
    ldr r0, [sp, #40]
    OUTER_ROW 20
    // From position 7 to 2.
    mov r3, r9
    subs r0, r0, r3
    mov r3, r10
    subs r0, r0, r3
    INNER_ROW 24
    add r0, r8
    // The five of the row in the middle run on.
    add r2, sp, #0
    ldm r2!, {{r3-r7}}
    eors r4, r1
    eors r5, r1
    eors r7, r1
    PUT_NUMBER r3, r8
    PUT_WORD r4, r8
    PUT_WORD r5, r8
    PUT_NUMBER r6, r8
    PUT_WORD r7, r8
    OUTER_ROW 36
    mov r3, r9
    subs r0, r0, r3
    mov r3, r10
    subs r0, r0, r3
    INNER_ROW 32
    movs r3, #8
    add r12, r3
    ldr r3, [sp, #40]
    adds r3, #4
    str r3, [sp, #40]
    ldr r3, [sp, #44]
    subs r3, #1
    str r3, [sp, #44]
    beq 3f
    b 2b
3:
    add r12, lr
    ldr r3, [sp, #48]
    subs r3, #1
    str r3, [sp, #48]
    beq 4f
    b 1b
4:
    add sp, #52
FINISH picodream_plain_strided_input
