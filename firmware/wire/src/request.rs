//! What to draw: twelve words, 48 bytes.

use crate::{NO_CLASS, WireError, class_of, high, joined, low, words};

/// "PDRQ".
const MAGIC: u32 = u32::from_le_bytes(*b"PDRQ");
const CLASS_BY_SEED: u32 = NO_CLASS - 1;
const DDIM: u32 = 0;
const DDPM: u32 = 1;
const FEW_STEP: u32 = 2;
/// Numbers of the list begin here.
const LISTED: u32 = 0x1_0000;

/// Which update rule takes the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// DDIM with this η.
    Ddim(f32),
    /// Ancestral DDPM.
    Ddpm,
    /// Consistency steps over the levels that the blob was tuned for.
    FewStep,
    /// By their numbers in the runtime's `AnySampler::ALL` and `AnySpacing::ALL`, with the usual settings; the levels of a few-step
    /// model are the blob's own.
    Listed {
        /// The update rule.
        sampler: u16,
        /// The levels.
        spacing: u16,
    },
}

/// The class of each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The seed counts through the classes: seed mod number of classes; none for an unconditional model.
    BySeed,
    /// This one.
    One(u16),
    /// The null class.
    Null,
}

impl Class {
    /// The class of the image of `seed`, for a model with `num_classes` classes.
    #[must_use]
    pub fn of_seed(self, seed: u64, num_classes: u16) -> Option<u16> {
        match self {
            // A remainder of a 16-bit number fits.
            Self::BySeed => (num_classes > 0).then(|| (seed % u64::from(num_classes)) as u16),
            Self::One(class) => Some(class),
            Self::Null => None,
        }
    }
}

/// One order: `count` images from the seeds `seed`, `seed + 1`, …
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Seed of the first image.
    pub seed: u64,
    /// Denoising steps per image.
    pub steps: u32,
    /// Images.
    pub count: u32,
    /// What each image is conditioned on.
    pub class: Class,
    /// Strength of classifier-free guidance; 1 is none.
    pub guidance: f32,
    /// The update rule.
    pub sampler: Sampler,
    /// Clip the estimate of the clean image to the range of the pixels at each step.
    pub clip_sample: bool,
    /// Offer the model an arena this many bytes smaller than it needs (to see it refused); 0 in earnest.
    pub arena_short_bytes: u32,
}

impl Default for Request {
    /// One image of seed 1, in the class of that seed, in 20 steps of DDIM.
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 20,
            count: 1,
            class: Class::BySeed,
            guidance: 1.0,
            sampler: Sampler::Ddim(0.0),
            clip_sample: true,
            arena_short_bytes: 0,
        }
    }
}

impl Request {
    /// Size on the wire.
    pub const BYTES: usize = 48;

    /// The request as it travels.
    #[must_use]
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let (sampler, eta, spacing) = match self.sampler {
            Sampler::Ddim(eta) => (DDIM, eta, 0),
            Sampler::Ddpm => (DDPM, 0.0, 0),
            Sampler::FewStep => (FEW_STEP, 0.0, 0),
            Sampler::Listed { sampler, spacing } => (LISTED + u32::from(sampler), 0.0, spacing),
        };
        let words = [
            MAGIC,
            low(self.seed),
            high(self.seed),
            self.steps,
            self.count,
            match self.class {
                Class::BySeed => CLASS_BY_SEED,
                Class::One(class) => class.into(),
                Class::Null => NO_CLASS,
            },
            self.guidance.to_bits(),
            sampler,
            eta.to_bits(),
            u32::from(self.clip_sample),
            self.arena_short_bytes,
            spacing.into(),
        ];
        let mut bytes = [0; Self::BYTES];
        for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// Reads a request; whether its numbers suit the model is the runtime's to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [magic, seed_low, seed_high, steps, count, class, guidance, sampler, eta, clip, short, spacing] =
            words(bytes)?;
        if magic != MAGIC {
            return Err(WireError::BadMagic(magic));
        }
        let class = match class {
            CLASS_BY_SEED => Class::BySeed,
            word => class_of(word)?.map_or(Class::Null, Class::One),
        };
        let sampler = match sampler {
            DDIM => Sampler::Ddim(f32::from_bits(eta)),
            DDPM => Sampler::Ddpm,
            FEW_STEP => Sampler::FewStep,
            other => {
                let sampler = other.checked_sub(LISTED).and_then(|number| u16::try_from(number).ok());
                let sampler = sampler.ok_or(WireError::BadValue(other))?;
                let spacing = u16::try_from(spacing).map_err(|_| WireError::BadValue(spacing))?;
                Sampler::Listed { sampler, spacing }
            }
        };
        Ok(Self {
            seed: joined(seed_low, seed_high),
            steps,
            count,
            class,
            guidance: f32::from_bits(guidance),
            sampler,
            clip_sample: clip != 0,
            arena_short_bytes: short,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request = Request {
        seed: 0x0123_4567_89ab_cdef,
        steps: 20,
        count: 3,
        class: Class::One(7),
        guidance: 1.5,
        sampler: Sampler::Ddim(0.25),
        clip_sample: true,
        arena_short_bytes: 1,
    };

    #[test]
    fn comes_back_as_it_went() {
        for class in [Class::BySeed, Class::Null, Class::One(0), Class::One(u16::MAX)] {
            let listed = |sampler, spacing| Sampler::Listed { sampler, spacing };
            let ours = [Sampler::Ddim(0.0), Sampler::Ddim(1.0), Sampler::Ddpm, Sampler::FewStep];
            for sampler in ours.into_iter().chain([listed(0, 0), listed(65_535, 3), listed(2, 65_535)]) {
                let request = Request { class, sampler, ..REQUEST };
                assert_eq!(Request::parse(&request.emit()), Ok(request));
            }
        }
    }

    #[test]
    fn seeds_count_through_classes() {
        assert_eq!(Class::BySeed.of_seed(u64::MAX, 10), Some(5));
        assert_eq!(Class::BySeed.of_seed(3, 0), None);
        assert_eq!(Class::One(3).of_seed(9, 10), Some(3));
        assert_eq!(Class::Null.of_seed(9, 10), None);
    }

    #[test]
    fn refuses_what_is_no_request() {
        let good = REQUEST.emit();
        assert_eq!(Request::parse(&good[..47]), Err(WireError::Truncated(48, 47)));
        assert_eq!(Request::parse(&[]), Err(WireError::Truncated(48, 0)));
        assert_eq!(Request::parse(&[0; 48]), Err(WireError::BadMagic(0)));
        for (word, bad) in [(5, 0x1_0000), (7, 3), (7, 0x2_0000)] {
            let mut bytes = good;
            bytes[4 * word..4 * word + 4].copy_from_slice(&u32::to_le_bytes(bad));
            assert_eq!(Request::parse(&bytes), Err(WireError::BadValue(bad)));
        }
    }
}
