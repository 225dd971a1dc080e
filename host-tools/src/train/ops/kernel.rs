//! The two inner loops of training, in safe SIMD: weighted sums of shifted rows (convolution, matrix product) and their weight gradient.
//!
//! A *source* is an NHWC image that already carries its zero border. One output pixel of one kernel row reads a run of
//! kernel width × channels consecutive floats, so no im2col matrix is ever written. Vector lanes run over output channels;
//! every sum goes over its terms in one fixed order with fused multiply-add, so AVX2, AVX-512 and scalar code give equal bits.

use pulp::Simd;

/// How the loops walk over a source image.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Output rows.
    pub rows: usize,
    /// Output pixels per row.
    pub cols: usize,
    /// Kernel rows.
    pub kernel: usize,
    /// Floats per kernel row: kernel width × input channels.
    pub run: usize,
    /// Floats from one source row to the next.
    pub row_stride: usize,
    /// Floats from the origin of one output row to the next (row_stride × stride).
    pub step_y: usize,
    /// Floats from the origin of one output pixel to the next (input channels × stride).
    pub step_x: usize,
}

impl Walk {
    /// A plain row-major matrix [m, k].
    #[must_use]
    pub fn matrix(m: usize, k: usize) -> Self {
        Self { rows: 1, cols: m, kernel: 1, run: k, row_stride: m * k, step_y: m * k, step_x: k }
    }
}

/// Vectors needed for `channels` lanes.
#[inline(always)]
pub fn vectors<S: Simd>(channels: usize) -> usize {
    channels.div_ceil(S::F32_LANES)
}

/// Weights as vectors over output channels: blocks of two vectors, a last block of one when their number is odd,
/// each block `[kernel][run][vectors]`. `at(q, c)` is the weight of source float q (0..kernel·run) and output channel c.
#[inline(always)]
pub fn pack<S: Simd>(simd: S, terms: usize, channels: usize, at: impl Fn(usize, usize) -> f32) -> Vec<S::f32s> {
    let all = vectors::<S>(channels);
    let mut packed = Vec::with_capacity(terms * all);
    let mut lanes = [0.0f32; 16];
    let mut first = 0;
    while first < all {
        let block = (all - first).min(2);
        for q in 0..terms {
            for v in 0..block {
                for (lane, x) in lanes[..S::F32_LANES].iter_mut().enumerate() {
                    let c = (first + v) * S::F32_LANES + lane;
                    *x = if c < channels { at(q, c) } else { 0.0 };
                }
                packed.push(simd.partial_load_f32s(&lanes[..S::F32_LANES]));
            }
        }
        first += block;
    }
    packed
}

/// `out[pixel][vector] = bias[vector] + Σ source · weights`, `weights` as from [`pack`].
#[inline(always)]
pub fn correlate<S: Simd>(
    simd: S,
    walk: Walk,
    source: &[f32],
    weights: &[S::f32s],
    bias: &[S::f32s],
    out: &mut [S::f32s],
) {
    let all = bias.len();
    let terms = walk.kernel * walk.run;
    let mut first = 0;
    while first < all {
        let weights = &weights[first * terms..];
        if all - first >= 2 {
            rows::<S, 2>(simd, walk, source, weights, bias, first, out);
            first += 2;
        } else {
            rows::<S, 1>(simd, walk, source, weights, bias, first, out);
            first += 1;
        }
    }
}

#[inline(always)]
fn rows<S: Simd, const V: usize>(
    simd: S,
    walk: Walk,
    source: &[f32],
    weights: &[S::f32s],
    bias: &[S::f32s],
    first: usize,
    out: &mut [S::f32s],
) {
    let all = bias.len();
    let weights = &weights.as_chunks::<V>().0[..walk.kernel * walk.run];
    let bias: &[S::f32s; V] = bias[first..].first_chunk().expect("V vectors of bias");
    for y in 0..walk.rows {
        let mut x = 0;
        while x < walk.cols {
            let source = &source[y * walk.step_y + x * walk.step_x..];
            let out = &mut out[(y * walk.cols + x) * all..];
            let left = walk.cols - x;
            if left >= 8 && S::F32_LANES == 16 {
                block::<S, 8, V>(simd, walk, source, weights, *bias, first, all, out);
                x += 8;
            } else if left >= 4 {
                block::<S, 4, V>(simd, walk, source, weights, *bias, first, all, out);
                x += 4;
            } else {
                block::<S, 1, V>(simd, walk, source, weights, *bias, first, all, out);
                x += 1;
            }
        }
    }
}

/// P pixels × V vectors, held in registers over the whole sum.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)] // a kernel: its registers are its arguments
fn block<S: Simd, const P: usize, const V: usize>(
    simd: S,
    walk: Walk,
    source: &[f32],
    weights: &[[S::f32s; V]],
    bias: [S::f32s; V],
    first: usize,
    all: usize,
    out: &mut [S::f32s],
) {
    let mut acc = [bias; P];
    for ky in 0..walk.kernel {
        let row = &source[ky * walk.row_stride..];
        let weights = &weights[ky * walk.run..][..walk.run];
        let mut pixels: [&[f32]; P] = [&[]; P];
        for p in 0..P {
            pixels[p] = &row[p * walk.step_x..][..walk.run];
        }
        for q in 0..walk.run {
            let w = weights[q];
            for p in 0..P {
                let x = simd.splat_f32s(pixels[p][q]);
                for v in 0..V {
                    acc[p][v] = simd.mul_add_f32s(x, w[v], acc[p][v]);
                }
            }
        }
    }
    for p in 0..P {
        for v in 0..V {
            out[p * all + first + v] = acc[p][v];
        }
    }
}

/// `dw[q][vector] += Σ over pixels of source[pixel, q] · dy[pixel][vector]`, q over kernel × run.
#[inline(always)]
pub fn correlate_weights<S: Simd>(simd: S, walk: Walk, source: &[f32], dy: &[S::f32s], all: usize, dw: &mut [S::f32s]) {
    for ky in 0..walk.kernel {
        let mut q = 0;
        while q < walk.run {
            let source = &source[ky * walk.row_stride + q..];
            let dw = &mut dw[(ky * walk.run + q) * all..];
            let left = walk.run - q;
            q += if left >= 16 && S::F32_LANES == 16 && all == 1 {
                weight_columns::<S, 16>(simd, walk, source, dy, all, dw)
            } else if left >= 8 && S::F32_LANES == 16 {
                weight_columns::<S, 8>(simd, walk, source, dy, all, dw)
            } else if left >= 4 {
                weight_columns::<S, 4>(simd, walk, source, dy, all, dw)
            } else {
                weight_columns::<S, 1>(simd, walk, source, dy, all, dw)
            };
        }
    }
}

#[inline(always)]
fn weight_columns<S: Simd, const Q: usize>(
    simd: S,
    walk: Walk,
    source: &[f32],
    dy: &[S::f32s],
    all: usize,
    dw: &mut [S::f32s],
) -> usize {
    let mut first = 0;
    while first < all {
        if all - first >= 2 {
            weight_block::<S, Q, 2>(simd, walk, source, dy, first, all, dw);
            first += 2;
        } else {
            weight_block::<S, Q, 1>(simd, walk, source, dy, first, all, dw);
            first += 1;
        }
    }
    Q
}

/// Q weights × V vectors, held in registers over all pixels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // indices name registers here
fn weight_block<S: Simd, const Q: usize, const V: usize>(
    simd: S,
    walk: Walk,
    source: &[f32],
    dy: &[S::f32s],
    first: usize,
    all: usize,
    dw: &mut [S::f32s],
) {
    let mut acc = [[simd.splat_f32s(0.0); V]; Q];
    for y in 0..walk.rows {
        let source = &source[y * walk.step_y..];
        let dy = &dy[y * walk.cols * all..][..walk.cols * all];
        for (x, dy) in dy.chunks_exact(all).enumerate() {
            let d: &[S::f32s; V] = dy[first..].first_chunk().expect("V vectors of dy");
            let s: &[f32; Q] = source[x * walk.step_x..].first_chunk().expect("Q floats of the source");
            for q in 0..Q {
                let s = simd.splat_f32s(s[q]);
                for v in 0..V {
                    acc[q][v] = simd.mul_add_f32s(s, d[v], acc[q][v]);
                }
            }
        }
    }
    for q in 0..Q {
        for v in 0..V {
            let slot = &mut dw[q * all + first + v];
            *slot = simd.add_f32s(*slot, acc[q][v]);
        }
    }
}

/// e^x for |x| ≤ 87 (clamped), relative error below 2e-7: the polynomial of `picodream::math::exp`, in vectors.
#[inline(always)]
pub fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const MAGIC: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer, kept in the low mantissa bits
    let c = |value: f32| simd.splat_f32s(value);
    let x = simd.max_f32s(simd.min_f32s(x, c(87.0)), c(-87.0));
    let biased = simd.mul_add_f32s(x, c(std::f32::consts::LOG2_E), c(MAGIC));
    let n = simd.sub_f32s(biased, c(MAGIC));
    let r = simd.mul_add_f32s(n, c(-0.693_359_4), x);
    let r = simd.mul_add_f32s(n, c(2.121_944_4e-4), r);
    let p = simd.mul_add_f32s(c(1.987_569_1e-4), r, c(1.398_199_9e-3));
    let p = simd.mul_add_f32s(p, r, c(8.333_452e-3));
    let p = simd.mul_add_f32s(p, r, c(4.166_579_6e-2));
    let p = simd.mul_add_f32s(p, r, c(1.666_666_5e-1));
    let p = simd.mul_add_f32s(p, r, c(0.5));
    let y = simd.add_f32s(simd.mul_add_f32s(p, simd.mul_f32s(r, r), r), c(1.0));
    let shift = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(biased), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(y), shift))
}

/// 1/(1 + e^(−x)).
#[inline(always)]
pub fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.0);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}
