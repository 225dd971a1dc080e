// Minimal filtering at stride 2 in Helium vectors: input transform of four tiles at once, products, outputs.

// Two neighbouring columns of four tiles, which are two apart.
.macro NEIGHBOURS a, b, row
    vld20.32 {{\a, \b}}, [\row]
    vld21.32 {{\a, \b}}, [\row]
.endm

// The five columns of row \row, with \less those of the row in the middle taken off (q0, q2, q1, q4, q3), to their positions:
// the first one's is \base, the third one's \third steps further, the fourth one's \fourth steps from there.
.macro PUT_ROW row, base, third, fourth, less
    NEIGHBOURS q5, q6, \row
    add r10, \base, \third
    add r11, r10, \fourth
    vsub.i16 q5, q5, q6
    .if \less
    vsub.i16 q5, q5, q0
    .endif
    vstrw.32 q5, [\base]
    vldrw.u32 q5, [\row, q7]
    vsub.i16 q5, q5, q6
    .if \less
    vsub.i16 q5, q5, q4
    vsub.i16 q6, q6, q1
    .endif
    vstrw.32 q5, [r11]
    vstrw.32 q6, [r10]
    add r10, \row, r5
    NEIGHBOURS q5, q6, r10
    .if \less
    vsub.i16 q5, q5, q2
    vsub.i16 q6, q6, q3
    .endif
    add r10, \base, r9
    vstrw.32 q5, [r10]
    add r11, r9
    vstrw.32 q6, [r11]
.endm

// fn(job: &Input): 25 positions of every pair of channels.
    .section .text.picodream_helium_strided_input, "ax", %progbits
    .p2align 2
    .global picodream_helium_strided_input
    .type picodream_helium_strided_input, %function
    .thumb_func
picodream_helium_strided_input:
    ENTER
    mov r12, r0
    movs r10, #8
    vidup.u32 q7, r10, #8
    ldm r12, {{r0-r9}}
    dls lr, r7
    add r7, r9, r9, lsl #1
1:
    // The row in the middle, which others are compared with: ten positions from the first.
    add r12, r8, r9, lsl #1
    add r12, r12, r9, lsl #3
    NEIGHBOURS q0, q1, r2
    vldrw.u32 q4, [r2, q7]
    vsub.i16 q0, q0, q1
    vsub.i16 q4, q4, q1
    add r10, r2, r5
    NEIGHBOURS q2, q3, r10
    vstrw.32 q0, [r12]
    add r12, r9
    vstrw.32 q2, [r12]
    add r12, r9
    vstrw.32 q1, [r12]
    add r12, r9
    vstrw.32 q4, [r12]
    add r12, r9
    vstrw.32 q3, [r12]
    // Positions 0 and 15, the first ones of their two rows: 1, 4, 6 and 7 steps to the others.
    .macro FIRST row, base
    PUT_ROW \row, \base, "r9, lsl #2", "r9, lsl #1", 1
    .endm
    // Positions 2 and 17, the second ones: 1, 3, 6 and 7 steps.
    .macro SECOND row, base
    PUT_ROW \row, \base, r7, r7, 0
    .endm
    add r12, r9
    FIRST r4, r12
    add r12, r12, r9, lsl #1
    SECOND r3, r12
    FIRST r0, r8
    add r12, r8, r9, lsl #1
    SECOND r1, r12
    add r0, r6
    add r1, r6
    add r2, r6
    add r3, r6
    add r4, r6
    adds r8, #16
    le lr, 1b
    LEAVE
    .size picodream_helium_strided_input, . - picodream_helium_strided_input

// The products of three or four tiles' inputs by the weights in q0 (even channel) and q1 (odd one), added up by \op.
.macro TILES op, tiles, x0, x1, x2, x3
    \op r0, q0, \x0
    \op r8, q1, \x0
    \op r2, q0, \x1
    \op r10, q1, \x1
    \op r4, q0, \x2
    \op r12, q1, \x2
    .if \tiles == 4
    \op r6, q0, \x3
    \op lr, q1, \x3
    .endif
.endm

// One pair of output channels, sums at r7, which \op begins or goes on with: four pairs of input channels of four tiles in q2 to
// q5, weights at r3, or eight of three tiles in q4, q2, q3 and q7, q5, q6, weights at r3 and at r9.
.macro PAIR op, tiles, first
    .ifeq \first
    ldm r7, {{r0, r2, r4, r6, r8, r10, r12, lr}}
    .endif
    vld20.32 {{q0, q1}}, [r3]
    vld21.32 {{q0, q1}}, [r3]!
    .if \tiles == 4
    TILES \op, 4, q2, q3, q4, q5
    .else
    TILES \op, 3, q4, q2, q3
    vld20.32 {{q0, q1}}, [r9]
    vld21.32 {{q0, q1}}, [r9]!
    TILES vmladava.s16, 3, q7, q5, q6
    .endif
    stm r7!, {{r0, r2, r4, r6, r8, r10, r12, lr}}
.endm

// Four pairs of input channels of four tiles; \on: "!" to go on to the next four.
.macro LOAD_FOUR from, x0, x1, x2, x3, on
    vld40.32 {{\x0, \x1, \x2, \x3}}, [\from]
    vld41.32 {{\x0, \x1, \x2, \x3}}, [\from]
    vld42.32 {{\x0, \x1, \x2, \x3}}, [\from]
    vld43.32 {{\x0, \x1, \x2, \x3}}, [\from]\on
.endm

// All pairs of output channels, eight at a time; the first time some of them are left out.
.macro PAIRS op, tiles, first
    .if \tiles == 4
    LOAD_FOUR r1, q2, q3, q4, q5, !
    .else
    // The fourth tile's vector is the first one's, so that weights have theirs.
    add r0, r1, #64
    LOAD_FOUR r0, q4, q5, q6, q7
    vmov q7, q4
    LOAD_FOUR r1, q1, q2, q3, q4
    vmov q4, q1
    adds r1, #128
    .endif
    ldrd r5, r0, [r11, #STRIDED_EIGHTS]
    tbh [pc, r0, lsl #1]
10:
    .hword (11f - 10b) / 2, (12f - 10b) / 2, (13f - 10b) / 2, (14f - 10b) / 2
    .hword (15f - 10b) / 2, (16f - 10b) / 2, (17f - 10b) / 2, (18f - 10b) / 2
11:
    PAIR \op, \tiles, \first
12:
    PAIR \op, \tiles, \first
13:
    PAIR \op, \tiles, \first
14:
    PAIR \op, \tiles, \first
15:
    PAIR \op, \tiles, \first
16:
    PAIR \op, \tiles, \first
17:
    PAIR \op, \tiles, \first
18:
    PAIR \op, \tiles, \first
    subs r5, #1
    bne 11b
.endm

// Of three tiles the weights of the first four pairs of input channels to r3, of the next four to r9, which was where those of
// all before end; of four tiles they run on.
.macro WEIGHTS tiles
    .if \tiles == 3
    ldr r0, [r11, #STRIDED_GROUP]
    mov r3, r9
    add r9, r0
    .endif
.endm

// Strided, by its words.
.equ STRIDED_TILES, 0
.equ STRIDED_SUMS, 4
.equ STRIDED_WEIGHT, 8
.equ STRIDED_GROUP, 16
.equ STRIDED_TURNS, 20
.equ STRIDED_EIGHTS, 24
.equ STRIDED_ACC, 32
.equ STRIDED_CHANNELS, 36

// fn(job: &Strided): the sums of all pairs of output channels and \tiles tiles: by nine groups of positions, whose products have
// the same outputs; then the outputs. Frame: next position, turns left.
.macro STRIDED name, tiles
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    ENTER
    sub sp, #8
    mov r11, r0
    ldrd r1, r7, [r11, #STRIDED_TILES]
    adr r10, 50f
20:
    ldrb r2, [r10], #1
    ldrd r6, r8, [r11, #STRIDED_WEIGHT]
    and r4, r2, #15
    .if \tiles == 4
    mla r3, r4, r8, r6
    .else
    mla r9, r4, r8, r6
    .endif
    ldr r4, [r11, #STRIDED_TURNS]
    strd r10, r4, [sp]
    lsls r2, r2, #24
    bpl 22f
    WEIGHTS \tiles
    PAIRS vmladav.s16, \tiles, 1
    b 23f
21:
    str r4, [sp, #4]
22:
    // The group's sums once more.
    ldr r0, [r11, #STRIDED_GROUP]
    subs r7, r7, r0
    WEIGHTS \tiles
    PAIRS vmladava.s16, \tiles, 0
23:
    ldrd r10, r4, [sp]
    subs r4, #1
    bne 21b
    ldrb r2, [r10, #-1]
    lsls r2, r2, #25
    bpl 20b
    // Groups by rows and columns of outputs: 0 is the first's alone, 1 both ones', 2 the second's.
    ldrd r9, r12, [r11, #STRIDED_ACC]
    mov lr, r12
    add r10, r9, r12, lsl #5
    ldr r12, [r11, #STRIDED_GROUP]
    ldr r0, [r11, #STRIDED_SUMS]
    add r1, r0, r12
    add r2, r1, r12
    add r3, r2, r12
    add r4, r3, r12
    add r5, r4, r12
    add r6, r5, r12
    add r7, r6, r12
    add r8, r7, r12
    lsr lr, lr, #1
    dls lr, lr
30:
    .rept 2
    vldrw.u32 q0, [r4], #16
    vldrw.u32 q1, [r1], #16
    vldrw.u32 q2, [r7], #16
    vadd.i32 q1, q1, q0
    vadd.i32 q2, q2, q0
    vldrw.u32 q0, [r3], #16
    vldrw.u32 q3, [r5], #16
    vadd.i32 q4, q1, q0
    vadd.i32 q5, q1, q3
    vadd.i32 q6, q2, q0
    vadd.i32 q7, q2, q3
    vldrw.u32 q0, [r0], #16
    vadd.i32 q4, q4, q0
    vldrw.u32 q0, [r2], #16
    vadd.i32 q5, q5, q0
    vldrw.u32 q0, [r6], #16
    vadd.i32 q6, q6, q0
    vldrw.u32 q0, [r8], #16
    vadd.i32 q7, q7, q0
    vst20.32 {{q4, q5}}, [r9]
    vst21.32 {{q4, q5}}, [r9]!
    vst20.32 {{q6, q7}}, [r10]
    vst21.32 {{q6, q7}}, [r10]!
    .endr
    le lr, 30b
    add sp, #8
    LEAVE
    .p2align 2
50:
    // Which sum of weights each position is multiplied by; 128: the first of its group, 64: the last of all.
    .byte 128 + 0, 1, 4, 5, 128 + 2, 6, 128 + 3, 1, 7, 5
    .byte 128 + 8, 9, 128 + 10, 128 + 11, 9
    .byte 128 + 12, 13, 4, 5, 128 + 14, 6, 128 + 15, 13, 7, 64 + 5
    .p2align 2
    .size \name, . - \name
.endm

STRIDED picodream_helium_strided_4, 4
STRIDED picodream_helium_strided_3, 3
