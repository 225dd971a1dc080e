//! Cortex-M0+ and M3: register-blocked loops without DSP or FPU.

pub use super::portable::{BLOB_ALIGN, direct, feed, finish, phase, winograd_input, winograd_products};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-plain";
