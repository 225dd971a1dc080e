//! Networks that also give variances (arXiv:2102.09672): who does not ask for them draws as if there were none, with both
//! engines; who does stays close to the float engine.

use picodream::Model;
use picodream::sampler::{AnySampler, Variance};
use picodream::spacing::{AnySpacing, Trailing};
use picodream_tools::checkpoint::{Checkpoint, Tensor};
use picodream_tools::config::{ImageConfig, ModelConfig, UNetConfig};
use picodream_tools::diff::{DiffOptions, diff};
use picodream_tools::editing::Edit;
use picodream_tools::export::{ExportOptions, Trajectories, export};
use picodream_tools::float::{FloatPipeline, random};
use picodream_tools::inspect;
use picodream_tools::picture::psnr_db;
use picodream_tools::sampling::{DrawnImage, Network, Request, Settings, draw_one};

const IMAGE: ImageConfig = ImageConfig { width: 8, height: 4, channels: 3 };

fn learned() -> Checkpoint {
    let unet = UNetConfig { block_out_channels: vec![8, 8], learned_variance: true, ..UNetConfig::default() };
    random::checkpoint(random::config(IMAGE, unet, 3), 6)
}

/// The same network without the filters of the variances.
fn without_variances(checkpoint: &Checkpoint) -> Checkpoint {
    let mut plain = checkpoint.clone();
    plain.config.unet.learned_variance = false;
    for name in ["conv_out.weight", "conv_out.bias"] {
        let Tensor { shape, data } = plain.tensors.get_mut(name).unwrap();
        shape[0] = IMAGE.channels;
        data.truncate(data.len() / 2);
    }
    plain
}

fn blob(checkpoint: &Checkpoint) -> Vec<u8> {
    let trajectories = Trajectories { images: 4, steps: vec![4], ..Trajectories::default() };
    export(checkpoint, &ExportOptions { trajectories, ..ExportOptions::default() }).unwrap().bytes
}

fn drawn(network: &Network<'_>, settings: &Settings) -> DrawnImage {
    draw_one(network, settings, Request { seed: 5, class: Some(1) }).unwrap()
}

/// Every sampler, with guidance (whose second pass is kept without variances) and as an edit.
fn settings() -> Vec<(&'static str, Settings)> {
    let spacing = Some(AnySpacing::Trailing(Trailing));
    let guided = Settings { steps: 5, guidance: 2.5, negative_class: Some(2), spacing, ..Settings::default() };
    let of = |(name, sampler)| (name, Settings { sampler, ..guided.clone() });
    let picture = vec![90; 96];
    let mask = (0..32).map(|i| u8::from(i % 8 < 4)).collect();
    let edit = Edit::Inpaint { picture, mask, repeats: 2 };
    AnySampler::ALL.into_iter().map(of).chain([("inpainting", Settings { edit, ..guided.clone() })]).collect()
}

#[test]
fn who_does_not_ask_for_variances_draws_the_same_bits() {
    let learned = learned();
    let plain = without_variances(&learned);
    let (with, without) = (blob(&learned), blob(&plain));
    let int8 = [&with, &without].map(|blob| Network::Int8(Model::parse(blob).unwrap()));
    let float = [&learned, &plain].map(|checkpoint| Network::F32(FloatPipeline::new(checkpoint).unwrap()));
    for (name, settings) in settings() {
        assert_eq!(drawn(&int8[0], &settings), drawn(&int8[1], &settings), "{name}");
        // The float engine's matrix products may sum in another order for another number of columns.
        let [a, b] = float.each_ref().map(|network| drawn(network, &settings).pixels);
        assert!(psnr_db(&a, &b) > 60.0, "{name}: {}", psnr_db(&a, &b));
    }
    let reports = [&with, &without].map(|blob| inspect::report(&Model::parse(blob).unwrap()).unwrap());
    assert_eq!(reports.each_ref().map(|report| report.learned_variance), [true, false]);
}

#[test]
fn learned_range_reads_them_and_both_engines_agree() {
    let learned = learned();
    let blob = blob(&learned);
    let model = Model::parse(&blob).unwrap();
    let (int8, float) = (Network::Int8(model), Network::F32(FloatPipeline::new(&learned).unwrap()));
    let of = |variance| {
        let sampler = AnySampler::Ddpm(picodream::Ddpm { variance });
        Settings { steps: 20, sampler, guidance: 1.5, ..Settings::default() }
    };
    let [small, large, range] = [Variance::FixedSmall, Variance::FixedLarge, Variance::LearnedRange]
        .map(|variance| drawn(&int8, &of(variance)).pixels);
    assert!(range != small && range != large);
    let psnr = psnr_db(&drawn(&float, &of(Variance::LearnedRange)).pixels, &range);
    let fixed = psnr_db(&drawn(&float, &of(Variance::FixedSmall)).pixels, &small);
    // The variances are quantised as the prediction is: they may cost some decibels, not more.
    assert!(psnr > 20.0 && psnr > fixed - 6.0, "{psnr} dB, with a fixed variance {fixed} dB");
    let report = diff(&model, &learned, &DiffOptions { steps: 4, count: 2, ..DiffOptions::default() }).unwrap();
    assert!(report.steps.iter().all(|step| step.x0_sqnr_db > 20.0 && step.output_sqnr_db > 20.0), "{report:?}");
}

#[test]
fn old_configs_read_as_without_variances_and_stay_as_they_are() {
    let plain = without_variances(&learned()).config;
    let json = serde_json::to_string(&plain).unwrap();
    assert!(!json.contains("learned_variance"));
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), plain);
    let json = serde_json::to_string(&learned().config).unwrap();
    assert!(json.contains("\"learned_variance\":true"));
    assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap().output_channels(), 6);
}
