//! IDX files, the format of MNIST: plain or gzip, images `[N, height, width]` and labels `[N]` of bytes.
//!
//! Header, big-endian: 0, 0, type (8 = unsigned byte), number of dimensions, then each dimension as u32; then the bytes.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;

use super::{Dataset, Split, fit::Fit};
use crate::config::ImageConfig;
use crate::files;

/// Decompressed files may not be larger than this.
const MAX_BYTES: u64 = 4 << 30;

/// One parsed IDX file of unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Product of `shape` bytes.
    pub data: Vec<u8>,
}

impl Idx {
    /// Parses a decompressed file that must have `dimensions` dimensions; `name` is for the errors.
    pub fn parse(bytes: &[u8], dimensions: usize, name: &str) -> Result<Self> {
        let header = 4 + 4 * dimensions;
        ensure!(bytes.len() >= 4, "{name} is truncated: {} bytes are no IDX header", bytes.len());
        let magic = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let want = 0x0800 | dimensions as u32;
        ensure!(
            magic == want,
            "{name} starts with {magic:#010x}, but an IDX file of this kind starts with {want:#010x}"
        );
        ensure!(bytes.len() >= header, "{name} is truncated: {} of {header} header bytes", bytes.len());
        let shape: Vec<usize> =
            bytes[4..header].chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
        ensure!(shape.iter().all(|&d| d > 0), "{name} has shape {shape:?}, with a dimension of zero");
        let size = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        let held = bytes.len() - header;
        ensure!(
            size == Some(held),
            "{name} has shape {shape:?}, but {held} bytes of data: it is truncated or not an IDX file"
        );
        Ok(Self { shape, data: bytes[header..].to_vec() })
    }
}

/// Images and labels of one set, unfitted.
pub struct Labelled {
    /// `[N, height, width]`.
    pub images: Idx,
    /// `[N]`, or absent.
    pub labels: Option<Idx>,
}

impl Labelled {
    /// Checks that there is one label per image.
    pub fn new(images: Idx, labels: Option<Idx>, name: &str) -> Result<Self> {
        if let Some(labels) = &labels {
            let (n, m) = (images.shape[0], labels.shape[0]);
            ensure!(n == m, "{name} has {n} images, but its labels file has {m} labels");
        }
        Ok(Self { images, labels })
    }

    /// Shape of one image.
    #[must_use]
    pub fn image_shape(&self) -> ImageConfig {
        ImageConfig { width: self.images.shape[2], height: self.images.shape[1], channels: 1 }
    }

    /// Each image with its label, if any.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<u16>)> {
        let bytes = self.images.shape[1] * self.images.shape[2];
        let label = |i: usize| self.labels.as_ref().map(|l| u16::from(l.data[i]));
        self.images.data.chunks_exact(bytes).enumerate().map(move |(i, image)| (image, label(i)))
    }
}

/// Undoes gzip if `bytes` starts with its magic; otherwise returns them as they are.
pub fn decompress(bytes: Vec<u8>, name: &str) -> Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut out = Vec::new();
    MultiGzDecoder::new(&bytes[..])
        .take(MAX_BYTES + 1)
        .read_to_end(&mut out)
        .with_context(|| format!("{name} is a damaged gzip file; fetch it again"))?;
    ensure!(
        out.len() as u64 <= MAX_BYTES,
        "{name} decompresses to more than {MAX_BYTES} bytes, which is not supported"
    );
    Ok(out)
}

/// The labels file that belongs to an images file: `images` → `labels` and `idx3` → `idx1`, with or without `.gz`.
fn labels_path(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    if labels == name {
        return None;
    }
    let plain = labels.strip_suffix(".gz").unwrap_or(&labels);
    [plain.to_owned(), format!("{plain}.gz")].map(|n| images.with_file_name(n)).into_iter().find(|p| p.is_file())
}

fn read(path: &Path, dimensions: usize) -> Result<Idx> {
    let name = path.display().to_string();
    Idx::parse(&decompress(files::read(path)?, &name)?, dimensions, &name)
}

/// One split of a user's IDX images file, with the labels file beside it when there is one; classes are called by number.
pub fn load(path: &Path, split: Split, image: ImageConfig) -> Result<Dataset> {
    let name = path.display().to_string();
    if name.contains("labels") {
        bail!("{name} is a labels file; name the images file instead, its labels are found beside it");
    }
    let labels = labels_path(path).map(|p| read(&p, 1)).transpose()?;
    let set = Labelled::new(read(path, 3)?, labels, &name)?;
    let classes = set.labels.as_ref().map_or(0, |l| l.data.iter().max().map_or(0, |&m| usize::from(m) + 1));
    let fit = Fit::new(set.image_shape(), image);
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for (i, (pixels, label)) in set.iter().enumerate() {
        if Split::of(&i.to_string()) == split {
            fit.append(pixels, &mut images);
            labels.extend(label);
        }
    }
    let ImageConfig { width, height, channels } = image;
    split.ensure_some(images.len() / (width * height * channels), set.images.shape[0], &name)?;
    let class_names = (0..classes).map(|c| c.to_string()).collect();
    Ok(Dataset { width, height, channels, images, labels, class_names })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(magic: u32, shape: &[u32], data: &[u8]) -> Vec<u8> {
        let mut out = magic.to_be_bytes().to_vec();
        out.extend(shape.iter().flat_map(|d| d.to_be_bytes()));
        out.extend_from_slice(data);
        out
    }

    fn refused(bytes: &[u8], part: &str) {
        let error = Idx::parse(bytes, 3, "toy").unwrap_err().to_string();
        assert!(error.starts_with("toy ") && error.contains(part), "{error}");
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = file(0x803, &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Idx::parse(&good, 3, "toy").unwrap().data[7], 8);
        refused(&good[..good.len() - 1], "shape [2, 2, 2], but 7 bytes of data");
        refused(&[good.clone(), vec![0]].concat(), "but 9 bytes");
        refused(&good[..10], "10 of 16 header bytes");
        refused(&[], "0 bytes are no IDX header");
        refused(&file(0x801, &[2], &[0, 1]), "0x00000801");
        refused(&file(0x803, &[2, 0, 2], &[]), "dimension of zero");
        refused(&file(0x803, &[u32::MAX, u32::MAX, u32::MAX], &[]), "0 bytes of data");
    }

    #[test]
    fn labels_must_match_images() {
        let images = Idx::parse(&file(0x803, &[2, 1, 1], &[1, 2]), 3, "toy").unwrap();
        let labels = Idx::parse(&file(0x801, &[3], &[0, 1, 2]), 1, "toy").unwrap();
        let error = Labelled::new(images, Some(labels), "toy").err().unwrap().to_string();
        assert_eq!(error, "toy has 2 images, but its labels file has 3 labels");
    }

    #[test]
    fn a_damaged_gzip_is_refused() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 1000]).unwrap();
        let gz = encoder.finish().unwrap();
        assert_eq!(decompress(gz.clone(), "toy").unwrap(), vec![7; 1000]);
        let error = decompress(gz[..gz.len() - 6].to_vec(), "toy").unwrap_err().to_string();
        assert_eq!(error, "toy is a damaged gzip file; fetch it again");
    }

    #[test]
    fn a_users_file_is_split_and_labelled() {
        let folder = std::env::temp_dir().join(format!("picodream-idx-{}", std::process::id()));
        let data: Vec<u8> = (0..200).flat_map(|i| [i as u8; 4]).collect();
        let labels: Vec<u8> = (0..200).map(|i| i % 3).collect();
        let path = folder.join("my-images-idx3-ubyte");
        files::write_atomic(&path, &file(0x803, &[200, 2, 2], &data)).unwrap();
        files::write_atomic(&folder.join("my-labels-idx1-ubyte"), &file(0x801, &[200], &labels)).unwrap();
        let image = ImageConfig { width: 4, height: 4, channels: 1 };
        let train = load(&path, Split::Train, image).unwrap();
        let test = load(&path, Split::Test, image).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(train.len() + test.len(), 200);
        assert_eq!(train.class_names, ["0", "1", "2"]);
        for i in 0..test.len() {
            assert_eq!(u16::from(test.image(i)[0]) % 3, test.labels[i]);
            assert!((0..train.len()).all(|j| train.image(j) != test.image(i)));
        }
    }
}
