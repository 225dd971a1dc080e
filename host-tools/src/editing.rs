//! What an image is drawn from, when not from noise alone: one description for both engines.

use anyhow::{Result, anyhow};
use picodream::Progress;
use picodream::edit::{self, Drawing, EditError, Inpainting};

/// What to start from and what to keep.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Edit {
    /// Noise alone.
    #[default]
    None,
    /// A picture (height · width · channels bytes), noised by `strength` in 0..=1.
    Picture {
        /// The picture.
        picture: Vec<u8>,
        /// 0 keeps it, 1 keeps nothing.
        strength: f32,
    },
    /// Draws where `mask` (height · width bytes) is not 0, and keeps the picture elsewhere.
    Inpaint {
        /// The picture.
        picture: Vec<u8>,
        /// 0 where it is kept.
        mask: Vec<u8>,
        /// Times that each step is taken (RePaint); 1 is plain.
        repeats: u16,
    },
    /// The noise between those of the image's own seed and of another.
    Between {
        /// The other seed.
        seed: u64,
        /// 0 is the image's own, 1 the other.
        weight: f32,
    },
}

/// An image being drawn under an [`Edit`].
#[derive(Debug)]
pub struct Edited<'e> {
    inpainting: Option<Inpainting<'e>>,
}

impl<'e> Edited<'e> {
    /// Starts the drawing as the edit says; one sentence when the edit does not suit the model.
    pub fn begin(edit: &'e Edit, drawing: &mut impl Drawing) -> Result<Self> {
        Self::start(edit, drawing).map_err(|error| anyhow!("{error}"))
    }

    fn start(edit: &'e Edit, drawing: &mut impl Drawing) -> Result<Self, EditError> {
        let inpainting = match edit {
            Edit::None => None,
            Edit::Picture { picture, strength } => {
                edit::image_to_image(drawing, picture, *strength)?;
                None
            }
            Edit::Inpaint { picture, mask, repeats } => Some(Inpainting::new(drawing, picture, mask, *repeats)?),
            Edit::Between { seed, weight } => {
                edit::between_seeds(drawing, *seed, *weight)?;
                None
            }
        };
        Ok(Self { inpainting })
    }

    /// One denoising step.
    pub fn step(&mut self, drawing: &mut impl Drawing) -> Progress {
        match &mut self.inpainting {
            Some(inpainting) => inpainting.step(drawing),
            None => drawing.advance_step(),
        }
    }
}
