//! The recipe that brings a model's weights onto the grid on which a blob keeps them: its real weights teach it.

use anyhow::{Result, ensure};
use picodream::blob::WeightFormat;
use serde::{Deserialize, Serialize};

use crate::config::{ModelConfig, TrainConfig};

/// Where a model on the grid comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnGrid {
    /// Name of the model with real weights.
    pub base: String,
    /// How.
    pub recipe: GridRecipe,
}

/// How weights come onto their grid: in every forward pass they stand on it, gradients pass straight through
/// (arXiv:1712.05877), and the loss is the mean square distance of the network's output from that of its real weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridRecipe {
    /// Bits of the weights, 8 or 4, where the blob keeps them with so many; `export` takes them as they are.
    pub weight_bits: u8,
    /// Optimiser and batch; half of the noise levels are drawn from `timestep_density`, half are those that the samplers of
    /// the model stop at.
    pub train: TrainConfig,
}

impl GridRecipe {
    /// The measured recipe for a model: its own noise levels and images, a tenth of its steps, small ones.
    #[must_use]
    pub fn new(base: &ModelConfig, weight_bits: u8) -> Self {
        let train = base.tune.as_ref().map_or(&base.train, |tuned| &tuned.recipe.train);
        let train = TrainConfig {
            steps: 1500,
            learning_rate: std::env::var("PD_LR")
                .map_or(if weight_bits == 4 { 3e-4 } else { 3e-5 }, |x| x.parse().unwrap()),
            warmup_steps: 50,
            weight_decay: 0.0,
            ema_decay: 0.99,
            ..train.clone()
        };
        Self { weight_bits, train }
    }

    /// Checks the fields of its own.
    pub fn validate(&self) -> Result<()> {
        let bits = self.weight_bits;
        ensure!(matches!(bits, 4 | 8), "grid: weight_bits is {bits}, but must be 8 or 4, as a blob keeps them");
        self.train.validate()
    }

    /// How the blob keeps such weights.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        if self.weight_bits == 4 { WeightFormat::Int4 } else { WeightFormat::Int8 }
    }
}

/// The config of the model `name` that bringing `base` onto its grid gives.
pub fn grid_config(base: &ModelConfig, name: &str, recipe: GridRecipe) -> Result<ModelConfig> {
    ensure!(base.grid.is_none(), "{} is on its grid already: start from the model that it was made from", base.name);
    let grid = Some(OnGrid { base: base.name.clone(), recipe });
    let config = ModelConfig { name: name.to_owned(), grid, ..base.clone() };
    config.validate()?;
    Ok(config)
}
