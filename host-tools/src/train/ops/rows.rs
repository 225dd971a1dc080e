//! Between rows of `channels` floats, as tensors hold them, and rows of whole vectors, as the kernels want them.

use pulp::Simd;

use super::kernel::{self, Walk};

/// Rows of `channels` floats from rows of whole vectors.
#[inline(always)]
pub fn unpad_rows<S: Simd>(
    vectors: &[S::f32s],
    all: usize,
    channels: usize,
    out: &mut [f32],
    lanes: &mut Vec<f32>,
    simd: S,
) {
    lanes.resize(all * S::F32_LANES, 0.0);
    for (row, out) in vectors.chunks_exact(all).zip(out.chunks_exact_mut(channels)) {
        for (v, lane) in row.iter().zip(lanes.chunks_exact_mut(S::F32_LANES)) {
            simd.partial_store_f32s(lane, *v);
        }
        out.copy_from_slice(&lanes[..channels]);
    }
}

/// Vectors of rows of `channels` floats, the last lanes zero.
#[inline(always)]
pub fn pad_rows<S: Simd>(simd: S, rows: &[f32], channels: usize, out: &mut Vec<S::f32s>) {
    out.clear();
    for row in rows.chunks_exact(channels) {
        out.extend(row.chunks(S::F32_LANES).map(|lane| simd.partial_load_f32s(lane)));
    }
}

/// Slides packed weights over `source` into `out` [pixels, channels], through `scratch` when channels do not fill vectors.
#[inline(always)]
#[allow(clippy::too_many_arguments)] // a kernel: its operands are its arguments
pub fn correlate_into<S: Simd>(
    simd: S,
    walk: Walk,
    source: &[f32],
    weights: &[S::f32s],
    bias: &[S::f32s],
    channels: usize,
    out: &mut [f32],
    scratch: &mut (Vec<S::f32s>, Vec<f32>),
) {
    if channels == bias.len() * S::F32_LANES {
        kernel::correlate(simd, walk, source, weights, bias, S::as_mut_simd_f32s(out).0);
    } else {
        scratch.0.resize(walk.rows * walk.cols * bias.len(), simd.splat_f32s(0.0));
        kernel::correlate(simd, walk, source, weights, bias, &mut scratch.0);
        unpad_rows(&scratch.0, bias.len(), channels, out, &mut scratch.1, simd);
    }
}
