//! Self-attention over all pixels (arXiv:1706.03762), one query pixel at a time: x + proj(softmax(q·kᵀ)·v).
//!
//! Keys and values were written by a 1×1 convolution before; the query of a pixel is projected when its turn comes, so no
//! N×N and no N×C buffer exists. The output may replace the source: a pixel is read before it is written.

use super::Context;
use super::norm::{Statistics, affine};
use crate::blob::{AttentionOp, AttentionScratch, TensorRecord};
use crate::kernels;
use crate::math;
use crate::quant::quantise;
use crate::tensor::{Elements, ElementsMut, Floats, f32s, f32s_mut, i8s, i16s_mut, i32s_mut, split};

/// Runs the operator; does nothing when the plan is not the validated one.
pub(crate) fn run(context: Context<'_>, op: &AttentionOp, operands: [TensorRecord; 3], arena: &mut [u8]) {
    let [src, kv, out] = operands;
    let in_place = op.src == op.common.out;
    let own = if in_place { TensorRecord { height: 0, statistics: false, ..src } } else { src };
    let Some([src_bytes, src_sums, kv_bytes, out_bytes, out_sums, scratch]) = split(
        arena,
        [
            own.elements(),
            own.statistics_region(),
            kv.elements(),
            out.elements(),
            out.statistics_region(),
            op.common.scratch,
        ],
    ) else {
        return;
    };
    let channels = usize::from(src.channels);
    let pixels = usize::from(src.height) * usize::from(src.width);
    let Some(mut work) = Work::new(scratch, &op.scratch_layout(channels as u32, pixels as u32)) else { return };
    let data = op.data_layout(channels as u32);
    let array = |region| context.model.array(context.header, &op.common, region);
    let projection = |weight, scale, bias| Projection {
        weight: i8s(array(weight)),
        scale: Floats(array(scale)),
        bias: Floats(array(bias)),
    };
    let query = projection(data.q_weight, data.q_scale, data.q_bias);
    let proj = projection(data.proj_weight, data.proj_scale, data.proj_bias);
    let sums = f32s(if in_place { out_sums } else { src_sums });
    affine(op.norm, [sums, &[]], pixels, Floats(array(data.gamma)), Floats(array(data.beta)), work.affine);

    let kv = Elements::new(kv_bytes, kv.dtype);
    let src = Elements::new(src_bytes, src.dtype);
    let mut out = ElementsMut::new(out_bytes, out.dtype);
    let mut statistics = Statistics(f32s_mut(out_sums));
    statistics.clear();
    let limit = f32::from(op.qmax);
    for pixel in 0..pixels {
        let first = pixel * channels;
        for (c, q) in work.row.iter_mut().enumerate() {
            let x = if in_place { out.as_elements() } else { src }.get(first + c);
            let normed = x * work.affine[2 * c] + work.affine[2 * c + 1];
            *q = quantise(normed, op.inv_scale_in, limit);
        }
        kernels::linear(work.row, query.weight, work.acc);
        for (c, q) in work.query.iter_mut().enumerate() {
            *q = query.finish(work.acc[c], c);
        }
        mix(&mut work, kv, usize::from(op.heads));
        for (q, y) in work.row.iter_mut().zip(work.mixed.iter()) {
            *q = quantise(*y, op.inv_scale_proj, limit);
        }
        kernels::linear(work.row, proj.weight, work.acc);
        for c in 0..channels {
            let x = if in_place { out.as_elements() } else { src }.get(first + c);
            let stored = out.set(first + c, proj.finish(work.acc[c], c) + x);
            statistics.add(c, stored);
        }
    }
}

/// A quantised linear layer's constants.
struct Projection<'a> {
    weight: &'a [i8],
    scale: Floats<'a>,
    bias: Floats<'a>,
}

impl Projection<'_> {
    fn finish(&self, sum: i32, channel: usize) -> f32 {
        sum as f32 * self.scale.get(channel) + self.bias.get(channel)
    }
}

/// The working arrays of the scratch.
struct Work<'s> {
    affine: &'s mut [f32],
    query: &'s mut [f32],
    mixed: &'s mut [f32],
    scores: &'s mut [f32],
    acc: &'s mut [i32],
    row: &'s mut [i16],
}

impl<'s> Work<'s> {
    fn new(scratch: &'s mut [u8], layout: &AttentionScratch) -> Option<Self> {
        let [affine, query, mixed, scores, acc, row] =
            split(scratch, [layout.affine, layout.query, layout.mixed, layout.scores, layout.acc, layout.row])?;
        Some(Self {
            affine: f32s_mut(affine),
            query: f32s_mut(query),
            mixed: f32s_mut(mixed),
            scores: f32s_mut(scores),
            acc: i32s_mut(acc),
            row: i16s_mut(row),
        })
    }
}

/// mixed = softmax(query·kᵀ)·v, head by head, everything in f32 and in index order.
fn mix(work: &mut Work<'_>, kv: Elements<'_>, heads: usize) {
    let channels = work.query.len();
    let dim = channels / heads;
    for head in 0..heads {
        let first = head * dim;
        let mut largest = f32::MIN;
        for (j, score) in work.scores.iter_mut().enumerate() {
            let mut sum = 0.0f32;
            for d in 0..dim {
                sum += work.query[first + d] * kv.get(j * 2 * channels + first + d);
            }
            *score = sum;
            largest = if sum > largest { sum } else { largest };
        }
        let mixed = &mut work.mixed[first..first + dim];
        mixed.fill(0.0);
        let mut total = 0.0f32;
        for (j, score) in work.scores.iter().enumerate() {
            let weight = math::exp(*score - largest);
            total += weight;
            for (d, y) in mixed.iter_mut().enumerate() {
                *y += weight * kv.get(j * 2 * channels + channels + first + d);
            }
        }
        for y in mixed {
            *y /= total;
        }
    }
}
