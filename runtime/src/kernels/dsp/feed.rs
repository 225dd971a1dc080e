//! From f16 and 8-bit rows to quantised rows on the FPU: a pair of channels at a time, column by column.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use super::super::{Feed, FeedTarget, RowSource};
use super::is_aligned;
use crate::blob::BLOCK_PIXELS;
use crate::quant::{Quantiser, SILU_TABLE};
use crate::tensor::Elements;

/// What a loop is told; it moves some of it on. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: the next pair of channels' first value, f16 or i8.
    values: *const u8,
    /// 4: where its first word goes.
    row: *mut i16,
    /// 8: columns, even, not 0.
    columns: usize,
    /// 12: bytes from one column's values to the next's.
    pitch: usize,
    /// 16: 16 · inv_scale, behind a SiLU.
    multiplier: i32,
    /// 20.
    table: *const i32,
    /// 24: a and b of the next two channels.
    affine: *const [f32; 4],
    /// 28: bytes from one pair's words to the next's.
    pair_pitch: usize,
    /// 32: columns whose words lie side by side: even, not 0, at most all.
    block: usize,
    /// 36: bytes between such blocks.
    skip: usize,
    /// 40: pairs, not 0.
    pairs: usize,
    /// 44: of the next two channels of an 8-bit source.
    scales: *const [f32; 2],
    /// 48: 256 · inv_scale, without a SiLU.
    scale: f32,
}

type Loop = unsafe extern "C" fn(*mut Job);

/// Like [`super::super::portable::feed_with`] for f16; declines when a pair of channels is no aligned word, and integers of
/// unusual size.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let normed = !feed.affine.is_empty();
    let run = if is_aligned(feed.values) { loop_of(feed.quantiser, normed) } else { None };
    let values = Values { run, first: feed.values.as_ptr().cast(), len: feed.values.len(), bytes: 2, scales: &[] };
    feed_pairs(&values, feed, target)
}

/// Like [`feed`], every pixel twice, side by side.
pub fn feed_doubled(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (channels, g) = (feed.channels, target.geometry);
    let width = feed.values.len() / channels.max(1);
    let room = (g.kernel, g.stride) == (3, 1) && target.column + 2 * width <= g.columns;
    if !(room && self::feed(feed, target)) {
        return false;
    }
    for channel in (0..channels).step_by(2) {
        let words = target.row[g.index(target.column, target.channel + channel)..].as_mut_ptr();
        // SAFETY: a row of this order holds the words of all columns side by side, here twice `width` of them.
        unsafe { double(words, width) };
    }
    true
}

/// Like [`feed`] for 8-bit sources, and for floats as they are; declines all others.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let len = source.width * feed.channels;
    let (elements, normed) = (source.first..source.first + len, !feed.affine.is_empty());
    let values = match source.elements {
        Elements::I8(values, scales) if scales.len() == feed.channels => values.get(elements).map(|values| Values {
            run: narrow_loop_of(feed.quantiser, normed),
            first: values.as_ptr().cast(),
            len,
            bytes: 1,
            scales,
        }),
        Elements::F32(values) => values.get(elements).map(|values| Values {
            run: if normed { None } else { float_loop_of(feed.quantiser) },
            first: values.as_ptr().cast(),
            len,
            bytes: 4,
            scales: &[],
        }),
        _ => None,
    };
    values.is_some_and(|values| !source.doubled && feed_pairs(&values, feed, target))
}

/// Writes each of `words` words twice, side by side, in place.
///
/// # Safety
/// `words` > 0, and twice as many, aligned, may be written.
#[unsafe(naked)]
unsafe extern "C" fn double(row: *mut i16, words: usize) {
    naked_asm!(
        core_directive!(),
        "add r2, r0, r1, lsl #3
         add r1, r0, r1, lsl #2
         2:
         ldr r3, [r1, #-4]!
         strd r3, r3, [r2, #-8]!
         cmp r1, r0
         bne 2b
         bx lr",
    )
}

/// A row's values, and the loop for them.
struct Values<'a> {
    /// `None`: there is none.
    run: Option<Loop>,
    first: *const u8,
    /// Elements, and bytes of one.
    len: usize,
    bytes: usize,
    /// Of each channel of an 8-bit source.
    scales: &'a [f32],
}

/// Runs the loop over all columns.
fn feed_pairs(values: &Values<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (channels, g) = (feed.channels, target.geometry);
    let Some(run) = values.run else { return false };
    let width = values.len / channels.max(1);
    let even = channels > 0 && (channels | target.channel).is_multiple_of(2) && is_aligned(target.row);
    // Eight columns of a 1×1 kernel lie side by side, else all, or every second one at stride 2.
    let blocked = g.kernel == 1 && target.column.is_multiple_of(BLOCK_PIXELS);
    // A loop takes two columns that lie side by side at once.
    let paired = width >= 2 * g.stride && !(blocked && width % BLOCK_PIXELS == 1);
    let (Quantiser::Silu { qmax, .. } | Quantiser::Plain { qmax, .. }) = feed.quantiser;
    let known =
        (blocked || g.kernel == 3) && [127, 255, 511].contains(&qmax) && [0, 2 * channels].contains(&feed.affine.len());
    let inside = target.column + width <= g.columns && target.channel + channels <= 2 * g.pairs;
    if !(even && paired && known && inside && g.len() <= target.row.len()) {
        return false;
    }
    for first in 0..g.stride {
        let columns = (width - first).div_ceil(g.stride);
        feed_columns(run, values, feed, target, (first, columns & !1, blocked));
        if columns % 2 == 1 {
            // The last two once more.
            feed_columns(run, values, feed, target, (first + (columns - 2) * g.stride, 2, blocked));
        }
    }
    true
}

/// Runs a loop over an even number of columns, one or two (at stride 2) apart, from source column `first` on.
fn feed_columns(
    run: Loop,
    values: &Values<'_>,
    feed: &Feed<'_>,
    target: &mut FeedTarget<'_>,
    (first, columns, blocked): (usize, usize, bool),
) {
    let (channels, g) = (feed.channels, &target.geometry);
    let (multiplier, scale, qmax) = match feed.quantiser {
        Quantiser::Silu { multiplier, qmax } => (multiplier, 0.0, qmax),
        Quantiser::Plain { scale, qmax } => (0, scale, qmax),
    };
    let row = target.row[g.index(target.column + first, target.channel)..].as_mut_ptr();
    let mut job = Job {
        values: values.first.wrapping_add(first * channels * values.bytes),
        row,
        columns,
        pitch: values.bytes * channels * g.stride,
        multiplier,
        table: SILU_TABLE.as_ptr(),
        affine: feed.affine.as_ptr().cast(),
        pair_pitch: if blocked { 4 * BLOCK_PIXELS } else { 4 * g.columns },
        block: if blocked { BLOCK_PIXELS.min(columns) } else { columns },
        skip: if blocked { 4 * BLOCK_PIXELS * (g.pairs - 1) } else { 0 },
        pairs: channels / 2,
        scales: values.scales.as_ptr().cast(),
        scale,
    };
    // SAFETY: values are of the type that the loop reads and hold all channels of the columns from `first` on, the row the words
    // of those columns and channels; a loop that reads affine pairs or scales is called with those of all channels; what must
    // lie at words starts at even elements of aligned slices; the table is the one the loop knows.
    unsafe { run(&mut job) };
    if qmax < 511 {
        narrow_columns(qmax, &job, row, channels / 2);
    }
}

/// The loop for a rule: integers of ten bits, of which [`narrow_columns`] makes fewer.
fn loop_of(quantiser: Quantiser, normed: bool) -> Option<Loop> {
    match (quantiser, normed) {
        (Quantiser::Silu { .. }, true) => Some(silu),
        (Quantiser::Silu { .. }, false) => None,
        (Quantiser::Plain { .. }, true) => Some(normed_plain),
        (Quantiser::Plain { .. }, false) => Some(plain),
    }
}

fn narrow_loop_of(quantiser: Quantiser, normed: bool) -> Option<Loop> {
    match (quantiser, normed) {
        (Quantiser::Silu { .. }, true) => Some(narrow_silu),
        (Quantiser::Plain { .. }, false) => Some(narrow_plain),
        _ => None,
    }
}

fn float_loop_of(quantiser: Quantiser) -> Option<Loop> {
    match quantiser {
        Quantiser::Silu { .. } => None,
        Quantiser::Plain { .. } => Some(plain_floats),
    }
}

/// Saturates what a loop for ten bits wrote, each pair of channels and block for itself, to the bits of `qmax`.
#[inline(never)]
fn narrow_columns(qmax: i32, job: &Job, row: *mut i16, pairs: usize) {
    let run = if qmax == 127 { narrow_words::<8> } else { narrow_words::<9> };
    for pair in 0..pairs {
        let mut words = row.wrapping_byte_add(pair * job.pair_pitch);
        for block in (0..job.columns).step_by(job.block) {
            // SAFETY: the words that the loop wrote.
            unsafe { run(words, job.block.min(job.columns - block)) };
            words = words.wrapping_byte_add(4 * job.block + job.skip);
        }
    }
}

/// Saturates pairs of integers.
///
/// # Safety
/// `words` > 0 aligned words may be written.
#[unsafe(naked)]
unsafe extern "C" fn narrow_words<const BITS: u32>(row: *mut i16, words: usize) {
    naked_asm!(
        core_directive!(),
        "2:
         ldr r2, [r0]
         subs r1, #1
         ssat16 r2, #{bits}, r2
         str r2, [r0], #4
         bne 2b
         bx lr",
        bits = const BITS,
    )
}

/// Saves registers, and at 1 begins a pair of channels: r0 values, r1 row, r3 from column to column, r4 multiplier, r5 table, r6
/// affine pairs, r8 job, r2 columns of a block, r10 and r11 blocks, r12 rounding, lr columns behind the block, s12 scale; 32 bytes at sp, of which the upper half
/// holds four times 128.
macro_rules! enter {
    () => {
        "push {{r0, r4-r11, lr}}
         sub sp, #32
         vldr s12, [r0, #48]
         mov r6, #0x43000000
         strd r6, r6, [sp, #16]
         strd r6, r6, [sp, #24]
         mov r12, #0x8000
         mov r8, r0
         1:
         ldm r8, {{r0-r7, r10, r11}}
         add r7, r1
         sub lr, r2, r10
         mov r2, r10
         add r9, r0, #{value_bytes}
         strd r9, r7, [r8]"
    };
}

/// Loads the pair's a to s8 and s10, its b, twice, to the stack.
macro_rules! begin_affine {
    () => {
        "vldmia r6!, {{s8-s11}}
         str r6, [r8, #24]
         vstr s9, [sp]
         vstr s11, [sp, #4]
         vstr s9, [sp, #8]
         vstr s11, [sp, #12]"
    };
}

/// Loads the pair's scales to s14 and s15.
macro_rules! begin_scales {
    () => {
        "ldr r7, [r8, #44]
         vldmia r7!, {{s14, s15}}
         str r7, [r8, #44]"
    };
}

/// r5 = where four times 128 stand.
macro_rules! begin_halves {
    () => {
        "add r5, sp, #16"
    };
}

/// Two columns of the pair to s4–s7, from f16.
macro_rules! next_columns {
    () => {
        "vldr s4, [r0]
         add r0, r3
         vldr s6, [r0]
         add r0, r3
         vcvtt.f32.f16 s5, s4
         vcvtb.f32.f16 s4, s4
         vcvtt.f32.f16 s7, s6
         vcvtb.f32.f16 s6, s6"
    };
}

/// The same from f32.
macro_rules! next_float_columns {
    () => {
        "vldm r0, {{s4, s5}}
         add r0, r3
         vldm r0, {{s6, s7}}
         add r0, r3"
    };
}

/// Two columns of the pair to s4–s7, from i8: integer · scale.
macro_rules! next_narrow_columns {
    () => {
        "ldrsb r6, [r0]
         ldrsb r7, [r0, #1]
         add r0, r3
         vmov s4, s5, r6, r7
         ldrsb r6, [r0]
         ldrsb r7, [r0, #1]
         add r0, r3
         vmov s6, s7, r6, r7
         vcvt.f32.s32 s4, s4
         vcvt.f32.s32 s5, s5
         vcvt.f32.s32 s6, s6
         vcvt.f32.s32 s7, s7
         vmul.f32 s4, s4, s14
         vmul.f32 s5, s5, s15
         vmul.f32 s6, s6, s14
         vmul.f32 s7, s7, s15"
    };
}

/// b + x · a to s0–s3; VMLA rounds the product like a multiplication of its own.
macro_rules! affine {
    () => {
        "vldmia sp, {{s0-s3}}
         vmla.f32 s0, s4, s8
         vmla.f32 s1, s5, s10
         vmla.f32 s2, s6, s8
         vmla.f32 s3, s7, s10"
    };
}

/// Normed values to where [`quantise_plain`] takes them.
macro_rules! back {
    () => {
        "vmov.f32 s4, s0
         vmov.f32 s5, s1
         vmov.f32 s6, s2
         vmov.f32 s7, s3"
    };
}

/// 128 + x · scale of s4–s7 as an integer, whose lowest eight bits are dropped.
macro_rules! quantise_plain {
    () => {
        "vldmia r5, {{s0-s3}}
         vmla.f32 s0, s4, s12
         vmla.f32 s1, s5, s12
         vmla.f32 s2, s6, s12
         vmla.f32 s3, s7, s12
         vcvt.s32.f32 s0, s0
         vcvt.s32.f32 s1, s1
         vcvt.s32.f32 s2, s2
         vcvt.s32.f32 s3, s3
         vmov r6, r7, s0, s1
         vmov r8, r9, s2, s3
         ssat r6, #10, r6, asr #8
         ssat r7, #10, r7, asr #8
         ssat r8, #10, r8, asr #8
         ssat r9, #10, r9, asr #8
         pkhbt r6, r6, r7, lsl #16
         pkhbt r8, r8, r9, lsl #16
         strd r6, r8, [r1], #8"
    };
}

/// [`crate::quant::silu_fixed`] of `$x`, scaled, rounded and saturated: max(x, 0) in r8 less the two parts of h(|x|).
macro_rules! quantise_silu {
    ($x:literal) => {
        concat!(
            "usat r8, #17, ",
            $x,
            "\n eor ",
            $x,
            ", ",
            $x,
            ", ",
            $x,
            ", asr #31\n usat ",
            $x,
            ", #16, ",
            $x,
            "\n lsr r9, ",
            $x,
            ", #7\n ldr r9, [r5, r9, lsl #2]\n and ",
            $x,
            ", ",
            $x,
            ", #127\n smulbb ",
            $x,
            ", r9, ",
            $x,
            "\n sub r8, r8, r9, asr #16\n sub r8, r8, ",
            $x,
            ", asr #7\n mla r8, r8, r4, r12\n ssat ",
            $x,
            ", #10, r8, asr #16"
        )
    };
}

/// [`quantise_silu`] of s0–s3.
macro_rules! quantise_silu_columns {
    () => {
        concat!(
            "vcvt.s32.f32 s0, s0\n vcvt.s32.f32 s1, s1\n vcvt.s32.f32 s2, s2\n vcvt.s32.f32 s3, s3\n vmov r6, r7, s0, s1\n",
            quantise_silu!("r6"),
            "\n",
            quantise_silu!("r7"),
            "\n pkhbt r6, r6, r7, lsl #16\n str r6, [r1], #4\n vmov r6, r7, s2, s3\n",
            quantise_silu!("r6"),
            "\n",
            quantise_silu!("r7"),
            "\n pkhbt r6, r6, r7, lsl #16\n str r6, [r1], #4"
        )
    };
}

/// Goes back to 2 while the block has columns left, and after that with the next block; to 1 while there are pairs of channels;
/// else returns.
macro_rules! leave {
    () => {
        "subs r2, #2
         bne 2b
         cmp lr, #0
         bne 3f
         ldr r8, [sp, #32]
         ldr r2, [r8, #40]
         subs r2, #1
         str r2, [r8, #40]
         bne 1b
         add sp, #36
         pop {{r4-r11, pc}}
         3:
         cmp lr, r10
         ite lo
         movlo r2, lr
         movhs r2, r10
         sub lr, lr, r2
         add r1, r11
         b 2b"
    };
}

/// A loop: what begins a pair of channels, and what happens to two of its columns.
macro_rules! feed_loop {
    ($(#[$doc:meta])* $name:ident: $value_bytes:literal, $($begin:ident),+; $($step:ident),+) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(job: *mut Job) {
            naked_asm!(
                core_directive!(),
                enter!(),
                $($begin!(),)+
                "2:",
                $($step!(),)+
                leave!(),
                value_bytes = const $value_bytes,
            )
        }
    };
}

feed_loop!(
    /// Norm, SiLU.
    silu: 4, begin_affine; next_columns, affine, quantise_silu_columns
);
feed_loop!(
    /// Norm, no SiLU.
    normed_plain: 4, begin_affine, begin_halves; next_columns, affine, back, quantise_plain
);
feed_loop!(
    /// Values as they are.
    plain: 4, begin_halves; next_columns, quantise_plain
);
feed_loop!(
    /// Floats as they are.
    plain_floats: 8, begin_halves; next_float_columns, quantise_plain
);
feed_loop!(
    /// An 8-bit source: norm, SiLU.
    narrow_silu: 2, begin_affine, begin_scales; next_narrow_columns, affine, quantise_silu_columns
);
feed_loop!(
    /// An 8-bit source: values as they are.
    narrow_plain: 2, begin_scales, begin_halves; next_narrow_columns, quantise_plain
);
