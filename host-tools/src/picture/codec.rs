//! PNG and JPEG to [`Picture`], pixels to PNG.

use std::io::Cursor;

use anyhow::{Context, Result, bail, ensure};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Picture;

/// Decodes a PNG or a JPEG, told apart by its first bytes; transparent pixels are laid over white, and a JPEG is turned as
/// its EXIF orientation says.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => decode_png(bytes),
        [0xff, 0xd8, ..] => decode_jpeg(bytes),
        [] => bail!("the picture is empty"),
        _ => bail!("neither a PNG nor a JPEG"),
    }
}

fn decode_png(bytes: &[u8]) -> Result<Picture> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().context("broken PNG")?;
    let mut samples = vec![0; reader.output_buffer_size().context("this PNG is too large")?];
    let info = reader.next_frame(&mut samples).context("broken PNG")?;
    samples.truncate(info.buffer_size());
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let rgb = match info.color_type {
        png::ColorType::Grayscale => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => samples.chunks_exact(2).flat_map(|p| [over_white(p[0], p[1]); 3]).collect(),
        png::ColorType::Rgba => {
            samples.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|value| over_white(value, p[3]))).collect()
        }
        png::ColorType::Rgb | png::ColorType::Indexed => samples,
    };
    Ok(Picture { width: info.width as usize, height: info.height as usize, rgb })
}

fn decode_jpeg(bytes: &[u8]) -> Result<Picture> {
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().context("broken JPEG")?;
    let (width, height) = decoder.dimensions().context("broken JPEG")?;
    ensure!(rgb.len() == width * height * 3, "broken JPEG: {} bytes for {width}x{height} pixels", rgb.len());
    let orientation = decoder.exif().and_then(|exif| exif_orientation(exif)).unwrap_or(1);
    Ok(turned(&Picture { width, height, rgb }, orientation))
}

/// Tag 0x0112 of the first directory of an EXIF block (a TIFF header and what follows it).
fn exif_orientation(exif: &[u8]) -> Option<u16> {
    let big_endian = exif.starts_with(b"MM");
    let u16_at = |at: usize| {
        let bytes = exif.get(at..at + 2)?.try_into().ok()?;
        Some(if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    let (high, low) = if big_endian { (4, 6) } else { (6, 4) };
    let directory = usize::from(u16_at(high)?) << 16 | usize::from(u16_at(low)?);
    let entries = (0..usize::from(u16_at(directory)?)).map(|i| directory + 2 + 12 * i);
    entries.into_iter().find(|&entry| u16_at(entry) == Some(0x0112)).and_then(|entry| u16_at(entry + 8))
}

/// The picture as EXIF `orientation` 1..=8 wants it seen; other values change nothing.
fn turned(picture: &Picture, orientation: u16) -> Picture {
    let (w, h) = (picture.width, picture.height);
    let (width, height) = if (5..=8).contains(&orientation) { (h, w) } else { (w, h) };
    let mut out = Picture::new(width, height, [0; 3]);
    for y in 0..height {
        for x in 0..width {
            let (from_x, from_y) = match orientation {
                2 => (w - 1 - x, y),
                3 => (w - 1 - x, h - 1 - y),
                4 => (x, h - 1 - y),
                5 => (y, x),
                6 => (y, h - 1 - x),
                7 => (w - 1 - y, h - 1 - x),
                8 => (w - 1 - y, x),
                _ => (x, y),
            };
            out.set_pixel(x, y, picture.pixel(from_x, from_y));
        }
    }
    out
}

/// Encodes `height · width · channels` samples, channel-last, as a grey (1) or RGB (3) PNG; the samples come back exactly.
pub fn png_bytes(width: usize, height: usize, channels: usize, samples: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(if channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().context("cannot encode the PNG")?;
    writer.write_image_data(samples).context("cannot encode the PNG")?;
    writer.finish().context("cannot encode the PNG")?;
    Ok(bytes)
}

impl Picture {
    /// The picture as an RGB PNG.
    pub fn png(&self) -> Result<Vec<u8>> {
        png_bytes(self.width, self.height, 3, &self.rgb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_round_trip_is_exact() -> Result<()> {
        let samples: Vec<u8> = (0..5 * 7 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let picture = Picture::from_samples(5, 7, 3, &samples);
        assert_eq!(decode(&picture.png()?)?, picture);
        let grey = decode(&png_bytes(5, 7, 1, &samples[..35])?)?;
        assert_eq!(grey.grey(), &samples[..35]);
        Ok(())
    }

    #[test]
    fn orientation_is_read_and_obeyed() {
        let little = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0";
        assert_eq!((exif_orientation(little), exif_orientation(big)), (Some(6), Some(8)));
        assert_eq!((exif_orientation(&little[..16]), exif_orientation(b"")), (None, None));
        // Two pixels side by side, seen from the right (6: turn clockwise) and from the left (8).
        let picture = Picture::from_samples(2, 1, 1, &[10, 20]);
        assert_eq!(turned(&picture, 6).grey(), [10, 20]);
        assert_eq!(turned(&picture, 8).grey(), [20, 10]);
        assert_eq!((turned(&picture, 6).width, turned(&picture, 2).grey()), (1, vec![20, 10]));
        for orientation in 1..=8 {
            let inverse = [1, 2, 3, 4, 5, 8, 7, 6][usize::from(orientation) - 1];
            let square = Picture::from_samples(2, 3, 1, &[1, 2, 3, 4, 5, 6]);
            assert_eq!(turned(&turned(&square, orientation), inverse), square);
        }
    }

    #[test]
    fn broken_pictures_are_refused() -> Result<()> {
        let png = Picture::new(8, 8, [9, 99, 199]).png()?;
        for bytes in [&png[..20], &png[..png.len() - 14], &[], &b"GIF89a"[..], &[0xff, 0xd8, 0xff, 0xe0][..]] {
            assert!(decode(bytes).is_err());
        }
        let mut flipped = png;
        flipped[45] ^= 4;
        assert!(decode(&flipped).is_err());
        Ok(())
    }
}
