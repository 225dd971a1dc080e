//! The probability-flow ODE with steps as long as an error allows: Heun's rule with Euler's inside it (an embedded pair of
//! orders 2 and 1, as in arXiv:2105.14080), in the angle θ of α = cos θ, σ = sin θ, where dx/dθ = α·ε − σ·x0 has no pole.
//!
//! A trial from θ to θ − h differs between the two rules by e; it counts when ‖e/(tolerance·(1 + max(|x|, |x'|)))‖ ≤ 1 (root
//! mean square), and the next h is h·0.9/√‖·‖, changed at most five-fold. `Config::steps` is the cap on network calls; the
//! last call is the estimate of x0, at the schedule's first timestep or where the cap is met.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, images_of, in_range};
use crate::math;
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Settings of the adaptive solver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adaptive {
    /// Error allowed in a step, absolute and relative, 0.00001..=1.
    pub tolerance: f32,
}

impl Default for Adaptive {
    /// 0.02: about 30 calls.
    fn default() -> Self {
        Self { tolerance: 0.02 }
    }
}

/// Where the solver stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// θ of x, below 0 before the first call.
    theta: f32,
    /// Length of the trial.
    stride: f32,
    /// Network calls answered, 0 before the first.
    calls: u16,
}

impl Adaptive {
    /// First length of a trial, as a part of the way.
    const FIRST_PART: f32 = 1.0 / 16.0;

    fn last_theta<P: Spacing>(context: &StepContext<'_, P>) -> f32 {
        context.schedule.level(0).theta()
    }

    fn position<P: Spacing>(context: &StepContext<'_, P>, state: &Position) -> Position {
        if state.calls > 0 {
            return *state;
        }
        let theta = context.now().theta();
        Position { theta, stride: Self::FIRST_PART * (theta - Self::last_theta(context)), calls: 0 }
    }
}

impl Sampler for Adaptive {
    /// x of the trial's start and its slope.
    const HISTORY: usize = 2;
    type State = Position;

    fn multistep(&self) -> bool {
        true
    }

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, state: &Position) -> Level {
        if state.calls == 0 {
            return context.now();
        }
        let ahead = if context.stage == 0 { 0.0 } else { state.stride };
        context.schedule.level_of_theta(state.theta - ahead)
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut Position, images: Images<'_>) -> Outcome {
        let Images { sample, output, history } = images;
        let here = self.level(context, state);
        *state = Self::position(context, state);
        state.calls += 1;
        let left = context.steps.saturating_sub(state.calls);
        let last_theta = Self::last_theta(context);
        let [start, slope] = images_of(history, sample.len());
        let (alpha, sigma) = (here.alpha(), here.sigma());
        if context.stage == 0 {
            let finish = left < 2 || state.theta <= last_theta || context.step + 1 >= context.steps;
            for (i, x) in sample.iter_mut().enumerate() {
                let (x0, _) = context.predict(alpha, sigma, *x, output[i]);
                (start[i], slope[i]) = (*x, alpha * ((*x - alpha * x0) / sigma) - sigma * x0);
                if finish {
                    *x = x0;
                }
            }
            if finish {
                return Outcome::Finished;
            }
        } else {
            let error = self.compare(context, &here, state.stride, [start, slope], sample, output);
            let accepted = error <= 1.0 || left < 2;
            let factor = if error > 0.0324 { 0.9 / math::sqrt(error) } else { 5.0 };
            let stride = state.stride * if factor > 0.2 { factor } else { 0.2 };
            if accepted {
                state.theta -= state.stride;
                state.stride = stride;
                return Outcome::Stepped;
            }
            state.stride = stride;
        }
        // The next trial: to its end along the first slope.
        let way = state.theta - last_theta;
        state.stride = if state.stride < way { state.stride } else { way };
        for (i, x) in sample.iter_mut().enumerate() {
            *x = start[i] - state.stride * slope[i];
        }
        Outcome::Ask
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("tolerance", self.tolerance, 1e-5, 1.0, "in 0.00001..=1")
    }
}

impl Adaptive {
    /// Replaces the trial's Euler end in `sample` by Heun's; returns the error in units of the tolerance.
    fn compare<P: Spacing>(
        &self,
        context: &StepContext<'_, P>,
        here: &Level,
        stride: f32,
        [start, slope]: [&mut [f32]; 2],
        sample: &mut [f32],
        output: &[f32],
    ) -> f32 {
        let (alpha, sigma) = (here.alpha(), here.sigma());
        let mut total = 0.0;
        for (i, x) in sample.iter_mut().enumerate() {
            let (x0, _) = context.predict(alpha, sigma, *x, output[i]);
            let slope_there = alpha * ((*x - alpha * x0) / sigma) - sigma * x0;
            let heun = start[i] - 0.5 * stride * (slope[i] + slope_there);
            let (a, b) = (start[i].abs(), heun.abs());
            let error = (heun - *x) / (self.tolerance * (1.0 + if a > b { a } else { b }));
            total += error * error;
            *x = heun;
        }
        math::sqrt(total / sample.len() as f32)
    }
}
