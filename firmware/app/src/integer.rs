//! The integer part of a convolution by itself: its row feed, and its products and sums.
//!
//! Calls the runtime's kernels on the operator's own source, weights and scratch, in the loops of the runtime's `ops/conv.rs`
//! without what turns sums into outputs. Must stand where the operator would run, when its source is in the arena.

use bytemuck::{cast_slice_mut, try_cast_slice};
use half::f16;
use picodream::UNet;
use picodream::blob::{Algorithm, BLOCK_PIXELS, ConvOp, DType, Op, STRIDED_PAIRS, WeightFormat};
use picodream::kernels::{self, Feed, FeedTarget, Geometry, Taps, portable};
use picodream::quant::Quantiser;
use picodream_wire::Record;

use crate::{Board, counted};

/// Sends the counts of operator `index` when it is a convolution that reads one f16 tensor as it is.
pub(crate) fn measure(board: &mut impl Board, unet: &UNet, index: u16, arena: &mut [u8]) {
    let Some(Op::Conv(op)) = unet.op(index) else { return };
    let plain = op.weights == WeightFormat::Int8 && unet.tensor(op.src_a).dtype == DType::F16;
    if op.norm.is_some() || op.src_b.is_some() || !plain {
        return;
    }
    let Some(mut layer) = Layer::new(unet, &op, arena) else { return };
    let (feed, ()) = counted(board, |_| layer.feed());
    let (products, ()) = counted(board, |_| match op.algorithm {
        Algorithm::Direct => layer.direct(),
        Algorithm::Winograd => layer.winograd(),
        Algorithm::Phases => layer.phases(),
        Algorithm::Strided => layer.strided(),
    });
    board.send(&Record::Integer { index: index.into(), feed, products });
}

/// A convolution with its memory, split as the runtime splits it.
struct Layer<'a> {
    op: ConvOp,
    geometry: Geometry,
    /// f16 \[height\]\[width\]\[cin\].
    source: &'a [f16],
    weight: &'a [u8],
    acc: &'a mut [i32],
    tiles: &'a mut [i16],
    ring: &'a mut [i16],
    cin: usize,
    cout: usize,
    /// Height and width of the source, and of the output.
    size: [usize; 2],
    out_size: [usize; 2],
}

impl<'a> Layer<'a> {
    /// `None` where one loop goes from inputs to outputs: it has no integer part by itself.
    fn new(unet: &UNet<'a>, op: &ConvOp, arena: &'a mut [u8]) -> Option<Self> {
        let (a, out) = (unet.tensor(op.src_a), unet.tensor(op.common.out));
        let (cin, cout) = (u32::from(a.channels), u32::from(out.channels));
        let time_dim = op.time.map_or(0, |time| unet.tensor(time).channels.into());
        let layout = op.scratch_layout(cin, cout, a.width.into(), out.statistics);
        let data = op.data_layout(cin, cout, time_dim);
        let array = |region| unet.model().array(unet.header(), &op.common, region);
        let packed = array(data.weight);
        let expanded = op.expanded.map_or(0..0, |expanded| unet.tensor(expanded).elements().range());
        let parts = [a.elements().range(), op.common.scratch.range(), expanded];
        let [source, scratch, expanded] = arena.get_disjoint_mut(parts).ok()?;
        let weight = if op.expanded.is_some() { expanded } else { packed };
        let tiles = if layout.tiles.bytes == 0 { 0..0 } else { layout.tiles.range() };
        let [acc, tiles, ring] = scratch.get_disjoint_mut([layout.acc.range(), tiles, layout.rows.range()]).ok()?;
        let columns = op.row_columns(a.width.into()) as usize;
        let (kernel, stride) = (op.kernel.into(), op.stride.into());
        let geometry = Geometry { kernel, stride, pairs: cin.div_ceil(2) as usize, columns };
        let (scale, bias) = (array(data.scale).as_chunks().0, try_cast_slice(array(data.bias)).unwrap_or(&[]));
        if kernels::Point::new(packed, geometry, scale, bias).is_some() {
            return None;
        }
        Some(Self {
            op: *op,
            geometry,
            source: cast_slice_mut(source),
            weight,
            acc: cast_slice_mut(acc),
            tiles: cast_slice_mut(tiles),
            ring: cast_slice_mut(ring),
            cin: cin as usize,
            cout: cout as usize,
            size: [a.height.into(), a.width.into()],
            out_size: [out.height.into(), out.width.into()],
        })
    }

    /// Quantises every row of the source once, into the ring.
    fn feed(&mut self) {
        let (op, geometry, channels, [height, width]) = (self.op, self.geometry, self.cin, self.size);
        let doubled = op.upsample && op.algorithm == Algorithm::Direct;
        let quantiser = Quantiser::new(op.silu, op.inv_scale_a, op.qmax);
        self.ring.fill(0);
        for row in 0..height {
            let slot = row % (self.ring.len() / geometry.len()).max(1);
            let values = &self.source[row * width * channels..][..width * channels];
            let row = &mut self.ring[slot * geometry.len()..][..geometry.len()];
            let mut target = FeedTarget { row, geometry, column: geometry.kernel / 2, channel: 0 };
            let feed = Feed { values, channels, affine: &[], quantiser };
            let fed = if doubled { kernels::feed_doubled } else { kernels::feed }(&feed, &mut target);
            if !fed {
                let load = |at: usize, out: &mut [f32]| {
                    for (value, half) in out.iter_mut().zip(&values[at..]) {
                        *value = picodream::f16::to_f32(*half);
                    }
                };
                portable::feed_with(load, &feed, width, doubled, &mut target);
            }
        }
    }

    fn direct(&mut self) {
        let Self { op, geometry, weight, ref mut acc, ref ring, size, out_size, .. } = *self;
        let (kernel, stride, shift) = (geometry.kernel, geometry.stride, u32::from(op.upsample));
        for y in 0..out_size[0] {
            let rows = core::array::from_fn(|k| {
                let row = (y * stride + k).checked_sub(kernel / 2).filter(|_| k < kernel)? >> shift;
                (row < size[0]).then(|| row_of(ring, geometry, row))
            });
            let taps = Taps { rows, geometry };
            for x in (0..out_size[1]).step_by(BLOCK_PIXELS) {
                kernels::direct(&taps, weight, x, BLOCK_PIXELS.min(out_size[1] - x), acc);
            }
        }
    }

    fn winograd(&mut self) {
        let Self { geometry, weight, ref mut acc, ref mut tiles, ref ring, cout, out_size, .. } = *self;
        let (products, acc) = acc.split_at_mut(acc.len().min(WINOGRAD_PRODUCTS));
        let pair_bytes = (weight.len() / cout.div_ceil(2).max(1)).max(1);
        for y in (0..out_size[0]).step_by(2) {
            let rows = core::array::from_fn(|k| row_of(ring, geometry, y + k));
            for x in (0..out_size[1]).step_by(BLOCK_PIXELS) {
                kernels::winograd_input(rows, &geometry, x, tiles);
                for weight in weight.chunks_exact(pair_bytes) {
                    kernels::winograd_products(tiles, geometry.pairs, weight, products, acc);
                }
            }
        }
    }

    fn strided(&mut self) {
        let Self { geometry, weight, ref mut acc, ref mut tiles, ref ring, out_size, .. } = *self;
        let pair_bytes = 128 * geometry.pairs;
        for y in (0..out_size[0]).step_by(2) {
            let rows = core::array::from_fn(|k| row_of(ring, geometry, 2 * y + k));
            for x in (0..out_size[1]).step_by(BLOCK_PIXELS) {
                kernels::strided_input(rows, &geometry, 2 * x, tiles);
                for weight in weight.chunks(STRIDED_PAIRS * pair_bytes) {
                    let (sums, acc) = acc.split_at_mut(72 * (weight.len() / pair_bytes));
                    let pixels = BLOCK_PIXELS.min(out_size[1] - x);
                    kernels::strided_products(tiles, geometry.pairs, weight, pixels, sums, acc);
                }
            }
        }
    }

    fn phases(&mut self) {
        let Self { geometry, weight, ref mut acc, ref ring, size: [height, width], .. } = *self;
        let phase_bytes = weight.len() / 4;
        for y in 0..height {
            for parity in 0..2 {
                let rows = core::array::from_fn(|k| {
                    let row = (y + parity + k).checked_sub(1)?;
                    (row < height).then(|| row_of(ring, geometry, row))
                });
                for x in (0..width).step_by(BLOCK_PIXELS / 2) {
                    for column in 0..2 {
                        let weight = &weight[(2 * parity + column) * phase_bytes..][..phase_bytes];
                        kernels::phase(rows, &geometry, weight, x, column, acc);
                    }
                }
            }
        }
    }
}

/// Words in front of Winograd's sums.
const WINOGRAD_PRODUCTS: usize = 128;

/// The place of a source row in the ring.
fn row_of(ring: &[i16], geometry: Geometry, row: usize) -> &[i16] {
    let slots = (ring.len() / geometry.len()).max(1);
    &ring[row % slots * geometry.len()..][..geometry.len()]
}
