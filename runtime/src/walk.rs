//! The way of one image through a sampler: which network call comes next, and what becomes of its answer.
//!
//! Both engines walk it: the int8 pipeline of this crate operator by operator, the float pipeline of the host tools call by
//! call. x_t is kept as the network sees it ([`PredictionType::view_scale`]); samplers see the variance-preserving view.

use crate::blob::PredictionType;
use crate::pipeline::{Config, SetupError};
use crate::rng::NoiseStream;
use crate::sampler::{Images, Outcome, Sampler, SamplerError, StepContext, without_variances};
use crate::schedule::{Level, Schedule};
use crate::spacing::{Spacing, Trailing};

/// What a walk needs to know of the model.
#[derive(Clone, Copy, Debug)]
pub struct ModelInfo<'a> {
    /// The noise schedule.
    pub schedule: Schedule<'a>,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Classes without the null class.
    pub num_classes: u16,
    /// Pixel value 0..=255 = x · `pixel_scale` + `pixel_offset`.
    pub pixel_scale: f32,
    /// See `pixel_scale`.
    pub pixel_offset: f32,
    /// height · width.
    pub pixels: usize,
    /// Channels of the image and of the network's output; twice as many there when it also gives variances.
    pub channels: [u16; 2],
    /// The only timesteps that the network knows, f32 little-endian, when its time biases are baked; empty when it knows all.
    pub timesteps: &'a [u8],
}

impl ModelInfo<'_> {
    /// The sample that maps to a pixel value.
    #[must_use]
    pub fn sample_of(&self, pixel: f32) -> f32 {
        (pixel - self.pixel_offset) / self.pixel_scale
    }

    /// Checks the levels of a walk. Not inlined: once for each spacing, however many samplers go with it.
    #[inline(never)]
    fn check_levels<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SetupError> {
        let (got, max) = (context.steps, self.schedule.num_train_timesteps());
        if got == 0 || got > max {
            return Err(SetupError::Steps { got, max });
        }
        context.spacing.check(&self.schedule, got).map_err(SetupError::Sampler)?;
        let known = self.timesteps.as_chunks().0;
        for step in 0..got {
            let level = context.level(step);
            if !known.is_empty() && !known.contains(&level.timestep.to_le_bytes()) {
                return Err(SetupError::Timestep { got: level.timestep });
            }
            if step == 0 && !self.prediction_type.knows_x0(&level) {
                let (field, value, allowed) =
                    ("alphas_cumprod", level.alphas_cumprod, "above 0 at the first step of an epsilon or score model");
                return Err(SetupError::Sampler(SamplerError { field, value, allowed }));
            }
        }
        Ok(())
    }
}

/// An image on its way: a config that has passed every check, and where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a, S: Sampler, P: Spacing = Trailing> {
    config: Config<S, P>,
    context: StepContext<'a, P>,
    state: S::State,
    calls: u32,
    finished: bool,
}

impl<'a, S: Sampler, P: Spacing> Walk<'a, S, P> {
    /// Checks every setting against the model; nothing can fail afterwards.
    ///
    /// # Errors
    /// [`SetupError`] with the field and its value.
    pub fn new(info: &ModelInfo<'a>, config: Config<S, P>) -> Result<Self, SetupError> {
        config.check_classes(info.num_classes)?;
        let context = StepContext {
            schedule: info.schedule,
            prediction_type: info.prediction_type,
            spacing: config.spacing,
            steps: config.steps,
            step: 0,
            first_step: 0,
            stage: 0,
            seed: config.seed,
            channels: info.channels,
            // The samples that map to pixels 0 and 255.
            clip: config.clip_sample.then(|| (info.sample_of(0.0), info.sample_of(255.0))),
        };
        info.check_levels(&context)?;
        config.sampler.check(&context).map_err(SetupError::Sampler)?;
        Ok(Self { config, context, state: S::State::default(), calls: 0, finished: false })
    }

    /// Begins an image: `sample` becomes x_T of the seed.
    pub fn restart(&mut self, seed: u64, sample: &mut [f32]) {
        self.config.seed = seed;
        self.context.seed = seed;
        NoiseStream::new(seed, 0).fill_gaussian(sample);
        self.calls = 0;
        self.seek(0);
        self.show(sample);
    }

    /// Goes to the start of a step, forgetting what the sampler remembers.
    pub fn seek(&mut self, step: u16) {
        (self.context.step, self.context.first_step, self.context.stage) = (step, step, 0);
        self.state = S::State::default();
        self.finished = step >= self.context.steps;
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config<S, P> {
        &self.config
    }

    /// Where the walk stands.
    #[must_use]
    pub fn context(&self) -> &StepContext<'a, P> {
        &self.context
    }

    /// Whether the image is finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Network calls since the image began, those of guidance's second pass not counted.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// The level of the next network call.
    #[must_use]
    pub fn level(&self) -> Level {
        self.config.sampler.level(&self.context, &self.state)
    }

    /// The guidance scale of the next network call; 1 is none.
    #[must_use]
    pub fn guidance(&self) -> f32 {
        let [low, high] = self.config.guidance_interval;
        let timestep = self.level().timestep;
        if timestep >= low && timestep <= high { self.config.guidance } else { 1.0 }
    }

    /// Sets the guidance scale from the next network call on.
    ///
    /// # Errors
    /// [`SetupError::Guidance`] with the scale; nothing has changed then.
    pub fn set_guidance(&mut self, guidance: f32) -> Result<(), SetupError> {
        let config = Config { guidance, ..self.config };
        config.check_guidance()?;
        self.config = config;
        Ok(())
    }

    /// Takes the network's (guided) output for `sample`, of equal length, or of twice that where the network also gives
    /// variances ([`ModelInfo::channels`]); `history` has [`Sampler::HISTORY`] times the length of `sample`. Does nothing once
    /// the image is finished.
    pub fn answer(&mut self, sample: &mut [f32], output: &mut [f32], history: &mut [f32]) {
        if self.finished {
            return;
        }
        self.calls += 1;
        self.unshow(sample);
        let sampler = &self.config.sampler;
        let output = if sampler.reads_variances() { output } else { without_variances(output, self.context.channels) };
        let images = Images { sample: &mut *sample, output, history };
        match self.config.sampler.update(&self.context, &mut self.state, images) {
            Outcome::Ask => self.context.stage += 1,
            Outcome::Stepped => {
                (self.context.step, self.context.stage) = (self.context.step + 1, 0);
                self.finished = self.context.step >= self.context.steps;
            }
            Outcome::Finished => {
                (self.context.step, self.context.stage) = (self.context.step + 1, 0);
                self.finished = true;
            }
        }
        self.show(sample);
    }

    /// From the variance-preserving view to the network's own, at the level of the next call.
    pub fn show(&self, sample: &mut [f32]) {
        if self.context.prediction_type == PredictionType::FlowVelocity && !self.finished {
            let scale = self.context.prediction_type.view_scale(&self.level());
            sample.iter_mut().for_each(|x| *x *= scale);
        }
    }

    /// The inverse of [`Walk::show`].
    pub fn unshow(&self, sample: &mut [f32]) {
        if self.context.prediction_type == PredictionType::FlowVelocity && !self.finished {
            let scale = self.context.prediction_type.view_scale(&self.level());
            sample.iter_mut().for_each(|x| *x /= scale);
        }
    }
}
