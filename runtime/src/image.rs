//! Finished pixels: x_0 mapped to 0..=255 on the fly, as Gray8, RGB888, RGB565 or an embedded-graphics drawable.

use crate::checksum::CRC32;
use crate::math;

/// A view of a sample as an image. Pixels are computed when asked for; no buffer is kept.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    sample: &'a [f32],
    width: u16,
    height: u16,
    channels: u8,
    scale: f32,
    offset: f32,
}

impl<'a> Image<'a> {
    /// `sample` is f32 \[height\]\[width\]\[channels\] with 1 or 3 channels; pixel = sample · scale + offset.
    #[must_use]
    pub fn new(sample: &'a [f32], (width, height, channels): (u16, u16, u8), scale: f32, offset: f32) -> Self {
        Self { sample, width, height, channels, scale, offset }
    }

    /// Pixels across.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Pixels down.
    #[must_use]
    pub fn height(&self) -> u16 {
        self.height
    }

    /// 1 (grey) or 3 (RGB).
    #[must_use]
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// The bytes of the image in row-major order: one per pixel for grey, R, G, B for colour.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + use<'a> {
        let (scale, offset) = (self.scale, self.offset);
        self.sample.iter().map(move |&x| to_byte(x, scale, offset))
    }

    /// (r, g, b) of each pixel in row-major order; grey is repeated.
    pub fn rgb888(&self) -> impl Iterator<Item = [u8; 3]> + use<'a> {
        let (scale, offset) = (self.scale, self.offset);
        self.sample.chunks_exact(self.channels.max(1).into()).map(move |pixel| {
            let [r, g, b] = if let [r, g, b] = *pixel { [r, g, b] } else { [pixel[0]; 3] };
            [to_byte(r, scale, offset), to_byte(g, scale, offset), to_byte(b, scale, offset)]
        })
    }

    /// Luma of each pixel in row-major order: grey as it is, colour as (77·r + 150·g + 29·b) >> 8.
    pub fn gray8(&self) -> impl Iterator<Item = u8> + use<'a> {
        let grey = self.channels == 1;
        self.rgb888().map(move |[r, g, b]| {
            if grey { r } else { ((77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b)) >> 8) as u8 }
        })
    }

    /// 5-6-5 bit colour of each pixel in row-major order, red in the high bits.
    pub fn rgb565(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.rgb888().map(|[r, g, b]| u16::from(r >> 3) << 11 | u16::from(g >> 2) << 5 | u16::from(b >> 3))
    }

    /// CRC-32/ISO-HDLC over [`Image::bytes`].
    #[must_use]
    pub fn crc32(&self) -> u32 {
        let mut digest = CRC32.digest();
        for byte in self.bytes() {
            digest.update(&[byte]);
        }
        digest.finalize()
    }
}

/// clamp(x · scale + offset, 0..=255) to the nearest integer, ties to even; NaN gives 0.
fn to_byte(x: f32, scale: f32, offset: f32) -> u8 {
    let y = x * scale + offset;
    let y = if y > 0.0 { y } else { 0.0 };
    let y = if y < 255.0 { y } else { 255.0 };
    math::round_ties_even(y) as u8
}

#[cfg(feature = "embedded-graphics")]
mod drawable {
    use super::Image;
    use embedded_graphics_core::image::ImageDrawable;
    use embedded_graphics_core::pixelcolor::Rgb888;
    use embedded_graphics_core::prelude::{DrawTarget, OriginDimensions, Point, Size};
    use embedded_graphics_core::primitives::Rectangle;

    impl OriginDimensions for Image<'_> {
        fn size(&self) -> Size {
            Size::new(self.width.into(), self.height.into())
        }
    }

    impl ImageDrawable for Image<'_> {
        type Color = Rgb888;

        fn draw<D: DrawTarget<Color = Rgb888>>(&self, target: &mut D) -> Result<(), D::Error> {
            let area = Rectangle::new(Point::zero(), self.size());
            target.fill_contiguous(&area, self.rgb888().map(|[r, g, b]| Rgb888::new(r, g, b)))
        }

        fn draw_sub_image<D: DrawTarget<Color = Rgb888>>(
            &self,
            target: &mut D,
            area: &Rectangle,
        ) -> Result<(), D::Error> {
            let whole = Rectangle::new(Point::zero(), self.size());
            if area.intersection(&whole) != *area {
                return Ok(()); // embedded-graphics: areas outside the image draw nothing.
            }
            let width = i32::from(self.width);
            let inside = self
                .rgb888()
                .enumerate()
                .filter(|(i, _)| area.contains(Point::new(*i as i32 % width, *i as i32 / width)))
                .map(|(_, [r, g, b])| Rgb888::new(r, g, b));
            target.fill_contiguous(&Rectangle::new(Point::zero(), area.size), inside)
        }
    }
}
