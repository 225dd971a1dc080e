//! Pictures for terminals: each pixel two characters of its brightness.

use core::fmt::{Result, Write};

use picodream::Image;

/// From dark to bright.
const SHADES: &[u8; 10] = b" .:-=+*#%@";

/// Writes the image, row by row.
pub fn write(out: &mut impl Write, image: &Image) -> Result {
    let mut pixels = image.gray8();
    for _ in 0..image.height() {
        for pixel in pixels.by_ref().take(image.width().into()) {
            let shade = char::from(SHADES[usize::from(pixel) * SHADES.len() / 256]);
            out.write_char(shade)?;
            out.write_char(shade)?;
        }
        out.write_str("\r\n")?;
    }
    Ok(())
}
