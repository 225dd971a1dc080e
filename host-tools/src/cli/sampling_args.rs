//! The options of every verb that draws: update rule, levels, guidance, and what to start from.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use picodream::sampler::{AnySampler, Variance};
use picodream::spacing::AnySpacing;

use crate::config::ImageConfig;
use crate::data::{class_index, folder};
use crate::editing::Edit;
use crate::sampling::Settings;

/// How images are drawn.
#[derive(Args, Clone, Debug)]
pub struct SamplingArgs {
    /// Update rule of a denoising step; docs/samplers.md has a line on each [default: ddim; consistency for a model that was
    /// tuned for it].
    #[arg(long, value_name = "NAME", value_parser = sampler_names())]
    pub sampler: Option<String>,
    /// Which levels of noise are visited [default: trailing; few-step for consistency and lcm; karras for
    /// heun, pf-euler, pf-heun, langevin, plms and pndm].
    #[arg(long, value_name = "NAME", value_parser = spacing_names())]
    spacing: Option<String>,
    /// Share of fresh noise, 0 to 1, of ddim [default: 0], euler-ancestral [1], dpmpp-2m [0] and dpmpp-2m-sde [1].
    #[arg(long, allow_negative_numbers = true)]
    eta: Option<f32>,
    /// Variance of the noise that ddpm adds; learned-range needs a model that was trained for it [default: fixed-small].
    #[arg(long, value_enum, value_name = "NAME")]
    variance: Option<VarianceName>,
    /// Error that the adaptive sampler allows in a step; --steps is then its most network calls [default: 0.02].
    #[arg(long, allow_negative_numbers = true)]
    tolerance: Option<f32>,
    /// Classifier-free guidance scale; 1 is none and costs one network pass per call instead of two.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub guidance: f32,
    /// A guidance scale for each step instead.
    #[arg(long, value_name = "SCALE,SCALE,...", value_delimiter = ',', allow_negative_numbers = true)]
    guidance_per_step: Vec<f32>,
    /// Guide only at timesteps from LOW to HIGH.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], allow_negative_numbers = true)]
    guidance_interval: Vec<f32>,
    /// What guidance leads away from, by number or name; with a guidance of 0 to 1 the images lie between the two classes
    /// [default: the null class].
    #[arg(long, value_name = "CLASS")]
    negative_class: Option<String>,
    /// Do not clip the estimate of the image to the range of pixels at every step.
    #[arg(long)]
    no_clip: bool,
    /// Start from this PNG or JPEG instead of noise alone.
    #[arg(long, value_name = "PICTURE")]
    init: Option<PathBuf>,
    /// How much of --init is drawn anew, 0 to 1; without a mask.
    #[arg(long, default_value_t = 0.6, allow_negative_numbers = true, requires = "init", conflicts_with = "mask")]
    strength: f32,
    /// Draw only where this picture is white, and keep --init exactly where it is black.
    #[arg(long, value_name = "PICTURE", requires = "init")]
    mask: Option<PathBuf>,
    /// With --mask: take every step so many times (RePaint; 10 knits the halves together).
    #[arg(long, default_value_t = 1, requires = "mask")]
    repeats: u16,
    /// Start between the image's own noise and that of this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "init")]
    to_seed: Option<u64>,
    /// With --to-seed: 0 is the image's own noise, 1 the other's.
    #[arg(long, default_value_t = 0.5, allow_negative_numbers = true, requires = "to_seed")]
    weight: f32,
}

/// Variances by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum VarianceName {
    /// β̃, the least that the data can have.
    FixedSmall,
    /// β, the most.
    FixedLarge,
    /// Between the two, as the network says for each pixel.
    LearnedRange,
}

impl From<VarianceName> for Variance {
    fn from(name: VarianceName) -> Self {
        match name {
            VarianceName::FixedSmall => Self::FixedSmall,
            VarianceName::FixedLarge => Self::FixedLarge,
            VarianceName::LearnedRange => Self::LearnedRange,
        }
    }
}

/// The names that `--sampler` takes.
pub fn sampler_names() -> PossibleValuesParser {
    PossibleValuesParser::new(AnySampler::ALL.map(|(name, _)| name))
}

fn spacing_names() -> PossibleValuesParser {
    PossibleValuesParser::new(AnySpacing::ALL.map(|(name, _)| name))
}

impl SamplingArgs {
    /// The update rule's name.
    pub fn name(&self) -> &str {
        self.sampler.as_deref().unwrap_or("ddim")
    }

    /// The settings, for a model of this shape with these classes.
    pub fn settings(&self, steps: u16, image: ImageConfig, class_names: &[String]) -> Result<Settings> {
        let negative_class = self.negative_class.as_deref().map(|text| class_index(class_names, text)).transpose()?;
        let guidance_interval = match self.guidance_interval[..] {
            [low, high] => [low, high],
            _ => Settings::default().guidance_interval,
        };
        Ok(Settings {
            steps,
            guidance: self.guidance,
            guidance_per_step: self.guidance_per_step.clone(),
            guidance_interval,
            negative_class,
            clip_sample: !self.no_clip,
            sampler: self.sampler()?,
            spacing: self.spacing(),
            edit: self.edit(image)?,
            keep_frames: false,
        })
    }

    /// The levels of noise, where they were chosen.
    pub fn spacing(&self) -> Option<AnySpacing> {
        self.spacing.as_deref().and_then(AnySpacing::named)
    }

    /// The sampler with the settings that were given for it.
    fn sampler(&self) -> Result<AnySampler> {
        let name = self.name();
        let Some(mut sampler) = AnySampler::named(name) else { bail!("there is no sampler {name}") };
        if let Some(eta) = self.eta {
            match &mut sampler {
                AnySampler::Ddim(ddim) => ddim.eta = eta,
                AnySampler::EulerAncestral(euler) => euler.eta = eta,
                AnySampler::DpmSolverPp(solver) => solver.eta = eta,
                _ => bail!("--eta was given, but {name} has no such share of noise"),
            }
        }
        if let Some(variance) = self.variance {
            let AnySampler::Ddpm(ddpm) = &mut sampler else {
                bail!("--variance was given, but {name} has no choice of variance; use --sampler ddpm");
            };
            ddpm.variance = variance.into();
        }
        if let Some(tolerance) = self.tolerance {
            let AnySampler::Adaptive(adaptive) = &mut sampler else {
                bail!("--tolerance was given, but {name} takes steps of fixed length; use --sampler adaptive");
            };
            adaptive.tolerance = tolerance;
        }
        Ok(sampler)
    }

    fn edit(&self, image: ImageConfig) -> Result<Edit> {
        if let Some(seed) = self.to_seed {
            return Ok(Edit::Between { seed, weight: self.weight });
        }
        let Some(init) = &self.init else { return Ok(Edit::None) };
        let picture = fitted(init, image)?;
        let Some(mask) = &self.mask else { return Ok(Edit::Picture { picture, strength: self.strength }) };
        let mut mask = fitted(mask, ImageConfig { channels: 1, ..image })?;
        mask.iter_mut().for_each(|byte| *byte = u8::from(*byte >= 128));
        ensure!(mask.contains(&1), "--mask is black everywhere, so there is nothing to draw; white is what is drawn");
        Ok(Edit::Inpaint { picture, mask, repeats: self.repeats })
    }

    /// For titles: `DDIM`, `DDPM`, otherwise the name.
    pub fn title(&self) -> String {
        let name = self.name();
        if name.len() == 4 { name.to_uppercase() } else { name.to_owned() }
    }
}

/// A picture of any size as the model's pixels.
fn fitted(path: &Path, image: ImageConfig) -> Result<Vec<u8>> {
    let mut pixels = Vec::new();
    folder::append(path, image, &mut pixels)?;
    Ok(pixels)
}
