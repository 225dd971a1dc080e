//! UniPC (arXiv:2302.04867), multistep, order 2, B(h) = e^h − 1 ("bh2"), on x0: a predictor like DPM-Solver++'s, and at the
//! next step a corrector of the same x with the new estimate, at no further network call. The last step is of order 1.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, images_of, needs_signal};
use crate::schedule::Level;
use crate::spacing::Spacing;

/// UniPC; no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UniPc;

/// The step from one level to a less noisy one, in terms of λ = ln(α/σ).
struct Stride {
    of_sample: f32,
    /// 1 − e^{−h}.
    fall: f32,
    alpha: f32,
    /// λ' − λ.
    h: f32,
}

impl Stride {
    fn new(from: &Level, to: &Level) -> Self {
        let (sigma, sigma_to) = (from.sigma(), to.sigma());
        let shrink = (sigma_to / sigma) * (from.alpha() / to.alpha());
        let h = if to.is_clean() { f32::INFINITY } else { 0.5 * (to.log_snr() - from.log_snr()) };
        Self { of_sample: sigma_to / sigma, fall: 1.0 - shrink, alpha: to.alpha(), h }
    }
}

/// φ₂ and φ₃ of the exponential integrators at −h: (1 − φ₁)/h and (½ − φ₂)/h with φ₁ = (1 − e^{−h})/h.
fn phi(h: f32, fall: f32) -> (f32, f32) {
    if h < 0.5 {
        // The differences cancel: six terms of the series Σ (−h)^k/(k + 2)! and Σ (−h)^k/(k + 3)!, below 1e-6.
        let h = -h;
        let second = 0.5 + h * (1.0 / 6.0 + h * (1.0 / 24.0 + h * (1.0 / 120.0 + h * (1.0 / 720.0 + h / 5040.0))));
        let third =
            1.0 / 6.0 + h * (1.0 / 24.0 + h * (1.0 / 120.0 + h * (1.0 / 720.0 + h * (1.0 / 5040.0 + h / 40320.0))));
        (second, third)
    } else {
        let second = (1.0 - fall / h) / h;
        (second, (0.5 - second) / h)
    }
}

impl Sampler for UniPc {
    /// x and x0 of the step before, x0 of the one before that.
    const HISTORY: usize = 3;
    type State = ();

    fn multistep(&self) -> bool {
        true
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let [x_before, x0_before, x0_older] = images_of(images.history, images.sample.len());
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma) = (now.alpha(), now.sigma());
        let correct = Correction::new(context);
        let predict = Stride::new(&now, &next);
        let of_change = match context.step_before() {
            // ½/r with r = −(λ' − λ)/h of the stride behind.
            Some(before) if context.step + 1 < context.steps => {
                0.5 * predict.alpha * predict.fall * predict.h / Stride::new(&context.level(before), &now).h
            }
            _ => 0.0,
        };
        for (i, x) in images.sample.iter_mut().enumerate() {
            let (x0, _) = context.predict(alpha, sigma, *x, images.output[i]);
            if let Some(c) = &correct {
                let older = if c.of_older != 0.0 { c.of_older * (x0_older[i] - x0_before[i]) } else { 0.0 };
                *x = (c.of_sample * x_before[i] + c.of_x0 * x0_before[i]) + (older + c.of_new * (x0 - x0_before[i]));
            }
            x_before[i] = *x;
            *x = predict.of_sample * *x + predict.alpha * predict.fall * x0;
            if of_change != 0.0 {
                *x += of_change * (x0 - x0_before[i]);
            }
            x0_older[i] = x0_before[i];
            x0_before[i] = x0;
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        needs_signal(context)
    }
}

/// How this step's x is made again from what was known a step ago and the new x0.
struct Correction {
    of_sample: f32,
    of_x0: f32,
    /// Times x0 of two steps ago less x0 of one step ago.
    of_older: f32,
    /// Times the new x0 less x0 of one step ago.
    of_new: f32,
}

impl Correction {
    fn new<P: Spacing>(context: &StepContext<'_, P>) -> Option<Self> {
        let before = context.step_before()?;
        let (from, to) = (context.level(before), context.now());
        let stride = Stride::new(&from, &to);
        let scale = stride.alpha * stride.fall;
        let (of_sample, of_x0) = (stride.of_sample, scale);
        if before == context.first_step {
            return Some(Self { of_sample, of_x0, of_older: 0.0, of_new: 0.5 * scale });
        }
        // ρ of order 2: ρ₁ + ρ₂ = b₁, r·ρ₁ + ρ₂ = b₂ with r the (negative) stride before over this one.
        let r = -Stride::new(&context.level(before - 1), &from).h / stride.h;
        let (second, third) = phi(stride.h, stride.fall);
        let (b1, b2) = (second * stride.h / stride.fall, 2.0 * third * stride.h / stride.fall);
        let older = (b1 - b2) / (1.0 - r);
        Some(Self { of_sample, of_x0, of_older: scale * older / r, of_new: scale * (b1 - older) })
    }
}
