//! Two settings of the process that make candle fast for small networks; neither changes a single bit of the result.

use std::hint::black_box;
use std::sync::Once;

/// Call before training. Does its work once per process.
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        one_candle_thread();
        keep_freed_memory();
    });
}

/// candle splits large additions over a pool of spinning threads, which on small images costs more than it gains and
/// takes the cores that our own workers want. Its only switch is the environment.
#[allow(unsafe_code, reason = "candle takes this setting from the environment alone")]
fn one_candle_thread() {
    for name in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        if std::env::var_os(name).is_none() {
            // SAFETY: the danger is C code reading the environment at the same moment from another thread; the standard
            // library locks its own accesses, and nothing linked here calls a C function that reads it.
            unsafe { std::env::set_var(name, "1") };
        }
    }
}

/// glibc gives freed blocks back to the kernel and takes new, unmapped pages a moment later: a quarter of the time of a
/// step. Freeing one large block raises both thresholds that decide this (mallopt(3), "dynamic mmap threshold").
fn keep_freed_memory() {
    drop(black_box(vec![1u8; 31 << 20]));
}
