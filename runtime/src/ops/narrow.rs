//! Rounds a tensor that waits for the other side of the U-Net to 8 bits: half the memory of f16.
//!
//! Each channel has a scale of its own, chosen from what the channel holds now: scale = largest |x| / 127. The statistics stay
//! those of the f16 tensor.

use crate::blob::TensorRecord;
use crate::kernels;
use crate::quant::Quantiser;
use crate::tensor::{CHUNK, Elements, f32s_mut, i8s_mut, split};

/// Runs the operator; does nothing when the plan is not the validated one.
pub(crate) fn run([src, out]: [TensorRecord; 2], arena: &mut [u8]) {
    let regions =
        [src.elements(), src.statistics_region(), out.elements(), out.statistics_region(), out.scales_region()];
    let Some([src_bytes, src_sums, integers, out_sums, scales]) = split(arena, regions) else { return };
    out_sums.copy_from_slice(src_sums);
    let source = Elements::new(src_bytes, src.dtype, &[]);
    let (integers, scales) = (i8s_mut(integers), f32s_mut(scales));
    if let Elements::F16(values) = source
        && kernels::narrow(values, integers, scales)
    {
        return;
    }
    let channels = usize::from(src.channels);
    let pixels = integers.len() / channels.max(1);
    for (first, scales) in scales.chunks_mut(CHUNK).enumerate().map(|(i, scales)| (i * CHUNK, scales)) {
        let load = |pixel: usize, values: &mut [f32; CHUNK]| {
            source.load(pixel * channels + first, &mut values[..CHUNK.min(channels - first)]);
        };
        let (mut values, mut largest) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
        for pixel in 0..pixels {
            load(pixel, &mut values);
            for (largest, value) in largest.iter_mut().zip(values) {
                *largest = if value.abs() > *largest { value.abs() } else { *largest };
            }
        }
        let rules = largest.map(|largest| {
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            Quantiser::new(false, inverse, 127)
        });
        scales.iter_mut().zip(largest).for_each(|(scale, largest)| *scale = largest / 127.0);
        for pixel in 0..pixels {
            load(pixel, &mut values);
            let integers = &mut integers[pixel * channels + first..][..scales.len()];
            for ((integer, value), rule) in integers.iter_mut().zip(values).zip(rules) {
                *integer = rule.quantise(value) as i8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::DType;
    use crate::f16 as convert;
    use crate::rng::NoiseStream;
    use half::f16;
    use std::vec::Vec;

    /// Bytes of the narrow tensor, from a source of halves or of the same values as f32, which no back end has a loop for.
    fn narrowed(values: &[f16], channels: usize, dtype: DType) -> Vec<u8> {
        let pixels = (values.len() / channels) as u16;
        let record =
            TensorRecord { height: 1, width: pixels, channels: channels as u16, dtype, statistics: true, offset: 0 };
        let out = TensorRecord { dtype: DType::I8, offset: record.region().bytes, ..record };
        let mut words = std::vec![0u128; (out.offset + out.region().bytes) as usize / 16];
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        match dtype {
            DType::F16 => arena[record.elements().range()].copy_from_slice(bytemuck::cast_slice(values)),
            _ => {
                let floats: Vec<f32> = values.iter().map(|half| convert::to_f32(*half)).collect();
                arena[record.elements().range()].copy_from_slice(bytemuck::cast_slice(&floats));
            }
        }
        run([record, out], arena);
        arena[out.region().range()].to_vec()
    }

    #[test]
    fn the_back_end_narrows_bit_for_bit_as_the_plain_loop() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65504.0, -65504.0, 0.0, -0.0, 6e-8];
        let mut stream = NoiseStream::new(19, 0);
        for (index, (channels, pixels)) in
            [(8, 1), (16, 64), (24, 9), (5, 7), (32, 16), (8, 100)].into_iter().enumerate()
        {
            for few in [0, 1, 30] {
                let mut value = |at: usize| match stream.below(60) {
                    rare if rare < few => special[stream.below(8) as usize],
                    // One channel of nothing but zeros.
                    _ if at % channels == 3 => 0.0,
                    _ => 3.0 * stream.next_gaussian(),
                };
                let values: Vec<f16> = (0..channels * pixels).map(|at| convert::from_f32(value(at))).collect();
                let [halves, floats] = [DType::F16, DType::F32].map(|dtype| narrowed(&values, channels, dtype));
                assert_eq!(halves, floats, "case {index}, {few}");
            }
        }
    }

    #[test]
    fn the_largest_of_a_channel_becomes_127_of_its_steps() {
        let values = [1.0, -2.0, 0.5, 0.0, 4.0, 0.0].map(convert::from_f32);
        let bytes = narrowed(&values, 2, DType::F16);
        assert_eq!(bytes[..6].iter().map(|byte| *byte as i8).collect::<Vec<_>>(), [32, -127, 16, 0, 127, 0]);
        let scales = bytes[bytes.len() - 16..].as_chunks().0;
        assert_eq!([0, 1].map(|channel| f32::from_le_bytes(scales[channel])), [4.0 / 127.0, 2.0 / 127.0]);
    }
}
