//! Which of the M0+'s loops feeds, and the constants that are its own.

use super::feed::Stretch;
use super::feed_loops::{Body, Job, WORDS};
use super::feed_rule::{Rule, Stored};

/// The words of a SiLU's error, and of what leads from one plain run to the next.
pub(super) const ERROR: usize = 3;
/// See [`ERROR`].
pub(super) const NEXT: usize = 5;

unsafe extern "C" {
    fn picodream_plain_feed_halves(job: *mut Job);
    fn picodream_plain_feed_bytes(job: *mut Job);
    fn picodream_plain_feed_silu_halves(job: *mut Job);
    fn picodream_plain_feed_silu_bytes(job: *mut Job);
}

/// The loops behind a SiLU, of halves and of bytes.
pub(super) const SILU: [Body; 2] = [picodream_plain_feed_silu_halves, picodream_plain_feed_silu_bytes];

/// What is called: the loop.
pub(super) fn enter_silu(body: Body) -> Body {
    body
}

/// Factor and offset behind a SiLU.
pub(super) fn put_factor(rule: &Rule, words: &mut [u32; WORDS]) {
    words[..3].copy_from_slice(&[rule.factor >> 16, rule.factor & 0xffff, rule.offset as u32]);
    words[9..11].copy_from_slice(&[1 << 15, u32::from(rule.negative) << 15]);
}

/// Bytes from a run to the next, of elements and of places.
pub(super) fn next(&Stretch { from_next, to_next, .. }: &Stretch) -> [usize; 2] {
    [from_next, 2 * to_next]
}

/// What the lower 10 bits of the factor make of values that are not clamped.
pub(super) fn cut(rule: &Rule, qmax: i32) -> Option<u32> {
    let bits = 31u32.checked_sub((rule.factor >> 10).leading_zeros())?;
    let largest = ((qmax as u32 + 3) << 16).saturating_add(rule.offset.unsigned_abs());
    Some((largest >> bits) + 1)
}

/// The constants of a plain loop, what is called and where that goes on: values are shifted to where nothing is negative; of a positive factor the upper 21 bits.
pub(super) fn put_plain(
    rule: &Rule,
    stored: Stored,
    (offset, qmax): (i32, i32),
    words: &mut [u32; WORDS],
) -> Option<(Body, Body)> {
    if rule.negative {
        return None;
    }
    let up = qmax + 1;
    words[..2].copy_from_slice(&[rule.factor >> 10, (offset + (up << 16)) as u32]);
    words[3..5].copy_from_slice(&[2 * up as u32, -up as u32]);
    let body: Body = match stored {
        Stored::Halves => picodream_plain_feed_halves,
        Stored::Bytes => picodream_plain_feed_bytes,
    };
    Some((body, body))
}
