//! The one convolution: (norm → SiLU →) quantise while loading → integer products → scale, bias, residual → store.
//!
//! Rows of the (virtually concatenated, virtually upsampled) source are quantised once into a ring of `kernel` int16 rows;
//! each output row is computed in blocks of [`BLOCK_PIXELS`] pixels. The order of float operations is the contract of
//! `docs/numerics.md`.

use super::Context;
use super::norm::{Statistics, affine};
use crate::blob::{BLOCK_PIXELS, ConvData, ConvOp, ConvScratch, Region, TensorRecord};
use crate::kernels::{self, Taps};
use crate::math;
use crate::quant::quantise;
use crate::tensor::{CHUNK, Elements, ElementsMut, Floats, f32s, f32s_mut, i8s, i16s_mut, i32s_mut, split};

/// The tensor records of the operands.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) a: TensorRecord,
    pub(crate) b: Option<TensorRecord>,
    pub(crate) residual: Option<TensorRecord>,
    pub(crate) time: Option<TensorRecord>,
    pub(crate) out: TensorRecord,
}

/// A source tensor: memory of its own, or the memory that the output replaces row by row.
#[derive(Clone, Copy)]
enum Source<'a> {
    Own(Elements<'a>),
    Output,
}

/// Runs the operator; does nothing when the plan is not the validated one.
pub(crate) fn run(context: Context<'_>, op: &ConvOp, operands: Operands, arena: &mut [u8]) {
    let Operands { a, b, residual, time, out } = operands;
    // A tensor that the output replaces is reached through the output.
    let own = |index: Option<u16>, record: Option<TensorRecord>| match record {
        Some(record) if index != Some(op.common.out) => record,
        _ => TensorRecord { height: 0, statistics: false, ..out },
    };
    let a_own = own(Some(op.src_a), Some(a));
    let b_own = own(op.src_b, b);
    let residual_own = own(op.residual, residual);
    let Some([a_bytes, a_sums, b_bytes, b_sums, residual_bytes, time_bytes, out_bytes, out_sums, scratch]) = split(
        arena,
        [
            a_own.elements(),
            a_own.statistics_region(),
            b_own.elements(),
            b_own.statistics_region(),
            residual_own.elements(),
            time.map_or(Region::default(), |time| time.elements()),
            out.elements(),
            out.statistics_region(),
            op.common.scratch,
        ],
    ) else {
        return;
    };
    let source = |index: Option<u16>, bytes, record: TensorRecord| {
        if index == Some(op.common.out) { Source::Output } else { Source::Own(Elements::new(bytes, record.dtype)) }
    };
    let (cin_a, cin_b) = (usize::from(a.channels), b.map_or(0, |b| usize::from(b.channels)));
    let (cin, cout) = (cin_a + cin_b, usize::from(out.channels));
    let time_dim = time.map_or(0, |time| u32::from(time.channels));
    let data = op.data_layout(cin as u32, cout as u32, time_dim);
    let layout = op.scratch_layout(cin as u32, cout as u32, a.width.into());
    let Some(mut buffers) = Buffers::new(scratch, &layout) else { return };
    let array = |region| context.model.array(context.header, &op.common, region);

    if let Some(norm) = op.norm {
        // A normed source is never the one that the output replaces: such a convolution reads raw values or its own sums.
        let sums = [
            source_sums(op, op.src_a, a_sums, out_sums),
            match op.src_b {
                Some(src_b) => source_sums(op, src_b, b_sums, out_sums),
                None => &[],
            },
        ];
        let pixels = usize::from(a.height) * usize::from(a.width);
        let (gamma, beta) = (Floats::new(array(data.gamma)), Floats::new(array(data.beta)));
        affine(norm, sums, pixels, gamma, beta, buffers.affine);
    }
    total_bias(&array, &data, f32s(time_bytes), buffers.bias);

    let mut loader = RowLoader {
        op,
        a: source(Some(op.src_a), a_bytes, a),
        b: b.map(|b| source(op.src_b, b_bytes, b)),
        cin_a,
        cin_b,
        width: a.width.into(),
        held: [usize::MAX; 3],
    };
    let mut store = Store {
        out: ElementsMut::new(out_bytes, out.dtype),
        sums: Statistics(f32s_mut(out_sums)),
        residual: residual.map(|record| source(op.residual, residual_bytes, record)),
        scale: Floats::new(array(data.scale)),
        cout,
    };
    store.sums.clear();
    let weight = i8s(array(data.weight));
    for y in 0..usize::from(out.height) {
        let slots = loader.load_rows(y, a.height.into(), store.out.as_elements(), &mut buffers);
        let row_len = buffers.rows.len() / usize::from(op.kernel);
        let taps = Taps {
            rows: slots.map(|slot| slot.map(|slot| &buffers.rows[slot * row_len..][..row_len])),
            kernel: op.kernel.into(),
            stride: op.stride.into(),
            cin,
        };
        let width = usize::from(out.width);
        for x in (0..width).step_by(BLOCK_PIXELS) {
            let pixels = BLOCK_PIXELS.min(width - x);
            kernels::conv_block(&taps, weight, x, pixels, buffers.acc);
            store.block((y * width + x) * cout, pixels, buffers.acc, buffers.bias);
        }
    }
}

/// The sums of a normed source; those of the output's memory when the output replaces it (they are read before cleared).
fn source_sums<'s>(op: &ConvOp, index: u16, own: &'s [u8], out: &'s [u8]) -> &'s [f32] {
    f32s(if index == op.common.out { out } else { own })
}

/// The working arrays of the scratch.
struct Buffers<'s> {
    affine: &'s mut [f32],
    bias: &'s mut [f32],
    acc: &'s mut [i32],
    rows: &'s mut [i16],
}

impl<'s> Buffers<'s> {
    fn new(scratch: &'s mut [u8], layout: &ConvScratch) -> Option<Self> {
        let [affine, bias, acc, rows] = split(scratch, [layout.affine, layout.bias, layout.acc, layout.rows])?;
        Some(Self { affine: f32s_mut(affine), bias: f32s_mut(bias), acc: i32s_mut(acc), rows: i16s_mut(rows) })
    }
}

/// bias\[o\] + (Σ time_weight\[o\]\[e\] · time\[e\]) · time_scale\[o\].
fn total_bias<'m>(array: &impl Fn(Region) -> &'m [u8], data: &ConvData, time: &[f32], out: &mut [f32]) {
    let (bias, scale) = (Floats::new(array(data.bias)), Floats::new(array(data.time_scale)));
    let weight = i8s(array(data.time_weight));
    for (o, total) in out.iter_mut().enumerate() {
        *total = bias.get(o);
        if !time.is_empty() {
            *total += math::dot(time, &weight[o * time.len()..][..time.len()]) * scale.get(o);
        }
    }
}

/// Quantises source rows into the ring of int16 rows.
struct RowLoader<'a> {
    op: &'a ConvOp,
    a: Source<'a>,
    b: Option<Source<'a>>,
    cin_a: usize,
    cin_b: usize,
    width: usize,
    /// Source row that each slot of the ring holds.
    held: [usize; 3],
}

impl RowLoader<'_> {
    /// Makes the rows under output row `y` present; returns the slot of each kernel row, `None` outside the image.
    fn load_rows(
        &mut self,
        y: usize,
        height: usize,
        out: Elements<'_>,
        buffers: &mut Buffers<'_>,
    ) -> [Option<usize>; 3] {
        let kernel = usize::from(self.op.kernel);
        let padding = kernel / 2;
        let mut slots = [None; 3];
        for (k, slot) in slots.iter_mut().enumerate().take(kernel) {
            let Some(upsampled) = (y * usize::from(self.op.stride) + k).checked_sub(padding) else { continue };
            let row = upsampled >> usize::from(self.op.upsample);
            if row < height {
                let place = row % kernel;
                if self.held[place] != row {
                    self.held[place] = row;
                    self.load_row(row, place, out, buffers);
                }
                *slot = Some(place);
            }
        }
        slots
    }

    fn load_row(&self, row: usize, place: usize, out: Elements<'_>, buffers: &mut Buffers<'_>) {
        let cin = self.cin_a + self.cin_b;
        let row_len = buffers.rows.len() / usize::from(self.op.kernel);
        let target = &mut buffers.rows[place * row_len..][..row_len];
        let padding = usize::from(self.op.kernel / 2) * cin;
        target[..padding].fill(0);
        target[row_len - padding..].fill(0);
        let target = &mut target[padding..row_len - padding];
        let sources = [
            Some((self.a, self.cin_a, 0, self.op.inv_scale_a)),
            self.b.map(|b| (b, self.cin_b, self.cin_a, self.op.inv_scale_b)),
        ];
        for (source, channels, first, inv_scale) in sources.into_iter().flatten() {
            let elements = match source {
                Source::Own(elements) => elements,
                Source::Output => out,
            };
            for x in 0..self.width {
                let from = (row * self.width + x) * channels;
                let to = (x << usize::from(self.op.upsample)) * cin + first;
                let pixel = &mut target[to..to + channels];
                let affine = buffers.affine.get(2 * first..).unwrap_or(&[]);
                self.load_pixel(elements, from, affine, inv_scale, pixel);
            }
        }
        if self.op.upsample {
            for pair in target.chunks_exact_mut(2 * cin) {
                let (left, right) = pair.split_at_mut(cin);
                right.copy_from_slice(left);
            }
        }
    }

    /// One pixel of one source: load, norm, SiLU, quantise, in short passes that the compiler turns into vector code.
    fn load_pixel(&self, source: Elements<'_>, from: usize, affine: &[f32], inv_scale: f32, pixel: &mut [i16]) {
        let limit = f32::from(self.op.qmax);
        for (i, chunk) in pixel.chunks_mut(CHUNK).enumerate() {
            let mut buffer = [0.0; CHUNK];
            let values = &mut buffer[..chunk.len()];
            source.load(from + i * CHUNK, values);
            if self.op.norm.is_some() {
                for (value, [a, b]) in values.iter_mut().zip(affine[2 * i * CHUNK..].as_chunks().0) {
                    *value = *value * a + b;
                }
            }
            if self.op.silu {
                for value in values.iter_mut() {
                    *value = math::silu(*value);
                }
            }
            for (q, value) in chunk.iter_mut().zip(values) {
                *q = quantise(*value, inv_scale, limit);
            }
        }
    }
}

/// Turns sums into stored outputs and collects the next norm's statistics.
struct Store<'a> {
    out: ElementsMut<'a>,
    sums: Statistics<'a>,
    residual: Option<Source<'a>>,
    scale: Floats<'a>,
    cout: usize,
}

impl Store<'_> {
    /// Elements `first`.. of the output, `pixels` pixels of it: (sum · scale + bias) + residual.
    fn block(&mut self, first: usize, pixels: usize, acc: &[i32], bias: &[f32]) {
        for (p, acc) in acc.chunks_exact(self.cout).enumerate().take(pixels) {
            for start in (0..self.cout).step_by(CHUNK) {
                let mut buffer = [0.0; CHUNK];
                let values = &mut buffer[..CHUNK.min(self.cout - start)];
                let constants = self.scale.iter_from(start).zip(&bias[start..]);
                for ((value, sum), (scale, bias)) in values.iter_mut().zip(&acc[start..]).zip(constants) {
                    *value = *sum as f32 * scale + bias;
                }
                let index = first + p * self.cout + start;
                self.add_residual(index, values);
                self.out.store(index, values);
                self.sums.add(start, values);
            }
        }
    }

    fn add_residual(&self, index: usize, values: &mut [f32]) {
        let residual = match self.residual {
            None => return,
            Some(Source::Own(elements)) => elements,
            Some(Source::Output) => self.out.as_elements(),
        };
        let mut buffer = [0.0; CHUNK];
        residual.load(index, &mut buffer[..values.len()]);
        for (value, residual) in values.iter_mut().zip(&buffer) {
            *value += residual;
        }
    }
}
