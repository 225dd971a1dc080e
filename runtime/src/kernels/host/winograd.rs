//! Two output rows of a 3×3 convolution by exact integer Winograd F(2×2, 3×3) (arXiv:1509.09308): 16 products where the definition
//! has 36, and no halves, because the transformed weights are four times those of the paper.
//!
//! Rows come one at a time: the even one is made from three of the four vertical parts, and leaves what these give to the odd one
//! below it, which takes only the fourth.

use core::mem::MaybeUninit;

use super::lanes::Lanes;
use super::prepare::{Prepared, Storage};
use super::row::Target;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Geometry, Taps};

/// Tiles of two pixels side by side in a block.
const TILES: usize = BLOCK_PIXELS / 2;

/// Vertical parts, and horizontal parts of each.
pub(super) const PARTS: usize = 4;

/// Input rows that are kept with their horizontal parts.
const RING: usize = 4;

/// Whether a layer is computed so.
pub(super) fn suits<V: Lanes>(geometry: &Geometry) -> bool {
    (geometry.kernel, geometry.stride) == (3, 1) && geometry.pairs >= V::LEAST_PAIRS
}

/// Words beside the weights of so many output channels: what a row leaves to the next, the [`RING`], and three vertical parts.
pub(super) fn storage(geometry: &Geometry, channels: usize) -> [usize; 2] {
    [2 * tiles(geometry) * channels, (RING + 3) * row_words(geometry)]
}

/// Words \[horizontal part\]\[pair\]\[tile\] of a row.
fn row_words(geometry: &Geometry) -> usize {
    PARTS * geometry.pairs * tiles(geometry)
}

/// Tiles of a row, which has a column of padding on either side.
fn tiles(geometry: &Geometry) -> usize {
    geometry.columns.saturating_sub(2) / 2
}

/// Direct weights of a group, words \[ky\]\[pair\]\[kx\]\[lane\], to \[vertical part\]\[pair\]\[horizontal part\]\[lane\].
#[inline(always)]
pub(super) fn transform_weights<V: Lanes>(direct: &[u32], pairs: usize, out: &mut [MaybeUninit<u32>]) {
    for pair in 0..pairs {
        let mut columns = [[V::zero(); PARTS]; 3];
        for (kx, column) in columns.iter_mut().enumerate() {
            let mut taps = [V::zero(); 3];
            for (ky, tap) in taps.iter_mut().enumerate() {
                *tap = V::load(&direct[((ky * pairs + pair) * 3 + kx) * V::WIDTH..]);
            }
            *column = four_parts(taps);
        }
        let [left, middle, right] = columns;
        for vertical in 0..PARTS {
            let out = &mut out[(vertical * pairs + pair) * PARTS * V::WIDTH..][..PARTS * V::WIDTH];
            let parts = four_parts([left[vertical], middle[vertical], right[vertical]]);
            for (part, out) in parts.into_iter().zip(out.chunks_exact_mut(V::WIDTH)) {
                part.store(out);
            }
        }
    }
}

/// Twice the rows of G: 2a, a + b + c, a − b + c, 2c.
#[inline(always)]
fn four_parts<V: Lanes>([a, b, c]: [V; 3]) -> [V; PARTS] {
    let both = a.plus_halves(c);
    [a.plus_halves(a), both.plus_halves(b), both.minus_halves(b), c.plus_halves(c)]
}

/// Writes output row `y`; `AT_ONCE` of the horizontal parts are summed together.
#[inline(always)]
pub(super) fn row<V: Lanes, const AT_ONCE: usize>(
    prepared: &mut Prepared,
    y: usize,
    taps: &Taps<'_>,
    target: &mut Target<'_, '_>,
) {
    let Storage { weights, group, carry, inputs } = prepared.storage();
    let (ring, planes) = inputs.split_at_mut(RING * row_words(&taps.geometry));
    // Row y − 1 + k has the place of its number modulo four; the first two are there from the row before.
    for k in if y == 0 { 0 } else { 2 }..3 {
        horizontal_parts::<V>(taps.rows[k], &taps.geometry, row_of(ring, y + k + RING - 1));
    }
    vertical_parts(ring, y, planes);
    let carry_words = 2 * tiles(&taps.geometry) * V::WIDTH;
    for (index, (weights, carry)) in weights.chunks_exact(group).zip(carry.chunks_exact_mut(carry_words)).enumerate() {
        let mut channels = target.begin::<V>(index * V::WIDTH);
        for x in (0..target.pixels()).step_by(BLOCK_PIXELS) {
            let carry = &mut carry[x * V::WIDTH..][..BLOCK_PIXELS * V::WIDTH];
            let mut sums = [V::zero(); BLOCK_PIXELS];
            if y % 2 == 1 {
                let weights = &weights[3 * group / PARTS..];
                let fourth = outputs::<V, AT_ONCE>(weights, planes, &taps.geometry, x);
                for ((sum, carry), fourth) in sums.iter_mut().zip(carry.chunks_exact(V::WIDTH)).zip(fourth) {
                    *sum = V::load(carry).minus(fourth).quarter();
                }
            } else {
                let mut below = sums;
                let parts = weights.chunks_exact(group / PARTS).zip(planes.chunks_exact(planes.len() / 3));
                for (vertical, (weights, planes)) in parts.enumerate() {
                    let outputs = outputs::<V, AT_ONCE>(weights, planes, &taps.geometry, x);
                    for ((sum, below), output) in sums.iter_mut().zip(&mut below).zip(outputs) {
                        *sum = sum.plus(output);
                        *below = match vertical {
                            0 => *below,
                            1 => below.plus(output),
                            _ => below.minus(output),
                        };
                    }
                }
                for ((sum, below), carry) in sums.iter_mut().zip(below).zip(carry.chunks_exact_mut(V::WIDTH)) {
                    *sum = sum.quarter();
                    below.store(uninit(carry));
                }
            }
            target.store(&mut channels, x, &sums);
        }
        target.end(&channels);
    }
}

/// Words as memory to be written.
#[inline(always)]
fn uninit(words: &mut [u32]) -> &mut [MaybeUninit<u32>] {
    // SAFETY: the layout is the same, and only initialised words are written through it (`Lanes::store`).
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
}

/// A row of the ring.
#[inline(always)]
fn row_of<T>(ring: &mut [T], number: usize) -> &mut [T] {
    let len = ring.len() / RING;
    &mut ring[number % RING * len..][..len]
}

/// A quantised row, or zeros, to \[horizontal part\]\[pair\]\[tile\].
#[inline(always)]
fn horizontal_parts<V: Lanes>(row: Option<&[i16]>, geometry: &Geometry, out: &mut [u32]) {
    let Some(row) = row else { return out.fill(0) };
    let (words, tiles) = (row.as_chunks::<2>().0, tiles(geometry));
    for pair in 0..geometry.pairs {
        for tile in (0..tiles).step_by(TILES) {
            let Some(columns) = words[pair * geometry.columns + 2 * tile..].first_chunk() else { continue };
            for (part, words) in V::horizontal_parts(columns).iter().enumerate() {
                out[(part * geometry.pairs + pair) * tiles + tile..][..TILES].copy_from_slice(words);
            }
        }
    }
}

/// Rows a, b, c of the ring around output row `y` to its vertical parts: a − c, b + c and c − b of an even row, a − c of an odd one,
/// whose a and c are the second and the fourth row of the tiles.
#[inline(always)]
fn vertical_parts(ring: &mut [u32], y: usize, planes: &mut [u32]) {
    let ring: &mut [i16] = bytemuck::cast_slice_mut(ring);
    let len = ring.len() / RING;
    let [a, b, c] = [y + RING - 1, y, y + 1].map(|row| row % RING * len);
    let [a, b, c] = [&ring[a..][..len], &ring[b..][..len], &ring[c..][..len]];
    let (first, rest) = bytemuck::cast_slice_mut(planes).split_at_mut(len);
    combine(first, a, c, i16::wrapping_sub);
    if y.is_multiple_of(2) {
        let (second, third) = rest.split_at_mut(len);
        combine(second, b, c, i16::wrapping_add);
        combine(third, c, b, i16::wrapping_sub);
    }
}

#[inline(always)]
fn combine(out: &mut [i16], a: &[i16], b: &[i16], rule: impl Fn(i16, i16) -> i16) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = rule(*a, *b);
    }
}

/// What a vertical part gives to the eight pixels from `x` on: of its horizontal parts, first + second + third to an even pixel,
/// second − third − fourth to an odd one.
#[inline(always)]
fn outputs<V: Lanes, const AT_ONCE: usize>(
    weights: &[u32],
    planes: &[u32],
    geometry: &Geometry,
    x: usize,
) -> [V; BLOCK_PIXELS] {
    let (tiles, len) = (tiles(geometry), geometry.pairs * tiles(geometry));
    let mut parts = [[V::zero(); TILES]; PARTS];
    for (step, parts) in parts.as_chunks_mut::<AT_ONCE>().0.iter_mut().enumerate() {
        let first = step * AT_ONCE;
        let mut inputs = [&planes[..0]; AT_ONCE];
        for (i, inputs) in inputs.iter_mut().enumerate() {
            *inputs = &planes[(first + i) * len..][..len];
        }
        for (pair, weights) in weights.chunks_exact(PARTS * V::WIDTH).take(geometry.pairs).enumerate() {
            for (i, (sums, inputs)) in parts.iter_mut().zip(inputs).enumerate() {
                let weight = V::load(&weights[(first + i) * V::WIDTH..][..V::WIDTH]);
                let Some(words) = inputs[pair * tiles + x / 2..].first_chunk::<TILES>() else { continue };
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = sum.add_products(weight, *word);
                }
            }
        }
    }
    let mut outputs = [V::zero(); BLOCK_PIXELS];
    for tile in 0..TILES {
        let [first, second, third, fourth] = [parts[0][tile], parts[1][tile], parts[2][tile], parts[3][tile]];
        outputs[2 * tile] = first.plus(second).plus(third);
        outputs[2 * tile + 1] = second.minus(third).minus(fourth);
    }
    outputs
}
