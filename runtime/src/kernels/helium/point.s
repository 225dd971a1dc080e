// A 1x1 convolution from quantised inputs to outputs, four pixels at a time.
//
// As in sums.s the accumulators are the even core registers: the even channel of a pair by four pixels (E) in r0, r2, r4, r6,
// and whole halfwords by four pixels (T) in r8, r10, r12, lr. A 1x1 kernel's weights of a pair of output channels lie side by
// side, so a core register leads to them, and is kept with the accumulators: r7, in the midst. That leaves seven vectors for
// inputs, one less than two quads of pairs of channels by four pixels have: the eighth takes turns with the first in q1, and
// as every other pair of output channels has its products in the reverse order, that is one load for each.

// The products of one quad with the weights in q0, added up by \op.
.macro QUAD op, x0, x1, x2, x3
    \op r8, q0, \x0
    \op r10, q0, \x1
    \op r12, q0, \x2
    \op lr, q0, \x3
    vmovlb.s8 q0, q0
    \op r0, q0, \x0
    \op r2, q0, \x1
    \op r4, q0, \x2
    \op r6, q0, \x3
.endm

// One pair of output channels, whose sums \op begins or goes on with. q1 holds the first input of the first quad before, and
// the last one of the second behind, or with \back the other way round.
.macro TURN_PAIR op, begin, back
    .ifeq \begin
    ldm r1, {{r0, r2, r4, r6, r7, r8, r10, r12, lr}}
    .endif
    .if \back
    vldrw.u32 q0, [r7, #16]
    QUAD \op, q5, q6, q7, q1
    vldrw.u32 q1, [sp]
    vldrw.u32 q0, [r7], #32
    QUAD vmladava.s16, q1, q2, q3, q4
    .else
    vldrw.u32 q0, [r7], #16
    QUAD \op, q1, q2, q3, q4
    vldrw.u32 q1, [sp, #16]
    vldrw.u32 q0, [r7], #16
    QUAD vmladava.s16, q5, q6, q7, q1
    .endif
    stm r1!, {{r0, r2, r4, r6, r7, r8, r10, r12, lr}}
    .if \begin
    add r7, r3
    .endif
.endm

// The products of two quads: their inputs, whose addresses, one step before, lie behind the two that are kept in memory; and
// all pairs of output channels, four at a time.
.macro TURN op, begin
    vldrw.u32 q0, [sp, #32]
    vldrw.u32 q1, [q0, #256]!
    vstrw.32 q0, [sp, #32]
    vstrw.32 q1, [sp]
    vldrw.u32 q2, [q0, #140]
    vstrw.32 q2, [sp, #16]
    vldrw.u32 q2, [q0, #4]
    vldrw.u32 q3, [q0, #8]
    vldrw.u32 q4, [q0, #12]
    vldrw.u32 q5, [q0, #128]
    vldrw.u32 q6, [q0, #132]
    vldrw.u32 q7, [q0, #136]
    ldr r1, [r11, #POINT_SUMS]
1:
    .rept 2
    TURN_PAIR \op, \begin, 0
    TURN_PAIR \op, \begin, 1
    .endr
    cmp r1, r5
    bne 1b
.endm

// Where outputs go: to f16 as they are, to f16 behind a residual, to f32 as they are.
.equ BARE, 0
.equ RESIDUAL, 1
.equ FLOATS, 2

// From sums to outputs, two pairs of channels at a time, lanes are pixels. r1: sums, r9: scales, r10: biases, q6 and q7: one step
// before the outputs and what is added to them.
.macro POINT_OUTPUTS kind
1:
    .rept 2
    vldrw.u32 q5, [r1, #20]
    vldrw.u32 q4, [r1], #36
    ldrd r2, r3, [r9], #8
    ldrd r4, r7, [r10], #8
    vsub.i32 q5, q5, q4
    SCALE r2, r3, r4, r7, 8
    .if \kind == RESIDUAL
    vldrw.u32 q1, [q7, #4]!
    vcvtb.f32.f16 q0, q1
    vcvtt.f32.f16 q1, q1
    vadd.f32 q4, q4, q0
    vadd.f32 q5, q5, q1
    .endif
    .if \kind == FLOATS
    vstrw.32 q4, [q6, #4]!
    vstrw.32 q5, [q6, #4]!
    .else
    vcvtb.f16.f32 q4, q4
    vcvtt.f16.f32 q4, q5
    vstrw.32 q4, [q6, #4]!
    .endif
    .endr
    le lr, 1b
.endm

// Bytes of stack: two vectors of inputs, and the addresses of the others.
.equ POINT_FRAME, 48
// Job, by its words.
.equ POINT_INPUTS, 0
.equ POINT_AHEAD, 4
.equ POINT_BLOCK, 8
.equ POINT_SUMS, 12
.equ POINT_END, 16
.equ POINT_WEIGHT, 20
.equ POINT_TURNS, 28
.equ POINT_OUT, 32
.equ POINT_SCALE, 40
.equ POINT_PITCH, 48
.equ POINT_PIXELS, 52
.equ POINT_GROUPS, 56

// fn(&mut Job): a row. In the sums, for each pair of output channels: E, where its weights go on, T.
    .section .text.picodream_helium_point, "ax", %progbits
    .p2align 2
    .global picodream_helium_point
    .type picodream_helium_point, %function
    .thumb_func
picodream_helium_point:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    mov r11, r0
    sub sp, #POINT_FRAME
9:
    ldrd r4, r5, [r11, #POINT_INPUTS]
    movs r0, #0
    vidup.u32 q0, r0, #8
    vshl.i32 q0, q0, #2
    vadd.i32 q0, q0, r4
    vstrw.32 q0, [sp, #32]
    // Four pixels on, in this block or the next one.
    add r4, r5
    ldr r0, [r11, #POINT_BLOCK]
    subs r5, r0, r5
    strd r4, r5, [r11, #POINT_INPUTS]
    ldrd r5, r7, [r11, #POINT_END]
    ldr r3, [r11, #POINT_WEIGHT + 4]
    ldr r9, [r11, #POINT_TURNS]
    TURN vmladav.s16, 1
    b 3f
2:
    TURN vmladava.s16, 0
3:
    subs r9, #1
    bne 2b
    // Pixels that are not there are read and written where sums were.
    ldr r1, [r11, #POINT_SUMS]
    ldrd r6, r8, [r11, #POINT_OUT]
    ldrd r9, r10, [r11, #POINT_SCALE]
    ldrd r5, r12, [r11, #POINT_PITCH]
    movs r4, #0
    vidup.u32 q6, r4, #1
    vmul.i32 q6, q6, r5
    movs r4, #4
    vsub.i32 q6, q6, r4
    vadd.i32 q7, q6, r8
    vadd.i32 q6, q6, r6
    vdup.32 q0, r1
    vctp.32 r12
    vpsel q6, q6, q0
    vpsel q7, q7, q0
    ldr r4, [r11, #POINT_GROUPS]
    lsls r4, r4, #1
    dls lr, r4
    // The residual's address: null for none, and 1 where outputs are f32.
    cmp r8, #1
    beq 12f
    bhi 11f
    POINT_OUTPUTS BARE
    b 13f
11:
    POINT_OUTPUTS RESIDUAL
    add r8, r8, r5, lsl #2
    b 13f
12:
    POINT_OUTPUTS FLOATS
13:
    ldrd r4, r0, [r11, #POINT_GROUPS]
    cbz r0, 15f
    mov r7, r6
    mov r3, r12
    cmp r12, #4
    it hi
    movhi r12, #4
14:
    STATISTICS
    adds r7, #16
    subs r4, #1
    bne 14b
    mov r12, r3
15:
    add r6, r6, r5, lsl #2
    strd r6, r8, [r11, #POINT_OUT]
    subs r12, #4
    str r12, [r11, #POINT_PIXELS]
    bhi 9b
    add sp, #POINT_FRAME
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size picodream_helium_point, . - picodream_helium_point
