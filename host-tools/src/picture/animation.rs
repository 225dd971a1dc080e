//! A looping GIF of equally large frames.

use anyhow::{Context, Result, ensure};

use super::Picture;

/// Encodes `frames` as a GIF that loops for ever: `delay_ms` a frame, `hold_ms` on the last one.
///
/// A frame of up to 256 colours is kept exactly; others are reduced to 256. Every frame must have the size of the first.
pub fn gif_bytes(frames: &[Picture], delay_ms: u16, hold_ms: u16) -> Result<Vec<u8>> {
    let first = frames.first().context("an animation needs at least one frame")?;
    let (width, height) = (u16::try_from(first.width)?, u16::try_from(first.height)?);
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &[]).context("cannot encode the GIF")?;
    encoder.set_repeat(gif::Repeat::Infinite).context("cannot encode the GIF")?;
    for (i, picture) in frames.iter().enumerate() {
        ensure!(
            (picture.width, picture.height) == (first.width, first.height),
            "frame {i} is {}x{}, but the first is {width}x{height}",
            picture.width,
            picture.height
        );
        let mut frame = gif::Frame::from_rgb_speed(width, height, &picture.rgb, 10);
        frame.delay = if i + 1 == frames.len() { hold_ms } else { delay_ms } / 10;
        encoder.write_frame(&frame).context("cannot encode the GIF")?;
    }
    drop(encoder);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_loop_come_back() -> Result<()> {
        let frames = [Picture::new(4, 4, [255, 0, 0]), Picture::new(4, 4, [0, 0, 255])];
        let bytes = gif_bytes(&frames, 50, 1000)?;
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(&bytes[..])?;
        let mut colours = Vec::new();
        while let Some(frame) = decoder.read_next_frame()? {
            colours.push((frame.buffer[..3].to_vec(), frame.delay));
        }
        assert_eq!(colours, [(vec![255, 0, 0], 5), (vec![0, 0, 255], 100)]);
        assert!(gif_bytes(&[Picture::new(1, 1, [0; 3]), Picture::new(2, 1, [0; 3])], 1, 1).is_err());
        assert!(gif_bytes(&[], 1, 1).is_err());
        Ok(())
    }
}
