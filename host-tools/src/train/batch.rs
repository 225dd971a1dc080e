//! One training batch: which images, which timesteps, which noise, as a function of (seed, step) and nothing else.

use picodream::rng::NoiseStream;

use super::estimate::Level;
use super::variance::Bound;
use crate::config::{ModelConfig, PredictionType, TimestepDensity};
use crate::data::Dataset;

/// √ᾱ and √(1−ᾱ) by (fractional) timestep.
pub struct NoiseLevels {
    alphas_cumprod: Vec<f64>,
    /// ln σ_t with σ = √((1−ᾱ)/ᾱ): rising in t.
    ln_sigma: Vec<f64>,
}

impl NoiseLevels {
    /// The levels of a config's schedule.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let alphas_cumprod = config.schedule.alphas_cumprod();
        let ln_sigma = alphas_cumprod.iter().map(|a| 0.5 * ((1.0 - a) / a).ln()).collect();
        Self { alphas_cumprod, ln_sigma }
    }

    /// (timestep, √ᾱ, √(1−ᾱ)), drawn with `density`.
    pub fn draw(&self, density: TimestepDensity, stream: &mut NoiseStream) -> (f32, f32, f32) {
        match density {
            TimestepDensity::Uniform => {
                let t = stream.below(self.alphas_cumprod.len() as u32) as usize;
                let (signal, noise) = scales(self.alphas_cumprod[t]);
                (t as f32, signal, noise)
            }
            TimestepDensity::LogNormalSigma { mean, std } => {
                self.at_ln_sigma(mean + std * f64::from(stream.next_gaussian()))
            }
        }
    }

    /// (timestep, √ᾱ, √(1−ᾱ)) of a noise level, clamped to the schedule's range; timesteps between whole ones are linear
    /// in ln σ.
    #[must_use]
    pub fn at_ln_sigma(&self, ln_sigma: f64) -> (f32, f32, f32) {
        let last = self.ln_sigma.len() - 1;
        let ln_sigma = ln_sigma.clamp(self.ln_sigma[0], self.ln_sigma[last]);
        let upper = self.ln_sigma.partition_point(|l| *l < ln_sigma).clamp(1, last);
        let (a, b) = (self.ln_sigma[upper - 1], self.ln_sigma[upper]);
        let t = (upper - 1) as f64 + (ln_sigma - a) / (b - a);
        let (signal, noise) = scales(1.0 / (1.0 + (2.0 * ln_sigma).exp()));
        (t as f32, signal, noise)
    }

    /// ln σ of the first and the last timestep.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        (self.ln_sigma[0], self.ln_sigma[self.ln_sigma.len() - 1])
    }

    /// ᾱ of a timestep from 0 to the last; between whole ones linear in ln σ.
    #[must_use]
    pub fn alphas_cumprod_at(&self, t: f64) -> f64 {
        let last = self.alphas_cumprod.len() - 1;
        let (lower, part) = ((t.floor() as usize).min(last), t.fract());
        if part == 0.0 || lower == last {
            return self.alphas_cumprod[lower];
        }
        let ln_sigma = self.ln_sigma[lower] + part * (self.ln_sigma[lower + 1] - self.ln_sigma[lower]);
        1.0 / (1.0 + (2.0 * ln_sigma).exp())
    }

    /// (√ᾱ, √(1−ᾱ)) of a whole timestep.
    #[must_use]
    pub fn at(&self, t: usize) -> (f32, f32) {
        scales(self.alphas_cumprod[t])
    }
}

fn scales(alpha_cumprod: f64) -> (f32, f32) {
    (alpha_cumprod.sqrt() as f32, (1.0 - alpha_cumprod).sqrt() as f32)
}

/// The order of the images: a new seeded shuffle each epoch.
pub struct Order {
    seed: u64,
    epoch: Option<u64>,
    indices: Vec<u32>,
}

impl Order {
    /// Shuffles of 0..len.
    #[must_use]
    pub fn new(seed: u64, len: usize) -> Self {
        Self { seed, epoch: None, indices: (0..len as u32).collect() }
    }

    /// Index of the n-th image that training sees.
    pub fn index(&mut self, n: u64) -> usize {
        let len = self.indices.len() as u64;
        if self.epoch != Some(n / len) {
            self.shuffle(n / len);
        }
        self.indices[(n % len) as usize] as usize
    }

    fn shuffle(&mut self, epoch: u64) {
        let mut stream = NoiseStream::new(self.seed, super::STREAM_SHUFFLE + epoch);
        self.indices.iter_mut().enumerate().for_each(|(i, x)| *x = i as u32);
        for i in (1..self.indices.len()).rev() {
            self.indices.swap(i, stream.below(i as u32 + 1) as usize);
        }
        self.epoch = Some(epoch);
    }
}

/// Inputs and targets of one step; images are B × (H·W·C).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// x_t = √ᾱ·x0 + √(1−ᾱ)·ε.
    pub noised: Vec<f32>,
    /// What the network should predict.
    pub target: Vec<f32>,
    /// Timesteps.
    pub timesteps: Vec<f32>,
    /// Rows of the class table; empty for a model without classes.
    pub classes: Vec<u32>,
    /// What the variances are taught by; empty for a model without learned variances.
    pub bounds: Vec<Bound>,
}

impl Batch {
    /// The batch of step number `step` (from 0).
    #[must_use]
    pub fn draw(config: &ModelConfig, data: &Dataset, levels: &NoiseLevels, order: &mut Order, step: usize) -> Self {
        Self::draw_at(config, data, levels, order, step, |stream| levels.draw(config.train.timestep_density, stream))
    }

    /// The same with another way to draw (timestep, √ᾱ, √(1−ᾱ)).
    #[must_use]
    pub fn draw_at(
        config: &ModelConfig,
        data: &Dataset,
        levels: &NoiseLevels,
        order: &mut Order,
        step: usize,
        level: impl Fn(&mut NoiseStream) -> (f32, f32, f32),
    ) -> Self {
        let train = &config.train;
        let mut stream = NoiseStream::new(train.seed, super::STREAM_STEP + step as u64);
        let mut batch = Self::default();
        for i in 0..train.batch_size {
            let index = order.index((step * train.batch_size + i) as u64);
            let (t, signal, noise) = level(&mut stream);
            batch.timesteps.push(t);
            if config.unet.learned_variance {
                batch.bounds.push(Bound::new(levels, config.prediction_type, Level { t, signal, noise }));
            }
            let dropped = f64::from(stream.next_f32()) < train.label_dropout;
            if config.num_classes() > 0 {
                let null = config.num_classes() as u32;
                batch.classes.push(if dropped { null } else { u32::from(data.labels[index]) });
            }
            for pixel in data.image(index) {
                let x0 = (f32::from(*pixel) / 255.0 - config.data.mean) / config.data.std;
                let e = stream.next_gaussian();
                batch.noised.push(signal * x0 + noise * e);
                batch.target.push(match config.prediction_type {
                    PredictionType::Epsilon => e,
                    PredictionType::Sample => x0,
                    PredictionType::VPrediction => signal * e - noise * x0,
                });
            }
        }
        batch
    }
}
