//! Direct convolution: for a few pixels at a time the inputs are unpacked to words, in the order of the weights, and then stream
//! past the weights of each pair of output channels: one loop for all kernels and strides.

use core::mem::MaybeUninit;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::Taps;

/// Words for inputs on the stack, which is to stay within 4 KiB.
const WORDS: usize = if cfg!(picodream_baseline) { 192 } else { 256 };

/// Unpacked inputs; not filled beforehand, which would take as long as unpacking them.
type Words = [MaybeUninit<i32>; WORDS];

/// Weights, unpacked inputs, sums of the first pair of output channels, their end, bytes of weights of a pair that are used,
/// bytes from behind those to the next pair's, whether there are sums already, whether these are the last weights.
type Sums = unsafe extern "C" fn(*const u8, *const MaybeUninit<i32>, *mut i32, *const i32, usize, usize, usize, usize);

/// First pair of channels of a row, words, pairs of input channels, bytes between those in the row, columns of the kernel, and in
/// front of which byte each begins.
type Unpack = unsafe extern "C" fn(*const i16, *mut MaybeUninit<i32>, usize, usize, usize, *const usize);

/// Loops for some pixels.
struct Loops {
    pixels: usize,
    unpack: Unpack,
    sums: Sums,
}

/// The smaller and the larger block.
const LOOPS: [Loops; 2] = [
    Loops { pixels: PIXELS[0], unpack: unpack_few, sums: sums_few },
    Loops { pixels: PIXELS[1], unpack: unpack_more, sums: sums_more },
];

/// What fits the registers.
const PIXELS: [usize; 2] = if cfg!(picodream_baseline) { [4, 6] } else { [3, 4] };

unsafe extern "C" {
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_unpack_4")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_unpack_3")]
    fn unpack_few(_: *const i16, _: *mut MaybeUninit<i32>, _: usize, _: usize, _: usize, _: *const usize);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_unpack_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_unpack_4")]
    fn unpack_more(_: *const i16, _: *mut MaybeUninit<i32>, _: usize, _: usize, _: usize, _: *const usize);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_sums_4")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_sums_3")]
    fn sums_few(
        _: *const u8,
        _: *const MaybeUninit<i32>,
        _: *mut i32,
        _: *const i32,
        _: usize,
        _: usize,
        _: usize,
        _: usize,
    );
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_sums_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_sums_4")]
    fn sums_more(
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

/// Which loops fit `left` pixels, eight at most.
const fn loops_for(left: usize) -> &'static Loops {
    let larger = if cfg!(picodream_baseline) { matches!(left, 5 | 6) } else { matches!(left, 4 | 7 | 8) };
    &LOOPS[larger as usize]
}

/// As [`portable::direct`](crate::kernels::portable::direct).
pub fn direct(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    let g = &taps.geometry;
    let mut rows = taps.rows.iter().flatten();
    #[cfg(picodream_baseline)]
    if !rows.clone().all(|row| super::aligned(row, weight)) {
        return defined(taps, weight, x, pixels, acc);
    }
    let (tap_bytes, step) = (4 * g.kernel, g.index(0, 2) - g.index(0, 0));
    let pair_bytes = g.kernel * g.pairs * tap_bytes;
    let out_pairs = (weight.len() / pair_bytes.max(1)).min(acc.len() / PAIR_SUMS);
    let starts: [usize; 3] = core::array::from_fn(|column| 2 * g.window(x, 0, column.min(g.kernel - 1)));
    // The eight words of the last pair of channels.
    let reach = starts.iter().fold(0, |most, start| most.max(start / 2)) + g.pairs * step - step + 2 * BLOCK_PIXELS;
    assert!(rows.all(|row| reach <= row.len()), "a row ends in front of its last block");
    let layer = Layer { taps, weight, tap_bytes, pair_bytes, step, starts };
    let (acc, pixels, mut first) = (&mut acc[..out_pairs * PAIR_SUMS], pixels.min(BLOCK_PIXELS), 0);
    while first < pixels && !acc.is_empty() {
        let loops = loops_for(pixels - first);
        layer.block(loops, first, acc);
        first += loops.pixels;
    }
}

/// Sums of a pair of output channels.
const PAIR_SUMS: usize = 2 * BLOCK_PIXELS;

/// Where no word may be read at once. Apart, so that its variables take no stack below the loops.
#[cfg(picodream_baseline)]
#[cold]
#[inline(never)]
fn defined(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    crate::kernels::portable::direct(taps, weight, x, pixels, acc);
}

/// The outputs of a row from some column on.
struct Layer<'t> {
    taps: &'t Taps<'t>,
    weight: &'t [u8],
    /// Bytes of weights of a pair of output channels: for a pair of input channels and a row of the kernel, and for all.
    tap_bytes: usize,
    pair_bytes: usize,
    /// Elements of a row from one pair of channels to the next, and bytes in front of each column of the kernel.
    step: usize,
    starts: [usize; 3],
}

impl Layer<'_> {
    /// The sums of all output channels for a block's pixels, the first of which is `first` of eight.
    #[inline(never)]
    fn block(&self, loops: &Loops, first: usize, acc: &mut [i32]) {
        let Self { weight, tap_bytes, pair_bytes, step, .. } = *self;
        let (kernel, pairs) = (self.taps.geometry.kernel, self.taps.geometry.pairs);
        let mut words: Words = [MaybeUninit::uninit(); WORDS];
        // As many pairs of input channels at once as there is room for.
        let most = WORDS / (2 * loops.pixels * kernel);
        let end = acc[first..].as_ptr().wrapping_add(acc.len());
        let last = self.taps.rows.iter().rposition(Option::is_some);
        let mut load = false;
        for (k, row) in self.taps.rows.iter().enumerate() {
            let Some(row) = row else { continue };
            let mut pair = 0;
            while pair < pairs {
                let count = most.min(pairs - pair);
                let from = row[pair * step + 2 * first..].as_ptr();
                // SAFETY: 2 · pixels elements of `count` pairs from `pair` on are read, behind each of the `starts`: `direct` has
                // checked that the row holds eight pixels of all pairs. There is room for as many words.
                unsafe { (loops.unpack)(from, words.as_mut_ptr(), count, 2 * step, kernel, self.starts.as_ptr()) }
                let bytes = count * tap_bytes;
                let weight = weight[(k * pairs + pair) * tap_bytes..].as_ptr();
                pair += count;
                let part = Some(k) == last && pair == pairs;
                let (words, sums) = (words.as_ptr(), acc[first..].as_mut_ptr());
                // SAFETY: of each pair of output channels in acc, which has as many as there are weights for, `bytes` of weights
                // are read, and for all of them the words that are unpacked; of its 16 sums those of the block, or four.
                unsafe { (loops.sums)(weight, words, sums, end, bytes, pair_bytes - bytes, load.into(), part.into()) }
                load = true;
            }
        }
        if !load {
            acc.fill(0);
        }
    }
}
