//! From f16 and 8-bit rows to quantised rows on the FPU: a pair of channels at a time, column by column.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;
use core::ptr::null;

use super::super::{Feed, FeedTarget, RowSource};
use super::is_aligned;
use crate::blob::BLOCK_PIXELS;
use crate::quant::{Quantiser, SILU_TABLE};
use crate::tensor::Elements;

/// What a loop is told. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: the pair's first value, f16 or i8.
    values: *const u8,
    /// 4: where its word goes; the others follow.
    row: *mut i16,
    /// 8: columns, not 0.
    columns: usize,
    /// 12: bytes from one column's values to the next's.
    pitch: usize,
    /// 16: 16 · inv_scale, behind a SiLU.
    multiplier: i32,
    /// 20.
    table: *const i32,
    /// 24: a and b of the two channels.
    affine: [f32; 4],
    /// 40: 256 · inv_scale and one half, without a SiLU.
    plain: [f32; 2],
    /// 48: of the two channels of an 8-bit source.
    scales: [f32; 2],
    /// 56: columns whose words lie side by side, not 0.
    block: usize,
    /// 60: bytes between such blocks.
    skip: usize,
}

type Loop = unsafe extern "C" fn(*const Job);

/// Like [`super::super::portable::feed_with`] for f16; declines when a pair of channels is no aligned word, and integers of
/// unusual size.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let normed = !feed.affine.is_empty();
    let run = if is_aligned(feed.values) { loop_of(feed.quantiser, normed) } else { None };
    run.is_some_and(|run| feed_pairs(run, feed.values, &[], feed, target))
}

/// Like [`feed`] for 8-bit sources; declines all others.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (Elements::I8(values, scales), false) = (source.elements, source.doubled) else { return false };
    let values = values.get(source.first..source.first + source.width * feed.channels);
    let run = narrow_loop_of(feed.quantiser, !feed.affine.is_empty());
    let (Some(values), Some(run), true) = (values, run, scales.len() == feed.channels) else { return false };
    feed_pairs(run, values, scales, feed, target)
}

/// Runs a loop that fits `values` over all pairs of channels.
fn feed_pairs<T>(run: Loop, values: &[T], scales: &[f32], feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (channels, g) = (feed.channels, target.geometry);
    let width = values.len() / channels.max(1);
    let even = channels.is_multiple_of(2) && target.channel.is_multiple_of(2) && width > 0;
    // Eight columns of a 1×1 kernel lie side by side, else all, or every second one at stride 2.
    let blocked = g.kernel == 1 && target.column.is_multiple_of(BLOCK_PIXELS);
    if !(even && (blocked || g.kernel == 3) && [0, 2 * channels].contains(&feed.affine.len()) && is_aligned(target.row))
    {
        return false;
    }
    let (multiplier, scale) = match feed.quantiser {
        Quantiser::Silu { multiplier, .. } => (multiplier, 0.0),
        Quantiser::Plain { scale, .. } => (0, scale),
    };
    let mut job = Job {
        values: null(),
        row: target.row.as_mut_ptr(),
        columns: 0,
        pitch: size_of::<T>() * channels * g.stride,
        multiplier,
        table: SILU_TABLE.as_ptr(),
        affine: [0.0; 4],
        plain: [scale, 128.0],
        scales: [0.0; 2],
        block: if blocked { BLOCK_PIXELS } else { width },
        skip: if blocked { 4 * BLOCK_PIXELS * (g.pairs - 1) } else { 0 },
    };
    for first in 0..g.stride.min(width) {
        job.columns = (width - first).div_ceil(g.stride);
        let last = first + (job.columns - 1) * g.stride;
        let word = |column: usize, channel: usize| g.index(target.column + column, target.channel + channel);
        // From one pair of channels to the next: two values, and this many elements of the row.
        let pair = word(first, 2) - word(first, 0);
        let from = &values[first * channels..(last + 1) * channels];
        let to = &mut target.row[word(first, 0)..word(last, channels - 2) + 2];
        for channel in (0..channels).step_by(2) {
            if let Some(affine) = feed.affine.get(2 * channel..2 * channel + 4) {
                job.affine.copy_from_slice(affine);
            }
            if let Some(scales) = scales.get(channel..channel + 2) {
                job.scales.copy_from_slice(scales);
            }
            job.values = from.as_ptr().wrapping_add(channel).cast();
            job.row = to.as_mut_ptr().wrapping_add(channel / 2 * pair);
            // SAFETY: `from` reaches from the first column's first channel to the last one's last, `to` from the first
            // column's first word to the last one's last; values are of the type that the loop reads; those that must lie at
            // words start at even elements of aligned slices; the table is the one the loop knows.
            unsafe { run(&job) };
        }
    }
    true
}

/// The loop of this name for a rule: saturation to a number of bits is part of an instruction. These are the sizes that the
/// exporter uses.
macro_rules! by_bits {
    ($name:ident, $qmax:ident) => {
        match $qmax {
            127 => Some($name::<8> as Loop),
            255 => Some($name::<9>),
            511 => Some($name::<10>),
            2047 => Some($name::<12>),
            _ => None,
        }
    };
}

fn loop_of(quantiser: Quantiser, normed: bool) -> Option<Loop> {
    match (quantiser, normed) {
        (Quantiser::Silu { qmax, .. }, true) => by_bits!(silu, qmax),
        (Quantiser::Silu { .. }, false) => None,
        (Quantiser::Plain { qmax, .. }, true) => by_bits!(normed_plain, qmax),
        (Quantiser::Plain { qmax, .. }, false) => by_bits!(plain, qmax),
    }
}

fn narrow_loop_of(quantiser: Quantiser, normed: bool) -> Option<Loop> {
    match (quantiser, normed) {
        (Quantiser::Silu { qmax, .. }, true) => by_bits!(narrow_silu, qmax),
        (Quantiser::Plain { qmax, .. }, false) => by_bits!(narrow_plain, qmax),
        _ => None,
    }
}

/// Saves registers and reads the job: r0 values, r1 row, r2 columns, r3 pitch, r4 multiplier, r5 table, s8–s15 constants,
/// r10 and r11 blocks, lr columns left. Begins a block at 3.
macro_rules! enter {
    () => {
        "push {{r4-r11, lr}}
         add r6, r0, #24
         vldm r6, {{s8-s15}}
         ldrd r10, r11, [r0, #56]
         ldm r0, {{r0-r5}}
         mov r12, #0x8000
         mov lr, r2
         3:
         cmp lr, r10
         ite lo
         movlo r2, lr
         movhs r2, r10
         sub lr, lr, r2
         2:"
    };
}

/// The next pair to s0 and s1, from f16.
macro_rules! next_pair {
    () => {
        "vldr s0, [r0]
         add r0, r3
         vcvtt.f32.f16 s1, s0
         vcvtb.f32.f16 s0, s0"
    };
}

/// The next pair to s0 and s1, from i8: integer · scale.
macro_rules! next_narrow_pair {
    () => {
        "ldrsb r6, [r0]
         ldrsb r7, [r0, #1]
         add r0, r3
         vmov s0, s1, r6, r7
         vcvt.f32.s32 s0, s0
         vcvt.f32.s32 s1, s1
         vmul.f32 s0, s0, s14
         vmul.f32 s1, s1, s15"
    };
}

/// x · a + b.
macro_rules! affine {
    () => {
        "vmul.f32 s0, s0, s8
         vmul.f32 s1, s1, s10
         vadd.f32 s0, s0, s9
         vadd.f32 s1, s1, s11"
    };
}

/// x · scale + 128 as an integer, whose lowest eight bits are dropped.
macro_rules! quantise_plain {
    () => {
        "vmul.f32 s0, s0, s12
         vmul.f32 s1, s1, s12
         vadd.f32 s0, s0, s13
         vadd.f32 s1, s1, s13
         vcvt.s32.f32 s0, s0
         vcvt.s32.f32 s1, s1
         vmov r6, r7, s0, s1
         ssat r6, #{bits}, r6, asr #8
         ssat r7, #{bits}, r7, asr #8"
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
            ", #{bits}, r8, asr #16"
        )
    };
}

/// Stores the pair and goes back to 2 while the block, and to 3 while the row has columns left; else returns.
macro_rules! store_pair {
    () => {
        "pkhbt r6, r6, r7, lsl #16
         str r6, [r1], #4
         subs r2, #1
         bne 2b
         add r1, r11
         cmp lr, #0
         bne 3b
         pop {{r4-r11, pc}}"
    };
}

/// [`quantise_silu`] of s0 and s1.
macro_rules! quantise_silu_pair {
    () => {
        concat!(
            "vcvt.s32.f32 s0, s0\n vcvt.s32.f32 s1, s1\n vmov r6, r7, s0, s1\n",
            quantise_silu!("r6"),
            "\n",
            quantise_silu!("r7")
        )
    };
}

/// A loop of steps between [`next_pair`] and [`store_pair`].
macro_rules! feed_loop {
    ($(#[$doc:meta])* $name:ident: $($step:ident),+) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The job's pointers reach as far as its counts say.
        #[unsafe(naked)]
        unsafe extern "C" fn $name<const BITS: u32>(job: *const Job) {
            naked_asm!(core_directive!(), enter!(), $($step!(),)+ store_pair!(), bits = const BITS)
        }
    };
}

feed_loop!(
    /// Norm, SiLU.
    silu: next_pair, affine, quantise_silu_pair
);
feed_loop!(
    /// Norm, no SiLU.
    normed_plain: next_pair, affine, quantise_plain
);
feed_loop!(
    /// Values as they are.
    plain: next_pair, quantise_plain
);
feed_loop!(
    /// An 8-bit source: norm, SiLU.
    narrow_silu: next_narrow_pair, affine, quantise_silu_pair
);
feed_loop!(
    /// An 8-bit source: values as they are.
    narrow_plain: next_narrow_pair, quantise_plain
);
