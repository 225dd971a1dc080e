//! Minimal filtering at stride 2 on the Cortex-M0+: inputs into the tiles, products, and sums back to pixels.

use core::mem::MaybeUninit;

use super::aligned;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Geometry, portable};

/// Words for the inputs of a position or two, on the stack.
const WORDS: usize = 256;

/// What is unpacked of four tiles for a pair of channels, words.
const PAIR_WORDS: usize = 8;

/// What the transform of the inputs is told; the assembler knows the order.
#[repr(C)]
struct Input {
    /// The first column of each row.
    rows: [*const i16; 5],
    /// Bytes from the even columns to the odd ones.
    odd_columns: usize,
    /// Bytes from one pair of channels to the next, in a row.
    pair_step: usize,
    pairs: usize,
    tiles: *mut i16,
    position_bytes: usize,
}

/// The sum of weights of each position, group by group.
const GROUPS: [&[u8]; 9] =
    [&[0, 1, 4, 5], &[2, 6], &[3, 1, 7, 5], &[8, 9], &[10], &[11, 9], &[12, 13, 4, 5], &[14, 6], &[15, 13, 7, 5]];

/// First inputs of a position, words, pairs of input channels, of both positions where it is two.
type Unpack = unsafe extern "C" fn(*const i16, *mut MaybeUninit<i32>, usize);

/// Weights, unpacked inputs, sums of the first output channel, their end, bytes from four pairs of input channels' weights to the
/// next ones', bytes of all of them, whether there are sums already, and, one up, bytes from behind the weights to those of the
/// second position (0: there is none).
type Sums = unsafe extern "C" fn(*const u8, *const MaybeUninit<i32>, *mut i32, *const i32, usize, usize, usize, usize);

unsafe extern "C" {
    fn picodream_plain_strided_input(job: &Input);
    fn picodream_plain_strided_unpack_4(_: *const i16, _: *mut MaybeUninit<i32>, _: usize);
    fn picodream_plain_strided_unpack_3(_: *const i16, _: *mut MaybeUninit<i32>, _: usize);
    fn picodream_plain_strided_4(
        _: *const u8,
        _: *const MaybeUninit<i32>,
        _: *mut i32,
        _: *const i32,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
    );
    fn picodream_plain_strided_3(
        _: *const u8,
        _: *const MaybeUninit<i32>,
        _: *mut i32,
        _: *const i32,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
    );
}

/// As [`portable::strided_input`].
pub fn strided_input(rows: [&[i16]; 5], g: &Geometry, x: usize, tiles: &mut [i16]) {
    let regular =
        (g.kernel, g.stride) == (3, 2) && g.pairs > 0 && x.is_multiple_of(2) && x + 2 * BLOCK_PIXELS + 2 <= g.columns;
    let fits = tiles.len() >= 200 * g.pairs && tiles.as_ptr().cast::<u32>().is_aligned();
    if !regular || !fits || rows.iter().any(|row| row.len() < g.len() || !row.as_ptr().cast::<u32>().is_aligned()) {
        return portable::strided_input(rows, g, x, tiles);
    }
    let job = Input {
        rows: rows.map(|row| row[g.index(x, 0)..].as_ptr()),
        odd_columns: 2 * g.columns,
        pair_step: 4 * g.columns,
        pairs: g.pairs,
        tiles: tiles.as_mut_ptr(),
        position_bytes: 16 * g.pairs,
    };
    // SAFETY: nine even columns and eight odd ones from `x` on are read of each pair of channels, all below `g.columns` in rows
    // of `g.len()` elements; 25 times 4 · g.pairs words are written over `tiles`, which holds them. All are at words' addresses.
    unsafe { picodream_plain_strided_input(&job) };
}

/// As [`portable::strided_products`].
pub fn strided_products(tiles: &[i16], pairs: usize, weight: &[u8], pixels: usize, sums: &mut [i32], acc: &mut [i32]) {
    let out_pairs = weight.len() / (128 * pairs).max(1);
    let fits = tiles.len() >= 200 * pairs && sums.len() >= 72 * out_pairs && acc.len() >= 32 * out_pairs;
    let regular = pairs > 0 && pairs.is_multiple_of(4) && pairs * PAIR_WORDS <= WORDS && out_pairs > 0;
    if !fits || !regular || !aligned(tiles, weight) {
        return portable::strided_products(tiles, pairs, weight, pixels, sums, acc);
    }
    let layer = Layer { tiles, pairs, weight, sums: &mut sums[..72 * out_pairs] };
    layer.products(pixels <= 6);
    outputs(sums, acc, 2 * out_pairs);
}

/// The products of a block.
struct Layer<'t> {
    tiles: &'t [i16],
    pairs: usize,
    weight: &'t [u8],
    /// \[9\]\[channel\]\[4\].
    sums: &'t mut [i32],
}

impl Layer<'_> {
    /// Those of four tiles, or of three: group by group, two positions at once where the group and the stack have room for them.
    #[inline(never)]
    fn products(self, three: bool) {
        let Self { tiles, pairs, weight, sums } = self;
        let (unpack, run): (Unpack, Sums) = if three {
            (picodream_plain_strided_unpack_3, picodream_plain_strided_3)
        } else {
            (picodream_plain_strided_unpack_4, picodream_plain_strided_4)
        };
        let mut words = [MaybeUninit::uninit(); WORDS];
        let out_pairs = sums.len() / 72;
        let (bytes, at_once) = (8 * pairs * out_pairs, if 2 * pairs * PAIR_WORDS <= WORDS { 2 } else { 1 });
        let group_len = sums.len() / 9;
        let mut position = 0;
        for (sums, positions) in sums.chunks_exact_mut(group_len).zip(GROUPS) {
            for (index, run_of) in positions.chunks(at_once).enumerate() {
                let count = run_of.len();
                let first = bytes * usize::from(run_of[0]);
                let next = run_of.get(1).map(|next| bytes * usize::from(*next));
                let jump = next.map_or(0, |next| next.wrapping_sub(first + bytes).wrapping_add(1));
                // SAFETY: `count` positions of 8 · pairs inputs are unpacked to at most as many words as there are; as many of
                // the 16 sums of weights, `bytes` each, are read by their numbers in GROUPS; four sums of each channel of the
                // group are read and written.
                unsafe {
                    unpack(tiles[8 * pairs * position..].as_ptr(), words.as_mut_ptr(), count * pairs);
                    let end = sums.as_ptr().wrapping_add(sums.len());
                    let load = usize::from(index > 0);
                    run(
                        weight[first..].as_ptr(),
                        words.as_ptr(),
                        sums.as_mut_ptr(),
                        end,
                        32 * out_pairs,
                        bytes,
                        load,
                        jump,
                    );
                }
                position += count;
            }
        }
    }
}

/// Groups to pixels: by rows and columns of outputs, 0 is the first's alone, 1 both ones', 2 the second's.
#[inline(never)]
fn outputs(sums: &[i32], acc: &mut [i32], channels: usize) {
    let group = |index: usize| sums[4 * channels * index..][..4 * channels].iter();
    let (upper, lower) = acc.split_at_mut(BLOCK_PIXELS * channels);
    let pixels = upper.as_chunks_mut::<2>().0.iter_mut().zip(lower.as_chunks_mut::<2>().0);
    let rows = group(1).zip(group(4)).zip(group(7));
    let columns = group(3).zip(group(5));
    let corners = group(0).zip(group(2)).zip(group(6).zip(group(8)));
    for (((upper, lower), ((first, both), second)), ((left, right), corners)) in
        pixels.zip(rows).zip(columns.zip(corners))
    {
        let ((a, b), (c, d)) = corners;
        let (first, second) = (first.wrapping_add(*both), second.wrapping_add(*both));
        *upper = [first.wrapping_add(*left).wrapping_add(*a), first.wrapping_add(*right).wrapping_add(*b)];
        *lower = [second.wrapping_add(*left).wrapping_add(*c), second.wrapping_add(*right).wrapping_add(*d)];
    }
}
