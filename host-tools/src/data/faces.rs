//! DiceBear pixel-art faces: 20,000 RGB faces on a 16×16 grid from a combinatorial generator (artwork CC0 1.0).
//!
//! The asset (`assets/faces-16.pal.gz`, written by `scripts/faces/generate.mjs`) is, decompressed: for each face one byte
//! n and n RGB colours; then for each face 256 bytes, rows top to bottom, each the place of a colour in its palette.
//! Seeds 0..18000 are the training split, 18000..20000 the test split.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::{Dataset, Split, fashion::verify, fit::Fit, idx::decompress};
use crate::config::ImageConfig;

/// Faces in the asset.
pub const COUNT: usize = 20_000;
/// Faces of the training split; the rest is the test split.
pub const TRAIN: usize = 18_000;

const SIDE: usize = 16;
const PIXELS: usize = SIDE * SIDE;
const ASSET: &[u8] = include_bytes!("../../assets/faces-16.pal.gz");
/// sha256 of all faces as COUNT × 16 × 16 × 3 bytes.
const SHA256: &str = "f7ef23ada2950a1307886744309aca679a46f6b3186887697e4572f67199abfb";

/// One split, fitted to `image`; the faces have no classes.
pub fn load(split: Split, image: ImageConfig) -> Result<Dataset> {
    let name = "faces-16.pal.gz";
    let rgb = unpack(&decompress(ASSET.to_vec(), name)?, COUNT).context("faces-16.pal.gz is damaged")?;
    verify(&rgb, SHA256, name)?;
    let seeds: Range<usize> = match split {
        Split::Train => 0..TRAIN,
        Split::Test => TRAIN..COUNT,
    };
    let chosen = &rgb[seeds.start * PIXELS * 3..seeds.end * PIXELS * 3];
    let ImageConfig { width, height, channels } = image;
    let own = ImageConfig { width: SIDE, height: SIDE, channels: 3 };
    let mut images = Vec::with_capacity(seeds.len() * width * height * channels);
    let fit = Fit::new(own, image);
    for face in chosen.chunks_exact(PIXELS * 3) {
        fit.append(face, &mut images);
    }
    Ok(Dataset { width, height, channels, images, labels: Vec::new(), class_names: Vec::new() })
}

/// Palettes and indices to RGB bytes.
fn unpack(bytes: &[u8], count: usize) -> Result<Vec<u8>> {
    let mut rest = bytes;
    let mut palettes = Vec::with_capacity(count);
    for face in 0..count {
        let (&n, tail) = rest.split_first().with_context(|| format!("no palette for face {face}"))?;
        let (palette, tail) =
            tail.split_at_checked(usize::from(n) * 3).with_context(|| format!("short palette of face {face}"))?;
        palettes.push(palette);
        rest = tail;
    }
    ensure!(rest.len() == count * PIXELS, "{} index bytes for {count} faces", rest.len());
    let mut rgb = Vec::with_capacity(count * PIXELS * 3);
    for (palette, indices) in palettes.iter().zip(rest.chunks_exact(PIXELS)) {
        for &index in indices {
            let place = usize::from(index) * 3;
            rgb.extend_from_slice(palette.get(place..place + 3).context("an index beyond its palette")?);
        }
    }
    Ok(rgb)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ImageConfig = ImageConfig { width: 16, height: 16, channels: 3 };

    #[test]
    fn splits_are_disjoint_and_in_order() {
        let train = load(Split::Train, OWN).unwrap();
        let test = load(Split::Test, OWN).unwrap();
        assert_eq!((train.len(), test.len()), (18_000, 2_000));
        // Seed 0: background #b6e3f4 in the corner (scripts/faces/generate.mjs).
        assert_eq!(train.image(0)[..3], [0xb6, 0xe3, 0xf4]);
        let seen: std::collections::HashSet<&[u8]> = (0..train.len()).map(|i| train.image(i)).collect();
        assert_eq!(seen.len(), 18_000);
        assert!((0..test.len()).all(|i| !seen.contains(test.image(i))));
    }

    #[test]
    fn damaged_palettes_are_refused() {
        let mut one = vec![1, 10, 20, 30];
        one.extend([0; PIXELS]);
        assert_eq!(unpack(&one, 1).unwrap()[..3], [10, 20, 30]);
        assert!(unpack(&one[..100], 1).unwrap_err().to_string().contains("96 index bytes"));
        assert!(unpack(&[], 1).unwrap_err().to_string().contains("no palette"));
        assert!(unpack(&[9, 0], 1).unwrap_err().to_string().contains("short palette"));
        one[50] = 1;
        assert!(unpack(&one, 1).unwrap_err().to_string().contains("beyond its palette"));
    }
}
