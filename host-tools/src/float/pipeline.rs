//! From seed to image with the float network: the runtime's own samplers, noise and pixel mapping around [`FloatUNet`].

use anyhow::{Result, ensure};
use picodream::rng::NoiseStream;
use picodream::sampler::{Sampler, StepContext, guide};
use picodream::schedule::Schedule;
use picodream::{Config, Image, PredictionType};

use super::engine::{FloatUNet, OpTrace};
use crate::checkpoint::Checkpoint;
use crate::config::{self, ImageConfig, ModelConfig};

/// A float network with everything that sampling needs; immutable, so threads may share it.
#[derive(Clone, Debug)]
pub struct FloatPipeline {
    net: FloatUNet,
    alphas_cumprod: Vec<u8>,
    prediction_type: PredictionType,
    pixel: (f32, f32),
    image: ImageConfig,
}

/// One denoising step as it happened.
#[derive(Clone, Copy, Debug)]
pub struct StepTrace<'a> {
    /// Schedule, prediction type, step.
    pub context: StepContext<'a>,
    /// x_t, before the update.
    pub sample: &'a [f32],
    /// The network's output (guided, with guidance).
    pub output: &'a [f32],
}

/// Scale and offset with pixel = x · scale + offset, from x = (pixel/255 − mean)/std.
#[must_use]
pub fn pixel_mapping(config: &ModelConfig) -> (f32, f32) {
    (255.0 * config.data.std, 255.0 * config.data.mean)
}

/// The schedule as a blob carries it: f32 little-endian `alphas_cumprod` per timestep.
#[must_use]
pub fn schedule_bytes(config: &ModelConfig) -> Vec<u8> {
    config.schedule.alphas_cumprod().iter().flat_map(|&a| (a as f32).to_le_bytes()).collect()
}

/// The runtime's name for a config's prediction type.
#[must_use]
pub fn prediction_type(config: &ModelConfig) -> PredictionType {
    match config.prediction_type {
        config::PredictionType::Epsilon => PredictionType::Epsilon,
        config::PredictionType::Sample => PredictionType::Sample,
        config::PredictionType::VPrediction => PredictionType::VPrediction,
    }
}

impl FloatPipeline {
    /// Lowers a checkpoint; fails when a tensor is absent or of the wrong size.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let config = &checkpoint.config;
        Ok(Self {
            net: FloatUNet::new(checkpoint)?,
            alphas_cumprod: schedule_bytes(config),
            prediction_type: prediction_type(config),
            pixel: pixel_mapping(config),
            image: config.image,
        })
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &FloatUNet {
        &self.net
    }

    /// `alphas_cumprod` by timestep.
    #[must_use]
    pub fn schedule(&self) -> Schedule<'_> {
        Schedule::new(&self.alphas_cumprod)
    }

    /// Scale and offset with pixel = x · scale + offset.
    #[must_use]
    pub fn pixel_mapping(&self) -> (f32, f32) {
        self.pixel
    }

    /// A sample of this model as an image.
    #[must_use]
    pub fn image<'a>(&self, sample: &'a [f32]) -> Image<'a> {
        let ImageConfig { width, height, channels } = self.image;
        Image::new(sample, (width as u16, height as u16, channels as u8), self.pixel.0, self.pixel.1)
    }

    /// Checks what [`FloatPipeline::run`] relies on, with the runtime's rules.
    pub fn check<S: Sampler>(&self, config: &Config<S>) -> Result<()> {
        let (steps, max) = (config.steps, self.schedule().num_train_timesteps());
        ensure!((1..=max).contains(&steps), "steps is {steps}, but must be in 1..={max}");
        let classes = self.net.graph().num_classes;
        if let Some(class) = config.class {
            ensure!(usize::from(class) < classes, "class {class} was asked for, but the model has {classes} classes");
        }
        let allowed = (-100.0..=100.0).contains(&config.guidance) && (config.class.is_some() || config.guidance == 1.0);
        ensure!(
            allowed,
            "guidance is {}, but must be in -100..=100, and exactly 1 when there is no class",
            config.guidance
        );
        config.sampler.check().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Draws one image: x_0, NHWC. The same seed starts from the same noise as the int8 pipeline.
    pub fn run<S: Sampler>(&self, config: &Config<S>) -> Result<Vec<f32>> {
        self.run_traced(config, &mut |_| {}, &mut |_, _| {})
    }

    /// The same, showing every step (before its update) and every op of every pass.
    pub fn run_traced<S: Sampler>(
        &self,
        config: &Config<S>,
        on_step: &mut impl FnMut(&StepTrace<'_>),
        on_op: &mut impl FnMut(&str, &OpTrace<'_>),
    ) -> Result<Vec<f32>> {
        self.check(config)?;
        let len = self.image.width * self.image.height * self.image.channels;
        let (mut sample, mut output, mut unconditional) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
        NoiseStream::new(config.seed, 0).fill_gaussian(&mut sample);
        for step in 0..config.steps {
            let context = self.context(config, step);
            let t = f32::from(context.timestep());
            if config.guidance != 1.0 {
                self.net.forward(&sample, t, None, &mut unconditional, on_op);
            }
            self.net.forward(&sample, t, config.class.map(usize::from), &mut output, on_op);
            if config.guidance != 1.0 {
                guide(&mut output, &unconditional, config.guidance);
            }
            on_step(&StepTrace { context, sample: &sample, output: &output });
            config.sampler.update(&context, &mut sample, &output);
        }
        Ok(sample)
    }

    fn context<S>(&self, config: &Config<S>, step: u16) -> StepContext<'_> {
        let bound = |pixel: f32| (pixel - self.pixel.1) / self.pixel.0;
        StepContext {
            schedule: self.schedule(),
            prediction_type: self.prediction_type,
            steps: config.steps,
            step,
            seed: config.seed,
            clip: config.clip_sample.then(|| (bound(0.0), bound(255.0))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UNetConfig;
    use crate::float::random;

    fn pipeline(classes: usize) -> FloatPipeline {
        let unet = UNetConfig { block_out_channels: vec![8], attention_levels: vec![false], ..UNetConfig::default() };
        let image = ImageConfig { width: 4, height: 4, channels: 1 };
        FloatPipeline::new(&random::checkpoint(random::config(image, unet, classes), 2)).unwrap()
    }

    #[test]
    fn guidance_one_and_two_equal_passes_agree() {
        // With the class row equal to the null row there is nothing to guide; here: guidance 0 is the unconditional model.
        let pipeline = pipeline(2);
        let config = Config { steps: 3, class: Some(1), guidance: 0.0, ..Config::new(4) };
        let unconditional = Config { steps: 3, ..Config::new(4) };
        let (a, b) = (pipeline.run(&config).unwrap(), pipeline.run(&unconditional).unwrap());
        assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-5));
        assert!(pipeline.image(&a).bytes().count() == 16);
    }

    #[test]
    fn refuses_bad_settings_in_one_sentence() {
        let pipeline = pipeline(2);
        let error = |config: Config| pipeline.run(&config).unwrap_err().to_string();
        assert_eq!(error(Config { steps: 0, ..Config::new(1) }), "steps is 0, but must be in 1..=1000");
        assert!(error(Config { class: Some(2), ..Config::new(1) }).contains("the model has 2 classes"));
        assert!(error(Config { guidance: 2.0, ..Config::new(1) }).contains("exactly 1 when there is no class"));
        assert!(error(Config { class: Some(0), guidance: f32::NAN, ..Config::new(1) }).contains("guidance is NaN"));
    }
}
