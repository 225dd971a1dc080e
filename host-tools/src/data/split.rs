//! Which of a user's images are held out: one of ten, by a hash of the image's name, so that adding images moves none.

use anyhow::{Result, ensure};
use crc::{CRC_32_ISO_HDLC, Crc};

/// Training images, or those that training never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What a model is fitted to.
    Train,
    /// What its images are compared with.
    Test,
}

impl Split {
    /// Where the image called `name` belongs: CRC-32 of the name, modulo 10, is 0 for the test split.
    ///
    /// In a folder the name is the path below it with `/` between the parts; in an IDX file the decimal index.
    #[must_use]
    pub fn of(name: &str) -> Self {
        const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
        if CRC.checksum(name.as_bytes()) % 10 == 0 { Self::Test } else { Self::Train }
    }

    /// Refuses a split without images; `total` is the number of images in both.
    pub fn ensure_some(self, chosen: usize, total: usize, place: &str) -> Result<()> {
        let what = match self {
            Self::Train => "leaves no image to train on",
            Self::Test => "holds out no image to compare with",
        };
        ensure!(chosen > 0, "{place} has {total} images, of which the one-in-ten split {what}; add more images");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_out_about_one_in_ten() {
        let test = (0..10_000).filter(|i| Split::of(&i.to_string()) == Split::Test).count();
        // Five standard deviations of a binomial: 5·√(10000·0.1·0.9) = 150.
        assert!(test.abs_diff(1000) < 150, "{test}");
    }

    #[test]
    fn an_empty_split_is_refused() {
        let error = Split::Test.ensure_some(0, 3, "cats").unwrap_err().to_string();
        assert_eq!(
            error,
            "cats has 3 images, of which the one-in-ten split holds out no image to compare with; add more images"
        );
    }
}
