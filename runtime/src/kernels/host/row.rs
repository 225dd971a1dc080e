//! One output row of a direct convolution, from quantised rows to stored halves, with vectors of output channels.
//!
//! The sums of eight pixels of a vector of channels stay in registers over all taps, and go from there through scale, bias,
//! residual and rounding into the output, so that no sum is ever stored.

use half::f16;

use super::lanes::{Lanes, MAX_WIDTH, store_floats};
use super::prepare::Prepared;
use super::winograd;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Finish, Residual, Taps};
use crate::tensor::ElementsMut;

/// Writes output row `y`; `AT_ONCE` as in [`winograd::row`]. `false` when nothing is prepared.
#[inline(always)]
pub(super) fn row<V: Lanes, const AT_ONCE: usize>(
    prepared: &mut Prepared,
    y: usize,
    taps: &Taps<'_>,
    block: &Finish<'_>,
    residual: Residual<'_>,
    out: ElementsMut<'_>,
    sums: &mut [f32],
) -> bool {
    let mut target = Target { block, residual, out, sums };
    if prepared.is_winograd() {
        winograd::row::<V, AT_ONCE>(prepared, y, taps, &mut target);
        return true;
    }
    let mut index = 0;
    while let Some(weight) = prepared.group(index) {
        let mut channels = target.begin::<V>(index * V::WIDTH);
        for x in (0..target.pixels()).step_by(BLOCK_PIXELS) {
            target.store(&mut channels, x, &direct(taps, weight, x));
        }
        target.end(&channels);
        index += 1;
    }
    index > 0
}

/// The sums of the outputs from `x` on.
#[inline(always)]
fn direct<V: Lanes>(taps: &Taps<'_>, weight: &[u32], x: usize) -> [V; BLOCK_PIXELS] {
    let g = &taps.geometry;
    let mut sums = [V::zero(); BLOCK_PIXELS];
    let row_taps = g.pairs * g.kernel;
    for (ky, row) in taps.rows.iter().enumerate().take(g.kernel) {
        let Some(row) = row else { continue };
        let words = row.as_chunks::<2>().0;
        let mut weight = weight[ky * row_taps * V::WIDTH..].chunks_exact(V::WIDTH);
        for pair in 0..g.pairs {
            for kx in 0..g.kernel {
                // Rows are whole blocks long, so a window of eight is always there.
                let window = words[g.window(x, pair, kx) / 2..].first_chunk::<BLOCK_PIXELS>();
                let (Some(inputs), Some(weight)) = (window, weight.next()) else { continue };
                let weight = V::load(weight);
                for (sum, [low, high]) in sums.iter_mut().zip(inputs) {
                    *sum = sum.add_products(weight, u32::from(*low as u16) | u32::from(*high as u16) << 16);
                }
            }
        }
    }
    sums
}

/// A group of channels, and what stays in registers along a row.
#[derive(Clone, Copy)]
pub(super) struct Channels<V: Lanes> {
    first: usize,
    /// At most the lanes.
    count: usize,
    scale: V::Floats,
    bias: V::Floats,
    sum: V::Floats,
    squares: V::Floats,
}

/// Where the row goes.
pub(super) struct Target<'a, 'b> {
    block: &'a Finish<'a>,
    residual: Residual<'a>,
    out: ElementsMut<'b>,
    sums: &'b mut [f32],
}

impl Target<'_, '_> {
    /// Pixels of the row.
    #[inline(always)]
    pub(super) fn pixels(&self) -> usize {
        self.block.pixels
    }

    /// The group of channels from `first` on.
    #[inline(always)]
    pub(super) fn begin<V: Lanes>(&self, first: usize) -> Channels<V> {
        let count = V::WIDTH.min(self.block.scale.len() - first);
        // Zeros where there are fewer channels than lanes, or no sums.
        let (mut lanes, mut pairs) = ([[0.0f32; MAX_WIDTH]; 2], [0.0; 2 * MAX_WIDTH]);
        let [scale, bias] = &mut lanes;
        for (lane, bytes) in scale.iter_mut().zip(&self.block.scale[first..first + count]) {
            *lane = f32::from_le_bytes(*bytes);
        }
        bias[..count].copy_from_slice(&self.block.bias[first..first + count]);
        let sums = self.sums.get(2 * first..2 * (first + count)).unwrap_or(&[]);
        pairs[..sums.len()].copy_from_slice(sums);
        let [sum, squares] = V::load_pairs(if sums.len() == 2 * V::WIDTH { sums } else { &pairs });
        Channels { first, count, scale: V::load_floats(scale), bias: V::load_floats(bias), sum, squares }
    }

    /// Takes back the sums of a group.
    #[inline(always)]
    pub(super) fn end<V: Lanes>(&mut self, channels: &Channels<V>) {
        let sums = self.sums.get_mut(2 * channels.first..2 * (channels.first + channels.count)).unwrap_or(&mut []);
        if sums.len() == 2 * V::WIDTH {
            return V::store_pairs([channels.sum, channels.squares], sums);
        }
        let mut pairs = [0.0; 2 * MAX_WIDTH];
        V::store_pairs([channels.sum, channels.squares], &mut pairs);
        sums.copy_from_slice(&pairs[..sums.len()]);
    }

    /// Stores the sums of eight pixels from `x` on, or of as many as there are.
    #[inline(always)]
    pub(super) fn store<V: Lanes>(&mut self, channels: &mut Channels<V>, x: usize, sums: &[V; BLOCK_PIXELS]) {
        for (p, sum) in sums.iter().enumerate() {
            if x + p < self.block.pixels {
                self.store_pixel(channels, (x + p) * self.block.pitch + channels.first, *sum);
            }
        }
    }

    /// (sum · scale + bias) + residual, rounded, stored and added to the channels' sums.
    #[inline(always)]
    fn store_pixel<V: Lanes>(&mut self, channels: &mut Channels<V>, at: usize, sum: V) {
        let value = V::add(V::mul(sum.wrap_odd().to_floats(), channels.scale), channels.bias);
        let value = match self.residual {
            Residual::None => value,
            Residual::Elsewhere(values) => V::add(value, load::<V>(&values[at..], channels.count)),
            Residual::InPlace => match &self.out {
                ElementsMut::F16(out) => V::add(value, load::<V>(&out[at..], channels.count)),
                ElementsMut::F32(_) => value,
            },
        };
        let stored = match &mut self.out {
            ElementsMut::F16(out) => store::<V>(value, &mut out[at..], channels.count),
            ElementsMut::F32(out) => {
                store_floats::<V>(value, &mut out[at..at + channels.count]);
                value
            }
        };
        channels.sum = V::add(channels.sum, stored);
        channels.squares = V::add(channels.squares, V::mul(stored, stored));
    }
}

/// The first `count` halves, zeros behind them.
#[inline(always)]
fn load<V: Lanes>(values: &[f16], count: usize) -> V::Floats {
    if count == V::WIDTH {
        return V::load_halves(values);
    }
    let mut halves = [f16::ZERO; MAX_WIDTH];
    halves[..count].copy_from_slice(&values[..count]);
    V::load_halves(&halves)
}

/// Stores the first `count` values; returns what was stored.
#[inline(always)]
fn store<V: Lanes>(values: V::Floats, out: &mut [f16], count: usize) -> V::Floats {
    if count == V::WIDTH {
        return V::store_halves(values, out);
    }
    let mut halves = [f16::ZERO; MAX_WIDTH];
    let stored = V::store_halves(values, &mut halves);
    out[..count].copy_from_slice(&halves[..count]);
    stored
}
