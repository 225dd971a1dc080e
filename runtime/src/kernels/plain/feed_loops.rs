//! The cores' own loops that feed halves, and what they read.

use half::f16;

use super::feed::{PLAIN_FRACTION, Rule, Shared};
use super::{FeedLoop, picodream_plain_feed_silu};
use crate::quant::{Quantiser, SILU_TABLE};

/// What a loop reads, and the loop.
pub(super) struct Constants {
    run: FeedLoop,
    words: [u32; 11],
}

/// `None` for quantisers without a loop. Apart, so that its variables take no stack below the loops.
#[inline(never)]
pub(super) fn constants(rule: &Rule, shared: &Shared) -> Option<Constants> {
    match shared.quantiser {
        Quantiser::Silu { multiplier, qmax } => {
            // SiLU is nowhere below −1144: the loop does not look for what is too small.
            if (1152 * multiplier) >> 16 > qmax {
                return None;
            }
            let table = SILU_TABLE.as_ptr() as u32;
            let tail = [rule.error, shared.mask, shared.fraction, multiplier as u32, table, qmax as u32];
            let mut words = [0; 11];
            words[HEAD..HEAD + 6].copy_from_slice(&tail);
            put_factor(rule, &mut words);
            Some(Constants { run: picodream_plain_feed_silu, words })
        }
        Quantiser::Plain { qmax, .. } => plain(rule, shared, qmax),
    }
}

/// Words in front of the error of a rule behind a SiLU.
#[cfg(picodream_baseline)]
const HEAD: usize = 3;
/// Words in front of the error of a rule behind a SiLU.
#[cfg(not(picodream_baseline))]
const HEAD: usize = 2;

/// Factor and offset, and what is the same for all.
#[cfg(picodream_baseline)]
fn put_factor(rule: &Rule, words: &mut [u32; 11]) {
    let [upper, lower] = rule.factor.halves;
    words[..3].copy_from_slice(&[upper, lower, rule.offset as u32]);
    words[9..].copy_from_slice(&[1 << 15, u32::from(rule.negative) << 15]);
}

/// Factor and offset.
#[cfg(not(picodream_baseline))]
fn put_factor(rule: &Rule, words: &mut [u32; 11]) {
    words[..2].copy_from_slice(&[signed(rule), rule.offset as u32]);
}

#[cfg(not(picodream_baseline))]
fn signed(rule: &Rule) -> u32 {
    if rule.negative { rule.factor.whole.wrapping_neg() } else { rule.factor.whole }
}

/// A plain quantiser's, of a positive factor where the loop has 21 bits of it.
fn plain(rule: &Rule, shared: &Shared, qmax: i32) -> Option<Constants> {
    // What roundings do to values that are not clamped, and a leading bit that is not there to a subnormal.
    let error = rule.error + ((qmax as u32 + 2) >> 5) + (top(rule) >> 12) + 2 + cut(rule, qmax)?;
    if shared.fraction != PLAIN_FRACTION as u32 || error > 1 << 14 {
        return None;
    }
    // Integers below zero are cut upwards: a step is anywhere in the unit below it.
    let (offset, width) = (rule.offset + (1 << PLAIN_FRACTION) + error as i32, (1 << PLAIN_FRACTION) + 2 * error);
    let (run, factor) = plain_loop(rule, qmax)?;
    let words = [factor, offset as u32, width << 16, qmax as u32, !qmax as u32, 0, 0, 0, 0, 0, 0];
    Some(Constants { run, words })
}

/// The upper 21 bits of a factor.
fn top(rule: &Rule) -> u32 {
    #[cfg(picodream_baseline)]
    return (rule.factor.halves[0] << 6) + (rule.factor.halves[1] >> 10);
    #[cfg(not(picodream_baseline))]
    return rule.factor.whole >> 10;
}

/// What the lower 10 bits of the factor make of values that are not clamped; they are multiplied, too, on the M3.
fn cut(rule: &Rule, qmax: i32) -> Option<u32> {
    if cfg!(not(picodream_baseline)) {
        return Some(0);
    }
    let bits = 31u32.checked_sub(top(rule).leading_zeros())?;
    let largest = ((qmax as u32 + 3) << 16).saturating_add(rule.offset.unsigned_abs());
    Some((largest >> bits) + 1)
}

#[cfg(picodream_baseline)]
fn plain_loop(rule: &Rule, _: i32) -> Option<(FeedLoop, u32)> {
    unsafe extern "C" {
        fn picodream_plain_feed_plain(v: *const f16, row: *mut i16, count: usize, step: usize, c: *const u32) -> usize;
    }
    (!rule.negative).then(|| (picodream_plain_feed_plain as FeedLoop, top(rule)))
}

#[cfg(not(picodream_baseline))]
fn plain_loop(rule: &Rule, qmax: i32) -> Option<(FeedLoop, u32)> {
    unsafe extern "C" {
        fn picodream_plain_feed_10(v: *const f16, row: *mut i16, count: usize, step: usize, c: *const u32) -> usize;
        fn picodream_plain_feed_12(v: *const f16, row: *mut i16, count: usize, step: usize, c: *const u32) -> usize;
    }
    match qmax {
        511 => Some((picodream_plain_feed_10, signed(rule))),
        2047 => Some((picodream_plain_feed_12, signed(rule))),
        _ => None,
    }
}

/// As [`Rule`]'s own.
pub(super) fn fill(rule: &Rule, constants: &Constants, from: &[f16], step: usize, count: usize, row: &mut [i16]) {
    let count = count.min(from.len().div_ceil(step)).min(row.len().div_ceil(2));
    let mut done = 0;
    while done < count {
        let (values, places) = (from[done * step..].as_ptr(), row[2 * done..].as_mut_ptr());
        // SAFETY: the loop reads count − done values, every `step` of the slice from done · step on, and writes as many places,
        // every other of the row from 2 · done on: `count` is bounded by both slices. The constants are those of the loop.
        let left = unsafe { (constants.run)(values, places, count - done, 2 * step, constants.words.as_ptr()) };
        done = count - left;
        if done < count {
            row[2 * done] = rule.exactly(from[done * step]);
            done += 1;
        }
    }
}
