//! DDIM (arXiv:2010.02502, eq. 12): deterministic for η = 0, ancestral for η = 1, over any number of steps.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, sqrt_or_0};
use crate::math;
use crate::spacing::Spacing;

/// Settings of DDIM.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ddim {
    /// Share of the ancestral noise, 0..=1.
    pub eta: f32,
}

impl Default for Ddim {
    /// η = 0.
    fn default() -> Self {
        Self { eta: 0.0 }
    }
}

impl Sampler for Ddim {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (level, next) = (context.now(), context.next());
        let (alpha, sigma) = (level.alpha(), level.sigma());
        let alpha_next = math::sqrt(next.alphas_cumprod);
        // σ² = η² · (1 − ᾱ')/(1 − ᾱ) · (1 − ᾱ/ᾱ').
        let variance = next.variance / level.variance * (1.0 - level.alphas_cumprod / next.alphas_cumprod);
        let noise_scale = self.eta * sqrt_or_0(variance);
        let direction = sqrt_or_0(next.variance - noise_scale * noise_scale);
        let mut noise = context.noise();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, eps) = context.predict(alpha, sigma, *x, out);
            *x = alpha_next * x0 + direction * eps;
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("eta", self.eta, 0.0, 1.0, "in 0..=1")
    }
}
