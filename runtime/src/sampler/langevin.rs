//! Annealed Langevin dynamics (arXiv:1907.05600, algorithm 1) in the variance-exploding view: at each level some moves
//! x̂ + ½δσ̂²·score + √δ·σ̂·z, then on to the next; at the end the estimate of x0 (arXiv:2009.05475).

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, needs_signal};
use crate::math;
use crate::spacing::Spacing;

/// Settings of annealed Langevin dynamics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Langevin {
    /// Moves, and network calls, at each level, 1..=1000. The last level has one call more.
    pub moves: u16,
    /// δ, the variance of a move in units of σ̂², above 0 up to 1.
    pub step_size: f32,
}

impl Default for Langevin {
    /// Five moves of δ = 0.2.
    fn default() -> Self {
        Self { moves: 5, step_size: 0.2 }
    }
}

impl Sampler for Langevin {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma) = (now.alpha(), now.sigma());
        let denoise = next.is_clean() && context.stage >= self.moves;
        let level_done = !next.is_clean() && context.stage + 1 >= self.moves;
        // Level by level x̂ = x/α stays what it is.
        let rescale = if level_done { next.alpha() / alpha } else { 1.0 };
        let noise_scale = sigma * math::sqrt(self.step_size);
        let mut noise = context.noise();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            if denoise {
                *x = x0;
            } else {
                let moved = *x + 0.5 * self.step_size * (alpha * x0 - *x) + noise_scale * noise.next_gaussian();
                *x = rescale * moved;
            }
        }
        if denoise || level_done { Outcome::Stepped } else { Outcome::Ask }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("moves", self.moves.into(), 1.0, 1000.0, "in 1..=1000")?;
        in_range("step_size", self.step_size, 1e-6, 1.0, "in 0.000001..=1")?;
        needs_signal(context)
    }
}
