//! Euler steps of the probability-flow ODE in the variance-exploding view (arXiv:2206.00364, algorithm 1 without its second
//! half), and their ancestral form: k-diffusion's `sample_euler` and `sample_euler_ancestral`.
//!
//! In the variance-preserving view x̂ + (σ̂' − σ̂)·d with d = (x̂ − x0)/σ̂ is α'·(x0 + σ̂'·d), d = (x − α·x0)/σ: DDIM, with its
//! direction taken from the clipped x0. So it also starts where σ̂ is infinite.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, sqrt_or_0};
use crate::spacing::Spacing;

/// Euler's method; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Euler;

impl Sampler for Euler {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma) = (now.alpha(), now.sigma());
        let (alpha_next, sigma_next) = (next.alpha(), next.sigma());
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            *x = alpha_next * x0 + sigma_next * ((*x - alpha * x0) / sigma);
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        Ok(())
    }
}

/// Euler steps to less noise than the next level has, and fresh noise up to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EulerAncestral {
    /// Share of the ancestral noise, 0 (Euler) to 1.
    pub eta: f32,
}

impl Default for EulerAncestral {
    /// η = 1.
    fn default() -> Self {
        Self { eta: 1.0 }
    }
}

impl Sampler for EulerAncestral {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma, alpha_next) = (now.alpha(), now.sigma(), next.alpha());
        // σ_up² = η²·σ̂'²·(1 − σ̂'²/σ̂²), σ_down² = σ̂'² − σ_up², both times ᾱ'.
        let ratio = (next.variance / next.alphas_cumprod) * (now.alphas_cumprod / now.variance);
        let noise_scale = self.eta * sqrt_or_0(next.variance * (1.0 - ratio));
        let direction = sqrt_or_0(next.variance - noise_scale * noise_scale);
        let mut noise = context.noise();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            *x = alpha_next * x0 + direction * ((*x - alpha * x0) / sigma);
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
