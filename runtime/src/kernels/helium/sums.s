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

// \dst = four of the words of weights or inputs; \even = the even channel's weights of \dst.
.macro WEIGHT dst, even, offset
    vldrw.u32 \dst, [q7, #\offset]
    vmovlb.s8 \even, \dst
.endm

// One column of inputs, for up to two pairs of weights: kernel column a of pixel \pa, kernel column b of pixel \pb (-1: none).
.macro COLUMN offset, pa, pb, pixels
    vldrw.u32 q4, [q6, #4 * (\offset)]
    .if (\pa >= 0) && (\pa < \pixels)
    MAC \pa, q1, q0, q4
    .endif
    .if (\pb >= 0) && (\pb < \pixels)
    MAC \pb, q3, q2, q4
    .endif
.endm

// Four pairs of input channels of one kernel row; r3: list of row addresses, q5: offsets of the pairs, q7: weights.
.macro TAPS stride, pixels
    ldr r1, [r3], #4
    vadd.i32 q6, q5, r1
    vldrw.u32 q0, [q7, #48]!
    vmovlb.s8 q1, q0
    .if \stride == 1
    WEIGHT q2, q3, 4
    .else
    WEIGHT q2, q3, 8
    .endif
    COLUMN 0, 0, -1, \pixels
    COLUMN 1, 1, 0, \pixels
    COLUMN 2, 2, 1, \pixels
    COLUMN 3, 3, 2, \pixels
    .if \pixels == 4
    COLUMN 4, -1, 3, \pixels
    .endif
    .if \stride == 1
    WEIGHT q0, q1, 8
    COLUMN 2, 0, -1, \pixels
    COLUMN 3, 1, -1, \pixels
    COLUMN 4, 2, -1, \pixels
    .if \pixels == 4
    COLUMN 5, 3, -1, \pixels
    .endif
    .else
    WEIGHT q0, q1, 4
    vadd.i32 q6, q6, r9
    COLUMN 0, 0, -1, \pixels
    COLUMN 1, 1, -1, \pixels
    COLUMN 2, 2, -1, \pixels
    .if \pixels == 4
    COLUMN 3, 3, -1, \pixels
    .endif
    .endif
.endm

// fn(&Job): a 3x3 kernel on \pixels pixels, all pairs of output channels.
.macro DIRECT name, stride, pixels
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    ENTER
    mov r11, r0
    movs r0, #0
    vidup.u32 q5, r0, #1
    ldr r1, [r11, #20]
    vmul.i32 q5, q5, r1
    movs r0, #0
    vidup.u32 q7, r0, #4
    movs r1, #3
    vmul.i32 q7, q7, r1
    ldr r1, [r11, #12]
    vadd.i32 q7, q7, r1
    ldr r7, [r11, #16]
    ldr r9, [r11, #24]
10:
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    ldrd r3, r5, [r11]
    cmp r5, #0
    beq 12f
11:
    TAPS \stride, \pixels
    TAPS \stride, \pixels
    subs r5, #1
    bne 11b
12:
    ldr r5, [r11, #8]
    cmp r5, #0
    beq 13f
    TAPS \stride, \pixels
13:
    STORE_SPLIT
    ldrd r1, r3, [r11, #28]
    vadd.i32 q7, q7, r1
    cmp r7, r3
    bne 10b
    LEAVE
    .size \name, . - \name
.endm

DIRECT picodream_helium_direct_s1p4, 1, 4
DIRECT picodream_helium_direct_s1p3, 1, 3
DIRECT picodream_helium_direct_s2p4, 2, 4
DIRECT picodream_helium_direct_s2p3, 2, 3

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

// fn(&Job): a 1x1 kernel on four pixels, all pairs of output channels; the list is the address of the inputs itself.
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
    ldr r9, [r1, #4]
    ldr r11, [r1, #8]
    ldr r3, [r1, #12]
    ldr r7, [r1, #16]
    ldr r5, [r1, #32]
    str r5, [sp]
    ldr r1, [r1]
10:
    clrm {{r0, r2, r4, r6, r8, r10, r12, lr}}
    vadd.i32 q6, q5, r1
    movs r5, r9
    beq 12f
11:
    POINT
    POINT
    POINT
    POINT
    subs r5, #1
    bne 11b
12:
    movs r5, r11
    beq 14f
13:
    POINT
    subs r5, #1
    bne 13b
14:
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
