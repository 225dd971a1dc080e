//! The one convolution: (norm → SiLU →) quantise while loading → integer products → scale, bias, residual → store.
//!
//! Rows of the (virtually concatenated, virtually upsampled) source are quantised once into a ring (`feed.rs`), output rows
//! are computed in blocks of [`BLOCK_PIXELS`] pixels by one of three algorithms with equal sums, and stored (`finish.rs`).

use super::feed::{FeedSource, RowFeed};
use super::finish::{Block, Output};
use super::norm::{Statistics, affine};
use super::{Context, Source, dots};
use crate::blob::{
    Algorithm, BLOCK_PIXELS, ConvData, ConvOp, Expansion, Region, STRIDED_PAIRS, TensorRecord, Transform, WeightFormat,
    direct_bytes, unpack_nibbles, winograd_bytes,
};
use crate::kernels::{self, Point, Prepared, Taps};
use crate::quant::Quantiser;
use crate::tensor::{Elements, ElementsMut, Floats, f32s, f32s_mut, i16s_mut, i32s_mut, split};

/// The tensor records of the operands.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) a: TensorRecord,
    pub(crate) b: Option<TensorRecord>,
    pub(crate) residual: Option<TensorRecord>,
    pub(crate) time: Option<TensorRecord>,
    pub(crate) out: TensorRecord,
    /// Weights expanded in the arena.
    pub(crate) expanded: Option<TensorRecord>,
}

/// Runs the operator; does nothing when the plan is not the validated one.
pub(crate) fn run(context: Context<'_>, op: &ConvOp, operands: Operands, arena: &mut [u8]) {
    let op = &if op.per_call.is_some() && !kernels::expands(op.algorithm) { op.directly() } else { *op };
    let Operands { a, b, residual, time, out, expanded } = operands;
    // A tensor that the output replaces is reached through the output.
    let own = |index, record| own_regions(record, index == Some(op.common.out));
    let [a_elements, a_statistics, a_scales] = own(Some(op.src_a), Some(a));
    let [b_elements, b_statistics, b_scales] = own(op.src_b, b);
    let [residual_elements, ..] = own(op.residual, residual);
    let Some(
        [
            a_bytes,
            a_sums,
            a_scales,
            b_bytes,
            b_sums,
            b_scales,
            residual_bytes,
            time_bytes,
            out_bytes,
            out_sums,
            scratch,
            expanded_weight,
        ],
    ) = split(
        arena,
        [
            a_elements,
            a_statistics,
            a_scales,
            b_elements,
            b_statistics,
            b_scales,
            residual_elements,
            time.map_or(Region::default(), |time| time.elements()),
            out.elements(),
            out.statistics_region(),
            op.common.scratch,
            expanded.map_or(Region::default(), |expanded| expanded.elements()),
        ],
    )
    else {
        return;
    };
    let source = |index: Option<u16>, record: TensorRecord, bytes, scales| {
        if index == Some(op.common.out) {
            Source::Output
        } else {
            Source::Own(Elements::new(bytes, record.dtype, scales))
        }
    };
    let (cin_a, cin_b) = (usize::from(a.channels), b.map_or(0, |b| usize::from(b.channels)));
    let (cin, cout) = (cin_a + cin_b, usize::from(out.channels));
    let data = op.data_layout(cin as u32, cout as u32, time.map_or(0, |time| time.channels.into()));
    let layout = op.scratch_layout(cin as u32, cout as u32, a.width.into(), out.statistics);
    let Some([affine_bytes, bias, sums, acc, tiles, rows, unpacked, part]) = split(
        scratch,
        [
            layout.affine,
            layout.bias,
            layout.sums,
            layout.acc,
            layout.tiles,
            layout.rows,
            layout.unpacked,
            layout.expanded,
        ],
    ) else {
        return;
    };
    let (pairs, bias) = (f32s_mut(affine_bytes), f32s_mut(bias));
    let array = |region| context.model.array(context.header, &op.common, region);

    if let Some(norm) = op.norm {
        // The sums of a source that the output replaces are read before they are cleared.
        let sums_of = |index: Option<u16>, own| f32s(if index == Some(op.common.out) { &*out_sums } else { own });
        let statistics =
            [sums_of(Some(op.src_a), &*a_sums), if b.is_some() { sums_of(op.src_b, &*b_sums) } else { &[] }];
        let pixels = usize::from(a.height) * usize::from(a.width);
        let (gamma, beta) = (Floats::new(array(data.gamma)), Floats::new(array(data.beta)));
        affine(norm, statistics, pixels, (gamma, beta), op.silu, pairs);
    }
    total_bias(&array, &data, f32s(time_bytes), bias);
    let weight = match op.weights {
        WeightFormat::Int4 => {
            unpack_nibbles(array(data.groups), array(data.weight), cout.div_ceil(2), unpacked);
            &*unpacked
        }
        WeightFormat::Int8 if expanded.is_some() => &*expanded_weight,
        WeightFormat::Int8 => array(data.weight),
    };

    let quantiser = |inv_scale| Quantiser::new(op.silu, inv_scale, op.qmax);
    let sources = [
        Some(FeedSource {
            elements: source(Some(op.src_a), a, a_bytes, a_scales),
            channels: cin_a,
            first: 0,
            quantiser: quantiser(op.inv_scale_a),
        }),
        b.map(|b| FeedSource {
            elements: source(op.src_b, b, b_bytes, b_scales),
            channels: cin_b,
            first: cin_a,
            quantiser: quantiser(op.inv_scale_b),
        }),
    ];
    let size = (usize::from(a.height), usize::from(a.width));
    let mut work = Work {
        feed: RowFeed::new(op, sources, pairs, size, i16s_mut(rows)),
        output: Output {
            out: ElementsMut::new(out_bytes, out.dtype),
            residual: residual.map(|record| source(op.residual, record, residual_bytes, &mut [])),
            scale: array(data.scale).as_chunks().0,
            bias,
            statistics: Statistics::new(f32s_mut(out_sums), f32s_mut(sums)),
        },
        weights: Weights {
            stored: weight,
            part,
            held: usize::MAX,
            transform: if op.upsample { Transform::Phases } else { Transform::Winograd },
            in_pairs: cin.div_ceil(2),
            out_pairs: op.per_call.map_or(cout.div_ceil(2), |parts| parts.out_pairs.into()),
        },
        acc: i32s_mut(acc),
        tiles: i16s_mut(tiles),
        height: out.height.into(),
        width: out.width.into(),
        cout,
    };
    match op.algorithm {
        Algorithm::Winograd => work.winograd(op.blocks_at_once(a.width.into())),
        Algorithm::Phases => work.phases(op.ring_rows() - 2),
        Algorithm::Strided if kernels::STRIDED => work.strided(),
        Algorithm::Direct | Algorithm::Strided => work.direct(op),
    }
}

/// Elements, statistics and scales of an operand that the output does not replace; nothing of another.
#[inline(never)]
fn own_regions(record: Option<TensorRecord>, replaced: bool) -> [Region; 3] {
    match record {
        Some(record) if !replaced => [record.elements(), record.statistics_region(), record.scales_region()],
        _ => [Region::default(); 3],
    }
}

/// bias\[o\] + (Σ time_weight\[o\]\[e\] · time\[e\]) · time_scale\[o\].
fn total_bias<'m>(array: &impl Fn(Region) -> &'m [u8], data: &ConvData, time: &[f32], out: &mut [f32]) {
    let (bias, scale) = (Floats::new(array(data.bias)), Floats::new(array(data.time_scale)));
    if time.is_empty() {
        out.iter_mut().enumerate().for_each(|(o, total)| *total = bias.get(o));
        return;
    }
    dots(time, array(data.time_weight), out);
    for (o, total) in out.iter_mut().enumerate() {
        *total = bias.get(o) + *total * scale.get(o);
    }
}

/// The weights: as the algorithm wants them, or direct ones that are transformed a part at a time.
struct Weights<'a> {
    stored: &'a [u8],
    /// Where a part is transformed to; empty when the stored weights are taken as they are.
    part: &'a mut [u8],
    /// First pair of output channels of the part that is held.
    held: usize,
    transform: Transform,
    /// Pairs of input channels.
    in_pairs: usize,
    /// Pairs of output channels of a part.
    out_pairs: usize,
}

impl Weights<'_> {
    /// The weights of the part whose first pair of output channels is `pair`.
    fn part(&mut self, pair: usize) -> &[u8] {
        if self.part.is_empty() {
            return self.stored;
        }
        let direct = &self.stored[direct_bytes(3, 2, 2) as usize * self.in_pairs * pair..];
        let out_pairs = self.out_pairs.min(direct.len() / (direct_bytes(3, 2, 2) as usize * self.in_pairs));
        let part = &mut self.part[..winograd_bytes(2, 2) as usize * self.in_pairs * out_pairs];
        if self.held != pair {
            self.held = pair;
            kernels::expand(&Expansion { transform: self.transform, in_pairs: self.in_pairs, out_pairs }, direct, part);
        }
        part
    }
}

/// A convolution under way.
struct Work<'a> {
    feed: RowFeed<'a>,
    output: Output<'a>,
    weights: Weights<'a>,
    acc: &'a mut [i32],
    tiles: &'a mut [i16],
    height: usize,
    width: usize,
    cout: usize,
}

impl Work<'_> {
    fn direct(&mut self, op: &ConvOp) {
        let mut prepared = Prepared::new();
        kernels::prepare(self.weights.stored, &self.feed.geometry(), self.cout, &mut prepared);
        let point = Point::new(self.weights.stored, self.feed.geometry(), self.output.scale, self.output.bias);
        let (kernel, stride, shift) = (usize::from(op.kernel), usize::from(op.stride), u32::from(op.upsample));
        for y in 0..self.height {
            let mut slots = [None; 3];
            for (k, slot) in slots.iter_mut().enumerate().take(kernel) {
                let row = (y * stride + k).checked_sub(kernel / 2).map(|row| row >> shift);
                *slot = self.feed.load(row, self.output.out.as_elements());
            }
            let rows = slots.map(|slot| slot.map(|slot| self.feed.row(slot)));
            let taps = Taps { rows, geometry: self.feed.geometry() };
            let row =
                Block { acc: &[], pixel: y * self.width, pixels: self.width, channel: 0, channels: self.cout, row: 0 };
            let done = match (&point, rows[0]) {
                (Some(point), Some(inputs)) => self.output.point_row(point, inputs, &row, self.acc),
                _ => prepared.is_ready() && self.output.direct_row(&mut prepared, y, &taps, &row),
            };
            for x in (0..self.width).step_by(BLOCK_PIXELS).take_while(|_| !done) {
                let pixels = BLOCK_PIXELS.min(self.width - x);
                kernels::direct(&taps, self.weights.stored, x, pixels, self.acc);
                self.output.finish(&Block { acc: self.acc, pixel: row.pixel + x, pixels, ..row });
            }
            self.output.end_rows(1);
        }
    }

    /// So many blocks of four 2×2 tiles at a time: one, or those of some pairs of output rows.
    fn winograd(&mut self, at_once: usize) {
        let Self { feed, output, weights, acc, tiles, height, width, cout } = self;
        let (geometry, in_row, row_pairs) = (feed.geometry(), width.div_ceil(BLOCK_PIXELS), height.div_ceil(2));
        let pairs = geometry.pairs;
        // A block by its pair of output rows and its place in them.
        let after = |(y, x): (usize, usize)| if x + 1 < in_row { (y, x + 1) } else { (y + 1, 0) };
        let (mut first, mut slots) = ((0, 0), [0; 4]);
        while first.0 < row_pairs {
            let (mut end, mut blocks) = (first, 0);
            for tiles in tiles.chunks_exact_mut(128 * pairs).take(at_once) {
                if end.0 == row_pairs {
                    break;
                }
                if end.1 == 0 {
                    slots = core::array::from_fn(|k| feed.load_padded(2 * end.0 + k, output.out.as_elements()));
                }
                let rows = slots.map(|slot| feed.row(slot));
                kernels::winograd_input(rows, &geometry, end.1 * BLOCK_PIXELS, tiles);
                (end, blocks) = (after(end), blocks + 1);
            }
            let mut channel = 0;
            while channel < *cout {
                let held = channel / 2 % weights.out_pairs;
                let weight = &weights.part(channel / 2 - held)[winograd_bytes(2, 2) as usize * pairs * held..];
                let (mut channels, mut block) = (2, first);
                for tiles in tiles.chunks_exact(128 * pairs).take(blocks) {
                    let sums = if *cout - channel >= 8 && kernels::winograd_eight(tiles, pairs, weight, acc) {
                        channels = 8;
                        &**acc
                    } else {
                        let (products, sums) = acc.split_at_mut(acc.len().min(128));
                        kernels::winograd_products(tiles, pairs, weight, products, sums);
                        &*sums
                    };
                    let (y, x) = (2 * block.0, block.1 * BLOCK_PIXELS);
                    for row in 0..2.min(*height - y) {
                        output.finish(&Block {
                            acc: &sums[row * channels * BLOCK_PIXELS..][..channels * BLOCK_PIXELS],
                            pixel: (y + row) * *width + x,
                            pixels: BLOCK_PIXELS.min(*width - x),
                            channel,
                            channels: channels.min(*cout - channel),
                            row: y - 2 * first.0 + row,
                        });
                    }
                    block = after(block);
                }
                channel += channels;
            }
            if end.1 == 0 {
                output.end_rows((2 * end.0).min(*height) - 2 * first.0);
            }
            first = end;
        }
    }

    /// Pairs of output rows, in blocks of four 2×2 tiles.
    fn strided(&mut self) {
        let Self { feed, output, weights, acc, tiles, height, width, cout } = self;
        let geometry = feed.geometry();
        let pair_bytes = winograd_bytes(2, 2) as usize * geometry.pairs;
        for y in (0..*height).step_by(2) {
            let slots: [usize; 5] = core::array::from_fn(|k| feed.load_padded(2 * y + k, output.out.as_elements()));
            let rows = slots.map(|slot| feed.row(slot));
            let lines = 2.min(*height - y);
            for x in (0..*width).step_by(BLOCK_PIXELS) {
                kernels::strided_input(rows, &geometry, 2 * x, tiles);
                let (mut channel, pixels) = (0, BLOCK_PIXELS.min(*width - x));
                for weight in weights.stored.chunks(STRIDED_PAIRS * pair_bytes) {
                    let channels = 2 * (weight.len() / pair_bytes);
                    let (sums, acc) = acc.split_at_mut(36 * channels);
                    kernels::strided_products(tiles, geometry.pairs, weight, pixels, sums, acc);
                    for row in 0..lines {
                        output.finish(&Block {
                            acc: &acc[row * channels * BLOCK_PIXELS..][..channels * BLOCK_PIXELS],
                            pixel: (y + row) * *width + x,
                            pixels,
                            channel,
                            channels: channels.min(*cout - channel),
                            row,
                        });
                    }
                    channel += channels;
                }
            }
            output.end_rows(lines);
        }
    }

    /// Output rows 2·y and 2·y + 1 of source rows y, so many of these at a time, in blocks of four source columns.
    fn phases(&mut self, at_once: usize) {
        let Self { feed, output, weights, acc, height, width, cout, .. } = self;
        let (geometry, at_end) = (feed.geometry(), !weights.part.is_empty());
        for y in (0..*height / 2).step_by(at_once) {
            let lines = 2 * at_once.min(*height / 2 - y);
            let slots: [Option<usize>; 4] = core::array::from_fn(|k| {
                let row = (y + k).checked_sub(1).filter(|_| k < lines / 2 + 2);
                feed.load(row, output.out.as_elements())
            });
            for channel in (0..*cout).step_by(2 * weights.out_pairs) {
                let channels = (2 * weights.out_pairs).min(*cout - channel);
                let phases = weights.part(channel / 2);
                for line in 0..lines {
                    let (above, parity) = (line.div_ceil(2), line % 2);
                    let rows = [slots[above], slots[above + 1]].map(|slot| slot.map(|slot| feed.row(slot)));
                    for x in (0..*width / 2).step_by(BLOCK_PIXELS / 2) {
                        for (column, weight) in
                            phases.chunks_exact(phases.len() / 4).skip(2 * parity).take(2).enumerate()
                        {
                            kernels::phase(rows, &geometry, weight, x, column, acc);
                        }
                        output.finish(&Block {
                            acc,
                            pixel: (2 * y + line) * *width + 2 * x,
                            pixels: BLOCK_PIXELS.min(*width - 2 * x),
                            channel,
                            channels,
                            row: if at_end { line } else { 0 },
                        });
                    }
                    if !at_end {
                        output.end_rows(1);
                    }
                }
            }
            if at_end {
                output.end_rows(lines);
            }
        }
    }
}
