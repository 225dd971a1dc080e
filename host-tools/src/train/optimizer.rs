//! AdamW with warm-up, cosine decay, clipping of the global norm and an exponential moving average, over flat buffers.
//!
//! All weights lie in one f32 vector, in the order of [`expected_shapes`]; [`State`] is all there is to save for resuming.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};

use super::grid::on_grid;
use crate::checkpoint::{self, Checkpoint, expected_shapes, read_tensors, write_tensors};
use crate::config::{ModelConfig, TrainConfig};
use crate::grid::OnGrid;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPS: f32 = 1e-8;

/// Name, shape and place in the flat buffers of every tensor.
pub struct FlatLayout {
    entries: Vec<(String, Vec<usize>, std::ops::Range<usize>)>,
}

impl FlatLayout {
    /// The layout of a config's network.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let mut start = 0;
        let entries = expected_shapes(config)
            .into_iter()
            .map(|(name, shape)| {
                let end = start + shape.iter().product::<usize>();
                let range = start..end;
                start = end;
                (name, shape, range)
            })
            .collect();
        Self { entries }
    }

    /// Number of weights.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |(_, _, range)| range.end)
    }

    /// True without a single weight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One flat vector from named tensors.
    #[must_use]
    pub fn flatten(&self, tensors: &BTreeMap<String, checkpoint::Tensor>) -> Vec<f32> {
        self.entries.iter().flat_map(|(name, ..)| &tensors[name].data).copied().collect()
    }

    /// Named tensors from one flat vector.
    #[must_use]
    pub fn named(&self, flat: &[f32]) -> BTreeMap<String, checkpoint::Tensor> {
        let tensor =
            |shape: &Vec<usize>, data: &[f32]| checkpoint::Tensor { shape: shape.clone(), data: data.to_vec() };
        self.entries.iter().map(|(name, shape, range)| (name.clone(), tensor(shape, &flat[range.clone()]))).collect()
    }

    /// `flat` with each tensor that `change` gives something for, from name, shape and place, replaced by it.
    #[must_use]
    pub fn replaced(
        &self,
        flat: &[f32],
        change: impl Fn(&str, &[usize], std::ops::Range<usize>) -> Option<Vec<f32>>,
    ) -> Vec<f32> {
        let mut flat = flat.to_vec();
        for (name, shape, range) in &self.entries {
            if let Some(new) = change(name, shape, range.clone()) {
                flat[range.clone()].copy_from_slice(&new);
            }
        }
        flat
    }

    /// candle variables from one flat vector.
    pub fn variables(&self, flat: &[f32]) -> Result<BTreeMap<String, Tensor>> {
        let variable = |shape: &[usize], data: &[f32]| -> Result<Tensor> {
            Ok(Var::from_tensor(&Tensor::from_vec(data.to_vec(), shape, &Device::Cpu)?)?.into_inner())
        };
        self.entries
            .iter()
            .map(|(name, shape, range)| Ok((name.clone(), variable(shape, &flat[range.clone()])?)))
            .collect()
    }

    /// Gradients of the variables, flat, times `scale`.
    pub fn gradients(
        &self,
        grads: &candle_core::backprop::GradStore,
        variables: &BTreeMap<String, Tensor>,
        scale: f32,
    ) -> Result<Vec<f32>> {
        let mut flat = Vec::with_capacity(self.len());
        for (name, ..) in &self.entries {
            let grad = grads.get(&variables[name]).with_context(|| format!("tensor {name} got no gradient"))?;
            flat.extend(grad.flatten_all()?.to_vec1::<f32>()?.iter().map(|g| g * scale));
        }
        Ok(flat)
    }
}

/// Everything that training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Steps done.
    pub step: usize,
    /// Weights.
    pub weights: Vec<f32>,
    /// Their moving average: what is exported.
    pub ema: Vec<f32>,
    /// AdamW's first moment.
    pub first: Vec<f32>,
    /// AdamW's second moment.
    pub second: Vec<f32>,
    /// Frozen weights that tuning learns from; empty in training.
    pub teacher: Vec<f32>,
}

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn new(weights: Vec<f32>) -> Self {
        let zero = vec![0.0; weights.len()];
        Self { step: 0, ema: weights.clone(), weights, first: zero.clone(), second: zero, teacher: Vec::new() }
    }

    /// One AdamW step of size `rate` along `gradient`; gives the gradient's norm before clipping.
    pub fn update(&mut self, config: &TrainConfig, layout: &FlatLayout, gradient: &mut [f32], rate: f64) -> f32 {
        let norm = gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
        if norm > config.clip_norm {
            let scale = (config.clip_norm / norm) as f32;
            gradient.iter_mut().for_each(|g| *g *= scale);
        }
        let t = (self.step + 1) as i32;
        let step_size = (rate / (1.0 - f64::from(BETA1).powi(t))) as f32;
        let second_scale = (1.0 / (1.0 - f64::from(BETA2).powi(t))) as f32;
        for (_, shape, range) in &layout.entries {
            // Biases and norms are not decayed.
            let keep = if shape.len() > 1 { (1.0 - rate * config.weight_decay) as f32 } else { 1.0 };
            let moments = self.first[range.clone()].iter_mut().zip(&mut self.second[range.clone()]);
            for ((w, g), (m, v)) in self.weights[range.clone()].iter_mut().zip(&gradient[range.clone()]).zip(moments) {
                *m = BETA1 * *m + (1.0 - BETA1) * g;
                *v = BETA2 * *v + (1.0 - BETA2) * (g * g);
                *w = keep * *w - step_size * *m / ((*v * second_scale).sqrt() + EPS);
            }
        }
        let warm = (1 + self.step) as f64 / (10 + self.step) as f64;
        let decay = config.ema_decay.min(warm) as f32;
        for (e, w) in self.ema.iter_mut().zip(&self.weights) {
            *e += (1.0 - decay) * (w - *e);
        }
        self.step += 1;
        norm as f32
    }

    /// The average weights, on their grid if they have one.
    #[must_use]
    pub fn averaged(&self, config: &ModelConfig, layout: &FlatLayout) -> Vec<f32> {
        let on_grid = |grid: &OnGrid| on_grid(layout, &self.teacher, &self.ema, &grid.recipe);
        config.grid.as_ref().map_or_else(|| self.ema.clone(), on_grid)
    }

    /// The average weights as a checkpoint.
    #[must_use]
    pub fn checkpoint(&self, config: &ModelConfig, layout: &FlatLayout) -> Checkpoint {
        Checkpoint { config: config.clone(), tensors: layout.named(&self.averaged(config, layout)) }
    }

    /// Writes the whole state.
    pub fn save(&self, path: &Path) -> Result<()> {
        let row = |data: &[f32]| checkpoint::Tensor { shape: vec![data.len()], data: data.to_vec() };
        // Steps are whole numbers far below 2^24, so an f32 holds them exactly.
        let tensors = [
            ("step", row(&[self.step as f32])),
            ("weights", row(&self.weights)),
            ("ema", row(&self.ema)),
            ("first", row(&self.first)),
            ("second", row(&self.second)),
            ("teacher", row(&self.teacher)),
        ];
        let present = tensors.into_iter().filter(|(_, tensor)| !tensor.data.is_empty());
        write_tensors(path, &present.map(|(name, tensor)| (name.to_owned(), tensor)).collect())
    }

    /// Reads a state of `len` weights back, with a teacher when there was one.
    pub fn load(path: &Path, len: usize) -> Result<Self> {
        let mut tensors = read_tensors(path)?;
        let taught = tensors.contains_key("teacher");
        let mut take = |name: &str, len: usize| -> Result<Vec<f32>> {
            let data = tensors.remove(name).map(|t| t.data).unwrap_or_default();
            ensure!(
                data.len() == len && data.iter().all(|x| x.is_finite()),
                "{} is no state of this network: '{name}' must be {len} finite values, got {}",
                path.display(),
                data.len()
            );
            Ok(data)
        };
        let step = take("step", 1)?[0] as usize;
        Ok(Self {
            step,
            weights: take("weights", len)?,
            ema: take("ema", len)?,
            first: take("first", len)?,
            second: take("second", len)?,
            teacher: take("teacher", if taught { len } else { 0 })?,
        })
    }
}

/// Rate of step number `step` (from 0): linear warm-up, then half a cosine down to zero.
#[must_use]
pub fn learning_rate(config: &TrainConfig, step: usize) -> f64 {
    if step < config.warmup_steps {
        return config.learning_rate * (step + 1) as f64 / config.warmup_steps as f64;
    }
    let span = config.steps.saturating_sub(config.warmup_steps).max(1) as f64;
    let done = (step - config.warmup_steps) as f64 / span;
    config.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
}
