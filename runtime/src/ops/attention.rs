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
use crate::tensor::{CHUNK, Elements, ElementsMut, Floats, f32s, f32s_mut, i8s, i16s_mut, i32s_mut, split};

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
        scale: Floats::new(array(scale)),
        bias: Floats::new(array(bias)),
    };
    let query = projection(data.q_weight, data.q_scale, data.q_bias);
    let proj = projection(data.proj_weight, data.proj_scale, data.proj_bias);
    let sums = f32s(if in_place { out_sums } else { src_sums });
    affine(op.norm, [sums, &[]], pixels, Floats::new(array(data.gamma)), Floats::new(array(data.beta)), work.affine);

    let kv = Elements::new(kv_bytes, kv.dtype);
    let src = Elements::new(src_bytes, src.dtype);
    let mut out = ElementsMut::new(out_bytes, out.dtype);
    let mut statistics = Statistics(f32s_mut(out_sums));
    statistics.clear();
    let limit = f32::from(op.qmax);
    for pixel in 0..pixels {
        let first = pixel * channels;
        if in_place { out.as_elements() } else { src }.load(first, work.source);
        for ((q, x), [a, b]) in work.row.iter_mut().zip(work.source.iter()).zip(work.affine.as_chunks().0) {
            *q = quantise(x * a + b, op.inv_scale_in, limit);
        }
        kernels::linear(work.row, query.weight, work.acc);
        query.finish(work.acc, work.query);
        mix(&mut work, kv, usize::from(op.heads));
        for (q, y) in work.row.iter_mut().zip(work.mixed.iter()) {
            *q = quantise(*y, op.inv_scale_proj, limit);
        }
        kernels::linear(work.row, proj.weight, work.acc);
        proj.finish(work.acc, work.mixed);
        for (y, x) in work.mixed.iter_mut().zip(work.source.iter()) {
            *y += x;
        }
        out.store(first, work.mixed);
        statistics.add(0, work.mixed);
    }
}

/// A quantised linear layer's constants.
struct Projection<'a> {
    weight: &'a [i8],
    scale: Floats<'a>,
    bias: Floats<'a>,
}

impl Projection<'_> {
    fn finish(&self, sums: &[i32], out: &mut [f32]) {
        let constants = self.scale.iter_from(0).zip(self.bias.iter_from(0));
        for ((value, sum), (scale, bias)) in out.iter_mut().zip(sums).zip(constants) {
            *value = *sum as f32 * scale + bias;
        }
    }
}

/// The working arrays of the scratch.
struct Work<'s> {
    affine: &'s mut [f32],
    source: &'s mut [f32],
    query: &'s mut [f32],
    mixed: &'s mut [f32],
    scores: &'s mut [f32],
    acc: &'s mut [i32],
    row: &'s mut [i16],
}

impl<'s> Work<'s> {
    fn new(scratch: &'s mut [u8], layout: &AttentionScratch) -> Option<Self> {
        let [affine, source, query, mixed, scores, acc, row] = split(
            scratch,
            [layout.affine, layout.source, layout.query, layout.mixed, layout.scores, layout.acc, layout.row],
        )?;
        Some(Self {
            affine: f32s_mut(affine),
            source: f32s_mut(source),
            query: f32s_mut(query),
            mixed: f32s_mut(mixed),
            scores: f32s_mut(scores),
            acc: i32s_mut(acc),
            row: i16s_mut(row),
        })
    }
}

/// mixed = softmax(query·kᵀ)·v, head by head, everything in f32; sums of scores as in [`math::dot`], the others in index
/// order. Keys and values are converted [`CHUNK`] elements at a time.
fn mix(work: &mut Work<'_>, kv: Elements<'_>, heads: usize) {
    let channels = work.query.len();
    let dim = channels / heads;
    for head in 0..heads {
        let first = head * dim;
        let query = &work.query[first..first + dim];
        let mut largest = f32::MIN;
        for (j, score) in work.scores.iter_mut().enumerate() {
            *score = score_of(query, kv, j * 2 * channels + first);
            largest = if *score > largest { *score } else { largest };
        }
        let mixed = &mut work.mixed[first..first + dim];
        mixed.fill(0.0);
        let mut total = 0.0f32;
        for (j, score) in work.scores.iter().enumerate() {
            let weight = math::exp(*score - largest);
            total += weight;
            let values = j * 2 * channels + channels + first;
            for (i, mixed) in mixed.chunks_mut(CHUNK).enumerate() {
                let mut buffer = [0.0; CHUNK];
                kv.load(values + i * CHUNK, &mut buffer[..mixed.len()]);
                for (y, v) in mixed.iter_mut().zip(&buffer) {
                    *y += weight * v;
                }
            }
        }
        for y in mixed {
            *y /= total;
        }
    }
}

/// query · k, chunk by chunk: Σ over chunks, in order, of [`math::dot`] of a chunk.
fn score_of(query: &[f32], kv: Elements<'_>, key: usize) -> f32 {
    let mut score = 0.0f32;
    for (i, query) in query.chunks(CHUNK).enumerate() {
        let mut buffer = [0.0; CHUNK];
        let key_chunk = &mut buffer[..query.len()];
        kv.load(key + i * CHUNK, key_chunk);
        score += math::dot(query, key_chunk);
    }
    score
}
