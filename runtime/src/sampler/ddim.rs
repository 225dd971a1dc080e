//! DDIM (arXiv:2010.02502, eq. 12): deterministic for η = 0, ancestral for η = 1, over any number of steps.

use super::{Sampler, SamplerError, StepContext, alpha_sigma};
use crate::math;

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
    fn update(&self, context: &StepContext<'_>, sample: &mut [f32], output: &[f32]) {
        let (now, next) = context.alphas_cumprod();
        let (alpha, sigma) = alpha_sigma(now);
        let alpha_next = math::sqrt(next);
        // σ² = η² · (1 − ᾱ')/(1 − ᾱ) · (1 − ᾱ/ᾱ').
        let variance = (1.0 - next) / (1.0 - now) * (1.0 - now / next);
        let noise_scale = self.eta * math::sqrt(if variance > 0.0 { variance } else { 0.0 });
        let direction = (1.0 - next) - noise_scale * noise_scale;
        let direction = math::sqrt(if direction > 0.0 { direction } else { 0.0 });
        let mut noise = context.noise();
        for (x, &out) in sample.iter_mut().zip(output) {
            let (x0, eps) = context.predict(alpha, sigma, *x, out);
            *x = alpha_next * x0 + direction * eps;
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
        }
    }

    fn check(&self) -> Result<(), SamplerError> {
        if self.eta >= 0.0 && self.eta <= 1.0 {
            Ok(())
        } else {
            Err(SamplerError { field: "eta", value: self.eta, allowed: "in 0..=1" })
        }
    }
}
