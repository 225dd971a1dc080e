//! Ways to break an image by degrees: what the feature networks of faces and emoji learn to notice, and how it is tested.
//!
//! Faces have no classes, so their network tells whole faces from broken ones and one kind of break from another.

use picodream::rng::NoiseStream;

use crate::config::ImageConfig;

/// A family of changes; each takes a strength in 0..=1, where 0 changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// Left as it is.
    Intact,
    /// Gaussian noise of deviation 64·s levels.
    Noise,
    /// Mixed with its 3×3 box average (twice) by s.
    Blur,
    /// Mixed by s with the image whose red, green and blue trade places; grey images with their negative.
    Colours,
    /// s·height rows pushed sideways by up to 4 pixels.
    Rows,
    /// 8·s pairs of 4×4 blocks swapped.
    Blocks,
    /// The right half, or the lower half, mixed by s with that of another image.
    Halves,
    /// The eight middle rows pushed down by 4·s, around their own end: eyes and mouth out of place.
    Moved,
    /// 6·s squares of 3×3 painted over with a pixel of another image.
    Holes,
    /// Mixed by s/2 with another image: two faces at once.
    Ghost,
}

impl Corruption {
    /// Every family; the first is no corruption. The order is that of the network's classes.
    pub const ALL: [Self; 10] = [
        Self::Intact,
        Self::Noise,
        Self::Blur,
        Self::Colours,
        Self::Rows,
        Self::Blocks,
        Self::Halves,
        Self::Moved,
        Self::Holes,
        Self::Ghost,
    ];

    /// Name of the family in lower case.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Breaks `image` with `strength`; `other` is another image of the same shape. Both are height × width × channels.
    #[must_use]
    pub fn apply(
        self,
        image: &[u8],
        other: &[u8],
        shape: ImageConfig,
        strength: f32,
        stream: &mut NoiseStream,
    ) -> Vec<u8> {
        let s = strength.clamp(0.0, 1.0);
        let mut out = image.to_vec();
        match self {
            Self::Intact => {}
            Self::Noise => add_noise(&mut out, 64.0 * s, stream),
            Self::Blur => mix(&mut out, &blurred(&blurred(image, shape), shape), s),
            Self::Colours => mix(&mut out, &recoloured(image, shape), s),
            Self::Rows => push_rows(&mut out, shape, s, stream),
            Self::Blocks => (0..count(8.0, s)).for_each(|_| swap_blocks(&mut out, shape, stream)),
            Self::Halves => mix_half(&mut out, other, shape, s, stream.below(2) == 0),
            Self::Moved => move_middle(&mut out, shape, count(4.0, s)),
            Self::Holes => (0..count(6.0, s)).for_each(|_| paint_hole(&mut out, other, shape, stream)),
            Self::Ghost => mix(&mut out, other, 0.5 * s),
        }
        out
    }
}

/// Adds Gaussian noise of deviation `sigma` levels to every value, rounded and clamped to a byte.
pub fn add_noise(image: &mut [u8], sigma: f32, stream: &mut NoiseStream) {
    for x in image {
        *x = byte(f32::from(*x) + sigma * stream.next_gaussian());
    }
}

fn byte(x: f32) -> u8 {
    x.round().clamp(0.0, 255.0) as u8
}

/// `most`·s, rounded up: any strength above zero does something.
fn count(most: f32, s: f32) -> usize {
    (most * s).ceil() as usize
}

fn mix(image: &mut [u8], with: &[u8], part: f32) {
    for (x, &y) in image.iter_mut().zip(with) {
        *x = byte(f32::from(*x) + (f32::from(y) - f32::from(*x)) * part);
    }
}

fn blurred(image: &[u8], shape: ImageConfig) -> Vec<u8> {
    let ImageConfig { width, height, channels } = shape;
    let at = |y: usize, x: usize, c: usize| {
        // Offsets 0..3 stand for −1..=1; the border repeats.
        let (y, x) = (y.saturating_sub(1).min(height - 1), x.saturating_sub(1).min(width - 1));
        u32::from(image[(y * width + x) * channels + c])
    };
    let mean = |k: usize| {
        let (y, x, c) = (k / channels / width, k / channels % width, k % channels);
        let sum: u32 = (0..9).map(|t| at(y + t / 3, x + t % 3, c)).sum();
        ((sum + 4) / 9) as u8
    };
    (0..image.len()).map(mean).collect()
}

fn recoloured(image: &[u8], shape: ImageConfig) -> Vec<u8> {
    match shape.channels {
        3 => image.chunks_exact(3).flat_map(|p| [p[1], p[2], p[0]]).collect(),
        _ => image.iter().map(|&p| 255 - p).collect(),
    }
}

fn push_rows(image: &mut [u8], shape: ImageConfig, s: f32, stream: &mut NoiseStream) {
    let row_bytes = shape.width * shape.channels;
    let mut rows: Vec<usize> = (0..shape.height).collect();
    for i in 0..count(shape.height as f32, s).min(shape.height) {
        let j = i + stream.below((shape.height - i) as u32) as usize;
        rows.swap(i, j);
        let by = (1 + stream.below(4) as usize).min(shape.width) * shape.channels;
        let row = &mut image[rows[i] * row_bytes..][..row_bytes];
        if stream.below(2) == 0 { row.rotate_left(by) } else { row.rotate_right(by) }
    }
}

fn swap_blocks(image: &mut [u8], shape: ImageConfig, stream: &mut NoiseStream) {
    let (across, down) = (shape.width / 4, shape.height / 4);
    let blocks = (across * down) as u32;
    if blocks < 2 {
        return;
    }
    let first = stream.below(blocks);
    // Any block but the first.
    let second = (first + 1 + stream.below(blocks - 1)) % blocks;
    let corner = |b: u32| ((b as usize / across * 4) * shape.width + b as usize % across * 4) * shape.channels;
    for y in 0..4 {
        for k in 0..4 * shape.channels {
            let offset = y * shape.width * shape.channels + k;
            image.swap(corner(first) + offset, corner(second) + offset);
        }
    }
}

fn mix_half(image: &mut [u8], other: &[u8], shape: ImageConfig, s: f32, right: bool) {
    let row_bytes = shape.width * shape.channels;
    for y in 0..shape.height {
        let start = match (right, y < shape.height / 2) {
            (true, _) => shape.width / 2 * shape.channels,
            (false, true) => row_bytes,
            (false, false) => 0,
        };
        let part = y * row_bytes + start..(y + 1) * row_bytes;
        mix(&mut image[part.clone()], &other[part], s);
    }
}

fn move_middle(image: &mut [u8], shape: ImageConfig, by: usize) {
    let row_bytes = shape.width * shape.channels;
    let middle = &mut image[shape.height / 4 * row_bytes..shape.height * 3 / 4 * row_bytes];
    let by = (by * row_bytes).min(middle.len());
    middle.rotate_right(by);
}

fn paint_hole(image: &mut [u8], other: &[u8], shape: ImageConfig, stream: &mut NoiseStream) {
    let ImageConfig { width, height, channels } = shape;
    let colour = &other[stream.below((width * height) as u32) as usize * channels..][..channels];
    let left = stream.below(width.saturating_sub(2).max(1) as u32) as usize;
    let top = stream.below(height.saturating_sub(2).max(1) as u32) as usize;
    for y in top..(top + 3).min(height) {
        for x in left..(left + 3).min(width) {
            image[(y * width + x) * channels..][..channels].copy_from_slice(colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::load_test;

    #[test]
    fn strength_zero_changes_nothing_and_more_changes_more() {
        for (source, channels) in [("faces", 3), ("fashion-mini", 1)] {
            let shape = ImageConfig { width: 16, height: 16, channels };
            let set = load_test(source, shape).unwrap();
            for family in &Corruption::ALL[1..] {
                let change = |strength: f32| -> u64 {
                    let one = |i: usize| {
                        let broken =
                            family.apply(set.image(i), set.image(i + 1), shape, strength, &mut NoiseStream::new(1, 2));
                        broken.iter().zip(set.image(i)).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>()
                    };
                    (0..100).map(one).sum()
                };
                let [none, some, more] = [0.0, 0.25, 1.0].map(change);
                assert!(none == 0 && some > 0 && more > some, "{source} {}: {none} {some} {more}", family.name());
            }
        }
    }
}
