//! The reverse-time SDE by Euler–Maruyama, and with Langevin correctors (arXiv:2011.13456, eq. 6 and algorithm 3).
//!
//! dx = −½β·x dt − β·score dt + √β dw̄ with β dt = 1 − ᾱ/ᾱ', the discrete β of the step: it stays below 1 however long the
//! step. The last step is the estimate of x0. Prediction–correction then moves x at the new level by
//! ε·score + √(2ε)·z, ε = 2·(snr·‖z‖/‖score‖)².

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range};
use crate::math;
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Euler–Maruyama; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EulerMaruyama;

impl Sampler for EulerMaruyama {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        predictor(context, images);
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        Ok(())
    }
}

/// Settings of the predictor–corrector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PredictorCorrector {
    /// Langevin moves after each predictor step, 1..=100.
    pub corrector_steps: u16,
    /// Signal-to-noise ratio of a move, 0.001..=1; 0.16 in the paper.
    pub snr: f32,
}

impl Default for PredictorCorrector {
    /// One move of ratio 0.16.
    fn default() -> Self {
        Self { corrector_steps: 1, snr: 0.16 }
    }
}

impl Sampler for PredictorCorrector {
    type State = ();

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        if context.stage == 0 { context.now() } else { context.next() }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let last = context.next().is_clean();
        if context.stage == 0 {
            predictor(context, images);
        } else {
            corrector(context, self.snr, images);
        }
        if last || context.stage >= self.corrector_steps { Outcome::Stepped } else { Outcome::Ask }
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("corrector_steps", self.corrector_steps.into(), 1.0, 100.0, "in 1..=100")?;
        in_range("snr", self.snr, 1e-3, 1.0, "in 0.001..=1")
    }
}

fn predictor<P: Spacing>(context: &StepContext<'_, P>, images: Images<'_>) {
    let (now, next) = (context.now(), context.next());
    let (alpha, sigma) = (now.alpha(), now.sigma());
    let beta = 1.0 - now.alphas_cumprod / next.alphas_cumprod;
    let noise_scale = math::sqrt(beta);
    let mut noise = context.noise();
    for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
        let (x0, _) = context.predict(alpha, sigma, *x, out);
        if next.is_clean() {
            *x = x0;
        } else {
            let score = (alpha * x0 - *x) / now.variance;
            *x = *x + beta * (0.5 * *x + score) + noise_scale * noise.next_gaussian();
        }
    }
}

fn corrector<P: Spacing>(context: &StepContext<'_, P>, snr: f32, images: Images<'_>) {
    let level = context.next();
    let (alpha, sigma) = (level.alpha(), level.sigma());
    for (x, out) in images.sample.iter().zip(images.output.iter_mut()) {
        let (x0, _) = context.predict(alpha, sigma, *x, *out);
        *out = (alpha * x0 - *x) / level.variance;
    }
    let score: &[f32] = images.output;
    // The noise is drawn twice, once for its length: a stream always gives the same numbers.
    let (mut noise, mut length) = (context.noise(), 0.0);
    for _ in score {
        let z = noise.next_gaussian();
        length += z * z;
    }
    let square = math::dot(score, score);
    let step = if square > 0.0 { 2.0 * snr * snr * (length / square) } else { 0.0 };
    let (noise_scale, mut noise) = (math::sqrt(2.0 * step), context.noise());
    for (x, score) in images.sample.iter_mut().zip(score) {
        *x = *x + step * score + noise_scale * noise.next_gaussian();
    }
}
