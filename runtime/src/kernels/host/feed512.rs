//! Quantises a row with AVX-512: sixteen channels of eight pixels at a time, and their transposition into words.
//!
//! The same arithmetic as [`Quantiser::quantise`], operation by operation.

use core::arch::x86_64::*;

use half::f16;

use super::place::place;
use crate::blob::BLOCK_PIXELS;
use crate::kernels::{Feed, FeedTarget, RowSource};
use crate::quant::{Quantiser, SILU_TABLE};
use crate::tensor::Elements;

/// Channels of a vector.
const CHANNELS: usize = 16;

/// A block: f32 of each pixel.
type Values = [__m512; BLOCK_PIXELS];

/// Integers of two pixels each, as `_mm512_packs_epi32` has them: four channels of the first, four of the second, the next four of
/// the first, …
type Pixels = [__m512i; BLOCK_PIXELS / 2];

/// Quantises the row; `false` where channels are not by sixteen, and where the source begins inside a pair of them.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
pub(super) fn feed(source: &RowSource<'_>, feed: &Feed<'_>, target: &mut FeedTarget<'_>) -> bool {
    if target.channel % 2 == 1 || !feed.channels.is_multiple_of(CHANNELS) {
        return false;
    }
    for first in (0..feed.channels).step_by(CHANNELS) {
        let [a, b] = factors(feed.affine.get(2 * first..2 * (first + CHANNELS)).unwrap_or(&[]));
        for x in (0..source.width).step_by(BLOCK_PIXELS) {
            let pixels = BLOCK_PIXELS.min(source.width - x);
            let mut values = load(source, feed.channels, (x, pixels), first);
            for value in &mut values {
                // Two operations: a fused one would round once less.
                *value = _mm512_add_ps(_mm512_mul_ps(*value, a), b);
            }
            let quantised = match feed.quantiser {
                Quantiser::Plain { scale, qmax } => limited(plain(&values, scale), qmax),
                Quantiser::Silu { multiplier, qmax } => limited(silu(&values, multiplier), qmax),
            };
            place(target, (x, pixels), first, transpose(quantised).as_flattened(), source.doubled);
        }
    }
    true
}

/// Sixteen channels, from `first` on, of eight pixels, from `x` on: past the row's end its last pixel again.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(source: &RowSource<'_>, channels: usize, (x, pixels): (usize, usize), first: usize) -> Values {
    let at = |p: usize| source.first + (x + p.min(pixels - 1)) * channels + first;
    let mut values = [_mm512_setzero_ps(); BLOCK_PIXELS];
    match source.elements {
        Elements::F16(halves) => {
            for (p, value) in values.iter_mut().enumerate() {
                let halves: &[f16] = &halves[at(p)..][..CHANNELS];
                // SAFETY: sixteen halves are there, and the load asks for no alignment.
                *value = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) });
            }
        }
        Elements::F32(floats) => {
            for (p, value) in values.iter_mut().enumerate() {
                *value = load_floats(&floats[at(p)..]);
            }
        }
        Elements::I8(bytes, scales) => {
            let scales = load_floats(&scales[first..]);
            for (p, value) in values.iter_mut().enumerate() {
                let bytes = &bytes[at(p)..][..CHANNELS];
                // SAFETY: sixteen bytes are there, and the load asks for no alignment.
                let integers = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
                *value = _mm512_mul_ps(_mm512_cvtepi32_ps(integers), scales);
            }
        }
    }
    values
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_floats(values: &[f32]) -> __m512 {
    let values = &values[..CHANNELS];
    // SAFETY: sixteen values are there, and the load asks for no alignment.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

/// a and b of sixteen channels. Without any 1 and 0, which change nothing but the sign of a zero, and no rule looks at that.
#[inline]
#[target_feature(enable = "avx512f")]
fn factors(pairs: &[f32]) -> [__m512; 2] {
    if pairs.is_empty() {
        return [_mm512_set1_ps(1.0), _mm512_setzero_ps()];
    }
    let [low, high] = [load_floats(pairs), load_floats(&pairs[CHANNELS..])];
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    [_mm512_permutex2var_ps(low, even, high), _mm512_permutex2var_ps(low, odd, high)]
}

/// [`Quantiser::Plain`], limited to 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn plain(values: &Values, scale: f32) -> Pixels {
    let [scale, half, most] = [_mm512_set1_ps(scale), _mm512_set1_ps(128.0), _mm512_set1_ps((1 << 30) as f32)];
    let mut rounded = [_mm512_setzero_si512(); BLOCK_PIXELS];
    for (rounded, x) in rounded.iter_mut().zip(values) {
        let y = _mm512_add_ps(_mm512_mul_ps(*x, scale), half);
        // NaN becomes 0. What is too small for an integer becomes the smallest, as with `as`; only the largest needs care.
        let y = _mm512_maskz_min_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(y, y), y, most);
        *rounded = _mm512_srai_epi32::<8>(_mm512_cvttps_epi32(y));
    }
    packed(&rounded)
}

/// [`Quantiser::Silu`], which fits in 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn silu(values: &Values, multiplier: i32) -> Pixels {
    let [multiplier, half, zero] = [_mm512_set1_epi32(multiplier), _mm512_set1_epi32(1 << 15), _mm512_setzero_si512()];
    let mut scaled = [zero; BLOCK_PIXELS];
    for (scaled, values) in scaled.as_chunks_mut().0.iter_mut().zip(values.as_chunks().0) {
        let [even, odd] = silus(values);
        *scaled = [even, odd];
        for scaled in scaled {
            *scaled = _mm512_srai_epi32::<16>(_mm512_add_epi32(_mm512_mullo_epi32(*scaled, multiplier), half));
        }
    }
    packed(&scaled)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn packed(each: &[__m512i; BLOCK_PIXELS]) -> Pixels {
    let mut packed = [_mm512_setzero_si512(); BLOCK_PIXELS / 2];
    for (packed, [even, odd]) in packed.iter_mut().zip(each.as_chunks().0) {
        *packed = _mm512_packs_epi32(*even, *odd);
    }
    packed
}

/// [`crate::quant::silu_fixed`] of two pixels with 12 fraction bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn silus(values: &[__m512; 2]) -> [__m512i; 2] {
    let zero = _mm512_setzero_si512();
    let mut integers = [zero; 2];
    let mut magnitudes = [zero; 2];
    for ((x, integer), magnitude) in values.iter().zip(&mut integers).zip(&mut magnitudes) {
        // At most 2¹⁷ − 1. What is too small becomes the smallest integer, and NaN (where an operand is NaN, the second comes out)
        // does too: the SiLU of both is 0.
        *integer = _mm512_cvttps_epi32(_mm512_min_ps(_mm512_set1_ps(131_071.0), *x));
        *magnitude = _mm512_xor_si512(*integer, _mm512_srai_epi32::<31>(*integer));
    }
    // Limited to 0xffff by the packing.
    let magnitude = _mm512_packus_epi32(magnitudes[0], magnitudes[1]);
    let h = if _mm512_test_epi16_mask(magnitude, _mm512_set1_epi16(!0x3fff)) == 0 {
        h::<2>(magnitude)
    } else {
        far(magnitude)
    };
    // Unpacking gives back the order before packing.
    let h = [_mm512_unpacklo_epi16(h, zero), _mm512_unpackhi_epi16(h, zero)];
    for (integer, h) in integers.iter_mut().zip(h) {
        *integer = _mm512_sub_epi32(_mm512_max_epi32(*integer, zero), h);
    }
    integers
}

/// How often 64 entries, or magnitudes of 2¹³, it takes to where h is 0.
const LEVELS: usize = 6;

/// Entries of [`SILU_TABLE`]: values, and differences.
static TABLE: [[[[i16; 32]; 2]; LEVELS]; 2] = {
    let mut table = [[[[0; 32]; 2]; LEVELS]; 2];
    let mut i = 0;
    while i < SILU_TABLE.len() {
        if i < 64 * LEVELS {
            let (level, half, word) = (i / 64, i / 32 % 2, i % 32);
            table[0][level][half][word] = (SILU_TABLE[i] >> 16) as i16;
            table[1][level][half][word] = SILU_TABLE[i] as i16;
        } else {
            assert!(SILU_TABLE[i] == 0);
        }
        i += 1;
    }
    table
};

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw")]
fn far(magnitude: __m512i) -> __m512i {
    h::<LEVELS>(magnitude)
}

/// h of 32 magnitudes below 2¹³ · `N`, or of any with all levels.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn h<const N: usize>(magnitude: __m512i) -> __m512i {
    let (index, level) = (_mm512_srli_epi16::<7>(magnitude), _mm512_srli_epi16::<13>(magnitude));
    let mut entries = [_mm512_setzero_si512(); 2];
    for n in 0..N {
        let here = _mm512_cmpeq_epi16_mask(level, _mm512_set1_epi16(n as i16));
        for (entry, table) in entries.iter_mut().zip(&TABLE) {
            let [low, high] = &table[n];
            // SAFETY: 32 words are there for either load, which asks for no alignment.
            let [low, high] =
                unsafe { [_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast())] };
            *entry = _mm512_mask_mov_epi16(*entry, here, _mm512_permutex2var_epi16(low, index, high));
        }
    }
    interpolate(magnitude, entries)
}

/// value + (difference · (magnitude mod 128)) / 128. A difference is at most 64, so its product has 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interpolate(magnitude: __m512i, [value, difference]: [__m512i; 2]) -> __m512i {
    let product = _mm512_mullo_epi16(difference, _mm512_and_si512(magnitude, _mm512_set1_epi16(127)));
    _mm512_add_epi16(value, _mm512_srai_epi16::<7>(product))
}

/// Limits to −(qmax + 1)..=qmax.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn limited(mut pixels: Pixels, qmax: i32) -> Pixels {
    let [low, high] = [_mm512_set1_epi16((-qmax - 1) as i16), _mm512_set1_epi16(qmax as i16)];
    for pixels in &mut pixels {
        *pixels = _mm512_min_epi16(_mm512_max_epi16(*pixels, low), high);
    }
    pixels
}

/// From integers of pixels to words \[pair of channels\]\[pixel\].
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(q: Pixels) -> [[__m256i; 2]; CHANNELS / 4] {
    // Of pixels 0 to 3 (a, c) and 4 to 7 (b, d): pairs of channels 0 to 3 (a, b) and 4 to 7 (c, d).
    let low = _mm512_setr_epi32(0, 2, 16, 18, 1, 3, 17, 19, 4, 6, 20, 22, 5, 7, 21, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    let [a, b] = [_mm512_permutex2var_epi32(q[0], low, q[1]), _mm512_permutex2var_epi32(q[2], low, q[3])];
    let [c, d] = [_mm512_permutex2var_epi32(q[0], high, q[1]), _mm512_permutex2var_epi32(q[2], high, q[3])];
    let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let high = _mm512_add_epi64(low, _mm512_set1_epi64(4));
    let mut words = [[_mm256_setzero_si256(); 2]; CHANNELS / 4];
    for (words, (index, [first, second])) in
        words.iter_mut().zip([(low, [a, b]), (high, [a, b]), (low, [c, d]), (high, [c, d])])
    {
        let both = _mm512_permutex2var_epi64(first, index, second);
        *words = [_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both)];
    }
    words
}
