// Winograd F(2x2, 3x3) in Helium vectors: input transform of four tiles at once, products, output transform.

// Column pair of one row for four tiles: \a, \b = columns c and c + 1 of each tile.
.macro COLUMNS a, b, row
    vld20.32 {{\a, \b}}, [\row]
    vld21.32 {{\a, \b}}, [\row]
.endm

// Horizontal transform of one row of the vertical transform, columns 0 and 1 at [sp, #\at], 2 and 3 in \c and \d.
.macro ACROSS c, d, at
    vldrw.u32 q6, [sp, #\at]
    vldrw.u32 q7, [sp, #\at + 16]
    vsub.i16 q6, q6, \c
    vstrw.32 q6, [r8]
    add r8, r9
    vadd.i16 q6, q7, \c
    vstrw.32 q6, [r8]
    add r8, r9
    vsub.i16 q6, \c, q7
    vstrw.32 q6, [r8]
    add r8, r9
    vsub.i16 q7, q7, \d
    vstrw.32 q7, [r8]
    add r8, r9
.endm

// fn(rows: &[*const; 4], tiles, row_step, tile_step, pairs): steps are bytes between pairs of channels and between positions.
    .section .text.picodream_helium_winograd_input, "ax", %progbits
    .p2align 2
    .global picodream_helium_winograd_input
    .type picodream_helium_winograd_input, %function
    .thumb_func
picodream_helium_winograd_input:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    ldr r10, [sp, #100]
    sub sp, #128
    mov r11, r1
    mov r12, r2
    mov r9, r3
    ldm r0, {{r4, r5, r6, r7}}
1:
    mov r8, r11
    // Columns 0 and 1, down the rows.
    COLUMNS q0, q1, r4
    COLUMNS q4, q5, r6
    vsub.i16 q0, q0, q4
    vstrw.32 q0, [sp]
    vsub.i16 q1, q1, q5
    vstrw.32 q1, [sp, #16]
    COLUMNS q2, q3, r5
    vadd.i16 q0, q2, q4
    vstrw.32 q0, [sp, #32]
    vadd.i16 q1, q3, q5
    vstrw.32 q1, [sp, #48]
    vsub.i16 q4, q4, q2
    vstrw.32 q4, [sp, #64]
    vsub.i16 q5, q5, q3
    vstrw.32 q5, [sp, #80]
    COLUMNS q0, q1, r7
    vsub.i16 q2, q2, q0
    vstrw.32 q2, [sp, #96]
    vsub.i16 q3, q3, q1
    vstrw.32 q3, [sp, #112]
    // Columns 2 and 3, and across.
    adds r4, #8
    adds r5, #8
    adds r6, #8
    adds r7, #8
    COLUMNS q0, q1, r4
    COLUMNS q4, q5, r6
    vsub.i16 q0, q0, q4
    vsub.i16 q1, q1, q5
    ACROSS q0, q1, 0
    COLUMNS q2, q3, r5
    vadd.i16 q0, q2, q4
    vadd.i16 q1, q3, q5
    ACROSS q0, q1, 32
    vsub.i16 q4, q4, q2
    vsub.i16 q5, q5, q3
    ACROSS q4, q5, 64
    COLUMNS q0, q1, r7
    vsub.i16 q2, q2, q0
    vsub.i16 q3, q3, q1
    ACROSS q2, q3, 96
    sub r0, r12, #8
    add r4, r0
    add r5, r0
    add r6, r0
    add r7, r0
    add r11, #16
    subs r10, #1
    bne 1b
    add sp, #128
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size picodream_helium_winograd_input, . - picodream_helium_winograd_input

// Four pairs of input channels of one position: two output channels by four tiles.
.macro PRODUCT
    vld40.32 {{q0, q1, q2, q3}}, [r1]
    vld41.32 {{q0, q1, q2, q3}}, [r1]
    vld42.32 {{q0, q1, q2, q3}}, [r1]
    vld43.32 {{q0, q1, q2, q3}}, [r1]!
    vld20.32 {{q4, q5}}, [r3]
    vld21.32 {{q4, q5}}, [r3]!
    MAC 0, q4, q5, q0
    MAC 1, q4, q5, q1
    MAC 2, q4, q5, q2
    MAC 3, q4, q5, q3
.endm

// \r0 = products of one column: of rows 0, 1 and 2; \r1 = of row 1 less rows 2 and 3. Through \r2 and \r3.
.macro DOWN r0, r1, r2, r3, column, channel
    vldrw.u32 \r0, [sp, #32 * \column + 16 * \channel]
    vldrw.u32 \r1, [sp, #32 * (\column + 4) + 16 * \channel]
    vldrw.u32 \r2, [sp, #32 * (\column + 8) + 16 * \channel]
    vldrw.u32 \r3, [sp, #32 * (\column + 12) + 16 * \channel]
    vadd.i32 \r0, \r0, \r1
    vadd.i32 \r0, \r0, \r2
    vsub.i32 \r1, \r1, \r2
    vsub.i32 \r1, \r1, \r3
.endm

// Both rows of the outputs of one channel, to r0 and r4: q0 and q2 = pixels 0, 2, 4, 6, q1 and q3 = pixels 1, 3, 5, 7.
.macro OUTPUT channel
    DOWN q0, q2, q5, q6, 0, \channel
    DOWN q1, q3, q5, q6, 1, \channel
    vadd.i32 q0, q0, q1
    vadd.i32 q2, q2, q3
    DOWN q4, q5, q6, q7, 2, \channel
    vadd.i32 q0, q0, q4
    vsub.i32 q1, q1, q4
    vadd.i32 q2, q2, q5
    vsub.i32 q3, q3, q5
    DOWN q4, q5, q6, q7, 3, \channel
    vsub.i32 q1, q1, q4
    vsub.i32 q3, q3, q5
    vshr.s32 q0, q0, #2
    vshr.s32 q1, q1, #2
    vshr.s32 q2, q2, #2
    vshr.s32 q3, q3, #2
    vst20.32 {{q0, q1}}, [r0]
    vst21.32 {{q0, q1}}, [r0]
    vst20.32 {{q2, q3}}, [r4]
    vst21.32 {{q2, q3}}, [r4]
    adds r0, #32
    adds r4, #32
.endm

// One pair of input channels of one position: lanes are the four tiles.
.macro FEW
    vldrw.u32 q2, [r1], #16
    vmovlb.s16 q3, q2
    vmovlt.s16 q2, q2
    ldrsh r0, [r3]
    ldrsh r2, [r3, #2]
    ldrsh r4, [r3, #4]
    ldrsh r6, [r3, #6]
    adds r3, #8
    vmla.s32 q0, q3, r0
    vmla.s32 q1, q3, r4
    vmla.s32 q0, q2, r2
    vmla.s32 q1, q2, r6
.endm

// fn(tiles, weight, acc, loops, count): for count pairs of output channels the products of so many times four pairs of input
// channels at a time (0: one pair at a time), on the stack, then outputs: acc[row 0, 1][2 * count channels][8]. Behind the products: tiles, acc, count,
// bytes from row to row.
.macro WINOGRAD name, unroll, looped
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    ENTER
    ldr r4, [sp, #100]
    sub sp, #528
    strd r0, r2, [sp, #512]
    lsl r6, r4, #6
    strd r4, r6, [sp, #520]
    mov r11, r3
    mov r3, r1
9:
    ldr r1, [sp, #512]
    mov r7, sp
    movs r9, #16
10:
    .if \unroll == 0
    vmov.i32 q0, #0
    vmov.i32 q1, #0
    .else
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    .endif
    .if \looped
    mov r5, r11
11:
    .endif
    .if \unroll == 0
    FEW
    .endif
    .rept \unroll
    PRODUCT
    .endr
    .if \looped
    subs r5, #1
    bne 11b
    .endif
    .if \unroll == 0
    vstrw.32 q0, [r7], #16
    vstrw.32 q1, [r7], #16
    .else
    strd r0, r2, [r7], #8
    strd r4, r6, [r7], #8
    strd r8, r10, [r7], #8
    strd r12, lr, [r7], #8
    .endif
    subs r9, #1
    bne 10b
    ldr r0, [sp, #516]
    ldr r4, [sp, #524]
    add r4, r0
    OUTPUT 0
    OUTPUT 1
    ldr r5, [sp, #520]
    str r0, [sp, #516]
    subs r5, #1
    str r5, [sp, #520]
    bne 9b
    add sp, #528
    LEAVE
    .size \name, . - \name
.endm

WINOGRAD picodream_helium_winograd_few, 0, 1
WINOGRAD picodream_helium_winograd_1, 1, 1
WINOGRAD picodream_helium_winograd_2, 2, 0
WINOGRAD picodream_helium_winograd_4, 4, 0
WINOGRAD picodream_helium_winograd_8, 4, 1
