//! The loops around the sums: from f16 to quantised rows, and from sums to f16.
//!
//! Vectors of f32 flush subnormal numbers to zero. No result depends on one: [`normal`] and [`PLAIN_SCALES`] say where one
//! could, and then the portable loops run.

use core::arch::global_asm;
use core::ops::Range;

use half::f16;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, Finish, Residual, RowSource};
use crate::quant::{Quantiser, SILU_TABLE};
use crate::tensor::Elements;

// The assembler of module text does not know the target's CPU.
global_asm!(".cpu cortex-m55", include_str!("finish.s"), include_str!("point.s"), include_str!("feed.s"));

/// What the loops of a row's runs of pixels are told; the assembler knows the order.
#[repr(C)]
struct Run {
    /// Halves, floats or integers.
    values: *const u8,
    /// Bytes between the pixels.
    step: usize,
    /// First word.
    to: *mut i16,
    /// Bytes between pairs of channels.
    pair_step: usize,
    pixels: usize,
    /// Pairs (a, b) of all channels, or null.
    affine: *const f32,
    /// Scale of a plain quantiser; behind a SiLU the multiplier times 2¹⁵.
    factor: u32,
    /// 128.0; behind a SiLU the address of the table's upper halves.
    constant: usize,
    /// Up and down again: what saturates on the way is what the quantiser clamps.
    shift: [i32; 2],
    table: *const i32,
    /// Channels by eight.
    groups: usize,
    /// Of an 8-bit source.
    scales: *const f32,
}

/// What the loops behind the sums are told; the assembler knows the order.
#[repr(C)]
struct Ends {
    acc: *const i32,
    out: *mut f16,
    /// Null: none.
    residual: *const f16,
    scale: *const [u8; 4],
    bias: *const f32,
    /// Bytes between pixels.
    pitch: usize,
    pixels: usize,
    /// Channels by eight.
    groups: usize,
    /// Null: none.
    sums: *mut f32,
}

unsafe extern "C" {
    fn picodream_helium_clear(row: *mut i16, len: usize);
    fn picodream_helium_feed_plain(run: &Run);
    fn picodream_helium_feed_floats(run: &Run);
    fn picodream_helium_feed_twice(run: &Run);
    fn picodream_helium_feed_normed(run: &Run);
    fn picodream_helium_feed_silu(run: &Run);
    fn picodream_helium_feed_bytes_plain(run: &Run);
    fn picodream_helium_feed_bytes_silu(run: &Run);
    fn picodream_helium_finish(ends: &Ends);
    fn picodream_helium_finish_pair(ends: &Ends);
    fn picodream_helium_sums_pair(out: *const f16, sums: *mut f32, pitch: usize, pixels: usize);
    fn picodream_helium_normal(scale: *const [u8; 4], bias: *const f32, eights: usize) -> bool;
}

/// Scales of a plain quantiser for which a subnormal number, flushed or not, rounds to the same integer: 128 is added.
const PLAIN_SCALES: Range<f32> = f32::MIN_POSITIVE..1.0e18;

/// Fills a row, or several, with zeros: what comes with the compiler is built for least size and stores bytes.
pub fn clear(row: &mut [i16]) {
    // SAFETY: so many halfwords are written, at their addresses.
    unsafe { picodream_helium_clear(row.as_mut_ptr(), row.len()) }
}

/// As [`portable::feed`](crate::kernels::portable::feed): channels by eight, behind a SiLU with an affine map.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let run = match (feed.quantiser, feed.affine.len() >= 2 * feed.channels) {
        (Quantiser::Silu { .. }, true) => picodream_helium_feed_silu as Loop,
        (Quantiser::Plain { .. }, true) => picodream_helium_feed_normed,
        (Quantiser::Plain { .. }, false) if feed.affine.is_empty() => picodream_helium_feed_plain,
        _ => return false,
    };
    feed_runs(run, feed.values, &[], (feed, 1), target)
}

/// Like [`feed`] for 8-bit sources, for floats as they are, and for halves that are written twice.
pub(crate) fn feed_row(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let elements = source.first..source.first + source.width * feed.channels;
    match (source.elements, feed.quantiser, source.doubled) {
        (Elements::F16(halves), Quantiser::Plain { .. }, true) if feed.affine.is_empty() => halves
            .get(elements)
            .is_some_and(|halves| feed_runs(picodream_helium_feed_twice, halves, &[], (feed, 2), target)),
        (Elements::F32(floats), Quantiser::Plain { .. }, false) if feed.affine.is_empty() => floats
            .get(elements)
            .is_some_and(|floats| feed_runs(picodream_helium_feed_floats, floats, &[], (feed, 1), target)),
        (Elements::I8(integers, scales), quantiser, false) if scales.len() == feed.channels => {
            let run = match quantiser {
                Quantiser::Silu { .. } if feed.affine.len() >= 2 * feed.channels => {
                    picodream_helium_feed_bytes_silu as Loop
                }
                Quantiser::Plain { .. } if feed.affine.is_empty() => picodream_helium_feed_bytes_plain,
                _ => return false,
            };
            // Times an integer they are no subnormal numbers.
            let normal = scales.iter().all(|scale| !scale.is_subnormal());
            normal && integers.get(elements).is_some_and(|bytes| feed_runs(run, bytes, scales, (feed, 1), target))
        }
        _ => false,
    }
}

type Loop = unsafe extern "C" fn(&Run);

/// Runs a loop that fits `values`, and writes every pixel so many times.
fn feed_runs<T>(
    call: Loop,
    values: &[T],
    scales: &[f32],
    (feed, times): (&Feed<'_>, usize),
    target: &mut FeedTarget<'_>,
) -> bool {
    let (g, channels) = (target.geometry, feed.channels);
    let width = values.len() / channels.max(1);
    let blocked = g.kernel == 1;
    let inside = !(blocked && !target.column.is_multiple_of(BLOCK_PIXELS))
        && target.column + width * times <= g.columns
        && target.channel + channels <= 2 * g.pairs
        && (times == 1 || (g.kernel, g.stride) == (3, 1));
    let whole = channels.is_multiple_of(8) && target.channel.is_multiple_of(2) && width > 0;
    if !inside || !whole || target.row.len() < g.len() || !target.row.as_ptr().cast::<u32>().is_aligned() {
        return false;
    }
    let upper_halves = SILU_TABLE.as_ptr().addr() + 2;
    let (factor, constant, qmax) = match feed.quantiser {
        Quantiser::Plain { scale, qmax } if PLAIN_SCALES.contains(&scale) => {
            (scale.to_bits(), 128.0f32.to_bits() as usize, qmax)
        }
        // The largest number in front of a SiLU is clamped behind it too.
        Quantiser::Silu { multiplier: m @ 1..8192, qmax } if ((m << 17) - m + (1 << 15)) >> 16 >= qmax => {
            ((m as u32) << 15, upper_halves, qmax)
        }
        _ => return false,
    };
    let shift = (qmax as u32).leading_zeros() as i32 - 17;
    if !(0..16).contains(&shift) {
        return false;
    }
    // Runs of pixels whose words are neighbours: blocks of a 1×1 kernel, columns of one parity with stride 2.
    let (runs, apart) = if blocked { (width.div_ceil(BLOCK_PIXELS), 1) } else { (g.stride.min(width), g.stride) };
    for run in 0..runs {
        let first = if blocked { run * BLOCK_PIXELS } else { run };
        let pixels = if blocked { BLOCK_PIXELS.min(width - first) } else { (width - first).div_ceil(apart) };
        let to = g.index(target.column + first, target.channel);
        let run = Run {
            values: values[first * channels..].as_ptr().cast(),
            step: size_of::<T>() * apart * channels,
            to: target.row[to..].as_mut_ptr(),
            pair_step: if blocked { 4 * BLOCK_PIXELS } else { 4 * g.columns },
            pixels,
            affine: feed.affine.as_ptr(),
            factor,
            constant,
            shift: [shift, -shift],
            table: SILU_TABLE.as_ptr(),
            groups: channels / 8,
            scales: scales.as_ptr(),
        };
        // SAFETY: all channels of each of `pixels` pixels are read, `apart` pixels apart and all of them in `values`; the
        // words of their pairs are written, whose columns and channels lie in the row (`inside`), and for a 1×1 kernel in
        // one block because `column` is a multiple of 8 there (`inside`); the loop fits the type of the values, and reads
        // affine pairs and scales of all channels only where the callers saw that there are so many.
        unsafe { call(&run) };
    }
    true
}

/// As [`portable::finish`](crate::kernels::portable::finish): channels by eight, or two of them at words' addresses.
pub fn finish(block: &Finish<'_>, residual: Residual<'_>, out: &mut [f16], sums: &mut [f32]) -> bool {
    let (channels, pixels) = (block.scale.len(), block.pixels);
    let end = pixels.saturating_sub(1) * block.pitch + channels;
    let fits = out.len() >= end && block.acc.len() >= channels * BLOCK_PIXELS && block.bias.len() >= channels;
    if !fits || !(1..=BLOCK_PIXELS).contains(&pixels) || !block.scale.as_ptr().cast::<u32>().is_aligned() {
        return false;
    }
    let Some(from) = first(residual, out, end) else { return false };
    let words =
        block.pitch.is_multiple_of(2) && from.cast::<u32>().is_aligned() && out.as_ptr().cast::<u32>().is_aligned();
    let pair = channels == 2 && words;
    if !pair && (channels == 0 || !channels.is_multiple_of(8)) || !normal(block) {
        return false;
    }
    let ends = Ends {
        acc: block.acc.as_ptr(),
        out: out.as_mut_ptr(),
        residual: from,
        scale: block.scale.as_ptr(),
        bias: block.bias.as_ptr(),
        pitch: 2 * block.pitch,
        pixels,
        groups: channels / 8,
        sums: if sums.len() >= 2 * channels { sums.as_mut_ptr() } else { core::ptr::null_mut() },
    };
    // SAFETY: 8 sums, a scale and a bias of each channel are read; of each of `pixels` pixels, `pitch` apart, the channels are
    // written to `out` and read from the residual: `end` of them are there. Sums hold a pair for each channel.
    unsafe {
        if pair {
            picodream_helium_finish_pair(&ends);
            if !ends.sums.is_null() {
                picodream_helium_sums_pair(ends.out, ends.sums, ends.pitch, pixels);
            }
        } else {
            picodream_helium_finish(&ends);
        }
    }
    true
}

/// The residual's first element, null without one; `None` when it has less than `end`.
#[inline(always)]
pub(super) fn first(residual: Residual<'_>, out: &[f16], end: usize) -> Option<*const f16> {
    match residual {
        Residual::None => Some(core::ptr::null()),
        Residual::InPlace => Some(out.as_ptr()),
        Residual::Elsewhere(halves) => (halves.len() >= end).then_some(halves.as_ptr()),
    }
}

/// Whether no result depends on a subnormal number: every scale is at least 2⁻⁴⁰, so that neither a product nor what a bias
/// leaves of it is subnormal, and no bias is.
#[inline(always)]
pub(super) fn normal(block: &Finish<'_>) -> bool {
    let channels = block.scale.len();
    if channels.is_multiple_of(8) {
        // SAFETY: as many scales and biases are read as there are channels.
        return unsafe { picodream_helium_normal(block.scale.as_ptr(), block.bias.as_ptr(), channels / 8) };
    }
    block
        .scale
        .iter()
        .zip(block.bias)
        .all(|(scale, bias)| f32::from_le_bytes(*scale) >= 9.1e-13 && !bias.is_subnormal())
}
