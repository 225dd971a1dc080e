//! A short text made without a heap.

use core::fmt::{Display, Error, Write};

/// Up to [`Text::CAPACITY`] bytes of text; what does not fit is cut off.
pub struct Text {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Text {
    const CAPACITY: usize = 160;

    /// `value` as it displays itself.
    pub fn of(value: &dyn Display) -> Self {
        let mut text = Self { bytes: [0; Self::CAPACITY], len: 0 };
        // The only failure is a full text, and what is there then is still worth reading.
        let _ = write!(text, "{value}");
        text
    }

    /// The text so far.
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..self.len];
        match core::str::from_utf8(bytes) {
            Ok(whole) => whole,
            Err(cut) => core::str::from_utf8(&bytes[..cut.valid_up_to()]).unwrap_or(""),
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> Result<(), Error> {
        let room = &mut self.bytes[self.len..];
        let fits = piece.len().min(room.len());
        room[..fits].copy_from_slice(&piece.as_bytes()[..fits]);
        self.len += fits;
        if fits == piece.len() { Ok(()) } else { Err(Error) }
    }
}
