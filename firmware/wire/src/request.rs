//! What to draw: twelve words, 48 bytes.

use crate::{WireError, high, joined, low, words};

/// "PDRQ".
const MAGIC: u32 = u32::from_le_bytes(*b"PDRQ");
const NO_CLASS: u32 = u32::MAX;
const DDIM: u32 = 0;
const DDPM: u32 = 1;

/// Which update rule takes the steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// DDIM with this η.
    Ddim(f32),
    /// Ancestral DDPM.
    Ddpm,
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
    /// Class to condition on, or none.
    pub class: Option<u16>,
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
    /// One image of seed 1 in 20 steps of DDIM.
    fn default() -> Self {
        Self {
            seed: 1,
            steps: 20,
            count: 1,
            class: None,
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
        let (sampler, eta) = match self.sampler {
            Sampler::Ddim(eta) => (DDIM, eta),
            Sampler::Ddpm => (DDPM, 0.0),
        };
        let words = [
            MAGIC,
            low(self.seed),
            high(self.seed),
            self.steps,
            self.count,
            self.class.map_or(NO_CLASS, u32::from),
            self.guidance.to_bits(),
            sampler,
            eta.to_bits(),
            u32::from(self.clip_sample),
            self.arena_short_bytes,
            0,
        ];
        let mut bytes = [0; Self::BYTES];
        for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// Reads a request; whether its numbers suit the model is the runtime's to say.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let [magic, seed_low, seed_high, steps, count, class, guidance, sampler, eta, clip, short, _] = words(bytes)?;
        if magic != MAGIC {
            return Err(WireError::BadMagic(magic));
        }
        let class = match class {
            NO_CLASS => None,
            c => Some(u16::try_from(c).map_err(|_| WireError::BadValue(c))?),
        };
        let sampler = match sampler {
            DDIM => Sampler::Ddim(f32::from_bits(eta)),
            DDPM => Sampler::Ddpm,
            other => return Err(WireError::BadValue(other)),
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
        class: Some(7),
        guidance: 1.5,
        sampler: Sampler::Ddim(0.25),
        clip_sample: true,
        arena_short_bytes: 1,
    };

    #[test]
    fn comes_back_as_it_went() {
        for class in [None, Some(0), Some(u16::MAX)] {
            for sampler in [Sampler::Ddim(0.0), Sampler::Ddim(1.0), Sampler::Ddpm] {
                let request = Request { class, sampler, ..REQUEST };
                assert_eq!(Request::parse(&request.emit()), Ok(request));
            }
        }
    }

    #[test]
    fn refuses_what_is_no_request() {
        let good = REQUEST.emit();
        assert_eq!(Request::parse(&good[..47]), Err(WireError::Truncated(48, 47)));
        assert_eq!(Request::parse(&[]), Err(WireError::Truncated(48, 0)));
        assert_eq!(Request::parse(&[0; 48]), Err(WireError::BadMagic(0)));
        for (word, bad) in [(5, 0x1_0000), (7, 2)] {
            let mut bytes = good;
            bytes[4 * word..4 * word + 4].copy_from_slice(&u32::to_le_bytes(bad));
            assert_eq!(Request::parse(&bytes), Err(WireError::BadValue(bad)));
        }
    }
}
