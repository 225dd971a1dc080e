// Winograd's transforms on Cortex-M3, two channels at a time without instructions for it: a word with 2^15 added to its lower
// half, an exclusive or, is upper · 2^16 + lower + 2^15, and such numbers add and subtract without a carry in between.

// \reg, \reg2 \op= the two words at \at bytes from r11.
.macro COMBINE op, a, b, at
    ldrd r8, r9, [r11, #\at]
    eor \a, \a, #0x8000
    eor r8, r8, #0x8000
    \op \a, \a, r8
    eor \b, \b, #0x8000
    eor r9, r9, #0x8000
    \op \b, \b, r9
    .ifc \op, add
    sub \a, \a, #0x10000
    sub \b, \b, #0x10000
    .endif
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

// One row of Bt·d·B for four tiles: rows \a and \b of the job are combined by \op into ten columns, in two halves of which the
// second has two in common with the first; r0 comes out at the next row's positions.
.macro TILES a, b, op
    ldr r10, [lr, #\a]
    ldr r11, [lr, #\b]
    ldm r10!, {{r2-r7}}
    COMBINE \op, r2, r3, 0
    COMBINE \op, r4, r5, 8
    COMBINE \op, r6, r7, 16
    PUT sub, r2, r4, r4, r6, 0
    add r0, r0, r1
    PUT add, r3, r4, r5, r6, 0
    add r0, r0, r1
    PUT sub, r4, r3, r6, r5, 0
    add r0, r0, r1
    PUT sub, r3, r5, r5, r7, 0
    ldm r10, {{r2-r5}}
    COMBINE \op, r2, r3, 24
    COMBINE \op, r4, r5, 32
    PUT sub, r7, r3, r3, r5, 8
    sub r0, r0, r1
    PUT sub, r2, r7, r4, r3, 8
    sub r0, r0, r1
    PUT add, r7, r2, r3, r4, 8
    sub r0, r0, r1
    PUT sub, r6, r2, r2, r4, 8
    add r0, r0, r1, lsl #2
.endm

// fn(job, tiles): transforms every pair of channels of a block; the job's fields are those of winograd.rs.
START picodream_plain_winograd_input
    mov lr, r0
    mov r0, r1
    ldr r1, [lr, #20]
1:
    TILES 0, 8, sub
    TILES 4, 8, add
    TILES 8, 4, sub
    TILES 4, 12, sub
    sub r0, r0, r1, lsl #4
    adds r0, #16
    ldr r10, [lr, #16]
    ldm lr, {{r2-r5}}
    add r2, r2, r10
    add r3, r3, r10
    add r4, r4, r10
    add r5, r5, r10
    stm lr, {{r2-r5}}
    ldr r2, [lr, #24]
    subs r2, #1
    str r2, [lr, #24]
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
