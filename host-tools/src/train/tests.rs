//! The trainer as a whole: gradients of the network, the draw of batches, the optimiser, resuming bit for bit, bad input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use picodream::rng::NoiseStream;

use super::batch::{Batch, NoiseLevels, Order};
use super::optimizer::{FlatLayout, State, learning_rate};
use super::trainer::{loss_and_gradient, loss_and_gradient_with};
use super::unet::{Convolutions, initial_weights};
use super::{TrainOptions, train};
use crate::checkpoint::{Checkpoint, read_tensors};
use crate::config::{
    DataConfig, ImageConfig, ModelConfig, PredictionType, ScheduleConfig, TimestepDensity, TrainConfig, UNetConfig,
};
use crate::data::Dataset;

pub(super) fn tiny() -> ModelConfig {
    ModelConfig {
        name: "tiny".into(),
        licence: "MIT".into(),
        image: ImageConfig { width: 8, height: 4, channels: 1 },
        unet: UNetConfig {
            block_out_channels: vec![4, 8],
            attention_levels: vec![true, false],
            attention_heads: 2,
            norm_num_groups: 2,
            time_freq_dim: 4,
            time_embed_dim: 8,
            ..UNetConfig::default()
        },
        prediction_type: PredictionType::VPrediction,
        schedule: ScheduleConfig::Cosine { num_train_timesteps: 100, s: 0.008 },
        data: DataConfig {
            source: "none".into(),
            mean: 0.5,
            std: 0.5,
            licence: "MIT".into(),
            class_names: vec!["a".into(), "b".into()],
        },
        train: TrainConfig {
            steps: 6,
            batch_size: 20,
            learning_rate: 1e-2,
            warmup_steps: 2,
            weight_decay: 0.01,
            clip_norm: 1.0,
            ema_decay: 0.9,
            label_dropout: 0.2,
            timestep_density: TimestepDensity::LogNormalSigma { mean: -0.6, std: 1.4 },
            seed: 5,
        },
        tune: None,
        grid: None,
    }
}

/// Two classes: bright on the left, bright on the right.
pub(super) fn halves(count: usize) -> Dataset {
    let labels: Vec<u16> = (0..count).map(|i| (i % 2) as u16).collect();
    let pixel = |label: u16, i: usize| if (i % 8 < 4) == (label == 0) { 230 } else { 20 };
    let images = labels.iter().flat_map(|l| (0..32).map(move |i| pixel(*l, i))).collect();
    Dataset { width: 8, height: 4, channels: 1, images, labels, class_names: vec!["a".into(), "b".into()] }
}

pub(super) fn folder(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("picodream-train-{test}-{}", std::process::id()))
}

pub(super) fn options(folder: &Path) -> TrainOptions {
    TrainOptions {
        out: folder.join("tiny.safetensors"),
        threads: 1,
        resume: false,
        checkpoint_every: 0,
        sample_every: 0,
        quiet: true,
    }
}

pub(super) fn draw(config: &ModelConfig, step: usize) -> Batch {
    let data = halves(30);
    Batch::draw(config, &data, &NoiseLevels::new(config), &mut Order::new(config.train.seed, data.len()), step)
}

#[test]
fn gradient_of_the_whole_network() {
    // Loss is about 1 in f32 and the step 0.01: quotients are off by some 1e-5, and by the curvature, below 2 %.
    let mut config = tiny();
    config.train.batch_size = 3;
    for classes in [2, 0] {
        config.data.class_names.truncate(classes);
        let layout = FlatLayout::new(&config);
        let mut weights = vec![0.0; layout.len()];
        NoiseStream::new(3, 0).fill_gaussian(&mut weights);
        weights.iter_mut().for_each(|w| *w *= 0.3);
        let batch = draw(&config, 0);
        let loss = |weights: &[f32]| loss_and_gradient(&config, &layout, weights, &batch, 1).unwrap();
        let (_, gradient) = loss(&weights);
        let named = layout.named(&gradient);
        let mut start = 0;
        for (name, shape) in crate::checkpoint::expected_shapes(&config) {
            let len: usize = shape.iter().product();
            let data = &named[&name].data;
            let largest = (0..len).max_by(|a, b| data[*a].abs().total_cmp(&data[*b].abs())).unwrap();
            let moved = |delta: f32| {
                let mut weights = weights.clone();
                weights[start + largest] += delta;
                loss(&weights).0
            };
            let want = (moved(0.01) - moved(-0.01)) / 0.02;
            let got = f64::from(data[largest]);
            assert!((got - want).abs() < 5e-4 + 0.02 * want.abs(), "{name}[{largest}]: {got} but {want}");
            start += len;
        }
    }
}

#[test]
fn candles_own_convolution_gives_the_same_gradient() {
    let config = tiny();
    let layout = FlatLayout::new(&config);
    let mut weights = vec![0.0; layout.len()];
    NoiseStream::new(3, 0).fill_gaussian(&mut weights);
    weights.iter_mut().for_each(|w| *w *= 0.3);
    let batch = draw(&config, 0);
    let [(loss, own), (candle_loss, candle)] = [Convolutions::Own, Convolutions::Candle]
        .map(|c| loss_and_gradient_with(&config, &layout, &weights, &batch, 1, c).unwrap());
    // The same f32 sums in another order.
    assert!((loss - candle_loss).abs() < 1e-5 * loss);
    let largest = own.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    assert!(own.iter().zip(&candle).all(|(a, b)| (a - b).abs() < 1e-5 * largest));
}

#[test]
fn every_tensor_learns_within_two_steps() {
    // Zero-initialised layers pass no gradient at first; after one step everything moves.
    let folder = folder("learns");
    let mut config = tiny();
    config.train.steps = 3;
    train(&config, &halves(40), &options(&folder)).unwrap();
    let state = read_tensors(&folder.join("tiny.train.safetensors")).unwrap();
    let named = FlatLayout::new(&config).named(&state["second"].data);
    for (name, moment) in named {
        // A key's bias shifts all scores of a row alike, so softmax ignores it.
        assert!(name.ends_with("to_k.bias") || moment.data.iter().any(|x| *x > 0.0), "{name} never had a gradient");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn loss_falls() {
    for (prediction, density, bound) in [
        (PredictionType::VPrediction, TimestepDensity::LogNormalSigma { mean: -0.6, std: 1.4 }, 0.5),
        (PredictionType::Epsilon, TimestepDensity::Uniform, 0.6),
        (PredictionType::Sample, TimestepDensity::Uniform, 0.4),
    ] {
        let folder = folder(&format!("falls-{prediction:?}"));
        let mut config = tiny();
        (config.prediction_type, config.train.timestep_density) = (prediction, density);
        (config.train.steps, config.train.warmup_steps) = (150, 20);
        let report = train(&config, &halves(64), &options(&folder)).unwrap();
        let layout = FlatLayout::new(&config);
        let weights = layout.flatten(&initial_weights(&config, config.train.seed));
        let (before, _) = loss_and_gradient(&config, &layout, &weights, &draw(&config, 0), 1).unwrap();
        assert!(report.loss < bound * before, "{prediction:?}: from {before} to {}", report.loss);
        assert_eq!((report.steps, report.weights), (150, layout.len()));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn resuming_equals_never_stopping_and_threads_do_not_matter() {
    let (config, data) = (tiny(), halves(50));
    let whole = folder("whole");
    train(&config, &data, &options(&whole)).unwrap();

    // A state of step 3 of the same recipe, as an interruption leaves it.
    let parts = folder("parts");
    let layout = FlatLayout::new(&config);
    let mut state = State::new(layout.flatten(&initial_weights(&config, config.train.seed)));
    for step in 0..3 {
        let mut order = Order::new(config.train.seed, data.len());
        let batch = Batch::draw(&config, &data, &NoiseLevels::new(&config), &mut order, step);
        let (_, mut gradient) = loss_and_gradient(&config, &layout, &state.weights, &batch, 1).unwrap();
        let rate = learning_rate(&config.train, step);
        state.update(&config.train, &layout, &mut gradient, rate);
    }
    let resumed = TrainOptions { resume: true, threads: 3, ..options(&parts) };
    state.checkpoint(&config, &layout).save(&resumed.out).unwrap();
    state.save(&parts.join("tiny.train.safetensors")).unwrap();
    train(&config, &data, &resumed).unwrap();

    for file in ["tiny.safetensors", "tiny.train.safetensors", "tiny.json"] {
        assert_eq!(std::fs::read(whole.join(file)).unwrap(), std::fs::read(parts.join(file)).unwrap(), "{file}");
    }
    std::fs::remove_dir_all(whole).unwrap();
    std::fs::remove_dir_all(parts).unwrap();
}

#[test]
fn files_of_a_run() {
    let folder = folder("files");
    let mut config = tiny();
    config.train.steps = 101;
    let options = TrainOptions { checkpoint_every: 40, sample_every: 60, ..options(&folder) };
    train(&config, &halves(20), &options).unwrap();
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let want = ["tiny.json", "tiny.log", "tiny.safetensors", "tiny.sheet.png", "tiny.train.safetensors"];
    assert_eq!(names, want);
    assert_eq!(Checkpoint::load(&options.out).unwrap().config, config);
    let log = std::fs::read_to_string(folder.join("tiny.log")).unwrap();
    assert!(log.starts_with("step 100/101 loss ") && log.lines().count() == 2, "{log}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn refuses_what_it_cannot_train_on() {
    let folder = folder("refuses");
    let error = |config: &ModelConfig, data: &Dataset, options: &TrainOptions| {
        let error = format!("{:#}", train(config, data, options).expect_err("must not train"));
        assert!(!options.out.exists());
        error
    };
    let (config, data, run) = (tiny(), halves(20), options(&folder));
    let none = TrainOptions { threads: 0, ..run.clone() };
    assert!(error(&config, &data, &none).contains("threads is 0"));
    assert!(error(&config, &halves(0), &run).contains("no image"));
    let turned = Dataset { width: 4, height: 8, ..data.clone() };
    assert!(error(&config, &turned, &run).contains("4x8x1, but the config says 8x4x1"));
    let unlabelled = Dataset { labels: Vec::new(), ..data.clone() };
    assert!(error(&config, &unlabelled, &run).contains("0 labels for 20 images"));
    let mut strange = data.clone();
    strange.labels[3] = 2;
    assert!(error(&config, &strange, &run).contains("label 2, but the config has 2 classes"));
    let mut wild = config.clone();
    (wild.train.learning_rate, wild.train.clip_norm, wild.train.steps) = (1e30, 1e30, 50);
    assert!(error(&wild, &data, &run).contains("training diverged"));
    let again = TrainOptions { resume: true, ..run };
    assert!(error(&config, &data, &again).contains("nothing to resume"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn refuses_to_resume_another_run() {
    let folder = folder("other");
    let (config, data) = (tiny(), halves(20));
    train(&config, &data, &options(&folder)).unwrap();
    let again = TrainOptions { resume: true, ..options(&folder) };
    let mut other = config.clone();
    other.train.seed += 1;
    let error = format!("{:#}", train(&other, &data, &again).unwrap_err());
    assert!(error.contains("holds another config"), "{error}");
    let state = folder.join("tiny.train.safetensors");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let error = format!("{:#}", train(&config, &data, &again).unwrap_err());
    assert!(error.contains("not a whole safetensors file"), "{error}");
    let empty = BTreeMap::new();
    crate::checkpoint::write_tensors(&state, &empty).unwrap();
    let error = format!("{:#}", train(&config, &data, &again).unwrap_err());
    assert!(error.contains("no state of this network: 'step' must be 1 finite values, got 0"), "{error}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn batches_depend_on_seed_and_step_only() {
    let config = tiny();
    assert_eq!(draw(&config, 7), draw(&config, 7));
    assert_ne!(draw(&config, 7).noised, draw(&config, 8).noised);
    let mut order = Order::new(9, 25);
    let first: Vec<usize> = (0..25).map(|n| order.index(n)).collect();
    let second: Vec<usize> = (25..50).map(|n| order.index(n)).collect();
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..25).collect::<Vec<_>>(), "an epoch is a permutation");
    assert_ne!(first, second);
    assert_eq!(Order::new(9, 25).index(30), second[5], "the order can be entered anywhere");
}

#[test]
fn targets_agree_across_prediction_types() {
    // From x_t and v: x0 = √ᾱ·x_t − √(1−ᾱ)·v and ε = √(1−ᾱ)·x_t + √ᾱ·v.
    let mut config = tiny();
    config.train.timestep_density = TimestepDensity::Uniform;
    let [v, e, x0] = [PredictionType::VPrediction, PredictionType::Epsilon, PredictionType::Sample].map(|p| {
        config.prediction_type = p;
        draw(&config, 1)
    });
    let levels = NoiseLevels::new(&config);
    for (i, x) in v.noised.iter().enumerate() {
        let (signal, noise) = levels.at(v.timesteps[i / 32] as usize);
        assert!((signal * x - noise * v.target[i] - x0.target[i]).abs() < 1e-5);
        assert!((noise * x + signal * v.target[i] - e.target[i]).abs() < 1e-5);
    }
}

#[test]
fn log_normal_timesteps_have_their_noise_level() {
    let config = tiny();
    let levels = NoiseLevels::new(&config);
    let mut stream = NoiseStream::new(1, 1);
    let mut below = 0;
    for _ in 0..2000 {
        let (t, signal, noise) = levels.draw(config.train.timestep_density, &mut stream);
        assert!((0.0..=99.0).contains(&t) && (signal * signal + noise * noise - 1.0).abs() < 1e-6);
        // Between its two whole neighbours.
        let (low, high) = (levels.at(t.floor() as usize), levels.at(t.ceil() as usize));
        assert!(low.1 <= noise + 1e-6 && noise <= high.1 + 1e-6, "t {t}");
        below += usize::from(noise / signal < (-0.6f32).exp());
    }
    // Half of ln σ lies below its mean; five standard errors of 2000 coin flips are 112.
    assert!((below as i32 - 1000).abs() < 112, "{below}");
}

#[test]
fn adamw_equals_its_definition() {
    let mut config = tiny();
    (config.train.clip_norm, config.train.weight_decay) = (1e9, 0.1);
    let layout = FlatLayout::new(&config);
    let mut state = State::new(vec![1.0; layout.len()]);
    let (mut w, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
    for step in 0..4 {
        let g = 0.5 - step as f64 * 0.3;
        let rate = learning_rate(&config.train, step as usize);
        state.update(&config.train, &layout, &mut vec![g as f32; layout.len()], rate);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        let (mc, vc) = (m / (1.0 - 0.9f64.powi(step + 1)), v / (1.0 - 0.999f64.powi(step + 1)));
        w = w * (1.0 - rate * 0.1) - rate * mc / (vc.sqrt() + 1e-8);
    }
    // The first tensor is a convolution's weight, so it is decayed; conv_in.bias (after its 36 values) is not.
    assert!((f64::from(state.weights[0]) - w).abs() < 1e-5, "{} but {w}", state.weights[0]);
    assert!(state.weights[36] > state.weights[0]);
    let norm = state.update(&config.train, &layout, &mut vec![2.0; layout.len()], 1e-3);
    assert!((norm - 2.0 * (layout.len() as f32).sqrt()).abs() < 1e-2);
}

#[test]
fn rate_rises_then_falls_to_zero() {
    let mut config = tiny().train;
    (config.steps, config.warmup_steps) = (100, 10);
    let rate = |step| learning_rate(&config, step);
    assert!((rate(0) - 1e-3).abs() < 1e-12 && (rate(9) - 1e-2).abs() < 1e-12 && (rate(10) - 1e-2).abs() < 1e-12);
    assert!((rate(55) - 5e-3).abs() < 1e-12 && rate(99) < 1e-5);
}
