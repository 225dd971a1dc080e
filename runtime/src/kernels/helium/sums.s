// Integer sums in Helium vectors of eight int16 products, all added to a scalar register (VMLADAVA).
//
// A block is two output channels by four pixels: the eight accumulators are the even core registers, which are the only ones the
// instruction takes; addresses and counters live in the odd ones. A vector holds four pairs of input channels, gathered from
// rows and weights in the order that every back end has. Inputs stay in their vectors while all output channels pass by, whose
// accumulators are one load and one store of eight registers; so what is loaded for every product is a weight alone.

// r0 += vector \w · vector \x and so on. E: sums of the even channel, pixels 0 to 3, T: of the odd one, or of whole halfwords.
.macro MAC pixel, even, odd, x
    .if \pixel == 0
    vmladava.s16 r0, \even, \x
    vmladava.s16 r8, \odd, \x
    .elseif \pixel == 1
    vmladava.s16 r2, \even, \x
    vmladava.s16 r10, \odd, \x
    .elseif \pixel == 2
    vmladava.s16 r4, \even, \x
    vmladava.s16 r12, \odd, \x
    .elseif \pixel == 3
    vmladava.s16 r6, \even, \x
    vmladava.s16 lr, \odd, \x
    .endif
.endm

.macro ENTER
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
.endm

.macro LEAVE
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
.endm

// The accumulators as vectors: q0 = E, q1 = T.
.macro COLLECT
    vmov q0[2], q0[0], r0, r4
    vmov q0[3], q0[1], r2, r6
    vmov q1[2], q1[0], r8, r12
    vmov q1[3], q1[1], r10, lr
.endm

// The weights of one kernel column, at \offset from q7, by the inputs of each pixel, the vectors \x0 to \x3; through q0.
.macro TAP offset, pixels, masked, x0, x1, x2, x3
    .if \masked
    vpst
    vldrwt.u32 q0, [q7, #\offset]
    .else
    vldrw.u32 q0, [q7, #\offset]
    .endif
    vmladava.s16 r8, q0, \x0
    vmladava.s16 r10, q0, \x1
    vmladava.s16 r12, q0, \x2
    .if \pixels == 4
    vmladava.s16 lr, q0, \x3
    .endif
    vmovlb.s8 q0, q0
    vmladava.s16 r0, q0, \x0
    vmladava.s16 r2, q0, \x1
    vmladava.s16 r4, q0, \x2
    .if \pixels == 4
    vmladava.s16 r6, q0, \x3
    .endif
.endm

// Columns of inputs, by the kind of kernel: all of a 3x3 one at stride 1, the even and the odd ones at stride 2, a 1x1 one.
.equ ALL, 0
.equ EVEN, 1
.equ ODD, 2
.equ POINT, 3

// One pair of output channels; r7: its accumulators, q7: its weights, r9: bytes to the next one's.
.macro VISIT kind, pixels, masked
    ldm r7, {{r0, r2, r4, r6, r8, r10, r12, lr}}
    .if \kind == ODD
    TAP 4, \pixels, \masked, q1, q2, q3, q4
    .else
    TAP 0, \pixels, \masked, q1, q2, q3, q4
    .endif
    .if \kind == EVEN
    TAP 8, \pixels, \masked, q2, q3, q4, q5
    .endif
    .if \kind == ALL
    TAP 4, \pixels, \masked, q2, q3, q4, q5
    TAP 8, \pixels, \masked, q3, q4, q5, q6
    .endif
    vadd.i32 q7, q7, r9
    stm r7!, {{r0, r2, r4, r6, r8, r10, r12, lr}}
.endm

// All pairs of output channels, for the columns that r3 leads to; moves q7 \back, so many bytes in the job.
.macro VISITS kind, pixels, masked, back
    vldrw.u32 q0, [sp]
    vadd.i32 q0, q0, r3
    vldrw.u32 q1, [q0]
    vldrw.u32 q2, [q0, #4]
    vldrw.u32 q3, [q0, #8]
    .if (\pixels == 4) || (\kind == EVEN) || (\kind == ALL)
    vldrw.u32 q4, [q0, #12]
    .endif
    .if (\kind == ALL) || ((\kind == EVEN) && (\pixels == 4))
    vldrw.u32 q5, [q0, #16]
    .endif
    .if (\kind == ALL) && (\pixels == 4)
    vldrw.u32 q6, [q0, #20]
    .endif
    // Four at a time; the first time some of them are left out.
    ldrd r5, r0, [r11, #JOB_VISITS]
    add r7, sp, #FRAME
    tbb [pc, r0]
10:
    .byte (11f - 10b) / 2, (12f - 10b) / 2, (13f - 10b) / 2, (14f - 10b) / 2
11:
    VISIT \kind, \pixels, \masked
12:
    VISIT \kind, \pixels, \masked
13:
    VISIT \kind, \pixels, \masked
14:
    VISIT \kind, \pixels, \masked
    subs r5, #1
    bne 11b
    ldr r0, [r11, #\back]
    vsub.i32 q7, q7, r0
.endm

// fn(&Direct): all pairs of output channels of \pixels pixels, and perhaps of the next \pixels. Frame: how far the inputs of four
// pairs of channels are apart, next row, rows left, how far the pixels are from the first ones, then the accumulators.
.macro DIRECT name, kind, pixels, masked
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    ENTER
    mov r11, r0
    ldr r5, [r11, #JOB_PAIRS]
    sub sp, sp, r5, lsl #5
    sub sp, #FRAME
    movs r0, #0
    vidup.u32 q0, r0, #1
    ldrd r1, r9, [r11, #JOB_PAIR_STEP]
    vmul.i32 q0, q0, r1
    .if \masked
    ldr r1, [r11, #JOB_MASK]
    vctp.32 r1
    vmov.i32 q1, #0
    vpsel q0, q0, q1
    .endif
    vstrw.32 q0, [sp]
    // Addresses of the first weights, 12 bytes apart, or 4.
    movs r0, #0
    vidup.u32 q7, r0, #4
    .if \kind != POINT
    movs r1, #3
    vmul.i32 q7, q7, r1
    .endif
    ldr r1, [r11, #JOB_WEIGHT]
    vadd.i32 q7, q7, r1
    movs r1, #0
8:
    str r1, [sp, #24]
    ldr r1, [r11, #JOB_ROW_COUNT]
    strd r11, r1, [sp, #16]
    ldr r5, [r11, #JOB_PAIRS]
    add r7, sp, #FRAME
    clrm {{r0, r1, r2, r3, r4, r6, r8, r10}}
    dls lr, r5
1:
    stm r7!, {{r0, r1, r2, r3, r4, r6, r8, r10}}
    le lr, 1b
9:
    ldrd r0, r1, [sp, #16]
    ldr r3, [r0], #4
    subs r1, #1
    strd r0, r1, [sp, #16]
    ldr r1, [sp, #24]
    add r3, r1
    ldr r1, [r11, #JOB_QUADS]
20:
    .if \kind == EVEN
    VISITS EVEN, \pixels, 0, JOB_AGAIN
    ldr r0, [r11, #JOB_ODD_COLUMNS]
    add r3, r0
    VISITS ODD, \pixels, 0, JOB_BACK
    .else
    VISITS \kind, \pixels, \masked, JOB_BACK
    .endif
    ldr r0, [r11, #JOB_QUAD_STEP]
    add r3, r0
    subs r1, #1
    bne 20b
    ldr r0, [sp, #20]
    cmp r0, #0
    bne 9b
    // E and (T - E) >> 8.
    ldr r5, [r11, #JOB_PAIRS]
    ldr r1, [r11, #JOB_ACC]
    ldr r0, [sp, #24]
    add r1, r0
    add r7, sp, #FRAME
    dls lr, r5
1:
    vldrw.u32 q0, [r7], #16
    vldrw.u32 q1, [r7], #16
    vsub.i32 q1, q1, q0
    vshr.s32 q1, q1, #8
    vstrw.32 q0, [r1], #32
    vstrw.32 q1, [r1], #32
    le lr, 1b
    ldr r1, [r11, #JOB_FIRST]
    vsub.i32 q7, q7, r1
    adds r0, #(4 * \pixels)
    ldr r1, [r11, #JOB_END]
    cmp r0, r1
    mov r1, r0
    blo 8b
    add sp, sp, r5, lsl #5
    add sp, #FRAME
    LEAVE
    .size \name, . - \name
.endm

.equ FRAME, 32
// Direct, by its words: three rows, then these.
.equ JOB_ROW_COUNT, 12
.equ JOB_QUADS, 16
.equ JOB_QUAD_STEP, 20
.equ JOB_PAIR_STEP, 24
.equ JOB_WEIGHT_STEP, 28
.equ JOB_ODD_COLUMNS, 32
.equ JOB_WEIGHT, 36
.equ JOB_AGAIN, 40
.equ JOB_BACK, 44
.equ JOB_FIRST, 48
.equ JOB_PAIRS, 52
.equ JOB_VISITS, 56
.equ JOB_ACC, 64
.equ JOB_END, 68
.equ JOB_MASK, 72

DIRECT picodream_helium_direct_s1p4, ALL, 4, 0
DIRECT picodream_helium_direct_s1p3, ALL, 3, 0
DIRECT picodream_helium_direct_s2p4, EVEN, 4, 0
DIRECT picodream_helium_direct_s2p3, EVEN, 3, 0
DIRECT picodream_helium_direct_masked, ALL, 4, 1
DIRECT picodream_helium_direct_point, POINT, 4, 0

// The column of inputs in \x: kernel column a of pixel \pa, whose weights are q1, q0, and kernel column b of pixel \pb, whose
// weights are q3, q2 (-1: none).
.macro APPLY x, pa, pb, pixels
    .if (\pa >= 0) && (\pa < \pixels)
    MAC \pa, q1, q0, \x
    .endif
    .if (\pb >= 0) && (\pb < \pixels)
    MAC \pb, q3, q2, \x
    .endif
.endm

// One column of inputs, loaded to \x.
.macro COLUMN offset, pa, pb, pixels, x=q4
    vldrw.u32 \x, [q6, #4 * (\offset)]
    APPLY \x, \pa, \pb, \pixels
.endm

// fn(&Phase): the 2x2 kernel of a phase on four source columns, all pairs of output channels; every other sum is stored.
    .section .text.picodream_helium_phase, "ax", %progbits
    .p2align 2
    .global picodream_helium_phase
    .type picodream_helium_phase, %function
    .thumb_func
picodream_helium_phase:
    ENTER
    mov r11, r0
    movs r0, #0
    vidup.u32 q5, r0, #1
    ldr r1, [r11, #16]
    vmul.i32 q5, q5, r1
    movs r0, #0
    vidup.u32 q7, r0, #8
    vadd.i32 q7, q7, q7
    ldr r1, [r11, #8]
    vadd.i32 q7, q7, r1
    ldr r7, [r11, #12]
10:
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    ldrd r3, r5, [r11]
11:
    ldr r1, [r3], #4
    vadd.i32 q6, q5, r1
    vldrw.u32 q1, [q7, #64]!
    vldrw.u32 q0, [q7, #4]
    vldrw.u32 q3, [q7, #8]
    vldrw.u32 q2, [q7, #12]
    COLUMN 0, 0, -1, 4
    COLUMN 1, 1, 0, 4
    COLUMN 2, 2, 1, 4
    COLUMN 3, 3, 2, 4
    COLUMN 4, -1, 3, 4
    subs r5, #1
    bne 11b
    COLLECT
    movs r0, #0
    vidup.u32 q2, r0, #8
    vstrw.32 q0, [r7, q2]
    adds r7, #32
    vstrw.32 q1, [r7, q2]
    adds r7, #32
    ldrd r1, r3, [r11, #20]
    vadd.i32 q7, q7, r1
    cmp r7, r3
    bne 10b
    LEAVE
    .size picodream_helium_phase, . - picodream_helium_phase
