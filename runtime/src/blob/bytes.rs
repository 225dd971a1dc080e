//! Little-endian fields at fixed offsets: the only place where numbers become bytes and back.
//!
//! Readers return 0 past the end instead of panicking; every caller has checked the length of its record first.

/// `bytes[at]`.
pub(super) const fn u8_at(bytes: &[u8], at: usize) -> u8 {
    if at < bytes.len() { bytes[at] } else { 0 }
}

/// `u16` at byte `at`.
pub(super) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([u8_at(bytes, at), u8_at(bytes, at + 1)])
}

/// `u32` at byte `at`.
pub(super) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u16_at(bytes, at) as u32 | (u16_at(bytes, at + 2) as u32) << 16
}

/// `f32` at byte `at`.
pub(super) const fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(u32_at(bytes, at))
}

/// Copies `value` to byte `at` of a record buffer that is long enough.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `x` rounded up to a multiple of 16, or `None` past `u32::MAX`.
#[must_use]
pub const fn align16(x: u32) -> Option<u32> {
    match x.checked_add(15) {
        Some(y) => Some(y & !15),
        None => None,
    }
}
