//! A folder of PNG and JPEG pictures as a data set: sub-folders are classes, in the order of their names.
//!
//! Pictures may have any size; each is centre-cropped and averaged to the model's size ([`super::fit`]). Transparent
//! parts are laid on white. Names that start with a dot and other kinds of files are passed over.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Dataset, Split, fit::Fit};
use crate::config::ImageConfig;
use crate::files;
use crate::picture::{self, Picture};

/// A picture, its name for the split (path below the folder, `/` between the parts) and its class.
struct Entry {
    path: PathBuf,
    name: String,
    label: Option<u16>,
}

/// One split of the pictures in `folder`; unlabelled if there are no sub-folders.
pub fn load(folder: &Path, split: Split, image: ImageConfig) -> Result<Dataset> {
    let (entries, class_names) = list(folder)?;
    let chosen: Vec<&Entry> = entries.iter().filter(|e| Split::of(&e.name) == split).collect();
    split.ensure_some(chosen.len(), entries.len(), &folder.display().to_string())?;
    let ImageConfig { width, height, channels } = image;
    let mut images = Vec::with_capacity(chosen.len() * width * height * channels);
    for entry in &chosen {
        append(&entry.path, image, &mut images)?;
    }
    let labels = chosen.iter().filter_map(|e| e.label).collect();
    Ok(Dataset { width, height, channels, images, labels, class_names })
}

/// All pictures and class names.
fn list(folder: &Path) -> Result<(Vec<Entry>, Vec<String>)> {
    let (folders, loose) = children(folder)?;
    let place = folder.display();
    if folders.is_empty() {
        ensure!(!loose.is_empty(), "{place} holds no PNG or JPEG file and no sub-folder of them");
        return Ok((loose.into_iter().map(|(name, path)| Entry { path, name, label: None }).collect(), Vec::new()));
    }
    ensure!(
        loose.is_empty(),
        "{place} holds {} pictures beside its class folders; move each into the folder of its class",
        loose.len()
    );
    ensure!(folders.len() <= 1000, "{place} holds {} class folders; 1000 at most", folders.len());
    let mut entries = Vec::new();
    for (label, (class, path)) in folders.iter().enumerate() {
        let (_, pictures) = children(path)?;
        ensure!(!pictures.is_empty(), "the class folder {} holds no PNG or JPEG file", path.display());
        let label = Some(u16::try_from(label)?);
        entries.extend(pictures.into_iter().map(|(name, path)| Entry { path, name: format!("{class}/{name}"), label }));
    }
    Ok((entries, folders.into_iter().map(|(name, _)| name).collect()))
}

/// (name, path) of a folder or picture.
type Named = (String, PathBuf);

/// Sub-folders and pictures of one folder, each sorted by name.
fn children(folder: &Path) -> Result<(Vec<Named>, Vec<Named>)> {
    let unreadable = || format!("cannot list the folder {}", folder.display());
    let (mut folders, mut pictures) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            folders.push((name, path));
        } else if is_picture(&path) {
            pictures.push((name, path));
        }
    }
    folders.sort();
    pictures.sort();
    Ok((folders, pictures))
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Reads one PNG or JPEG.
pub fn read_picture(path: &Path) -> Result<Picture> {
    let bytes = files::read(path)?;
    picture::decode(&bytes).with_context(|| format!("{} is not a readable PNG or JPEG picture", path.display()))
}

/// Decodes one picture and appends it fitted to `image`.
pub fn append(path: &Path, image: ImageConfig, out: &mut Vec<u8>) -> Result<()> {
    let picture = read_picture(path)?;
    let shape = ImageConfig { width: picture.width, height: picture.height, channels: 3 };
    Fit::new(shape, image).append(&picture.rgb, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ImageConfig = ImageConfig { width: 4, height: 4, channels: 3 };

    fn fresh(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("picodream-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn save(path: &Path, width: u32, colour: [u8; 4]) {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, 5);
        encoder.set_color(png::ColorType::Rgba);
        encoder.write_header().unwrap().write_image_data(&colour.repeat(width as usize * 5)).unwrap();
        files::write_atomic(path, &bytes).unwrap();
    }

    #[test]
    fn sub_folders_are_classes_in_order() {
        let folder = fresh("classes");
        for i in 0..40 {
            save(&folder.join(format!("red/{i}.png")), 5 + i, [255, 0, 0, 255]);
            save(&folder.join(format!("blue/{i}.png")), 5 + i, [0, 0, 255, 255]);
        }
        let train = load(&folder, Split::Train, SMALL).unwrap();
        let test = load(&folder, Split::Test, SMALL).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((train.len() + test.len(), train.labels.len()), (80, train.len()));
        assert_eq!(train.class_names, ["blue", "red"]);
        for i in 0..train.len() {
            assert_eq!(train.image(i)[..3], [[0, 0, 255], [255, 0, 0]][usize::from(train.labels[i])]);
        }
    }

    #[test]
    fn transparent_parts_become_white() {
        let folder = fresh("alpha");
        (0..30).for_each(|i| save(&folder.join(format!("{i}.png")), 5, [0, 0, 0, 0]));
        let set = load(&folder, Split::Train, SMALL).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(set.images.iter().all(|&p| p == 255) && set.labels.is_empty() && set.class_names.is_empty());
    }

    #[test]
    fn bad_folders_are_refused_with_one_sentence() {
        let folder = fresh("bad");
        let refused = |part: &str| {
            let error = format!("{:#}", load(&folder, Split::Train, SMALL).unwrap_err());
            assert!(error.contains(part), "{error}");
        };
        refused("holds no PNG or JPEG file and no sub-folder");
        fs::create_dir(folder.join("cats")).unwrap();
        refused("class folder");
        save(&folder.join("cats/1.png"), 5, [0; 4]);
        save(&folder.join("loose.png"), 5, [0; 4]);
        refused("1 pictures beside its class folders");
        fs::remove_dir_all(&folder).unwrap();
        refused("cannot list the folder");
    }

    #[test]
    fn an_unreadable_picture_is_named() {
        let folder = fresh("corrupt");
        (0..30).for_each(|i| fs::write(folder.join(format!("{i}.png")), b"\x89PNG\r\n\x1a\n junk").unwrap());
        let error = format!("{:#}", load(&folder, Split::Train, SMALL).unwrap_err());
        fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains(".png is not a readable PNG or JPEG picture"), "{error}");
    }
}
