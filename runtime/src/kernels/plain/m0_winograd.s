// Winograd's transforms and products on Cortex-M0+, inputs two channels at a time without instructions for it: a word with 2^15
// added to its lower half, an exclusive or, is upper · 2^16 + lower + 2^15, and such numbers add and subtract without a carry in
// between.

// The next two columns to \c and \d: row r8 \op row r9. r1 is 2^15.
.macro COLUMNS op, c, d
    mov r2, r8
    ldm r2!, {{\c, \d}}
    mov r8, r2
    mov r2, r9
    ldr r3, [r2]
    eors \c, r1
    eors r3, r1
    \op \c, \c, r3
    ldr r3, [r2, #4]
    eors \d, r1
    eors r3, r1
    \op \d, \d, r3
    adds r2, #8
    mov r9, r2
    .ifc \op, adds
    lsls r3, r1, #1
    subs \c, \c, r3
    subs \d, \d, r3
    .endif
.endm

// The word \a \op \b to r0.
.macro PUT op, a, b
    \op r2, \a, \b
    adds r2, r2, r1
    eors r2, r1
    str r2, [r0]
.endm

// One tile's four words, in columns \a to \d, to their positions; r10 bytes lie between those, r11 is three times as much less 4.
.macro TILE a, b, c, d
    PUT subs, \a, \c
    add r0, r10
    PUT adds, \b, \c
    add r0, r10
    PUT subs, \c, \b
    add r0, r10
    PUT subs, \b, \d
    mov r3, r11
    subs r0, r0, r3
.endm

// Four tiles of every pair of channels, rows r8 and r9 combined by \op.
.macro TILES op
1:
    COLUMNS \op, r4, r5
    movs r2, #2
2:
    mov r12, r2
    COLUMNS \op, r6, r7
    TILE r4, r5, r6, r7
    COLUMNS \op, r4, r5
    TILE r6, r7, r4, r5
    mov r2, r12
    subs r2, #1
    bne 2b
    mov r3, lr
    add r8, r3
    add r9, r3
    ldr r3, [sp, #36]
    subs r3, #1
    str r3, [sp, #36]
    beq 9f
    b 1b
.endm

// fn(tiles, position, row, other, pairs, step, sign): one row of Bt·d·B for four tiles of every pair of channels, from row plus
// `sign` (1 or -1) times the other row. Ten columns go to four positions, `position` bytes apart; pairs are `step` bytes apart
// in the rows.
START picodream_plain_winograd_input
    mov r8, r2
    mov r9, r3
    mov r10, r1
    lsls r3, r1, #1
    adds r3, r3, r1
    subs r3, #4
    mov r11, r3
    ldr r3, [sp, #40]
    subs r3, #40
    mov lr, r3
    movs r1, #1
    lsls r1, r1, #15
    ldr r3, [sp, #44]
    cmp r3, #0
    blt 8f
    TILES adds
8:
    TILES subs
9:
FINISH picodream_plain_winograd_input

// fn(products, acc): At·M·A / 4 of two channels and four tiles. r4, r5 are the upper pixels, r6, r7 the lower ones.
START picodream_plain_winograd_output
    movs r2, #8
1:
    mov r8, r2
    ldr r2, [r0, #32]
    ldr r3, [r0, #64]
    adds r4, r2, r3
    subs r5, r2, r3
    ldr r2, [r0]
    ldr r3, [r0, #96]
    adds r4, r4, r2
    subs r5, r5, r3
    adds r0, #128
    ldr r2, [r0, #32]
    ldr r3, [r0, #64]
    adds r6, r2, r3
    subs r7, r2, r3
    ldr r2, [r0]
    ldr r3, [r0, #96]
    adds r6, r6, r2
    subs r7, r7, r3
    adds r4, r4, r6
    adds r5, r5, r7
    adds r0, #128
    ldr r2, [r0, #32]
    ldr r3, [r0, #64]
    adds r4, r4, r2
    adds r4, r4, r3
    adds r5, r5, r2
    subs r5, r5, r3
    subs r6, r6, r2
    subs r6, r6, r3
    subs r7, r7, r2
    adds r7, r7, r3
    ldr r2, [r0]
    ldr r3, [r0, #96]
    adds r4, r4, r2
    subs r5, r5, r3
    subs r6, r6, r2
    adds r7, r7, r3
    adds r0, #128
    ldr r2, [r0, #32]
    ldr r3, [r0, #64]
    subs r6, r6, r2
    subs r6, r6, r3
    subs r7, r7, r2
    adds r7, r7, r3
    ldr r2, [r0]
    ldr r3, [r0, #96]
    subs r6, r6, r2
    adds r7, r7, r3
    asrs r4, r4, #2
    asrs r5, r5, #2
    asrs r6, r6, #2
    asrs r7, r7, #2
    str r4, [r1]
    str r5, [r1, #4]
    str r6, [r1, #64]
    str r7, [r1, #68]
    movs r2, #95
    lsls r2, r2, #2
    subs r0, r0, r2
    adds r1, #8
    mov r2, r8
    subs r2, #1
    bne 1b
FINISH picodream_plain_winograd_output

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

// fn(tiles, weight, products, pairs): Winograd's products of two output channels and four tiles, two at a time, four pairs of
// input channels at a time; where they are no multiple of four, the first time begins in the middle.
// Frame: 0 inputs, 4 weights, 8 products, 12 positions left, 16 pairs · 8, 20 which half of the tiles, 24 where the products
// begin, 28 eight times the pairs that are missing.
START picodream_plain_winograd_products
    sub sp, #32
    str r0, [sp]
    str r1, [sp, #4]
    str r2, [sp, #8]
    movs r0, #16
    str r0, [sp, #12]
    lsls r0, r3, #3
    str r0, [sp, #16]
    rsbs r3, r3, #0
    lsls r3, r3, #30
    lsrs r3, r3, #30
    movs r0, #66
    muls r0, r3, r0
    adr r1, 11f
    adds r0, r0, r1
    // Addresses of Thumb code are odd.
    adds r0, #1
    str r0, [sp, #24]
    lsls r3, r3, #3
    str r3, [sp, #28]
9:
    movs r0, #0
    str r0, [sp, #20]
10:
    ldr r0, [sp, #4]
    ldr r2, [sp, #16]
    adds r2, r2, r0
    mov lr, r2
    ldr r3, [sp, #28]
    subs r0, r0, r3
    mov r12, r0
    ldr r1, [sp]
    ldr r0, [sp, #20]
    adds r1, r1, r0
    subs r1, r1, r3
    subs r1, r1, r3
    movs r0, #0
    mov r8, r0
    mov r9, r0
    mov r10, r0
    mov r11, r0
    ldr r0, [sp, #24]
    bx r0
    .p2align 2
11:
    .set at, 0
    .rept 4
    PRODUCT at, 2 * at
    .set at, at + 8
    .endr
    adds r1, #64
    movs r0, #32
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
    add sp, #32
FINISH picodream_plain_winograd_products
