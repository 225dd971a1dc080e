//! DDPM ancestral sampling (arXiv:2006.11239, algorithm 2), over all timesteps or a respaced subset of them.

use super::{Images, Outcome, Sampler, SamplerError, StepContext};
use crate::math;
use crate::spacing::Spacing;

/// Which variance is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variance {
    /// β̃ = (1 − ᾱ')/(1 − ᾱ) · β ("fixed small").
    #[default]
    FixedSmall,
    /// β ("fixed large").
    FixedLarge,
    /// Between the two, in logarithms, by what the network says: per pixel, channels of its prediction are followed by as
    /// many in −1 (β̃) to 1 (β) ("learned range", arXiv:2102.09672, eq. 15).
    LearnedRange,
}

/// Settings of DDPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ddpm {
    /// The variance of the added noise.
    pub variance: Variance,
}

impl Sampler for Ddpm {
    type State = ();

    fn reads_variances(&self) -> bool {
        self.variance == Variance::LearnedRange
    }

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (level, next) = (context.now(), context.next());
        let (alpha, sigma) = (level.alpha(), level.sigma());
        // The step's own α and β; for a subset of timesteps these are the respaced ones.
        let step_alpha = level.alphas_cumprod / next.alphas_cumprod;
        let step_beta = 1.0 - step_alpha;
        let of_x0 = math::sqrt(next.alphas_cumprod) * step_beta / level.variance;
        let of_sample = math::sqrt(step_alpha) * next.variance / level.variance;
        let small = next.variance / level.variance * step_beta;
        let variance = if self.variance == Variance::FixedSmall { small } else { step_beta };
        let noise_scale = if next.is_clean() || variance <= 0.0 { 0.0 } else { math::sqrt(variance) };
        let learned = self.reads_variances() && noise_scale > 0.0;
        let log_small = if learned { math::ln(small) } else { 0.0 };
        let log_large = if learned { math::ln(step_beta) } else { 0.0 };
        let [channels, given] = context.channels.map(|channels| usize::from(channels.max(1)));
        let output_channels = if self.reads_variances() { given } else { channels };
        let mut noise = context.noise();
        let pixels = images.sample.chunks_exact_mut(channels).zip(images.output.chunks_exact(output_channels));
        for (pixel, outputs) in pixels {
            for (c, x) in pixel.iter_mut().enumerate() {
                let (x0, _) = context.predict(alpha, sigma, *x, outputs[c]);
                *x = of_x0 * x0 + of_sample * *x;
                if learned {
                    let part = 0.5 * (outputs[channels + c] + 1.0);
                    let log = part * log_large + (1.0 - part) * log_small;
                    *x += math::exp(0.5 * log) * noise.next_gaussian();
                } else if noise_scale > 0.0 {
                    *x += noise_scale * noise.next_gaussian();
                }
            }
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        let [channels, given] = context.channels;
        let missing = self.reads_variances() && given != 2 * channels;
        let allowed = "twice the image's for the learned-range variance, which this model does not give";
        let error = SamplerError { field: "output channels", value: given.into(), allowed };
        if missing { Err(error) } else { Ok(()) }
    }
}
