//! DDPM ancestral sampling (arXiv:2006.11239, algorithm 2), over all timesteps or a respaced subset of them.

use super::{Images, Outcome, Sampler, SamplerError, StepContext};
use crate::math;
use crate::spacing::Spacing;

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
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (level, next) = (context.now(), context.next());
        let (alpha, sigma) = (level.alpha(), level.sigma());
        // The step's own α and β; for a subset of timesteps these are the respaced ones.
        let step_alpha = level.alphas_cumprod / next.alphas_cumprod;
        let step_beta = 1.0 - step_alpha;
        let of_x0 = math::sqrt(next.alphas_cumprod) * step_beta / level.variance;
        let of_sample = math::sqrt(step_alpha) * next.variance / level.variance;
        let variance = match self.variance {
            Variance::FixedSmall => next.variance / level.variance * step_beta,
            Variance::FixedLarge => step_beta,
        };
        let noise_scale = if next.is_clean() || variance <= 0.0 { 0.0 } else { math::sqrt(variance) };
        let mut noise = context.noise();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            *x = of_x0 * x0 + of_sample * *x;
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        Ok(())
    }
}
