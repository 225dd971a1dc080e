//! Cortex-M55 and M85: Helium vectors.

pub use super::portable::{BLOB_ALIGN, direct, feed, finish, phase, winograd_input, winograd_products};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "cortex-m-helium";
