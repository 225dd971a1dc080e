//! What a model is: image, network shape, prediction type, noise schedule, data statistics and the recipe that trains it.
//!
//! One JSON file, kept beside the checkpoint; every verb reads it through [`ModelConfig::validate`].

use anyhow::{Result, ensure};
use picodream::blob::WeightFormat;
use picodream::spacing::FewStep;
use serde::{Deserialize, Serialize};

use crate::grid::OnGrid;
pub use crate::schedule::ScheduleConfig;
use crate::tune::{Method, Tuned};

/// Width and height in pixels, and 1 (grey) or 3 (RGB) channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Pixels across; a multiple of 2^(levels − 1).
    pub width: usize,
    /// Pixels down; a multiple of 2^(levels − 1).
    pub height: usize,
    /// 1 for grey, 3 for RGB.
    pub channels: usize,
}

/// Shape of the U-Net, in the words of diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// ResBlocks per level on the way down; the way up has one more.
    pub layers_per_block: usize,
    /// Self-attention after each ResBlock of a level; one flag per level.
    pub attention_levels: Vec<bool>,
    /// Self-attention between the two ResBlocks of the middle.
    pub mid_attention: bool,
    /// Attention heads; divides the channels wherever attention stands.
    pub attention_heads: usize,
    /// Groups of every GroupNorm; divides every normalised channel count.
    pub norm_num_groups: usize,
    /// Added to the variance inside GroupNorm.
    pub norm_eps: f32,
    /// Length of the sinusoidal embedding (even; half cosines, then half sines).
    pub time_freq_dim: usize,
    /// Width of the time embedding MLP.
    pub time_embed_dim: usize,
    /// Whether the network also says a variance per pixel, between β̃ and β (arXiv:2102.09672): twice as many output channels.
    #[serde(default, skip_serializing_if = "is_false")]
    pub learned_variance: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            block_out_channels: vec![16, 32],
            layers_per_block: 1,
            attention_levels: vec![false, false],
            mid_attention: true,
            attention_heads: 1,
            norm_num_groups: 8,
            norm_eps: 1e-5,
            time_freq_dim: 32,
            time_embed_dim: 64,
            learned_variance: false,
        }
    }
}

/// What the network predicts from x_t = √ᾱ·x0 + √(1−ᾱ)·ε.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε (DDPM, arXiv:2006.11239).
    Epsilon,
    /// The clean image x0.
    Sample,
    /// v = √ᾱ·ε − √(1−ᾱ)·x0 (arXiv:2202.00512).
    VPrediction,
}

/// How training draws its timestep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TimestepDensity {
    /// t uniform over 0..T: with ε-prediction this is L_simple of DDPM.
    Uniform,
    /// ln σ ~ N(mean, std²) with σ = √((1−ᾱ)/ᾱ), clamped to the schedule's range; t is the (fractional) timestep of that σ.
    LogNormalSigma {
        /// Mean of ln σ.
        mean: f64,
        /// Standard deviation of ln σ.
        std: f64,
    },
}

/// The training recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Images per step.
    pub batch_size: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Steps of linear warm-up; cosine decay to zero after them.
    pub warmup_steps: usize,
    /// AdamW weight decay.
    pub weight_decay: f64,
    /// Global gradient norm is clipped to this.
    pub clip_norm: f64,
    /// Decay of the exponential moving average of the weights, which is what is exported.
    pub ema_decay: f64,
    /// Probability of replacing a label by the null class.
    pub label_dropout: f64,
    /// How t is drawn.
    pub timestep_density: TimestepDensity,
    /// Seed of initial weights, order of data, timesteps and noise.
    pub seed: u64,
}

impl TrainConfig {
    /// Checks every field; the error names the field, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.batch_size > 0 && self.steps > 0, "config: train.steps and train.batch_size must be at least 1");
        for (what, x) in [("ema_decay", self.ema_decay), ("label_dropout", self.label_dropout)] {
            ensure!((0.0..1.0).contains(&x), "config: train.{what} is {x}, but must be in 0..1");
        }
        for (what, x) in [("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)] {
            ensure!(x.is_finite() && x > 0.0, "config: train.{what} is {x}, but must be positive");
        }
        Ok(())
    }
}

/// Pixel p in 0..=255 becomes x = (p/255 − mean)/std.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Built-in set (`fashion`, `faces`, `emoji`) or the path of a folder or IDX file.
    pub source: String,
    /// Subtracted, on the 0..1 scale.
    pub mean: f32,
    /// Divided by, on the 0..1 scale.
    pub std: f32,
    /// Licence of the data, as it goes into the blob.
    pub licence: String,
    /// Class names; empty for an unconditional model.
    pub class_names: Vec<String>,
}

/// Everything about a model but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Name, as the blob carries it: 1..=32 of a–z, 0–9 and '-'.
    pub name: String,
    /// Licence of the weights.
    pub licence: String,
    /// Shape of the images.
    pub image: ImageConfig,
    /// Shape of the network.
    pub unet: UNetConfig,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// The data and its normalisation.
    pub data: DataConfig,
    /// The recipe.
    pub train: TrainConfig,
    /// The recipe of tuning, for a model that was tuned to few steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<Tuned>,
    /// The recipe that brought the weights onto the blob's grid, for a model where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<OnGrid>,
}

impl ModelConfig {
    /// Whether it was tuned to few steps of the consistency sampler.
    #[must_use]
    pub fn for_consistency(&self) -> bool {
        matches!(self.tune.as_ref().map(|tuned| tuned.recipe.method), Some(Method::Consistency { .. }))
    }

    /// σ̂ of the middle of its few-step levels, if it was tuned for consistency.
    #[must_use]
    pub fn few_step_sigma(&self) -> Option<f32> {
        self.tune.as_ref().filter(|_| self.for_consistency()).map(|tuned| tuned.recipe.few_step_sigma)
    }

    /// How a blob keeps weights of the grid that its own were brought onto, if they were.
    #[must_use]
    pub fn weight_format(&self) -> Option<WeightFormat> {
        self.grid.as_ref().map(|grid| grid.recipe.format())
    }

    /// The levels that it draws in few steps with: its own, or the usual ones.
    #[must_use]
    pub fn few_step(&self) -> FewStep {
        self.few_step_sigma().map_or(FewStep::ECT, |sigma| FewStep { sigma })
    }

    /// Number of classes; 0 for an unconditional model.
    #[must_use]
    pub fn num_classes(&self) -> usize {
        self.data.class_names.len()
    }

    /// Channels of the network's output.
    #[must_use]
    pub fn output_channels(&self) -> usize {
        self.image.channels * if self.unet.learned_variance { 2 } else { 1 }
    }

    /// Checks every field; the error names the field, its value and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let Self { name, image, unet, data, train, .. } = self;
        ensure!(
            (1..=32).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "config: name is '{name}', but must be 1..=32 of a-z, 0-9 and '-'"
        );
        let levels = unet.block_out_channels.len();
        ensure!((1..=4).contains(&levels), "config: unet.block_out_channels has {levels} levels; 1..=4 are supported");
        let factor = 1usize << (levels - 1);
        for (what, size) in [("width", image.width), ("height", image.height)] {
            ensure!(
                (4..=64).contains(&size) && size % factor == 0,
                "config: image.{what} is {size}, but must be 4..=64 and a multiple of {factor} for {levels} levels"
            );
        }
        ensure!(matches!(image.channels, 1 | 3), "config: image.channels is {}, but must be 1 or 3", image.channels);
        let groups = unet.norm_num_groups;
        for &c in &unet.block_out_channels {
            ensure!(
                (1..=256).contains(&c) && groups > 0 && c % groups == 0,
                "config: unet.block_out_channels has {c}, but must be 1..=256 and a multiple of norm_num_groups ({groups})"
            );
            ensure!(
                unet.attention_heads > 0 && c % unet.attention_heads == 0,
                "config: unet.attention_heads is {}, but must divide {c}",
                unet.attention_heads
            );
        }
        ensure!(
            unet.attention_levels.len() == levels,
            "config: unet.attention_levels has {} flags for {levels} levels",
            unet.attention_levels.len()
        );
        ensure!(
            (1..=4).contains(&unet.layers_per_block),
            "config: unet.layers_per_block is {}; 1..=4 are supported",
            unet.layers_per_block
        );
        ensure!(
            unet.time_freq_dim % 2 == 0
                && (2..=256).contains(&unet.time_freq_dim)
                && (1..=512).contains(&unet.time_embed_dim),
            "config: unet.time_freq_dim must be even and 2..=256, time_embed_dim 1..=512; got {} and {}",
            unet.time_freq_dim,
            unet.time_embed_dim
        );
        ensure!(
            unet.norm_eps.is_finite() && unet.norm_eps > 0.0,
            "config: unet.norm_eps is {}, but must be positive",
            unet.norm_eps
        );
        ensure!(
            data.std.is_finite() && data.std > 0.0 && data.mean.is_finite(),
            "config: data.mean {} and data.std {} must be finite, std positive",
            data.mean,
            data.std
        );
        ensure!(data.class_names.len() <= 1000, "config: {} classes; 1000 at most", data.class_names.len());
        self.validate_schedule()?;
        ensure!(
            !(unet.learned_variance
                && self.prediction_type == PredictionType::Epsilon
                && self.schedule.alphas_cumprod().contains(&0.0)),
            "config: unet.learned_variance with prediction_type epsilon needs a schedule whose alphas_cumprod stays above 0"
        );
        train.validate()?;
        if let Some(Tuned { recipe, .. }) = &self.tune {
            recipe.train.validate()?;
            recipe.validate(self.num_classes())?;
        }
        self.grid.as_ref().map_or(Ok(()), |grid| grid.recipe.validate())
    }

    fn validate_schedule(&self) -> Result<()> {
        let steps = self.schedule.num_train_timesteps();
        ensure!((2..=4096).contains(&steps), "config: schedule.num_train_timesteps is {steps}, but must be 2..=4096");
        self.schedule.validate()
    }
}
