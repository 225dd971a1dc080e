//! Samplers on targets whose score is known in closed form: moments of a mixture of Gaussians, orders of convergence.

use picodream::sampler::{
    Adaptive, Consistency, Ddim, Ddpm, DpmSolverPp, Euler, EulerAncestral, EulerMaruyama, FlowMidpoint, Heun, Langevin,
    Method, Plms, Pndm, PredictorCorrector, ProbabilityFlow, RectifiedFlow, UniPc, Variance,
};
use picodream::schedule::{Level, Schedule};
use picodream::spacing::{Ends, Exponential, FewStep, Karras, Linspace, Trailing, TrigFlow};
use picodream::walk::{ModelInfo, Walk};
use picodream::{Config, PredictionType, Sampler, Spacing};
use picodream_tools::schedule::ScheduleConfig;

/// Points in the plane, drawn together as one image of 2·N values.
const N: usize = 20_000;

/// A mixture of round Gaussians: (weight, mean, deviation) each.
struct Mixture(&'static [(f64, [f64; 2], f64)]);

/// Two lobes of unequal weight and width, variance near 1.
const LOBES: Mixture = Mixture(&[(0.4, [-1.2, 0.6], 0.3), (0.6, [0.8, -0.4], 0.5)]);
const ROUND: Mixture = Mixture(&[(1.0, [0.4, -0.3], 0.5)]);

impl Mixture {
    fn mean(&self) -> [f64; 2] {
        let of = |axis: usize| self.0.iter().map(|(weight, mean, _)| weight * mean[axis]).sum();
        [of(0), of(1)]
    }

    /// Entry (i, j) of the covariance.
    fn covariance(&self, i: usize, j: usize) -> f64 {
        let mean = self.mean();
        let own = |deviation: f64| if i == j { deviation * deviation } else { 0.0 };
        let spread = |m: &[f64; 2]| (m[i] - mean[i]) * (m[j] - mean[j]);
        self.0.iter().map(|(weight, m, deviation)| weight * (spread(m) + own(*deviation))).sum()
    }

    /// E[x0 | x_t = x] at one level, as a function of x.
    fn denoiser(&self, alpha: f64, sigma: f64) -> impl Fn([f64; 2]) -> [f64; 2] {
        // Of each lobe: logarithm of its height, its mean there, −½/variance, what it makes of x − mean, its mean.
        let lobes = self.0.iter().map(|&(weight, mean, deviation)| {
            let variance = alpha * alpha * deviation * deviation + sigma * sigma;
            let gain = alpha * deviation * deviation / variance;
            ((weight / variance).ln(), mean.map(|m| alpha * m), -0.5 / variance, gain, mean)
        });
        let lobes: Vec<_> = lobes.collect();
        move |x| {
            let square = |mean: &[f64; 2]| (x[0] - mean[0]).powi(2) + (x[1] - mean[1]).powi(2);
            let exponent = |i: usize| lobes[i].0 + lobes[i].2 * square(&lobes[i].1);
            let largest = (0..lobes.len()).map(exponent).fold(f64::NEG_INFINITY, f64::max);
            let (mut total, mut sum) = (0.0, [0.0; 2]);
            for (i, (_, at, _, gain, mean)) in lobes.iter().enumerate() {
                let weight = (exponent(i) - largest).exp();
                total += weight;
                for axis in 0..2 {
                    sum[axis] += weight * (mean[axis] + gain * (x[axis] - at[axis]));
                }
            }
            sum.map(|s| s / total)
        }
    }
}

/// Where the probability-flow ODE of a single Gaussian takes x.
fn flowed(target: &Mixture, from: (f64, f64), to: (f64, f64), x: f64, axis: usize) -> f64 {
    let (_, mean, deviation) = target.0[0];
    let width = |(alpha, sigma): (f64, f64)| (alpha * alpha * deviation * deviation + sigma * sigma).sqrt();
    to.0 * mean[axis] + width(to) / width(from) * (x - from.0 * mean[axis])
}

fn pair(level: &Level) -> (f64, f64) {
    (f64::from(level.alpha()), f64::from(level.sigma()))
}

/// The table of a schedule.
fn table(schedule: &ScheduleConfig) -> Vec<u8> {
    schedule.alphas_cumprod().iter().flat_map(|&bar| (bar as f32).to_le_bytes()).collect()
}

/// So noisy at first that nothing of the target is left, so clean at last that nothing of the noise is.
fn wide() -> Vec<u8> {
    table(&ScheduleConfig::Exponential { num_train_timesteps: 1000, sigma_min: 0.005, sigma_max: 500.0 })
}

fn info(table: &[u8], prediction_type: PredictionType) -> ModelInfo<'_> {
    let schedule = Schedule::new(table);
    ModelInfo {
        schedule,
        prediction_type,
        num_classes: 0,
        pixel_scale: 127.5,
        pixel_offset: 127.5,
        pixels: 0,
        channels: [1, 1],
        timesteps: &[],
    }
}

/// The model with an output of two channels, where the sampler wants variances.
fn giving_variances<'t>(info: &ModelInfo<'t>, sampler: &impl Sampler) -> ModelInfo<'t> {
    ModelInfo { channels: [1, if sampler.reads_variances() { 2 } else { 1 }], ..*info }
}

/// Walks to the end, or to where the step `until` begins; `network(alpha, sigma)` tells x0 of x.
fn run<S: Sampler, P: Spacing, F: Fn([f64; 2]) -> [f64; 2]>(
    info: &ModelInfo<'_>,
    config: Config<S, P>,
    sample: &mut [f32],
    until: u16,
    network: impl Fn(f64, f64) -> F,
) -> usize {
    let info = &giving_variances(info, &config.sampler);
    let mut walk = Walk::new(info, Config { clip_sample: false, ..config }).unwrap();
    walk.seek(0);
    let mut calls = 0;
    // A variance of 0 is half of the way from β̃ to β.
    let stride = usize::from(info.channels[1]);
    let mut output = vec![0.0; stride * sample.len()];
    let mut history = vec![0.0; S::HISTORY * sample.len()];
    while !walk.is_finished() && walk.context().step < until {
        let level = walk.level();
        let (alpha, sigma) = pair(&level);
        let scale = f64::from(info.prediction_type.view_scale(&level));
        let x0_of = network(alpha, sigma);
        for (x, out) in sample.chunks_exact(2).zip(output.chunks_exact_mut(2 * stride)) {
            let x = [f64::from(x[0]) / scale, f64::from(x[1]) / scale];
            let x0 = x0_of(x);
            for axis in 0..2 {
                let noise = (x[axis] - alpha * x0[axis]) / sigma;
                let (alpha, sigma) = (level.alpha(), level.sigma());
                out[axis * stride] = info.prediction_type.output_of(alpha, sigma, x0[axis] as f32, noise as f32);
            }
        }
        walk.answer(sample, &mut output, &mut history);
        calls += 1;
    }
    calls
}

/// Mean and covariance of N drawn points are the target's, within five standard errors.
fn assert_moments<S: Sampler, P: Spacing, F: Fn([f64; 2]) -> [f64; 2]>(
    prediction_type: PredictionType,
    config: Config<S, P>,
    target: &Mixture,
    network: impl Fn(f64, f64) -> F,
) {
    let table = wide();
    let info = info(&table, prediction_type);
    let mut sample = vec![0.0; 2 * N];
    Walk::new(&giving_variances(&info, &config.sampler), config).unwrap().restart(config.seed, &mut sample);
    run(&info, config, &mut sample, u16::MAX, network);
    let n = N as f64;
    let mean = target.mean();
    let centred: Vec<[f64; 2]> =
        sample.chunks_exact(2).map(|x| [f64::from(x[0]) - mean[0], f64::from(x[1]) - mean[1]]).collect();
    let check = |what: &str, want: f64, value: &dyn Fn(&[f64; 2]) -> f64| {
        let got = centred.iter().map(value).sum::<f64>() / n;
        let variance = centred.iter().map(|x| (value(x) - got).powi(2)).sum::<f64>() / n;
        let error = (variance / n).sqrt();
        assert!(
            (got - want).abs() < 5.0 * error,
            "{:?}: {what} {got} for {want}, standard error {error}",
            config.steps
        );
    };
    check("mean x", 0.0, &|x| x[0]);
    check("mean y", 0.0, &|x| x[1]);
    check("variance x", target.covariance(0, 0), &|x| x[0] * x[0]);
    check("variance y", target.covariance(1, 1), &|x| x[1] * x[1]);
    check("covariance", target.covariance(0, 1), &|x| x[0] * x[1]);
}

/// On the two lobes, over the whole schedule.
fn reaches<S: Sampler, P: Spacing>(sampler: S, spacing: P, steps: u16) {
    let config = Config { steps, ..Config::with_spacing(11, sampler, spacing) };
    assert_moments(PredictionType::VPrediction, config, &LOBES, |alpha, sigma| LOBES.denoiser(alpha, sigma));
}

#[test]
fn ancestral_samplers_reach_the_moments() {
    reaches(Ddpm::default(), Trailing, 300);
    reaches(Ddpm { variance: Variance::FixedLarge }, Trailing, 400);
    reaches(Ddpm { variance: Variance::LearnedRange }, Trailing, 400);
    reaches(Ddim { eta: 1.0 }, Trailing, 300);
    reaches(EulerAncestral::default(), Exponential::default(), 300);
}

#[test]
fn first_order_solvers_reach_the_moments() {
    reaches(Ddim::default(), Trailing, 200);
    reaches(Euler, Karras::default(), 200);
    reaches(ProbabilityFlow { method: Method::Euler }, Trailing, 500);
    reaches(RectifiedFlow, TrigFlow, 500);
}

#[test]
fn second_order_solvers_reach_the_moments() {
    reaches(Heun, Karras::default(), 50);
    reaches(ProbabilityFlow { method: Method::Heun }, Trailing, 100);
    reaches(FlowMidpoint, TrigFlow, 100);
    reaches(DpmSolverPp::default(), Trailing, 60);
    reaches(UniPc, Trailing, 40);
    reaches(Plms, Trailing, 60);
    reaches(Pndm, Trailing, 60);
    reaches(Adaptive { tolerance: 1e-3 }, Trailing, 1000);
}

#[test]
fn stochastic_solvers_reach_the_moments() {
    reaches(DpmSolverPp::SDE, Trailing, 200);
    reaches(EulerMaruyama, Trailing, 500);
    reaches(PredictorCorrector::default(), Trailing, 250);
    // Where the noise is small beside a lobe, moves in proportion to it forget slowly: it takes many.
    let ends = Ends { sigma_min: Some(0.03), sigma_max: Some(8.0) };
    reaches(Langevin { moves: 120, step_size: 0.4 }, Exponential { ends }, 16);
}

#[test]
fn every_prediction_type_reaches_the_moments() {
    for prediction_type in [
        PredictionType::Epsilon,
        PredictionType::Sample,
        PredictionType::VPrediction,
        PredictionType::Score,
        PredictionType::FlowVelocity,
    ] {
        let config = Config { steps: 60, ..Config::with_sampler(12, DpmSolverPp::default()) };
        assert_moments(prediction_type, config, &LOBES, |alpha, sigma| LOBES.denoiser(alpha, sigma));
    }
}

#[test]
fn consistency_reaches_the_moments_in_few_steps() {
    // A perfect consistency function: the end of the ODE's path through x_t.
    let network = |alpha: f64, sigma: f64| {
        move |x: [f64; 2]| [0, 1].map(|axis| flowed(&ROUND, (alpha, sigma), (1.0, 0.0), x[axis], axis))
    };
    for steps in [1, 2, 4] {
        let config = Config { steps, ..Config::with_spacing(13, Consistency::default(), FewStep::ECT) };
        assert_moments(PredictionType::VPrediction, config, &ROUND, network);
    }
}

/// Largest error at the level where the last step begins, against the closed form.
fn error_of<S: Sampler, P: Spacing>(sampler: S, spacing: P, steps: u16) -> f64 {
    let table = table(&ScheduleConfig::Exponential { num_train_timesteps: 1000, sigma_min: 0.1, sigma_max: 10.0 });
    let info = info(&table, PredictionType::VPrediction);
    let start: Vec<f32> = vec![1.3, -0.4, 0.2, 0.9, -1.1, 0.5];
    let mut sample = start.clone();
    let config = Config { steps: steps + 1, ..Config::with_spacing(0, sampler, spacing) };
    run(&info, config, &mut sample, steps, |alpha, sigma| ROUND.denoiser(alpha, sigma));
    let level = |step| pair(&spacing.level(&info.schedule, steps + 1, step));
    let errors = sample.iter().zip(&start).enumerate().map(|(i, (&x, &x_start))| {
        (f64::from(x) - flowed(&ROUND, level(0), level(steps), f64::from(x_start), i % 2)).abs()
    });
    errors.fold(0.0, f64::max)
}

/// The order measured where the number of steps doubles.
fn order<S: Sampler, P: Spacing>(sampler: S, spacing: P, steps: u16) -> f64 {
    (error_of(sampler, spacing, steps) / error_of(sampler, spacing, 2 * steps)).log2()
}

#[test]
fn orders_of_convergence_are_the_papers() {
    let ends = Ends { sigma_min: Some(0.1), sigma_max: Some(10.0) };
    let (karras, even) = (Karras { rho: 7.0, ends }, Exponential { ends });
    for (what, order, want) in [
        ("DDIM", order(Ddim::default(), even, 40), 1.0),
        ("Euler", order(Euler, karras, 40), 1.0),
        ("Euler in B", order(ProbabilityFlow { method: Method::Euler }, even, 40), 1.0),
        ("rectified flow", order(RectifiedFlow, TrigFlow, 40), 1.0),
        ("Heun", order(Heun, karras, 20), 2.0),
        ("Heun in B", order(ProbabilityFlow { method: Method::Heun }, even, 40), 2.0),
        ("DPM-Solver++ 2M", order(DpmSolverPp::default(), even, 40), 2.0),
    ] {
        // The next term of the error is a part of some steps⁻¹ of the leading one.
        assert!((order - want).abs() < 0.2, "{what}: order {order:.3}, not {want}");
    }
    // Of second order or better: a corrector, a multistep rule, and errors of both signs that nearly cancel.
    for (what, order) in [
        ("UniPC", order(UniPc, even, 20)),
        ("PLMS", order(Plms, Linspace, 20)),
        ("flow midpoint", order(FlowMidpoint, even, 20)),
    ] {
        assert!(order > 1.8, "{what}: order {order:.3}");
    }
}

#[test]
fn adaptive_steps_keep_the_tolerance_and_the_cap() {
    let table = wide();
    let info = info(&table, PredictionType::VPrediction);
    let network = |alpha, sigma| ROUND.denoiser(alpha, sigma);
    let start: Vec<f32> = vec![1.3, -0.4, 0.2, 0.9, -1.1, 0.5];
    let from = pair(&info.schedule.noisiest());
    let mut before = f64::INFINITY;
    let mut calls_before = 0;
    for tolerance in [1e-2, 1e-3, 1e-4] {
        let mut sample = start.clone();
        let config = Config { steps: 1000, ..Config::with_sampler(0, Adaptive { tolerance }) };
        let calls = run(&info, config, &mut sample, u16::MAX, network);
        let ends = sample.iter().zip(&start).enumerate();
        let error = ends.map(|(i, (&x, &s))| (f64::from(x) - flowed(&ROUND, from, (1.0, 0.0), s.into(), i % 2)).abs());
        let error = error.fold(0.0, f64::max);
        // Local errors of at most `tolerance` add up over the steps; they were measured on the rule that is not used.
        assert!(error < 3.0 * f64::from(tolerance) && error < before, "tolerance {tolerance}: {error}");
        assert!(calls > calls_before && calls < 1000, "tolerance {tolerance}: {calls} calls");
        (before, calls_before) = (error, calls);
    }
    for cap in [1, 2, 3, 7, 20] {
        let mut sample = start.clone();
        let config = Config { steps: cap, ..Config::with_sampler(0, Adaptive { tolerance: 1e-4 }) };
        assert!(run(&info, config, &mut sample, u16::MAX, network) <= usize::from(cap));
        assert!(sample.iter().all(|x| x.is_finite()));
    }
}
