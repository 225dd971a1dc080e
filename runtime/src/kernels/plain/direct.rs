//! Direct convolution: the inputs under eight pixels are unpacked to words once, for all output channels.

use super::{BLOCKS, is_few, picodream_plain_unpack_8, picodream_plain_unpack_10, picodream_plain_unpack_17};
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Taps, portable};

/// Words for inputs on the stack, which is to stay within 4 KiB.
const WORDS: usize = if cfg!(picodream_baseline) { 128 } else { 240 };

/// What a loop is told besides where things lie.
#[repr(C)]
pub(super) struct Job {
    /// Bytes of weights of a pair of output channels that are used.
    bytes: usize,
    /// Bytes from behind those to the next pair's.
    skip: usize,
    /// Whether these are the last weights, so that the sums of the two channels are parted.
    last: usize,
}

/// Unpacked inputs, weights, sums, pairs of output channels, job.
type Loop = unsafe extern "C" fn(*const i32, *const u8, *mut i32, usize, *const Job);

/// Row, place for words, pairs of input channels, bytes between those, bytes from the first even column to the first odd one.
type Unpack = unsafe extern "C" fn(*const i16, *mut i32, usize, usize, usize);

/// The loops for a kind of kernel.
struct Loops {
    unpack: Unpack,
    /// For a few of a block's pixels, and for more.
    few: Loop,
    more: Loop,
    /// Columns under eight pixels.
    columns: usize,
}

/// As [`portable::direct`].
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    if run(taps, weight, x, pixels, acc).is_none() {
        defined(taps, weight, x, pixels, acc);
    }
}

/// Apart, so that its variables take no stack below the loops.
#[cold]
#[inline(never)]
fn defined(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    portable::direct(taps, weight, x, pixels, acc);
}

unsafe extern "C" {
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_point_1_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_point_1_3")]
    fn point_1_few(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_point_1_8")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_point_1_4")]
    fn point_1_more(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_point_4_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_point_4_3")]
    fn point_4_few(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_point_4_8")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_point_4_4")]
    fn point_4_more(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_square_1_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_square_1_3")]
    fn square_1_few(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_square_1_8")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_square_1_4")]
    fn square_1_more(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_square_2_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_square_2_3")]
    fn square_2_few(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_square_2_8")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_square_2_4")]
    fn square_2_more(inputs: *const i32, weight: *const u8, acc: *mut i32, pairs: usize, job: *const Job);
}

impl Loops {
    fn new(kernel: usize, stride: usize, pairs: usize) -> Option<Self> {
        let (unpack, [few, more], columns): (Unpack, [Loop; 2], _) = match (kernel, stride) {
            (1, 1) if pairs.is_multiple_of(4) => (picodream_plain_unpack_8, [point_4_few, point_4_more], 8),
            (1, 1) => (picodream_plain_unpack_8, [point_1_few, point_1_more], 8),
            (3, 1) => (picodream_plain_unpack_10, [square_1_few, square_1_more], 10),
            (3, 2) => (picodream_plain_unpack_17, [square_2_few, square_2_more], 17),
            _ => return None,
        };
        Some(Self { unpack, few, more, columns })
    }
}

/// `None` leaves the work to other loops.
fn run(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) -> Option<()> {
    let g = &taps.geometry;
    let loops = Loops::new(g.kernel, g.stride, g.pairs)?;
    let pair_bytes = 4 * g.kernel * g.kernel * g.pairs;
    let out_pairs = (weight.len() / pair_bytes.max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
    let first = taps.rows.iter().position(Option::is_some)?;
    let rows = taps.rows[first..].iter().map_while(|row| *row).count();
    let whole = taps.rows.iter().flatten().count() == rows && (x + BLOCK_PIXELS) * g.stride + g.kernel - 1 <= g.columns;
    let fits = |row: &&[i16]| row.len() >= g.len() && row.as_ptr().cast::<u32>().is_aligned();
    if !whole || pair_bytes == 0 || !x.is_multiple_of(BLOCK_PIXELS) || !weight.as_ptr().cast::<u32>().is_aligned() {
        return None;
    }
    if !taps.rows.iter().flatten().all(fits) {
        return None;
    }
    acc[..out_pairs * 2 * BLOCK_PIXELS].fill(0);
    let mut words = [0i32; WORDS];
    // Rows and pairs of channels, in the order of the weights; as many at once as there is room for, with a 1×1 kernel in fours
    // for the loop that takes four.
    let (all, tap_bytes) = (rows * g.pairs, 4 * g.kernel);
    let room = WORDS / (2 * loops.columns);
    let most = if g.kernel == 1 { room & !3 } else { room };
    for start in (0..all).step_by(most) {
        let count = most.min(all - start);
        unpack(taps, &loops, x, (first * g.pairs + start, count), &mut words);
        let job = Job {
            bytes: count * tap_bytes,
            skip: pair_bytes - count * tap_bytes,
            last: usize::from(start + count == all),
        };
        let weight = &weight[(first * g.pairs + start) * tap_bytes..];
        sums(&loops, &words, weight, &job, pixels, (out_pairs, acc));
    }
    Some(())
}

/// The inputs of `count` pairs of channels, the first of them `start` in the order of the weights.
fn unpack(taps: &Taps<'_>, loops: &Loops, x: usize, (mut start, mut count): (usize, usize), words: &mut [i32; WORDS]) {
    let g = &taps.geometry;
    let mut words = words.chunks_exact_mut(2 * loops.columns);
    let step = 2 * (g.index(0, 2) - g.index(0, 0));
    let odd = if g.stride == 2 { 2 * g.columns } else { 0 };
    while count > 0 {
        let pair = start % g.pairs;
        let here = count.min(g.pairs - pair);
        if let (Some(row), Some(into)) = (taps.rows[start / g.pairs], words.next()) {
            let from = row[g.window(x, pair, 0)..].as_ptr();
            // SAFETY: `here` pairs of channels from `pair` on are in the row, whose columns under eight pixels from `x` on are
            // below g.columns; there is room for all `count` pairs, of which these are the next.
            unsafe { (loops.unpack)(from, into.as_mut_ptr(), here, step, odd) }
        }
        if here > 1 {
            words.nth(here - 2);
        }
        (start, count) = (start + here, count - here);
    }
}

/// Adds the products of what is unpacked, for every pair of output channels and as many pixels as are wanted.
fn sums(loops: &Loops, words: &[i32], weight: &[u8], job: &Job, pixels: usize, (pairs, acc): (usize, &mut [i32])) {
    let (run, block) = if is_few(pixels) { (loops.few, BLOCKS[0]) } else { (loops.more, BLOCKS[1]) };
    for first in (0..pixels.min(BLOCK_PIXELS)).step_by(block) {
        // Where blocks are smaller than eight pixels, a channel's pixels lie side by side.
        let (inputs, acc) = (words[first..].as_ptr(), acc[first..].as_mut_ptr());
        // SAFETY: the loop reads the unpacked words of `block` pixels of the eight from `first` on, and job.bytes of weights of
        // each of `pairs`; it changes `block` of the 8 sums of each of 2 · `pairs` channels, and reads no more than the 8.
        unsafe { run(inputs, weight.as_ptr(), acc, pairs, job) }
    }
}
