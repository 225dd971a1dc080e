//! Rectified flow (arXiv:2209.03003) and flow matching (arXiv:2210.02747): dx/ds = ε − x0 along (1 − s)·x0 + s·ε from s = 1
//! to 0, by Euler or by the midpoint rule. Any model can be walked so: s = σ/(α + σ), and x/(α + σ) is x in the flow view.

use super::{Images, Outcome, Sampler, SamplerError, StepContext};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Euler's method: first order, one call a step; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RectifiedFlow;

/// The midpoint rule: second order, two calls a step; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowMidpoint;

/// Factor from the flow view to the variance-preserving one.
fn total(level: &Level) -> f32 {
    level.alpha() + level.sigma()
}

impl Sampler for RectifiedFlow {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma) = (now.alpha(), now.sigma());
        let (total, total_next) = (total(&now), total(&next));
        let stride = next.flow_time() - now.flow_time();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            let velocity = (*x - alpha * x0) / sigma - x0;
            *x = total_next * (*x / total + stride * velocity);
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        Ok(())
    }
}

impl Sampler for FlowMidpoint {
    /// x of the step's start in the flow view.
    const HISTORY: usize = 1;
    type State = ();

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        let now = context.now();
        if context.stage == 0 {
            return now;
        }
        let s = 0.5 * (now.flow_time() + context.next().flow_time());
        context.schedule.level_of_sigma(s / (1.0 - s))
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let here = self.level(context, state);
        let target = if context.stage == 0 { self.level(&StepContext { stage: 1, ..*context }, state) } else { next };
        let (alpha, sigma) = (here.alpha(), here.sigma());
        let (total_now, total_target) = (total(&now), total(&target));
        let stride = target.flow_time() - now.flow_time();
        let values = images.sample.iter_mut().zip(images.output).zip(images.history);
        for ((x, &mut out), start) in values {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            let velocity = (*x - alpha * x0) / sigma - x0;
            if context.stage == 0 {
                *start = *x / total_now;
            }
            *x = total_target * (*start + stride * velocity);
        }
        if context.stage == 0 { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        Ok(())
    }
}
