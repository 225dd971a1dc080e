// Integer sums on Cortex-M3 (and any ARMv7-M or ARMv8-M mainline core without DSP): two output channels by three or four pixels,
// one MLA a product. r4 to r7 are the sums of one channel, r8 to r11 of the other.

.macro START name
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r11, lr}}
.endm

// The next halfword of direct weights, whole and its low byte: the weights of one input channel for two output channels.
.macro HALFWORD
    ldrsb r3, [r0]
    ldrsh r2, [r0], #2
.endm

.macro LANE_4
    HALFWORD
    ldrd r12, lr, [r1], #8
    mla r4, r2, r12, r4
    mla r8, r3, r12, r8
    mla r5, r2, lr, r5
    mla r9, r3, lr, r9
    ldrd r12, lr, [r1], #8
    mla r6, r2, r12, r6
    mla r10, r3, r12, r10
    mla r7, r2, lr, r7
    mla r11, r3, lr, r11
.endm

.macro LANE_3
    HALFWORD
    ldm r1!, {{r11, r12, lr}}
    mla r4, r2, r11, r4
    mla r8, r3, r11, r8
    mla r5, r2, r12, r5
    mla r9, r3, r12, r9
    mla r6, r2, lr, r6
    mla r10, r3, lr, r10
.endm

// Adds up eight words of weights at a time; where their number is no multiple of eight, the first time begins in the middle.
.macro STREAM lane
1:
    .rept 16
    \lane
    .endr
    ldr r12, [sp]
    cmp r1, r12
    bne 1b
    ldr pc, [sp, #68]
.endm

// fn(weight, inputs, acc, end, bytes, skip, load, part): adds the products of a pair of output channels with `bytes` of
// weights, behind which `skip` bytes are left out, and goes on with the next pair until acc is at its end. The inputs are words
// [word of weights][input channel][pixel], of four pixels or three; four sums of each output channel are written. They begin as
// zeros or, with `load`, as what is there. They are T and S, of whole halfwords for the odd channel and of low bytes for the
// even one; with `part`, the odd channel's come out as (T - S) >> 8.
// Frame: 0 end of the inputs, 4 inputs, 12 end; addresses: 48 where the stream begins, 64 where a pair does, 68 what comes behind
// the stream; 56 acc, 60 skip.
    .section .text.picodream_plain_sums, "ax", %progbits
    .p2align 2
    .global picodream_plain_sums_3
    .type picodream_plain_sums_3, %function
    .thumb_func
picodream_plain_sums_3:
    push {{r0-r12, lr}}
    adr.w r6, 23f
    movs r7, #3
    b 10f
    .global picodream_plain_sums_4
    .type picodream_plain_sums_4, %function
    .thumb_func
picodream_plain_sums_4:
    push {{r0-r12, lr}}
    adr.w r6, 24f
    movs r7, #4
10:
    ldr r4, [sp, #56]
    str r2, [sp, #56]
    // A byte of weights is two words of each pixel, and 6 bytes of code.
    mul r5, r4, r7
    add r1, r1, r5, lsl #1
    str r1, [sp]
    rsbs r4, r4, #0
    and r4, r4, #28
    mul r4, r4, r7
    add r4, r4, r4, lsl #1
    add r6, r6, r4, lsl #1
    adr.w r7, 21f
    ldr r5, [sp, #64]
    cbz r5, 11f
    adr.w r7, 22f
11:
    adr.w r8, 26f
    ldr r5, [sp, #68]
    cbz r5, 12f
    adr.w r8, 25f
12:
    // Addresses of Thumb code are odd.
    adds r6, #1
    adds r7, #1
    add r8, r8, #1
    str r6, [sp, #48]
    strd r7, r8, [sp, #64]
    bx r7
    .p2align 2
21:
    movs r4, #0
    movs r5, #0
    movs r6, #0
    movs r7, #0
    mov r8, r4
    mov r9, r4
    mov r10, r4
    mov r11, r4
    b 27f
    .p2align 2
22:
    ldm r2, {{r8-r11}}
    add r3, r2, #32
    ldm r3, {{r4-r7}}
27:
    ldr r1, [sp, #4]
    ldr pc, [sp, #48]
    .p2align 2
24:
    STREAM LANE_4
    .p2align 2
23:
    STREAM LANE_3
    .p2align 2
25:
    subs r4, r4, r8
    subs r5, r5, r9
    sub r6, r6, r10
    sub r7, r7, r11
    asrs r4, r4, #8
    asrs r5, r5, #8
    asrs r6, r6, #8
    asrs r7, r7, #8
    .p2align 2
26:
    ldrd r2, r3, [sp, #56]
    stm r2!, {{r8-r11}}
    add r0, r0, r3
    adds r2, #16
    stm r2!, {{r4-r7}}
    ldr r3, [sp, #12]
    adds r2, #16
    str r2, [sp, #56]
    cmp r2, r3
    it ne
    ldrne pc, [sp, #64]
    add sp, #16
    pop {{r4-r12, pc}}
    .size picodream_plain_sums_4, . - picodream_plain_sums_4

// The halves of \count words from \from on, \lane bytes behind each's beginning, as words in r4 and the registers behind it.
.macro LOAD from, lane, count
    ldrsh r4, [\from, #\lane]
    ldrsh r5, [\from, #\lane + 4]
    ldrsh r6, [\from, #\lane + 8]
    .if \count > 3
    ldrsh r7, [\from, #\lane + 12]
    .endif
    .if \count > 4
    ldrsh r8, [\from, #\lane + 16]
    .endif
    .if \count > 5
    ldrsh r9, [\from, #\lane + 20]
    .endif
.endm

// One channel of a pair: all columns of a 3x3 kernel at stride 1, the even ones at stride 2, the odd ones or a 1x1 kernel.
.macro ALL lane, pixels
    LOAD r0, \lane, \pixels + 2
    .if \pixels == 4
    stm r1!, {{r4-r7}}
    stm r2!, {{r5-r8}}
    stm r3!, {{r6-r9}}
    .else
    stm r1!, {{r4-r6}}
    stm r2!, {{r5-r7}}
    stm r3!, {{r6-r8}}
    .endif
.endm

.macro EVEN lane, pixels
    LOAD r0, \lane, \pixels + 1
    .if \pixels == 4
    stm r1!, {{r4-r7}}
    stm r3!, {{r5-r8}}
    .else
    stm r1!, {{r4-r6}}
    stm r3!, {{r5-r7}}
    .endif
.endm

.macro ODD from, lane, pixels
    LOAD \from, \lane, \pixels
    .if \pixels == 4
    stm r1!, {{r4-r7}}
    .else
    stm r1!, {{r4-r6}}
    .endif
.endm

// fn(row, words, pairs, step, columns, starts): the words under some pixels, four or three, of each pair of channels and each
// column of the kernel, as words of the one channel and behind them of the other. Pairs are `step` bytes apart in the row, where
// each column has a start. The row may begin at any halfword.
.macro UNPACK name, pixels
    .section .text.\name, "ax", %progbits
    .p2align 2
    .global \name
    .type \name, %function
    .thumb_func
\name:
    push {{r4-r11, lr}}
    ldrd r4, r5, [sp, #36]
    ldrd r6, r7, [r5]
    add r10, r0, r7
    add r0, r0, r6
    subs r7, r7, r6
    mov r11, r3
    mov r12, r2
    add r2, r1, #(8 * \pixels)
    add r3, r1, #(16 * \pixels)
    cmp r4, #1
    beq 3f
    cmp r7, #4
    bne 2f
1:
    ALL 0, \pixels
    ALL 2, \pixels
    add r0, r0, r11
    adds r1, #(16 * \pixels)
    adds r2, #(16 * \pixels)
    adds r3, #(16 * \pixels)
    subs r12, #1
    bne 1b
    pop {{r4-r11, pc}}
2:
    EVEN 0, \pixels
    EVEN 2, \pixels
    ODD r10, 0, \pixels
    ODD r10, 2, \pixels
    add r0, r0, r11
    add r10, r10, r11
    adds r1, #(8 * \pixels)
    adds r3, #(16 * \pixels)
    subs r12, #1
    bne 2b
    pop {{r4-r11, pc}}
3:
    ODD r0, 0, \pixels
    ODD r0, 2, \pixels
    add r0, r0, r11
    subs r12, #1
    bne 3b
    pop {{r4-r11, pc}}
    .size \name, . - \name
.endm

UNPACK picodream_plain_unpack_3, 3
UNPACK picodream_plain_unpack_4, 4
