//! One output row of a direct convolution, from quantised rows to stored halves, with vectors of output channels.
//!
//! A tile is eight pixels (or twice eight) of one or two vectors of channels: its sums stay in registers over all taps, and go
//! from there through scale, bias, residual and rounding into the output, so that no sum is ever stored.

use half::f16;

use super::lanes::Lanes;
use super::prepare::Prepared;
use super::winograd;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Finish, Residual, Taps};
use crate::tensor::ElementsMut;

/// Most lanes of a vector.
const MAX_WIDTH: usize = 16;

/// Writes output row `y`; `WIDE`: with tiles of sixteen sums, for processors with 32 registers. `false` when nothing is prepared.
#[inline(always)]
pub(super) fn row<V: Lanes, const WIDE: bool>(
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
        match WIDE {
            true => winograd::row::<V, 4>(prepared, y, taps, &mut target),
            false => winograd::row::<V, 2>(prepared, y, taps, &mut target),
        }
        return true;
    }
    let mut index = 0;
    while let Some(weight) = prepared.group(index) {
        index += match prepared.group(index + 1).filter(|_| WIDE) {
            Some(next) => groups::<V, 2, WIDE>(taps, [weight, next], index, &mut target),
            None => groups::<V, 1, WIDE>(taps, [weight], index, &mut target),
        }
    }
    index > 0
}

/// The row of `G` groups of channels from group `index` on; returns `G`.
#[inline(always)]
fn groups<V: Lanes, const G: usize, const WIDE: bool>(
    taps: &Taps<'_>,
    weight: [&[u32]; G],
    index: usize,
    target: &mut Target<'_, '_>,
) -> usize {
    // No closure: what is compiled apart lacks the instructions of this function.
    let mut channels = [target.begin::<V>(index * V::WIDTH); G];
    for (g, channels) in channels.iter_mut().enumerate().skip(1) {
        *channels = target.begin((index + g) * V::WIDTH);
    }
    let mut x = 0;
    while x < target.block.pixels {
        if WIDE && G == 1 && x + BLOCK_PIXELS < target.block.pixels {
            target.store(&mut channels, x, tile::<V, 2, G>(taps, weight, x));
            x += 2 * BLOCK_PIXELS;
        } else {
            target.store(&mut channels, x, tile::<V, 1, G>(taps, weight, x));
            x += BLOCK_PIXELS;
        }
    }
    for channels in &channels {
        target.end(channels);
    }
    G
}

/// Sums of `B` blocks of eight pixels and `G` groups of channels.
type Tile<V, const B: usize, const G: usize> = [[[V; BLOCK_PIXELS]; G]; B];

/// The sums of the blocks from output `x` on.
#[inline(always)]
fn tile<V: Lanes, const B: usize, const G: usize>(taps: &Taps<'_>, weight: [&[u32]; G], x: usize) -> Tile<V, B, G> {
    let g = &taps.geometry;
    let mut tile = [[[V::zero(); BLOCK_PIXELS]; G]; B];
    let next_block = if g.kernel == 1 { g.pairs * BLOCK_PIXELS } else { BLOCK_PIXELS };
    let row_taps = g.pairs * g.kernel;
    for (ky, row) in taps.rows.iter().enumerate().take(g.kernel) {
        let Some(row) = row else { continue };
        let words = row.as_chunks::<2>().0;
        let mut weight = weight;
        for weight in &mut weight {
            *weight = &weight[ky * row_taps * V::WIDTH..][..row_taps * V::WIDTH];
        }
        let mut tap = 0;
        for pair in 0..g.pairs {
            for kx in 0..g.kernel {
                let first = g.window(x, pair, kx) / 2;
                let mut weights = [V::zero(); G];
                for (loaded, weight) in weights.iter_mut().zip(&weight) {
                    *loaded = V::load(&weight[tap * V::WIDTH..][..V::WIDTH]);
                }
                for (block, sums) in tile.iter_mut().enumerate() {
                    // Rows are whole blocks long, so a window of eight is always there.
                    let Some(inputs) = words[first + block * next_block..].first_chunk() else { continue };
                    add_products(sums, inputs, weights);
                }
                tap += 1;
            }
        }
    }
    tile
}

/// Adds the products of eight neighbouring words and the weights of a tap.
#[inline(always)]
fn add_products<V: Lanes, const G: usize>(
    sums: &mut [[V; BLOCK_PIXELS]; G],
    inputs: &[[i16; 2]; BLOCK_PIXELS],
    weights: [V; G],
) {
    for (p, [low, high]) in inputs.iter().enumerate() {
        let word = u32::from(*low as u16) | u32::from(*high as u16) << 16;
        for (sums, weight) in sums.iter_mut().zip(weights) {
            sums[p] = sums[p].add_products(weight, word);
        }
    }
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

    /// Stores the sums of the blocks from pixel `x` on.
    #[inline(always)]
    pub(super) fn store<V: Lanes, const B: usize, const G: usize>(
        &mut self,
        channels: &mut [Channels<V>; G],
        x: usize,
        tile: Tile<V, B, G>,
    ) {
        for (block, groups) in tile.iter().enumerate() {
            for (channels, sums) in channels.iter_mut().zip(groups) {
                for (p, sum) in sums.iter().enumerate() {
                    let x = x + block * BLOCK_PIXELS + p;
                    if x < self.block.pixels {
                        self.store_pixel(channels, x * self.block.pitch + channels.first, *sum);
                    }
                }
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
            ElementsMut::F32(out) if channels.count == V::WIDTH => {
                V::store_floats(value, &mut out[at..]);
                value
            }
            ElementsMut::F32(out) => {
                let mut lanes = [0.0; MAX_WIDTH];
                V::store_floats(value, &mut lanes);
                out[at..at + channels.count].copy_from_slice(&lanes[..channels.count]);
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
