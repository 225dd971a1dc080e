// From sums to f16: scale, bias, residual, rounding; and the sums of what was stored.

// q4, q5 = f32 of the sums in q4, q5, scaled by \s4, \s5 plus \b4, \b5 (vectors or core registers). \fraction: bits of the sums in
// q5 behind the point, none if left out.
.macro SCALE s4, s5, b4, b5, fraction
    vcvt.f32.s32 q4, q4
    .ifb \fraction
    vcvt.f32.s32 q5, q5
    .else
    vcvt.f32.s32 q5, q5, #\fraction
    .endif
    vmul.f32 q4, q4, \s4
    vmul.f32 q5, q5, \s5
    vadd.f32 q4, q4, \b4
    vadd.f32 q5, q5, \b5
.endm

// The loop over pixels of eight channels; lanes are the even channels in q4, the odd ones in q5.
.macro PIXELS residual
1:
    vldrw.u32 q4, [q6, #4]!
    vldrw.u32 q5, [q6, #32]
    SCALE q0, q1, q2, q3
    .if \residual
    vldrh.u16 q7, [r2]
    vcvtb.f32.f16 q7, q7
    vadd.f32 q4, q4, q7
    vldrh.u16 q7, [r2]
    vcvtt.f32.f16 q7, q7
    vadd.f32 q5, q5, q7
    add r2, r5
    .endif
    vcvtb.f16.f32 q4, q4
    vcvtt.f16.f32 q4, q5
    vstrh.16 q4, [r1]
    add r1, r5
    le lr, 1b
.endm

// Eight channels of r12 pixels, r5 bytes apart from r7 on: their sums and those of their squares, to r0, pixels in order.
.macro STATISTICS
    vld40.32 {{q0, q1, q2, q3}}, [r0]
    vld41.32 {{q0, q1, q2, q3}}, [r0]
    vld42.32 {{q0, q1, q2, q3}}, [r0]
    vld43.32 {{q0, q1, q2, q3}}, [r0]
    mov r1, r7
    dls lr, r12
1:
    vldrh.u16 q5, [r1]
    vcvtb.f32.f16 q4, q5
    vcvtt.f32.f16 q5, q5
    vadd.f32 q0, q0, q4
    vmul.f32 q4, q4, q4
    vadd.f32 q2, q2, q5
    vmul.f32 q5, q5, q5
    vadd.f32 q1, q1, q4
    vadd.f32 q3, q3, q5
    add r1, r5
    le lr, 1b
    vst40.32 {{q0, q1, q2, q3}}, [r0]
    vst41.32 {{q0, q1, q2, q3}}, [r0]
    vst42.32 {{q0, q1, q2, q3}}, [r0]
    vst43.32 {{q0, q1, q2, q3}}, [r0]!
.endm

// fn(&Ends): groups of eight channels. Ends: acc, out, residual or null, scale, bias, pitch in bytes, pixels, groups, sums or
// null: of eight channels and of their squares, pixels in order.
    .section .text.picodream_helium_finish, "ax", %progbits
    .p2align 2
    .global picodream_helium_finish
    .type picodream_helium_finish, %function
    .thumb_func
picodream_helium_finish:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    ldm r0, {{r6, r7, r8, r9, r10}}
    ldrd r5, r12, [r0, #20]
    ldrd r11, r0, [r0, #28]
    subs r6, #4
10:
    movs r4, #0
    vidup.u32 q6, r4, #8
    vshl.i32 q6, q6, #3
    vadd.i32 q6, q6, r6
    vld20.32 {{q0, q1}}, [r9]
    vld21.32 {{q0, q1}}, [r9]!
    vld20.32 {{q2, q3}}, [r10]
    vld21.32 {{q2, q3}}, [r10]!
    mov r1, r7
    dls lr, r12
    movs r2, r8
    beq 13f
    PIXELS 1
    add r8, #16
    b 14f
13:
    PIXELS 0
14:
    cbz r0, 15f
    STATISTICS
15:
    add r6, #256
    adds r7, #16
    subs r11, #1
    bne 10b
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size picodream_helium_finish, . - picodream_helium_finish

// fn(&Ends): two channels; lanes are pixels. Out and residual lie at words' addresses.
    .section .text.picodream_helium_finish_pair, "ax", %progbits
    .p2align 2
    .global picodream_helium_finish_pair
    .type picodream_helium_finish_pair, %function
    .thumb_func
picodream_helium_finish_pair:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    ldm r0, {{r1, r2, r3, r4, r5, r6, r7}}
    ldrd r8, r9, [r4]
    ldrd r10, r11, [r5]
    movs r0, #0
    vidup.u32 q6, r0, #1
    vmul.i32 q6, q6, r6
1:
    vctp.32 r7
    vldrw.u32 q5, [r1, #32]
    vldrw.u32 q4, [r1], #16
    SCALE r8, r9, r10, r11
    cbz r3, 2f
    vpst
    vldrwt.u32 q0, [r3, q6]
    vcvtb.f32.f16 q1, q0
    vcvtt.f32.f16 q2, q0
    vadd.f32 q4, q4, q1
    vadd.f32 q5, q5, q2
    add r3, r3, r6, lsl #2
2:
    vcvtb.f16.f32 q4, q4
    vcvtt.f16.f32 q4, q5
    vpst
    vstrwt.32 q4, [r2, q6]
    add r2, r2, r6, lsl #2
    subs r7, #4
    bgt 1b
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size picodream_helium_finish_pair, . - picodream_helium_finish_pair

// fn(out, sums, pitch in bytes, pixels): sums and squares of two channels, pixels in order.
    .section .text.picodream_helium_sums_pair, "ax", %progbits
    .p2align 2
    .global picodream_helium_sums_pair
    .type picodream_helium_sums_pair, %function
    .thumb_func
picodream_helium_sums_pair:
    push {{r4, lr}}
    vldm r1, {{s4-s7}}
    dls lr, r3
1:
    vldr s0, [r0]
    vcvtb.f32.f16 s1, s0
    vcvtt.f32.f16 s2, s0
    vadd.f32 s4, s4, s1
    vmul.f32 s1, s1, s1
    vadd.f32 s6, s6, s2
    vmul.f32 s2, s2, s2
    vadd.f32 s5, s5, s1
    vadd.f32 s7, s7, s2
    add r0, r2
    le lr, 1b
    vstm r1, {{s4-s7}}
    pop {{r4, pc}}
    .size picodream_helium_sums_pair, . - picodream_helium_sums_pair

// fn(scale, bias, eights) -> whether vectors, which flush subnormal numbers, give the same bits: every scale is at least 2^-40
// (then no product and, for a product that is not zero, no sum is subnormal), no bias is subnormal.
    .section .text.picodream_helium_normal, "ax", %progbits
    .p2align 2
    .global picodream_helium_normal
    .type picodream_helium_normal, %function
    .thumb_func
picodream_helium_normal:
    push {{r4, lr}}
    mvn r3, #0
    mvn r12, #0
    movs r4, #1
    dls lr, r2
1:
    .rept 2
    vldrw.u32 q0, [r0], #16
    vminv.u32 r3, q0
    vldrw.u32 q1, [r1], #16
    vshl.i32 q1, q1, #1
    vsub.i32 q1, q1, r4
    vminv.u32 r12, q1
    .endr
    le lr, 1b
    // Twice the bits of the smallest normal number, less one; zero became the largest.
    movw r4, #0xffff
    movt r4, #0x00ff
    cmp r12, r4
    it hs
    cmphs r3, #0x2b800000
    ite hs
    movhs r0, #1
    movlo r0, #0
    pop {{r4, pc}}
    .size picodream_helium_normal, . - picodream_helium_normal
