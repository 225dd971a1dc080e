//! GroupNorm, optionally followed by SiLU in the same pass, over NHWC images.
//!
//! `x [B, H, W, C]`, `weight [C]`, `bias [C]` → `[B, H, W, C]`. Statistics are per image and group, in two passes (mean, then
//! centred squares). The backward pass recomputes them: reading x again costs less than storing another tensor.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Scalar, Simd, WithSimd};

use super::clock::{self, Part};
use super::{floats, kernel, tensor, with_floats};

/// One normalisation.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// Number of groups; divides C.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// Applies the normalisation; shapes as in the module's description.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, self)
    }

    /// (pixels, channels) of an image.
    fn sizes(&self, x: &[usize], weight: &[usize], bias: &[usize]) -> Result<(usize, usize)> {
        let &[_, h, w, c] = x else { bail!("group norm: x {x:?} must have 4 dimensions") };
        if weight != [c] || bias != [c] || self.groups == 0 || c % self.groups != 0 {
            bail!("group norm: {self:?} cannot take x {x:?}, weight {weight:?}, bias {bias:?}");
        }
        Ok((h * w, c))
    }
}

/// Σ over pixels of f(pixel), for one vector of channels: four interleaved sums, so that additions overlap.
#[inline(always)]
fn pixel_sum<S: Simd>(simd: S, pixels: usize, f: impl Fn(usize, S::f32s) -> S::f32s) -> S::f32s {
    let mut sums = [simd.splat_f32s(0.0); 4];
    for p in 0..pixels / 4 {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = f(4 * p + i, *sum);
        }
    }
    for p in pixels / 4 * 4..pixels {
        sums[0] = f(p, sums[0]);
    }
    simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]))
}

/// Replaces every channel's value by the mean over its group: Σ over the group / `count`.
#[inline(always)]
fn group_mean<S: Simd>(values: &mut [S::f32s], lanes: &mut [f32], groups: usize, count: f32, simd: S) {
    for (v, lane) in values.iter().zip(lanes.chunks_exact_mut(S::F32_LANES)) {
        simd.partial_store_f32s(lane, *v);
    }
    let size = lanes.len() / groups;
    for group in lanes.chunks_exact_mut(size) {
        let mean = group.iter().sum::<f32>() / count;
        group.fill(mean);
    }
    for (v, lane) in values.iter_mut().zip(lanes.chunks_exact(S::F32_LANES)) {
        *v = simd.partial_load_f32s(lane);
    }
}

/// Per-channel statistics of one image, as vectors.
struct Stats<S: Simd> {
    mean: Vec<S::f32s>,
    /// 1/√(variance + eps).
    rstd: Vec<S::f32s>,
    lanes: Vec<f32>,
}

impl<S: Simd> Stats<S> {
    fn new(simd: S, channels: usize) -> Self {
        let vectors = vec![simd.splat_f32s(0.0); channels / S::F32_LANES];
        Self { mean: vectors.clone(), rstd: vectors, lanes: vec![0.0; channels] }
    }

    #[inline(always)]
    fn measure(&mut self, simd: S, op: &GroupNorm, x: &[S::f32s]) {
        let all = self.mean.len();
        let pixels = x.len() / all;
        let count = (pixels * (self.lanes.len() / op.groups)) as f32;
        for (v, mean) in self.mean.iter_mut().enumerate() {
            *mean = pixel_sum(simd, pixels, |p, sum| simd.add_f32s(sum, x[p * all + v]));
        }
        group_mean(&mut self.mean, &mut self.lanes, op.groups, count, simd);
        for (v, square) in self.rstd.iter_mut().enumerate() {
            let mean = self.mean[v];
            *square = pixel_sum(simd, pixels, |p, sum| {
                let d = simd.sub_f32s(x[p * all + v], mean);
                simd.mul_add_f32s(d, d, sum)
            });
        }
        group_mean(&mut self.rstd, &mut self.lanes, op.groups, count, simd);
        let one = simd.splat_f32s(1.0);
        for r in &mut self.rstd {
            *r = simd.div_f32s(one, simd.sqrt_f32s(simd.add_f32s(*r, simd.splat_f32s(op.eps))));
        }
    }

    /// (a, b) of channel vector v such that the normalised, affine value is a·x + b.
    #[inline(always)]
    fn affine(&self, simd: S, v: usize, weight: S::f32s, bias: S::f32s) -> (S::f32s, S::f32s) {
        let a = simd.mul_f32s(self.rstd[v], weight);
        (a, simd.sub_f32s(bias, simd.mul_f32s(self.mean[v], a)))
    }
}

struct Forward<'a> {
    op: GroupNorm,
    image: usize,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.weight.len().is_multiple_of(S::F32_LANES) { self.run(simd) } else { self.run(Scalar) }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.weight.len();
        let all = channels / S::F32_LANES;
        let mut stats = Stats::new(simd, channels);
        let (weight, bias) = (S::as_simd_f32s(self.weight).0, S::as_simd_f32s(self.bias).0);
        for (x, out) in self.x.chunks_exact(self.image).zip(self.out.chunks_exact_mut(self.image)) {
            let (x, out) = (S::as_simd_f32s(x).0, S::as_mut_simd_f32s(out).0);
            stats.measure(simd, &self.op, x);
            for v in 0..all {
                let (a, b) = stats.affine(simd, v, weight[v], bias[v]);
                for (x, out) in x.chunks_exact(all).zip(out.chunks_exact_mut(all)) {
                    let z = simd.mul_add_f32s(a, x[v], b);
                    out[v] = if self.op.silu { simd.mul_f32s(z, kernel::sigmoid(simd, z)) } else { z };
                }
            }
        }
    }
}

struct Backward<'a> {
    op: GroupNorm,
    image: usize,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    dweight: &'a mut [f32],
    dbias: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.weight.len().is_multiple_of(S::F32_LANES) { self.run(simd) } else { self.run(Scalar) }
    }
}

impl Backward<'_> {
    /// With x̂ the normalised input and g = dz·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), means over the group.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.weight.len();
        let all = channels / S::F32_LANES;
        let mut stats = Stats::new(simd, channels);
        let (weight, bias) = (S::as_simd_f32s(self.weight).0, S::as_simd_f32s(self.bias).0);
        let (dweight, dbias) = (S::as_mut_simd_f32s(self.dweight).0, S::as_mut_simd_f32s(self.dbias).0);
        let mut mean_g = vec![simd.splat_f32s(0.0); all];
        let mut mean_gx = mean_g.clone();
        let mut lanes = vec![0.0; channels];
        let pixels = self.image / channels;
        let count = (pixels * (channels / self.op.groups)) as f32;
        let images = self.x.chunks_exact(self.image).zip(self.dy.chunks_exact(self.image));
        for ((x, dy), dx) in images.zip(self.dx.chunks_exact_mut(self.image)) {
            let (x, dy, dx) = (S::as_simd_f32s(x).0, S::as_simd_f32s(dy).0, S::as_mut_simd_f32s(dx).0);
            stats.measure(simd, &self.op, x);
            for v in 0..all {
                let (a, b) = stats.affine(simd, v, weight[v], bias[v]);
                if self.op.silu {
                    silu_gradient(simd, (a, b), all, v, x, dy, dx);
                } else {
                    dx.iter_mut().zip(dy).skip(v).step_by(all).for_each(|(dx, dy)| *dx = *dy);
                }
                let (dx, mean) = (&*dx, stats.mean[v]);
                let sum = pixel_sum(simd, pixels, |p, sum| simd.add_f32s(sum, dx[p * all + v]));
                let sum_x = pixel_sum(simd, pixels, |p, sum| {
                    simd.mul_add_f32s(dx[p * all + v], simd.sub_f32s(x[p * all + v], mean), sum)
                });
                let sum_x = simd.mul_f32s(sum_x, stats.rstd[v]);
                dbias[v] = simd.add_f32s(dbias[v], sum);
                dweight[v] = simd.add_f32s(dweight[v], sum_x);
                mean_g[v] = simd.mul_f32s(sum, weight[v]);
                mean_gx[v] = simd.mul_f32s(sum_x, weight[v]);
            }
            group_mean(&mut mean_g, &mut lanes, self.op.groups, count, simd);
            group_mean(&mut mean_gx, &mut lanes, self.op.groups, count, simd);
            for v in 0..all {
                // dx = a·dz + slope·x + offset
                let a = simd.mul_f32s(stats.rstd[v], weight[v]);
                let r = stats.rstd[v];
                let slope = simd.neg_f32s(simd.mul_f32s(simd.mul_f32s(r, r), mean_gx[v]));
                let offset = simd.neg_f32s(simd.mul_add_f32s(slope, stats.mean[v], simd.mul_f32s(r, mean_g[v])));
                for (x, dx) in x.chunks_exact(all).zip(dx.chunks_exact_mut(all)) {
                    dx[v] = simd.mul_add_f32s(a, dx[v], simd.mul_add_f32s(slope, x[v], offset));
                }
            }
        }
    }
}

/// dz = dy · σ(z)·(1 + z·(1 − σ(z))) with z = a·x + b, for channel vector v.
#[inline(always)]
fn silu_gradient<S: Simd>(
    simd: S,
    (a, b): (S::f32s, S::f32s),
    all: usize,
    v: usize,
    x: &[S::f32s],
    dy: &[S::f32s],
    dz: &mut [S::f32s],
) {
    let one = simd.splat_f32s(1.0);
    let pixels = x.chunks_exact(all).zip(dy.chunks_exact(all));
    for ((x, dy), dz) in pixels.zip(dz.chunks_exact_mut(all)) {
        let z = simd.mul_add_f32s(a, x[v], b);
        let s = kernel::sigmoid(simd, z);
        let slope = simd.mul_f32s(s, simd.mul_add_f32s(z, simd.sub_f32s(one, s), one));
        dz[v] = simd.mul_f32s(dy[v], slope);
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (pixels, channels) = self.sizes(x_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let mut out = vec![0.0; x_layout.shape().elem_count()];
        let forward = Forward {
            op: *self,
            image: pixels * channels,
            x: floats("group norm", x, x_layout)?,
            weight: floats("group norm", weight, weight_layout)?,
            bias: floats("group norm", bias, bias_layout)?,
            out: &mut out,
        };
        let lap = clock::begin(Part::NormForward);
        Arch::new().dispatch(forward);
        lap.end(0);
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (pixels, channels) = self.sizes(x.dims(), weight.dims(), bias.dims())?;
        let mut dx = vec![0.0; x.elem_count()];
        let (mut dweight, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
        with_floats([x, weight, bias, dy], |[x, weight, bias, dy]| {
            let backward = Backward {
                op: *self,
                image: pixels * channels,
                x,
                weight,
                bias,
                dy,
                dx: &mut dx,
                dweight: &mut dweight,
                dbias: &mut dbias,
            };
            let lap = clock::begin(Part::NormBackward);
            Arch::new().dispatch(backward);
            lap.end(0);
        })?;
        Ok((Some(tensor(dx, x.dims())?), Some(tensor(dweight, &[channels])?), Some(tensor(dbias, &[channels])?)))
    }
}
