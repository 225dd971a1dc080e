// From f16, f32 or 8 bits to quantised integers: eight channels of a pixel at a time, lanes are even channels and odd ones.

// fn(&Run): runs of pixels whose words are neighbours, one for each eight channels, of \size bytes a value; each pixel is
// written \times. Run: values, bytes from pixel to pixel, first word, bytes between pairs of channels, pixels, affine pairs or
// null, factor, constant, shift up, shift down, table, eights of channels, scales of channels.
// Factor and constant: a plain quantiser's scale and 128.0; behind a SiLU the multiplier << 15 and the table's upper halves.
.macro BEGIN name, size, times
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
    ldm r0!, {{r8-r12}}
    ldr r0, [r0]
    mov lr, #0
    vidup.u32 q6, lr, #1
    vmul.i32 q6, q6, r4
    subs r3, #4
    vadd.i32 q6, q6, r3
    // From the end of a run to the next: of words in r3, of values in r4.
    mov lr, #(4 * \times)
    mul lr, r5, lr
    rsb r3, lr, r4, lsl #2
    mul r4, r5, r2
    rsb r4, r4, #(8 * \size)
.endm

// Next run, from 10 on, or the end.
.macro END name
    vadd.i32 q6, q6, r3
    add r1, r4
    subs r12, #1
    bne 10b
    add sp, #64
    vpop {{d8-d15}}
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

// \even, \odd = the values at r1 as f32, through \odd.
.macro HALVES even, odd
    vldrh.u16 \odd, [r1]
    vcvtb.f32.f16 \even, \odd
    vcvtt.f32.f16 \odd, \odd
.endm

.macro BYTES even, odd
    vldrb.s16 \odd, [r1]
    vmovlb.s16 \even, \odd
    vmovlt.s16 \odd, \odd
    vcvt.f32.s32 \even, \even
    vcvt.f32.s32 \odd, \odd
.endm

// Clamps \q to the quantiser's range and stores it; next pixel.
.macro NEXT q, times
    vqshl.s16 \q, r9
    vshl.s16 \q, r10
    .rept \times
    vstrw.32 \q, [q6, #4]!
    .endr
    add r1, r2
    le lr, 1b
.endm

// A plain quantiser on q4 and q5.
.macro PLAIN times
    vmul.f32 q4, q4, r7
    vmul.f32 q5, q5, r7
    vadd.f32 q4, q4, r8
    vadd.f32 q5, q5, r8
    vcvt.s32.f32 q4, q4
    vcvt.s32.f32 q5, q5
    vqshrnb.s32 q4, q4, #8
    vqshrnt.s32 q4, q5, #8
    NEXT q4, \times
.endm

BEGIN picodream_helium_feed_plain, 2, 1
10:
    dls lr, r5
1:
    HALVES q4, q5
    PLAIN 1
END picodream_helium_feed_plain

BEGIN picodream_helium_feed_floats, 4, 1
10:
    dls lr, r5
1:
    vld20.32 {{q4, q5}}, [r1]
    vld21.32 {{q4, q5}}, [r1]
    PLAIN 1
END picodream_helium_feed_floats

BEGIN picodream_helium_feed_twice, 2, 2
10:
    dls lr, r5
1:
    HALVES q4, q5
    PLAIN 2
END picodream_helium_feed_twice

BEGIN picodream_helium_feed_normed, 2, 1
10:
    vld40.32 {{q0, q1, q2, q3}}, [r6]
    vld41.32 {{q0, q1, q2, q3}}, [r6]
    vld42.32 {{q0, q1, q2, q3}}, [r6]
    vld43.32 {{q0, q1, q2, q3}}, [r6]!
    dls lr, r5
1:
    HALVES q4, q5
    vmul.f32 q4, q4, q0
    vmul.f32 q5, q5, q2
    vadd.f32 q4, q4, q1
    vadd.f32 q5, q5, q3
    PLAIN 1
END picodream_helium_feed_normed

BEGIN picodream_helium_feed_bytes_plain, 1, 1
10:
    vld20.32 {{q0, q1}}, [r0]
    vld21.32 {{q0, q1}}, [r0]!
    dls lr, r5
1:
    BYTES q4, q5
    vmul.f32 q4, q4, q0
    vmul.f32 q5, q5, q1
    PLAIN 1
END picodream_helium_feed_bytes_plain

// The affine map, then SiLU in integers, of q0 and q1: the even and the odd channels. a is in q2 and q4, b at sp. The magnitude
// fits 16 bits, so that from there on eight are looked up and interpolated together.
.macro SILU
    vmul.f32 q0, q0, q2
    vmul.f32 q1, q1, q4
    vldrw.u32 q3, [sp]
    vadd.f32 q0, q0, q3
    vldrw.u32 q3, [sp, #16]
    vadd.f32 q1, q1, q3
    vcvt.s32.f32 q0, q0
    vcvt.s32.f32 q1, q1
    vshr.s32 q5, q0, #31
    veor q7, q0, q5
    vbic q0, q0, q5
    vqmovnb.u32 q3, q7
    vshr.s32 q5, q1, #31
    veor q7, q1, q5
    vbic q1, q1, q5
    vqmovnt.u32 q3, q7
    // Twice the entry's number in q5; 256 times what is left in q3; half of what vqdmulh doubles.
    vshr.u16 q5, q3, #6
    vbic.i16 q5, #1
    vshl.i16 q3, q3, #9
    vshr.u16 q3, q3, #1
    vldrh.u16 q7, [r11, q5, uxtw #1]
    vqdmulh.s16 q3, q3, q7
    vldrh.u16 q7, [r8, q5, uxtw #1]
    vadd.i16 q3, q3, q7
    vmovlb.s16 q5, q3
    vmovlt.s16 q7, q3
    vsub.i32 q0, q0, q5
    vsub.i32 q1, q1, q7
    // (y * (multiplier << 15) * 2 + (1 << 31)) >> 32.
    vqrdmulh.s32 q0, q0, r7
    vqrdmulh.s32 q1, q1, r7
    vqmovnb.s32 q0, q0
    vqmovnt.s32 q0, q1
    NEXT q0, 1
.endm

.macro AFFINE
    vld40.32 {{q2, q3, q4, q5}}, [r6]
    vld41.32 {{q2, q3, q4, q5}}, [r6]
    vld42.32 {{q2, q3, q4, q5}}, [r6]
    vld43.32 {{q2, q3, q4, q5}}, [r6]!
    vstrw.32 q3, [sp]
    vstrw.32 q5, [sp, #16]
.endm

BEGIN picodream_helium_feed_silu, 2, 1
10:
    AFFINE
    dls lr, r5
1:
    HALVES q0, q1
    SILU
END picodream_helium_feed_silu

BEGIN picodream_helium_feed_bytes_silu, 1, 1
10:
    AFFINE
    vld20.32 {{q0, q1}}, [r0]
    vld21.32 {{q0, q1}}, [r0]!
    vstrw.32 q0, [sp, #32]
    vstrw.32 q1, [sp, #48]
    dls lr, r5
1:
    BYTES q0, q1
    vldrw.u32 q3, [sp, #32]
    vmul.f32 q0, q0, q3
    vldrw.u32 q3, [sp, #48]
    vmul.f32 q1, q1, q3
    SILU
END picodream_helium_feed_bytes_silu

// fn(row, len): zeros.
    .section .text.picodream_helium_clear, "ax", %progbits
    .p2align 2
    .global picodream_helium_clear
    .type picodream_helium_clear, %function
    .thumb_func
picodream_helium_clear:
    push {{r4, lr}}
    vmov.i32 q0, #0
    // Four vectors at a time, then what is left.
    lsrs r4, r1, #5
    and r1, r1, #31
    wls lr, r4, 3f
4:
    .rept 4
    vstrh.16 q0, [r0], #16
    .endr
    le lr, 4b
3:
    wlstp.16 lr, r1, 2f
1:
    vstrh.16 q0, [r0], #16
    letp lr, 1b
2:
    pop {{r4, pc}}
    .size picodream_helium_clear, . - picodream_helium_clear
