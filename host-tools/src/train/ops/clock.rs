//! Time and arithmetic of each kind of operator, summed over threads; counts only while a benchmark asks for it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A kind of operator, in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Convolutions and linear layers.
    ConvForward,
    /// Their gradient of the input.
    ConvInput,
    /// Their gradient of weight and bias.
    ConvWeight,
    /// GroupNorm with SiLU.
    NormForward,
    /// Its gradients.
    NormBackward,
    /// Attention.
    AttentionForward,
    /// Its gradients.
    AttentionBackward,
}

impl Part {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::ConvForward,
        Self::ConvInput,
        Self::ConvWeight,
        Self::NormForward,
        Self::NormBackward,
        Self::AttentionForward,
        Self::AttentionBackward,
    ];

    /// A name to print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConvForward => "convolution",
            Self::ConvInput => "convolution, gradient of input",
            Self::ConvWeight => "convolution, gradient of weight",
            Self::NormForward => "norm and SiLU",
            Self::NormBackward => "norm and SiLU, gradient",
            Self::AttentionForward => "attention",
            Self::AttentionBackward => "attention, gradient",
        }
    }
}

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];
static OPERATIONS: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];

/// A measurement that runs.
///
/// Begun and ended by hand: a closure would leave the function whose vector instructions it is compiled for.
#[must_use]
pub struct Lap {
    part: Part,
    begin: Option<Instant>,
}

/// Begins to measure `part`; nothing happens while no benchmark runs.
pub fn begin(part: Part) -> Lap {
    Lap { part, begin: ON.load(Relaxed).then(Instant::now) }
}

impl Lap {
    /// Ends it, after `operations` floating-point operations (a multiply-add is two).
    pub fn end(self, operations: usize) {
        if let Some(begin) = self.begin {
            NANOSECONDS[self.part as usize].fetch_add(begin.elapsed().as_nanos() as u64, Relaxed);
            OPERATIONS[self.part as usize].fetch_add(operations as u64, Relaxed);
        }
    }
}

/// Counts what `f` does: (seconds, operations) by part. One at a time per process, or the counts mix.
pub fn count<R>(f: impl FnOnce() -> R) -> (R, [(f64, u64); 7]) {
    NANOSECONDS.iter().chain(&OPERATIONS).for_each(|sum| sum.store(0, Relaxed));
    ON.store(true, Relaxed);
    let result = f();
    ON.store(false, Relaxed);
    let sums = std::array::from_fn(|i| (NANOSECONDS[i].load(Relaxed) as f64 * 1e-9, OPERATIONS[i].load(Relaxed)));
    (result, sums)
}
