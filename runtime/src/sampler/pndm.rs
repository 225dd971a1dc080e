//! Pseudo numerical methods (PNDM, arXiv:2202.09778): four-step Adams–Bashforth on ε, carried by DDIM's transfer from level
//! to level. [`Pndm`] starts with three Runge–Kutta steps of four calls, [`Plms`] with one Heun step of two and lower orders.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, images_of, in_range, needs_signal};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// Linear multistep with a Heun step in front; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plms;

/// Linear multistep with three Runge–Kutta steps in front; no settings, at least four steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pndm;

/// Runge–Kutta steps before [`Pndm`] has three slopes behind it.
const WARM_UP_STEPS: u16 = 3;

/// x' = a·x + b·ε: DDIM's way (η = 0) between two levels.
fn transfer(from: &Level, to: &Level) -> (f32, f32) {
    let of_sample = to.alpha() / from.alpha();
    (of_sample, to.sigma() - from.sigma() * of_sample)
}

/// Weights of ε now, one, two and three steps ago.
fn adams_bashforth(steps_behind: u16) -> [f32; 4] {
    match steps_behind {
        0 => [1.0, 0.0, 0.0, 0.0],
        1 => [1.5, -0.5, 0.0, 0.0],
        2 => [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
        _ => [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    }
}

/// ε of a network's output; x0 clipped and turned back where that is asked for.
fn noise_of<P: Spacing>(context: &StepContext<'_, P>, level: &Level, sample: f32, output: f32) -> f32 {
    let (alpha, sigma) = (level.alpha(), level.sigma());
    let (x0, eps) = context.predict(alpha, sigma, sample, output);
    if context.clip.is_some() && sigma > 0.0 { (sample - alpha * x0) / sigma } else { eps }
}

/// One multistep update; slot 0 of `slopes` is the latest step's ε.
fn multistep<P: Spacing>(
    context: &StepContext<'_, P>,
    behind: u16,
    slopes: [&mut [f32]; 3],
    sample: &mut [f32],
    output: &[f32],
) {
    let (now, next) = (context.now(), context.next());
    let (of_sample, of_noise) = transfer(&now, &next);
    let [w0, w1, w2, w3] = adams_bashforth(behind);
    let [one, two, three] = slopes;
    for (i, x) in sample.iter_mut().enumerate() {
        let eps = noise_of(context, &now, *x, output[i]);
        let mut slope = w0 * eps;
        if behind > 0 {
            slope += w1 * one[i];
        }
        if behind > 1 {
            slope += w2 * two[i];
        }
        if behind > 2 {
            slope += w3 * three[i];
        }
        *x = of_sample * *x + of_noise * slope;
        (three[i], two[i], one[i]) = (two[i], one[i], eps);
    }
}

impl Sampler for Plms {
    /// ε of three steps; during the first step also its x.
    const HISTORY: usize = 3;
    type State = ();

    fn multistep(&self) -> bool {
        true
    }

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        if context.stage == 0 { context.now() } else { context.next() }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let Images { sample, output, history } = images;
        let [one, two, three] = images_of(history, sample.len());
        let behind = context.step - context.first_step;
        let (now, next) = (context.now(), context.next());
        if behind > 0 || next.is_clean() {
            multistep(context, behind, [one, two, three], sample, output);
            return Outcome::Stepped;
        }
        let (of_sample, of_noise) = transfer(&now, &next);
        for (i, x) in sample.iter_mut().enumerate() {
            if context.stage == 0 {
                (one[i], three[i]) = (noise_of(context, &now, *x, output[i]), *x);
                *x = of_sample * *x + of_noise * one[i];
            } else {
                let eps = noise_of(context, &next, *x, output[i]);
                *x = of_sample * three[i] + of_noise * (0.5 * (eps + one[i]));
            }
        }
        if context.stage == 0 { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        needs_signal(context)
    }
}

impl Pndm {
    /// The level halfway between the two of a step, by timestep.
    fn halfway<P: Spacing>(context: &StepContext<'_, P>) -> Level {
        context.schedule.level_at(0.5 * (context.now().timestep + context.next().timestep))
    }
}

impl Sampler for Pndm {
    /// ε of three steps; during a Runge–Kutta step also its x and the sum of its slopes.
    const HISTORY: usize = 5;
    type State = ();

    fn multistep(&self) -> bool {
        true
    }

    fn level<P: Spacing>(&self, context: &StepContext<'_, P>, _: &()) -> Level {
        match context.stage {
            0 => context.now(),
            1 | 2 => Self::halfway(context),
            _ => context.next(),
        }
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, state: &mut (), images: Images<'_>) -> Outcome {
        let Images { sample, output, history } = images;
        let [one, two, three, start, sum] = images_of(history, sample.len());
        let behind = context.step - context.first_step;
        if behind >= WARM_UP_STEPS {
            multistep(context, behind, [one, two, three], sample, output);
            return Outcome::Stepped;
        }
        // Runge–Kutta: to halfway along slope 1, to halfway along 2, to the end along 3, to the end along their mean.
        let here = self.level(context, state);
        let target = if context.stage < 2 { Self::halfway(context) } else { context.next() };
        let (of_sample, of_noise) = transfer(&context.now(), &target);
        let weight = if context.stage == 0 || context.stage == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        for (i, x) in sample.iter_mut().enumerate() {
            let eps = noise_of(context, &here, *x, output[i]);
            if context.stage == 0 {
                (three[i], two[i], one[i]) = (two[i], one[i], eps);
                (start[i], sum[i]) = (*x, weight * eps);
            } else {
                sum[i] += weight * eps;
            }
            let slope = if context.stage == 3 { sum[i] } else { eps };
            *x = of_sample * start[i] + of_noise * slope;
        }
        if context.stage < 3 { Outcome::Ask } else { Outcome::Stepped }
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("steps", context.steps.into(), 4.0, f32::MAX, "at least 4 for the Runge-Kutta start of PNDM")?;
        needs_signal(context)
    }
}
