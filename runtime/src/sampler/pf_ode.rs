//! The probability-flow ODE of the variance-preserving SDE (arXiv:2011.13456, eq. 13): dx = ½·(x + score)·dB over B = −ln ᾱ
//! falling, by Euler or Heun. The last step is the estimate of x0 (their appendix G).

use super::{Images, Outcome, Sampler, SamplerError, StepContext, needs_signal};
use crate::math;
use crate::schedule::Level;
use crate::spacing::Spacing;

/// The rule of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// First order, one call a step.
    #[default]
    Euler,
    /// Second order, two calls a step but for the last.
    Heun,
}

/// Settings of the ODE solver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbabilityFlow {
    /// The rule of a step.
    pub method: Method,
}

impl Sampler for ProbabilityFlow {
    /// x half a step further along the first slope.
    const HISTORY: usize = 1;
    type State = ();

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        if context.stage == 0 { context.now() } else { context.next() }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let here = self.level(context, state);
        let (alpha, sigma) = (here.alpha(), here.sigma());
        let half_step = 0.5 * (math::ln(next.alphas_cumprod) - math::ln(now.alphas_cumprod));
        let (first, last) = (context.stage == 0, next.is_clean());
        let values = images.sample.iter_mut().zip(images.output).zip(images.history);
        for ((x, &mut out), half) in values {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            // x + score, with the score −(x − α·x0)/σ².
            let slope = *x - (*x - alpha * x0) / here.variance;
            if last {
                *x = x0;
            } else if first {
                *half = *x + 0.5 * half_step * slope;
                *x += half_step * slope;
            } else {
                *x = *half + 0.5 * half_step * slope;
            }
        }
        if first && !last && self.method == Method::Heun { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        needs_signal(context)
    }
}
