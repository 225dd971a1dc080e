// Self-attention: scores of four queries, their exponentials, and what they mix from the values.

// \score += the dot product of a query's chunk at r1 with the keys in q0 to q3: four partial sums, lane by lane.
.macro DOT score
    vldrw.u32 q4, [r1]
    vmul.f32 q4, q4, q0
    vldrw.u32 q5, [r1, #16]
    vmul.f32 q5, q5, q1
    vadd.f32 q4, q4, q5
    vldrw.u32 q5, [r1, #32]
    vmul.f32 q5, q5, q2
    vadd.f32 q4, q4, q5
    vldrw.u32 q5, [r1, #48]
    vmul.f32 q5, q5, q3
    vadd.f32 q4, q4, q5
    add r1, r6
    vadd.f32 s16, s16, s17
    vadd.f32 s18, s18, s19
    vadd.f32 s16, s16, s18
    vadd.f32 \score, \score, s16
.endm

// fn(&Head): scores of all tokens, chunk by chunk of 16. Head: query, keys, scores, tokens, bytes from token to token, chunks,
// bytes from query to query.
    .section .text.picodream_helium_scores, "ax", %progbits
    .p2align 2
    .global picodream_helium_scores
    .type picodream_helium_scores, %function
    .thumb_func
picodream_helium_scores:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    ldr r6, [r0, #24]
    ldm r0, {{r0, r2, r3, r4, r5, r9}}
    dls lr, r4
1:
    vmov.i32 q6, #0
    mov r8, r0
    mov r7, r2
    mov r12, r9
2:
    vldrh.u32 q0, [r7], #8
    vldrh.u32 q1, [r7], #8
    vldrh.u32 q2, [r7], #8
    vldrh.u32 q3, [r7], #8
    vcvtb.f32.f16 q0, q0
    vcvtb.f32.f16 q1, q1
    vcvtb.f32.f16 q2, q2
    vcvtb.f32.f16 q3, q3
    mov r1, r8
    DOT s24
    DOT s25
    DOT s26
    DOT s27
    adds r8, #64
    subs r12, #1
    bne 2b
    vstrw.32 q6, [r3], #16
    add r2, r5
    le lr, 1b
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size picodream_helium_scores, . - picodream_helium_scores

// fn(scores, tokens, totals) -> bits of the smallest: e^(score - largest) of four queries, in place, and their sums. The order of
// operations is that of math::exp; a difference is never above 0, and NaN counts as the least.
    .section .text.picodream_helium_exponentials, "ax", %progbits
    .p2align 2
    .global picodream_helium_exponentials
    .type picodream_helium_exponentials, %function
    .thumb_func
picodream_helium_exponentials:
    push {{r2, r4-r11, lr}}
    vpush {{d8-d15}}
    // Largest; from the most negative number on.
    mvn r3, #0x00800000
    vdup.32 q0, r3
    mov r3, r0
    dls lr, r1
1:
    vldrw.u32 q1, [r3], #16
    vmaxnm.f32 q0, q0, q1
    le lr, 1b
    mov lr, r1
    adr r12, 3f
    vldr s4, [r12]
    add r12, #4
    ldm r12, {{r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11}}
    vmov r12, s4
    vdup.32 q1, r12
    vmov.i32 q2, #0
    vmvn.i32 q3, #0
    movs r12, #127
    dls lr, lr
2:
    vldrw.u32 q4, [r0]
    vsub.f32 q4, q4, q0
    vmaxnm.f32 q4, q4, q1
    vmul.f32 q5, q4, r1
    vadd.f32 q5, q5, r2
    vsub.i32 q5, q5, r2
    vcvt.f32.s32 q6, q5
    vmul.f32 q7, q6, r3
    vsub.f32 q4, q4, q7
    vmul.f32 q6, q6, r4
    vsub.f32 q4, q4, q6
    vmul.f32 q6, q4, r5
    vadd.f32 q6, q6, r6
    vmul.f32 q6, q6, q4
    vadd.f32 q6, q6, r7
    vmul.f32 q6, q6, q4
    vadd.f32 q6, q6, r8
    vmul.f32 q6, q6, q4
    vadd.f32 q6, q6, r9
    vmul.f32 q6, q6, q4
    vadd.f32 q6, q6, r10
    vmul.f32 q7, q4, q4
    vmul.f32 q6, q6, q7
    vadd.f32 q6, q6, q4
    vadd.f32 q6, q6, r11
    vadd.i32 q5, q5, r12
    vshl.i32 q5, q5, #23
    vmul.f32 q6, q6, q5
    vmin.u32 q3, q3, q6
    vadd.f32 q2, q2, q6
    vstrw.32 q6, [r0], #16
    le lr, 2b
    vpop {{d8-d15}}
    pop {{r2, r4-r11, lr}}
    vstrw.32 q2, [r2]
    mvn r0, #0
    vminv.u32 r0, q3
    bx lr
    .p2align 2
    // Of math::exp: -87, log2(e), 1.5 * 2^23, the two parts of ln(2), the polynomial, 1.
3:
    .word 0xc2ae0000, 0x3fb8aa3b, 0x4b400000, 0x3f318000, 0xb95e8083
    .word 0x39506967, 0x3ab743ce, 0x3c088908, 0x3d2aa9c1, 0x3e2aaaaa, 0x3f000000, 0x3f800000
    .size picodream_helium_exponentials, . - picodream_helium_exponentials

// fn(values, scores, sums, tokens, bytes from token to token): score times value of four channels and four queries, tokens in
// order; sums are [4 queries][4 channels].
    .section .text.picodream_helium_values, "ax", %progbits
    .p2align 2
    .global picodream_helium_values
    .type picodream_helium_values, %function
    .thumb_func
picodream_helium_values:
    push {{r4-r7, lr}}
    vpush {{d8-d11}}
    ldr r12, [sp, #52]
    vmov.i32 q0, #0
    vmov.i32 q1, #0
    vmov.i32 q2, #0
    vmov.i32 q3, #0
    dls lr, r3
1:
    vldrh.u32 q4, [r0]
    add r0, r12
    vcvtb.f32.f16 q4, q4
    ldm r1!, {{r4-r7}}
    vmul.f32 q5, q4, r4
    vadd.f32 q0, q0, q5
    vmul.f32 q5, q4, r5
    vadd.f32 q1, q1, q5
    vmul.f32 q5, q4, r6
    vadd.f32 q2, q2, q5
    vmul.f32 q5, q4, r7
    vadd.f32 q3, q3, q5
    le lr, 1b
    vstrw.32 q0, [r2]
    vstrw.32 q1, [r2, #16]
    vstrw.32 q2, [r2, #32]
    vstrw.32 q3, [r2, #48]
    vpop {{d8-d11}}
    pop {{r4-r7, pc}}
    .size picodream_helium_values, . - picodream_helium_values

// fn(values, quads) -> twice the bits of the smallest number but zero, less one.
    .section .text.picodream_helium_smallest, "ax", %progbits
    .p2align 2
    .global picodream_helium_smallest
    .type picodream_helium_smallest, %function
    .thumb_func
picodream_helium_smallest:
    push {{r4, lr}}
    mvn r3, #0
    movs r4, #1
    dls lr, r1
1:
    vldrw.u32 q0, [r0], #16
    vshl.i32 q0, q0, #1
    vsub.i32 q0, q0, r4
    vminv.u32 r3, q0
    le lr, 1b
    mov r0, r3
    pop {{r4, pc}}
    .size picodream_helium_smallest, . - picodream_helium_smallest

// fn(x, quads, weight, out, count): out[o] = dot product of x with the o-th of count rows of 8-bit weights, in four partial sums.
    .section .text.picodream_helium_dots, "ax", %progbits
    .p2align 2
    .global picodream_helium_dots
    .type picodream_helium_dots, %function
    .thumb_func
picodream_helium_dots:
    push {{r4, r5, lr}}
    ldr r4, [sp, #12]
1:
    mov r5, r0
    vmov.i32 q0, #0
    dls lr, r1
2:
    vldrb.s32 q1, [r2], #4
    vldrw.u32 q2, [r5], #16
    vcvt.f32.s32 q1, q1
    vmul.f32 q1, q1, q2
    vadd.f32 q0, q0, q1
    le lr, 2b
    vadd.f32 s0, s0, s1
    vadd.f32 s2, s2, s3
    vadd.f32 s0, s0, s2
    vstr s0, [r3]
    adds r3, #4
    subs r4, #1
    bne 1b
    pop {{r4, r5, pc}}
    .size picodream_helium_dots, . - picodream_helium_dots
