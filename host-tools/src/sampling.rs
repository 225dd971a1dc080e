//! Draws many images with either engine on several threads; the result does not depend on how many.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use picodream::{Config, Ddim, Ddpm, Image, Model, Pipeline, Progress, Sampler};

use crate::config::ImageConfig;
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

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SamplerChoice {
    /// DDIM with its η.
    Ddim(Ddim),
    /// DDPM ancestral sampling.
    Ddpm(Ddpm),
}

/// What all images of one call have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Denoising steps, 1..=T.
    pub steps: u16,
    /// Classifier-free guidance scale; 1 is none.
    pub guidance: f32,
    /// Whether the estimate of x0 is clipped to the range of pixels.
    pub clip_sample: bool,
    /// The update rule.
    pub sampler: SamplerChoice,
    /// Whether the image after every step is kept in [`DrawnImage::frames`].
    pub keep_frames: bool,
}

impl Default for Settings {
    /// 20 steps of DDIM, no guidance.
    fn default() -> Self {
        let sampler = SamplerChoice::Ddim(Ddim::default());
        Self { steps: 20, guidance: 1.0, clip_sample: true, sampler, keep_frames: false }
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
}

impl DrawnImage {
    fn new(request: Request, image: &Image<'_>, frames: Vec<Vec<u8>>) -> Self {
        Self {
            request,
            width: image.width().into(),
            height: image.height().into(),
            channels: image.channels().into(),
            pixels: image.bytes().collect(),
            crc32: image.crc32(),
            frames,
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
    match settings.sampler {
        SamplerChoice::Ddim(sampler) => draw_with(network, settings, request, sampler),
        SamplerChoice::Ddpm(sampler) => draw_with(network, settings, request, sampler),
    }
}

fn draw_with<S: Sampler>(
    network: &Network<'_>,
    settings: &Settings,
    request: Request,
    sampler: S,
) -> Result<DrawnImage> {
    let Settings { steps, guidance, clip_sample, keep_frames, .. } = *settings;
    let config =
        Config { steps, class: request.class, guidance, clip_sample, ..Config::with_sampler(request.seed, sampler) };
    match network {
        Network::Int8(model) => draw_int8(model, config, request, keep_frames),
        Network::F32(pipeline) => draw_f32(pipeline, &config, request, keep_frames),
    }
}

fn draw_int8<S: Sampler>(
    model: &Model<'_>,
    config: Config<S>,
    request: Request,
    keep_frames: bool,
) -> Result<DrawnImage> {
    let bytes = Config::<S>::arena_bytes(model);
    let mut memory = vec![0; bytes + 15];
    // Safe code cannot ask the allocator for 16-byte alignment of bytes: take the aligned part of a longer buffer.
    let start = memory.as_ptr().align_offset(16).min(15);
    let arena = &mut memory[start..start + bytes];
    let mut pipeline = Pipeline::new(model, arena, config).map_err(|error| anyhow!("{error}"))?;
    let mut frames = Vec::new();
    loop {
        if keep_frames {
            frames.push(pipeline.image().bytes().collect());
        }
        if pipeline.step() == Progress::Done {
            break;
        }
    }
    let image = pipeline.image();
    if keep_frames {
        frames.push(image.bytes().collect());
    }
    Ok(DrawnImage::new(request, &image, frames))
}

fn draw_f32<S: Sampler>(
    pipeline: &FloatPipeline,
    config: &Config<S>,
    request: Request,
    keep_frames: bool,
) -> Result<DrawnImage> {
    let mut frames = Vec::new();
    let mut keep = |sample: &[f32]| {
        if keep_frames {
            frames.push(pipeline.image(sample).bytes().collect());
        }
    };
    let mut drawing = pipeline.begin(config)?;
    loop {
        keep(&drawing.sample);
        if drawing.step() == Progress::Done {
            break;
        }
    }
    keep(&drawing.sample);
    Ok(DrawnImage::new(request, &pipeline.image(&drawing.sample), frames))
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
