//! The loops around the sums: from f16 to quantised rows, and from sums to f16.
//!
//! Vectors of f32 flush subnormal numbers to zero. No result depends on one: [`normal`] and [`PLAIN_SCALES`] say where one
//! could, and then the portable loops run.

use core::arch::global_asm;
use core::ops::Range;

use half::f16;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, Finish, Residual};
use crate::quant::{Quantiser, SILU_TABLE};

// The assembler of module text does not know the target's CPU.
global_asm!(".cpu cortex-m55", include_str!("finish.s"), include_str!("feed.s"));

/// What the loop of a row's run of pixels is told; the assembler knows the order.
#[repr(C)]
struct Run {
    values: *const f16,
    /// Bytes between the pixels.
    step: usize,
    /// First word.
    to: *mut i16,
    /// Bytes between pairs of channels.
    pair_step: usize,
    pixels: usize,
    /// Eight pairs (a, b), or null.
    affine: *const f32,
    /// Scale of a plain quantiser, multiplier of one behind a SiLU.
    factor: u32,
    /// What is added before the integer is cut off.
    half: u32,
    /// Up and down again: what saturates on the way is what the quantiser clamps.
    shift: [i32; 2],
    table: *const i32,
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
}

unsafe extern "C" {
    fn picodream_helium_feed_plain(run: &Run);
    fn picodream_helium_feed_silu(run: &Run);
    fn picodream_helium_finish(ends: &Ends);
    fn picodream_helium_finish_pair(ends: &Ends);
    fn picodream_helium_sums(out: *const f16, sums: *mut f32, pitch: usize, pixels: usize);
    fn picodream_helium_sums_pair(out: *const f16, sums: *mut f32, pitch: usize, pixels: usize);
    fn picodream_helium_normal(scale: *const [u8; 4], bias: *const f32, quads: usize) -> bool;
}

/// Scales of a plain quantiser for which a subnormal number, flushed or not, rounds to the same integer: 128 is added.
const PLAIN_SCALES: Range<f32> = f32::MIN_POSITIVE..1.0e18;

/// As [`portable::feed`](crate::kernels::portable::feed): channels by eight, behind a SiLU with an affine map.
pub fn feed(feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let (g, channels) = (target.geometry, feed.channels);
    let width = feed.values.len() / channels.max(1);
    let blocked = g.kernel == 1;
    let inside = !(blocked && !target.column.is_multiple_of(BLOCK_PIXELS))
        && target.column + width <= g.columns
        && target.channel + channels <= 2 * g.pairs;
    let whole = channels.is_multiple_of(8) && target.channel.is_multiple_of(2) && width > 0;
    let affine = feed.affine.len() >= 2 * channels;
    if !inside || !whole || target.row.len() < g.len() || !target.row.as_ptr().cast::<u32>().is_aligned() {
        return false;
    }
    let (factor, half, qmax, silu) = match feed.quantiser {
        Quantiser::Plain { scale, qmax } if PLAIN_SCALES.contains(&scale) && (affine || feed.affine.is_empty()) => {
            (scale.to_bits(), 128.0f32.to_bits(), qmax, false)
        }
        Quantiser::Silu { multiplier, qmax } if affine => (multiplier as u32, 1 << 15, qmax, true),
        _ => return false,
    };
    let shift = (qmax as u32).leading_zeros() as i32 - 17;
    if !(0..16).contains(&shift) {
        return false;
    }
    // Runs of pixels whose words are neighbours: blocks of a 1×1 kernel, columns of one parity with stride 2.
    let (runs, apart) = if blocked { (width.div_ceil(BLOCK_PIXELS), 1) } else { (g.stride.min(width), g.stride) };
    for (channel, run) in (0..channels).step_by(8).flat_map(|channel| (0..runs).map(move |run| (channel, run))) {
        let first = if blocked { run * BLOCK_PIXELS } else { run };
        let pixels = if blocked { BLOCK_PIXELS.min(width - first) } else { (width - first).div_ceil(apart) };
        let to = g.index(target.column + first, target.channel + channel);
        let run = Run {
            values: feed.values[first * channels + channel..].as_ptr(),
            step: 2 * apart * channels,
            to: target.row[to..].as_mut_ptr(),
            pair_step: if blocked { 4 * BLOCK_PIXELS } else { 4 * g.columns },
            pixels,
            affine: if affine { feed.affine[2 * channel..].as_ptr() } else { core::ptr::null() },
            factor,
            half,
            shift: [shift, -shift],
            table: SILU_TABLE.as_ptr(),
        };
        // SAFETY: eight values of each of `pixels` pixels are read, `apart` pixels apart and all of them in `values`; the
        // words of four pairs of channels are written, whose columns and channels lie in the row (`inside`), and for a 1×1
        // kernel in one block because `column` is a multiple of 8 there (`inside`); the affine pairs are eight.
        unsafe { if silu { picodream_helium_feed_silu(&run) } else { picodream_helium_feed_plain(&run) } }
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
    let from = match residual {
        Residual::None => core::ptr::null(),
        Residual::InPlace => out.as_ptr(),
        Residual::Elsewhere(halves) if halves.len() >= end => halves.as_ptr(),
        Residual::Elsewhere(_) => return false,
    };
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
    };
    let pitch = ends.pitch;
    // SAFETY: 8 sums, a scale and a bias of each channel are read; of each of `pixels` pixels, `pitch` apart, the channels are
    // written to `out` and read from the residual: `end` of them are there. Sums hold a pair for each channel.
    unsafe {
        if pair {
            picodream_helium_finish_pair(&ends)
        } else {
            picodream_helium_finish(&ends)
        }
        if pair && sums.len() >= 4 {
            picodream_helium_sums_pair(out.as_ptr(), sums.as_mut_ptr(), pitch, pixels);
        } else {
            for (out, sums) in out.chunks(8).zip(sums.as_chunks_mut::<16>().0).take(channels / 8) {
                picodream_helium_sums(out.as_ptr(), sums.as_mut_ptr(), pitch, pixels);
            }
        }
    }
    true
}

/// Whether no result depends on a subnormal number: every scale is at least 2⁻⁴⁰, so that neither a product nor what a bias
/// leaves of it is subnormal, and no bias is.
fn normal(block: &Finish<'_>) -> bool {
    let channels = block.scale.len();
    if channels.is_multiple_of(4) {
        // SAFETY: as many scales and biases are read as there are channels.
        return unsafe { picodream_helium_normal(block.scale.as_ptr(), block.bias.as_ptr(), channels / 4) };
    }
    block
        .scale
        .iter()
        .zip(block.bias)
        .all(|(scale, bias)| f32::from_le_bytes(*scale) >= 9.1e-13 && !bias.is_subnormal())
}
