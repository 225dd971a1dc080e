//! Trajectories of this crate's samplers against those of diffusers, and the sums that diffusers' own tests publish.
//!
//! `tests/golden/diffusers.json` is made by `scripts/samplers/reference.py`, which says how (diffusers 0.42.1, torch 2.15.0).
//! Both sides compute in f32; after every network call every recorded value agrees within 1e-4 of the largest one.

use std::path::Path;

use picodream::sampler::{
    Boundary, Consistency, Ddim, Ddpm, DpmSolverPp, Euler, EulerAncestral, Heun, Plms, Pndm, RectifiedFlow, UniPc,
    Variance,
};
use picodream::schedule::{Level, Schedule};
use picodream::spacing::{Diffusers, DiffusersRule, Exponential, Karras, Linspace, Sigmas, Timesteps};
use picodream::walk::{ModelInfo, Walk};
use picodream::{Config, PredictionType, Sampler, Spacing};
use picodream_tools::schedule::ScheduleConfig;
use serde::Deserialize;

const COUNT: usize = 768;
const TOLERANCE: f64 = 1e-4;

#[derive(Debug, Deserialize)]
struct Reference {
    diffusers: String,
    elements: Vec<usize>,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Case {
    name: String,
    calls: Vec<Vec<f64>>,
    sum: f64,
    mean: f64,
    /// x_T, where it is not 0, 1/768, 2/768, …
    start: Option<Vec<f64>>,
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
}

fn reference() -> Reference {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/diffusers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The model and the quirks of one comparison.
struct Setup {
    schedule: ScheduleConfig,
    prediction_type: PredictionType,
    clip: bool,
    /// The timestep that the model is told for a level.
    told: fn(&Level) -> f32,
    /// The output says variances too.
    learned: bool,
    /// As diffusers' own Euler tests go on: with the sample that was divided for the network.
    divided: bool,
    /// The data's deviation: x is in units of it here. Other than 1 also means OpenAI's output, −v.
    deviation: f32,
}

fn linear(num_train_timesteps: usize) -> Setup {
    Setup {
        schedule: ScheduleConfig::Linear { num_train_timesteps, beta_start: 1e-4, beta_end: 0.02 },
        prediction_type: PredictionType::Epsilon,
        clip: false,
        told: |level| level.timestep,
        learned: false,
        divided: false,
        deviation: 1.0,
    }
}

fn clipped() -> Setup {
    Setup { clip: true, ..linear(1000) }
}

fn v(setup: Setup) -> Setup {
    Setup { prediction_type: PredictionType::VPrediction, ..setup }
}

/// Walks the sampler with diffusers' test model and holds every call to the reference.
fn compare<S: Sampler, P: Spacing>(name: &str, setup: &Setup, steps: u16, sampler: S, spacing: P) {
    let reference = reference();
    assert_eq!(reference.diffusers, "0.42.1");
    let case = reference.cases.iter().find(|case| case.name == name).unwrap();
    let table: Vec<u8> = setup.schedule.alphas_cumprod().iter().flat_map(|&bar| (bar as f32).to_le_bytes()).collect();
    let info = ModelInfo {
        schedule: Schedule::new(&table),
        prediction_type: setup.prediction_type,
        num_classes: 0,
        pixel_scale: 127.5 * setup.deviation,
        pixel_offset: 127.5,
        pixels: COUNT,
        channels: [1, if setup.learned { 2 } else { 1 }],
        timesteps: &[],
    };
    let config = Config { steps, clip_sample: setup.clip, ..Config::with_spacing(0, sampler, spacing) };
    let mut walk = Walk::new(&info, config).unwrap();
    let mut sample = vec![0.0; COUNT];
    walk.restart(0, &mut sample);
    // x_T: what the scheduler shows the network first.
    let last = case.start.as_ref().map_or((COUNT - 1) as f64 / COUNT as f64, |start| start[start.len() - 1]);
    for (i, x) in sample.iter_mut().enumerate() {
        *x = (last * i as f64 / (COUNT - 1) as f64) as f32;
    }
    let mut history = vec![0.0; S::HISTORY * COUNT];
    let mut calls = 0;
    while !walk.is_finished() {
        let level = walk.level();
        let t = (setup.told)(&level);
        let mut output: Vec<f32> = sample.iter().map(|x| x * t / (t + 1.0)).collect();
        if setup.deviation != 1.0 {
            output.iter_mut().for_each(|out| *out = -*out);
        }
        if setup.learned {
            let variance = |i: usize| 2.0 * i as f32 / COUNT as f32 - 1.0;
            output = output.iter().enumerate().flat_map(|(i, &out)| [out, variance(i)]).collect();
        }
        if setup.divided {
            sample.iter_mut().for_each(|x| *x *= level.alpha());
        }
        walk.answer(&mut sample, &mut output, &mut history);
        let want = &case.calls[calls];
        let size = want.iter().fold(1e-3f64, |max, x| max.max(x.abs()));
        for (&element, want) in reference.elements.iter().zip(want) {
            let got = f64::from(sample[element]);
            assert!(
                (got - want).abs() <= TOLERANCE * size,
                "{name}, call {calls}, element {element}: {got} for {want}"
            );
        }
        calls += 1;
    }
    assert_eq!(calls, case.calls.len(), "{name}");
    let sum: f64 = sample.iter().map(|x| f64::from(setup.deviation * x.abs())).sum();
    assert!((sum / case.sum - 1.0).abs() < TOLERANCE, "{name}: {sum} for {}", case.sum);
    assert!((sum / COUNT as f64 / case.mean - 1.0).abs() < TOLERANCE, "{name}");
}

const LEADING: Diffusers =
    Diffusers { rule: DiffusersRule::Leading, steps_offset: 0, fixed_stride: false, end_at_first: false };
const OPEN: Diffusers = Diffusers { rule: DiffusersRule::LinspaceOpen, ..LEADING };

#[test]
fn published_sums_are_in_the_reference() {
    // diffusers' tests/schedulers; the tolerance is theirs.
    let published = [
        ("ddim", 172.0067),
        ("ddim_v", 52.5302),
        ("ddim_to_one", 149.8295),
        ("ddim_to_first", 149.0784),
        ("consistency_1", 192.7614),
        ("euler_as_tested", 10.0807),
        ("euler_karras_as_tested", 124.5226),
        ("pndm", 198.1318),
        ("lcm_1", 18.7097),
    ];
    let reference = reference();
    let case = |name: &str| reference.cases.iter().find(|case| case.name == name).unwrap();
    for (name, sum) in published {
        assert!((case(name).sum - sum).abs() < 1e-2, "{name}: {}", case(name).sum);
    }
    for (name, mean) in [("dpmpp_2m_as_tested", 0.3301), ("unipc_as_tested", 0.2464)] {
        assert!((case(name).mean - mean).abs() < 1e-3, "{name}: {}", case(name).mean);
    }
}

#[test]
fn ddpm() {
    let of = |variance| Ddpm { variance };
    compare("ddpm", &clipped(), 10, of(Variance::FixedSmall), LEADING);
    compare("ddpm_100", &clipped(), 100, of(Variance::FixedSmall), LEADING);
    compare("ddpm_large", &clipped(), 10, of(Variance::FixedLarge), LEADING);
    compare("ddpm_learned", &Setup { learned: true, ..clipped() }, 10, of(Variance::LearnedRange), LEADING);
}

#[test]
fn ddim() {
    let plain = Ddim::default();
    compare("ddim", &clipped(), 10, plain, LEADING);
    compare("ddim_v", &v(clipped()), 10, plain, LEADING);
    compare("ddim_eta", &clipped(), 10, Ddim { eta: 0.5 }, LEADING);
    let schedule = ScheduleConfig::Linear { num_train_timesteps: 1000, beta_start: 0.01, beta_end: 0.02 };
    let hot = Setup { schedule, ..clipped() };
    compare("ddim_to_one", &hot, 10, plain, LEADING);
    compare("ddim_to_first", &hot, 10, plain, Diffusers { end_at_first: true, ..LEADING });
    let linspace = Diffusers { rule: DiffusersRule::Linspace, fixed_stride: true, ..LEADING };
    compare("ddim_linspace", &clipped(), 7, plain, linspace);
    let zero_snr =
        Setup { schedule: ScheduleConfig::ZeroTerminalSnr { of: Box::new(clipped().schedule) }, ..v(clipped()) };
    compare("ddim_zero_snr", &zero_snr, 10, plain, Diffusers { rule: DiffusersRule::Trailing, ..LEADING });
}

#[test]
fn euler() {
    compare("euler", &linear(1100), 10, Euler, Linspace);
    compare("euler_v", &v(linear(1100)), 10, Euler, Linspace);
    compare("euler_karras", &linear(1100), 10, Euler, Karras::default());
    compare("euler_exponential", &linear(1100), 10, Euler, Exponential::default());
    compare("euler_ancestral", &linear(1100), 10, EulerAncestral::default(), Linspace);
    let divided = || Setup { divided: true, ..linear(1100) };
    compare("euler_as_tested", &divided(), 10, Euler, Linspace);
    compare("euler_karras_as_tested", &divided(), 10, Euler, Karras::default());
}

#[test]
fn heun() {
    compare("heun", &linear(1100), 10, Heun, Linspace);
    compare("heun_karras", &linear(1100), 10, Heun, Karras::default());
}

#[test]
fn dpm_solver() {
    compare("dpmpp_2m", &linear(1000), 10, DpmSolverPp::default(), OPEN);
    compare("dpmpp_2m_as_tested", &linear(1000), 10, DpmSolverPp::default(), Diffusers { end_at_first: true, ..OPEN });
    compare("dpmpp_2m_v", &v(linear(1000)), 10, DpmSolverPp::default(), OPEN);
    compare("dpmpp_2m_sde", &linear(1000), 10, DpmSolverPp::SDE, OPEN);
}

#[test]
fn unipc() {
    compare("unipc", &linear(1000), 10, UniPc, OPEN);
    compare("unipc_as_tested", &linear(1000), 10, UniPc, Diffusers { end_at_first: true, ..OPEN });
}

#[test]
fn pndm() {
    let spacing = Diffusers { end_at_first: true, ..LEADING };
    compare("pndm", &linear(1000), 10, Pndm, spacing);
    compare("plms", &linear(1000), 10, Plms, spacing);
}

#[test]
fn consistency() {
    let schedule = ScheduleConfig::ScaledLinear { num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.012 };
    let latent = Setup { schedule, ..linear(1000) };
    let lcm = Consistency { boundary: Boundary::Lcm { timestep_scaling: 10.0 } };
    for name in ["lcm_1", "lcm_4"] {
        let timesteps = reference().cases.into_iter().find(|case| case.name == name).unwrap().timesteps;
        compare(name, &latent, timesteps.len() as u16, lcm, Timesteps(&timesteps));
    }
    // OpenAI's models know data of deviation ½ and are told 250·ln σ.
    let setup = Setup {
        schedule: ScheduleConfig::Karras { num_train_timesteps: 201, sigma_min: 0.004, sigma_max: 160.0, rho: 7.0 },
        told: |level| 250.0 * (0.5 * level.sigma_ve()).ln(),
        clip: true,
        deviation: 0.5,
        ..v(linear(1000))
    };
    let openai = Consistency { boundary: Boundary::OpenAi { sigma_min: 0.004 } };
    for name in ["consistency_1", "consistency_3"] {
        let case = reference().cases.into_iter().find(|case| case.name == name).unwrap();
        let sigmas: Vec<f32> = case.sigmas[..case.calls.len()].iter().map(|sigma| 2.0 * sigma).collect();
        compare(name, &setup, sigmas.len() as u16, openai, Sigmas(&sigmas));
    }
}

#[test]
fn flow() {
    let flow = Setup {
        schedule: ScheduleConfig::Flow { num_train_timesteps: 1000 },
        prediction_type: PredictionType::FlowVelocity,
        told: |level| level.timestep + 1.0,
        ..linear(1000)
    };
    // np.linspace(1000, 1, 10), of timesteps that count from 1.
    let timesteps: Vec<f32> = (0..10u16).map(|i| f32::from(999 - 111 * i)).collect();
    compare("flow", &flow, 10, RectifiedFlow, Timesteps(&timesteps));
}
