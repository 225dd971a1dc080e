// Integer sums in Helium vectors of eight int16 products, all added to a scalar register (VMLADAVA).
//
// A block is two output channels by four pixels: the eight accumulators are the even core registers, which are the only ones the
// instruction takes; addresses and counters live in the odd ones. A vector holds four pairs of input channels, gathered from
// rows and weights in the order that every back end has.

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

// Stores E and (T - E) >> 8, and goes on to the next pair's place.
.macro STORE_SPLIT
    COLLECT
    vsub.i32 q1, q1, q0
    vshr.s32 q1, q1, #8
    vstrw.32 q0, [r7], #32
    vstrw.32 q1, [r7], #32
.endm

// \dst = four of the words of weights, zero where masked; \even = the even channel's weights of \dst.
.macro WEIGHT dst, even, offset, masked
    .if \masked
    vpst
    vldrwt.u32 \dst, [q7, #\offset]
    .else
    vldrw.u32 \dst, [q7, #\offset]
    .endif
    vmovlb.s8 \even, \dst
.endm

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

// Four pairs of input channels of one kernel row; r3: list of steps from one place to the next, q6: addresses of the inputs,
// q7: of the weights. At stride 1 every column is loaded once, the last three stay for the third kernel column. Masked: less
// than four pairs, which the predicate names; r9: their bytes.
.macro TAPS stride, pixels, masked
    ldr r1, [r3], #4
    vadd.i32 q6, q6, r1
    .if \masked
    WEIGHT q0, q1, 0, 1
    .else
    vldrw.u32 q0, [q7, #48]!
    vmovlb.s8 q1, q0
    .endif
    .if \stride == 1
    WEIGHT q2, q3, 4, \masked
    COLUMN 0, 0, -1, \pixels
    COLUMN 1, 1, 0, \pixels
    .if \pixels == 4
    COLUMN 2, 2, 1, 4
    COLUMN 3, 3, 2, 4, q5
    COLUMN 4, -1, 3, 4, q0
    .else
    COLUMN 2, 2, 1, 3, q4
    COLUMN 3, -1, 2, 3, q5
    .endif
    WEIGHT q2, q3, 8, \masked
    .if \masked
    vadd.i32 q7, q7, r9
    .endif
    APPLY q4, -1, 0, \pixels
    APPLY q5, -1, 1, \pixels
    .if \pixels == 4
    APPLY q0, -1, 2, 4
    COLUMN 5, -1, 3, 4
    .else
    COLUMN 4, -1, 2, 3
    .endif
    .else
    WEIGHT q2, q3, 8, 0
    COLUMN 0, 0, -1, \pixels
    COLUMN 1, 1, 0, \pixels
    COLUMN 2, 2, 1, \pixels
    COLUMN 3, 3, 2, \pixels
    .if \pixels == 4
    COLUMN 4, -1, 3, 4
    .endif
    WEIGHT q0, q1, 4, 0
    vadd.i32 q6, q6, r9
    COLUMN 0, 0, -1, \pixels
    COLUMN 1, 1, -1, \pixels
    COLUMN 2, 2, -1, \pixels
    .if \pixels == 4
    COLUMN 3, 3, -1, 4
    .endif
    .endif
.endm

// q7 = addresses of the first weights \pitch bytes apart, of a power of two times \times; from r0 and r1.
.macro WEIGHTS weight, pitch, times
    movs r0, #0
    vidup.u32 q7, r0, #\pitch
    movs r1, #\times
    vmul.i32 q7, q7, r1
    ldr r1, [r11, #\weight]
    vadd.i32 q7, q7, r1
.endm

// fn(&mut Square): a 3x3 kernel, all pairs of output channels of \pixels pixels, and perhaps of the next \pixels.
.macro DIRECT name, stride, pixels, masked
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    ENTER
    mov r11, r0
    ldr r1, [r11, #SQUARE_ENTRIES]
    sub sp, sp, r1, lsl #2
    mov r1, sp
    str r1, [r11, #SQUARE_LIST]
    sub sp, #16
    movs r0, #0
    vidup.u32 q6, r0, #1
    ldr r1, [r11, #SQUARE_PAIR_STEP]
    vmul.i32 q6, q6, r1
    .if \masked
    ldr r1, [r11, #SQUARE_PAIRS]
    vctp.32 r1
    vmov.i32 q5, #0
    vpsel q6, q6, q5
    .endif
    vstrw.32 q6, [sp]
    // The list of steps: to a row's first place, then from quad to quad.
    ldm r11, {{r0, r1, r2, r3, r4, r5, r6}}
    movs r7, #0
1:
    sub r8, r0, r7
    str r8, [r4], #4
    add r7, r0, r6
    ldr r8, [r11, #SQUARE_QUADS]
    b 3f
2:
    str r5, [r4], #4
3:
    subs r8, #1
    bne 2b
    mov r0, r1
    mov r1, r2
    subs r3, #1
    bne 1b
    ldr r9, [r11, #SQUARE_ODD_COLUMNS]
9:
    WEIGHTS SQUARE_WEIGHT, 4, 3
    ldr r7, [r11, #SQUARE_ACC]
10:
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    vldrw.u32 q6, [sp]
    ldr r3, [r11, #SQUARE_LIST]
    ldr r5, [r11, #SQUARE_ENTRIES]
    // Two at a time, one of them first when they are odd.
    lsrs r5, #1
    bcc 12f
11:
    TAPS \stride, \pixels, \masked
12:
    TAPS \stride, \pixels, \masked
    subs r5, #1
    bne 11b
    STORE_SPLIT
    ldrd r1, r3, [r11, #SQUARE_SKIP]
    vadd.i32 q7, q7, r1
    cmp r7, r3
    bne 10b
    ldr r1, [r11, #SQUARE_AGAIN]
    subs r1, #1
    bmi 13f
    str r1, [r11, #SQUARE_AGAIN]
    // The next pixels: their inputs and their sums.
    ldr r2, [r11, #SQUARE_LIST]
    ldr r3, [r2]
    add r3, #(4 * \pixels)
    str r3, [r2]
    ldr r3, [r11, #SQUARE_ACC]
    add r3, #(4 * \pixels)
    str r3, [r11, #SQUARE_ACC]
    ldr r3, [r11, #SQUARE_END]
    add r3, #(4 * \pixels)
    str r3, [r11, #SQUARE_END]
    b 9b
13:
    ldr r1, [r11, #SQUARE_ENTRIES]
    add sp, #16
    add sp, sp, r1, lsl #2
    LEAVE
    .size \name, . - \name
.endm

// Square, by its words: rows, how many, list, step from quad to quad, from a row's first place to the last one; then these.
.equ SQUARE_LIST, 16
.equ SQUARE_QUADS, 28
.equ SQUARE_ENTRIES, 32
.equ SQUARE_PAIR_STEP, 36
.equ SQUARE_ODD_COLUMNS, 40
.equ SQUARE_WEIGHT, 44
.equ SQUARE_ACC, 48
.equ SQUARE_SKIP, 52
.equ SQUARE_END, 56
.equ SQUARE_AGAIN, 60
.equ SQUARE_PAIRS, 64

DIRECT picodream_helium_direct_s1p4, 1, 4, 0
DIRECT picodream_helium_direct_s1p3, 1, 3, 0
DIRECT picodream_helium_direct_s2p4, 2, 4, 0
DIRECT picodream_helium_direct_s2p3, 2, 3, 0
DIRECT picodream_helium_direct_masked, 1, 4, 1

// Four pairs of input channels of a 1x1 kernel; r3: weights, q6: inputs of the pairs before.
.macro POINT
    vldrh.u16 q0, [r3], #16
    vmovlb.s8 q1, q0
    vldrw.u32 q2, [q6, #128]!
    MAC 0, q1, q0, q2
    vldrw.u32 q3, [q6, #4]
    MAC 1, q1, q0, q3
    vldrw.u32 q2, [q6, #8]
    MAC 2, q1, q0, q2
    vldrw.u32 q3, [q6, #12]
    MAC 3, q1, q0, q3
.endm

// fn(&Job): a 1x1 kernel on four pixels, all pairs of output channels; the list is the address of the inputs itself, the rest
// what the first of the unrolled loops leaves out, in bytes of code.
    .section .text.picodream_helium_point, "ax", %progbits
    .p2align 2
    .global picodream_helium_point
    .type picodream_helium_point, %function
    .thumb_func
picodream_helium_point:
    ENTER
    push {{r0, r1}}
    mov r1, r0
    movs r2, #0
    vidup.u32 q5, r2, #8
    vshl.i32 q5, q5, #2
    ldrd r11, r5, [r1, #4]
    adr.w r9, 11f
    add r9, r5
    add r9, #1
    ldr r3, [r1, #12]
    ldr r7, [r1, #16]
    ldr r5, [r1, #32]
    str r5, [sp]
    ldr r1, [r1]
10:
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    vadd.i32 q6, q5, r1
    mov r5, r11
    bx r9
    .p2align 2
11:
    POINT
    POINT
    POINT
    POINT
    subs r5, #1
    bne 11b
    STORE_SPLIT
    ldr r5, [sp]
    cmp r7, r5
    bne 10b
    add sp, #8
    LEAVE
    .size picodream_helium_point, . - picodream_helium_point

// fn(&Job): the 2x2 kernel of a phase on four source columns, all pairs of output channels; every other sum is stored.
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
    ldr r1, [r11, #20]
    vmul.i32 q5, q5, r1
    movs r0, #0
    vidup.u32 q7, r0, #8
    vadd.i32 q7, q7, q7
    ldr r1, [r11, #12]
    vadd.i32 q7, q7, r1
    ldr r7, [r11, #16]
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
    ldrd r1, r3, [r11, #28]
    vadd.i32 q7, q7, r1
    cmp r7, r3
    bne 10b
    LEAVE
    .size picodream_helium_phase, . - picodream_helium_phase
