//! Samplers: how x_t becomes x_{t−1} from what the network predicted. One update rule a file.
//!
//! A sampler is plain data; its rule works on slices, so the same code drives the int8 network on the device and the float
//! network on the host.

mod ddim;
mod ddpm;

pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};

use crate::blob::PredictionType;
use crate::math;
use crate::rng::NoiseStream;
use crate::schedule::Schedule;

/// The conditions of one denoising step.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a> {
    /// The noise schedule.
    pub schedule: Schedule<'a>,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Number of steps of the whole run.
    pub steps: u16,
    /// This step, 0 the noisiest.
    pub step: u16,
    /// Seed of the image.
    pub seed: u64,
    /// The range of x0 when it is to be clipped.
    pub clip: Option<(f32, f32)>,
}

impl StepContext<'_> {
    /// The timestep of this step.
    #[must_use]
    pub fn timestep(&self) -> u16 {
        self.schedule.trailing_timestep(self.steps, self.step)
    }

    /// ᾱ of this step and of the next (1 after the last step).
    #[must_use]
    pub fn alphas_cumprod(&self) -> (f32, f32) {
        let now = self.schedule.alphas_cumprod(self.timestep());
        let last = self.step + 1 >= self.steps;
        let next = if last {
            1.0
        } else {
            self.schedule.alphas_cumprod(self.schedule.trailing_timestep(self.steps, self.step + 1))
        };
        (now, next)
    }

    /// The noise of this step: stream `step + 1` of the image's seed.
    #[must_use]
    pub fn noise(&self) -> NoiseStream {
        NoiseStream::new(self.seed, u64::from(self.step) + 1)
    }

    /// (x0, ε) from one element of x_t and of the network's output, x0 clipped when asked.
    #[must_use]
    pub fn predict(&self, alpha: f32, sigma: f32, sample: f32, output: f32) -> (f32, f32) {
        let (x0, eps) = match self.prediction_type {
            PredictionType::Epsilon => ((sample - sigma * output) / alpha, output),
            PredictionType::Sample => (output, (sample - alpha * output) / sigma),
            PredictionType::VPrediction => (alpha * sample - sigma * output, sigma * sample + alpha * output),
        };
        match self.clip {
            Some((low, high)) => {
                let x0 = if x0 > low { x0 } else { low };
                (if x0 < high { x0 } else { high }, eps)
            }
            None => (x0, eps),
        }
    }
}

/// An update rule.
pub trait Sampler {
    /// Replaces x_t (`sample`) by the next, less noisy one; `output` is the network's output for it, of equal length.
    fn update(&self, context: &StepContext<'_>, sample: &mut [f32], output: &[f32]);

    /// The first rule that the sampler's own settings break.
    ///
    /// # Errors
    /// [`SamplerError`] with the field and its value.
    fn check(&self) -> Result<(), SamplerError>;
}

/// A setting of a sampler is outside its range.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SamplerError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: f32,
    /// What is allowed.
    pub allowed: &'static str,
}

impl core::fmt::Display for SamplerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} is {}, but must be {}", self.field, self.value, self.allowed)
    }
}

impl core::error::Error for SamplerError {}

/// Classifier-free guidance (arXiv:2207.12598): uncond + scale · (cond − uncond), written over `cond`.
pub fn guide(cond: &mut [f32], uncond: &[f32], scale: f32) {
    for (c, &u) in cond.iter_mut().zip(uncond) {
        *c = u + scale * (*c - u);
    }
}

/// √ᾱ and √(1 − ᾱ).
fn alpha_sigma(alphas_cumprod: f32) -> (f32, f32) {
    (math::sqrt(alphas_cumprod), math::sqrt(1.0 - alphas_cumprod))
}
