//! DDPM ancestral sampling (arXiv:2006.11239, algorithm 2), over all timesteps or a respaced subset of them.

use super::{Sampler, SamplerError, StepContext, alpha_sigma};
use crate::math;

/// Which of the two variances of the paper is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variance {
    /// β̃ = (1 − ᾱ')/(1 − ᾱ) · β ("fixed small").
    #[default]
    FixedSmall,
    /// β ("fixed large").
    FixedLarge,
}

/// Settings of DDPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ddpm {
    /// The variance of the added noise.
    pub variance: Variance,
}

impl Sampler for Ddpm {
    fn update(&self, context: &StepContext<'_>, sample: &mut [f32], output: &[f32]) {
        let (now, next) = context.alphas_cumprod();
        let (alpha, sigma) = alpha_sigma(now);
        // The step's own α and β; for a subset of timesteps these are the respaced ones.
        let step_alpha = now / next;
        let step_beta = 1.0 - step_alpha;
        let of_x0 = math::sqrt(next) * step_beta / (1.0 - now);
        let of_sample = math::sqrt(step_alpha) * (1.0 - next) / (1.0 - now);
        let variance = match self.variance {
            Variance::FixedSmall => (1.0 - next) / (1.0 - now) * step_beta,
            Variance::FixedLarge => step_beta,
        };
        let last = context.step + 1 >= context.steps;
        let noise_scale = if last || variance <= 0.0 { 0.0 } else { math::sqrt(variance) };
        let mut noise = context.noise();
        for (x, &out) in sample.iter_mut().zip(output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            *x = of_x0 * x0 + of_sample * *x;
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
        }
    }

    fn check(&self) -> Result<(), SamplerError> {
        Ok(())
    }
}
