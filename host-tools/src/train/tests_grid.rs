//! The grid: what lies on it, that it is learnt and not only rounded to, resuming bit for bit, bad recipes.

use std::path::Path;

use picodream::Model;
use picodream::blob::WeightFormat;

use super::batch::{Batch, NoiseLevels, Order};
use super::grid::{draw, loss_and_gradient, on_grid};
use super::lesson::Lesson;
use super::optimizer::{FlatLayout, State};
use super::tests::{folder, halves, options, tiny};
use super::tests_tune::{base, interrupted, random_weights};
use super::{TrainOptions, to_grid};
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, TrainConfig};
use crate::diff::{DiffOptions, OpDiff, diff};
use crate::export::{ExportOptions, Rules, Trajectories, export};
use crate::grid::{GridRecipe, grid_config, measured};
use crate::tune::{Method, TuneRecipe, tuned_config};

/// Whether a row's weights are whole numbers up to `most` of one step: what a grid with multipliers keeps without them. A
/// division and a product round by some parts in 10⁷ of `most`.
fn in_whole_steps(row: &[f32], most: u8) -> bool {
    (1..=most).any(|largest| {
        let step = row.iter().fold(0.0f32, |m, w| m.max(w.abs())) / f32::from(largest);
        row.iter().all(|w| step == 0.0 || (w / step - (w / step).round()).abs() < 1e-3)
    })
}

#[test]
fn all_matrices_stand_on_the_grid_and_nothing_else() {
    let config = tiny();
    let layout = FlatLayout::new(&config);
    let weights = random_weights(&layout, 3);
    for (bits, format) in [(8, WeightFormat::Int8), (4, WeightFormat::Int4)] {
        let recipe = recipe(&config, bits, 1);
        let (before, after) = (layout.named(&weights), layout.named(&on_grid(&layout, &weights, &weights, &recipe)));
        let mut kept = 0;
        for (name, tensor) in &after {
            let row = tensor.data.len() / tensor.shape[0];
            if tensor.shape.len() == 1 || name.contains("class_embedding") {
                assert_eq!(tensor, &before[name], "{name}");
                kept += 1;
                continue;
            }
            let bytes =
                ["conv_in.", "conv_out.", ".to_q.", ".to_out.", "time_emb"].iter().any(|part| name.contains(part));
            let most = if format == WeightFormat::Int4 && !bytes { 120 } else { 127 };
            assert!(tensor.data.chunks_exact(row).all(|row| in_whole_steps(row, most)), "{name}");
            // A step is a 127th of a row's largest weight, or up to a 7th.
            let largest = before[name].data.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            let far = tensor.data.iter().zip(&before[name].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far > 0.0 && far <= 0.15 * largest, "{name}: {far} of {largest}");
        }
        assert!(kept > 5);
        // What stands on it stays there.
        let once = on_grid(&layout, &weights, &weights, &recipe);
        let twice = on_grid(&layout, &weights, &once, &recipe);
        assert!(once == twice);
    }
}

fn batch(config: &ModelConfig, step: usize) -> Batch {
    let data = halves(30);
    let mut order = Order::new(config.train.seed, data.len());
    draw(config, &data, &NoiseLevels::new(config), &mut order, step)
}

#[test]
fn half_of_the_levels_are_those_of_the_samplers() {
    let mut config = tiny();
    config.train.batch_size = 4000;
    // DDIM-20 and DDIM-50 start at the last timestep; a twentieth and a fiftieth of the half.
    let last = (config.schedule.num_train_timesteps() - 1) as f32;
    let batch = batch(&config, 1);
    let share = batch.timesteps.iter().filter(|t| **t == last).count() as f64 / 4000.0;
    let whole = batch.timesteps.iter().filter(|t| t.fract() == 0.0).count() as f64 / 4000.0;
    assert!((0.008..0.03).contains(&share), "{share}");
    assert!((0.4..0.65).contains(&whole), "{whole}");
}

#[test]
fn the_gradient_is_that_of_the_distance() {
    let config = tiny();
    let layout = FlatLayout::new(&config);
    let (weights, teacher) = (random_weights(&layout, 5), random_weights(&layout, 6));
    let loss = |weights: &[f32], threads: usize| {
        let state = State { teacher: teacher.clone(), ..State::new(weights.to_vec()) };
        loss_and_gradient(&config, &layout, &state, &batch(&config, 2), threads).unwrap()
    };
    let (value, gradient) = loss(&weights, 1);
    assert!((value, gradient.clone()) == loss(&weights, 3));
    assert!(loss(&teacher, 1).0 == 0.0 && value > 0.0);
    // Along the gradient the loss falls by its squared length; 1 % for what is curved and for f32.
    let length: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
    let h = 1e-3 / length.sqrt();
    let moved = |sign: f64| {
        let at: Vec<f32> = weights.iter().zip(&gradient).map(|(w, g)| w + (sign * h * f64::from(*g)) as f32).collect();
        loss(&at, 1).0
    };
    let slope = (moved(1.0) - moved(-1.0)) / (2.0 * h);
    assert!((slope / length - 1.0).abs() < 0.01, "{slope} {length}");
}

fn recipe(base: &ModelConfig, bits: u8, steps: usize) -> GridRecipe {
    let recipe = GridRecipe::new(base, bits);
    GridRecipe { train: TrainConfig { steps, batch_size: 20, warmup_steps: 1, ..recipe.train }, ..recipe }
}

#[test]
fn resuming_equals_never_stopping_and_the_real_weights_are_met_better_than_by_rounding() {
    let data = halves(50);
    let start = folder("grid-base");
    let base = base(&start);
    for bits in [8, 4] {
        let config = grid_config(&base.config, "tiny-grid", recipe(&base.config, bits, 60)).unwrap();
        let config = measured(&base, config, &mut || {}).unwrap();
        let finer = &config.grid.as_ref().unwrap().recipe.finer;
        assert!(finer.len() == 8 && finer.values().any(|times| (times - 1.0).abs() > 0.1), "{finer:?}");
        let (whole, parts) = (folder(&format!("grid-{bits}-whole")), folder(&format!("grid-{bits}-parts")));
        to_grid(&base, &config, &data, &options(&whole)).unwrap();

        let run = TrainOptions { threads: 2, ..options(&parts) };
        let train = &config.grid.as_ref().unwrap().recipe.train;
        let state = interrupted(&base, &config, (Lesson::Grid, train), &data, 5);
        let layout = FlatLayout::new(&config);
        state.checkpoint(&config, &layout).save(&run.out).unwrap();
        state.save(&parts.join("tiny.train.safetensors")).unwrap();
        to_grid(&base, &config, &data, &TrainOptions { resume: true, ..run }).unwrap();
        for file in ["tiny.safetensors", "tiny.train.safetensors", "tiny.json"] {
            let read = |folder: &Path| std::fs::read(folder.join(file)).unwrap();
            assert!(read(&whole) == read(&parts), "{bits} {file}");
        }

        // Images that the run did not see.
        let made = Checkpoint::load(&whole.join("tiny.safetensors")).unwrap();
        assert_eq!(made.config, config);
        let real = layout.flatten(&base.tensors);
        let course = ModelConfig { train: TrainConfig { batch_size: 200, ..train.clone() }, ..config.clone() };
        let distance = |weights: Vec<f32>| {
            let state = State { teacher: real.clone(), ..State::new(weights) };
            loss_and_gradient(&course, &layout, &state, &batch(&course, 1000), 1).unwrap().0
        };
        let rounded = distance(on_grid(&layout, &real, &real, &config.grid.as_ref().unwrap().recipe));
        let learnt = distance(layout.flatten(&made.tensors));
        // 60 steps are a fifth of the shortest run; what they must show is that the loss is the one that counts.
        assert!(learnt < 0.7 * rounded, "{bits} bits: {learnt} learnt, {rounded} rounded");

        // The exporter has nothing to round: what is left is the 12 bits of inputs, 65 dB and more, and where skips are read
        // their 8 bits, 48 dB.
        let rules = Rules { weights: config.weight_format().unwrap(), ..Rules::default() }.with_input_bits(12);
        let trajectories = Trajectories { images: 4, first_seed: 0, ..Trajectories::of(&config) };
        let blob = export(&made, &ExportOptions { rules, trajectories, ..ExportOptions::default() }).unwrap().bytes;
        let options = DiffOptions { steps: 20, count: 4, ..DiffOptions::default() };
        let report = diff(&Model::parse(&blob).unwrap(), &made, &options).unwrap();
        let worst = |part: &str| {
            let ops = report.ops.iter().filter(|op: &&OpDiff| op.name.ends_with(part));
            ops.map(|op| op.local_sqnr_db).fold(f64::INFINITY, f64::min)
        };
        assert!(worst("conv2") > 60.0 && worst(".kv") > 60.0 && worst("conv1") > 45.0, "{bits} bits: {:?}", report.ops);
        // Its inputs are real: what is left is the 11 bits of the classes' rows. Rounded weights gave 52 dB in a shipped model.
        assert!(worst("time_embed") > 65.0, "{bits} bits: {:?}", report.ops);
        std::fs::remove_dir_all(whole).unwrap();
        std::fs::remove_dir_all(parts).unwrap();
    }
    std::fs::remove_dir_all(start).unwrap();
}

#[test]
fn refuses_bad_recipes_in_one_sentence() {
    let error = |bits| grid_config(&tiny(), "tiny-w", recipe(&tiny(), bits, 5)).unwrap_err().to_string();
    assert!(error(5).contains("weight_bits is 5, but must be 8 or 4"), "{}", error(5));
    let once = grid_config(&tiny(), "tiny-w", recipe(&tiny(), 4, 5)).unwrap();
    let again = grid_config(&once, "tiny-w", recipe(&once, 4, 5)).unwrap_err().to_string();
    assert!(again.contains("is on its grid already"), "{again}");
    let tuned = tuned_config(&once, "tiny-fast", TuneRecipe::new(Method::CONSISTENCY)).unwrap();
    assert!(tuned.grid.is_none(), "tuning leaves the grid");
}
