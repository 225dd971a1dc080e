//! Tuning: levels and targets in closed form, gradients against finite differences, resuming bit for bit, bad recipes.

use std::path::Path;

use picodream::rng::NoiseStream;
use picodream::spacing::Trailing;

use super::batch::{NoiseLevels, Order};
use super::consistency::{self, Pairs, lower_level};
use super::estimate::{Level, image_len};
use super::lesson::Lesson;
use super::optimizer::{FlatLayout, State};
use super::progressive::{self, Jumps, Stage, stage};
use super::sample::{Rule, draw, visited};
use super::shards::{Weights, detached};
use super::tests::{folder, halves, options, tiny};
use super::{TrainOptions, train, tune};
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, PredictionType, TimestepDensity, TrainConfig};
use crate::data::Dataset;
use crate::tune::{Direction, Method, TuneRecipe, tuned_config};

fn recipe(method: Method) -> TuneRecipe {
    let train = tiny().train;
    let timestep_density = TimestepDensity::LogNormalSigma { mean: 0.2, std: 1.6 };
    let mut recipe = TuneRecipe::new(method);
    recipe.train = TrainConfig { steps: 8, batch_size: 20, timestep_density, ..train };
    recipe
}

fn consistency(direction: Direction, guidance: f32) -> TuneRecipe {
    let method = Method::Consistency { stages: 4, sigma_max: 20.0, top_share: 0.2, weight_power: 0.0, direction };
    TuneRecipe { guidance, ..recipe(method) }
}

/// Weights that predict something at every place: the untrained network's last layer is zero.
pub fn random_weights(layout: &FlatLayout, seed: u64) -> Vec<f32> {
    let mut weights = vec![0.0; layout.len()];
    NoiseStream::new(seed, 0).fill_gaussian(&mut weights);
    weights.iter_mut().for_each(|w| *w *= 0.3);
    weights
}

/// The config that tuning follows, as `tune` makes it.
fn course(recipe: &TuneRecipe) -> ModelConfig {
    let config = tuned_config(&tiny(), "tiny-fast", recipe.clone()).unwrap();
    ModelConfig { train: recipe.train.clone(), ..config }
}

fn pairs(config: &ModelConfig, recipe: &TuneRecipe, step: usize) -> Pairs {
    let data = halves(30);
    let mut order = Order::new(config.train.seed, data.len());
    Pairs::draw(config, recipe, &data, &NoiseLevels::new(config), &mut order, step)
}

fn weights_of(layout: &FlatLayout, seed: u64) -> Weights {
    detached(&layout.variables(&random_weights(layout, seed)).unwrap())
}

/// A trained checkpoint for tests that need one.
pub fn base(folder: &Path) -> Checkpoint {
    let options = options(folder);
    train(&tiny(), &halves(40), &options).unwrap();
    Checkpoint::load(&options.out).unwrap()
}

#[test]
fn lower_levels_follow_the_rule() {
    // sigmoid(−σ) is 1/2 at 0 and vanishes far out: σ·(1 − 2.5) is below zero, σ·(1 − 1/2) is half.
    assert_eq!(lower_level(1e-9, 0), 0.0);
    assert!((lower_level(50.0, 0) - 25.0).abs() < 1e-6 && (lower_level(50.0, 7) - 50.0 * 255.0 / 256.0).abs() < 1e-6);
    // At σ = ln 3, sigmoid(−σ) = 1/4, so r = σ·(1 − 3/16) in stage 3.
    let sigma = 3.0f64.ln();
    assert!((lower_level(sigma, 3) - sigma * 13.0 / 16.0).abs() < 1e-12);
}

#[test]
fn pairs_lie_on_one_trajectory_of_the_schedule() {
    let mut recipe = consistency(Direction::Data, 1.0);
    if let Method::Consistency { weight_power, .. } = &mut recipe.method {
        *weight_power = 1.0;
    }
    let config = course(&recipe);
    let (levels, len) = (NoiseLevels::new(&config), image_len(&config));
    let (mut top, mut clean, last) = (0, 0, (config.schedule.num_train_timesteps() - 1) as f32);
    for step in 0..8 {
        let pairs = pairs(&config, &recipe, step);
        assert_eq!((pairs.noised.len(), pairs.classes.len(), pairs.weights.len()), (20 * len, 20, 20));
        for (i, (now, next)) in pairs.now.iter().zip(&pairs.next).enumerate() {
            let at_top = now.t == last;
            // At the top the rule takes σ_max, elsewhere the level itself.
            let sigma = if at_top { 20.0 } else { f64::from(now.noise / now.signal) };
            let r = lower_level(sigma, step as u32 / 2);
            let weight = f64::from(pairs.weights[i]) * (sigma - r) / (1.0 + sigma * sigma).sqrt();
            assert!((weight - 1.0).abs() < 1e-4);
            if *next != Level::CLEAN {
                assert!((f64::from(next.noise / next.signal) / r - 1.0).abs() < 1e-4 && next.t < now.t);
            }
            top += usize::from(at_top);
            clean += usize::from(*next == Level::CLEAN);
        }
    }
    assert!((16..80).contains(&top), "a fifth of 160 and the tail of the density start at the last timestep: {top}");
    assert!((20..140).contains(&clean), "early stages end at the clean image: {clean}");
    assert!(levels.range().0 < 0.0);
}

#[test]
fn with_true_noise_the_lower_sample_is_the_forward_process() {
    // x_r from x_σ and x0 by DDIM is √ᾱ_r·x0 + √(1−ᾱ_r)·ε with the same ε.
    let (now, next) = (Level { t: 5.0, signal: 0.6, noise: 0.8 }, Level { t: 2.0, signal: 0.8, noise: 0.6 });
    let (x0, e) = (0.7f32, -1.3f32);
    let moved = now.step_to(next, 0.6 * x0 + 0.8 * e, x0);
    assert!((moved - (0.8 * x0 + 0.6 * e)).abs() < 1e-6);
    assert!((now.step_to(Level::CLEAN, 0.6 * x0 + 0.8 * e, x0) - x0).abs() < 1e-6);
}

#[test]
fn estimates_undo_every_prediction_type() {
    let level = Level { t: 0.0, signal: 0.6, noise: 0.8 };
    let (x0, e) = (0.7f32, -1.3f32);
    let x = level.signal * x0 + level.noise * e;
    for (prediction, output) in [
        (PredictionType::Epsilon, e),
        (PredictionType::Sample, x0),
        (PredictionType::VPrediction, level.signal * e - level.noise * x0),
    ] {
        let (a, b) = level.estimate(prediction);
        assert!((a * x + b * output - x0).abs() < 1e-6, "{prediction:?}");
    }
}

#[test]
fn targets_of_the_last_stretch_are_the_clean_image_with_its_guidance() {
    let plain = consistency(Direction::Data, 1.0);
    let config = course(&plain);
    let (layout, len) = (FlatLayout::new(&config), image_len(&config));
    let (student, teacher) = (weights_of(&layout, 3), weights_of(&layout, 4));
    let pairs = pairs(&config, &plain, 0);
    let of = |recipe: &TuneRecipe| consistency::targets(&config, recipe, &student, &teacher, &pairs, 0..20).unwrap();
    let (plain, guided) = (of(&plain), of(&consistency(Direction::Data, 3.0)));
    let (mut clean, mut moved) = (0, 0);
    for i in 0..20 {
        let pixels = i * len..(i + 1) * len;
        if pairs.next[i] == Level::CLEAN {
            assert_eq!(plain[pixels.clone()], pairs.clean[pixels.clone()]);
            clean += 1;
        }
        let null = pairs.classes[i] == config.num_classes() as u32;
        // The null class has no guidance; every other class has some.
        assert_eq!(plain[pixels.clone()] == guided[pixels], null);
        moved += usize::from(!null);
    }
    assert!(clean > 0 && moved > 0 && moved < 20);
}

#[test]
fn gradient_of_the_distance() {
    // The targets stay as they are while the weights move; step and tolerance as for the plain loss. The distance has a
    // root, so its values are some units.
    let recipe = consistency(Direction::Base, 1.5);
    let config = course(&recipe);
    let layout = FlatLayout::new(&config);
    let weights = random_weights(&layout, 3);
    let state = State { teacher: random_weights(&layout, 4), ..State::new(weights.clone()) };
    let pairs = pairs(&config, &recipe, 4);
    let (total, gradient) = consistency::loss_and_gradient(&config, &recipe, &layout, &state, &pairs, 1).unwrap();
    let targets =
        consistency::targets(&config, &recipe, &weights_of(&layout, 3), &weights_of(&layout, 4), &pairs, 0..20)
            .unwrap();
    let loss = |weights: &[f32]| -> f64 {
        let weights = detached(&layout.variables(weights).unwrap());
        let loss = consistency::distance(&config, &weights, &pairs, 0..20, &targets).unwrap();
        loss.to_scalar::<f32>().unwrap().into()
    };
    assert!((loss(&weights) - total).abs() < 1e-4 * total);
    let mut start = 0;
    for (name, shape) in crate::checkpoint::expected_shapes(&config) {
        let len: usize = shape.iter().product();
        let part = &gradient[start..start + len];
        let largest = (0..len).max_by(|a, b| part[*a].abs().total_cmp(&part[*b].abs())).unwrap();
        let moved = |delta: f32| {
            let mut weights = weights.clone();
            weights[start + largest] += delta;
            loss(&weights)
        };
        let want = (moved(0.01) - moved(-0.01)) / 0.02;
        let got = f64::from(part[largest]);
        assert!((got - want).abs() < 1e-4 * total + 0.02 * want.abs(), "{name}[{largest}]: {got} but {want}");
        start += len;
    }
}

#[test]
fn stages_halve_the_steps_and_tile_the_run() {
    for (first, total) in [(8u16, 100), (4, 7), (1, 5), (16, 16)] {
        let all: Vec<Stage> = (0..total).map(|step| stage(first, total, step)).collect();
        assert!(all.iter().enumerate().all(|(i, s)| (s.start..s.start + s.len).contains(&i)));
        assert_eq!((all[0].steps, all[total - 1].steps), (first, 1));
        assert!(
            all.windows(2)
                .all(|w| w[0] == w[1] || (w[1].steps * 2 == w[0].steps && w[1].start == w[0].start + w[0].len))
        );
    }
}

#[test]
fn one_step_with_the_target_arrives_where_the_teacher_does() {
    let recipe = recipe(Method::Progressive { first_steps: 4 });
    let config = course(&recipe);
    let (layout, len, data) = (FlatLayout::new(&config), image_len(&config), halves(30));
    let teacher = weights_of(&layout, 4);
    let stage = stage(4, 8, 0);
    let jumps = Jumps::draw(&config, stage, &data, &mut Order::new(5, data.len()), 0);
    let targets = jumps.targets(&config, &recipe, &teacher, 0..20).unwrap();
    let grid = visited(&config, Trailing, 8);
    assert_eq!(grid.iter().map(|l| l.t).collect::<Vec<_>>(), [99.0, 87.0, 74.0, 62.0, 49.0, 37.0, 24.0, 12.0, 0.0]);
    for i in 0..20 {
        let [first, middle, last] = jumps.levels[i];
        let at = grid.iter().position(|l| *l == first).unwrap();
        assert!(at % 2 == 0 && middle == grid[at + 1] && last == grid[at + 2]);
        let class = [jumps.classes[i]];
        let mut x = jumps.noised[i * len..(i + 1) * len].to_vec();
        for (now, next) in [(first, middle), (middle, last)] {
            let clean = super::estimate::estimate_values(&config, &teacher, &x, &[now], &class).unwrap();
            x.iter_mut().zip(clean).for_each(|(x, clean)| *x = now.step_to(next, *x, clean));
        }
        for (p, want) in x.iter().enumerate() {
            let at = i * len + p;
            let got = first.step_to(last, jumps.noised[at], targets[at]);
            // x0 is known to 1e-6 of its size, some units; the arithmetic of the target divides by up to 1 − 0.96.
            assert!((got - want).abs() < 1e-4, "image {i}: {got} but {want}");
        }
    }
}

#[test]
fn resuming_equals_never_stopping_for_both_methods() {
    let data = halves(50);
    let start = folder("tune-base");
    let base = base(&start);
    for (test, recipe) in [
        ("consistency", consistency(Direction::Data, 1.0)),
        ("guided", consistency(Direction::Base, 1.5)),
        ("progressive", TuneRecipe { guidance: 1.5, ..recipe(Method::Progressive { first_steps: 2 }) }),
    ] {
        let config = tuned_config(&base.config, "tiny-fast", recipe.clone()).unwrap();
        let whole = folder(&format!("tune-{test}-whole"));
        tune(&base, &config, &data, &options(&whole)).unwrap();

        // A state of step 5 of the same recipe, as an interruption leaves it.
        let parts = folder(&format!("tune-{test}-parts"));
        let run = TrainOptions { threads: 2, ..options(&parts) };
        let state = interrupted(&base, &config, (Lesson::Tune(recipe.clone()), &recipe.train), &data, 5);
        state.checkpoint(&config, &FlatLayout::new(&config)).save(&run.out).unwrap();
        state.save(&parts.join("tiny.train.safetensors")).unwrap();
        tune(&base, &config, &data, &TrainOptions { resume: true, ..run }).unwrap();
        for file in ["tiny.safetensors", "tiny.train.safetensors", "tiny.json"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{test} {file}");
        }
        let tuned = Checkpoint::load(&whole.join("tiny.safetensors")).unwrap();
        assert_eq!(tuned.config, config);
        assert!(tuned.tensors != base.tensors);
        std::fs::remove_dir_all(whole).unwrap();
        std::fs::remove_dir_all(parts).unwrap();
    }
    std::fs::remove_dir_all(start).unwrap();
}

/// The state after `steps` steps, made with the parts of the loop.
pub fn interrupted(
    base: &Checkpoint,
    config: &ModelConfig,
    (lesson, train): (Lesson, &TrainConfig),
    data: &Dataset,
    steps: usize,
) -> State {
    let config = ModelConfig { train: train.clone(), ..config.clone() };
    let layout = FlatLayout::new(&config);
    let weights = layout.flatten(&base.tensors);
    let teacher = if lesson.is_taught() { weights.clone() } else { Vec::new() };
    let mut state = State { teacher, ..State::new(weights) };
    for _ in 0..steps {
        let (levels, order) = (NoiseLevels::new(&config), Order::new(config.train.seed, data.len()));
        let mut course = super::lesson::Course { config: &config, data, levels, order, layout: &layout, threads: 3 };
        lesson.begin(&config.train, &mut state);
        let (_, mut gradient) = lesson.gradient(&mut course, &state).unwrap();
        let rate = lesson.rate(&config.train, state.step);
        state.update(&config.train, &layout, &mut gradient, rate);
    }
    state
}

#[test]
fn tuning_brings_one_step_closer_to_many() {
    // A base that knows the halves; the distance of one-step images to its own 20-step images must shrink.
    let (start, end) = (folder("closer-base"), folder("closer"));
    let mut config = tiny();
    (config.train.steps, config.train.warmup_steps) = (300, 20);
    let data = halves(64);
    let run = options(&start);
    train(&config, &data, &run).unwrap();
    let base = Checkpoint::load(&run.out).unwrap();
    let mut how = consistency(Direction::Data, 1.0);
    (how.train.steps, how.train.learning_rate) = (300, 3e-3);
    let config = tuned_config(&base.config, "tiny-fast", how).unwrap();
    tune(&base, &config, &data, &options(&end)).unwrap();
    let tuned = Checkpoint::load(&end.join("tiny.safetensors")).unwrap();
    let classes: Vec<u32> = (0..40).map(|i| i % 2).collect();
    let layout = FlatLayout::new(&config);
    let images = |model: &Checkpoint, rule, steps| {
        let weights = detached(&layout.variables(&layout.flatten(&model.tensors)).unwrap());
        draw(&config, &weights, rule, steps, &classes, 40).unwrap()
    };
    let many = images(&base, Rule::Ddim, 20);
    let apart = |x: Vec<f32>| x.iter().zip(&many).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let (before, after) = (apart(images(&base, Rule::Ddim, 1)), apart(images(&tuned, Rule::Consistency, 1)));
    assert!(after < 0.8 * before, "{before} before, {after} after");
    std::fs::remove_dir_all(start).unwrap();
    std::fs::remove_dir_all(end).unwrap();
}

#[test]
fn refuses_bad_recipes_in_one_sentence() {
    let error = |change: &dyn Fn(&mut ModelConfig, &mut TuneRecipe)| {
        let (mut base, mut recipe) = (tiny(), consistency(Direction::Data, 1.0));
        change(&mut base, &mut recipe);
        tuned_config(&base, "tiny-fast", recipe).unwrap_err().to_string()
    };
    assert!(error(&|_, r| r.guidance = f32::NAN).contains("guidance is NaN, but must be in 0..=20"));
    let unconditional = error(&|b, r| {
        b.data.class_names.clear();
        r.guidance = 2.0;
    });
    assert!(unconditional.contains("1 for a model without classes"), "{unconditional}");
    assert!(error(&|_, r| r.method = Method::Progressive { first_steps: 3 }).contains("first_steps is 3"));
    assert!(error(&|_, r| r.train.timestep_density = TimestepDensity::Uniform).contains("log_normal_sigma"));
    assert!(error(&|_, r| r.train.steps = 0).contains("at least 1"));
    let stages = |stages, sigma_max| Method::Consistency {
        stages,
        sigma_max,
        top_share: 0.0,
        weight_power: 0.0,
        direction: Direction::Data,
    };
    assert!(error(&|_, r| r.method = stages(0, 80.0)).contains("stages is 0"));
    assert!(error(&|_, r| r.method = stages(8, 0.1)).contains("sigma_max is 0.1"));
    let again = error(&|b, r| b.tune = Some(crate::tune::Tuned { base: "x".into(), recipe: r.clone() }));
    assert!(again.contains("is tuned already"), "{again}");
}

#[test]
fn a_tuned_config_is_not_trained_from_scratch() {
    let folder = folder("tuned-scratch");
    let config = tuned_config(&tiny(), "tiny-fast", consistency(Direction::Data, 1.0)).unwrap();
    let error = train(&config, &halves(20), &options(&folder)).unwrap_err().to_string();
    assert!(error.contains("train its base"), "{error}");
}

#[test]
fn progressive_targets_carry_guidance_in_the_first_stage_only() {
    let recipe = TuneRecipe { guidance: 3.0, ..recipe(Method::Progressive { first_steps: 4 }) };
    let plain = TuneRecipe { guidance: 1.0, ..recipe.clone() };
    let config = course(&recipe);
    let (layout, data) = (FlatLayout::new(&config), halves(30));
    let teacher = weights_of(&layout, 4);
    for (step, guided) in [(0, true), (7, false)] {
        let stage = progressive::stage(4, 8, step);
        let mut order = Order::new(5, data.len());
        let jumps = Jumps::draw(&config, stage, &data, &mut order, step);
        let [a, b] = [&recipe, &plain].map(|r| jumps.targets(&config, r, &teacher, 0..20).unwrap());
        assert_eq!(a != b, guided, "step {step}");
    }
}
