//! The cores' own loops that feed, and what they read.

use core::ffi::c_void;

use super::feed::Stretch;
use super::feed_core;
use super::feed_rule::{PLAIN_FRACTION, Rule, Shared, Stored};
use crate::quant::{Quantiser, SILU_TABLE};

/// What a loop is told; the assembler names the fields by their offsets.
#[repr(C)]
pub(super) struct Job {
    /// 0: the first element, the first place, elements of a run, bytes from one to the next.
    from: *const u8,
    to: *mut i16,
    count: usize,
    step: usize,
    /// 16: the loop itself, and runs that are left.
    body: Body,
    runs: usize,
    /// 24: what decides where integers do not, and its rule.
    exactly: unsafe extern "C" fn(*const c_void, u32) -> i32,
    rule: *const c_void,
    /// 32: the loop's own.
    words: [u32; WORDS],
}

pub(super) const WORDS: usize = 13;

/// A loop, or the beginning or the rest of one.
pub(super) type Body = unsafe extern "C" fn(*mut Job);

/// `rule` is a [`Rule`].
unsafe extern "C" fn half_exactly(rule: *const c_void, bits: u32) -> i32 {
    // SAFETY: as said.
    unsafe { &*rule.cast::<Rule>() }.exactly(Stored::Halves, bits).into()
}

/// `rule` is a [`Rule`].
unsafe extern "C" fn byte_exactly(rule: *const c_void, bits: u32) -> i32 {
    // SAFETY: as said.
    unsafe { &*rule.cast::<Rule>() }.exactly(Stored::Bytes, bits).into()
}

/// A loop for a row's channels, one after the other.
pub(super) struct Loop<'s> {
    shared: &'s Shared,
    /// `None` where no loop fits the channel's rule.
    enter: Option<Body>,
    job: Job,
}

impl<'s> Loop<'s> {
    /// With what all channels share.
    pub(super) fn new(shared: &'s Shared) -> Self {
        let (exactly, body): (unsafe extern "C" fn(_, _) -> _, Body) = match shared.stored {
            Stored::Halves => (half_exactly, feed_core::SILU[0]),
            Stored::Bytes => (byte_exactly, feed_core::SILU[1]),
        };
        let (from, to, rule) = (core::ptr::null(), core::ptr::null_mut(), core::ptr::null());
        let mut job = Job { from, to, count: 0, step: 0, body, runs: 0, exactly, rule, words: [0; WORDS] };
        if let Quantiser::Silu { multiplier, qmax } = shared.quantiser {
            let tail = [shared.mask, shared.fraction, multiplier as u32, SILU_TABLE.as_ptr() as u32, qmax as u32];
            job.words[feed_core::ERROR + 1..][..5].copy_from_slice(&tail);
        }
        Self { shared, enter: None, job }
    }

    /// Makes a rule the channel's.
    pub(super) fn set(&mut self, rule: &Rule) {
        self.enter = match self.shared.quantiser {
            Quantiser::Silu { multiplier, qmax } => self.set_silu(rule, multiplier, qmax),
            Quantiser::Plain { qmax, .. } => self.set_plain(rule, qmax),
        };
    }

    fn set_silu(&mut self, rule: &Rule, multiplier: i32, qmax: i32) -> Option<Body> {
        feed_core::put_factor(rule, &mut self.job.words);
        // One more for a negative product, of which the M3 leaves out the last unit.
        self.job.words[feed_core::ERROR] = rule.error + 1;
        // SiLU is nowhere below −1144: the loop does not look for what is too small.
        if (1152 * multiplier) >> 16 > qmax { None } else { Some(feed_core::enter_silu(self.job.body)) }
    }

    /// Of a positive factor, where the loop has 21 bits of it.
    fn set_plain(&mut self, rule: &Rule, qmax: i32) -> Option<Body> {
        // What roundings do to values that are not clamped; and a leading bit that is not there to a subnormal, which is half a
        // step away from one where nothing is added.
        let (roundings, leading) = if rule.is_scale() { (7, 0) } else { (5, rule.factor >> 22) };
        let error = rule.error + ((qmax as u32 + 2) >> roundings) + leading + 3 + feed_core::cut(rule, qmax)?;
        let fits = qmax < 4096 && rule.offset.unsigned_abs() < 1 << 29;
        if !fits || self.shared.fraction != PLAIN_FRACTION as u32 || error > 1 << 14 {
            return None;
        }
        // Integers below zero are cut upwards: a step is anywhere in the unit below it.
        let (offset, width) = (rule.offset + (1 << PLAIN_FRACTION) + error as i32, (1 << PLAIN_FRACTION) + 2 * error);
        self.job.words[2] = width << 16;
        let (enter, body) = feed_core::put_plain(rule, self.shared.stored, (offset, qmax), &mut self.job.words)?;
        self.job.body = body;
        Some(enter)
    }

    /// Quantises what a stretch names, by the rule that was set.
    #[inline(never)]
    pub(super) fn run(&mut self, rule: &Rule, bytes: &[u8], row: &mut [i16], stretch: &Stretch) {
        let Stretch { from, step, from_next, to, to_next, count, runs } = *stretch;
        let stored = self.shared.stored;
        let bytes = &bytes[from..][..(runs - 1) * from_next + (count - 1) * step + stored.size()];
        let row = &mut row[to..][..(runs - 1) * to_next + 2 * count - 1];
        let Some(enter) = self.enter else { return fill(rule, stored, bytes, row, stretch) };
        let job = &mut self.job;
        (job.from, job.to, job.count, job.step, job.runs) = (bytes.as_ptr(), row.as_mut_ptr(), count, step, runs);
        job.rule = core::ptr::from_ref(rule).cast();
        if let Quantiser::Plain { .. } = self.shared.quantiser {
            job.words[feed_core::NEXT..][..2].copy_from_slice(&feed_core::next(stretch).map(|bytes| bytes as u32));
        }
        // SAFETY: the loop reads `runs` times `count` elements and writes as many places: both slices end behind the last. It
        // calls `exactly` with the rule, which outlives it.
        unsafe { enter(job) }
    }
}

/// Where no loop fits.
#[cold]
#[inline(never)]
fn fill(rule: &Rule, stored: Stored, bytes: &[u8], row: &mut [i16], stretch: &Stretch) {
    for (run, at) in (0..stretch.runs).flat_map(|run| (0..stretch.count).map(move |at| (run, at))) {
        let from = &bytes[run * stretch.from_next + at * stretch.step..];
        let upper = if stored == Stored::Halves { from[1] } else { 0 };
        row[run * stretch.to_next + 2 * at] = rule.exactly(stored, u32::from(from[0]) | u32::from(upper) << 8);
    }
}
