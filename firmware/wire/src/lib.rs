//! What a computer and a picodream firmware say to each other: one [`Request`] in, a stream of [`Record`]s out.
//!
//! Little-endian 32-bit words; emit and parse stand side by side, so the layout is written down only here. A 64-bit
//! number is two words, the low one first. The transport (files over semihosting, a serial line) only moves bytes.
#![no_std]

#[cfg(test)]
extern crate std;

mod record;
mod request;

pub use record::{Record, Records};
pub use request::{Class, Request, Sampler};

/// Bytes that are no request or no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the layout needs: (needed, got).
    Truncated(u32, u32),
    /// The first word is not the one that the layout starts with.
    BadMagic(u32),
    /// A record's tag, or a field with few allowed values, has this one.
    BadValue(u32),
    /// A text is not UTF-8.
    BadText,
}

impl core::fmt::Display for WireError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated(needed, got) => write!(f, "message needs {needed} bytes but has {got}"),
            Self::BadMagic(word) => write!(f, "message starts with {word:#010x}"),
            Self::BadValue(word) => write!(f, "message has an unknown value {word}"),
            Self::BadText => f.write_str("message has a text that is not UTF-8"),
        }
    }
}

impl core::error::Error for WireError {}

/// `N` words from the front of `bytes`.
fn words<const N: usize>(bytes: &[u8]) -> Result<[u32; N], WireError> {
    let short = WireError::Truncated(4 * N as u32, bytes.len() as u32);
    let head = bytes.get(..4 * N).ok_or(short)?;
    let mut words = [0; N];
    for (word, chunk) in words.iter_mut().zip(head.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*chunk);
    }
    Ok(words)
}

/// `None` on the wire, where a class or its absence stands.
const NO_CLASS: u32 = u32::MAX;

/// A class or its absence, from its word.
fn class_of(word: u32) -> Result<Option<u16>, WireError> {
    match word {
        NO_CLASS => Ok(None),
        class => u16::try_from(class).map(Some).map_err(|_| WireError::BadValue(class)),
    }
}

const fn low(x: u64) -> u32 {
    x as u32
}

const fn high(x: u64) -> u32 {
    (x >> 32) as u32
}

const fn joined(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}
