//! The float engine against the trainer's network, and the int8 runtime against the float engine on the shipped models.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use picodream::Model;
use picodream::rng::NoiseStream;
use picodream::sampler::Consistency;
use picodream_tools::checkpoint::Checkpoint;
use picodream_tools::config::{ImageConfig, UNetConfig};
use picodream_tools::diff::{DiffOptions, DiffReport, diff};
use picodream_tools::float::{FloatUNet, random};
use picodream_tools::inspect;
use picodream_tools::sampling::SamplerChoice;
use picodream_tools::train::unet::UNet;

/// The trainer's network, run by candle, on one image.
fn candle_forward(checkpoint: &Checkpoint, x: &[f32], t: f32, class: u32) -> Vec<f32> {
    let weights: BTreeMap<String, Tensor> = checkpoint
        .tensors
        .iter()
        .map(|(name, t)| (name.clone(), Tensor::from_slice(&t.data, t.shape.clone(), &Device::Cpu).unwrap()))
        .collect();
    let ImageConfig { width, height, channels } = checkpoint.config.image;
    let x = Tensor::from_slice(x, (1, height, width, channels), &Device::Cpu).unwrap();
    let y = UNet::new(&checkpoint.config, &weights).forward(&x, &[t], &[class]).unwrap();
    y.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn float_engine_agrees_with_the_trainer() {
    let wide = UNetConfig {
        block_out_channels: vec![8, 16, 24],
        layers_per_block: 2,
        attention_levels: vec![false, true, false],
        attention_heads: 2,
        norm_num_groups: 4,
        ..UNetConfig::default()
    };
    let grey = ImageConfig { width: 16, height: 16, channels: 1 };
    let colour = ImageConfig { width: 16, height: 8, channels: 3 };
    let learned = UNetConfig { learned_variance: true, ..wide.clone() };
    for (image, unet) in [(grey, UNetConfig::default()), (colour, wide), (colour, learned)] {
        let checkpoint = random::checkpoint(random::config(image, unet, 10), 4);
        let net = FloatUNet::new(&checkpoint).unwrap();
        let mut x = vec![0.0; image.width * image.height * image.channels];
        NoiseStream::new(1, 0).fill_gaussian(&mut x);
        let mut y = vec![0.0; image.width * image.height * checkpoint.config.output_channels()];
        for (t, class) in [(999.0, Some(3)), (500.25, Some(9)), (0.0, None)] {
            net.forward(&x, t, class, &mut y, &mut |_, _| {});
            let want = candle_forward(&checkpoint, &x, t, class.unwrap_or(10) as u32);
            let worst = y.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "timestep {t}, class {class:?}: {worst}");
        }
    }
}

/// The blob and the checkpoint that it was exported from.
fn shipped(name: &str) -> (Vec<u8>, Checkpoint) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    let blob = std::fs::read(path.with_extension("pdm")).unwrap();
    (blob, Checkpoint::load(&path.with_extension("safetensors")).unwrap())
}

/// What `picodream diff NAME --steps 20` compares.
fn parity(name: &str) -> DiffReport {
    let (blob, checkpoint) = shipped(name);
    diff(&Model::parse(&blob).unwrap(), &checkpoint, &DiffOptions::default()).unwrap()
}

fn assert_v_model(name: &str) {
    let report = parity(name);
    assert_eq!(report.steps.len(), 20);
    assert!(report.steps.iter().all(|step| step.x0_sqnr_db >= 33.0), "{name}: {:#?}", report.steps);
    assert!(report.image_psnr_db.mean >= 40.0, "{name}: {:?}", report.image_psnr_db);
}

#[test]
fn fashion_16_keeps_its_images() {
    assert_v_model("fashion-16");
}

#[test]
fn faces_16_keeps_its_images() {
    assert_v_model("faces-16");
}

#[test]
fn fashion_28_keeps_its_images() {
    assert_v_model("fashion-28");
}

#[test]
fn emoji_32_keeps_its_images() {
    assert_v_model("emoji-32");
}

#[test]
fn fashion_16_eps_keeps_its_images() {
    let report = parity("fashion-16-eps");
    assert!(report.image_psnr_db.mean >= 30.0, "{:?}", report.image_psnr_db);
}

#[test]
fn few_step_models_keep_their_images() {
    // As many images as `picodream diff` draws in four steps: with eight the figure of a call stands off by half a decibel.
    for name in ["fashion-16-fast", "fashion-16-nano-fast", "faces-16-fast"] {
        let (blob, checkpoint) = shipped(name);
        for steps in [1, 2, 4] {
            let sampler = SamplerChoice::Consistency(Consistency::default());
            let options = DiffOptions { sampler, steps, count: 40, ..DiffOptions::default() };
            let report = diff(&Model::parse(&blob).unwrap(), &checkpoint, &options).unwrap();
            assert!(report.steps.iter().all(|step| step.x0_sqnr_db >= 35.0), "{name}: {:#?}", report.steps);
        }
    }
}

#[test]
fn shipped_models_fit() {
    let small = ["fashion-16", "fashion-16-fast", "faces-16", "faces-16-fast", "fashion-16-eps"];
    let nano = ["fashion-16-nano", "fashion-16-nano-fast"].map(|name| (name, 40_000, 20 << 10));
    let large = [("fashion-28", 300_000, 96 << 10), ("emoji-32", 300_000, 136 << 10)];
    let all = small.map(|name| (name, 200_000, 40 << 10)).into_iter().chain(nano).chain(large);
    for (name, blob_limit, arena_limit) in all {
        let (blob, _) = shipped(name);
        let report = inspect::report(&Model::parse(&blob).unwrap()).unwrap();
        assert!(report.blob_bytes <= blob_limit, "{name}: {} bytes of blob", report.blob_bytes);
        let (arena, bound) = (report.arena_bytes, report.arena_lower_bound_bytes);
        assert!(f64::from(arena) <= 1.15 * f64::from(bound), "{name}: arena {arena}, lower bound {bound}");
        assert!(arena <= arena_limit, "{name}: arena {arena}");
    }
}
