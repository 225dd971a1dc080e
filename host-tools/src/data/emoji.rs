//! Noto emoji: 1,295 RGB pictures of 32×32 in nine classes, laid over white (images Apache-2.0, Google).
//!
//! The assets (`scripts/emoji/generate.mjs` writes them and says what is left out) are `assets/emoji-32.png`, 40 pictures
//! a row, and `assets/emoji-32.tsv`, for each its split, class, group and name. A group is made of near-duplicates (the
//! man, the woman and the person of one emoji, a thing in two colours) and is on one side of the split.
//!
//! So few pictures are learnt by heart: the training split also has the mirror image of each that is not its own. The
//! test split has none.

use anyhow::{Context, Result, bail, ensure};

use super::{Dataset, Split, fashion::verify, fit::Fit};
use crate::config::ImageConfig;
use crate::picture::{Picture, decode};

/// Emoji in the assets, mirror images not counted.
pub const COUNT: usize = 1295;
/// The classes: the categories of emoji with parts of the body told from people, and plants from animals.
pub const CLASS_NAMES: [&str; 9] =
    ["Faces", "People", "Body", "Animals", "Plants", "Food", "Travel", "Activities", "Objects"];

const SIDE: usize = 32;
const BYTES: usize = SIDE * SIDE * 3;
const COLUMNS: usize = 40;
const SHEET: &[u8] = include_bytes!("../../assets/emoji-32.png");
const LIST: &str = include_str!("../../assets/emoji-32.tsv");
/// sha256 of all emoji as COUNT × 32 × 32 × 3 bytes, and the list after them.
const SHA256: &str = "25f9bd5979a38e7dd721dbe19c0746a35e7452005b74eefa25868ca5d93f4e40";

/// One split, fitted to `image`; the training split with mirror images.
pub fn load(split: Split, image: ImageConfig) -> Result<Dataset> {
    let pixels = cut(&decode(SHEET).context("emoji-32.png is damaged")?, COUNT)?;
    verify(&[&pixels[..], LIST.as_bytes()].concat(), SHA256, "emoji-32.png with emoji-32.tsv")?;
    let ImageConfig { width, height, channels } = image;
    let fit = Fit::new(ImageConfig { width: SIDE, height: SIDE, channels: 3 }, image);
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (emoji, line) in pixels.chunks_exact(BYTES).zip(LIST.lines()) {
        let entry = Entry::parse(line)?;
        if entry.split != split {
            continue;
        }
        fit.append(emoji, &mut images);
        labels.push(entry.class);
        let other = mirrored(emoji);
        if split == Split::Train && other != emoji {
            fit.append(&other, &mut images);
            labels.push(entry.class);
        }
    }
    Ok(Dataset { width, height, channels, images, labels, class_names: CLASS_NAMES.map(String::from).to_vec() })
}

/// What the list says of one emoji.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    split: Split,
    class: u16,
    group: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [split, class, group, _name] = fields[..] else {
            bail!("emoji-32.tsv: '{line}' has {} fields, not 4", fields.len())
        };
        let split = match split {
            "train" => Split::Train,
            "test" => Split::Test,
            _ => bail!("emoji-32.tsv: '{line}' is neither for training nor for the test"),
        };
        let class = CLASS_NAMES.iter().position(|name| *name == class);
        let class = class.with_context(|| format!("emoji-32.tsv: '{line}' has an unknown class"))? as u16;
        Ok(Self { split, class, group })
    }
}

/// The first `count` pictures of a sheet, one after another.
fn cut(sheet: &Picture, count: usize) -> Result<Vec<u8>> {
    let (width, height) = (COLUMNS * SIDE, count.div_ceil(COLUMNS) * SIDE);
    ensure!(
        (sheet.width, sheet.height) == (width, height),
        "emoji-32.png is {}x{}, but {count} emoji are {width}x{height}",
        sheet.width,
        sheet.height
    );
    let row = |y: usize, i: usize| {
        let at = ((i / COLUMNS * SIDE + y) * COLUMNS + i % COLUMNS) * SIDE * 3;
        &sheet.rgb[at..at + SIDE * 3]
    };
    Ok((0..count).flat_map(|i| (0..SIDE).flat_map(move |y| row(y, i))).copied().collect())
}

/// One emoji with its rows from right to left.
fn mirrored(emoji: &[u8]) -> Vec<u8> {
    emoji.chunks_exact(SIDE * 3).flat_map(|row| row.rchunks_exact(3).flatten()).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const OWN: ImageConfig = ImageConfig { width: 32, height: 32, channels: 3 };

    /// Brightness with mean 0 and length 1, as `scripts/emoji/similar.mjs` compares it.
    fn brightness(emoji: &[u8]) -> Vec<f64> {
        let luma = |p: &[u8]| 299.0 * f64::from(p[0]) + 587.0 * f64::from(p[1]) + 114.0 * f64::from(p[2]);
        let values: Vec<f64> = emoji.chunks_exact(3).map(luma).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let length = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
        values.iter().map(|x| (x - mean) / length).collect()
    }

    #[test]
    fn splits_share_no_group_and_no_likeness() {
        let mut sides: HashMap<&str, Split> = HashMap::new();
        for entry in LIST.lines().map(|line| Entry::parse(line).unwrap()) {
            assert_eq!(*sides.entry(entry.group).or_insert(entry.split), entry.split, "{entry:?}");
        }
        let (train, test) = (load(Split::Train, OWN).unwrap(), load(Split::Test, OWN).unwrap());
        let known: Vec<Vec<f64>> = (0..train.len()).map(|i| brightness(train.image(i))).collect();
        for unseen in (0..test.len()).map(|i| brightness(test.image(i))) {
            let likeness = |other: &Vec<f64>| unseen.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
            assert!(known.iter().all(|other| likeness(other) <= 0.9));
        }
    }

    #[test]
    fn the_training_split_is_mirrored_and_has_no_picture_twice() {
        let (train, test) = (load(Split::Train, OWN).unwrap(), load(Split::Test, OWN).unwrap());
        let listed = LIST.lines().filter(|line| line.starts_with("train")).count();
        assert_eq!((listed, test.len(), LIST.lines().count()), (1078, 217, COUNT));
        let own: HashSet<&[u8]> = (0..train.len()).map(|i| train.image(i)).collect();
        assert_eq!(own.len(), train.len());
        assert!(own.iter().all(|image| own.contains(&mirrored(image)[..])));
        for set in [train, test] {
            assert_eq!(set.labels.iter().collect::<HashSet<_>>().len(), CLASS_NAMES.len());
            assert_eq!(set.labels.len(), set.len());
        }
    }

    #[test]
    fn damaged_assets_are_refused() {
        let error = |line: &str| Entry::parse(line).unwrap_err().to_string();
        assert!(error("train\tFood\t3").contains("3 fields, not 4"));
        assert!(error("both\tFood\t3\tapple").contains("neither for training"));
        assert!(error("test\tCars\t3\tapple").contains("unknown class"));
        let small = cut(&Picture::new(1280, 32, [0; 3]), 41).unwrap_err().to_string();
        assert_eq!(small, "emoji-32.png is 1280x32, but 41 emoji are 1280x64");
    }

    #[test]
    fn pictures_are_cut_and_mirrored_pixel_by_pixel() {
        let mut sheet = Picture::new(1280, 64, [255; 3]);
        sheet.set_pixel(31, 33, [1, 2, 3]);
        let pixels = cut(&sheet, 41).unwrap();
        let last = &pixels[40 * BYTES..];
        assert_eq!((last.len(), &last[(32 + 31) * 3..(32 + 32) * 3]), (BYTES, &[1, 2, 3][..]));
        assert_eq!(mirrored(last)[32 * 3..33 * 3], [1, 2, 3]);
        assert_eq!(mirrored(&mirrored(last)), last);
    }
}
