//! Direct convolution: for a few pixels at a time the inputs are unpacked to words, in the order of the weights, and then stream
//! past the weights of each pair of output channels: one loop for all kernels and strides.

use core::mem::MaybeUninit;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::Taps;

/// Words for inputs on the stack, which is to stay within 4 KiB.
const WORDS: usize = 256;

/// Unpacked inputs; not filled beforehand, which would take as long as unpacking them.
type Words = [MaybeUninit<i32>; WORDS];

/// Weights, unpacked inputs, sums of the first pair of output channels, their end, bytes of weights of a pair that are used,
/// bytes from behind those to the next pair's, whether there are sums already, whether these are the last weights.
type Sums = unsafe extern "C" fn(*const u8, *const MaybeUninit<i32>, *mut i32, *const i32, usize, usize, usize, usize);

/// Row, words, pairs of input channels, bytes between those in the row, bytes between what is written for them.
type Unpack = unsafe extern "C" fn(*const i16, *mut MaybeUninit<i32>, usize, usize, usize);

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
    fn unpack_few(_: *const i16, _: *mut MaybeUninit<i32>, _: usize, _: usize, _: usize);
    #[cfg_attr(picodream_baseline, link_name = "picodream_plain_unpack_6")]
    #[cfg_attr(not(picodream_baseline), link_name = "picodream_plain_unpack_4")]
    fn unpack_more(_: *const i16, _: *mut MaybeUninit<i32>, _: usize, _: usize, _: usize);
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
    #[cfg(picodream_baseline)]
    if !taps.rows.iter().flatten().all(|row| super::aligned(row, weight)) {
        return defined(taps, weight, x, pixels, acc);
    }
    let pixels = pixels.min(BLOCK_PIXELS);
    let mut first = 0;
    while first < pixels {
        let loops = loops_for(pixels - first);
        Block { taps, x, first, loops }.run(weight, acc);
        first += loops.pixels;
    }
}

/// Where no word may be read at once. Apart, so that its variables take no stack below the loops.
#[cfg(picodream_baseline)]
#[cold]
#[inline(never)]
fn defined(taps: &Taps<'_>, weight: &[u8], x: usize, pixels: usize, acc: &mut [i32]) {
    crate::kernels::portable::direct(taps, weight, x, pixels, acc);
}

/// Some of the eight pixels from column `x` on, which go through a loop together.
struct Block<'t> {
    taps: &'t Taps<'t>,
    x: usize,
    first: usize,
    loops: &'static Loops,
}

impl Block<'_> {
    /// The sums of all output channels.
    fn run(&self, weight: &[u8], acc: &mut [i32]) {
        let g = &self.taps.geometry;
        let tap_bytes = 4 * g.kernel;
        let pair_bytes = g.kernel * g.pairs * tap_bytes;
        let out_pairs = (weight.len() / pair_bytes.max(1)).min(acc.len() / (2 * BLOCK_PIXELS));
        let acc = &mut acc[..out_pairs * 2 * BLOCK_PIXELS];
        let Some(last) = self.taps.rows.iter().rposition(Option::is_some).filter(|_| out_pairs > 0) else {
            return acc.fill(0);
        };
        let mut words: Words = [MaybeUninit::uninit(); WORDS];
        // As many pairs of input channels at once as there is room for.
        let most = WORDS / (2 * self.loops.pixels * g.kernel);
        let mut load = false;
        for (k, row) in self.taps.rows[..=last].iter().enumerate() {
            let Some(row) = row else { continue };
            for pair in (0..g.pairs).step_by(most) {
                let count = most.min(g.pairs - pair);
                self.unpack(row, pair, count, &mut words);
                let (bytes, part) = (count * tap_bytes, k == last && pair + count == g.pairs);
                let weight = &weight[(k * g.pairs + pair) * tap_bytes..];
                let (sums, skip) = (&mut acc[self.first..], pair_bytes - bytes);
                let end = sums.as_ptr().wrapping_add(out_pairs * 2 * BLOCK_PIXELS);
                let (w, x, sums) = (weight.as_ptr(), words.as_ptr(), sums.as_mut_ptr());
                // SAFETY: of each of `out_pairs` times pair_bytes of weights `bytes` are read, and for all of them the words
                // that are unpacked; of the 16 sums of each pair, those of a block's pixels, or of four, from `first` on.
                unsafe { (self.loops.sums)(w, x, sums, end, bytes, skip, load.into(), part.into()) }
                load = true;
            }
        }
    }

    /// The inputs of `count` pairs of channels as words, in the order of the weights.
    fn unpack(&self, row: &[i16], pair: usize, count: usize, words: &mut Words) {
        let g = &self.taps.geometry;
        let step = g.index(0, 2) - g.index(0, 0);
        let len = 2 * self.loops.pixels;
        let skip = len * (g.kernel - 1);
        for column in 0..g.kernel {
            let from = &row[g.window(self.x, pair, column) + 2 * self.first..][..(count - 1) * step + len];
            let into = &mut words[len * column..][..(count - 1) * (len + skip) + len];
            // SAFETY: of `from`, len elements are read `count` times, `step` apart; to `into`, as many words are written, with
            // `skip` of them left in between: both are as long as that.
            unsafe { (self.loops.unpack)(from.as_ptr(), into.as_mut_ptr(), count, 2 * step, 4 * skip) }
        }
    }
}
