//! The recipe that brings a model's weights onto the grid on which a blob keeps them: its real weights teach it.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use picodream::blob::WeightFormat;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, TrainConfig};
use crate::export::Trajectories;
use crate::export::calibrate::calibrate;
use crate::export::quantise::{Precision, Rules, inverse_scale};
use crate::float::{FloatPipeline, Op};

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
    /// Convolutions that read two tensors, by name: how many times finer the inputs from the second are kept than those from
    /// the first, as calibration finds it ([`measured`]). Weights for the second stand on a grid so many times coarser. One
    /// that is not named keeps both alike.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub finer: BTreeMap<String, f32>,
    /// Optimiser and batch; half of the noise levels are drawn from `timestep_density`, half are those that the samplers of
    /// the model stop at.
    pub train: TrainConfig,
}

impl GridRecipe {
    /// The measured recipe for a model: its own noise levels and images, and steps that are small: what
    /// tuning has left is sharp, and with 3e-5 at 8 bits the images got worse (docs/quantisation.md).
    #[must_use]
    pub fn new(base: &ModelConfig, weight_bits: u8) -> Self {
        let train = base.tune.as_ref().map_or(&base.train, |tuned| &tuned.recipe.train);
        let train = TrainConfig {
            steps: if weight_bits == 4 { 4000 } else { 300 },
            learning_rate: if weight_bits == 4 { 1e-4 } else { 5e-6 },
            warmup_steps: 50,
            weight_decay: 0.0,
            ema_decay: 0.99,
            ..train.clone()
        };
        Self { weight_bits, finer: BTreeMap::new(), train }
    }

    /// Checks the fields of its own.
    pub fn validate(&self) -> Result<()> {
        let bits = self.weight_bits;
        ensure!(matches!(bits, 4 | 8), "grid: weight_bits is {bits}, but must be 8 or 4, as a blob keeps them");
        if let Some((name, times)) = self.finer.iter().find(|(_, times)| !(0.01..=100.0).contains(*times)) {
            bail!("grid: finer.{name} is {times}, but must be in 0.01..=100");
        }
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

/// `config` with what calibration of `base`, which it comes from, says of convolutions that read two tensors; `image_done` is
/// called after each of [`Trajectories::of`]'s images.
pub fn measured(base: &Checkpoint, mut config: ModelConfig, image_done: &mut impl FnMut()) -> Result<ModelConfig> {
    let Some(grid) = &mut config.grid else { return Ok(config) };
    let pipeline = FloatPipeline::new(base)?;
    let calibration = calibrate(&pipeline, &Trajectories::of(&base.config), image_done)?;
    for (op, stats) in pipeline.net().graph().ops.iter().zip(&calibration.ops) {
        let Op::Conv(op) = op else { continue };
        if op.src_b.is_some() {
            let inputs = Precision { qmax: Rules::default().qmax, silu: op.silu, ..Precision::default() };
            let [a, b] = stats.branches.each_ref().map(|branch| inverse_scale(branch, inputs, true));
            grid.recipe.finer.insert(op.name.clone(), (b / a).clamp(0.01, 100.0));
        }
    }
    Ok(config)
}
