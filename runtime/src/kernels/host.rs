//! Computers: loops that the compiler turns into vector code.

pub use super::portable::{BLOB_ALIGN, direct, feed, finish, phase, winograd_input, winograd_products};

/// The back end in use, for firmware to log and tests to assert.
pub const BACKEND: &str = "host";
