//! Loops that some back ends have for what surrounds convolutions: tensors to 8 bits, dot products, and attention.

use half::f16;
use picodream::blob::QUERY_PIXELS;
use picodream::f16::to_f32;
use picodream::kernels::Mix;
use picodream::quant::Quantiser;
use picodream::{kernels, math};

use crate::chance::{Chance, compare};

const MAX_CHANNELS: usize = 24;
const MAX_PIXELS: usize = 20;
const MAX_OUTPUTS: usize = 5;
const MAX_LEN: usize = 40;
const MAX_HEADS: usize = 2;
const MAX_DIM: usize = 20;
const MAX_TOKENS: usize = 12;

/// A tensor of any halves, most channels without infinities and NaN; a declined one may hold anything.
pub fn narrow(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(27, index);
    let (channels, pixels) = (8 * (1 + chance.below(MAX_CHANNELS / 8)), 1 + chance.below(MAX_PIXELS));
    let (finite, zero) = (!chance.one_in(8), chance.below(2 * channels));
    let exponents = [0x7c00, 0x4c00, 0x0000][chance.below(3)];
    let values: [f16; MAX_CHANNELS * MAX_PIXELS] = core::array::from_fn(|i| {
        let bits = chance.bits() as u16 & (exponents | 0x83ff);
        let small = if finite && bits & 0x7c00 == 0x7c00 { bits & 0x83ff } else { bits };
        f16::from_bits(if i % channels == zero { 0 } else { small })
    });
    let values = &values[..channels * pixels];
    let (mut got, mut scales) = ([0i8; MAX_CHANNELS * MAX_PIXELS], [0.0f32; MAX_CHANNELS]);
    if !kernels::narrow(values, &mut got[..values.len()], &mut scales[..channels]) {
        return Ok(());
    }
    for (channel, scale) in scales[..channels].iter().enumerate() {
        let of_channel = || values[channel..].iter().step_by(channels).map(|half| to_f32(*half));
        let largest = of_channel().fold(0.0f32, |largest, x| if x.abs() > largest { x.abs() } else { largest });
        let rule = Quantiser::new(false, if largest > 0.0 { 127.0 / largest } else { 0.0 }, 127);
        compare(&[scale.to_bits()], &[(largest / 127.0).to_bits()]).map_err(|_| channel)?;
        for (pixel, x) in of_channel().enumerate() {
            let at = pixel * channels + channel;
            compare(&[i16::from(got[at])], &[rule.quantise(x)]).map_err(|_| MAX_CHANNELS + at)?;
        }
    }
    Ok(())
}

/// Products with 8-bit weights; now and then with numbers whose products are subnormal.
pub fn dots(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(28, index);
    let (len, outputs) = (1 + chance.below(MAX_LEN), 1 + chance.below(MAX_OUTPUTS));
    let len = if chance.one_in(4) { len } else { len.next_multiple_of(4) };
    let exponent = if chance.one_in(4) { -118 } else { 0 };
    let x: [f32; MAX_LEN] = core::array::from_fn(|_| if chance.one_in(8) { 0.0 } else { chance.float(exponent) });
    let weight: [i8; MAX_LEN * MAX_OUTPUTS] = core::array::from_fn(|_| chance.within(128) as i8);
    let mut got = [0.0f32; MAX_OUTPUTS];
    if !kernels::dots(&x[..len], &weight[..len * outputs], &mut got[..outputs]) {
        return Ok(());
    }
    let want = |o: usize| math::dot(&x[..len], &weight[o * len..][..len]);
    (0..outputs).try_for_each(|o| compare(&[got[o].to_bits()], &[want(o).to_bits()]).map_err(|_| o))
}
/// Attention of a few queries, with scores far apart now and then, and zeros and what is not finite among the values.
pub fn mix(index: u64) -> Result<(), usize> {
    let mut chance = Chance::new(30, index);
    let (heads, dim) = (1 + chance.below(MAX_HEADS), 1 + chance.below(MAX_DIM));
    let (channels, tokens, pixels) = (heads * dim, 1 + chance.below(MAX_TOKENS), 1 + chance.below(QUERY_PIXELS));
    let (sharp, anything) = (chance.one_in(8), chance.one_in(8));
    let kv: [f16; 2 * MAX_TOKENS * MAX_HEADS * MAX_DIM] = core::array::from_fn(|_| {
        let bits = chance.bits() as u16;
        f16::from_bits(match chance.below(16) {
            0 => 0x8000 & bits,
            1 if anything => bits,
            // Between 2^-8 and 2.
            _ => 0x2000 + bits % 0x2000 + (bits & 0x8000),
        })
    });
    let kv = &kv[..2 * tokens * channels];
    let mut got: [f32; QUERY_PIXELS * MAX_HEADS * MAX_DIM] =
        core::array::from_fn(|_| if chance.one_in(16) { 0.0 } else { chance.float(if sharp { 8 } else { -4 }) });
    let mut want = got;
    let mut scores = [0.0; QUERY_PIXELS * MAX_TOKENS];
    let query = &mut got[..pixels * channels];
    let mut job = Mix { query, scores: &mut scores[..QUERY_PIXELS * tokens], kv, heads, channels, tokens, pixels };
    if !kernels::mix(&mut job) {
        return Ok(());
    }
    for query in want[..pixels * channels].chunks_mut(channels) {
        for (head, query) in query.chunks_mut(dim).enumerate() {
            mix_one(query, kv, (head * dim, channels));
        }
    }
    let comparable = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    compare(&got.map(comparable), &want.map(comparable))
}

/// The definition for one head of one query: scores chunk by chunk, weights, and sums in the order of the tokens.
fn mix_one(query: &mut [f32], kv: &[f16], (first, channels): (usize, usize)) {
    let mut scores = [0.0f32; MAX_TOKENS];
    let tokens = kv.len() / (2 * channels);
    for (score, kv) in scores.iter_mut().zip(kv.chunks(2 * channels)) {
        let mut keys = [0.0; MAX_DIM];
        keys.iter_mut().zip(&kv[first..]).for_each(|(key, half)| *key = to_f32(*half));
        *score = query.chunks(16).zip(keys.chunks(16)).fold(0.0, |sum, (q, k)| sum + math::dot(q, &k[..q.len()]));
    }
    let scores = &mut scores[..tokens];
    let largest = scores.iter().fold(f32::MIN, |largest, score| if *score > largest { *score } else { largest });
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = math::exp(*score - largest);
        total += *score;
    }
    for (d, mixed) in query.iter_mut().enumerate() {
        let values = kv[channels + first + d..].iter().step_by(2 * channels);
        *mixed = scores.iter().zip(values).fold(0.0, |sum, (weight, value)| sum + weight * to_f32(*value)) / total;
    }
}
