//! From seed to image with the float network: the runtime's own samplers, noise and pixel mapping around [`FloatUNet`].

use anyhow::Result;
use picodream::edit::Drawing;
use picodream::sampler::{Sampler, guide, keep_prediction};
use picodream::schedule::{Level, Schedule};
use picodream::spacing::FewStep;
use picodream::walk::{ModelInfo, Walk};
use picodream::{Config, Image, PredictionType, Progress, SetupError, Spacing};

use super::engine::{FloatUNet, OpCall, OpTrace};
use super::graph::Skips;
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
    few_step: FewStep,
    /// The only timesteps that it knows, f32 little-endian; empty for all.
    timesteps: Vec<u8>,
}

/// One network call as it happened.
#[derive(Clone, Copy, Debug)]
pub struct StepTrace<'a> {
    /// Timestep and noise of the call.
    pub level: Level,
    /// x_t, before the update.
    pub sample: &'a [f32],
    /// The network's output (guided, with guidance); variances, where the network gives them, behind each pixel's prediction.
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
        Self::with_skips(checkpoint, Skips::default())
    }

    /// The same with the op list of other skips; it draws the same.
    pub fn with_skips(checkpoint: &Checkpoint, skips: Skips) -> Result<Self> {
        let config = &checkpoint.config;
        Ok(Self {
            net: FloatUNet::with_skips(checkpoint, skips)?,
            alphas_cumprod: schedule_bytes(config),
            prediction_type: prediction_type(config),
            pixel: pixel_mapping(config),
            image: config.image,
            few_step: config.few_step(),
            timesteps: Vec::new(),
        })
    }

    /// Runs the network's ops in another order, as [`FloatUNet::reorder`].
    pub fn reorder(&mut self, order: &[usize]) {
        self.net.reorder(order);
    }

    /// Knows these timesteps only from now on, as [`FloatUNet::bake`].
    pub fn bake(&mut self, timesteps: &[f32]) {
        self.net.bake(timesteps);
        self.timesteps = timesteps.iter().flat_map(|t| t.to_le_bytes()).collect();
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

    /// The levels that the model was tuned to draw in few steps with, or the usual ones.
    #[must_use]
    pub fn few_step(&self) -> FewStep {
        self.few_step
    }

    /// A sample of this model as an image.
    #[must_use]
    pub fn image<'a>(&self, sample: &'a [f32]) -> Image<'a> {
        let ImageConfig { width, height, channels } = self.image;
        Image::new(sample, (width as u16, height as u16, channels as u8), self.pixel.0, self.pixel.1)
    }

    /// What the runtime's samplers need to know of the model.
    #[must_use]
    pub fn info(&self) -> ModelInfo<'_> {
        let graph = self.net.graph();
        ModelInfo {
            schedule: self.schedule(),
            prediction_type: self.prediction_type,
            num_classes: graph.num_classes as u16,
            pixel_scale: self.pixel.0,
            pixel_offset: self.pixel.1,
            pixels: self.image.width * self.image.height,
            channels: [self.image.channels as u16, graph.tensors[graph.output].channels as u16],
            timesteps: &self.timesteps,
        }
    }

    /// Begins an image: checks the settings with the runtime's rules and draws x_T, the same noise as the int8 pipeline's.
    pub fn begin<S: Sampler, P: Spacing>(&self, config: &Config<S, P>) -> Result<FloatDrawing<'_, S, P>> {
        let mut walk = Walk::new(&self.info(), *config).map_err(|error| anyhow::anyhow!("{error}"))?;
        let len = self.image.width * self.image.height * self.image.channels;
        let mut sample = vec![0.0; len];
        walk.restart(config.seed, &mut sample);
        let graph = self.net.graph();
        let output = vec![0.0; graph.tensors[graph.output].len()];
        let (negative, history) = (vec![0.0; len], vec![0.0; S::HISTORY * len]);
        Ok(FloatDrawing { pipeline: self, walk, sample, output, negative, history })
    }

    /// Draws one image: x_0, NHWC.
    pub fn run<S: Sampler, P: Spacing>(&self, config: &Config<S, P>) -> Result<Vec<f32>> {
        self.run_traced(config, &mut |_| {}, &mut |_, _| {})
    }

    /// The same, showing every network call (before the update that follows it) and every op of every pass.
    pub fn run_traced<S: Sampler, P: Spacing>(
        &self,
        config: &Config<S, P>,
        on_step: &mut impl FnMut(&StepTrace<'_>),
        on_op: &mut impl FnMut(&str, &OpTrace<'_>),
    ) -> Result<Vec<f32>> {
        let mut drawing = self.begin(config)?;
        while drawing.call(on_step, on_op, &mut |_, _| {}) == Progress::Running {}
        Ok(drawing.sample)
    }

    /// Draws one image with other values in place of what some ops compute.
    pub fn run_replacing<S: Sampler, P: Spacing>(
        &self,
        config: &Config<S, P>,
        replace: &mut impl FnMut(&OpCall<'_>, &mut [f32]),
    ) -> Result<Vec<f32>> {
        let mut drawing = self.begin(config)?;
        while drawing.call(&mut |_| {}, &mut |_, _| {}, replace) == Progress::Running {}
        Ok(drawing.sample)
    }
}

/// An image being drawn by the float network: the mirror of [`picodream::Pipeline`].
#[derive(Clone, Debug)]
pub struct FloatDrawing<'p, S: Sampler, P: Spacing> {
    pipeline: &'p FloatPipeline,
    walk: Walk<'p, S, P>,
    /// x_t, NHWC.
    pub sample: Vec<f32>,
    output: Vec<f32>,
    negative: Vec<f32>,
    history: Vec<f32>,
}

impl<S: Sampler, P: Spacing> FloatDrawing<'_, S, P> {
    /// One denoising step.
    pub fn step(&mut self) -> Progress {
        self.advance_step()
    }

    /// One network call (of two passes, with guidance) and the update that follows it.
    pub fn call(
        &mut self,
        on_step: &mut impl FnMut(&StepTrace<'_>),
        on_op: &mut impl FnMut(&str, &OpTrace<'_>),
        replace: &mut impl FnMut(&OpCall<'_>, &mut [f32]),
    ) -> Progress {
        if self.walk.is_finished() {
            return Progress::Done;
        }
        let (net, config) = (&self.pipeline.net, *self.walk.config());
        let (level, guidance) = (self.walk.level(), self.walk.guidance());
        if guidance != 1.0 {
            let negative = config.negative_class.map(usize::from);
            net.forward_replacing(&self.sample, level.timestep, negative, &mut self.output, on_op, replace);
            keep_prediction(&self.output, &mut self.negative, self.walk.context().channels);
        }
        let class = config.class.map(usize::from);
        net.forward_replacing(&self.sample, level.timestep, class, &mut self.output, on_op, replace);
        if guidance != 1.0 {
            guide(&mut self.output, &self.negative, guidance, self.walk.context().channels);
        }
        on_step(&StepTrace { level, sample: &self.sample, output: &self.output });
        self.walk.answer(&mut self.sample, &mut self.output, &mut self.history);
        if self.walk.is_finished() { Progress::Done } else { Progress::Running }
    }
}

impl<S: Sampler, P: Spacing> Drawing for FloatDrawing<'_, S, P> {
    type Sampler = S;
    type Spacing = P;

    fn info(&self) -> ModelInfo<'_> {
        self.pipeline.info()
    }

    fn walk(&self) -> &Walk<'_, S, P> {
        &self.walk
    }

    fn begin_at(&mut self, step: u16, write: impl FnOnce(&ModelInfo<'_>, &mut [f32])) {
        self.walk.unshow(&mut self.sample);
        self.walk.seek(step);
        write(&self.pipeline.info(), &mut self.sample);
        self.walk.show(&mut self.sample);
    }

    fn change(&mut self, write: impl FnOnce(&ModelInfo<'_>, &mut [f32])) {
        self.walk.unshow(&mut self.sample);
        write(&self.pipeline.info(), &mut self.sample);
        self.walk.show(&mut self.sample);
    }

    fn set_guidance(&mut self, guidance: f32) -> Result<(), SetupError> {
        self.walk.set_guidance(guidance)
    }

    fn advance(&mut self) -> Progress {
        self.call(&mut |_| {}, &mut |_, _| {}, &mut |_, _| {})
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
        assert!(error(Config { class: Some(2), ..Config::new(1) }).contains("the model has classes 0..=1"));
        assert!(error(Config { guidance: 2.0, ..Config::new(1) }).contains("exactly 1 when there is no class"));
        assert!(error(Config { class: Some(0), guidance: f32::NAN, ..Config::new(1) }).contains("guidance is NaN"));
    }
}
