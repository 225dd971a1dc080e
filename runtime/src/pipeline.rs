//! From seed to image: x_T, then step by step through the network and the sampler, inside one arena.

use core::fmt;

use crate::arena::ARENA_ALIGN;
use crate::blob::{Model, ParseError};
use crate::image::Image;
use crate::rng::NoiseStream;
use crate::sampler::{Ddim, Sampler, SamplerError, StepContext, guide};
use crate::schedule::Schedule;
use crate::tensor::{f32s, f32s_mut, split};
use crate::unet::UNet;

/// What to draw and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config<S = Ddim> {
    /// Seed of the image: same seed, same image.
    pub seed: u64,
    /// Denoising steps, 1..=T.
    pub steps: u16,
    /// Class, or `None` for the null class (and for unconditional models).
    pub class: Option<u16>,
    /// Classifier-free guidance scale; at 1 the network runs once per step, otherwise twice. Needs a class.
    pub guidance: f32,
    /// Whether the estimate of x0 is clipped to the range of pixels at every step.
    pub clip_sample: bool,
    /// The update rule.
    pub sampler: S,
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
        Self { seed, steps: 20, class: None, guidance: 1.0, clip_sample: true, sampler }
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
    /// The number of steps is 0 or above T.
    Steps {
        /// Steps asked for.
        got: u16,
        /// T.
        max: u16,
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
    /// A setting of the sampler.
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
            Self::Steps { got, max } => write!(f, "steps is {got}, but must be in 1..={max}"),
            Self::Class { got, num_classes: 0 } => {
                write!(f, "class {got} was asked for, but the model is unconditional")
            }
            Self::Class { got, num_classes } => {
                write!(f, "class {got} was asked for, but the model has classes 0..={}", num_classes - 1)
            }
            Self::Guidance { got } => {
                write!(f, "guidance is {got}, but must be in -100..=100, and exactly 1 when there is no class")
            }
            Self::Sampler(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetupError {}

/// An image being drawn.
#[derive(Debug)]
pub struct Pipeline<'m, 'a, S = Ddim> {
    unet: UNet<'m>,
    arena: &'a mut [u8],
    config: Config<S>,
    /// Next step, `config.steps` when done.
    step: u16,
    /// Whether the unconditional pass of this step is behind us (always, without guidance).
    conditional_pass: bool,
    /// Next operator of the pass.
    op: u16,
}

impl<'m, 'a, S: Sampler> Pipeline<'m, 'a, S> {
    /// Validates blob and settings, and draws x_T. Everything that can fail fails here.
    ///
    /// # Errors
    /// [`SetupError`] with the numbers; nothing has been computed then.
    pub fn new(model: &Model<'m>, arena: &'a mut [u8], config: Config<S>) -> Result<Self, SetupError> {
        let unet = UNet::new(model).map_err(SetupError::Blob)?;
        let (needed, got) = (model.arena_bytes(), arena.len());
        if got < needed {
            return Err(SetupError::ArenaTooSmall { needed, got });
        }
        let remainder = arena.as_ptr() as usize % ARENA_ALIGN;
        if remainder != 0 {
            return Err(SetupError::ArenaMisaligned { remainder });
        }
        check_config(&config, unet.header().num_train_timesteps, unet.header().num_classes)?;
        let seed = config.seed;
        let mut pipeline = Self { unet, arena, config, step: 0, conditional_pass: true, op: 0 };
        pipeline.restart(seed);
        Ok(pipeline)
    }

    /// Begins another image with the same settings.
    pub fn restart(&mut self, seed: u64) {
        self.config.seed = seed;
        self.step = 0;
        self.begin_step();
        NoiseStream::new(seed, 0).fill_gaussian(self.unet.sample_mut(self.arena));
    }

    /// One denoising step: one network call, or two with guidance.
    pub fn step(&mut self) -> Progress {
        let step = self.step;
        while self.step == step {
            if self.step_op() == Progress::Done {
                return Progress::Done;
            }
        }
        Progress::Running
    }

    /// One operator of the network; the sampler's update comes with the last operator of a step.
    pub fn step_op(&mut self) -> Progress {
        if self.step >= self.config.steps {
            return Progress::Done;
        }
        let null_class = self.unet.header().num_classes;
        let class = if self.conditional_pass { self.config.class.unwrap_or(null_class) } else { null_class };
        self.unet.run_op(self.op, self.timestep().into(), class, self.arena);
        self.op += 1;
        if self.op < self.unet.op_count() {
            return Progress::Running;
        }
        self.op = 0;
        if self.conditional_pass {
            self.finish_step();
        } else {
            self.keep_unconditional();
            self.conditional_pass = true;
        }
        if self.step >= self.config.steps { Progress::Done } else { Progress::Running }
    }

    /// Steps that are finished.
    #[must_use]
    pub fn steps_done(&self) -> u16 {
        self.step
    }

    /// The timestep of the step in progress.
    #[must_use]
    pub fn timestep(&self) -> u16 {
        self.context().timestep()
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

    fn guided(&self) -> bool {
        self.config.guidance != 1.0
    }

    fn begin_step(&mut self) {
        self.op = 0;
        self.conditional_pass = !self.guided();
    }

    fn context(&self) -> StepContext<'m> {
        let header = self.unet.header();
        // x0 range: the samples that map to pixels 0 and 255.
        let bound = |pixel: f32| (pixel - header.pixel_offset) / header.pixel_scale;
        StepContext {
            schedule: Schedule::new(self.unet.model().alphas_cumprod(header)),
            prediction_type: header.prediction_type,
            steps: self.config.steps,
            step: self.step,
            seed: self.config.seed,
            clip: self.config.clip_sample.then(|| (bound(0.0), bound(255.0))),
        }
    }

    fn keep_unconditional(&mut self) {
        let [_, output, guidance] = self.unet.endpoints();
        if let Some([output, guidance]) = split(self.arena, [output, guidance]) {
            guidance.copy_from_slice(output);
        }
    }

    fn finish_step(&mut self) {
        let context = self.context();
        if let Some([sample, output, guidance]) = split(self.arena, self.unet.endpoints()) {
            let output = f32s_mut(output);
            if self.config.guidance != 1.0 {
                guide(output, f32s(guidance), self.config.guidance);
            }
            self.config.sampler.update(&context, f32s_mut(sample), output);
        }
        self.step += 1;
        self.begin_step();
    }
}

fn check_config<S: Sampler>(config: &Config<S>, max_steps: u16, num_classes: u16) -> Result<(), SetupError> {
    if config.steps == 0 || config.steps > max_steps {
        return Err(SetupError::Steps { got: config.steps, max: max_steps });
    }
    if let Some(got) = config.class.filter(|&class| class >= num_classes) {
        return Err(SetupError::Class { got, num_classes });
    }
    let guidance = config.guidance;
    let in_range = (-100.0..=100.0).contains(&guidance);
    if !in_range || (config.class.is_none() && guidance != 1.0) {
        return Err(SetupError::Guidance { got: guidance });
    }
    config.sampler.check().map_err(SetupError::Sampler)
}
