//! What a network's output means: exact conversions between its prediction and the pair (x0, ε), both ways.
//!
//! x_t = α·x0 + σ·ε with α² + σ² = 1. An output converts at every level but where its definition divides by nothing: ε and
//! score say nothing about x0 at α = 0, and x0 says nothing about ε at σ = 0 (ε is then given as 0).

use crate::blob::PredictionType;
use crate::schedule::Level;

impl PredictionType {
    /// (x0, ε) from an element of x_t and of the network's output for it.
    #[must_use]
    pub fn x0_and_noise(self, alpha: f32, sigma: f32, sample: f32, output: f32) -> (f32, f32) {
        match self {
            Self::Epsilon => ((sample - sigma * output) / alpha, output),
            Self::Sample => (output, if sigma > 0.0 { (sample - alpha * output) / sigma } else { 0.0 }),
            Self::VPrediction => (alpha * sample - sigma * output, sigma * sample + alpha * output),
            Self::Score => ((sample + sigma * (sigma * output)) / alpha, -(sigma * output)),
            Self::FlowVelocity => {
                let total = alpha + sigma;
                ((sample - sigma * output) / total, (sample + alpha * output) / total)
            }
        }
    }

    /// What a perfect network outputs where the image is `x0` and the noise `noise`.
    #[must_use]
    pub fn output_of(self, alpha: f32, sigma: f32, x0: f32, noise: f32) -> f32 {
        match self {
            Self::Epsilon => noise,
            Self::Sample => x0,
            Self::VPrediction => alpha * noise - sigma * x0,
            Self::Score => -noise / sigma,
            Self::FlowVelocity => noise - x0,
        }
    }

    /// Whether the output says what x0 is at this level.
    #[must_use]
    pub fn knows_x0(self, level: &Level) -> bool {
        level.alphas_cumprod > 0.0 || !matches!(self, Self::Epsilon | Self::Score)
    }

    /// The network's own view of x_t as a multiple of the variance-preserving one: 1/(α + σ) for flow models, which are
    /// trained on (1 − s)·x0 + s·ε; 1 for all others.
    #[must_use]
    pub fn view_scale(self, level: &Level) -> f32 {
        match self {
            Self::FlowVelocity => 1.0 / (level.alpha() + level.sigma()),
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [PredictionType; 5] = [
        PredictionType::Epsilon,
        PredictionType::Sample,
        PredictionType::VPrediction,
        PredictionType::Score,
        PredictionType::FlowVelocity,
    ];

    /// Both directions at a level, against (x0, ε) in f64; `loss` is how many times a rounding error may grow.
    fn round_trip(prediction: PredictionType, alpha: f64, loss: f64) {
        let sigma = (1.0 - alpha * alpha).sqrt();
        let (a, s) = (alpha as f32, sigma as f32);
        for (x0, noise) in [(0.7, -1.3), (-1.0, 0.2), (0.0, 2.5), (0.3, 0.0)] {
            let sample = (alpha * x0 + sigma * noise) as f32;
            let output = prediction.output_of(a, s, x0 as f32, noise as f32);
            let (got_x0, got_noise) = prediction.x0_and_noise(a, s, sample, output);
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 4e-7 * loss * (1.0 + want.abs());
            let told = std::format!("{prediction:?} at α {alpha}: {got_x0} for {x0}, {got_noise} for {noise}");
            assert!(near(got_x0, x0) && near(got_noise, noise), "{told}");
            // And back: from the pair to the output.
            let again = prediction.output_of(a, s, got_x0, got_noise);
            let size = f64::from(output).abs().max(1.0);
            assert!(f64::from(again - output).abs() <= 4e-7 * loss * size, "{told}");
        }
    }

    #[test]
    fn every_prediction_converts_both_ways() {
        for prediction in ALL {
            for alpha in [0.1, 0.5, 0.9] {
                round_trip(prediction, alpha, 20.0); // x0 from ε divides by α.
            }
        }
    }

    #[test]
    fn at_the_noisy_end_what_can_be_known_is() {
        for alpha in [0.0, 1e-3, 0.0047] {
            for prediction in [PredictionType::Sample, PredictionType::VPrediction, PredictionType::FlowVelocity] {
                round_trip(prediction, alpha, 1.0);
            }
        }
        // x0 from ε or score loses a factor 1/α.
        round_trip(PredictionType::Epsilon, 0.0047, 1.0 / 0.0047);
        round_trip(PredictionType::Score, 0.0047, 1.0 / 0.0047);
        let blind = Level { timestep: 999.0, alphas_cumprod: 0.0, variance: 1.0 };
        let knows = ALL.map(|prediction| prediction.knows_x0(&blind));
        assert_eq!(knows, [false, true, true, false, true]);
        assert!(ALL.iter().all(|prediction| prediction.knows_x0(&Level::CLEAN)));
    }

    #[test]
    fn at_the_clean_end_x0_is_exact() {
        for prediction in [PredictionType::Epsilon, PredictionType::VPrediction, PredictionType::FlowVelocity] {
            round_trip(prediction, 1.0, 1.0);
        }
        assert_eq!(PredictionType::Sample.x0_and_noise(1.0, 0.0, 0.25, 0.25), (0.25, 0.0));
        // A score is infinite where there is no noise; x0 is still x.
        assert_eq!(PredictionType::Score.x0_and_noise(1.0, 0.0, 0.25, 3.0), (0.25, 0.0));
        // σ 0.01: ε from x0 loses a factor 1/σ.
        let alpha = (1.0f64 - 1e-4).sqrt();
        round_trip(PredictionType::Sample, alpha, 100.0);
        round_trip(PredictionType::Score, alpha, 4.0);
    }

    #[test]
    fn flow_models_see_the_straight_line() {
        let level = Level { timestep: 5.0, alphas_cumprod: 0.36, variance: 0.64 };
        let s = level.flow_time();
        let (x0, noise) = (0.4, -1.1);
        let sample = 0.6 * x0 + 0.8 * noise;
        let seen = sample * PredictionType::FlowVelocity.view_scale(&level);
        assert!((seen - ((1.0 - s) * x0 + s * noise)).abs() < 1e-6);
        assert_eq!(PredictionType::Epsilon.view_scale(&level), 1.0);
    }
}
