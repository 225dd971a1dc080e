//! Learned variances from the config to the blob: what gets which gradient, what training gains, and both engines that draw.

use candle_core::{Device, Tensor};
use picodream::rng::NoiseStream;
use picodream::sampler::Variance;
use picodream::{Config, Ddpm, Model, Pipeline, Progress};

use super::optimizer::FlatLayout;
use super::shards::detached;
use super::tests::{draw, folder, halves, options, tiny};
use super::trainer::loss_and_gradient;
use super::unet::UNet;
use super::{train, variance};
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::diff::Arena;
use crate::export::{ExportOptions, Trajectories, export};
use crate::float::FloatPipeline;

fn learned() -> ModelConfig {
    let mut config = tiny();
    config.unet.learned_variance = true;
    config
}

fn weights(layout: &FlatLayout) -> Vec<f32> {
    let mut weights = vec![0.0; layout.len()];
    NoiseStream::new(3, 0).fill_gaussian(&mut weights);
    weights.iter_mut().for_each(|w| *w *= 0.3);
    weights
}

#[test]
fn the_bound_reaches_the_prediction_only_through_what_both_share() {
    let config = learned();
    let layout = FlatLayout::new(&config);
    let mut weights = weights(&layout);
    let batch = draw(&config, 0);
    let (_, gradient) = loss_and_gradient(&config, &layout, &weights, &batch, 1).unwrap();
    // conv_out is last: one filter and bias of the prediction, one of the variance.
    let (filter, first) = (4 * 9, layout.len() - 2 - 2 * 4 * 9);
    let of_variance = [first + filter + 3, layout.len() - 1];
    for i in of_variance {
        let mut moved = |delta: f32| {
            let before = weights[i];
            weights[i] += delta;
            let loss = loss_and_gradient(&config, &layout, &weights, &batch, 1).unwrap().0;
            weights[i] = before;
            loss
        };
        let want = (moved(0.2) - moved(-0.2)) / 0.4;
        let got = f64::from(gradient[i]);
        // The loss is about 1 in f32: some 1e-7 of rounding a step; and the curvature.
        assert!(got.abs() > 2e-5 && (got - want).abs() < 1e-6 + 0.02 * want.abs(), "{i}: {got} for {want}");
    }
    // The prediction's own filter is taught as without variances: the same network less the last filter.
    let plain = tiny();
    let plain_layout = FlatLayout::new(&plain);
    let mut without = weights.clone();
    without.remove(layout.len() - 1);
    without.drain(first + filter..first + 2 * filter);
    let batch = draw(&plain, 0);
    let (_, want) = loss_and_gradient(&plain, &plain_layout, &without, &batch, 1).unwrap();
    for (i, want) in (first..first + filter).chain([layout.len() - 2]).zip(&want[first..]) {
        assert!((gradient[i] - want).abs() < 1e-5 * (1.0 + want.abs()), "{i}: {} for {want}", gradient[i]);
    }
}

/// The bound of a batch with the network's variances, and with the same part of the way from β̃ to β everywhere.
fn bounds(checkpoint: &Checkpoint, parts: &[f32]) -> (f32, Vec<f32>) {
    let config = &checkpoint.config;
    let batch = draw(config, 1000);
    let layout = FlatLayout::new(config);
    let variables = detached(&layout.variables(&layout.flatten(&checkpoint.tensors)).unwrap());
    let shape = (batch.timesteps.len(), config.image.height, config.image.width, 1);
    let image = |values: &[f32]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
    let output =
        UNet::new(config, &variables).forward(&image(&batch.noised), &batch.timesteps, &batch.classes).unwrap();
    let squares = (output.narrow(3, 0, 1).unwrap() - image(&batch.target)).unwrap().sqr().unwrap();
    let loss =
        |values: &Tensor| variance::loss(values, &squares, &batch.bounds, 100).unwrap().to_scalar::<f32>().unwrap();
    let values = output.narrow(3, 1, 1).unwrap();
    let fixed = |part: &f32| loss(&values.affine(0.0, f64::from(2.0 * part - 1.0)).unwrap());
    (loss(&values), parts.iter().map(fixed).collect())
}

/// Config → training → checkpoint → blob → both engines.
#[test]
fn a_trained_model_has_good_variances_and_draws_with_both_engines() {
    let folder = folder("variance");
    let mut config = learned();
    (config.train.steps, config.train.warmup_steps, config.train.ema_decay) = (400, 20, 0.95);
    let options = options(&folder);
    train(&config, &halves(64), &options).unwrap();
    let checkpoint = Checkpoint::load(&options.out).unwrap();
    let (own, fixed) = bounds(&checkpoint, &[0.0, 0.25, 0.5, 0.75, 1.0]);
    // Untrained outputs are 0, half of the way; two pictures leave next to nothing open, so the best is near β̃.
    let best = fixed.iter().copied().fold(f32::INFINITY, f32::min);
    assert!(own < 1.05 * best && own < 0.9 * fixed[2], "{own} beside {fixed:?}");

    let trajectories = Trajectories { images: 8, steps: vec![10], ..Trajectories::default() };
    let blob = export(&checkpoint, &ExportOptions { trajectories, ..ExportOptions::default() }).unwrap().bytes;
    let (model, float) = (Model::parse(&blob).unwrap(), FloatPipeline::new(&checkpoint).unwrap());
    for class in [0, 1] {
        let sampler = Ddpm { variance: Variance::LearnedRange };
        let config = Config { steps: 25, class: Some(class), guidance: 1.2, ..Config::with_sampler(4, sampler) };
        let mut arena = Arena::new(model.arena_bytes());
        let mut dream = Pipeline::new(&model, arena.bytes(), config).unwrap();
        while dream.step() == Progress::Running {}
        let drawn = float.run(&config).unwrap();
        let bytes: Vec<u8> = float.image(&drawn).bytes().collect();
        let psnr = crate::picture::psnr_db(&bytes, &dream.image().bytes().collect::<Vec<_>>());
        // Left bright or right bright, as the class says, and nearly the same pixels.
        let half = |left: bool| -> u32 { (0..32).filter(|i| (i % 8 < 4) == left).map(|i| u32::from(bytes[i])).sum() };
        assert!(half(class == 0) > half(class == 1) + 1000, "class {class}: {bytes:?}");
        // As the shipped models are held to (tests/tests/parity.rs).
        assert!(psnr > 40.0, "class {class}: {psnr} dB");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
