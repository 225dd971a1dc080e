//! The recipe of `tune`: how a trained model becomes one that needs one to four steps; kept in the tuned model's config.

use anyhow::{Result, ensure};
use picodream::spacing::FewStep;
use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, TimestepDensity, TrainConfig};

/// Where a tuned model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Name of the model that was tuned.
    pub base: String,
    /// How.
    pub recipe: TuneRecipe,
}

/// How to tune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneRecipe {
    /// What the steps teach.
    pub method: Method,
    /// Classifier-free guidance of the base that the tuned model shows without a second call; 1 is none.
    pub guidance: f32,
    /// σ̂ of the middle level that few-step sampling passes through ([`FewStep`]); measured for the data, not used in tuning.
    #[serde(default = "usual_sigma")]
    pub few_step_sigma: f32,
    /// Optimiser, batch and noise levels, as in training; `timestep_density` is ignored by progressive distillation.
    pub train: TrainConfig,
}

/// What the steps of tuning teach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// Easy consistency tuning (arXiv:2406.14548): equal estimates of x0 at two noise levels of one trajectory that draw
    /// apart ever less.
    Consistency {
        /// Equal parts of the run; the gap between the two levels halves from one to the next.
        stages: u32,
        /// Levels from here on are trained at the last timestep, where sampling starts.
        sigma_max: f64,
        /// Share of images at the last timestep, besides those that the density sends there.
        top_share: f64,
        /// The distance is weighted by (1 + σ²)^(p/2)/(σ − r); ECT has p = 0, larger values look more at high noise.
        weight_power: f64,
        /// What leads from the noisier level to the other.
        direction: Direction,
    },
    /// Progressive distillation (arXiv:2202.00512): one DDIM step learns two of its teacher, which then it becomes.
    Progressive {
        /// Steps of the first student, a power of two; each later student has half, the last one.
        first_steps: u16,
    },
}

/// What leads from the noisier level to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The training image and its noise: right on average, needs no teacher.
    Data,
    /// The frozen base's estimate: no variance, but the base's own error.
    Base,
}

impl Method {
    /// The measured recipe of consistency tuning.
    pub const CONSISTENCY: Self = Self::Consistency {
        stages: 8,
        sigma_max: 80.0,
        top_share: 0.05,
        weight_power: 0.0,
        direction: Direction::Data,
    };
    /// Students of 8, 4, 2 and 1 steps.
    pub const PROGRESSIVE: Self = Self::Progressive { first_steps: 8 };
}

fn usual_sigma() -> f32 {
    FewStep::default().sigma
}

impl TuneRecipe {
    /// The recipe for a model that brings none of its own.
    #[must_use]
    pub fn new(method: Method) -> Self {
        Self {
            method,
            guidance: 1.0,
            few_step_sigma: usual_sigma(),
            train: TrainConfig {
                steps: 6000,
                batch_size: 128,
                learning_rate: 5e-4,
                warmup_steps: 200,
                weight_decay: 0.0,
                clip_norm: 1.0,
                ema_decay: 0.998,
                label_dropout: 0.1,
                timestep_density: TimestepDensity::LogNormalSigma { mean: 0.2, std: 1.6 },
                seed: 1,
            },
        }
    }

    /// Checks the fields of tuning for a model with `classes` classes; those of `train` are [`ModelConfig::validate`]'s.
    pub fn validate(&self, classes: usize) -> Result<()> {
        let guidance = self.guidance;
        ensure!(
            (0.0..=20.0).contains(&guidance) && (guidance == 1.0 || classes > 0),
            "tune: guidance is {guidance}, but must be in 0..=20, and 1 for a model without classes"
        );
        let sigma = self.few_step_sigma;
        ensure!((1e-3..=1e3).contains(&sigma), "tune: few_step_sigma is {sigma}, but must be in 0.001..=1000");
        match self.method {
            Method::Consistency { stages, sigma_max, top_share, weight_power, .. } => {
                ensure!((1..=20).contains(&stages), "tune: stages is {stages}, but must be 1..=20");
                ensure!(
                    (1.0..=1e4).contains(&sigma_max) && (0.0..1.0).contains(&top_share),
                    "tune: sigma_max is {sigma_max} and top_share {top_share}, but must be in 1..=10000 and 0..1"
                );
                ensure!(
                    (-2.0..=2.0).contains(&weight_power),
                    "tune: weight_power is {weight_power}, but must be in -2..=2"
                );
                ensure!(
                    matches!(self.train.timestep_density, TimestepDensity::LogNormalSigma { .. }),
                    "tune: consistency tuning needs train.timestep_density log_normal_sigma"
                );
            }
            Method::Progressive { first_steps } => ensure!(
                first_steps.is_power_of_two() && first_steps <= 64,
                "tune: first_steps is {first_steps}, but must be a power of two up to 64"
            ),
        }
        Ok(())
    }
}

/// The config of the model `name` that tuning `base` by `recipe` gives.
pub fn tuned_config(base: &ModelConfig, name: &str, recipe: TuneRecipe) -> Result<ModelConfig> {
    ensure!(base.tune.is_none(), "{} is tuned already: tune the model that it was made from", base.name);
    let tune = Some(Tuned { base: base.name.clone(), recipe });
    // A base on its grid is left there as real weights.
    let config = ModelConfig { name: name.to_owned(), tune, grid: None, ..base.clone() };
    config.validate()?;
    Ok(config)
}
