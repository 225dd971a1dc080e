//! From seed to image: x_T, then step by step through the network and the sampler, inside one arena.

use core::fmt;

use crate::arena::ARENA_ALIGN;
use crate::blob::{Model, ParseError};
use crate::decimal::Decimal;
use crate::edit::Drawing;
use crate::image::Image;
use crate::kernels::BLOB_ALIGN;
use crate::sampler::{Ddim, Sampler, SamplerError, guide, keep_prediction};
use crate::schedule::Schedule;
use crate::spacing::{Spacing, Trailing};
use crate::tensor::{f32s, f32s_mut, split};
use crate::unet::UNet;
use crate::walk::{ModelInfo, Walk};

/// What to draw and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config<S = Ddim, P = Trailing> {
    /// Seed of the image: same seed, same image.
    pub seed: u64,
    /// Denoising steps, 1..=T.
    pub steps: u16,
    /// Class, or `None` for the null class (and for unconditional models).
    pub class: Option<u16>,
    /// Classifier-free guidance scale; at 1 the network runs once per call, otherwise twice. Needs a class.
    pub guidance: f32,
    /// Lowest and highest timestep at which guidance acts (arXiv:2404.07724).
    pub guidance_interval: [f32; 2],
    /// What guidance leads away from: a class, or `None` for the null class. With a scale in 0..=1 the images lie between
    /// this class and `class`.
    pub negative_class: Option<u16>,
    /// Whether the estimate of x0 is clipped to the range of pixels at every step.
    pub clip_sample: bool,
    /// The update rule.
    pub sampler: S,
    /// Which levels of noise are visited.
    pub spacing: P,
}

impl Config {
    /// 20 steps of DDIM without class or guidance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_sampler(seed, Ddim::default())
    }
}

impl<S> Config<S> {
    /// 20 steps of the given sampler without class or guidance.
    #[must_use]
    pub fn with_sampler(seed: u64, sampler: S) -> Self {
        Self::with_spacing(seed, sampler, Trailing)
    }
}

impl<S, P> Config<S, P> {
    /// 20 steps of the given sampler over the given levels, without class or guidance.
    #[must_use]
    pub fn with_spacing(seed: u64, sampler: S, spacing: P) -> Self {
        Self {
            seed,
            steps: 20,
            class: None,
            guidance: 1.0,
            guidance_interval: [0.0, f32::INFINITY],
            negative_class: None,
            clip_sample: true,
            sampler,
            spacing,
        }
    }

    pub(crate) fn check_classes(&self, num_classes: u16) -> Result<(), SetupError> {
        let classes = [self.class, self.negative_class];
        if let Some(got) = classes.into_iter().flatten().find(|&class| class >= num_classes) {
            return Err(SetupError::Class { got, num_classes });
        }
        let [low, high] = self.guidance_interval;
        if low > high || low.is_nan() || high.is_nan() {
            return Err(SetupError::GuidanceInterval { low, high });
        }
        self.check_guidance()
    }

    pub(crate) fn check_guidance(&self) -> Result<(), SetupError> {
        let got = self.guidance;
        let in_range = (-100.0..=100.0).contains(&got);
        if !in_range || (self.class.is_none() && got != 1.0) {
            return Err(SetupError::Guidance { got });
        }
        Ok(())
    }
}

impl<S: Sampler, P> Config<S, P> {
    /// Bytes of the arena that a pipeline with this sampler needs, exactly: the network's, and an image for each that the
    /// sampler keeps. For `Arena<{ Config::<Heun>::arena_bytes(&MODEL) }>`.
    #[must_use]
    pub const fn arena_bytes(model: &Model<'_>) -> usize {
        model.arena_bytes().saturating_add(model.image_bytes().saturating_mul(S::HISTORY))
    }
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Progress {
    /// The image is not finished.
    Running,
    /// The image is finished.
    Done,
}

/// Why a pipeline was refused; nothing has been computed yet.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SetupError {
    /// The blob breaks a rule.
    Blob(ParseError),
    /// The arena is too small (an arena that was taken before has 0 bytes).
    ArenaTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        got: usize,
    },
    /// The arena does not begin at a multiple of 16.
    ArenaMisaligned {
        /// Address modulo 16.
        remainder: usize,
    },
    /// The blob does not begin where this core's kernels need it.
    BlobMisaligned {
        /// Address modulo `align`.
        remainder: usize,
        /// Bytes that the address must be a multiple of.
        align: usize,
    },
    /// The number of steps is 0 or above T.
    Steps {
        /// Steps asked for.
        got: u16,
        /// T.
        max: u16,
    },
    /// Time biases are baked into the blob, and not for this timestep.
    Timestep {
        /// Timestep of a step.
        got: f32,
    },
    /// There is no such class.
    Class {
        /// Class asked for.
        got: u16,
        /// Classes that the model has.
        num_classes: u16,
    },
    /// Guidance other than 1 without a class, or not in −100..=100.
    Guidance {
        /// Scale asked for.
        got: f32,
    },
    /// The interval of timesteps is empty or not of numbers.
    GuidanceInterval {
        /// Lowest timestep.
        low: f32,
        /// Highest timestep.
        high: f32,
    },
    /// A setting of the sampler or of its levels.
    Sampler(SamplerError),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Blob(error) => error.fmt(f),
            Self::ArenaTooSmall { needed, got } => write!(f, "arena is too small: {needed} bytes needed, {got} given"),
            Self::ArenaMisaligned { remainder } => {
                write!(f, "arena begins {remainder} bytes past a multiple of 16; use Arena or align it")
            }
            Self::BlobMisaligned { remainder, align } => {
                write!(f, "blob begins {remainder} bytes past a multiple of {align}; use include_model! or align it")
            }
            Self::Steps { got, max } => write!(f, "steps is {got}, but must be in 1..={max}"),
            Self::Timestep { got } => {
                write!(f, "timestep {} is not baked into the blob: take other steps", Decimal(got))
            }
            Self::Class { got, num_classes: 0 } => {
                write!(f, "class {got} was asked for, but the model is unconditional")
            }
            Self::Class { got, num_classes } => {
                write!(f, "class {got} was asked for, but the model has classes 0..={}", num_classes - 1)
            }
            Self::Guidance { got } => {
                let got = Decimal(got);
                write!(f, "guidance is {got}, but must be in -100..=100, and exactly 1 when there is no class")
            }
            Self::GuidanceInterval { low, high } => {
                let (low, high) = (Decimal(low), Decimal(high));
                write!(f, "guidance_interval is {low}..={high}, but must be two timesteps, the lower first")
            }
            Self::Sampler(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetupError {}

/// The network, when blob and arena (of `needed` bytes at least) are as they must be. Apart from [`Pipeline::new`], so that a
/// program has it once however many samplers it has.
fn checked<'m>(model: &Model<'m>, arena: &[u8], needed: usize) -> Result<UNet<'m>, SetupError> {
    let unet = UNet::new(model).map_err(SetupError::Blob)?;
    let remainder = misaligned(model.bytes(), BLOB_ALIGN);
    if remainder != 0 {
        return Err(SetupError::BlobMisaligned { remainder, align: BLOB_ALIGN });
    }
    if arena.len() < needed {
        return Err(SetupError::ArenaTooSmall { needed, got: arena.len() });
    }
    let remainder = misaligned(arena, ARENA_ALIGN);
    if remainder != 0 {
        return Err(SetupError::ArenaMisaligned { remainder });
    }
    Ok(unet)
}

/// Address modulo `align`.
fn misaligned(bytes: &[u8], align: usize) -> usize {
    bytes.as_ptr() as usize % align
}

/// An image being drawn.
#[derive(Debug)]
pub struct Pipeline<'m, 'a, S: Sampler = Ddim, P: Spacing = Trailing> {
    unet: UNet<'m>,
    arena: &'a mut [u8],
    walk: Walk<'m, S, P>,
    /// Which pass of the network call is next: the one that guidance leads away from, or the one for the class.
    pass: Pass,
    /// Next operator of the pass.
    op: u16,
}

/// A pass of one network call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Not yet known: the call begins.
    First,
    /// Of the negative class, before the one of the class.
    Negative,
    /// Of the class.
    Positive,
}

impl<'m, 'a, S: Sampler, P: Spacing> Pipeline<'m, 'a, S, P> {
    /// Validates blob and settings, and draws x_T. Everything that can fail fails here.
    ///
    /// # Errors
    /// [`SetupError`] with the numbers; nothing has been computed then.
    // Not inlined: what it takes on the stack is free again before the first operator.
    #[inline(never)]
    pub fn new(model: &Model<'m>, arena: &'a mut [u8], config: Config<S, P>) -> Result<Self, SetupError> {
        let unet = checked(model, arena, Config::<S, P>::arena_bytes(model))?;
        let seed = config.seed;
        let walk = Walk::new(&model_info(&unet), config)?;
        let mut pipeline = Self { unet, arena, walk, pass: Pass::First, op: 0 };
        pipeline.restart(seed);
        Ok(pipeline)
    }

    /// Begins another image with the same settings.
    pub fn restart(&mut self, seed: u64) {
        (self.pass, self.op) = (Pass::First, 0);
        self.unet.begin(self.arena);
        self.walk.restart(seed, self.unet.sample_mut(self.arena));
    }

    /// One denoising step: every network call that the sampler makes for it, each of one pass, or two with guidance.
    pub fn step(&mut self) -> Progress {
        let step = self.steps_done();
        while self.steps_done() == step {
            if self.step_op() == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::Running
    }

    /// One operator of the network; the sampler's update comes with the last operator of a network call.
    pub fn step_op(&mut self) -> Progress {
        if self.walk.is_finished() {
            return Progress::Done;
        }
        let config = self.walk.config();
        if self.pass == Pass::First {
            self.pass = if self.walk.guidance() == 1.0 { Pass::Positive } else { Pass::Negative };
        }
        let class = if self.pass == Pass::Negative { config.negative_class } else { config.class };
        let class = class.unwrap_or(self.unet.header().num_classes);
        self.unet.run_op(self.op, self.timestep(), class, self.arena);
        self.op += 1;
        if self.op < self.unet.op_count() {
            return Progress::Running;
        }
        self.op = 0;
        if self.pass == Pass::Negative {
            self.keep_negative();
            self.pass = Pass::Positive;
        } else {
            self.finish_call();
        }
        if self.walk.is_finished() { Progress::Done } else { Progress::Running }
    }

    /// Sets the guidance scale from the next network call on; between two steps, a scale per step.
    ///
    /// # Errors
    /// [`SetupError::Guidance`] with the scale; nothing has changed then.
    pub fn set_guidance(&mut self, guidance: f32) -> Result<(), SetupError> {
        self.walk.set_guidance(guidance)
    }

    /// Steps that are finished.
    #[must_use]
    pub fn steps_done(&self) -> u16 {
        self.walk.context().step
    }

    /// The timestep of the network call in progress.
    #[must_use]
    pub fn timestep(&self) -> f32 {
        self.walk.level().timestep
    }

    /// x_t, f32 \[height\]\[width\]\[channels\] (x_0 when done).
    #[must_use]
    pub fn sample(&self) -> &[f32] {
        self.unet.sample(self.arena)
    }

    /// The current sample as an image (noisy until done).
    #[must_use]
    pub fn image(&self) -> Image<'_> {
        let header = self.unet.header();
        let shape = (header.width, header.height, header.channels);
        Image::new(self.sample(), shape, header.pixel_scale, header.pixel_offset)
    }

    /// The network.
    #[must_use]
    pub fn unet(&self) -> &UNet<'m> {
        &self.unet
    }

    /// The arena, for tools that look at tensors between operators.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        self.arena
    }

    /// Not inlined: between two passes, so its stack is none of the operators'.
    #[inline(never)]
    fn keep_negative(&mut self) {
        let [_, output, negative] = self.unet.endpoints();
        if let Some([output, negative]) = split(self.arena, [output, negative]) {
            keep_prediction(f32s(output), f32s_mut(negative), self.walk.context().channels);
        }
    }

    /// Not inlined, as above.
    #[inline(never)]
    fn finish_call(&mut self) {
        let (guidance, model) = (self.walk.guidance(), self.unet.model());
        let (network, images) = self.arena.split_at_mut(model.arena_bytes());
        let history = f32s_mut(&mut images[..model.image_bytes() * S::HISTORY]);
        if let Some([sample, output, negative]) = split(network, self.unet.endpoints()) {
            let output = f32s_mut(output);
            if guidance != 1.0 {
                guide(output, f32s(negative), guidance, self.walk.context().channels);
            }
            self.walk.answer(f32s_mut(sample), output, history);
        }
        self.pass = Pass::First;
    }
}

impl<S: Sampler, P: Spacing> Drawing for Pipeline<'_, '_, S, P> {
    type Sampler = S;
    type Spacing = P;

    fn info(&self) -> ModelInfo<'_> {
        model_info(&self.unet)
    }

    fn walk(&self) -> &Walk<'_, S, P> {
        &self.walk
    }

    fn begin_at(&mut self, step: u16, write: impl FnOnce(&ModelInfo<'_>, &mut [f32])) {
        (self.pass, self.op) = (Pass::First, 0);
        let sample = self.unet.sample_mut(self.arena);
        self.walk.unshow(sample);
        self.walk.seek(step);
        write(&model_info(&self.unet), sample);
        self.walk.show(sample);
    }

    fn change(&mut self, write: impl FnOnce(&ModelInfo<'_>, &mut [f32])) {
        let sample = self.unet.sample_mut(self.arena);
        self.walk.unshow(sample);
        write(&model_info(&self.unet), sample);
        self.walk.show(sample);
    }

    fn set_guidance(&mut self, guidance: f32) -> Result<(), SetupError> {
        self.walk.set_guidance(guidance)
    }

    fn advance(&mut self) -> Progress {
        self.step_op()
    }
}

#[inline(never)]
fn model_info<'m>(unet: &UNet<'m>) -> ModelInfo<'m> {
    let header = unet.header();
    ModelInfo {
        schedule: Schedule::new(unet.model().alphas_cumprod(header)),
        prediction_type: header.prediction_type,
        num_classes: header.num_classes,
        pixel_scale: header.pixel_scale,
        pixel_offset: header.pixel_offset,
        pixels: usize::from(header.width) * usize::from(header.height),
        channels: [header.channels.into(), unet.tensor(header.model_output).channels],
        timesteps: unet.model().baked_timesteps(header),
    }
}
