//! Drawing from a picture instead of from noise alone: image to image, inpainting, inversion, noise between two seeds.
//!
//! Works on a [`Drawing`], which both engines are: x_t, and where its walk stands. The picture and the mask stay where the
//! caller has them (flash will do); no image-sized buffer is needed.

use core::fmt;

use crate::decimal::Decimal;
use crate::math;
use crate::pipeline::{Progress, SetupError};
use crate::rng::NoiseStream;
use crate::sampler::Sampler;
use crate::schedule::Level;
use crate::spacing::Spacing;
use crate::walk::{ModelInfo, Walk};

/// Streams of noise beside the samplers' (their numbers are below 2³²): of known pixels, and of going back.
const KNOWN_STREAM: u64 = 1 << 32;
const BACK_STREAM: u64 = 2 << 32;

/// An image being drawn, by either engine.
pub trait Drawing {
    /// Its update rule.
    type Sampler: Sampler;
    /// Its levels.
    type Spacing: Spacing;

    /// What the model is.
    fn info(&self) -> ModelInfo<'_>;

    /// Where the image stands.
    fn walk(&self) -> &Walk<'_, Self::Sampler, Self::Spacing>;

    /// Goes to the start of a step and writes x_t (in the variance-preserving view) there.
    fn begin_at(&mut self, step: u16, write: impl FnOnce(&ModelInfo<'_>, &mut [f32]));

    /// Changes x_t (in the variance-preserving view) between two steps.
    fn change(&mut self, write: impl FnOnce(&ModelInfo<'_>, &mut [f32]));

    /// Sets the guidance scale from the next network call on.
    ///
    /// # Errors
    /// [`SetupError::Guidance`] with the scale; nothing has changed then.
    fn set_guidance(&mut self, guidance: f32) -> Result<(), SetupError>;

    /// One operator, or one network call where the engine has no operators.
    fn advance(&mut self) -> Progress;

    /// One denoising step.
    fn advance_step(&mut self) -> Progress {
        let step = self.walk().context().step;
        while self.walk().context().step == step {
            if self.advance() == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::Running
    }
}

/// Why an edit was refused; nothing has been drawn then.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum EditError {
    /// The picture does not have height · width · channels bytes.
    PictureBytes {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        got: usize,
    },
    /// The mask does not have height · width bytes.
    MaskBytes {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        got: usize,
    },
    /// The strength is not in 0..=1.
    Strength {
        /// Strength asked for.
        got: f32,
    },
    /// The weight between two seeds is not in 0..=1.
    Weight {
        /// Weight asked for.
        got: f32,
    },
    /// The number of repetitions is not in 1..=100, or above 1 with a multistep sampler.
    Repeats {
        /// Repetitions asked for.
        got: u16,
        /// Repetitions allowed.
        max: u16,
    },
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PictureBytes { needed, got } => {
                write!(f, "picture has {got} bytes, but must have height * width * channels = {needed}")
            }
            Self::MaskBytes { needed, got } => {
                write!(f, "mask has {got} bytes, but must have height * width = {needed}")
            }
            Self::Strength { got } => write!(f, "strength is {}, but must be in 0..=1", Decimal(got)),
            Self::Weight { got } => write!(f, "weight is {}, but must be in 0..=1", Decimal(got)),
            Self::Repeats { got, max } => {
                write!(f, "repeats is {got}, but must be in 1..={max}; above 1 not with a multistep sampler")
            }
        }
    }
}

impl core::error::Error for EditError {}

/// x_t at a level from a picture and noise.
fn noised(info: &ModelInfo<'_>, level: &Level, pixel: u8, noise: f32) -> f32 {
    level.alpha() * info.sample_of(pixel.into()) + level.sigma() * noise
}

fn check_picture(drawing: &impl Drawing, picture: &[u8]) -> Result<(), EditError> {
    let (needed, got) = (drawing.info().pixels * usize::from(drawing.info().channels[0]), picture.len());
    if got == needed { Ok(()) } else { Err(EditError::PictureBytes { needed, got }) }
}

/// Starts from a picture, noised by `strength` (SDEdit, arXiv:2108.01073): round(strength · steps) of the steps are taken.
/// At 0 the picture comes back; at 1 nothing of it is left but what the noisiest level holds.
///
/// # Errors
/// [`EditError`] when the picture has the wrong size or the strength is not in 0..=1.
pub fn image_to_image(drawing: &mut impl Drawing, picture: &[u8], strength: f32) -> Result<(), EditError> {
    check_picture(drawing, picture)?;
    if !(0.0..=1.0).contains(&strength) {
        return Err(EditError::Strength { got: strength });
    }
    let context = *drawing.walk().context();
    let taken = math::round_ties_even(strength * f32::from(context.steps)) as u16;
    let step = context.steps - taken.min(context.steps);
    let level = context.level(step);
    drawing.begin_at(step, |info, sample| {
        let mut noise = NoiseStream::new(context.seed, 0);
        for (x, &pixel) in sample.iter_mut().zip(picture) {
            *x = noised(info, &level, pixel, noise.next_gaussian());
        }
    });
    Ok(())
}

/// Starts from the picture itself, for [`crate::sampler::DdimInversion`], whose way ends in noise.
///
/// # Errors
/// [`EditError::PictureBytes`] when the picture has the wrong size.
pub fn invert(drawing: &mut impl Drawing, picture: &[u8]) -> Result<(), EditError> {
    check_picture(drawing, picture)?;
    drawing.begin_at(0, |info, sample| {
        for (x, &pixel) in sample.iter_mut().zip(picture) {
            *x = info.sample_of(pixel.into());
        }
    });
    Ok(())
}

/// Starts from the noise between those of two seeds, on the great circle (slerp): `weight` 0 is the drawing's own seed.
///
/// # Errors
/// [`EditError::Weight`] when the weight is not in 0..=1.
pub fn between_seeds(drawing: &mut impl Drawing, other: u64, weight: f32) -> Result<(), EditError> {
    if !(0.0..=1.0).contains(&weight) {
        return Err(EditError::Weight { got: weight });
    }
    let seed = drawing.walk().context().seed;
    drawing.begin_at(0, |_, sample| {
        let streams = || (NoiseStream::new(seed, 0), NoiseStream::new(other, 0));
        let (mut from, mut to) = streams();
        let (mut dot, mut from_square, mut to_square) = (0.0, 0.0, 0.0);
        for _ in sample.iter() {
            let (a, b) = (from.next_gaussian(), to.next_gaussian());
            dot += a * b;
            from_square += a * a;
            to_square += b * b;
        }
        let (of_from, of_to) = slerp_weights(dot / math::sqrt(from_square * to_square), weight);
        let (mut from, mut to) = streams();
        for x in sample {
            *x = of_from * from.next_gaussian() + of_to * to.next_gaussian();
        }
    });
    Ok(())
}

/// sin((1 − w)·Ω)/sin Ω and sin(w·Ω)/sin Ω for the angle Ω of this cosine; a straight line where the two are nearly one.
fn slerp_weights(cosine: f32, weight: f32) -> (f32, f32) {
    let sine = math::sqrt(if cosine * cosine < 1.0 { 1.0 - cosine * cosine } else { 0.0 });
    if sine < 1e-3 {
        return (1.0 - weight, weight);
    }
    let angle = math::angle(cosine.abs(), sine);
    let angle = if cosine < 0.0 { core::f32::consts::PI - angle } else { angle };
    (math::sin_cos((1.0 - weight) * angle).0 / sine, math::sin_cos(weight * angle).0 / sine)
}

/// Inpainting and outpainting: pixels that are known are set to the picture, noised to the level at hand, before every
/// step, and to the picture itself at the end; the network draws the rest (RePaint, arXiv:2201.09865, algorithm 1).
///
/// Outpainting is the same with the mask of the border.
#[derive(Clone, Copy, Debug)]
pub struct Inpainting<'p> {
    picture: &'p [u8],
    mask: &'p [u8],
    repeats: u16,
    /// Repetitions of the step at hand that are behind us.
    done: u16,
}

impl<'p> Inpainting<'p> {
    /// `mask` has a byte per pixel: 0 is known, anything else is to be drawn. Each step is taken `repeats` times, going back
    /// to its level in between; 1 is plain inpainting, RePaint takes about 10.
    ///
    /// # Errors
    /// [`EditError`] when picture or mask has the wrong size, or `repeats` is out of range.
    pub fn new(drawing: &mut impl Drawing, picture: &'p [u8], mask: &'p [u8], repeats: u16) -> Result<Self, EditError> {
        check_picture(drawing, picture)?;
        let (needed, got) = (drawing.info().pixels, mask.len());
        if got != needed {
            return Err(EditError::MaskBytes { needed, got });
        }
        let max = if drawing.walk().config().sampler.multistep() { 1 } else { 100 };
        if !(1..=max).contains(&repeats) {
            return Err(EditError::Repeats { got: repeats, max });
        }
        let inpainting = Self { picture, mask, repeats, done: 0 };
        inpainting.keep(drawing);
        Ok(inpainting)
    }

    /// One denoising step, its repetitions included.
    pub fn step(&mut self, drawing: &mut impl Drawing) -> Progress {
        let step = drawing.walk().context().step;
        while drawing.walk().context().step == step {
            if self.advance(drawing) == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::Running
    }

    /// One operator, or one network call where the engine has no operators.
    pub fn advance(&mut self, drawing: &mut impl Drawing) -> Progress {
        if drawing.walk().is_finished() {
            return Progress::Done;
        }
        let step = drawing.walk().context().step;
        let progress = drawing.advance();
        if drawing.walk().context().step == step {
            return progress;
        }
        self.done += 1;
        if self.done < self.repeats && progress == Progress::Running {
            self.go_back(drawing, step);
        } else {
            self.done = 0;
        }
        self.keep(drawing);
        progress
    }

    /// From the level that the step reached to the one it began at: x·√(ᾱ/ᾱ') + √(1 − ᾱ/ᾱ')·z.
    fn go_back(&self, drawing: &mut impl Drawing, step: u16) {
        let context = *drawing.walk().context();
        let ratio = context.level(step).alphas_cumprod / context.level(step + 1).alphas_cumprod;
        let (of_sample, of_noise) = (math::sqrt(ratio), math::sqrt(1.0 - ratio));
        let stream = BACK_STREAM + (u64::from(self.done) << 16) + u64::from(step);
        let mut noise = NoiseStream::new(context.seed, stream);
        drawing.change(|_, sample| {
            for x in sample {
                *x = of_sample * *x + of_noise * noise.next_gaussian();
            }
        });
        drawing.begin_at(step, |_, _| ());
    }

    /// Sets the known pixels for the level at hand.
    fn keep(&self, drawing: &mut impl Drawing) {
        let walk = drawing.walk();
        let context = *walk.context();
        let level = if walk.is_finished() { Level::CLEAN } else { walk.level() };
        let stream = KNOWN_STREAM + (u64::from(self.done) << 16) + u64::from(context.step);
        let mut noise = NoiseStream::new(context.seed, stream);
        let (picture, mask) = (self.picture, self.mask);
        drawing.change(|info, sample| {
            let channels = usize::from(info.channels[0].max(1));
            for (i, (x, &pixel)) in sample.iter_mut().zip(picture).enumerate() {
                let z = noise.next_gaussian();
                if mask[i / channels] == 0 {
                    *x = noised(info, &level, pixel, z);
                }
            }
        });
    }
}
