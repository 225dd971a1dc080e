// From f16 to 8 bits: eight channels at a time.

// fn(values, largest, bytes from pixel to pixel, pixels): the bits of each of eight channels' largest magnitude.
    .section .text.picodream_helium_largest, "ax", %progbits
    .p2align 2
    .global picodream_helium_largest
    .type picodream_helium_largest, %function
    .thumb_func
picodream_helium_largest:
    push {{r4, lr}}
    vmov.i32 q0, #0
    dls lr, r3
1:
    vldrh.u16 q1, [r0]
    add r0, r2
    vbic.i16 q1, #0x8000
    vmax.u16 q0, q0, q1
    le lr, 1b
    vstrh.16 q0, [r1]
    pop {{r4, pc}}
    .size picodream_helium_largest, . - picodream_helium_largest

// fn(values, integers, factors of eight channels, channels, pixels): quantises with each channel's own factor.
    .section .text.picodream_helium_narrow, "ax", %progbits
    .p2align 2
    .global picodream_helium_narrow
    .type picodream_helium_narrow, %function
    .thumb_func
picodream_helium_narrow:
    push {{r4, lr}}
    ldr lr, [sp, #8]
    vld20.32 {{q0, q1}}, [r2]
    vld21.32 {{q0, q1}}, [r2]
    // 128.0
    mov r4, #0x43000000
    dls lr, lr
1:
    vldrh.u16 q3, [r0]
    add r0, r0, r3, lsl #1
    vcvtb.f32.f16 q2, q3
    vcvtt.f32.f16 q3, q3
    vmul.f32 q2, q2, q0
    vmul.f32 q3, q3, q1
    vadd.f32 q2, q2, r4
    vadd.f32 q3, q3, r4
    vcvt.s32.f32 q2, q2
    vcvt.s32.f32 q3, q3
    vqshrnb.s32 q2, q2, #8
    vqshrnt.s32 q2, q3, #8
    vqmovnb.s16 q2, q2
    vstrb.16 q2, [r1]
    add r1, r3
    le lr, 1b
    pop {{r4, pc}}
    .size picodream_helium_narrow, . - picodream_helium_narrow
