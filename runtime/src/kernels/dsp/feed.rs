//! From f16 rows to quantised rows on the FPU: a pair of channels at a time, column by column.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use half::f16;

use super::super::{Feed, FeedTarget};
use super::is_aligned;
use crate::blob::BLOCK_PIXELS;
use crate::quant::{Quantiser, SILU_TABLE};

/// What a loop is told. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: the pair's first value.
    values: *const f16,
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
}

type Loop = unsafe extern "C" fn(*const Job);

/// Like [`super::super::portable::feed_with`] for f16; declines when a pair of channels is no aligned word, and integers of
/// unusual size.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (channels, g) = (feed.channels, target.geometry);
    let width = feed.values.len() / channels.max(1);
    let even = channels.is_multiple_of(2) && target.channel.is_multiple_of(2) && width > 0;
    let rules = [0, 2 * channels].contains(&feed.affine.len());
    if !(even && rules && is_aligned(feed.values) && is_aligned(target.row)) {
        return false;
    }
    let Some(run) = loop_of(feed.quantiser, !feed.affine.is_empty()) else { return false };
    let (multiplier, scale) = match feed.quantiser {
        Quantiser::Silu { multiplier, .. } => (multiplier, 0.0),
        Quantiser::Plain { scale, .. } => (0, scale),
    };
    let mut job = Job {
        values: feed.values.as_ptr(),
        row: target.row.as_mut_ptr(),
        columns: 0,
        pitch: 2 * channels * g.stride,
        multiplier,
        table: SILU_TABLE.as_ptr(),
        affine: [0.0; 4],
        plain: [scale, 128.0],
    };
    for channel in (0..channels).step_by(2) {
        if let Some(affine) = feed.affine.get(2 * channel..2 * channel + 4) {
            job.affine.copy_from_slice(affine);
        }
        // Columns whose words lie side by side: eight, every second one, or all.
        let (mut first, block) = (0, if g.kernel == 1 { BLOCK_PIXELS } else { width });
        while first < width {
            let columns = if g.kernel == 1 { block.min(width - first) } else { (width - first).div_ceil(g.stride) };
            let last = first + (columns - 1) * g.stride;
            let to = g.index(target.column + first, target.channel + channel);
            job.values = feed.values[first * channels + channel..=last * channels + channel + 1].as_ptr();
            job.row = target.row[to..to + 2 * columns].as_mut_ptr();
            job.columns = columns;
            // SAFETY: values and row were sliced to what the loop reads and writes, and start at even elements of aligned
            // slices; the table is the one the loop knows.
            unsafe { run(&job) };
            first += if g.kernel == 1 { block } else { 1 };
            if g.kernel == 3 && first == g.stride {
                break;
            }
        }
    }
    true
}

/// The loop for a rule: saturation to a number of bits is part of an instruction.
fn loop_of(quantiser: Quantiser, normed: bool) -> Option<Loop> {
    macro_rules! by_bits {
        ($name:ident, $qmax:ident) => {
            match $qmax {
                127 => Some($name::<8> as Loop),
                255 => Some($name::<9>),
                511 => Some($name::<10>),
                1023 => Some($name::<11>),
                2047 => Some($name::<12>),
                4095 => Some($name::<13>),
                _ => None,
            }
        };
    }
    match (quantiser, normed) {
        (Quantiser::Silu { qmax, .. }, true) => by_bits!(silu, qmax),
        (Quantiser::Silu { .. }, false) => None,
        (Quantiser::Plain { qmax, .. }, true) => by_bits!(normed_plain, qmax),
        (Quantiser::Plain { qmax, .. }, false) => by_bits!(plain, qmax),
    }
}

/// Saves registers and reads the job: r0 values, r1 row, r2 columns, r3 pitch, r4 multiplier, r5 table, s8–s13 constants;
/// then, at 2, the next pair is s0 and s1.
macro_rules! next_pair {
    () => {
        "push {{r4-r11, lr}}
         add r6, r0, #24
         vldm r6, {{s8-s13}}
         ldm r0, {{r0-r5}}
         mov r12, #0x8000
         2:
         vldr s0, [r0]
         add r0, r3
         vcvtt.f32.f16 s1, s0
         vcvtb.f32.f16 s0, s0"
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

/// Stores the pair and goes back to 2 while there are columns left; else returns.
macro_rules! store_pair {
    () => {
        "pkhbt r6, r6, r7, lsl #16
         str r6, [r1], #4
         subs r2, #1
         bne 2b
         pop {{r4-r11, pc}}"
    };
}

/// Norm, SiLU.
///
/// # Safety
/// The job's pointers reach as far as its counts say.
#[unsafe(naked)]
unsafe extern "C" fn silu<const BITS: u32>(job: *const Job) {
    naked_asm!(
        core_directive!(),
        next_pair!(),
        affine!(),
        "vcvt.s32.f32 s0, s0
         vcvt.s32.f32 s1, s1
         vmov r6, r7, s0, s1",
        quantise_silu!("r6"),
        quantise_silu!("r7"),
        store_pair!(),
        bits = const BITS,
    )
}

/// Norm, no SiLU.
///
/// # Safety
/// As [`silu`].
#[unsafe(naked)]
unsafe extern "C" fn normed_plain<const BITS: u32>(job: *const Job) {
    naked_asm!(core_directive!(), next_pair!(), affine!(), quantise_plain!(), store_pair!(), bits = const BITS)
}

/// Values as they are.
///
/// # Safety
/// As [`silu`].
#[unsafe(naked)]
unsafe extern "C" fn plain<const BITS: u32>(job: *const Job) {
    naked_asm!(core_directive!(), next_pair!(), quantise_plain!(), store_pair!(), bits = const BITS)
}
