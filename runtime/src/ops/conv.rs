//! The one convolution: (norm → SiLU →) quantise while loading → integer products → scale, bias, residual → store.
//!
//! Rows of the (virtually concatenated, virtually upsampled) source are quantised once into a ring (`feed.rs`), output rows
//! are computed in blocks of [`BLOCK_PIXELS`] pixels by one of three algorithms with equal sums, and stored (`finish.rs`).

use super::feed::{FeedSource, RowFeed};
use super::finish::{Block, Output};
use super::norm::{Statistics, affine};
use super::{Context, Source, dots};
use crate::blob::{Algorithm, BLOCK_PIXELS, ConvData, ConvOp, Region, TensorRecord, WeightFormat, unpack_nibbles};
use crate::kernels::{self, Prepared, Taps};
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
    let Some([affine_bytes, bias, sums, acc, tiles, rows, unpacked]) = split(
        scratch,
        [layout.affine, layout.bias, layout.sums, layout.acc, layout.tiles, layout.rows, layout.unpacked],
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
        weight,
        acc: i32s_mut(acc),
        tiles: i16s_mut(tiles),
        height: out.height.into(),
        width: out.width.into(),
        cout,
    };
    match op.algorithm {
        Algorithm::Direct => work.direct(op),
        Algorithm::Winograd => work.winograd(),
        Algorithm::Phases => work.phases(),
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

/// A convolution under way.
struct Work<'a> {
    feed: RowFeed<'a>,
    output: Output<'a>,
    weight: &'a [u8],
    acc: &'a mut [i32],
    tiles: &'a mut [i16],
    height: usize,
    width: usize,
    cout: usize,
}

impl Work<'_> {
    fn direct(&mut self, op: &ConvOp) {
        let mut prepared = Prepared::new();
        kernels::prepare(self.weight, self.cout, &mut prepared);
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
            let done = prepared.is_ready() && self.output.direct_row(&prepared, &taps, &row);
            for x in (0..self.width).step_by(BLOCK_PIXELS).take_while(|_| !done) {
                let pixels = BLOCK_PIXELS.min(self.width - x);
                kernels::direct(&taps, self.weight, x, pixels, self.acc);
                self.output.finish(&Block { acc: self.acc, pixel: row.pixel + x, pixels, ..row });
            }
            self.output.end_rows(1);
        }
    }

    /// Two output rows at a time, in blocks of four 2×2 tiles.
    fn winograd(&mut self) {
        let pairs = self.feed.geometry().pairs;
        let pair_bytes = (self.weight.len() / self.cout.div_ceil(2).max(1)).max(1);
        for y in (0..self.height).step_by(2) {
            let slots: [usize; 4] =
                core::array::from_fn(|k| self.feed.load_padded(y + k, self.output.out.as_elements()));
            let rows = slots.map(|slot| self.feed.row(slot));
            let rows_here = 2.min(self.height - y);
            for x in (0..self.width).step_by(BLOCK_PIXELS) {
                kernels::winograd_input(rows, &self.feed.geometry(), x, self.tiles);
                let mut channel = 0;
                while channel < self.cout {
                    let weight = &self.weight[channel / 2 * pair_bytes..];
                    let (channels, acc) =
                        if self.cout - channel >= 8 && kernels::winograd_eight(self.tiles, pairs, weight, self.acc) {
                            (8, &*self.acc)
                        } else {
                            let (products, acc) = self.acc.split_at_mut(self.acc.len().min(128));
                            kernels::winograd_products(self.tiles, pairs, &weight[..pair_bytes], products, acc);
                            (2, &*acc)
                        };
                    for row in 0..rows_here {
                        self.output.finish(&Block {
                            acc: &acc[row * channels * BLOCK_PIXELS..][..channels * BLOCK_PIXELS],
                            pixel: (y + row) * self.width + x,
                            pixels: BLOCK_PIXELS.min(self.width - x),
                            channel,
                            channels: channels.min(self.cout - channel),
                            row,
                        });
                    }
                    channel += channels;
                }
            }
            self.output.end_rows(rows_here);
        }
    }

    /// Output rows 2·y and 2·y + 1 of source row y, in blocks of four source columns.
    fn phases(&mut self) {
        let geometry = self.feed.geometry();
        let phase_bytes = self.weight.len() / 4;
        for y in 0..self.height / 2 {
            let slots: [Option<usize>; 3] =
                core::array::from_fn(|k| self.feed.load((y + k).checked_sub(1), self.output.out.as_elements()));
            for parity in 0..2 {
                let rows = [slots[parity], slots[parity + 1]].map(|slot| slot.map(|slot| self.feed.row(slot)));
                for x in (0..self.width / 2).step_by(BLOCK_PIXELS / 2) {
                    for column in 0..2 {
                        let weight = &self.weight[(2 * parity + column) * phase_bytes..][..phase_bytes];
                        kernels::phase(rows, &geometry, weight, x, column, self.acc);
                    }
                    self.output.finish(&Block {
                        acc: self.acc,
                        pixel: (2 * y + parity) * self.width + 2 * x,
                        pixels: BLOCK_PIXELS.min(self.width - 2 * x),
                        channel: 0,
                        channels: self.cout,
                        row: 0,
                    });
                }
                self.output.end_rows(1);
            }
        }
    }
}
