//! Loops that some back ends have for what surrounds convolutions: tensors to 8 bits, and dot products.

use half::f16;
use picodream::f16::to_f32;
use picodream::quant::Quantiser;
use picodream::{kernels, math};

use crate::chance::{Chance, compare};

const MAX_CHANNELS: usize = 24;
const MAX_PIXELS: usize = 20;
const MAX_OUTPUTS: usize = 5;
const MAX_LEN: usize = 40;

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
