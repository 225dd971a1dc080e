//! Heun steps of the probability-flow ODE in the variance-exploding view (arXiv:2206.00364, algorithm 1): second order, two
//! network calls a step but for the last, which is Euler's.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, needs_signal};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Heun's method; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heun;

impl Sampler for Heun {
    /// x̂ half a step further along the first slope.
    const HISTORY: usize = 1;
    type State = ();

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        if context.stage == 0 { context.now() } else { context.next() }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let here = self.level(context, state);
        let (alpha, sigma, alpha_next) = (here.alpha(), here.sigma(), next.alpha());
        let first = context.stage == 0;
        let rise = next.sigma_ve() - now.sigma_ve();
        let values = images.sample.iter_mut().zip(images.output).zip(images.history);
        for ((x, &mut out), half) in values {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            let slope = (*x - alpha * x0) / sigma;
            if first {
                let x_ve = *x / alpha;
                *half = x_ve + 0.5 * rise * slope;
                *x = if next.is_clean() { x0 } else { alpha_next * (x_ve + rise * slope) };
            } else {
                *x = alpha_next * (*half + 0.5 * rise * slope);
            }
        }
        if first && !next.is_clean() { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        needs_signal(context)
    }
}
