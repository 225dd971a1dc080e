//! Cortex-M4, M7 and M33: DSP instructions, and the FPU for what surrounds them.

pub use super::portable::{BLOB_ALIGN, direct, feed, finish, phase, winograd_input, winograd_products};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-dsp";
