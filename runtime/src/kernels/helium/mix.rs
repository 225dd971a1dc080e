//! Self-attention in vectors: four partial sums of a score, or four queries' exponentials, or four channels at a time.
//!
//! As in `ends.rs`, nothing may depend on a subnormal number: no product of a half with a number of at least [`SMALLEST`], and
//! no sum of such products, is one. Where queries are smaller the whole is declined, where weights are, plain code sums.

use core::arch::global_asm;

use half::f16;

use crate::blob::QUERY_PIXELS;
use crate::f16::to_f32;
use crate::kernels::Mix;
use crate::tensor::CHUNK;

// The assembler of module text does not know the target's CPU.
global_asm!(".cpu cortex-m55", include_str!("mix.s"));

/// What the loop of the scores is told; the assembler knows the order.
#[repr(C)]
struct Head {
    query: *const f32,
    keys: *const f16,
    scores: *mut f32,
    tokens: usize,
    /// Bytes from token to token.
    token: usize,
    chunks: usize,
    /// Bytes from query to query.
    pitch: usize,
}

/// Sums of four queries and four channels.
type Sums = [[f32; 4]; QUERY_PIXELS];

unsafe extern "C" {
    fn picodream_helium_scores(head: &Head);
    fn picodream_helium_exponentials(scores: *mut f32, tokens: usize, totals: &mut [f32; QUERY_PIXELS]) -> u32;
    fn picodream_helium_values(values: *const f16, scores: *const f32, sums: &mut Sums, tokens: usize, token: usize);
    fn picodream_helium_smallest(values: *const f32, quads: usize) -> u32;
    fn picodream_helium_dots(x: *const f32, quads: usize, weight: *const i8, out: *mut f32, count: usize);
}

/// Times the smallest half, 2⁻²⁴, and in the last of 24 bits, this is the smallest normal number: 2⁻⁷⁹.
const SMALLEST: f32 = f32::from_bits((127 - 79) << 23);

/// query = softmax(query·kᵀ)·v with the order of operations of `ops/attention.rs`; declines heads that are not whole chunks.
// Apart, or its variables are on the stack of all that its caller calls.
#[inline(never)]
pub(crate) fn mix(mix: &mut Mix<'_>) -> bool {
    let (channels, tokens) = (mix.channels, mix.tokens);
    let dim = channels / mix.heads.max(1);
    let whole = dim > 0 && dim.is_multiple_of(CHUNK) && dim * mix.heads == channels && tokens > 0;
    let fits = mix.query.len() >= QUERY_PIXELS * channels && mix.scores.len() >= QUERY_PIXELS * tokens;
    if !(whole && fits && mix.pixels <= QUERY_PIXELS && mix.kv.len() >= 2 * channels * tokens) {
        return false;
    }
    if !large_enough(&mix.query[..mix.pixels * channels]) {
        return false;
    }
    for first in (0..channels).step_by(dim) {
        let head = Head {
            query: mix.query[first..].as_ptr(),
            keys: mix.kv[first..].as_ptr(),
            scores: mix.scores.as_mut_ptr(),
            tokens,
            token: 4 * channels,
            chunks: dim / CHUNK,
            pitch: 4 * channels,
        };
        let mut totals = [0.0; QUERY_PIXELS];
        // SAFETY: four queries of `channels`, `tokens` rows of keys and of four scores were checked to be there.
        let smallest = unsafe {
            picodream_helium_scores(&head);
            picodream_helium_exponentials(head.scores, tokens, &mut totals)
        };
        let plain = f32::from_bits(smallest) < SMALLEST;
        for channel in (first..first + dim).step_by(4) {
            let values = &mix.kv[channels + channel..];
            let mut sums = Sums::default();
            if plain {
                plain_values(values, &mix.scores[..QUERY_PIXELS * tokens], &mut sums, 2 * channels);
            } else {
                // SAFETY: as above; four values of each token are read.
                unsafe {
                    picodream_helium_values(values.as_ptr(), mix.scores.as_ptr(), &mut sums, tokens, head.token);
                };
            }
            for ((p, sums), total) in sums.iter().enumerate().zip(totals).take(mix.pixels) {
                for (slot, sum) in mix.query[p * channels + channel..][..4].iter_mut().zip(sums) {
                    *slot = sum / total;
                }
            }
        }
    }
    true
}

/// Whether no number but zero is below [`SMALLEST`]; their count is a multiple of four, and not zero.
fn large_enough(values: &[f32]) -> bool {
    // SAFETY: no more numbers are read than there are.
    let smallest = unsafe { picodream_helium_smallest(values.as_ptr(), values.len() / 4) };
    smallest >= 2 * SMALLEST.to_bits() - 1
}

/// out\[o\] = [`crate::math::dot`] of `x` and row o of `weight`; declines lengths that are no multiples of four.
pub fn dots(x: &[f32], weight: &[i8], out: &mut [f32]) -> bool {
    let regular = !x.is_empty() && x.len().is_multiple_of(4) && !out.is_empty() && weight.len() >= x.len() * out.len();
    if !regular || !large_enough(x) {
        return false;
    }
    // SAFETY: `x`, a row of weights as long for each of `out`, and `out` are there.
    unsafe { picodream_helium_dots(x.as_ptr(), x.len() / 4, weight.as_ptr(), out.as_mut_ptr(), out.len()) };
    true
}

/// [`picodream_helium_values`] for any numbers.
fn plain_values(values: &[f16], scores: &[f32], sums: &mut Sums, token: usize) {
    for (values, scores) in values.chunks(token).zip(scores.as_chunks::<QUERY_PIXELS>().0) {
        for (sums, weight) in sums.iter_mut().zip(scores) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += weight * to_f32(*value);
            }
        }
    }
}
