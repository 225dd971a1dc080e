//! Consistency models (arXiv:2303.01469, algorithm 1): every step jumps to the clean image and noises it again, less.
//!
//! x' = α'·f(x_t) + σ'·z at every step but the last, which ends at f(x_t). How f is made of the network's output near the
//! clean end is the [`Boundary`]; the levels are the spacing's ([`crate::spacing::FewStep`] or an explicit table).

use super::{Images, Outcome, Sampler, SamplerError, StepContext, in_range, needs_signal, sqrt_or_0};
use crate::math;
use crate::schedule::Level;
use crate::spacing::Spacing;

/// How the clean image is read off x_t and the network's output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Boundary {
    /// f = x0, which is x_t itself where there is no noise: ECT (arXiv:2406.14548) and TrigFlow (arXiv:2410.11081).
    #[default]
    Plain,
    /// f = c_skip·x̂ + c_out·F of OpenAI's models, in units of the data's deviation: x̂ = x/α, F = −v, c_skip =
    /// 1/((σ̂ − σ_min)² + 1), c_out = (σ̂ − σ_min)/√(σ̂² + 1); the added noise has variance σ̂'² − σ_min².
    OpenAi {
        /// σ̂ at which f is the identity, above 0.
        sigma_min: f32,
    },
    /// f = c_skip·x + c_out·x0 of latent consistency models (arXiv:2310.04378), with s = scaling·t, c_skip = ¼/(s² + ¼),
    /// c_out = s/√(s² + ¼).
    Lcm {
        /// Multiplies the timestep; 10 in the paper.
        timestep_scaling: f32,
    },
}

/// Settings of consistency sampling.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Consistency {
    /// The rule near the clean end.
    pub boundary: Boundary,
}

/// f = skip·x + out·x0.
fn coefficients(boundary: Boundary, level: &Level) -> (f32, f32) {
    match boundary {
        Boundary::Plain => (0.0, 1.0),
        Boundary::OpenAi { sigma_min } => {
            let (alpha, sigma) = (level.alpha(), level.sigma());
            let sigma_ve = sigma / alpha;
            let rest = sigma_ve - sigma_min;
            // c_skip·x/α − c_out·v, with v = (α·x − x0)/σ.
            let (skip, out) = (1.0 / (rest * rest + 1.0), rest * alpha);
            (skip / alpha - out * alpha / sigma, out / sigma)
        }
        Boundary::Lcm { timestep_scaling } => {
            let s = timestep_scaling * level.timestep;
            let total = s * s + 0.25;
            (0.25 / total, s / math::sqrt(total))
        }
    }
}

impl Sampler for Consistency {
    type State = ();

    fn update<P: Spacing>(&self, context: &StepContext<'_, P>, _: &mut (), images: Images<'_>) -> Outcome {
        let (level, next) = (context.now(), context.next());
        let (alpha, sigma) = (level.alpha(), level.sigma());
        let (skip, out_scale) = coefficients(self.boundary, &level);
        let (alpha_next, noise_scale) = match self.boundary {
            Boundary::OpenAi { sigma_min } if !next.is_clean() => {
                let square = next.variance / next.alphas_cumprod - sigma_min * sigma_min;
                (next.alpha(), next.alpha() * sqrt_or_0(square))
            }
            _ => (next.alpha(), next.sigma()),
        };
        let mut noise = context.noise();
        for (x, &mut out) in images.sample.iter_mut().zip(images.output) {
            let (x0, _) = context.prediction_type.x0_and_noise(alpha, sigma, *x, out);
            let clean = context.clip(if skip == 0.0 { x0 } else { skip * *x + out_scale * x0 });
            *x = alpha_next * clean;
            if noise_scale > 0.0 {
                *x += noise_scale * noise.next_gaussian();
            }
        }
        Outcome::Stepped
    }

    fn check<P: Spacing>(&self, context: &StepContext<'_, P>) -> Result<(), SamplerError> {
        match self.boundary {
            Boundary::Plain => Ok(()),
            Boundary::OpenAi { sigma_min } => {
                in_range("sigma_min", sigma_min, 1e-6, 1.0, "in 0.000001..=1")?;
                // Infinite noise has no place on its curve.
                needs_signal(context)
            }
            Boundary::Lcm { timestep_scaling } => {
                in_range("timestep_scaling", timestep_scaling, 1e-3, 1e3, "in 0.001..=1000")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::PredictionType;
    use crate::pipeline::Config;
    use crate::schedule::Schedule;
    use crate::spacing::FewStep;
    use crate::walk::{ModelInfo, Walk};
    use std::vec::Vec;

    /// ᾱ = cos² of T = 1000 angles up to nearly a right one.
    fn cosine() -> Vec<u8> {
        let angle = |t: u16| f64::from(t + 1) / 1001.0 * core::f64::consts::FRAC_PI_2;
        (0..1000).flat_map(|t| (angle(t).cos().powi(2) as f32).to_le_bytes()).collect()
    }

    #[test]
    fn openais_boundary_needs_a_finite_noise_to_begin_with() {
        let refused = |last: f32| {
            let bytes: Vec<u8> = [0.9f32, 0.5, last].into_iter().flat_map(f32::to_le_bytes).collect();
            let sampler = Consistency { boundary: Boundary::OpenAi { sigma_min: 0.004 } };
            let info = ModelInfo {
                schedule: Schedule::new(&bytes),
                prediction_type: PredictionType::VPrediction,
                num_classes: 0,
                pixel_scale: 127.5,
                pixel_offset: 127.5,
                pixels: 1,
                channels: [1, 1],
                timesteps: &[],
            };
            Walk::new(&info, Config { steps: 2, ..Config::with_sampler(0, sampler) }).is_err()
        };
        assert!(refused(0.0) && !refused(1e-9));
    }

    #[test]
    fn every_step_noises_the_estimate_to_the_next_level_and_the_last_does_not() {
        const PIXELS: usize = 20_000;
        let bytes = cosine();
        let info = ModelInfo {
            schedule: Schedule::new(&bytes),
            prediction_type: PredictionType::VPrediction,
            num_classes: 0,
            pixel_scale: 127.5,
            pixel_offset: 127.5,
            pixels: PIXELS,
            channels: [1, 1],
            timesteps: &[],
        };
        let clean = 0.25;
        for steps in [1, 2, 4, 7] {
            let config = Config { steps, ..Config::with_spacing(9, Consistency::default(), FewStep::ECT) };
            let mut walk = Walk::new(&info, config).unwrap();
            let (mut sample, mut output) = (std::vec![0.0; PIXELS], std::vec![0.0; PIXELS]);
            walk.restart(9, &mut sample);
            let mut previous = sample.clone();
            while !walk.is_finished() {
                // The perfect network of a data set of one image.
                let (alpha, sigma) = (walk.level().alpha(), walk.level().sigma());
                for (out, &x) in output.iter_mut().zip(&sample) {
                    let noise = (x - alpha * clean) / sigma;
                    *out = info.prediction_type.output_of(alpha, sigma, clean, noise);
                }
                walk.answer(&mut sample, &mut output, &mut []);
                if walk.is_finished() {
                    break;
                }
                // x' − α'·x0 is fresh noise of deviation σ': five standard errors of variance and of correlation.
                let (alpha, sigma) = (walk.level().alpha(), walk.level().sigma());
                let noise = |x: &f32| f64::from((x - alpha * clean) / sigma);
                let n = PIXELS as f64;
                let variance = sample.iter().map(|x| noise(x).powi(2)).sum::<f64>() / n;
                assert!((variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{steps} steps: {variance}");
                let with_before = sample.iter().zip(&previous).map(|(x, p)| noise(x) * f64::from(*p)).sum::<f64>() / n;
                assert!(with_before.abs() < 5.0 * 2.0 / n.sqrt(), "{steps} steps: {with_before}");
                previous.copy_from_slice(&sample);
            }
            assert!(sample.iter().all(|x| (x - clean).abs() < 1e-3), "{steps} steps");
        }
    }
}
