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
