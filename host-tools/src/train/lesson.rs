//! What the steps of a run teach: to denoise, to be consistent along trajectories, two steps of a teacher in one, or the grid.

use anyhow::{Context, Result};

use super::batch::{Batch, NoiseLevels, Order};
use super::consistency::{self, Pairs};
use super::grid::{self, on_grid};
use super::optimizer::{FlatLayout, State, learning_rate};
use super::progressive;
use super::trainer::loss_and_gradient;
use crate::config::{ModelConfig, TrainConfig};
use crate::data::Dataset;
use crate::tune::{Direction, Method, TuneRecipe};

/// What a run has from its first step to its last.
pub struct Course<'a> {
    /// The model; its `train` section is what this run follows.
    pub config: &'a ModelConfig,
    /// The images.
    pub data: &'a Dataset,
    /// The schedule.
    pub levels: NoiseLevels,
    /// The order of the images.
    pub order: Order,
    /// Where the weights lie.
    pub layout: &'a FlatLayout,
    /// Worker threads.
    pub threads: usize,
}

/// What the steps teach.
#[derive(Clone, Debug)]
pub enum Lesson {
    /// Training from scratch.
    Denoise,
    /// Tuning by a recipe.
    Tune(TuneRecipe),
    /// To stand on the blob's grid.
    Grid,
}

impl Lesson {
    /// Whether a frozen teacher is needed.
    #[must_use]
    pub fn is_taught(&self) -> bool {
        match self {
            Self::Denoise => false,
            Self::Grid => true,
            Self::Tune(recipe) => match recipe.method {
                Method::Consistency { direction, .. } => direction == Direction::Base || recipe.guidance != 1.0,
                Method::Progressive { .. } => true,
            },
        }
    }

    /// Before the step that `state` stands at: where a stage of progressive distillation begins, the student teaches.
    pub fn begin(&self, train: &TrainConfig, state: &mut State) {
        if let Self::Tune(TuneRecipe { method: Method::Progressive { first_steps }, .. }) = self {
            let now = progressive::stage(*first_steps, train.steps, state.step);
            if state.step > 0 && now.start == state.step {
                state.teacher.clone_from(&state.ema);
                state.weights.clone_from(&state.ema);
            }
        }
    }

    /// Learning rate of step number `step`; each stage of progressive distillation falls to zero by itself.
    #[must_use]
    pub fn rate(&self, train: &TrainConfig, step: usize) -> f64 {
        match self {
            Self::Tune(TuneRecipe { method: Method::Progressive { first_steps }, .. }) => {
                let stage = progressive::stage(*first_steps, train.steps, step);
                learning_rate(&TrainConfig { steps: stage.len, ..train.clone() }, step - stage.start)
            }
            _ => learning_rate(train, step),
        }
    }

    /// Loss and gradient of the step that `state` stands at. Weights with a grid are seen on it, and the gradient there is taken
    /// for that of the real ones.
    pub fn gradient(&self, course: &mut Course<'_>, state: &State) -> Result<(f64, Vec<f32>)> {
        let Course { config, data, levels, order, layout, threads } = course;
        match self {
            Self::Grid => {
                let grid = config.grid.as_ref().context("the config has no recipe for the grid")?;
                let state =
                    State { weights: on_grid(layout, &state.teacher, &state.weights, &grid.recipe), ..state.clone() };
                let batch = grid::draw(config, data, levels, order, state.step);
                grid::loss_and_gradient(config, layout, &state, &batch, *threads)
            }
            Self::Denoise => {
                let batch = Batch::draw(config, data, levels, order, state.step);
                loss_and_gradient(config, layout, &state.weights, &batch, *threads)
            }
            Self::Tune(recipe) => match recipe.method {
                Method::Consistency { .. } => {
                    let pairs = Pairs::draw(config, recipe, data, levels, order, state.step);
                    consistency::loss_and_gradient(config, recipe, layout, state, &pairs, *threads)
                }
                Method::Progressive { first_steps } => {
                    let stage = progressive::stage(first_steps, config.train.steps, state.step);
                    let batch = progressive::Jumps::draw(config, stage, data, order, state.step);
                    progressive::loss_and_gradient(config, recipe, layout, state, &batch, *threads)
                }
            },
        }
    }
}
