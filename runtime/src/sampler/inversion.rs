//! DDIM backwards: from an image to the noise that DDIM (η = 0) makes it of, over the same levels (arXiv:2105.05233, app. F).
//!
//! A step down is x' = α'·x0(x) + σ'·ε(x); given x', x is found by repetition from x = x'. Where σ·σ' ≤ α·α' it repeats
//! x = α·(x' − σ'·ε(x))/α' + σ·ε(x), elsewhere x = σ·(x' − α'·x0(x))/σ' + α·x0(x): of the two the one that converges faster
//! on data of variance 1. Without clipping; clipped estimates cannot be turned back.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, needs_signal};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Settings of the inversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdimInversion {
    /// Network calls, that is repetitions, a step, 1..=50; 1 is the usual approximation.
    pub calls: u16,
}

impl Default for DdimInversion {
    /// Five calls a step.
    fn default() -> Self {
        Self { calls: 5 }
    }
}

impl DdimInversion {
    /// The levels from and to which this step goes, the clean image first.
    fn levels<P: Spacing>(context: &StepContext<'_, P>) -> (Level, Level) {
        let left = context.steps - context.step;
        (context.level(left), context.level(left - 1))
    }
}

impl Sampler for DdimInversion {
    /// x of the step's start.
    const HISTORY: usize = 1;
    type State = ();

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        Self::levels(context).1
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (from, to) = Self::levels(context);
        let (alpha, sigma) = (to.alpha(), to.sigma());
        let by_noise = sigma * from.sigma() <= alpha * from.alpha();
        let (scale, of_estimate) = if by_noise {
            let scale = alpha / from.alpha();
            (scale, sigma - scale * from.sigma())
        } else {
            let scale = sigma / from.sigma();
            (scale, alpha - scale * from.alpha())
        };
        let values = images.sample.iter_mut().zip(images.output).zip(images.history);
        for ((x, &mut out), start) in values {
            if context.stage == 0 {
                *start = *x;
            }
            let (x0, eps) = context.predict(alpha, sigma, *x, out);
            *x = scale * *start + of_estimate * if by_noise { eps } else { x0 };
        }
        if context.stage + 1 < self.calls { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("calls", self.calls.into(), 1.0, 50.0, "in 1..=50")?;
        needs_signal(context)
    }
}
