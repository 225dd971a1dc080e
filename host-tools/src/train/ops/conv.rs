//! Convolution 1×1 or 3×3 (stride 1 or 2, zero padding k/2) with nearest upsampling ×2 folded into its gather.
//!
//! x [B, H, W, I] · weight [O, I, k, k] + bias [1 or B, O] → [B, H', W', O]; a bias per image carries the time embedding.
//! The gradient of the input is a convolution of dy with the turned kernel; of the weight, [`kernel::correlate_weights`].

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};

use super::clock::{self, Part};
use super::kernel::{self, Walk};
use super::rows::{correlate_into, pad_rows, unpad_rows};
use super::{floats, tensor, with_floats};

/// One convolution; the kernel size is that of the weight.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// 1 or 2.
    pub stride: usize,
    /// Nearest ×2 before the convolution.
    pub upsample: bool,
    /// Whether x needs a gradient (the first convolution's does not).
    pub input_grad: bool,
}

impl Conv {
    /// Stride 1, no upsampling.
    pub const PLAIN: Self = Self { stride: 1, upsample: false, input_grad: true };

    /// Applies the convolution; shapes as in the module's description.
    pub fn apply(self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, self)
    }
}

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    height: usize,
    width: usize,
    cin: usize,
    cout: usize,
    kernel: usize,
    stride: usize,
    upsample: bool,
    bias_rows: usize,
}

impl Sizes {
    fn new(op: &Conv, x: &[usize], weight: &[usize], bias: &[usize]) -> Result<Self> {
        let (&[batch, height, width, cin], &[cout, wcin, kernel, kw], &[bias_rows, bc]) = (x, weight, bias) else {
            bail!("conv: x {x:?}, weight {weight:?}, bias {bias:?} must have 4, 4 and 2 dimensions");
        };
        let even = op.stride == 1 || (height % 2 == 0 && width % 2 == 0 && kernel == 3);
        let fits = wcin == cin && kw == kernel && bc == cout && (bias_rows == 1 || bias_rows == batch);
        if !fits || !matches!(kernel, 1 | 3) || !matches!(op.stride, 1 | 2) || !even || (op.upsample && op.stride == 2)
        {
            bail!("conv: {op:?} cannot take x {x:?}, weight {weight:?}, bias {bias:?}");
        }
        let Conv { stride, upsample, .. } = *op;
        Ok(Self { batch, height, width, cin, cout, kernel, stride, upsample, bias_rows })
    }

    /// Height and width of what the kernel slides over: the input, doubled where it is upsampled.
    fn gathered(&self) -> (usize, usize) {
        let factor = 1 + usize::from(self.upsample);
        (self.height * factor, self.width * factor)
    }

    fn out(&self) -> (usize, usize) {
        let (h, w) = self.gathered();
        (h / self.stride, w / self.stride)
    }

    /// Floating-point operations of the convolution, and of each of its two gradients.
    fn operations(&self) -> usize {
        let (h, w) = self.out();
        2 * self.batch * h * w * self.cout * self.kernel * self.kernel * self.cin
    }

    fn pad(&self) -> usize {
        self.kernel / 2
    }

    fn padded_len(&self, channels: usize) -> usize {
        let (h, w) = self.gathered();
        (h + 2 * self.pad()) * (w + 2 * self.pad()) * channels
    }

    /// The walk of a kernel over a padded image of `channels`.
    fn walk(&self, channels: usize, stride: usize) -> Walk {
        let (h, w) = self.gathered();
        let row_stride = (w + 2 * self.pad()) * channels;
        Walk {
            rows: h / stride,
            cols: w / stride,
            kernel: self.kernel,
            run: self.kernel * channels,
            row_stride,
            step_y: row_stride * stride,
            step_x: channels * stride,
        }
    }

    /// Index of weight [o, i, ky, kx].
    fn weight(&self, o: usize, i: usize, ky: usize, kx: usize) -> usize {
        ((o * self.cin + i) * self.kernel + ky) * self.kernel + kx
    }

    /// Copies one image into the middle of `padded`, upsampled where asked; the border stays as it is (zero).
    fn pad_image(&self, image: &[f32], padded: &mut [f32]) {
        let walk = self.walk(self.cin, 1);
        let inside = self.pad() * (walk.row_stride + self.cin);
        for y in 0..walk.rows {
            let target = &mut padded[inside + y * walk.row_stride..][..walk.cols * self.cin];
            if self.upsample {
                let row = &image[y / 2 * self.width * self.cin..][..self.width * self.cin];
                for (pair, pixel) in target.chunks_exact_mut(2 * self.cin).zip(row.chunks_exact(self.cin)) {
                    pair[..self.cin].copy_from_slice(pixel);
                    pair[self.cin..].copy_from_slice(pixel);
                }
            } else {
                target.copy_from_slice(&image[y * self.width * self.cin..][..self.width * self.cin]);
            }
        }
    }

    /// Spreads dy over the gathered grid: pixel (y, x) goes to (y·stride, x·stride); the rest stays zero.
    fn pad_gradient(&self, dy: &[f32], padded: &mut [f32]) {
        let walk = self.walk(self.cout, 1);
        let (h, w) = self.out();
        let inside = self.pad() * (walk.row_stride + self.cout);
        for y in 0..h {
            let row = &dy[y * w * self.cout..][..w * self.cout];
            let target = &mut padded[inside + y * self.stride * walk.row_stride..];
            if self.stride == 1 {
                target[..row.len()].copy_from_slice(row);
            } else {
                for (x, pixel) in row.chunks_exact(self.cout).enumerate() {
                    target[x * self.stride * self.cout..][..self.cout].copy_from_slice(pixel);
                }
            }
        }
    }
}

struct Forward<'a> {
    sizes: Sizes,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes: s, x, weight, bias, out } = self;
        let terms = s.kernel * s.kernel * s.cin;
        let weights = kernel::pack(simd, terms, s.cout, |q, o| {
            let (tap, i) = (q / s.cin, q % s.cin);
            weight[s.weight(o, i, tap / s.kernel, tap % s.kernel)]
        });
        let (out_h, out_w) = s.out();
        let walk = s.walk(s.cin, s.stride);
        let mut padded = vec![0.0; s.padded_len(s.cin)];
        let (mut bias_row, mut scratch) = (Vec::new(), (Vec::new(), Vec::new()));
        let images = x.chunks_exact(s.height * s.width * s.cin).zip(out.chunks_exact_mut(out_h * out_w * s.cout));
        for (b, (image, out)) in images.enumerate() {
            let row = if s.bias_rows == 1 { 0 } else { b };
            pad_rows(simd, &bias[row * s.cout..][..s.cout], s.cout, &mut bias_row);
            let plain = s.kernel == 1 && !s.upsample;
            if !plain {
                s.pad_image(image, &mut padded);
            }
            let source = if plain { image } else { &padded };
            correlate_into(simd, walk, source, &weights, &bias_row, s.cout, out, &mut scratch);
        }
    }
}

/// Gradients: `dx` (empty when not wanted), `dw` in OIHW, `db` [bias_rows, O].
struct Backward<'a> {
    sizes: Sizes,
    x: &'a [f32],
    weight: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes: s, x, weight, dy, dx, dw, db } = self;
        if !dx.is_empty() {
            let lap = clock::begin(Part::ConvInput);
            backward_input(simd, s, weight, dy, dx);
            lap.end(s.operations());
        }
        let lap = clock::begin(Part::ConvWeight);
        backward_weight(simd, s, x, dy, dw, db);
        lap.end(s.operations());
    }
}

#[inline(always)]
fn backward_input<S: Simd>(simd: S, s: Sizes, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let terms = s.kernel * s.kernel * s.cout;
    let turned = kernel::pack(simd, terms, s.cin, |q, i| {
        let (tap, o) = (q / s.cout, q % s.cout);
        weight[s.weight(o, i, s.kernel - 1 - tap / s.kernel, s.kernel - 1 - tap % s.kernel)]
    });
    let zero = vec![simd.splat_f32s(0.0); kernel::vectors::<S>(s.cin)];
    let walk = s.walk(s.cout, 1);
    let (out_h, out_w) = s.out();
    let mut padded = vec![0.0; s.padded_len(s.cout)];
    let mut gathered = vec![0.0; if s.upsample { walk.rows * walk.cols * s.cin } else { 0 }];
    let mut scratch = (Vec::new(), Vec::new());
    for (dy, dx) in dy.chunks_exact(out_h * out_w * s.cout).zip(dx.chunks_exact_mut(s.height * s.width * s.cin)) {
        if s.kernel > 1 {
            s.pad_gradient(dy, &mut padded);
        }
        let source = if s.kernel > 1 { &padded } else { dy };
        if s.upsample {
            correlate_into(simd, walk, source, &turned, &zero, s.cin, &mut gathered, &mut scratch);
            sum_quads(&gathered, s, dx);
        } else {
            correlate_into(simd, walk, source, &turned, &zero, s.cin, dx, &mut scratch);
        }
    }
}

/// The gradient of nearest ×2: each input pixel gets the sum of its four copies.
#[inline(always)]
fn sum_quads(gathered: &[f32], s: Sizes, dx: &mut [f32]) {
    let row = 2 * s.width * s.cin;
    for (y, dx) in dx.chunks_exact_mut(s.width * s.cin).enumerate() {
        let (top, bottom) = gathered[2 * y * row..][..2 * row].split_at(row);
        let pairs = top.chunks_exact(2 * s.cin).zip(bottom.chunks_exact(2 * s.cin));
        for (dx, (top, bottom)) in dx.chunks_exact_mut(s.cin).zip(pairs) {
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx = (top[i] + top[s.cin + i]) + (bottom[i] + bottom[s.cin + i]);
            }
        }
    }
}

#[inline(always)]
fn backward_weight<S: Simd>(simd: S, s: Sizes, x: &[f32], dy: &[f32], dw: &mut [f32], db: &mut [f32]) {
    let all = kernel::vectors::<S>(s.cout);
    let terms = s.kernel * s.kernel * s.cin;
    let zero = simd.splat_f32s(0.0);
    let mut sums = vec![zero; terms * all];
    let mut bias_sums = vec![zero; s.bias_rows * all];
    let (out_h, out_w) = s.out();
    let walk = s.walk(s.cin, s.stride);
    let mut padded = vec![0.0; s.padded_len(s.cin)];
    let mut dy_rows = Vec::new();
    let images = x.chunks_exact(s.height * s.width * s.cin).zip(dy.chunks_exact(out_h * out_w * s.cout));
    for (b, (image, dy)) in images.enumerate() {
        let plain = s.kernel == 1 && !s.upsample;
        if !plain {
            s.pad_image(image, &mut padded);
        }
        let whole = s.cout == all * S::F32_LANES;
        if !whole {
            pad_rows(simd, dy, s.cout, &mut dy_rows);
        }
        let dy = if whole { S::as_simd_f32s(dy).0 } else { &dy_rows };
        kernel::correlate_weights(simd, walk, if plain { image } else { &padded }, dy, all, &mut sums);
        let bias_sums = &mut bias_sums[if s.bias_rows == 1 { 0 } else { b } * all..][..all];
        for (v, sum) in bias_sums.iter_mut().enumerate() {
            let mut total = zero;
            for pixel in dy.chunks_exact(all) {
                total = simd.add_f32s(total, pixel[v]);
            }
            *sum = simd.add_f32s(*sum, total);
        }
    }
    let mut rows = vec![0.0; terms * s.cout];
    unpad_rows(&sums, all, s.cout, &mut rows, &mut Vec::new(), simd);
    for (q, row) in rows.chunks_exact(s.cout).enumerate() {
        let (tap, i) = (q / s.cin, q % s.cin);
        for (o, value) in row.iter().enumerate() {
            dw[s.weight(o, i, tap / s.kernel, tap % s.kernel)] = *value;
        }
    }
    unpad_rows(&bias_sums, all, s.cout, db, &mut Vec::new(), simd);
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "conv"
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
        let sizes = Sizes::new(self, x_layout.dims(), weight_layout.dims(), bias_layout.dims())?;
        let (h, w) = sizes.out();
        let mut out = vec![0.0; sizes.batch * h * w * sizes.cout];
        let forward = Forward {
            sizes,
            x: floats("conv", x, x_layout)?,
            weight: floats("conv", weight, weight_layout)?,
            bias: floats("conv", bias, bias_layout)?,
            out: &mut out,
        };
        let lap = clock::begin(Part::ConvForward);
        Arch::new().dispatch(forward);
        lap.end(sizes.operations());
        Ok((CpuStorage::F32(out), (sizes.batch, h, w, sizes.cout).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _res: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::new(self, x.dims(), weight.dims(), bias.dims())?;
        let mut dx = vec![0.0; if self.input_grad { x.elem_count() } else { 0 }];
        let (mut dw, mut db) = (vec![0.0; weight.elem_count()], vec![0.0; bias.elem_count()]);
        with_floats([x, weight, dy], |[x, weight, dy]| {
            Arch::new().dispatch(Backward { sizes, x, weight, dy, dx: &mut dx, dw: &mut dw, db: &mut db });
        })?;
        let dx = if self.input_grad { Some(tensor(dx, x.dims())?) } else { None };
        Ok((dx, Some(tensor(dw, weight.dims())?), Some(tensor(db, bias.dims())?)))
    }
}
