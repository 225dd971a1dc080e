//! Weights in the order of the row loop: a vector of output channels for each tap and pair of input channels.

use core::mem::MaybeUninit;

use super::lanes::Lanes;
use super::winograd;
use crate::kernels::Geometry;

/// Words that fit: 128 → 64 channels of a 3×3 kernel, which is far above what such models have.
const CAPACITY: usize = 64 * 9 * 64;

/// The weights of a layer. Direct ones are i16 pairs \[group of `width` output channels\]\[tap\]\[`width`\], a tap being (ky, pair of
/// input channels, kx); those of `winograd.rs` are in its order, and behind them is what it works in.
#[repr(C, align(64))]
pub(crate) struct Prepared {
    words: [MaybeUninit<u32>; CAPACITY],
    /// Words that are written.
    len: usize,
    /// Words of a group.
    group: usize,
    /// Words of the groups, and behind them the two kinds of storage; all none for direct weights.
    storage: [usize; 3],
}

/// Weights of `winograd.rs` and what it works in.
pub(super) struct Storage<'a> {
    pub(super) weights: &'a [u32],
    /// Words of a group.
    pub(super) group: usize,
    /// What a row leaves to the next.
    pub(super) carry: &'a mut [u32],
    /// Transformed inputs.
    pub(super) inputs: &'a mut [u32],
}

impl Prepared {
    /// Nothing yet. The memory is not touched.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self { words: [const { MaybeUninit::uninit() }; CAPACITY], len: 0, group: 0, storage: [0; 3] }
    }

    /// Whether weights are there.
    pub(crate) const fn is_ready(&self) -> bool {
        self.len > 0
    }

    /// Whether they are those of `winograd.rs`.
    pub(super) const fn is_winograd(&self) -> bool {
        self.storage[0] > 0
    }

    /// The words of group `index`; `None` when there is no such group.
    #[inline(always)]
    pub(super) fn group(&self, index: usize) -> Option<&[u32]> {
        self.initialised().get(index * self.group..(index + 1) * self.group)
    }

    /// The parts of what `winograd.rs` has.
    #[inline(always)]
    pub(super) fn storage(&mut self) -> Storage<'_> {
        let [weights, carry, inputs] = self.storage;
        let group = self.group;
        let (weights, rest) = self.initialised_mut().split_at_mut(weights);
        let (carry, rest) = rest.split_at_mut(carry);
        Storage { weights, group, carry, inputs: &mut rest[..inputs] }
    }

    #[inline(always)]
    fn initialised(&self) -> &[u32] {
        let words = &self.words[..self.len];
        // SAFETY: the first `len` words are initialised (`write`, `write_for`), and MaybeUninit<u32> has the layout of u32.
        unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    #[inline(always)]
    fn initialised_mut(&mut self) -> &mut [u32] {
        let words = &mut self.words[..self.len];
        // SAFETY: as above, and the borrow is a unique one.
        unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len()) }
    }

    /// Takes direct weights as they are, and where `winograd.rs` suits the layer (and all fits) transforms them.
    #[inline(always)]
    pub(super) fn write_for<V: Lanes>(&mut self, weight: &[u8], geometry: &Geometry, cout: usize) {
        let channels = cout.next_multiple_of(V::WIDTH);
        let [carry, inputs] = winograd::storage(geometry, channels);
        let weights = winograd::PARTS * winograd::PARTS * geometry.pairs * channels;
        let transforms = winograd::suits::<V>(geometry) && weights + carry + inputs <= CAPACITY;
        let mut apart = Self::new();
        let direct = if transforms { &mut apart } else { &mut *self };
        direct.write::<V>(weight, cout);
        if !transforms || !direct.is_ready() {
            return;
        }
        let group = weights / channels * V::WIDTH;
        for (index, out) in self.words[..weights].chunks_exact_mut(group).enumerate() {
            winograd::transform_weights::<V>(apart.group(index).unwrap_or(&[]), geometry.pairs, out);
        }
        self.words[weights..weights + carry + inputs].fill(MaybeUninit::new(0));
        (self.len, self.group, self.storage) = (weights + carry + inputs, group, [weights, carry, inputs]);
    }

    /// Takes direct weights of `cout` channels, in groups of a vector; leaves nothing when they do not fit.
    #[inline(always)]
    pub(super) fn write<V: Lanes>(&mut self, weight: &[u8], cout: usize) {
        let width = V::WIDTH;
        (self.len, self.storage) = (0, [0; 3]);
        let words = weight.as_chunks::<4>().0;
        let pairs = cout.div_ceil(2);
        let taps = words.len() / pairs.max(1);
        let len = taps * cout.next_multiple_of(width);
        if taps == 0 || len > CAPACITY {
            return;
        }
        (self.len, self.group) = (len, taps * width);
        let whole = if taps < BLOCK { 0 } else { pairs / BLOCK * BLOCK };
        for pair in (0..whole).step_by(BLOCK) {
            for tap in (0..taps).step_by(BLOCK) {
                // The last block overlaps the one before.
                let tap = tap.min(taps - BLOCK);
                let lanes = V::block(&words[pair * taps + tap..], taps);
                for (t, lanes) in lanes.iter().enumerate() {
                    for (half, lanes) in lanes.as_chunks::<BLOCK>().0.iter().enumerate() {
                        let at = self.at(2 * pair + half * BLOCK, tap + t, taps, width);
                        self.words[at..at + BLOCK].copy_from_slice(&lanes.map(MaybeUninit::new));
                    }
                }
            }
        }
        for pair in whole..cout.next_multiple_of(width) / 2 {
            for tap in 0..taps {
                let word = if pair < pairs { u32::from_le_bytes(words[pair * taps + tap]) } else { 0 };
                let at = self.at(2 * pair, tap, taps, width);
                self.words[at..at + 2].copy_from_slice(&split(word).map(MaybeUninit::new));
            }
        }
    }

    /// Where the word of a channel and a tap lies.
    #[inline(always)]
    fn at(&self, channel: usize, tap: usize, taps: usize, width: usize) -> usize {
        (channel / width * taps + tap) * width + channel % width
    }
}

/// Pairs of output channels, and taps, that are brought into order together.
const BLOCK: usize = 8;

/// The words of sixteen channels for each of eight taps.
pub(super) type Block = [[u32; 2 * BLOCK]; BLOCK];

/// A block of eight pairs, `taps` words apart, and eight taps.
#[inline(always)]
pub(super) fn plain_block(words: &[[u8; 4]], taps: usize) -> Block {
    core::array::from_fn(|tap| {
        let mut lanes = [0; 2 * BLOCK];
        for (pair, lanes) in lanes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            *lanes = split(u32::from_le_bytes(words[pair * taps + tap]));
        }
        lanes
    })
}

/// The weights of the even and of the odd output channel: a halfword is 256 · odd + even.
#[inline(always)]
fn split(word: u32) -> [u32; 2] {
    let halves = [word as i16, (word >> 16) as i16];
    let even = halves.map(|half| i16::from(half as i8));
    let odd = [(halves[0].wrapping_sub(even[0])) >> 8, (halves[1].wrapping_sub(even[1])) >> 8];
    [even, odd].map(|[low, high]| u32::from(low as u16) | u32::from(high as u16) << 16)
}
