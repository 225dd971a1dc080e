// From f16 to quantised integers: eight channels of a pixel at a time, lanes are even channels and odd ones.

// fn(&Run): one run of pixels whose words are neighbours. Run: values, bytes between pixels, first word, bytes between pairs of
// channels, pixels, affine pairs of eight channels or null, factor, what is added, shift up, shift down, table.
// Factor is a plain quantiser's scale (f32) or a SiLU's multiplier; what is added is 128.0 or 1 << 15.
.macro BEGIN name
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r11, lr}}
    vpush {{d8-d15}}
    sub sp, #64
    ldm r0!, {{r1-r7}}
    ldm r0, {{r8, r9, r10, r11}}
    movs r0, #0
    vidup.u32 q6, r0, #1
    vmul.i32 q6, q6, r4
    subs r3, #4
    vadd.i32 q6, q6, r3
    dls lr, r5
.endm

.macro END name
    add sp, #64
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

// Clamps q4 to the quantiser's range and stores it; next pixel.
.macro NEXT
    vqshl.s16 q4, r9
    vshl.s16 q4, r10
    vstrw.32 q4, [q6, #4]!
    add r1, r2
    le lr, 1b
.endm

.macro PLAIN affine
1:
    vldrh.u16 q4, [r1]
    vcvtt.f32.f16 q5, q4
    vcvtb.f32.f16 q4, q4
    .if \affine
    vmul.f32 q4, q4, q0
    vmul.f32 q5, q5, q2
    vadd.f32 q4, q4, q1
    vadd.f32 q5, q5, q3
    .endif
    vmul.f32 q4, q4, r7
    vmul.f32 q5, q5, r7
    vadd.f32 q4, q4, r8
    vadd.f32 q5, q5, r8
    vcvt.s32.f32 q4, q4
    vcvt.s32.f32 q5, q5
    vqshrnb.s32 q4, q4, #8
    vqshrnt.s32 q4, q5, #8
    NEXT
.endm

.macro AFFINE
    vld40.32 {{q0, q1, q2, q3}}, [r6]
    vld41.32 {{q0, q1, q2, q3}}, [r6]
    vld42.32 {{q0, q1, q2, q3}}, [r6]
    vld43.32 {{q0, q1, q2, q3}}, [r6]
.endm

BEGIN picodream_helium_feed_plain
    cbz r6, 2f
    AFFINE
    PLAIN 1
    b 3f
2:
    PLAIN 0
3:
END picodream_helium_feed_plain

// One half of the lanes: SiLU of q0, then times the multiplier, into the \half of q4; q7 = 127.
.macro SILU half
    vcvt.s32.f32 q0, q0
    vqshl.s32 q0, q0, #14
    vshr.s32 q0, q0, #14
    vshr.s32 q1, q0, #31
    veor q2, q0, q1
    vqshl.u32 q2, q2, #16
    vshr.u32 q2, q2, #16
    vshr.u32 q3, q2, #7
    vldrw.u32 q5, [r11, q3, uxtw #2]
    vand q2, q2, q7
    vshr.s32 q3, q5, #16
    vmovlb.s16 q5, q5
    vmul.i32 q2, q2, q5
    vshr.s32 q2, q2, #7
    vadd.i32 q2, q2, q3
    vbic q0, q0, q1
    vsub.i32 q0, q0, q2
    vmul.i32 q0, q0, r7
    vadd.i32 q0, q0, r8
    vqshrn\half\().s32 q4, q0, #16
.endm

BEGIN picodream_helium_feed_silu
    AFFINE
    vstrw.32 q0, [sp]
    vstrw.32 q1, [sp, #16]
    vstrw.32 q2, [sp, #32]
    vstrw.32 q3, [sp, #48]
    vmov.i32 q7, #127
1:
    vldrh.u16 q4, [r1]
    vldrw.u32 q1, [sp]
    vldrw.u32 q2, [sp, #16]
    vcvtb.f32.f16 q0, q4
    vmul.f32 q0, q0, q1
    vadd.f32 q0, q0, q2
    SILU b
    vldrw.u32 q1, [sp, #32]
    vldrw.u32 q2, [sp, #48]
    vcvtt.f32.f16 q0, q4
    vmul.f32 q0, q0, q1
    vadd.f32 q0, q0, q2
    SILU t
    NEXT
END picodream_helium_feed_silu
