//! Draws many images with either engine on several threads; the result does not depend on how many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow, ensure};
use picodream::edit::Drawing;
use picodream::spacing::{AnySpacing, Ends, FewStep, Karras, Trailing};
use picodream::{Config, Ddim, Image, Model, Pipeline, Progress};

pub use picodream::sampler::AnySampler as SamplerChoice;

use crate::config::ImageConfig;
use crate::editing::{Edit, Edited};
use crate::float::FloatPipeline;

/// The network that draws.
#[derive(Clone, Debug)]
pub enum Network<'m> {
    /// The blob, through the runtime that runs on the chips: its bytes are the same everywhere.
    Int8(Model<'m>),
    /// The checkpoint in f32.
    F32(FloatPipeline),
}

impl Network<'_> {
    /// The levels that the model was tuned to draw in few steps with, or the usual ones.
    #[must_use]
    pub fn few_step(&self) -> FewStep {
        match self {
            Self::Int8(model) => model.header().map_or(FewStep::ECT, |header| header.few_step()),
            Self::F32(pipeline) => pipeline.few_step(),
        }
    }

    /// Classes without the null class.
    pub fn num_classes(&self) -> Result<u16> {
        match self {
            Self::Int8(model) => Ok(model.header().map_err(|error| anyhow!("{error}"))?.num_classes),
            Self::F32(pipeline) => Ok(pipeline.info().num_classes),
        }
    }

    /// Shape of its images.
    pub fn image(&self) -> Result<ImageConfig> {
        match self {
            Self::Int8(model) => {
                let header = model.header().map_err(|error| anyhow!("{error}"))?;
                let (width, height, channels) = (header.width.into(), header.height.into(), header.channels.into());
                Ok(ImageConfig { width, height, channels })
            }
            Self::F32(pipeline) => {
                let image = pipeline.image(&[]);
                let (width, height, channels) = (image.width().into(), image.height().into(), image.channels().into());
                Ok(ImageConfig { width, height, channels })
            }
        }
    }
}

/// What all images of one call have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Denoising steps, 1..=T.
    pub steps: u16,
    /// Classifier-free guidance scale; 1 is none.
    pub guidance: f32,
    /// A scale for each step instead; empty for none.
    pub guidance_per_step: Vec<f32>,
    /// Lowest and highest timestep at which guidance acts.
    pub guidance_interval: [f32; 2],
    /// What guidance leads away from; `None` is the null class.
    pub negative_class: Option<u16>,
    /// Whether the estimate of x0 is clipped to the range of pixels.
    pub clip_sample: bool,
    /// The update rule.
    pub sampler: SamplerChoice,
    /// Which levels of noise are visited; `None` is the sampler's usual choice.
    pub spacing: Option<AnySpacing>,
    /// What the images start from.
    pub edit: Edit,
    /// Whether the image after every step is kept in [`DrawnImage::frames`].
    pub keep_frames: bool,
}

impl Default for Settings {
    /// 20 steps of DDIM, no guidance.
    fn default() -> Self {
        Self {
            steps: 20,
            guidance: 1.0,
            guidance_per_step: Vec::new(),
            guidance_interval: [0.0, f32::INFINITY],
            negative_class: None,
            clip_sample: true,
            sampler: SamplerChoice::Ddim(Ddim::default()),
            spacing: None,
            edit: Edit::None,
            keep_frames: false,
        }
    }
}

impl Settings {
    /// The levels of noise: those asked for, or the sampler's usual ones.
    #[must_use]
    pub fn spacing(&self, few_step: FewStep) -> AnySpacing {
        match self.spacing {
            None => usual_spacing(&self.sampler, few_step),
            // By its name alone: the model's own levels.
            Some(AnySpacing::FewStep(FewStep::ECT)) => AnySpacing::FewStep(few_step),
            Some(spacing) => spacing,
        }
    }

    fn config(&self, request: Request, few_step: FewStep) -> Config<SamplerChoice, AnySpacing> {
        let steps = self.steps;
        let guidance = self.guidance_per_step.first().copied().unwrap_or(self.guidance);
        let (guidance_interval, negative_class) = (self.guidance_interval, self.negative_class);
        let (class, clip_sample) = (request.class, self.clip_sample);
        let plain = Config::with_spacing(request.seed, self.sampler, self.spacing(few_step));
        Config { steps, class, guidance, guidance_interval, negative_class, clip_sample, ..plain }
    }
}

/// The usual levels of noise of a sampler. Those of the few-step model for consistency; Karras' from σ̂ = 80 for rules that divide
/// by α, which a cosine schedule begins with 0.00005; trailing for all others.
#[must_use]
pub fn usual_spacing(sampler: &SamplerChoice, few_step: FewStep) -> AnySpacing {
    match sampler {
        SamplerChoice::Consistency(_) => AnySpacing::FewStep(few_step),
        SamplerChoice::Heun(_)
        | SamplerChoice::ProbabilityFlow(_)
        | SamplerChoice::Langevin(_)
        | SamplerChoice::Plms(_)
        | SamplerChoice::Pndm(_) => AnySpacing::Karras(Karras { ends: Ends::FROM_80, ..Karras::FULL }),
        _ => AnySpacing::Trailing(Trailing),
    }
}

/// One image to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Seed of its noise.
    pub seed: u64,
    /// Class, or `None` for the null class.
    pub class: Option<u16>,
}

/// A finished image.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnImage {
    /// What was asked for.
    pub request: Request,
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// height · width · channels bytes.
    pub pixels: Vec<u8>,
    /// CRC-32/ISO-HDLC over `pixels`.
    pub crc32: u32,
    /// Pixels of x_T and of x_t after every step, the last equal to `pixels`; empty unless asked for.
    pub frames: Vec<Vec<u8>>,
    /// Calls of the network; with guidance each is two passes.
    pub network_calls: u32,
}

impl DrawnImage {
    fn new(request: Request, image: &Image<'_>, frames: Vec<Vec<u8>>, network_calls: u32) -> Self {
        Self {
            request,
            width: image.width().into(),
            height: image.height().into(),
            channels: image.channels().into(),
            pixels: image.bytes().collect(),
            crc32: image.crc32(),
            frames,
            network_calls,
        }
    }
}

/// The class of an image when none was asked for: the seed counts through the classes. `None` for an unconditional model.
///
/// A function of the seed alone, so that every verb and the firmware draw the same image for a seed.
#[must_use]
pub fn default_class(num_classes: u16, seed: u64) -> Option<u16> {
    // The remainder is below num_classes, so it fits.
    (num_classes > 0).then(|| (seed % u64::from(num_classes)) as u16)
}

/// Threads that the machine offers.
#[must_use]
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Draws `requests` in order; `on_image` is called once for every finished image, from any thread.
///
/// Fails when the blob or the settings are refused; nothing is returned then.
pub fn draw(
    network: &Network<'_>,
    settings: &Settings,
    requests: &[Request],
    threads: usize,
    on_image: impl Fn() + Sync,
) -> Result<Vec<DrawnImage>> {
    let next = AtomicUsize::new(0);
    let slots: Mutex<Vec<Option<Result<DrawnImage>>>> = Mutex::new(requests.iter().map(|_| None).collect());
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(&request) = requests.get(i) else { return };
            let drawn = draw_one(network, settings, request);
            if drawn.is_err() {
                // The call has failed: the other threads need not go on.
                next.store(requests.len(), Ordering::Relaxed);
            }
            if let Ok(mut slots) = slots.lock() {
                slots[i] = Some(drawn);
            }
            on_image();
        }
    };
    std::thread::scope(|scope| {
        (1..threads.clamp(1, requests.len().max(1))).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let slots = slots.into_inner().map_err(|_| anyhow!("a drawing thread stopped early"))?;
    slots.into_iter().flatten().collect()
}

/// Draws one image on this thread.
pub fn draw_one(network: &Network<'_>, settings: &Settings, request: Request) -> Result<DrawnImage> {
    let scales = settings.guidance_per_step.len();
    ensure!(
        scales == 0 || scales == usize::from(settings.steps),
        "there are {scales} guidance scales for {} steps; give one for each step",
        settings.steps
    );
    let config = settings.config(request, network.few_step());
    match network {
        Network::Int8(model) => draw_int8(model, config, settings, request),
        Network::F32(pipeline) => {
            let mut drawing = pipeline.begin(&config)?;
            let frames = take_steps(&mut drawing, settings, |drawing| pixels(&pipeline.image(&drawing.sample)))?;
            Ok(DrawnImage::new(request, &pipeline.image(&drawing.sample), frames, drawing.walk().calls()))
        }
    }
}

fn draw_int8(
    model: &Model<'_>,
    config: Config<SamplerChoice, AnySpacing>,
    settings: &Settings,
    request: Request,
) -> Result<DrawnImage> {
    let bytes = Config::<SamplerChoice, AnySpacing>::arena_bytes(model);
    let mut memory = vec![0; bytes + 15];
    // Safe code cannot ask the allocator for 16-byte alignment of bytes: take the aligned part of a longer buffer.
    let start = memory.as_ptr().align_offset(16).min(15);
    let arena = &mut memory[start..start + bytes];
    let mut drawing = Pipeline::new(model, arena, config).map_err(|error| anyhow!("{error}"))?;
    let frames = take_steps(&mut drawing, settings, |drawing| pixels(&drawing.image()))?;
    Ok(DrawnImage::new(request, &drawing.image(), frames, drawing.walk().calls()))
}

/// Takes every step; returns the pixels before the first and after each, when they are to be kept.
fn take_steps<D: Drawing>(
    drawing: &mut D,
    settings: &Settings,
    pixels: impl Fn(&D) -> Vec<u8>,
) -> Result<Vec<Vec<u8>>> {
    let mut edited = Edited::begin(&settings.edit, drawing)?;
    let mut frames = Vec::new();
    loop {
        if settings.keep_frames {
            frames.push(pixels(drawing));
        }
        if let Some(&scale) = settings.guidance_per_step.get(usize::from(drawing.walk().context().step)) {
            drawing.set_guidance(scale).map_err(|error| anyhow!("{error}"))?;
        }
        if edited.step(drawing) == Progress::Done {
            break;
        }
    }
    if settings.keep_frames {
        frames.push(pixels(drawing));
    }
    Ok(frames)
}

fn pixels(image: &Image<'_>) -> Vec<u8> {
    image.bytes().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UNetConfig;
    use crate::float::random;

    fn network() -> Network<'static> {
        let unet = UNetConfig { block_out_channels: vec![8], attention_levels: vec![false], ..UNetConfig::default() };
        let image = ImageConfig { width: 4, height: 4, channels: 3 };
        Network::F32(FloatPipeline::new(&random::checkpoint(random::config(image, unet, 3), 2)).unwrap())
    }

    #[test]
    fn thread_count_changes_nothing() {
        let requests: Vec<_> = (0..7).map(|seed| Request { seed, class: default_class(3, seed) }).collect();
        let settings = Settings { steps: 3, keep_frames: true, ..Settings::default() };
        let draw_on = |threads| draw(&network(), &settings, &requests, threads, || ()).unwrap();
        let one = draw_on(1);
        assert_eq!(one, draw_on(3));
        assert_eq!(one.iter().map(|d| d.request).collect::<Vec<_>>(), requests);
        assert!(one.iter().all(|d| d.frames.len() == 4 && d.frames[3] == d.pixels && d.pixels.len() == 48));
    }

    #[test]
    fn refused_settings_are_an_error() {
        let requests = [Request { seed: 0, class: Some(3) }];
        let error = draw(&network(), &Settings::default(), &requests, 2, || ()).unwrap_err().to_string();
        assert!(error.contains("class 3"), "{error}");
    }

    #[test]
    fn seeds_count_through_the_classes() {
        assert_eq!((0..4).map(|seed| default_class(3, seed)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2), Some(0)]);
        assert_eq!(default_class(0, 5), None);
    }
}
