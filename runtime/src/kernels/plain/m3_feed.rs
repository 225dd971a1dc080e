//! Which of the M3's loops feeds, and the constants that are its own.

use super::feed::Stretch;
use super::feed_loops::{Body, Job, WORDS};
use super::feed_rule::{Rule, Stored};

/// The words of a SiLU's error, and of what leads from one plain run to the next.
pub(super) const ERROR: usize = 2;
/// See [`ERROR`].
pub(super) const NEXT: usize = 3;

unsafe extern "C" {
    fn picodream_plain_feed(job: *mut Job);
    fn picodream_plain_feed_halves_10(job: *mut Job);
    fn picodream_plain_feed_halves_12(job: *mut Job);
    fn picodream_plain_feed_halves(job: *mut Job);
    fn picodream_plain_feed_bytes(job: *mut Job);
    fn picodream_plain_feed_silu(job: *mut Job);
    fn picodream_plain_feed_silu_halves(job: *mut Job);
    fn picodream_plain_feed_silu_bytes(job: *mut Job);
}

/// The loops behind a SiLU, of halves and of bytes.
pub(super) const SILU: [Body; 2] = [picodream_plain_feed_silu_halves, picodream_plain_feed_silu_bytes];

/// What is called: it goes on to the loop.
pub(super) fn enter_silu(_: Body) -> Body {
    picodream_plain_feed_silu
}

/// Factor and offset behind a SiLU.
pub(super) fn put_factor(rule: &Rule, words: &mut [u32; WORDS]) {
    words[..2].copy_from_slice(&[signed(rule), rule.offset as u32]);
}

/// The factor with its sign.
fn signed(rule: &Rule) -> u32 {
    if rule.negative { rule.factor.wrapping_neg() } else { rule.factor }
}

/// Bytes from a run to the next, of elements, and from the end of its places to the next one's.
pub(super) fn next(&Stretch { from_next, to_next, count, .. }: &Stretch) -> [usize; 2] {
    [from_next, (2 * to_next).wrapping_sub(4 * count)]
}

/// What bits of the factor that are left out make of a value: there are none.
pub(super) fn cut(_: &Rule, _: i32) -> Option<u32> {
    Some(0)
}

/// The constants of a plain loop, what is called and where that goes on: two of them have loops of their own, the others are shifted to where nothing is negative.
pub(super) fn put_plain(
    rule: &Rule,
    stored: Stored,
    (offset, qmax): (i32, i32),
    words: &mut [u32; WORDS],
) -> Option<(Body, Body)> {
    let (body, up): (Body, _) = match (stored, qmax) {
        (Stored::Halves, 511) => (picodream_plain_feed_halves_10, 0),
        (Stored::Halves, 2047) => (picodream_plain_feed_halves_12, 0),
        (Stored::Halves, _) => (picodream_plain_feed_halves, qmax + 1),
        (Stored::Bytes, _) => (picodream_plain_feed_bytes, qmax + 1),
    };
    words[..2].copy_from_slice(&[signed(rule), (offset + (up << 16)) as u32]);
    words[5] = 2 * up as u32;
    Some((picodream_plain_feed, body))
}
