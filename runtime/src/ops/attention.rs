//! Self-attention over all pixels (arXiv:1706.03762), a few query pixels at a time: x + proj(softmax(q·kᵀ)·v).
//!
//! Keys and values were written by a 1×1 convolution before; the queries of some pixels are projected when their turn comes, so
//! no N×N and no N×C buffer exists. The output may replace the source: a pixel is read before it is written.

use super::feed::feed_block;
use super::finish::{Block, Output, dequantise};
use super::norm::{Statistics, affine};
use super::{Context, Source};
use crate::blob::{AttentionOp, AttentionScratch, BLOCK_PIXELS, QUERY_PIXELS, TensorRecord};
use crate::kernels::{self, Finish, Geometry, Mix, Point, Prepared, Residual, Taps};
use crate::math;
use crate::quant::Quantiser;
use crate::tensor::{CHUNK, Elements, ElementsMut, Floats, f32s, f32s_mut, i16s_mut, split};

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
    let (height, width) = (usize::from(src.height), usize::from(src.width));
    let layout = op.scratch_layout(channels as u32, (height * width) as u32, out.statistics);
    let Some((mut work, [pairs, bias, row_sums])) = Work::new(scratch, &layout) else { return };
    let data = op.data_layout(channels as u32);
    let array = |region| context.model.array(context.header, &op.common, region);
    let sums = f32s(if in_place { &*out_sums } else { &*src_sums });
    let constants = (Floats::new(array(data.gamma)), Floats::new(array(data.beta)));
    affine(op.norm, [sums, &[]], height * width, constants, false, pairs);

    // Apart from what refers to them: they are large, and would be moved.
    let (mut prepared_query, mut prepared) = (Prepared::new(), Prepared::new());
    kernels::prepare(array(data.q_weight), &geometry(channels), channels, &mut prepared_query);
    let constants = [data.q_weight, data.q_scale, data.q_bias].map(array);
    let mut queries = Queries::new(constants, &mut prepared_query, channels);
    kernels::prepare(array(data.proj_weight), &geometry(channels), channels, &mut prepared);
    bias.iter_mut().zip(Floats::new(array(data.proj_bias)).iter_from(0)).for_each(|(slot, bias)| *slot = bias);
    let kv = Elements::new(kv_bytes, kv.dtype, &[]);
    let source = if in_place { Source::Output } else { Source::Own(Elements::new(src_bytes, src.dtype, &[])) };
    let mut output = Output {
        out: ElementsMut::new(out_bytes, out.dtype),
        residual: Some(source),
        scale: array(data.proj_scale).as_chunks().0,
        bias,
        statistics: Statistics::new(f32s_mut(out_sums), row_sums),
    };
    let point = Point::new(array(data.proj_weight), geometry(channels), output.scale, output.bias);
    let quantisers = [op.inv_scale_in, op.inv_scale_proj].map(|scale| Quantiser::new(false, scale, op.qmax));
    for y in 0..height {
        for x in (0..width).step_by(QUERY_PIXELS) {
            let (pixel, pixels) = (y * width + x, QUERY_PIXELS.min(width - x));
            let input = source.or(output.out.as_elements());
            let size = (channels, pixels);
            feed_block(input, pixel * channels, size, pairs, quantisers[0], work.row);
            queries.project(&mut work, pixels);
            mix(&mut work, kv, usize::from(op.heads), (channels, height * width), pixels);
            feed_block(Elements::F32(work.query), 0, size, &[], quantisers[1], work.row);
            let block = Block { acc: &[], pixel, pixels, channel: 0, channels, row: 0 };
            let done = match &point {
                Some(point) => output.point_row(point, work.row, &block, bytemuck::cast_slice_mut(work.scores)),
                None => output.direct_row(&mut prepared, 0, &taps(channels, work.row), &block),
            };
            if !done {
                let acc = bytemuck::cast_slice_mut(work.scores);
                kernels::direct(&taps(channels, work.row), array(data.proj_weight), 0, pixels, acc);
                output.finish(&Block { acc, ..block });
            }
        }
        output.end_rows(1);
    }
}

/// One block of a row as a 1×1 convolution takes it.
fn taps(channels: usize, row: &[i16]) -> Taps<'_> {
    Taps { rows: [Some(row), None, None], geometry: geometry(channels) }
}

fn geometry(channels: usize) -> Geometry {
    Geometry { kernel: 1, stride: 1, pairs: channels.div_ceil(2), columns: BLOCK_PIXELS }
}

/// The projection that makes queries.
struct Queries<'m> {
    weight: &'m [u8],
    prepared: &'m mut Prepared,
    point: Option<Point<'m>>,
    scale: &'m [u8],
    bias: Floats<'m>,
    channels: usize,
}

impl<'m> Queries<'m> {
    /// Of weight, scale and bias.
    fn new([weight, scale, bias]: [&'m [u8]; 3], prepared: &'m mut Prepared, channels: usize) -> Self {
        let floats = bytemuck::try_cast_slice(bias).unwrap_or(&[]);
        let point = Point::new(weight, geometry(channels), scale.as_chunks().0, floats);
        Self { weight, prepared, point, scale, bias: Floats::new(bias), channels }
    }

    /// From the quantised row to the queries.
    fn project(&mut self, work: &mut Work<'_>, pixels: usize) {
        let taps = taps(self.channels, work.row);
        let query = &mut work.query[..pixels * self.channels];
        let acc = bytemuck::cast_slice_mut(work.scores);
        if let Some(point) = &self.point
            && point.row(work.row, pixels, Residual::None, ElementsMut::F32(query), &mut [], acc)
        {
            return;
        }
        if self.prepared.is_ready() {
            let bias = &mut work.scores[..self.channels];
            bias.iter_mut().zip(self.bias.iter_from(0)).for_each(|(slot, bias)| *slot = bias);
            let scale = self.scale.as_chunks().0;
            let block = Finish { acc: &[], pixels, scale, bias, pitch: self.channels };
            let out = ElementsMut::F32(&mut *query);
            if kernels::direct_row(self.prepared, 0, &taps, &block, Residual::None, out, &mut []) {
                return;
            }
        }
        let acc = bytemuck::cast_slice_mut(work.scores);
        kernels::direct(&taps, self.weight, 0, pixels, acc);
        dequantise(acc, Floats::new(self.scale), self.bias, query, self.channels);
    }
}

/// The working arrays of the scratch.
struct Work<'s> {
    query: &'s mut [f32],
    scores: &'s mut [f32],
    row: &'s mut [i16],
}

impl<'s> Work<'s> {
    /// With the affine pairs, the last bias and the sums of a row, which are borrowed apart.
    fn new(scratch: &'s mut [u8], layout: &AttentionScratch) -> Option<(Self, [&'s mut [f32]; 3])> {
        let AttentionScratch { affine, bias, query, scores, row, sums, .. } = *layout;
        let [affine, bias, query, scores, row, sums] = split(scratch, [affine, bias, query, scores, row, sums])?;
        let row = i16s_mut(row);
        row.fill(0);
        let work = Self { query: f32s_mut(query), scores: f32s_mut(scores), row };
        Some((work, [f32s_mut(affine), f32s_mut(bias), f32s_mut(sums)]))
    }
}

/// query = softmax(query·kᵀ)·v, head by head, everything in f32; sums of scores as in [`math::dot`], the others in index
/// order. Keys and values are converted [`CHUNK`] elements at a time, for all `pixels` queries together.
fn mix(work: &mut Work<'_>, kv: Elements<'_>, heads: usize, (channels, tokens): (usize, usize), pixels: usize) {
    if let Elements::F16(kv) = kv {
        let (query, scores) = (&mut *work.query, &mut *work.scores);
        if kernels::mix(&mut Mix { query, scores, kv, heads, channels, tokens, pixels }) {
            return;
        }
    }
    let dim = channels / heads;
    for head in 0..heads {
        let first = head * dim;
        let scores = &mut work.scores.as_chunks_mut::<QUERY_PIXELS>().0[..tokens];
        let mut largest = [f32::MIN; QUERY_PIXELS];
        for (j, scores) in scores.iter_mut().enumerate() {
            *scores = scores_of(work.query, kv, j * 2 * channels + first, (first, dim), channels, pixels);
            for (largest, score) in largest.iter_mut().zip(scores) {
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let mut total = [0.0f32; QUERY_PIXELS];
        for scores in scores.iter_mut() {
            for ((score, largest), total) in scores.iter_mut().zip(largest).zip(&mut total).take(pixels) {
                *score = math::exp(*score - largest);
                *total += *score;
            }
        }
        for start in (0..dim).step_by(CHUNK) {
            let len = CHUNK.min(dim - start);
            let mut sums = [[0.0f32; CHUNK]; QUERY_PIXELS];
            for (j, scores) in scores.iter().enumerate() {
                let mut values = [0.0; CHUNK];
                kv.load(j * 2 * channels + channels + first + start, &mut values[..len]);
                for (sums, weight) in sums.iter_mut().zip(scores).take(pixels) {
                    for (sum, value) in sums.iter_mut().zip(&values) {
                        *sum += weight * value;
                    }
                }
            }
            for ((p, sums), total) in sums.iter().enumerate().zip(total).take(pixels) {
                let mixed = &mut work.query[p * channels + first + start..][..len];
                mixed.iter_mut().zip(sums).for_each(|(mixed, sum)| *mixed = sum / total);
            }
        }
    }
}

/// query · k for each query, chunk by chunk: Σ over chunks, in order, of [`math::dot`] of a chunk.
fn scores_of(
    query: &[f32],
    kv: Elements<'_>,
    key: usize,
    (first, dim): (usize, usize),
    channels: usize,
    pixels: usize,
) -> [f32; QUERY_PIXELS] {
    let mut scores = [0.0f32; QUERY_PIXELS];
    for start in (0..dim).step_by(CHUNK) {
        let mut buffer = [0.0; CHUNK];
        let keys = &mut buffer[..CHUNK.min(dim - start)];
        kv.load(key + start, keys);
        for (p, score) in scores.iter_mut().enumerate().take(pixels) {
            *score += math::dot(&query[p * channels + first + start..][..keys.len()], keys);
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::f16 as convert;
    use crate::rng::NoiseStream;
    use std::vec::Vec;

    #[test]
    fn the_back_end_mixes_bit_for_bit_as_the_plain_loop() {
        let mut stream = NoiseStream::new(5, 0);
        for (heads, dim, tokens) in
            [(1, 8, 1), (2, 16, 9), (1, 32, 64), (4, 8, 16), (3, 24, 13), (2, 5, 7), (1, 40, 25)]
        {
            let channels = heads * dim;
            let kv: Vec<half::f16> =
                (0..tokens * 2 * channels).map(|_| convert::from_f32(2.0 * stream.next_gaussian())).collect();
            // The back ends leave f32 to the plain loop.
            let exact: Vec<f32> = kv.iter().map(|half| convert::to_f32(*half)).collect();
            for pixels in 1..=QUERY_PIXELS {
                let mut query: Vec<f32> = (0..pixels * channels).map(|_| stream.next_gaussian()).collect();
                let mut want = query.clone();
                let mut row = [];
                for (query, kv) in [(&mut query, Elements::F16(&kv)), (&mut want, Elements::F32(&exact))] {
                    let mut scores = std::vec![0.0; tokens * QUERY_PIXELS];
                    let mut work = Work { query, scores: &mut scores, row: &mut row };
                    mix(&mut work, kv, heads, (channels, tokens), pixels);
                }
                assert_eq!(query, want, "{heads} heads of {dim}, {tokens} tokens, {pixels} queries");
            }
        }
    }
}
