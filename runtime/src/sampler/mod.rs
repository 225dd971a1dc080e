//! Samplers: how x_t becomes x_{t−1} from what the network predicted. One update rule a file.
//!
//! A sampler is plain data; its rule works on slices, so the same code drives the int8 network on the device and the float
//! network on the host. It is a small state machine: a step asks the network once or several times
//! ([`Sampler::level`] says at which level, the input is what stands in x_t) and each answer goes to [`Sampler::update`].

mod adaptive;
mod any;
mod consistency;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod flow;
mod heun;
mod inversion;
mod langevin;
mod output;
mod pf_ode;
mod pndm;
mod reverse_sde;
mod unipc;

pub use adaptive::Adaptive;
pub use any::AnySampler;
pub use consistency::{Boundary, Consistency};
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use dpm_solver::DpmSolverPp;
pub use euler::{Euler, EulerAncestral};
pub use flow::{FlowMidpoint, RectifiedFlow};
pub use heun::Heun;
pub use inversion::DdimInversion;
pub use langevin::Langevin;
pub(crate) use output::without_variances;
pub use output::{guide, keep_prediction, predictions};
pub use pf_ode::{Method, ProbabilityFlow};
pub use pndm::{Plms, Pndm};
pub use reverse_sde::{EulerMaruyama, PredictorCorrector};
pub use unipc::UniPc;

use crate::blob::PredictionType;
use crate::decimal::Decimal;
use crate::math;
use crate::rng::NoiseStream;
use crate::schedule::{Level, Schedule};
use crate::spacing::{Spacing, Trailing};

/// The conditions of one denoising step.
#[derive(Clone, Copy, Debug)]
pub struct StepContext<'a, P = Trailing> {
    /// The noise schedule.
    pub schedule: Schedule<'a>,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// Which levels are visited.
    pub spacing: P,
    /// Number of steps of the whole run.
    pub steps: u16,
    /// This step, 0 the noisiest.
    pub step: u16,
    /// The step that the image began with; above 0 when it began with another image.
    pub first_step: u16,
    /// Network calls of this step that have been answered before this one.
    pub stage: u16,
    /// Seed of the image.
    pub seed: u64,
    /// Channels of the image and of the network's output; twice as many there when it also gives variances.
    pub channels: [u16; 2],
    /// The range of x0 when it is to be clipped.
    pub clip: Option<(f32, f32)>,
}

impl<P: Spacing> StepContext<'_, P> {
    /// The level at which step `step` begins.
    #[must_use]
    pub fn level(&self, step: u16) -> Level {
        self.spacing.level(&self.schedule, self.steps, step)
    }

    /// The level at which this step begins.
    #[must_use]
    pub fn now(&self) -> Level {
        self.level(self.step)
    }

    /// The level at which this step ends; clean after the last.
    #[must_use]
    pub fn next(&self) -> Level {
        self.spacing.next_level(&self.schedule, self.steps, self.step)
    }

    /// The step before this one, when this image had one.
    #[must_use]
    pub fn step_before(&self) -> Option<u16> {
        (self.step > self.first_step).then(|| self.step - 1)
    }

    /// The noise of this step: stream `step + 1` of the image's seed; later calls of the same step draw from stream
    /// `stage`·2¹⁶ + `step` + 1.
    #[must_use]
    pub fn noise(&self) -> NoiseStream {
        NoiseStream::new(self.seed, (u64::from(self.stage) << 16) + u64::from(self.step) + 1)
    }

    /// (x0, ε) from one element of x_t and of the network's output, x0 clipped when asked.
    #[must_use]
    pub fn predict(&self, alpha: f32, sigma: f32, sample: f32, output: f32) -> (f32, f32) {
        let (x0, eps) = self.prediction_type.x0_and_noise(alpha, sigma, sample, output);
        (self.clip(x0), eps)
    }

    /// An estimate of x0 in the range of pixels, when that is asked for.
    #[must_use]
    pub fn clip(&self, x0: f32) -> f32 {
        match self.clip {
            Some((low, high)) => {
                let x0 = if x0 > low { x0 } else { low };
                if x0 < high { x0 } else { high }
            }
            None => x0,
        }
    }
}

/// What an update rule works on; all of equal length but `history`, and but `output` for [`Sampler::reads_variances`].
#[derive(Debug)]
pub struct Images<'a> {
    /// x_t, to be replaced by what the network is shown next (or by the image).
    pub sample: &'a mut [f32],
    /// The network's output for it; free to be overwritten.
    pub output: &'a mut [f32],
    /// [`Sampler::HISTORY`] images one after another, kept between calls.
    pub history: &'a mut [f32],
}

/// What comes after an answer of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The same step asks the network again.
    Ask,
    /// The step is finished.
    Stepped,
    /// The image is finished, whatever the number of steps.
    Finished,
}

/// An update rule.
pub trait Sampler: Copy {
    /// Image-sized f32 buffers that the rule keeps between network calls.
    const HISTORY: usize = 0;

    /// What the rule remembers besides images; `default()` at the start of each image.
    type State: Copy + Default + core::fmt::Debug;

    /// Whether a step builds on what earlier steps kept, so that it cannot be taken again on its own.
    fn multistep(&self) -> bool {
        false
    }

    /// Whether [`Images::output`] keeps the variances that stand behind the prediction of each pixel; otherwise they are
    /// taken out before, and the prediction is all that there is.
    fn reads_variances(&self) -> bool {
        false
    }

    /// The level at which the network is asked next.
    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, state: &Self::State) -> Level {
        let _ = state;
        context.now()
    }

    /// Takes the network's output for x_t at [`Sampler::level`] and replaces x_t by what is shown to the network next.
    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut Self::State, images: Images<'_>) -> Outcome;

    /// The first rule that the sampler's own settings break for this run.
    ///
    /// # Errors
    /// [`SamplerError`] with the field and its value.
    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError>;
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
        write!(f, "{} is {}, but must be {}", self.field, Decimal(self.value), self.allowed)
    }
}

impl core::error::Error for SamplerError {}

/// Refuses a value outside low..=high, and NaN.
fn in_range(field: &'static str, value: f32, low: f32, high: f32, allowed: &'static str) -> Result<(), SamplerError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(SamplerError { field, value, allowed }) }
}

/// Refuses a first level of which nothing but noise is left, for rules that divide by α.
fn needs_signal<P: Spacing>(context: &StepContext<'_, P>) -> Result<(), SamplerError> {
    let value = context.level(0).alphas_cumprod;
    let (field, allowed) = ("alphas_cumprod", "above 0 at the first step for this sampler");
    if value > 0.0 { Ok(()) } else { Err(SamplerError { field, value, allowed }) }
}

/// `history` as `N` images of `len` elements.
fn images_of<const N: usize>(history: &mut [f32], len: usize) -> [&mut [f32]; N] {
    let mut rest = history.chunks_exact_mut(len.max(1));
    core::array::from_fn(|_| rest.next().unwrap_or(&mut []))
}

/// √x, 0 where x is negative by rounding.
fn sqrt_or_0(x: f32) -> f32 {
    math::sqrt(if x > 0.0 { x } else { 0.0 })
}
