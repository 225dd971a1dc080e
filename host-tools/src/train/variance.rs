//! What teaches a network its variances (arXiv:2102.09672, eq. 15 and 16): its share of the variational bound, whose mean gets no
//! gradient.
//!
//! A step from t to t − 1 has the posterior N(μ̃, β̃) and the model N(μ, β^p·β̃^(1−p)), p = (v + 1)/2 of the output v. Both means
//! are linear in x0, so in nats KL = ½·(p·d − 1 + e^(−p·d)·(1 + w·e)) with d = ln(β/β̃), e the squared error of the
//! prediction and w·e = (μ̃ − μ)²/β̃. The loss is T/1000 times its mean in bits.

use std::f64::consts::LN_2;

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::batch::NoiseLevels;
use super::estimate::Level;
use crate::config::PredictionType;

/// What the bound of one image's step depends on besides the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// d = ln(β/β̃).
    pub span: f32,
    /// w: (μ̃ − μ)²/β̃ of a prediction that is 1 off.
    pub weight: f32,
}

impl Bound {
    /// The step that `level` begins. Below t = 1 it is the last, which adds no noise, so there is nothing to learn.
    #[must_use]
    pub fn new(levels: &NoiseLevels, prediction: PredictionType, level: Level) -> Self {
        let t = f64::from(level.t);
        if t < 1.0 {
            return Self { span: 0.0, weight: 0.0 };
        }
        let (bar, next) = (levels.alphas_cumprod_at(t), levels.alphas_cumprod_at(t - 1.0));
        let x0_of_output = f64::from(level.estimate(prediction).1);
        let posterior = next * (1.0 - bar / next) / ((1.0 - bar) * (1.0 - next));
        let span = ((1.0 - bar) / (1.0 - next)).ln();
        Self { span: span as f32, weight: (posterior * x0_of_output * x0_of_output) as f32 }
    }
}

/// T/1000 times the mean bound in bits: `values` \[B, H, W, C\] are the network's v, `squares` the squared errors of its
/// prediction, which get no gradient.
pub fn loss(values: &Tensor, squares: &Tensor, bounds: &[Bound], num_train_timesteps: usize) -> Result<Tensor> {
    let column = |of: fn(&Bound) -> f32| {
        Tensor::from_vec(bounds.iter().map(of).collect::<Vec<_>>(), (bounds.len(), 1, 1, 1), &Device::Cpu)
    };
    // p·d, the logarithm of the variance over β̃.
    let log = (values.affine(0.5, 0.5)?).broadcast_mul(&column(|bound| bound.span)?)?;
    let spread = squares.detach().broadcast_mul(&column(|bound| bound.weight)?)?.affine(1.0, 1.0)?;
    let twice_kl = ((&log + (log.neg()?.exp()? * spread)?)? - 1.0)?;
    Ok((twice_kl.mean_all()? * (0.5 / LN_2 * num_train_timesteps as f64 / 1000.0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::tiny;
    use candle_core::Var;
    use picodream::rng::NoiseStream;

    /// ∫ q·ln(q/p) by the trapezoidal rule over ten deviations.
    fn divergence((mean_q, variance_q): (f64, f64), (mean_p, variance_p): (f64, f64)) -> f64 {
        let log = |x: f64, mean: f64, variance: f64| {
            -0.5 * ((x - mean).powi(2) / variance + (2.0 * std::f64::consts::PI * variance).ln())
        };
        let deviation = variance_q.sqrt();
        let step = deviation / 100.0;
        let term = |i: i32| {
            let x = mean_q + f64::from(i) * step;
            let (q, p) = (log(x, mean_q, variance_q), log(x, mean_p, variance_p));
            q.exp() * (q - p) * step
        };
        (-1000..=1000).map(term).sum()
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, 1, values.len(), 1), &Device::Cpu).unwrap()
    }

    /// Against the posterior and the model's step as arXiv:2006.11239 writes them (eq. 6, 7 and 11), integrated.
    #[test]
    fn the_bound_is_the_divergence_of_two_gaussians() {
        let config = tiny();
        let levels = NoiseLevels::new(&config);
        let bars = config.schedule.alphas_cumprod();
        for prediction in [PredictionType::Epsilon, PredictionType::Sample, PredictionType::VPrediction] {
            for t in [1, 40, 98] {
                let (bar, next) = (bars[t], bars[t - 1]);
                let (signal, noise) = (bar.sqrt(), (1.0 - bar).sqrt());
                let beta = 1.0 - bar / next;
                let small = (1.0 - next) / (1.0 - bar) * beta;
                let (x0, eps) = (0.7, -0.4);
                let mean = |x0: f64| {
                    let x = signal * 0.7 + noise * eps;
                    next.sqrt() * beta / (1.0 - bar) * x0 + (1.0 - beta).sqrt() * (1.0 - next) / (1.0 - bar) * x
                };
                // A prediction that is off, and the x0 that it means for this x_t.
                let off = 0.3;
                let wrong = match prediction {
                    PredictionType::Epsilon => x0 - noise * off / signal,
                    PredictionType::Sample => x0 + off,
                    PredictionType::VPrediction => x0 - noise * off,
                };
                let level = Level { t: t as f32, signal: signal as f32, noise: noise as f32 };
                let bound = Bound::new(&levels, prediction, level);
                for v in [-1.0, 0.3, 1.0] {
                    let p = 0.5 * (v + 1.0);
                    let variance = (p * beta.ln() + (1.0 - p) * small.ln()).exp();
                    let want = divergence((mean(x0), small), (mean(wrong), variance)) / LN_2 * 0.1;
                    let got = loss(&tensor(&[v as f32]), &tensor(&[(off * off) as f32]), &[bound], 100).unwrap();
                    let got = f64::from(got.to_scalar::<f32>().unwrap());
                    // Terms of about 1 in f32 cancel.
                    assert!((got - want).abs() < 1e-6 + 1e-4 * want, "{prediction:?} t {t} v {v}: {got} for {want}");
                }
            }
        }
    }

    #[test]
    fn its_gradient_is_that_of_finite_differences_and_the_prediction_gets_none() {
        let mut noise = NoiseStream::new(3, 0);
        let mut draw = || (0..6).map(|_| noise.next_gaussian()).collect::<Vec<f32>>();
        let (values, errors) = (draw(), draw());
        let bound = [Bound { span: 1.1, weight: 2.5 }];
        let of = |values: &Tensor, errors: &Tensor| loss(values, &errors.sqr().unwrap(), &bound, 1000).unwrap();
        let (v, e) = (Var::from_tensor(&tensor(&values)).unwrap(), Var::from_tensor(&tensor(&errors)).unwrap());
        let gradients = of(&v, &e).backward().unwrap();
        assert!(gradients.get(&e).is_none());
        let gradient: Vec<f32> = gradients.get(&v).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (i, got) in gradient.into_iter().enumerate() {
            let moved = |delta: f32| {
                let mut values = values.clone();
                values[i] += delta;
                f64::from(of(&tensor(&values), &tensor(&errors)).to_scalar::<f32>().unwrap())
            };
            let want = (moved(0.02) - moved(-0.02)) / 0.04;
            // The loss is about 1 in f32, the step 0.02: 1e-5, and the curvature.
            assert!((f64::from(got) - want).abs() < 1e-4 + 1e-3 * want.abs(), "{i}: {got} for {want}");
        }
    }

    /// Between the two ends the best variance is β̃ + (μ̃ − μ)²: there the gradient is 0.
    #[test]
    fn the_best_variance_holds_the_error_of_the_mean() {
        let bound = [Bound { span: 1.1, weight: 2.5 }];
        let square = 0.3f32;
        let best = 2.0 * (1.0 + 2.5 * square).ln() / 1.1 - 1.0;
        assert!((-1.0..1.0).contains(&best));
        let v = Var::from_tensor(&tensor(&[best])).unwrap();
        let gradients = loss(&v, &tensor(&[square]), &bound, 1000).unwrap().backward().unwrap();
        let gradient = gradients.get(&v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient[0].abs() < 1e-6, "{gradient:?}");
    }

    #[test]
    fn the_last_step_teaches_nothing_and_fractions_lie_between() {
        let levels = NoiseLevels::new(&tiny());
        let of = |t: f32| Bound::new(&levels, PredictionType::Sample, Level { t, signal: 0.0, noise: 0.0 });
        assert_eq!([of(0.0), of(0.9)], [Bound { span: 0.0, weight: 0.0 }; 2]);
        let (low, middle, high) = (of(40.0), of(40.5), of(41.0));
        assert!(low.span > middle.span && middle.span > high.span && high.span > 0.0);
        assert!(low.weight > middle.weight && middle.weight > high.weight && high.weight > 0.0);
    }
}
