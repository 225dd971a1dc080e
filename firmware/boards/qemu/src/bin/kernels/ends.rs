//! The loops around the sums: from f16 to quantised rows, and from sums to f16.

use half::f16;
use picodream::blob::BLOCK_PIXELS;
use picodream::f16::{from_f32, to_f32};
use picodream::kernels::{self, Feed, FeedTarget, Finish, Geometry, Residual, portable};
use picodream::quant::Quantiser;

use crate::chance::{Aligned, Chance, compare};

const MAX_CHANNELS: usize = 20;
const MAX_WIDTH: usize = 19;
const MAX_PAIRS: usize = 14;
const MAX_COLUMNS: usize = 26;

/// Any finite half, or for some cases anything at all, infinities and NaN included.
pub fn half(chance: &mut Chance, anything: bool) -> f16 {
    let bits = chance.bits() as u16;
    f16::from_bits(if anything || bits & 0x7c00 != 0x7c00 { bits } else { bits & 0x83ff })
}

fn quantiser(chance: &mut Chance, silu: bool) -> Quantiser {
    let qmax = (1i32 << (1 + chance.below(12))) - 1;
    if silu {
        Quantiser::Silu { multiplier: 1 + chance.below(8191) as i32, qmax }
    } else {
        Quantiser::Plain { scale: 256.0 * chance.float(3).abs(), qmax }
    }
}

/// Pairs (a, b): with a SiLU times 2¹², and sometimes so large that integers saturate.
fn affine(chance: &mut Chance, silu: bool) -> [f32; 2 * MAX_CHANNELS] {
    let exponent = if silu { 12 } else { 0 };
    core::array::from_fn(|_| if chance.one_in(16) { 0.0 } else { chance.float(exponent) })
}

/// Part of a row; what is not of it stays as it is.
pub fn clear(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(31, index);
    let (first, len) = (chance.below(9), chance.below(40));
    let mut row = Aligned([0x5a5ai16; 56]);
    kernels::clear(&mut row.0[first..first + len]);
    let want: [i16; 56] = core::array::from_fn(|at| if (first..first + len).contains(&at) { 0 } else { 0x5a5a });
    compare(&row.0, &want)
}

/// A row of one source beside the channels of another; what is not the source's stays as it is.
pub fn feed(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(25, index);
    let (kernel, stride) = [(3, 1), (1, 1), (3, 2)][chance.below(3)];
    let (channels, width) = (1 + chance.below(MAX_CHANNELS), 1 + chance.below(MAX_WIDTH));
    let (silu, normed, anything) = (chance.one_in(2), !chance.one_in(4), chance.one_in(2));
    let first = if chance.one_in(2) { 0 } else { chance.below(8) };
    let outputs = width.div_ceil(stride).next_multiple_of(BLOCK_PIXELS);
    let columns = outputs * stride + if kernel == 1 { 0 } else { 2 };
    let pairs = (first + channels).div_ceil(2) + chance.below(2);
    let geometry = Geometry { kernel, stride, pairs, columns };

    let shift = if chance.one_in(4) { 1 } else { 0 };
    let mut values = Aligned([f16::ZERO; MAX_CHANNELS * MAX_WIDTH + 1]);
    values.0.iter_mut().for_each(|value| *value = half(&mut chance, anything));
    let values = &values.0[shift..][..width * channels];
    let affine = affine(&mut chance, silu);
    let affine = if normed { &affine[..2 * channels] } else { &[] };
    let quantiser = quantiser(&mut chance, silu);
    let feed = Feed { values, channels, affine, quantiser };

    let mut rows = [const { Aligned([0x5a5ai16; 2 * MAX_PAIRS * MAX_COLUMNS * 2 + 8]) }; 2];
    let [got, want] = &mut rows;
    let load = |at: usize, out: &mut [f32]| out.iter_mut().zip(&values[at..]).for_each(|(x, h)| *x = to_f32(*h));
    let row = if chance.one_in(8) { 1 } else { 2 };
    let column = kernel / 2;
    let mut here = FeedTarget { row: &mut want.0[row..][..geometry.len()], geometry, column, channel: first };
    portable::feed_with(load, &feed, width, false, &mut here);
    let mut here = FeedTarget { row: &mut got.0[row..][..geometry.len()], geometry, column, channel: first };
    if !kernels::feed(&feed, &mut here) {
        // Declined: nothing may have been written that the caller does not write again.
        portable::feed_with(load, &feed, width, false, &mut here);
    }
    compare(&got.0, &want.0)
}

/// A block of some channels of an output's pixels; any NaN is as good as any other.
pub fn finish(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(26, index);
    let (channels, pixels) = (1 + chance.below(MAX_CHANNELS), 1 + chance.below(BLOCK_PIXELS));
    let pitch = channels + if chance.one_in(2) { 0 } else { chance.below(6) };
    let shift = chance.below(4);
    let anything = chance.one_in(4);
    let acc: [i32; MAX_CHANNELS * BLOCK_PIXELS] = core::array::from_fn(|_| match chance.below(8) {
        0 => 0,
        1 => chance.bits() as i32,
        _ => chance.within(1 << 20),
    });
    let scale = Aligned::<[u8; 4], MAX_CHANNELS>(core::array::from_fn(|_| chance.float(-12).abs().to_le_bytes()));
    let bias: [f32; MAX_CHANNELS] = core::array::from_fn(|_| chance.float(0));
    let block = Finish {
        acc: &acc[..channels * BLOCK_PIXELS],
        pixels,
        scale: &scale.0[..channels],
        bias: &bias[..channels],
        pitch,
    };
    const OUT: usize = (MAX_CHANNELS + 6) * BLOCK_PIXELS + 8;
    let mut wants = Aligned::<f16, OUT>(core::array::from_fn(|_| half(&mut chance, anything)));
    let elsewhere = Aligned::<f16, OUT>(core::array::from_fn(|_| half(&mut chance, anything)));
    let elsewhere = &elsewhere.0[if chance.one_in(4) { chance.below(4) } else { shift }..];
    let mut gots = Aligned(wants.0);
    let residual = [Residual::None, Residual::Elsewhere(elsewhere), Residual::InPlace][chance.below(3)];
    let mut sums = [[0.0f32; 2 * MAX_CHANNELS + 2]; 2];
    let statistics = if chance.one_in(3) { 0 } else { 2 * channels };
    sums[0].iter_mut().for_each(|sum| *sum = chance.float(2));
    sums[1] = sums[0];

    let reference = |out: &mut [f16], sums: &mut [f32]| {
        let put = |at: usize, values: &mut [f32]| store(residual, at, values, out);
        portable::finish_with(&block, put, sums);
    };
    let [got_sums, want_sums] = &mut sums;
    reference(&mut wants.0[shift..], &mut want_sums[..statistics]);
    if !kernels::finish(&block, residual, &mut gots.0[shift..], &mut got_sums[..statistics]) {
        reference(&mut gots.0[shift..], &mut got_sums[..statistics]);
    }
    compare(&gots.0.map(|half| comparable(to_f32(half))), &wants.0.map(|half| comparable(to_f32(half))))?;
    compare(&got_sums.map(comparable), &want_sums.map(comparable)).map_err(|at| at + OUT)
}

/// 128 of all halves, which to f32, added to nothing, and back are what they were, but for the sign of zero and the kind of NaN;
/// and their sums and squares.
pub fn halves(index: u64) -> Result<(), usize> {
    const CHANNELS: usize = 16;
    const ALL: usize = CHANNELS * BLOCK_PIXELS;
    let every = Aligned::<f16, ALL>(core::array::from_fn(|at| f16::from_bits((index as usize * ALL + at) as u16)));
    let (scale, bias) = (Aligned([1.0f32.to_le_bytes(); CHANNELS]), [0.0; CHANNELS]);
    let block = Finish { acc: &[0; ALL], pixels: BLOCK_PIXELS, scale: &scale.0, bias: &bias, pitch: CHANNELS };
    let (residual, mut out) = (Residual::Elsewhere(&every.0), Aligned([f16::ZERO; ALL]));
    let mut sums = [0.0f32; 2 * CHANNELS];
    if !kernels::finish(&block, residual, &mut out.0, &mut sums) {
        portable::finish_with(&block, |at, values| store(residual, at, values, &mut out.0), &mut sums);
    }
    let want = |half: f16| if half == f16::ZERO { 0 } else { comparable(half.to_f32()) };
    compare(&out.0.map(|half| comparable(half.to_f32())), &every.0.map(want))?;
    let mut wants = [0.0f32; 2 * CHANNELS];
    for (at, half) in every.0.iter().enumerate() {
        let value = half.to_f32();
        wants[2 * (at % CHANNELS)] += value;
        wants[2 * (at % CHANNELS) + 1] += value * value;
    }
    compare(&sums.map(comparable), &wants.map(comparable)).map_err(|at| at + ALL)
}

/// Adds the residual and stores, as an output in f16 does.
pub fn store(residual: Residual<'_>, at: usize, values: &mut [f32], out: &mut [f16]) {
    for (i, value) in values.iter_mut().enumerate() {
        let slot = &mut out[at + i];
        *value += match residual {
            Residual::None => -0.0,
            Residual::Elsewhere(halves) => to_f32(halves[at + i]),
            Residual::InPlace => to_f32(*slot),
        };
        *slot = from_f32(*value);
        *value = to_f32(*slot);
    }
}

/// The bits, with one NaN for all.
pub fn comparable(x: f32) -> u32 {
    if x.is_nan() { u32::MAX } else { x.to_bits() }
}
