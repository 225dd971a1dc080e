//! Fits a picture to a model: centre-crop to its aspect ratio, average over areas, then grey or RGB; all in integers.

use crate::config::ImageConfig;

/// For one axis: the first source pixel of each output pixel and the weights from there on; a row of weights sums to
/// the cropped length.
struct Axis {
    taps: Vec<(usize, Vec<u64>)>,
    length: u64,
}

impl Axis {
    /// `length` source pixels from `start`, spread over `outputs` pixels: source pixel i covers [i·outputs, (i+1)·outputs)
    /// and output o covers [o·length, (o+1)·length) of one common scale.
    fn new(start: usize, length: usize, outputs: usize) -> Self {
        let tap = |o: usize| {
            let (low, high) = (o * length, (o + 1) * length);
            let (first, last) = (low / outputs, (high - 1) / outputs);
            let overlap = |i: usize| (high.min((i + 1) * outputs) - low.max(i * outputs)) as u64;
            (start + first, (first..=last).map(overlap).collect())
        };
        Self { taps: (0..outputs).map(tap).collect(), length: length as u64 }
    }
}

/// The fitting of pictures of one shape to images of another.
///
/// Each output value is the average of the area it covers, rounded half up: (2·Σ w·p + Σ w) div (2·Σ w). Then RGB becomes
/// grey as (299·R + 587·G + 114·B + 500) div 1000, and grey becomes RGB by repeating it.
pub struct Fit {
    from: ImageConfig,
    to: ImageConfig,
    across: Axis,
    down: Axis,
}

impl Fit {
    /// Neither shape may have a zero size; channels are 1 or 3.
    #[must_use]
    pub fn new(from: ImageConfig, to: ImageConfig) -> Self {
        let (w, h) = (from.width, from.height);
        // The largest centred part of w × h with the target's aspect ratio.
        let (crop_w, crop_h) = if w * to.height > h * to.width {
            ((h * to.width / to.height).max(1), h)
        } else {
            (w, (w * to.height / to.width).max(1))
        };
        let across = Axis::new((w - crop_w) / 2, crop_w, to.width);
        let down = Axis::new((h - crop_h) / 2, crop_h, to.height);
        Self { from, to, across, down }
    }

    /// Appends the fitted image; `pixels` is from.height × from.width × from.channels.
    pub fn append(&self, pixels: &[u8], out: &mut Vec<u8>) {
        for (y, rows) in &self.down.taps {
            for (x, columns) in &self.across.taps {
                let mean = |c| self.mean(pixels, (*y, rows), (*x, columns), c);
                match (self.from.channels, self.to.channels) {
                    (1, 1) => out.push(mean(0)),
                    (1, _) => out.extend([mean(0); 3]),
                    (_, 1) => out.push(grey([mean(0), mean(1), mean(2)])),
                    _ => out.extend([mean(0), mean(1), mean(2)]),
                }
            }
        }
    }

    fn mean(&self, pixels: &[u8], (y, rows): (usize, &[u64]), (x, columns): (usize, &[u64]), channel: usize) -> u8 {
        let mut sum = 0;
        for (dy, row_weight) in rows.iter().enumerate() {
            let row = (y + dy) * self.from.width + x;
            for (dx, weight) in columns.iter().enumerate() {
                sum += row_weight * weight * u64::from(pixels[(row + dx) * self.from.channels + channel]);
            }
        }
        let total = self.across.length * self.down.length;
        ((2 * sum + total) / (2 * total)) as u8
    }
}

fn grey([r, g, b]: [u8; 3]) -> u8 {
    ((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) + 500) / 1000) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(width: usize, height: usize, channels: usize) -> ImageConfig {
        ImageConfig { width, height, channels }
    }

    fn fitted(from: ImageConfig, to: ImageConfig, pixels: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Fit::new(from, to).append(pixels, &mut out);
        out
    }

    #[test]
    fn same_size_is_the_identity() {
        let pixels: Vec<u8> = (0..27).map(|i| i * 9).collect();
        assert_eq!(fitted(shape(3, 3, 3), shape(3, 3, 3), &pixels), pixels);
    }

    #[test]
    fn two_by_two_boxes_round_half_up() {
        // Means 0.25, 0.5, 0.75, 255.
        let pixels = [0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 255, 255, 1, 0, 255, 255];
        assert_eq!(fitted(shape(4, 4, 1), shape(2, 2, 1), &pixels), [0, 1, 1, 255]);
    }

    #[test]
    fn fractional_areas_weigh_by_overlap() {
        // 3 pixels to 2: (2·0 + 1·90)/3 and (1·90 + 2·30)/3, in both axes.
        let pixels = [0, 90, 30, 0, 90, 30, 0, 90, 30];
        assert_eq!(fitted(shape(3, 3, 1), shape(2, 2, 1), &pixels), [30, 50, 30, 50]);
        // Enlarging repeats, with the mean where an output pixel straddles two.
        assert_eq!(fitted(shape(2, 2, 1), shape(3, 3, 1), &[0, 100, 0, 100])[..3], [0, 50, 100]);
    }

    #[test]
    fn crops_the_centre() {
        let pixels = [9, 1, 2, 9, 9, 3, 4, 9];
        assert_eq!(fitted(shape(4, 2, 1), shape(2, 2, 1), &pixels), [1, 2, 3, 4]);
        assert_eq!(fitted(shape(1, 4, 1), shape(1, 1, 1), &[0, 8, 0, 0]), [8]);
        assert_eq!(fitted(shape(1, 5, 1), shape(4, 1, 1), &[0, 0, 7, 0, 0]), [7; 4]);
    }

    #[test]
    fn grey_and_rgb_convert() {
        assert_eq!(fitted(shape(1, 1, 1), shape(1, 1, 3), &[7]), [7, 7, 7]);
        assert_eq!(fitted(shape(1, 1, 3), shape(1, 1, 1), &[255, 255, 255]), [255]);
        assert_eq!(fitted(shape(1, 1, 3), shape(1, 1, 1), &[255, 0, 0]), [76]);
    }
}
