//! Images to train on and to compare with: four built-in sets, folders of pictures and IDX files, all as [`Dataset`].
//!
//! A *source* is a name (`fashion`, `fashion-mini`, `faces`, `emoji`) or a path; write `./faces` for a folder of that name.
//! `emoji:Faces,People` is a built-in set with these of its classes only, in this order.
//! Every source has a training and a test split that never share an image; see [`split`] for a user's own data.

pub mod emoji;
pub mod faces;
pub mod fashion;
pub mod fetch;
pub mod fit;
pub mod folder;
pub mod idx;
pub mod split;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::config::ImageConfig;
pub use fetch::fetch_fashion;
pub use split::Split;

/// Images of one size and, if there are classes, one label each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// len × height × width × channels bytes, 0 black to 255 white.
    pub images: Vec<u8>,
    /// One class per image, or empty if the data has no classes.
    pub labels: Vec<u16>,
    /// Name of each class; empty if the data has no classes.
    pub class_names: Vec<String>,
}

impl Dataset {
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len() / self.image_bytes()
    }

    /// True without a single image (the loaders of this module never return that).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Bytes of one image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.width * self.height * self.channels
    }

    /// Image number `i`: height × width × channels bytes.
    #[must_use]
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * self.image_bytes()..(i + 1) * self.image_bytes()]
    }

    /// Only the images of these classes, which are numbered anew in the order given.
    fn only(self, classes: &[&str]) -> Result<Self> {
        ensure!(!self.class_names.is_empty(), "these images have no classes to choose {} from", classes.join(", "));
        let chosen = classes.iter().map(|text| class_index(&self.class_names, text)).collect::<Result<Vec<_>>>()?;
        let again = (1..chosen.len()).find(|&i| chosen[..i].contains(&chosen[i]));
        ensure!(again.is_none(), "class {} is given twice", classes[again.unwrap_or(0)]);
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for (i, label) in self.labels.iter().enumerate() {
            if let Some(place) = chosen.iter().position(|class| class == label) {
                images.extend_from_slice(self.image(i));
                labels.push(place as u16);
            }
        }
        let class_names = chosen.iter().map(|&class| self.class_names[usize::from(class)].clone()).collect();
        Ok(Self { images, labels, class_names, ..self })
    }
}

/// The name of a built-in set and the classes chosen after a colon; a path, or a name alone, chooses none.
#[must_use]
pub fn chosen_classes(source: &str) -> (&str, Option<Vec<&str>>) {
    match source.split_once(':') {
        Some((name, classes)) if Source::NAMES.contains(&name) => (name, Some(classes.split(',').collect())),
        _ => (source, None),
    }
}

/// A source, told apart by name first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Fashion-MNIST from the data folder.
    Fashion,
    /// The 2,000 images of Fashion-MNIST kept in the repository.
    FashionMini,
    /// DiceBear pixel-art faces kept in the repository.
    Faces,
    /// Noto emoji kept in the repository.
    Emoji,
    /// A folder of PNG and JPEG files.
    Folder(PathBuf),
    /// An IDX images file.
    Idx(PathBuf),
}

impl Source {
    /// Names of the built-in sets.
    pub const NAMES: [&str; 4] = ["fashion", "fashion-mini", "faces", "emoji"];

    /// Tells what `text` names; an error says what may be named.
    pub fn parse(text: &str) -> Result<Self> {
        match chosen_classes(text).0 {
            "fashion" => return Ok(Self::Fashion),
            "fashion-mini" => return Ok(Self::FashionMini),
            "faces" => return Ok(Self::Faces),
            "emoji" => return Ok(Self::Emoji),
            _ => {}
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if path.is_file() {
            return Ok(Self::Idx(path));
        }
        bail!(
            "there is no data '{text}': give one of {}, a folder of PNG or JPEG files, or an IDX images file",
            Self::NAMES.join(", ")
        )
    }

    /// Width and height at which models of this data are made, if nothing else is asked for.
    #[must_use]
    pub const fn size(&self) -> usize {
        if matches!(self, Self::Emoji) { 32 } else { 16 }
    }

    /// 3 where there is colour to be seen, else 1.
    #[must_use]
    pub const fn channels(&self) -> usize {
        if matches!(self, Self::Faces | Self::Emoji | Self::Folder(_)) { 3 } else { 1 }
    }
}

/// The training split of `source`, fitted to `image` (size and channels).
pub fn load_train(source: &str, image: ImageConfig) -> Result<Dataset> {
    load(source, Split::Train, image)
}

/// The test split of `source`, which training never sees, fitted to `image`.
pub fn load_test(source: &str, image: ImageConfig) -> Result<Dataset> {
    load(source, Split::Test, image)
}

/// One split of `source`, fitted to `image`.
pub fn load(source: &str, split: Split, image: ImageConfig) -> Result<Dataset> {
    ensure!(
        image.width > 0 && image.height > 0 && matches!(image.channels, 1 | 3),
        "images of {}×{} with {} channels were asked for, but sizes start at 1×1 and channels are 1 or 3",
        image.width,
        image.height,
        image.channels
    );
    let all = match Source::parse(source)? {
        Source::Fashion => fashion::load(&fashion::default_folder(), split, image),
        Source::FashionMini => fashion::load_mini(split, image),
        Source::Faces => faces::load(split, image),
        Source::Emoji => emoji::load(split, image),
        Source::Folder(path) => folder::load(&path, split, image),
        Source::Idx(path) => idx::load(&path, split, image),
    }?;
    match chosen_classes(source).1 {
        Some(classes) => all.only(&classes),
        None => Ok(all),
    }
}

/// The class that `text` means: its number or its name (upper and lower case alike).
pub fn class_index(class_names: &[String], text: &str) -> Result<u16> {
    ensure!(!class_names.is_empty(), "class '{text}' was asked for, but this model has no classes");
    let by_name = class_names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let by_number = text.parse::<usize>().ok().filter(|&i| i < class_names.len());
    match by_name.or(by_number) {
        Some(index) => Ok(u16::try_from(index)?),
        None => bail!(
            "there is no class '{text}': the {} classes are {}, or their numbers 0..={}",
            class_names.len(),
            class_names.join(", "),
            class_names.len() - 1
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: ImageConfig = ImageConfig { width: 16, height: 16, channels: 1 };

    #[test]
    fn absent_source_names_what_exists() {
        let error = load_train("no/such/place", GREY).unwrap_err().to_string();
        assert!(error.contains("no/such/place") && error.contains("fashion, fashion-mini, faces, emoji"), "{error}");
    }

    #[test]
    fn size_zero_and_odd_channels_are_refused() {
        for (width, channels) in [(0, 1), (16, 2)] {
            let error = load_train("faces", ImageConfig { width, height: 16, channels }).unwrap_err().to_string();
            assert!(error.contains(&format!("{width}×16 with {channels} channels")), "{error}");
        }
    }

    #[test]
    fn chosen_classes_keep_their_images_and_are_numbered_anew() {
        let (all, two) =
            (load_train("fashion-mini", GREY).unwrap(), load_train("fashion-mini:Bag,trouser", GREY).unwrap());
        assert_eq!(two.class_names, ["Bag", "Trouser"]);
        let of = |set: &Dataset, class: u16| -> Vec<u8> {
            let own = (0..set.len()).filter(|&i| set.labels[i] == class);
            own.flat_map(|i| set.image(i).to_vec()).collect()
        };
        assert_eq!((of(&two, 0), of(&two, 1)), (of(&all, 8), of(&all, 1)));
        assert_eq!(two.labels.len(), two.len());
        let error = |source: &str| load_train(source, GREY).unwrap_err().to_string();
        assert!(error("fashion-mini:Hat").starts_with("there is no class 'Hat': the 10 classes are"));
        assert_eq!(error("fashion-mini:Bag,8"), "class 8 is given twice");
        assert_eq!(error("faces:Bag"), "these images have no classes to choose Bag from");
    }

    #[test]
    fn classes_go_by_name_or_number() {
        let names: Vec<String> = ["Trouser", "Bag"].map(String::from).to_vec();
        assert_eq!(class_index(&names, "bag").unwrap(), 1);
        assert_eq!(class_index(&names, "0").unwrap(), 0);
        let error = class_index(&names, "hat").unwrap_err().to_string();
        assert_eq!(error, "there is no class 'hat': the 2 classes are Trouser, Bag, or their numbers 0..=1");
        assert!(class_index(&names, "2").is_err() && class_index(&[], "0").is_err());
    }
}
