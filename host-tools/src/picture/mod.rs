//! Pictures for people: a small RGB canvas with a bitmap font, and what is made of it (PNG, sheets, GIF, SVG, terminal).

mod animation;
mod codec;
mod curve;
mod memory_map;
mod psnr;
mod sheet;
mod terminal;

pub use animation::gif_bytes;
pub use codec::{decode, png_bytes};
pub use curve::{Curve, CurvePoint, CurveSeries, curve_svg};
pub use memory_map::{MapTensor, MemoryMap, memory_map_svg};
pub use psnr::{LIMIT_DB, psnr_db};
pub use sheet::{Sheet, sheet};
pub use terminal::{TerminalColour, terminal_colour, terminal_preview};

use font8x8::legacy::BASIC_LEGACY;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Width and height of a character of [`Picture::text`], in pixels.
pub const CHARACTER: usize = 8;

/// An RGB picture: row-major, 3 bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// `height · width · 3` bytes.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// A picture of one colour.
    #[must_use]
    pub fn new(width: usize, height: usize, colour: Rgb) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    /// From `height · width · channels` samples, channel-last; `channels` is 1 (grey) or 3 (RGB).
    ///
    /// Missing samples are black.
    #[must_use]
    pub fn from_samples(width: usize, height: usize, channels: usize, samples: &[u8]) -> Self {
        let mut rgb = match channels {
            1 => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => samples.to_vec(),
        };
        rgb.resize(width * height * 3, 0);
        Self { width, height, rgb }
    }

    /// The colour at (x, y), which must lie inside.
    #[must_use]
    pub fn pixel(&self, x: usize, y: usize) -> Rgb {
        let at = (y * self.width + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    /// Sets the colour at (x, y); outside, nothing happens.
    pub fn set_pixel(&mut self, x: usize, y: usize, colour: Rgb) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// One byte a pixel: luma by Rec. 601, rounded; a grey picture comes back exactly.
    #[must_use]
    pub fn grey(&self) -> Vec<u8> {
        let luma = |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
        self.rgb.chunks_exact(3).map(|p| luma(p) as u8).collect()
    }

    /// Every pixel becomes a square of `factor` × `factor`.
    #[must_use]
    pub fn enlarged(&self, factor: usize) -> Self {
        let mut out = Self::new(self.width * factor, self.height * factor, [0; 3]);
        for y in 0..out.height {
            for x in 0..out.width {
                out.set_pixel(x, y, self.pixel(x / factor, y / factor));
            }
        }
        out
    }

    /// Copies `other` with its top left corner at (x, y); what falls outside is cut.
    pub fn paste(&mut self, x: usize, y: usize, other: &Self) {
        for row in 0..other.height {
            for column in 0..other.width {
                self.set_pixel(x + column, y + row, other.pixel(column, row));
            }
        }
    }

    /// Writes ASCII text with its top left corner at (x, y), `scale` times 8 × 8 pixels a character; other characters become '?'.
    pub fn text(&mut self, x: usize, y: usize, scale: usize, colour: Rgb, text: &str) {
        for (i, character) in text.chars().enumerate() {
            let code = if character.is_ascii() { character as usize } else { usize::from(b'?') };
            for (row, bits) in BASIC_LEGACY[code].iter().enumerate() {
                for column in (0..CHARACTER).filter(|column| bits >> column & 1 == 1) {
                    let (left, top) = (x + (i * CHARACTER + column) * scale, y + row * scale);
                    (0..scale * scale).for_each(|k| self.set_pixel(left + k % scale, top + k / scale, colour));
                }
            }
        }
    }
}

/// Text as it may stand in an SVG.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_picture_keeps_its_bytes() {
        let samples: Vec<u8> = (0..=255).collect();
        assert_eq!(Picture::from_samples(16, 16, 1, &samples).grey(), samples);
    }

    #[test]
    fn enlarging_repeats_pixels() {
        let picture = Picture::from_samples(2, 1, 3, &[1, 2, 3, 4, 5, 6]).enlarged(2);
        assert_eq!((picture.width, picture.height), (4, 2));
        assert_eq!(picture.pixel(1, 1), [1, 2, 3]);
        assert_eq!(picture.pixel(2, 0), [4, 5, 6]);
    }

    #[test]
    fn text_draws_and_is_cut_at_the_edge() {
        let mut picture = Picture::new(12, 8, [0; 3]);
        picture.text(0, 0, 1, [255; 3], "|é");
        assert!(picture.rgb.contains(&255));
        picture.text(100, 100, 3, [255; 3], "outside");
    }
}
