//! Fashion-MNIST: 60,000 training and 10,000 test pictures of clothes in 10 classes, 28×28 grey (MIT, Zalando SE).
//!
//! Images of 28×28 are taken as they are. For any other size the picture is padded with black to 32×32 and then
//! averaged over areas ([`super::fit`]): 16×16 is the 2×2 box average, rounded half up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::{
    Dataset, Split,
    fit::Fit,
    idx::{Idx, Labelled, decompress},
};
use crate::config::ImageConfig;

/// The ten classes, by label.
pub const CLASS_NAMES: [&str; 10] =
    ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// One of the four standard files.
pub struct StandardFile {
    /// Name without `.gz`.
    pub name: &'static str,
    /// sha256 of the decompressed bytes.
    pub sha256: &'static str,
}

/// Training images, training labels, test images, test labels.
pub const FILES: [StandardFile; 4] = [
    StandardFile {
        name: "train-images-idx3-ubyte",
        sha256: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    },
    StandardFile {
        name: "train-labels-idx1-ubyte",
        sha256: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    StandardFile {
        name: "t10k-images-idx3-ubyte",
        sha256: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    },
    StandardFile {
        name: "t10k-labels-idx1-ubyte",
        sha256: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
];

/// Where the four files lie: `fashion-mnist/` in `$PICODREAM_DATA`, or in `data/` below the current folder.
#[must_use]
pub fn default_folder() -> PathBuf {
    std::env::var_os("PICODREAM_DATA").map_or_else(|| PathBuf::from("data"), PathBuf::from).join("fashion-mnist")
}

/// Finds one standard file in `folder`, as `.gz` or plain, decompresses it and checks its sha256.
pub fn read_verified(folder: &Path, file: &StandardFile) -> Result<Vec<u8>> {
    let names = [format!("{}.gz", file.name), file.name.to_owned()];
    let Some(path) = names.iter().map(|n| folder.join(n)).find(|p| p.is_file()) else {
        bail!(
            "Fashion-MNIST is not in {}: {} is missing; run `picodream data fashion`, or set PICODREAM_DATA",
            folder.display(),
            names[0]
        )
    };
    let name = path.display().to_string();
    let bytes = decompress(crate::files::read(&path)?, &name)?;
    verify(&bytes, file.sha256, &name)?;
    Ok(bytes)
}

/// Compares the sha256 of `bytes` (decompressed) with `want`, in hexadecimal; the error names the file and both.
pub fn verify(bytes: &[u8], want: &str, name: &str) -> Result<()> {
    let got: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    ensure!(
        got == want,
        "{name} has sha256 {got} after decompression, but {want} is right; delete it and fetch it again"
    );
    Ok(())
}

/// One split of the full set from `folder`, all four checksums of that split verified.
pub fn load(folder: &Path, split: Split, image: ImageConfig) -> Result<Dataset> {
    let [images, labels] = match split {
        Split::Train => [&FILES[0], &FILES[1]],
        Split::Test => [&FILES[2], &FILES[3]],
    };
    labelled(&read_verified(folder, images)?, &read_verified(folder, labels)?, image)
}

/// One split of the subset kept in the repository: the first 100 training and 100 test images of each class.
pub fn load_mini(split: Split, image: ImageConfig) -> Result<Dataset> {
    macro_rules! asset {
        ($name:literal, $sha256:literal) => {
            (include_bytes!(concat!("../../assets/fashion-mini/", $name, ".gz")).as_slice(), $sha256, $name)
        };
    }
    let parts = match split {
        Split::Train => [
            asset!("train-images-idx3-ubyte", "a7e53275975bcefa1ef1bcac502fe6f5e4fd01774d43792f4a839144acf524f3"),
            asset!("train-labels-idx1-ubyte", "9f361592fa79786ffb0f262ede3ea19f20772797efa627328326451c74b21126"),
        ],
        Split::Test => [
            asset!("t10k-images-idx3-ubyte", "7cee33c3c6414b1b86c25e665a6c4f41584269de3b7cc9768b1d351922845eef"),
            asset!("t10k-labels-idx1-ubyte", "3128d790775889812b73c4f13923559c8b9e281d112c6ea7862acf60a206a909"),
        ],
    };
    let [images, labels] = parts.map(|(gz, sha256, name)| -> Result<Vec<u8>> {
        let bytes = decompress(gz.to_vec(), name)?;
        verify(&bytes, sha256, name)?;
        Ok(bytes)
    });
    labelled(&images?, &labels?, image)
}

fn labelled(images: &[u8], labels: &[u8], image: ImageConfig) -> Result<Dataset> {
    let name = "Fashion-MNIST";
    let set = Labelled::new(Idx::parse(images, 3, name)?, Some(Idx::parse(labels, 1, name)?), name)?;
    let own = set.image_shape();
    let ImageConfig { width, height, channels } = image;
    let as_is = (width, height) == (own.width, own.height);
    let from = if as_is { own } else { ImageConfig { width: 32, height: 32, channels: 1 } };
    let fit = Fit::new(from, image);
    let mut out = Vec::with_capacity(set.images.shape[0] * width * height * channels);
    for (pixels, _) in set.iter() {
        if as_is { fit.append(pixels, &mut out) } else { fit.append(&padded(pixels), &mut out) }
    }
    let labels = set.iter().map(|(_, label)| label.context("every image has a label")).collect::<Result<_>>()?;
    Ok(Dataset { width, height, channels, images: out, labels, class_names: CLASS_NAMES.map(String::from).to_vec() })
}

/// 28×28 in the middle of 32×32 black.
fn padded(pixels: &[u8]) -> [u8; 1024] {
    let mut out = [0; 1024];
    for (y, row) in pixels.chunks_exact(28).enumerate() {
        let start = (y + 2) * 32 + 2;
        out[start..start + 28].copy_from_slice(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ImageConfig = ImageConfig { width: 16, height: 16, channels: 1 };

    fn repository_data() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/fashion-mnist")
    }

    #[test]
    fn the_mini_set_has_both_splits() {
        for split in [Split::Train, Split::Test] {
            let set = load_mini(split, SMALL).unwrap();
            assert_eq!((set.len(), set.labels.len(), set.class_names.len()), (1000, 1000, 10));
            assert!((0..10).all(|c| set.labels.iter().filter(|&&l| l == c).count() == 100));
        }
    }

    #[test]
    fn sixteen_is_the_padded_box_average() {
        let whole = load_mini(Split::Train, ImageConfig { width: 28, height: 28, channels: 1 }).unwrap();
        let small = load_mini(Split::Train, SMALL).unwrap();
        for i in [0, 1, 500, 999] {
            let at = |y: usize, x: usize| {
                let inside = (2..30).contains(&y) && (2..30).contains(&x);
                if inside { u32::from(whole.image(i)[(y - 2) * 28 + x - 2]) } else { 0 }
            };
            for (k, &pixel) in small.image(i).iter().enumerate() {
                let (y, x) = (k / 16 * 2, k % 16 * 2);
                let sum = at(y, x) + at(y, x + 1) + at(y + 1, x) + at(y + 1, x + 1);
                assert_eq!(u32::from(pixel), (sum + 2) / 4);
            }
        }
    }

    #[test]
    fn absent_files_say_how_to_get_them() {
        let error = load(Path::new("no/such/folder"), Split::Test, SMALL).unwrap_err().to_string();
        assert!(error.contains("t10k-images-idx3-ubyte.gz is missing") && error.contains("picodream data fashion"));
    }

    #[test]
    fn a_wrong_checksum_names_file_and_both_hashes() {
        let folder = std::env::temp_dir().join(format!("picodream-fashion-{}", std::process::id()));
        crate::files::write_atomic(&folder.join("t10k-images-idx3-ubyte"), b"abc").unwrap();
        let error = load(&folder, Split::Test, SMALL).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(error.contains("t10k-images-idx3-ubyte has sha256") && error.contains(abc), "{error}");
        assert!(error.contains(FILES[2].sha256), "{error}");
    }

    #[test]
    fn the_full_set_has_its_published_mean() {
        if !repository_data().is_dir() {
            eprintln!("skipped: Fashion-MNIST is not in data/ (picodream data fashion)");
            return;
        }
        let image = ImageConfig { width: 28, height: 28, channels: 1 };
        let train = load(&repository_data(), Split::Train, image).unwrap();
        let mean = train.images.iter().map(|&p| f64::from(p)).sum::<f64>() / train.images.len() as f64 / 255.0;
        assert_eq!((train.len(), (mean * 1e4).round()), (60_000, 2860.0));
        assert_eq!(load(&repository_data(), Split::Test, SMALL).unwrap().len(), 10_000);
    }
}
