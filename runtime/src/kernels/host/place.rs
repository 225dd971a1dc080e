//! Stores quantised words where the row's geometry wants them, eight pixels at a time.

use core::arch::x86_64::*;

use crate::blob::BLOCK_PIXELS;
use crate::kernels::FeedTarget;

/// Writes `pixels` words (pairs of channels) each of the pairs from `channel` of the source on, for the pixels from `x` on, a
/// multiple of eight; with `doubled` every pixel twice.
///
/// Not inlined: both feeds call it for every source and rule.
#[inline(never)]
#[target_feature(enable = "avx2")]
pub(super) fn place(
    target: &mut FeedTarget<'_>,
    (x, pixels): (usize, usize),
    channel: usize,
    words: &[__m256i],
    doubled: bool,
) {
    let geometry = target.geometry;
    let (column, channel) = (target.column + (x << u32::from(doubled)), target.channel + channel);
    // From a pair of channels to the next it is always as far.
    let (first, pitch) = (geometry.index(column, channel), geometry.index(0, 2));
    // Attention's blocks of a few queries.
    if pixels == BLOCK_PIXELS / 2 && !doubled && geometry.is_contiguous() {
        for (pair, words) in words.iter().enumerate() {
            store_half(target.row, first + pair * pitch, _mm256_castsi256_si128(*words));
        }
    } else if pixels < BLOCK_PIXELS || doubled && !geometry.is_contiguous() {
        for (pair, words) in words.iter().enumerate() {
            for (p, word) in split(*words).iter().enumerate().take(pixels) {
                let column = column + (p << u32::from(doubled));
                for column in column..=column + usize::from(doubled) {
                    let at = geometry.index(column, channel + 2 * pair);
                    target.row[at..at + 2].copy_from_slice(word);
                }
            }
        }
    } else if doubled {
        let [low, high] = [_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7)];
        let second = geometry.index(column + BLOCK_PIXELS, channel) - first;
        for (pair, words) in words.iter().enumerate() {
            store(target.row, first + pair * pitch, _mm256_permutevar8x32_epi32(*words, low));
            store(target.row, first + pair * pitch + second, _mm256_permutevar8x32_epi32(*words, high));
        }
    } else if geometry.is_contiguous() {
        for (pair, words) in words.iter().enumerate() {
            store(target.row, first + pair * pitch, *words);
        }
    } else {
        // Columns of either parity lie together.
        let parities = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        let other = geometry.index(column + 1, channel);
        for (pair, words) in words.iter().enumerate() {
            let halves = _mm256_permutevar8x32_epi32(*words, parities);
            store_half(target.row, first + pair * pitch, _mm256_castsi256_si128(halves));
            store_half(target.row, other + pair * pitch, _mm256_extracti128_si256::<1>(halves));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(row: &mut [i16], first: usize, words: __m256i) {
    let row = &mut row[first..first + 2 * BLOCK_PIXELS];
    // SAFETY: there is room for the 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(row.as_mut_ptr().cast(), words) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_half(row: &mut [i16], first: usize, words: __m128i) {
    let row = &mut row[first..first + BLOCK_PIXELS];
    // SAFETY: there is room for the 16 bytes, and the store asks for no alignment.
    unsafe { _mm_storeu_si128(row.as_mut_ptr().cast(), words) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn split(words: __m256i) -> [[i16; 2]; BLOCK_PIXELS] {
    let mut each = [[0; 2]; BLOCK_PIXELS];
    // SAFETY: there is room for the 32 bytes, and the store asks for no alignment.
    unsafe { _mm256_storeu_si256(each.as_mut_ptr().cast(), words) };
    each
}
