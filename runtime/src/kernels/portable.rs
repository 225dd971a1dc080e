//! The reference loops in plain Rust: exact i32 sums, modulo 2³², of int16 inputs and the blob's packed weights.

use half::f16;

use super::{Feed, FeedTarget, Finish, Geometry, Residual, Taps};
use crate::blob::BLOCK_PIXELS;
use crate::quant::Quantiser;
use crate::tensor::CHUNK;

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "portable";

/// What the loops ask of the address of a blob, in bytes.
pub const BLOB_ALIGN: usize = 1;

/// Quantises a row; `false` leaves it to the caller, who calls [`feed_with`]: the definition.
pub fn feed(_feed: &Feed<'_>, _target: &mut FeedTarget<'_>) -> bool {
    false
}

/// Quantises `width` pixels of any storage: `load` fills a slice with the row's elements from an index on. `feed` gives the
/// rule and the channels, its values are not looked at; with `doubled`, every pixel is written twice, side by side.
pub fn feed_with(
    load: impl Fn(usize, &mut [f32]),
    feed: &Feed<'_>,
    width: usize,
    doubled: bool,
    target: &mut FeedTarget<'_>,
) {
    let channels = feed.channels;
    for x in 0..width {
        let column = target.column + (x << usize::from(doubled));
        for start in (0..channels).step_by(CHUNK) {
            let mut buffer = [0.0; CHUNK];
            let values = &mut buffer[..CHUNK.min(channels - start)];
            load(x * channels + start, values);
            for (value, [a, b]) in values.iter_mut().zip(feed.affine.get(2 * start..).unwrap_or(&[]).as_chunks().0) {
                *value = *value * a + b;
            }
            place(values, feed.quantiser, column, target.channel + start, target);
            if doubled {
                place(values, feed.quantiser, column + 1, target.channel + start, target);
            }
        }
    }
}

fn place(values: &[f32], quantiser: Quantiser, column: usize, channel: usize, target: &mut FeedTarget<'_>) {
    let mut quantised = [0i16; CHUNK];
    for (q, value) in quantised.iter_mut().zip(values) {
        *q = quantiser.quantise(*value);
    }
    for (i, q) in quantised[..values.len()].iter().enumerate() {
        target.row[target.geometry.index(column, channel + i)] = *q;
    }
}

/// (sum · scale + bias) + residual to f16 at `out` (first pixel, first channel of the block), and each channel's stored values
/// and their squares to `sums` (pairs, pixels in order; empty: none). `false` leaves it to the caller, who calls
/// [`finish_with`]: the definition. Which NaN is stored is not defined.
pub fn finish(_block: &Finish<'_>, _residual: Residual<'_>, _out: &mut [f16], _sums: &mut [f32]) -> bool {
    false
}

/// Sums to any storage: `put` adds the residual to the values from an index of the output on, stores them there, and leaves
/// what was stored.
pub fn finish_with(block: &Finish<'_>, mut put: impl FnMut(usize, &mut [f32]), sums: &mut [f32]) {
    let channels = block.scale.len();
    for (p, start) in (0..block.pixels).flat_map(|p| (0..channels).step_by(CHUNK).map(move |start| (p, start))) {
        let mut buffer = [0.0; CHUNK];
        let values = &mut buffer[..CHUNK.min(channels - start)];
        let acc = block.acc[start * BLOCK_PIXELS + p..].iter().step_by(BLOCK_PIXELS);
        let constants = block.scale[start..].iter().zip(&block.bias[start..]);
        for ((value, sum), (scale, bias)) in values.iter_mut().zip(acc).zip(constants) {
            *value = *sum as f32 * f32::from_le_bytes(*scale) + bias;
        }
        put(p * block.pitch + start, values);
        let sums = sums.get_mut(2 * start..).unwrap_or(&mut []).as_chunks_mut().0;
        for ([sum, squares], value) in sums.iter_mut().zip(values) {
            *sum += *value;
            *squares += *value * *value;
        }
    }
}

/// A word of weights: two little-endian halfwords.
type Word = [u8; 4];

/// Sums of [`BLOCK_PIXELS`] pixels.
type Sums = [i32; BLOCK_PIXELS];

/// acc\[o\]\[p\] = Σ input · weight for the outputs from column `x` (a multiple of 8) on, and every output channel.
///
/// `weight` is packed for the direct algorithm; `acc` holds 8 values per output channel, rounded up to even. Of the 8 pixels
/// only the first `pixels` must be computed. The odd channels' sums wrap at 24 bits (see `split`).
// The host compiles it once more, into functions for processors with more instructions.
#[cfg_attr(picodream_backend = "host", inline(always))]
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, _pixels: usize, acc: &mut [i32]) {
    let g = &taps.geometry;
    let row_words = g.pairs * g.kernel;
    let words = weight.as_chunks::<4>().0;
    let per_pair = (g.kernel * row_words).max(1);
    for (words, acc) in words.chunks_exact(per_pair).zip(acc.as_chunks_mut::<{ 2 * BLOCK_PIXELS }>().0) {
        let (mut even, mut odd): (Sums, Sums) = Default::default();
        for (row, words) in taps.rows.iter().zip(words.chunks_exact(row_words)) {
            let Some(row) = row else { continue };
            for (i, word) in words.iter().enumerate() {
                let inputs = &row[g.window(x, i / g.kernel, i % g.kernel)..][..2 * BLOCK_PIXELS];
                let (low, high) = split(*word);
                add(&mut even, inputs, low);
                add(&mut odd, inputs, high);
            }
        }
        acc[..BLOCK_PIXELS].copy_from_slice(&even);
        acc[BLOCK_PIXELS..].copy_from_slice(&odd.map(|sum| (sum << 8) >> 8));
    }
}

/// Weights of the even and of the odd output channel, for the two input channels of a pair: a halfword is 256 · odd + even.
///
/// A back end may sum whole halfwords and the even weights, T and S, and take (T − S) / 256 in 32 bits for the odd channel's
/// sum: that is why those wrap at 24 bits. The exporter keeps them below.
fn split(word: Word) -> ([i32; 2], [i32; 2]) {
    let halves = halves(word);
    let even = halves.map(|half| i32::from(half as i8));
    (even, [(halves[0] - even[0]) >> 8, (halves[1] - even[1]) >> 8])
}

fn halves([a, b, c, d]: Word) -> [i32; 2] {
    [i16::from_le_bytes([a, b]).into(), i16::from_le_bytes([c, d]).into()]
}

/// sums\[p\] += input\[p\]\[0\] · weight\[0\] + input\[p\]\[1\] · weight\[1\].
#[inline]
fn add(sums: &mut Sums, inputs: &[i16], weight: [i32; 2]) {
    for (sum, input) in sums.iter_mut().zip(inputs.as_chunks::<2>().0) {
        let products = i32::from(input[0]) * weight[0] + i32::from(input[1]) * weight[1];
        *sum = sum.wrapping_add(products);
    }
}

/// acc\[o\]\[2·p + parity\] = Σ of the 2×2 phase kernels for the source columns from `x` (a multiple of 4) on, four of them.
///
/// `rows` are the two source rows, `weight` the phase weights of this row and column parity, `acc` as in [`direct`]. The
/// row's padding is one column.
pub fn phase(rows: [Option<&[i16]>; 2], g: &Geometry, weight: &[u8], x: usize, parity: usize, acc: &mut [i32]) {
    let words = weight.as_chunks::<4>().0;
    let row_words = (g.pairs * 4).max(1);
    for (words, acc) in words.chunks_exact(2 * row_words).zip(acc.as_chunks_mut::<{ 2 * BLOCK_PIXELS }>().0) {
        let mut sums = [[0i32; BLOCK_PIXELS / 2]; 2];
        for (row, words) in rows.iter().zip(words.chunks_exact(row_words)) {
            let Some(row) = row else { continue };
            for (i, words) in words.as_chunks::<2>().0.iter().enumerate() {
                let inputs = &row[g.index(x + parity + i % 2, i / 2 * 2)..][..BLOCK_PIXELS];
                for (sums, word) in sums.iter_mut().zip(words) {
                    let weight = halves(*word);
                    for (sum, input) in sums.iter_mut().zip(inputs.as_chunks::<2>().0) {
                        let products = i32::from(input[0]) * weight[0] + i32::from(input[1]) * weight[1];
                        *sum = sum.wrapping_add(products);
                    }
                }
            }
        }
        for (o, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                acc[o * BLOCK_PIXELS + 2 * p + parity] = *sum;
            }
        }
    }
}

/// Transforms the inputs of four 2×2 tiles side by side: Bᵀ·d·B of each 4×4 window, from column `x` (a multiple of 8) on.
///
/// `rows` are the four source rows; `tiles` is \[16\]\[pairs\]\[4 tiles\]\[2\]. Sums of four inputs fit an i16 because an input
/// lies within ±4096.
pub fn winograd_input(rows: [&[i16]; 4], g: &Geometry, x: usize, tiles: &mut [i16]) {
    for pair in 0..g.pairs {
        for lane in 0..2 {
            let first = g.index(x, 2 * pair) + lane;
            for tile in 0..4 {
                let value = |row: usize, column: usize| rows[row][first + 2 * (2 * tile + column)];
                let half: [[i16; 4]; 4] =
                    core::array::from_fn(|column| difference(core::array::from_fn(|row| value(row, column))));
                for i in 0..4 {
                    let row = difference(core::array::from_fn(|column| half[column][i]));
                    for (j, v) in row.into_iter().enumerate() {
                        tiles[(((4 * i + j) * g.pairs + pair) * 4 + tile) * 2 + lane] = v;
                    }
                }
            }
        }
    }
}

/// Bᵀ of F(2, 3) applied to four values.
fn difference([a, b, c, d]: [i16; 4]) -> [i16; 4] {
    [a.wrapping_sub(c), b.wrapping_add(c), c.wrapping_sub(b), b.wrapping_sub(d)]
}

/// The sums of two output channels for the four tiles of [`winograd_input`]: acc\[row 0, 1\]\[channel 0, 1\]\[8\].
///
/// `weight` is the packed Winograd weights of the channel pair, `pairs` the pairs of input channels; `products`
/// (\[16\]\[2\]\[4\]) is scratch.
pub fn winograd_products(tiles: &[i16], pairs: usize, weight: &[u8], products: &mut [i32], acc: &mut [i32]) {
    let words = weight.as_chunks::<4>().0;
    let positions = words.chunks_exact((2 * pairs).max(1)).zip(tiles.chunks_exact((8 * pairs).max(1)));
    for ((words, tiles), products) in positions.zip(products.as_chunks_mut::<8>().0) {
        products.copy_from_slice(position(words, tiles).as_flattened());
    }
    winograd_output(products, acc);
}

/// Products of one position of four tiles, with two output channels.
#[inline]
fn position(words: &[Word], tiles: &[i16]) -> [[i32; 4]; 2] {
    let mut sums = [[0i32; 4]; 2];
    for (words, inputs) in words.as_chunks::<2>().0.iter().zip(tiles.as_chunks::<8>().0) {
        for (sums, word) in sums.iter_mut().zip(words) {
            let weight = halves(*word);
            for (sum, input) in sums.iter_mut().zip(inputs.as_chunks::<2>().0) {
                let product = i32::from(input[0]) * weight[0] + i32::from(input[1]) * weight[1];
                *sum = sum.wrapping_add(product);
            }
        }
    }
    sums
}

/// Aᵀ·M·A / 4 of two channels and four tiles.
pub(super) fn winograd_output(products: &[i32], acc: &mut [i32]) {
    for channel in 0..2 {
        for tile in 0..4 {
            let m = |row: usize, column: usize| products[(4 * row + column) * 8 + channel * 4 + tile];
            let half: [[i32; 2]; 4] = core::array::from_fn(|column| sum(core::array::from_fn(|row| m(row, column))));
            for row in 0..2 {
                let pixels = sum(core::array::from_fn(|column| half[column][row]));
                for (p, value) in pixels.into_iter().enumerate() {
                    acc[(row * 2 + channel) * BLOCK_PIXELS + 2 * tile + p] = value >> 2;
                }
            }
        }
    }
}

/// Aᵀ of F(2, 3) applied to four values.
fn sum([a, b, c, d]: [i32; 4]) -> [i32; 2] {
    [a.wrapping_add(b).wrapping_add(c), b.wrapping_sub(c).wrapping_sub(d)]
}

/// Transforms the inputs of four 2×2 tiles side by side at stride 2, the windows of 5×5 from column `x` (a multiple of 16) on:
/// x₀ − x₂, x₁, x₂, x₄ − x₂ and x₃ of rows, and of columns.
///
/// `rows` are the five source rows; `tiles` is \[25 [positions](strided_position)\]\[pairs\]\[4 tiles\]\[2\]. Sums of four inputs
/// fit an i16 because an input lies within ±4096.
pub fn strided_input(rows: [&[i16]; 5], g: &Geometry, x: usize, tiles: &mut [i16]) {
    for (pair, lane, tile) in (0..g.pairs).flat_map(|pair| (0..8).map(move |at| (pair, at / 4, at % 4))) {
        let value = |row: usize, column: usize| rows[row][g.index(x + 4 * tile + column, 2 * pair) + lane];
        let down: [[i16; 5]; 5] = core::array::from_fn(|column| apart(core::array::from_fn(|row| value(row, column))));
        for i in 0..5 {
            for (j, v) in apart(core::array::from_fn(|column| down[column][i])).into_iter().enumerate() {
                tiles[((strided_position(i, j) * g.pairs + pair) * 4 + tile) * 2 + lane] = v;
            }
        }
    }
}

/// The five inputs of two neighbouring outputs at stride 2 as they are multiplied.
fn apart([a, b, c, d, e]: [i16; 5]) -> [i16; 5] {
    [a.wrapping_sub(c), b, c, e.wrapping_sub(c), d]
}

/// Where product \[i\]\[j\] of 5×5 stands among the 25: products of the same outputs lie together, nine groups in the order
/// of rows {0, 1}, {2}, {3, 4} and in each of such columns.
#[must_use]
pub const fn strided_position(i: usize, j: usize) -> usize {
    const FIRST: [usize; 3] = [0, 2, 3];
    const COUNT: [usize; 3] = [2, 1, 2];
    const GROUP: [usize; 5] = [0, 0, 1, 2, 2];
    let (row, column) = (GROUP[i], GROUP[j]);
    5 * FIRST[row] + COUNT[row] * FIRST[column] + (i - FIRST[row]) * COUNT[column] + (j - FIRST[column])
}

/// Which of four sums of weights each of five inputs is multiplied by: w₁ twice.
pub const STRIDED_SUM: [usize; 5] = [0, 1, 2, 3, 1];

/// The sums of all output channels for the four tiles of [`strided_input`]: acc\[row 0, 1\]\[channel\]\[8\].
///
/// `weight` is the packed strided weights of up to [`STRIDED_PAIRS`](crate::blob::STRIDED_PAIRS) pairs of output channels,
/// `pairs` the pairs of input channels; of the eight pixels only the first `pixels` must be computed; `sums`
/// (\[9\]\[channel\]\[4\]) is scratch.
pub fn strided_products(
    tiles: &[i16],
    pairs: usize,
    weight: &[u8],
    _pixels: usize,
    _sums: &mut [i32],
    acc: &mut [i32],
) {
    let words = weight.as_chunks::<4>().0;
    let out_pairs = words.len() / (32 * pairs).max(1);
    let acc = &mut acc[..4 * BLOCK_PIXELS * out_pairs];
    acc.fill(0);
    for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
        let tiles = &tiles[strided_position(i, j) * 8 * pairs..][..8 * pairs];
        let words = &words[(4 * STRIDED_SUM[i] + STRIDED_SUM[j]) * 2 * pairs * out_pairs..][..2 * pairs * out_pairs];
        for (tiles, words) in tiles.chunks(32).zip(words.chunks(8 * out_pairs)) {
            for (pair, words) in words.chunks(tiles.len() / 4).enumerate() {
                let products = position(words, tiles);
                for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let sums = &mut acc[(row * out_pairs + pair) * 2 * BLOCK_PIXELS..][..2 * BLOCK_PIXELS];
                    if belongs(i, row) && belongs(j, column) {
                        let sums = sums.iter_mut().skip(column).step_by(2);
                        sums.zip(products.as_flattened()).for_each(|(sum, product)| *sum = sum.wrapping_add(*product));
                    }
                }
            }
        }
    }
}

/// Whether one of five products at stride 2 is a part of one of two outputs: 0, 1, 2 and 2, 3, 4.
const fn belongs(product: usize, output: usize) -> bool {
    product.abs_diff(1 + 2 * output) <= 1
}

#[cfg(test)]
mod tests {
    use super::super::check::{self, Case};
    use super::*;
    use crate::blob::{PlainWeights, STRIDED_PAIRS, direct_bytes, phases_bytes, winograd_bytes};
    use std::vec;

    #[test]
    fn every_algorithm_is_the_definition() {
        for index in 0..120 {
            let case = Case::draw(index);
            case.check(&check::Kernels {
                direct,
                phase,
                winograd_input,
                winograd_products,
                strided_input,
                strided_products,
            });
        }
    }

    #[test]
    fn direct_words_hold_two_channels_of_each_side() {
        let weight = [1i8, -2, 3, 4, 127, -127];
        let plain = PlainWeights { weight: &weight, kernel: 1, cin: 2, cout: 3 };
        let mut packed = vec![0; direct_bytes(1, 2, 3) as usize];
        plain.pack_direct(&mut packed);
        let words = packed.as_chunks::<4>().0;
        assert_eq!(
            words.iter().map(|word| split(*word)).collect::<vec::Vec<_>>(),
            [([1, -2], [3, 4]), ([127, -127], [0, 0])]
        );
    }

    #[test]
    fn winograd_of_a_single_one_is_the_outer_product() {
        // g = 1 in the middle: 4·G·g·Gᵀ = (2G)e₁ (2G)e₁ᵀ, (2G)e₁ = (0, 1, −1, 0).
        let mut weight = [0i8; 9];
        weight[4] = 1;
        let plain = PlainWeights { weight: &weight, kernel: 3, cin: 1, cout: 1 };
        let mut packed = vec![0; winograd_bytes(1, 1) as usize];
        plain.pack_winograd(&mut packed);
        let first = |position: usize| halves(packed.as_chunks::<4>().0[2 * position]);
        let row = [0, 1, -1, 0];
        for position in 0..16 {
            assert_eq!(first(position), [row[position / 4] * row[position % 4], 0]);
        }
    }

    #[test]
    fn strided_weights_are_those_of_two_outputs_with_a_shared_input() {
        // Powers of two tell the weights apart: w of the row i and the column j is 2^(3i + j).
        let weight = [1i8, 2, 4, 8, 16, 32, 64, -1, -2];
        let plain = PlainWeights { weight: &weight, kernel: 3, cin: 1, cout: 1 };
        let mut packed = vec![0; winograd_bytes(1, 1) as usize];
        plain.pack_strided(&mut packed);
        let first = |position: usize| halves(packed.as_chunks::<4>().0[2 * position])[0];
        assert_eq!([0, 1, 2, 3].map(first), [1, 2, 1 + 4, 4]);
        assert_eq!([4, 5, 6, 7].map(first), [8, 16, 8 + 32, 32]);
        assert_eq!([8, 9, 10, 11].map(first), [1 + 64, 2 - 1, 1 + 4 + 64 - 2, 4 - 2]);
    }

    #[test]
    fn strided_weights_come_in_parts() {
        let mut weight = vec![0i8; 9 * 5 * 40];
        weight.iter_mut().enumerate().for_each(|(at, w)| *w = (at * 37 % 255) as u8 as i8);
        let pack = |weight: &[i8]| {
            let cout = weight.len() / 45;
            let mut packed = vec![0; winograd_bytes(5, cout as u32) as usize];
            PlainWeights { weight, kernel: 3, cin: 5, cout }.pack_strided(&mut packed);
            packed
        };
        let (first, second) = weight.split_at(45 * 2 * STRIDED_PAIRS);
        assert_eq!(pack(&weight), [pack(first), pack(second)].concat());
    }

    #[test]
    fn phases_sum_what_reads_the_same_pixel() {
        let weight = [1i8, 2, 4, 8, 16, 32, 64, -1, -2];
        let plain = PlainWeights { weight: &weight, kernel: 3, cin: 1, cout: 1 };
        let mut packed = vec![0; phases_bytes(1, 1) as usize];
        plain.pack_phases(&mut packed);
        // Row parity 0, column parity 0: rows {0} and {1, 2}, columns {0} and {1, 2}.
        let words = packed.as_chunks::<4>().0;
        let sums: vec::Vec<i32> = [0, 2, 4, 6].map(|word| halves(words[word])[0]).to_vec();
        assert_eq!(sums, [1, 2 + 4, 8 + 64, 16 + 32 - 1 - 2]);
    }
}
