//! What `train` and `tune` are asked to do: a file as it is, or a default recipe for data or model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use crate::config::{
    DataConfig, ImageConfig, ModelConfig, PredictionType, ScheduleConfig, TimestepDensity, TrainConfig, UNetConfig,
};
use crate::data::{self, Source};
use crate::files;
use crate::tune::{Method, TuneRecipe};

/// What the command line changes in a recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Optimiser steps.
    pub steps: Option<usize>,
    /// Seed.
    pub seed: Option<u64>,
    /// Width and height; only for data without a config of its own.
    pub size: Option<usize>,
    /// Grey images; only for data without a config of its own.
    pub grey: bool,
}

/// The config that `source` means: the path of a `.json`, a shipped model or built-in set, or data of one's own.
///
/// Reads a folder or IDX file once for its classes. Fails when there is no such thing, or when the config is not valid.
pub fn recipe(source: &str, overrides: &Overrides) -> Result<ModelConfig> {
    let shipped = shipped_config(source);
    let from_file = shipped.is_some() || source.ends_with(".json");
    ensure!(
        !from_file || (overrides.size.is_none() && !overrides.grey),
        "--size and --grey are for a folder or IDX file; {source} has a config, which says the image's shape"
    );
    let mut config = match shipped {
        Some(path) => read(&path)?,
        None if source.ends_with(".json") => read(Path::new(source))?,
        None => default_recipe(source, overrides)?,
    };
    if let Some(steps) = overrides.steps {
        config.train.steps = steps;
    }
    if let Some(seed) = overrides.seed {
        config.train.seed = seed;
    }
    config.validate()?;
    Ok(config)
}

/// The recipe of a shipped model, by its name or that of its data.
fn shipped_config(source: &str) -> Option<PathBuf> {
    let name = match source {
        "fashion" => "fashion-16",
        "faces" => "faces-16",
        "emoji" => "emoji-32",
        "fashion-16" | "faces-16" | "fashion-16-eps" | "emoji-32" => source,
        _ => return None,
    };
    let path = recipes().join(name).with_extension("json");
    path.is_file().then_some(path)
}

/// The folder of the shipped recipes.
fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/recipes")
}

fn read(path: &Path) -> Result<ModelConfig> {
    read_as(path, "a model config")
}

fn read_as<T: DeserializeOwned>(path: &Path, what: &str) -> Result<T> {
    let json = files::read(path)?;
    serde_json::from_slice(&json).with_context(|| format!("{} is not {what}", path.display()))
}

/// What the command line changes in a recipe of tuning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TuneOverrides {
    /// Another method, with its own defaults.
    pub method: Option<Method>,
    /// Guidance to distil.
    pub guidance: Option<f32>,
    /// Optimiser steps.
    pub steps: Option<usize>,
    /// Seed.
    pub seed: Option<u64>,
}

/// The recipe that tunes `base`: the file given, or that of the shipped tuned model, or the measured default.
pub fn tune_recipe(base: &ModelConfig, file: Option<&Path>, overrides: &TuneOverrides) -> Result<TuneRecipe> {
    let shipped = recipes().join(format!("{}-fast.json", base.name));
    let mut recipe = match (file, overrides.method) {
        (Some(path), _) => read_as(path, "a recipe of tuning")?,
        (None, Some(method)) => TuneRecipe::new(method),
        (None, None) if shipped.is_file() => read_as(&shipped, "a recipe of tuning")?,
        (None, None) => TuneRecipe::new(Method::CONSISTENCY),
    };
    recipe.guidance = overrides.guidance.unwrap_or(recipe.guidance);
    recipe.train.steps = overrides.steps.unwrap_or(recipe.train.steps);
    recipe.train.seed = overrides.seed.unwrap_or(recipe.train.seed);
    Ok(recipe)
}

/// v-prediction on a cosine schedule with the network and the recipe of the shipped models, data scaled to mean 0 and
/// standard deviation 1.
fn default_recipe(source: &str, overrides: &Overrides) -> Result<ModelConfig> {
    let kind = Source::parse(source)?;
    let size = overrides.size.unwrap_or(kind.size());
    let channels = if overrides.grey { 1 } else { kind.channels() };
    let image = ImageConfig { width: size, height: size, channels };
    let data = data::load_train(source, image)?;
    let (mean, std) = moments(&data.images);
    let unknown = |field: &str| format!("not stated: set {field} in the config");
    Ok(ModelConfig {
        name: model_name(source, size),
        licence: unknown("licence"),
        image,
        unet: UNetConfig::default(),
        prediction_type: PredictionType::VPrediction,
        schedule: ScheduleConfig::Cosine { num_train_timesteps: 1000, s: 0.008 },
        data: DataConfig {
            source: source.to_owned(),
            mean,
            std,
            licence: unknown("data.licence"),
            class_names: data.class_names,
        },
        train: TrainConfig {
            steps: 14_000,
            batch_size: 128,
            learning_rate: 2e-3,
            warmup_steps: 200,
            weight_decay: 0.01,
            clip_norm: 1.0,
            ema_decay: 0.999,
            label_dropout: 0.1,
            timestep_density: TimestepDensity::LogNormalSigma { mean: -0.6, std: 1.4 },
            seed: 1,
        },
        tune: None,
        grid: None,
    })
}

/// Mean and standard deviation on the 0..1 scale, to three decimals; the deviation at least 0.05, for flat pictures.
fn moments(pixels: &[u8]) -> (f32, f32) {
    let n = pixels.len().max(1) as f64;
    let values = || pixels.iter().map(|&p| f64::from(p) / 255.0);
    let mean = values().sum::<f64>() / n;
    let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let round = |x: f64| ((x * 1000.0).round() / 1000.0) as f32;
    (round(mean), round(variance.sqrt().max(0.05)))
}

/// The last part of the path in the letters that a name may have, and the size.
fn model_name(source: &str, size: usize) -> String {
    let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let letters = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let stem: String = letters.take(24).collect();
    format!("{}-{size}", if stem.is_empty() { "model" } else { &stem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuning_is_by_default_what_was_measured_best() {
        // docs/training.md: what was tried.
        let shipped: TuneRecipe = read_as(&recipes().join("fashion-16-fast.json"), "a recipe of tuning").unwrap();
        assert_eq!(Method::CONSISTENCY, shipped.method);
    }

    #[test]
    fn names_are_made_of_allowed_letters() {
        assert_eq!(model_name("/a/My Pictures (2)", 16), "my-pictures--2--16");
        assert_eq!(model_name("..", 8), "model-8");
    }

    #[test]
    fn moments_of_half_black_half_white() {
        assert_eq!(moments(&[0, 255, 0, 255]), (0.5, 0.5));
        assert_eq!(moments(&[51; 9]), (0.2, 0.05));
    }

    #[test]
    fn data_in_the_repository_gives_a_valid_config() {
        let config =
            recipe("fashion-mini", &Overrides { steps: Some(7), seed: Some(3), ..Overrides::default() }).unwrap();
        assert_eq!((config.train.steps, config.train.seed, config.image.channels), (7, 3, 1));
        assert_eq!(config.num_classes(), 10);
        // All emoji have the recipe of the shipped model, a choice of classes one of its own.
        let shipped = recipe("emoji", &Overrides::default()).unwrap();
        assert_eq!((&shipped.name[..], shipped.num_classes()), ("emoji-32", 2));
        let config = recipe("emoji:Food,Plants", &Overrides::default()).unwrap();
        let ImageConfig { width, height, channels } = config.image;
        assert_eq!((width, height, channels, config.num_classes()), (32, 32, 3, 2));
        assert_eq!((&config.name[..], &config.data.source[..]), ("emoji-food-plants-32", "emoji:Food,Plants"));
    }

    #[test]
    fn what_is_absent_or_wrong_is_named() {
        let error = |source: &str| format!("{:#}", recipe(source, &Overrides::default()).unwrap_err());
        assert!(error("no-such.json").contains("cannot read no-such.json"));
        assert!(error("no-such-folder").contains("no-such-folder"));
    }
}
