//! DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2) and its SDE form (as in k-diffusion's `sample_dpmpp_2m_sde`, midpoint):
//! second order from one call a step and the estimate of x0 of the step before. λ = ln(α/σ), h = λ' − λ.

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, sqrt_or_0};
use crate::math;
use crate::spacing::Spacing;

/// Settings of DPM-Solver++.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DpmSolverPp {
    /// Share of noise, 0 (the ODE) to 1 (the SDE).
    pub eta: f32,
}

impl DpmSolverPp {
    /// The SDE form.
    pub const SDE: Self = Self { eta: 1.0 };
}

impl Sampler for DpmSolverPp {
    /// x0 of the step before.
    const HISTORY: usize = 1;
    type State = ();

    fn multistep(&self) -> bool {
        true
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (now, next) = (context.now(), context.next());
        let (alpha, sigma) = (now.alpha(), now.sigma());
        let (alpha_next, sigma_next) = (next.alpha(), next.sigma());
        // e^{−h}, without a logarithm; e^{−ηh}.
        let shrink = (sigma_next / sigma) * (alpha / alpha_next);
        let eta_shrink = if self.eta == 1.0 || shrink <= 0.0 { shrink } else { math::exp(self.eta * math::ln(shrink)) };
        let eta_shrink = if self.eta == 0.0 { 1.0 } else { eta_shrink };
        let of_sample = sigma_next / sigma * eta_shrink;
        let of_x0 = alpha_next * (1.0 - shrink * eta_shrink);
        let of_change = 0.5 * of_x0 * inverse_ratio(context);
        let noise_scale = sigma_next * sqrt_or_0(1.0 - eta_shrink * eta_shrink);
        let mut noise = context.noise();
        let values = images.sample.iter_mut().zip(images.output).zip(images.history);
        for ((x, &mut out), before) in values {
            let (x0, _) = context.predict(alpha, sigma, *x, out);
            *x = of_sample * *x + of_x0 * x0;
            if of_change != 0.0 {
                *x += of_change * (x0 - *before);
            }
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
            *before = x0;
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, _: &StepContext<'_, P>) -> Result<(), SamplerError> {
        in_range("eta", self.eta, 0.0, 1.0, "in 0..=1")
    }
}

/// h of this step over h of the step before; 0 where this step is of first order: the first, the last, and one after a
/// level without signal.
fn inverse_ratio<P: Spacing>(context: &StepContext<'_, P>) -> f32 {
    let (now, next) = (context.now(), context.next());
    let Some(before) = context.step_before() else { return 0.0 };
    let before = context.level(before);
    if next.is_clean() || before.alphas_cumprod <= 0.0 {
        return 0.0;
    }
    (next.log_snr() - now.log_snr()) / (now.log_snr() - before.log_snr())
}
