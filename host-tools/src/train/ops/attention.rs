//! Scaled dot-product attention: softmax(q·kᵀ/√d)·v per image and head, its scores recomputed in the backward pass.
//!
//! q, k, v [B, H, W, C] → [B, H, W, C]; head h owns channels h·d..(h+1)·d, d = C/heads.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Scalar, Simd, WithSimd};

use super::clock::{self, Part};
use super::kernel::{self, Walk};
use super::rows::{correlate_into, pad_rows, unpad_rows};
use super::{floats, tensor, with_floats};

/// One attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Number of heads; divides C.
    pub heads: usize,
}

impl Attention {
    /// Applies the attention; shapes as in the module's description.
    pub fn apply(self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, self)
    }

    fn sizes(&self, q: &[usize], k: &[usize], v: &[usize]) -> Result<Sizes> {
        let &[_, h, w, c] = q else { bail!("attention: q {q:?} must have 4 dimensions") };
        if q != k || q != v || self.heads == 0 || c % self.heads != 0 {
            bail!("attention: {self:?} cannot take q {q:?}, k {k:?}, v {v:?}");
        }
        Ok(Sizes { n: h * w, c, d: c / self.heads, heads: self.heads })
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    c: usize,
    d: usize,
    heads: usize,
}

impl Sizes {
    /// Channels of one head of one image, as a matrix [n, d].
    fn head(&self, image: &[f32], head: usize) -> Vec<f32> {
        image.chunks_exact(self.c).flat_map(|row| &row[head * self.d..][..self.d]).copied().collect()
    }

    /// Writes a matrix [n, d] into the channels of one head.
    fn set_head(&self, matrix: &[f32], head: usize, image: &mut [f32]) {
        for (row, values) in image.chunks_exact_mut(self.c).zip(matrix.chunks_exact(self.d)) {
            row[head * self.d..][..self.d].copy_from_slice(values);
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }
}

/// a [m, k] · b [k, n], b given by its elements.
#[inline(always)]
fn product<S: Simd>(simd: S, a: &[f32], k: usize, n: usize, b: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let m = a.len() / k;
    let packed = kernel::pack(simd, k, n, b);
    let zero = vec![simd.splat_f32s(0.0); kernel::vectors::<S>(n)];
    let mut out = vec![0.0; m * n];
    correlate_into(simd, Walk::matrix(m, k), a, &packed, &zero, n, &mut out, &mut (Vec::new(), Vec::new()));
    out
}

/// aᵀ · b with a [m, k] and b [m, n].
#[inline(always)]
fn transposed_product<S: Simd>(simd: S, a: &[f32], k: usize, b: &[f32], n: usize) -> Vec<f32> {
    let all = kernel::vectors::<S>(n);
    let mut rows = Vec::new();
    pad_rows(simd, b, n, &mut rows);
    let mut sums = vec![simd.splat_f32s(0.0); k * all];
    kernel::correlate_weights(simd, Walk::matrix(a.len() / k, k), a, &rows, all, &mut sums);
    let mut out = vec![0.0; k * n];
    unpad_rows(&sums, all, n, &mut out, &mut Vec::new(), simd);
    out
}

/// Σ f(i) over 0..n in sixteen interleaved sums.
#[inline(always)]
fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    for chunk in 0..n / 16 {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(16 * chunk + lane);
        }
    }
    (n / 16 * 16..n).map(f).sum::<f32>() + sums.iter().sum::<f32>()
}

#[inline(always)]
fn softmax_row<S: Simd>(simd: S, row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (vectors, tail) = S::as_mut_simd_f32s(row);
    for v in vectors {
        *v = kernel::exp(simd, simd.sub_f32s(*v, simd.splat_f32s(max)));
    }
    for x in tail {
        *x = kernel::exp(Scalar, *x - max);
    }
    let total = sum(row.len(), |i| row[i]);
    for x in row {
        *x /= total;
    }
}

/// softmax(q·kᵀ) with q already scaled: [n, n].
#[inline(always)]
fn probabilities<S: Simd>(simd: S, s: Sizes, q: &[f32], k: &[f32]) -> Vec<f32> {
    let mut p = product(simd, q, s.d, s.n, |t, c| k[c * s.d + t]);
    p.chunks_exact_mut(s.n).for_each(|row| softmax_row(simd, row));
    p
}

struct Forward<'a> {
    sizes: Sizes,
    qkv: [&'a [f32]; 3],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes: s, qkv, out } = self;
        let image = s.n * s.c;
        for (b, out) in out.chunks_exact_mut(image).enumerate() {
            let [q, k, v] = qkv.map(|t| &t[b * image..][..image]);
            for head in 0..s.heads {
                let mut q = s.head(q, head);
                q.iter_mut().for_each(|x| *x *= s.scale());
                let p = probabilities(simd, s, &q, &s.head(k, head));
                let v = s.head(v, head);
                s.set_head(&product(simd, &p, s.n, s.d, |t, c| v[t * s.d + c]), head, out);
            }
        }
    }
}

struct Backward<'a> {
    sizes: Sizes,
    qkv: [&'a [f32]; 3],
    dy: &'a [f32],
    grads: [&'a mut [f32]; 3],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes: s, qkv, dy, grads: [dq, dk, dv] } = self;
        let image = s.n * s.c;
        for (b, dy) in dy.chunks_exact(image).enumerate() {
            let at = b * image..(b + 1) * image;
            for head in 0..s.heads {
                let qkv = qkv.map(|t| s.head(&t[at.clone()], head));
                let [q, k, v] = head_gradients(simd, s, qkv, &s.head(dy, head));
                s.set_head(&q, head, &mut dq[at.clone()]);
                s.set_head(&k, head, &mut dk[at.clone()]);
                s.set_head(&v, head, &mut dv[at.clone()]);
            }
        }
    }
}

/// Gradients of q, k and v, each [n, d], from that of the output.
#[inline(always)]
fn head_gradients<S: Simd>(simd: S, s: Sizes, [mut q, k, v]: [Vec<f32>; 3], dy: &[f32]) -> [Vec<f32>; 3] {
    q.iter_mut().for_each(|x| *x *= s.scale());
    let p = probabilities(simd, s, &q, &k);
    let mut ds = product(simd, dy, s.d, s.n, |t, c| v[c * s.d + t]);
    for (ds, p) in ds.chunks_exact_mut(s.n).zip(p.chunks_exact(s.n)) {
        let mean = sum(s.n, |i| ds[i] * p[i]);
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - mean);
        }
    }
    let mut dq = product(simd, &ds, s.n, s.d, |t, c| k[t * s.d + c]);
    dq.iter_mut().for_each(|x| *x *= s.scale());
    let dk = transposed_product(simd, &ds, s.n, &q, s.d);
    let dv = transposed_product(simd, &p, s.n, dy, s.d);
    [dq, dk, dv]
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(q_layout.dims(), k_layout.dims(), v_layout.dims())?;
        let name = self.name();
        let qkv = [floats(name, q, q_layout)?, floats(name, k, k_layout)?, floats(name, v, v_layout)?];
        let mut out = vec![0.0; q_layout.shape().elem_count()];
        let products = 2 * q_layout.shape().elem_count() * sizes.n;
        let lap = clock::begin(Part::AttentionForward);
        Arch::new().dispatch(Forward { sizes, qkv, out: &mut out });
        lap.end(2 * products);
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _res: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = self.sizes(q.dims(), k.dims(), v.dims())?;
        let mut grads: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; q.elem_count()]);
        with_floats([q, k, v, dy], |[q, k, v, dy]| {
            let grads = grads.each_mut().map(Vec::as_mut_slice);
            let products = 2 * q.len() * sizes.n;
            let backward = Backward { sizes, qkv: [q, k, v], dy, grads };
            let lap = clock::begin(Part::AttentionBackward);
            Arch::new().dispatch(backward);
            lap.end(5 * products);
        })?;
        let [dq, dk, dv] = grads.map(|g| tensor(g, q.dims()));
        Ok((Some(dq?), Some(dk?), Some(dv?)))
    }
}
