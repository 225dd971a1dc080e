// Winograd's transforms and products on Cortex-M3, inputs two channels at a time without instructions for it: a word with 2^15
// added to its lower half, an exclusive or, is upper · 2^16 + lower + 2^15, and such numbers add and subtract without a carry in
// between.

// \a and \b += lr times the two words at \at bytes from r11; r12 is 2^16 where lr is 1 and 0 where it is -1.
.macro COMBINE a, b, at
    ldrd r8, r9, [r11, #\at]
    eor \a, \a, #0x8000
    eor r8, r8, #0x8000
    mla \a, r8, lr, \a
    eor \b, \b, #0x8000
    eor r9, r9, #0x8000
    mla \b, r9, lr, \b
    sub \a, \a, r12
    sub \b, \b, r12
.endm

// Two tiles' words \op to the place \at bytes from r0.
.macro PUT op, a, b, c, d, at
    \op r8, \a, \b
    \op r9, \c, \d
    add r8, r8, #0x8000
    add r9, r9, #0x8000
    eor r8, r8, #0x8000
    eor r9, r9, #0x8000
    strd r8, r9, [r0, #\at]
.endm

// fn(tiles, position, row, other, pairs, step, sign): one row of Bt·d·B for four tiles of every pair of channels, from row plus
// `sign` (1 or -1) times the other row. Ten columns, in two halves of which the second has two in common with the first, go to
// four positions, `position` bytes apart; pairs are `step` bytes apart in the rows.
START picodream_plain_winograd_input
    mov r10, r2
    mov r11, r3
    ldr lr, [sp, #44]
    lsl r12, lr, #15
    add r12, r12, #0x8000
1:
    ldm r10, {{r2-r7}}
    COMBINE r2, r3, 0
    COMBINE r4, r5, 8
    COMBINE r6, r7, 16
    PUT sub, r2, r4, r4, r6, 0
    add r0, r0, r1
    PUT add, r3, r4, r5, r6, 0
    add r0, r0, r1
    PUT sub, r4, r3, r6, r5, 0
    add r0, r0, r1
    PUT sub, r3, r5, r5, r7, 0
    ldrd r2, r3, [r10, #24]
    ldrd r4, r5, [r10, #32]
    COMBINE r2, r3, 24
    COMBINE r4, r5, 32
    PUT sub, r7, r3, r3, r5, 8
    sub r0, r0, r1
    PUT sub, r2, r7, r4, r3, 8
    sub r0, r0, r1
    PUT add, r7, r2, r3, r4, 8
    sub r0, r0, r1
    PUT sub, r6, r2, r2, r4, 8
    adds r0, #16
    ldrd r2, r3, [sp, #36]
    add r10, r10, r3
    add r11, r11, r3
    subs r2, #1
    str r2, [sp, #36]
    bne 1b
    pop {{r4-r11, pc}}
    .size picodream_plain_winograd_input, . - picodream_plain_winograd_input

// Rows \p and \q of the sums over column \at of the products.
.macro COLUMN at, p, q
    ldr \p, [r0, #\at]
    ldr r10, [r0, #\at + 128]
    ldr \q, [r0, #\at + 256]
    add \p, \p, r10
    sub r10, r10, \q
    add \p, \p, \q
    ldr r11, [r0, #\at + 384]
    sub \q, r10, r11
.endm

// The two pixels \at bytes from r1 of four sums.
.macro PIXELS a, b, c, d, at
    add r10, \a, \b
    sub r11, \b, \c
    add r10, r10, \c
    sub r11, r11, \d
    asr r10, r10, #2
    asr r11, r11, #2
    strd r10, r11, [r1, #\at]
.endm

// fn(products, acc): At·M·A / 4 of two channels and four tiles.
START picodream_plain_winograd_output
    movs r12, #8
1:
    COLUMN 0, r2, r6
    COLUMN 32, r3, r7
    COLUMN 64, r4, r8
    COLUMN 96, r5, r9
    PIXELS r2, r3, r4, r5, 0
    PIXELS r6, r7, r8, r9, 64
    adds r0, #4
    adds r1, #8
    subs r12, #1
    bne 1b
    pop {{r4-r11, pc}}
    .size picodream_plain_winograd_output, . - picodream_plain_winograd_output

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

// fn(tiles, weight, products, pairs): Winograd's products of two output channels and four tiles, four pairs of input channels at
// a time; where they are no multiple of four, the first time begins in the middle.
// Frame: 0 where it begins, 4 positions left, 8 products, 12 pairs rounded up to fours, 16 eight times what was added.
START picodream_plain_winograd_products
    rsbs r4, r3, #0
    and r4, r4, #3
    movs r6, #112
    adr.w r5, 11f
    mla r5, r4, r6, r5
    // Addresses of Thumb code are odd.
    adds r5, #1
    movs r6, #16
    add r8, r3, r4
    lsls r9, r4, #3
    mov r7, r2
    push {{r5-r9}}
    mov r3, r1
    mov r1, r0
    mov r0, r3
10:
    ldrd lr, r12, [sp, #12]
    sub r0, r0, r12
    sub r1, r1, r12, lsl #1
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
    mov r8, r4
    mov r9, r4
    mov r10, r4
    mov r11, r4
    ldr pc, [sp]
    .p2align 2
11:
    .set at, 0
    .rept 4
    ldrsh.w r2, [r0, #at]
    ldrsh.w r3, [r0, #at + 4]
    LANE 2 * at
    ldrsh.w r2, [r0, #at + 2]
    ldrsh.w r3, [r0, #at + 6]
    LANE 2 * at + 2
    .set at, at + 8
    .endr
    adds r0, #32
    adds r1, #64
    subs lr, #4
    bne 11b
    ldr r2, [sp, #8]
    ldr r3, [sp, #4]
    stm r2!, {{r4-r11}}
    subs r3, #1
    strd r3, r2, [sp, #4]
    bne 10b
    add sp, #20
    pop {{r4-r11, pc}}
    .size picodream_plain_winograd_products, . - picodream_plain_winograd_products
