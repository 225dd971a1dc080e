//! Quantises a row with AVX2 and F16C: eight channels of eight pixels at a time, and their transposition into words.
//!
//! The same arithmetic as [`Quantiser::quantise`], operation by operation; limits are put before the conversion to integers,
//! where the instruction, unlike `as`, does not saturate.

use core::arch::x86_64::*;

use half::f16;

use super::place::place;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, RowSource};
use crate::quant::{Quantiser, SILU_TABLE};
use crate::tensor::Elements;

/// Channels of a vector.
const CHANNELS: usize = 8;

/// Quantises the row; `false` where the source begins inside a pair of channels.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn feed(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    let row = source.first..source.first + source.width * feed.channels;
    match source.elements {
        _ if target.channel % 2 == 1 => return false,
        Elements::F16(values) => by_rule(source, feed, target, Halves(&values[row])),
        Elements::I8(values, scales) => by_rule(source, feed, target, Bytes(&values[row], scales)),
        // The caller has a shorter loop for a few channels of f32.
        Elements::F32(_) if feed.channels < CHANNELS => return false,
        Elements::F32(values) => by_rule(source, feed, target, Floats(&values[row])),
    }
    true
}

#[inline(always)]
fn by_rule(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>, row: impl Row) {
    match feed.quantiser {
        Quantiser::Plain { scale, qmax } => feed_all(source, feed, target, row, Plain::new(scale, qmax)),
        Quantiser::Silu { multiplier, qmax } => feed_all(source, feed, target, row, Silu::new(multiplier, qmax)),
    }
}

#[inline(always)]
fn feed_all(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>, row: impl Row, rule: impl Rule) {
    for first in (0..feed.channels).step_by(CHANNELS) {
        let count = CHANNELS.min(feed.channels - first);
        let factors = factors(feed.affine.get(2 * first..2 * (first + count)).unwrap_or(&[]));
        for x in (0..source.width).step_by(BLOCK_PIXELS) {
            let pixels = BLOCK_PIXELS.min(source.width - x);
            let at = (x * feed.channels + first, feed.channels, first);
            // The lengths of whole blocks are constants to the compiler.
            let words = if (pixels, count) == (BLOCK_PIXELS, CHANNELS) {
                block(&row, &rule, factors, at, BLOCK_PIXELS, CHANNELS)
            } else {
                block(&row, &rule, factors, at, pixels, count)
            };
            // SAFETY: AVX2 exists: this is inlined into `feed`.
            unsafe { place(target, (x, pixels), first, &words[..count.div_ceil(2)], source.doubled) };
        }
    }
}

/// The words of up to eight channels of up to eight pixels, zeros behind them. `at`: index in the row, elements of a pixel, channel.
#[inline(always)]
fn block(
    row: &impl Row,
    rule: &impl Rule,
    [a, b]: [__m256; 2],
    (at, pitch, channel): (usize, usize, usize),
    pixels: usize,
    count: usize,
) -> [__m256i; CHANNELS / 2] {
    // SAFETY: AVX2 exists: this is inlined into `feed`.
    let mut quantised = [unsafe { _mm256_setzero_si256() }; BLOCK_PIXELS];
    for (p, quantised) in quantised.iter_mut().enumerate().take(pixels) {
        let value = row.load(at + p * pitch, channel, count);
        // SAFETY: AVX exists. Two operations: a fused one would round once less.
        *quantised = rule.quantise(unsafe { _mm256_add_ps(_mm256_mul_ps(value, a), b) });
    }
    transpose(quantised)
}

/// A row of elements. (Traits and not closures, because only functions can be told to be inlined.)
trait Row {
    /// Up to eight neighbouring channels from an index of the row on, zeros behind them; `channel` is the first of them.
    fn load(&self, at: usize, channel: usize, count: usize) -> __m256;
}

struct Halves<'a>(&'a [f16]);

impl Row for Halves<'_> {
    #[inline(always)]
    fn load(&self, at: usize, _channel: usize, count: usize) -> __m256 {
        let mut halves = [f16::ZERO; CHANNELS];
        halves[..count].copy_from_slice(&self.0[at..at + count]);
        // SAFETY: F16C exists; eight halves are there, and the load asks for no alignment.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast())) }
    }
}

struct Floats<'a>(&'a [f32]);

impl Row for Floats<'_> {
    #[inline(always)]
    fn load(&self, at: usize, _channel: usize, count: usize) -> __m256 {
        let mut values = [0.0f32; CHANNELS];
        values[..count].copy_from_slice(&self.0[at..at + count]);
        // SAFETY: AVX exists; eight values are there, and the load asks for no alignment.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }
}

/// Integers, and the scale of each channel.
struct Bytes<'a>(&'a [i8], &'a [f32]);

impl Row for Bytes<'_> {
    #[inline(always)]
    fn load(&self, at: usize, channel: usize, count: usize) -> __m256 {
        let (mut bytes, mut scales) = ([0i8; CHANNELS], [0.0f32; CHANNELS]);
        bytes[..count].copy_from_slice(&self.0[at..at + count]);
        scales[..count].copy_from_slice(&self.1[channel..channel + count]);
        // SAFETY: AVX2 exists; eight bytes and eight f32 are there, and the loads ask for no alignment.
        unsafe {
            let integers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()));
            _mm256_mul_ps(_mm256_cvtepi32_ps(integers), _mm256_loadu_ps(scales.as_ptr()))
        }
    }
}

/// [`Quantiser::quantise`] of eight values.
pub(super) trait Rule {
    fn quantise(&self, x: __m256) -> __m256i;
}

/// a and b of up to eight channels. Without any 1 and 0, which change nothing but the sign of a zero, and no rule looks at that.
#[inline(always)]
fn factors(pairs: &[f32]) -> [__m256; 2] {
    let mut lanes = [[1.0f32; CHANNELS], [0.0; CHANNELS]];
    for (lane, [a, b]) in pairs.as_chunks().0.iter().enumerate().take(CHANNELS) {
        (lanes[0][lane], lanes[1][lane]) = (*a, *b);
    }
    // SAFETY: AVX exists; eight values are there, and the loads ask for no alignment.
    unsafe { [_mm256_loadu_ps(lanes[0].as_ptr()), _mm256_loadu_ps(lanes[1].as_ptr())] }
}

/// From i32 \[pixel\]\[channel\] to words \[pair of channels\]\[pixel\].
#[inline(always)]
fn transpose(q: [__m256i; BLOCK_PIXELS]) -> [__m256i; CHANNELS / 2] {
    // SAFETY: AVX2 exists. The letters below are words, the digits pixels.
    unsafe {
        // 0a 1a 0b 1b | 0c 1c 0d 1d of two neighbouring pixels.
        let v01 = _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_packs_epi32(q[0], q[1]));
        let v23 = _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_packs_epi32(q[2], q[3]));
        let v45 = _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_packs_epi32(q[4], q[5]));
        let v67 = _mm256_shuffle_epi32::<0b11_01_10_00>(_mm256_packs_epi32(q[6], q[7]));
        let (ac_low, ac_high) = (_mm256_unpacklo_epi64(v01, v23), _mm256_unpacklo_epi64(v45, v67));
        let (bd_low, bd_high) = (_mm256_unpackhi_epi64(v01, v23), _mm256_unpackhi_epi64(v45, v67));
        [
            _mm256_permute2x128_si256::<0x20>(ac_low, ac_high),
            _mm256_permute2x128_si256::<0x20>(bd_low, bd_high),
            _mm256_permute2x128_si256::<0x31>(ac_low, ac_high),
            _mm256_permute2x128_si256::<0x31>(bd_low, bd_high),
        ]
    }
}

/// [`Quantiser::Plain`].
#[derive(Clone, Copy)]
pub(super) struct Plain {
    scale: __m256,
    half: __m256,
    low: __m256,
    high: __m256,
}

impl Plain {
    #[inline(always)]
    fn new(scale: f32, qmax: i32) -> Self {
        // SAFETY: AVX exists.
        Self::of_lanes(unsafe { _mm256_set1_ps(scale) }, qmax)
    }

    /// With a scale for each lane.
    #[inline(always)]
    pub(super) fn of_lanes(scale: __m256, qmax: i32) -> Self {
        // Limits before the shift by eight bits that give −(qmax + 1) and qmax behind it; both are exact.
        let (low, high) = (-256.0 * (qmax + 1) as f32, (256 * qmax + 255) as f32);
        // SAFETY: AVX exists.
        unsafe { Self { scale, half: _mm256_set1_ps(128.0), low: _mm256_set1_ps(low), high: _mm256_set1_ps(high) } }
    }
}

impl Rule for Plain {
    #[inline(always)]
    fn quantise(&self, x: __m256) -> __m256i {
        // SAFETY: AVX2 exists.
        unsafe {
            let y = _mm256_add_ps(_mm256_mul_ps(x, self.scale), self.half);
            let y = _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_ORD_Q>(y, y));
            let y = _mm256_min_ps(_mm256_max_ps(y, self.low), self.high);
            _mm256_srai_epi32::<8>(_mm256_cvttps_epi32(y))
        }
    }
}

/// [`Quantiser::Silu`].
#[derive(Clone, Copy)]
struct Silu {
    multiplier: __m256i,
    low: __m256i,
    high: __m256i,
}

impl Silu {
    #[inline(always)]
    fn new(multiplier: i32, qmax: i32) -> Self {
        // SAFETY: AVX exists.
        unsafe {
            let [low, high] = [_mm256_set1_epi32(-qmax - 1), _mm256_set1_epi32(qmax)];
            Self { multiplier: _mm256_set1_epi32(multiplier), low, high }
        }
    }
}

impl Rule for Silu {
    #[inline(always)]
    fn quantise(&self, x: __m256) -> __m256i {
        // SAFETY: AVX2 exists.
        unsafe {
            let scaled = _mm256_mullo_epi32(silu(x), self.multiplier);
            let rounded = _mm256_srai_epi32::<16>(_mm256_add_epi32(scaled, _mm256_set1_epi32(1 << 15)));
            _mm256_min_epi32(_mm256_max_epi32(rounded, self.low), self.high)
        }
    }
}

/// [`crate::quant::silu_fixed`] of values with 12 fraction bits.
#[inline(always)]
fn silu(x: __m256) -> __m256i {
    // SAFETY: AVX2 exists; the gather reads entries 0..512 of a table that has them, because a magnitude is below 2¹⁶.
    unsafe {
        // The second operand comes out where the first is NaN, and the SiLU of the lowest value is 0, like that of 0.
        let x = _mm256_max_ps(x, _mm256_set1_ps(-131_072.0));
        let x = _mm256_cvttps_epi32(_mm256_min_ps(x, _mm256_set1_ps(131_071.0)));
        let sign = _mm256_srai_epi32::<31>(x);
        let magnitude = _mm256_min_epi32(_mm256_xor_si256(x, sign), _mm256_set1_epi32(0xffff));
        let entry = _mm256_i32gather_epi32::<4>(SILU_TABLE.as_ptr(), _mm256_srli_epi32::<7>(magnitude));
        // The upper half of the second operand is 0: only the lower halves are multiplied.
        let product = _mm256_madd_epi16(entry, _mm256_and_si256(magnitude, _mm256_set1_epi32(127)));
        let h = _mm256_add_epi32(_mm256_srai_epi32::<16>(entry), _mm256_srai_epi32::<7>(product));
        _mm256_sub_epi32(_mm256_andnot_si256(sign, x), h)
    }
}
