//! Untrained networks of any shape with seeded weights: what tests of the engine, the exporter and the planner run on.

use picodream::rng::NoiseStream;

use crate::checkpoint::{Checkpoint, Tensor, expected_shapes};
use crate::config::{
    DataConfig, ImageConfig, ModelConfig, PredictionType, ScheduleConfig, TimestepDensity, TrainConfig, UNetConfig,
};

/// A valid config around a network: cosine schedule, v-prediction, data in −1..1.
#[must_use]
pub fn config(image: ImageConfig, unet: UNetConfig, classes: usize) -> ModelConfig {
    ModelConfig {
        name: "random".into(),
        licence: "MIT".into(),
        image,
        unet,
        prediction_type: PredictionType::VPrediction,
        schedule: ScheduleConfig::Cosine { num_train_timesteps: 1000, s: 0.008 },
        data: DataConfig {
            source: "none".into(),
            mean: 0.5,
            std: 0.5,
            licence: "CC0-1.0".into(),
            class_names: (0..classes).map(|i| format!("class {i}")).collect(),
        },
        train: TrainConfig {
            steps: 1,
            batch_size: 1,
            learning_rate: 1e-3,
            warmup_steps: 0,
            weight_decay: 0.0,
            clip_norm: 1.0,
            ema_decay: 0.9,
            label_dropout: 0.0,
            timestep_density: TimestepDensity::Uniform,
            seed: 1,
        },
        tune: None,
        grid: None,
    }
}

/// Gaussian weights scaled by 1/√fan-in, norm scales around 1, everything else small; the same seed, the same network.
#[must_use]
pub fn checkpoint(config: ModelConfig, seed: u64) -> Checkpoint {
    let mut noise = NoiseStream::new(seed, 0);
    let mut tensor = |name: &str, shape: Vec<usize>| {
        let fan_in: usize = shape[1..].iter().product();
        let (mean, std) = match shape.len() {
            1 if name.contains("norm") && name.ends_with("weight") => (1.0, 0.2),
            1 => (0.0, 0.1),
            _ => (0.0, 1.0 / (fan_in as f32).sqrt()),
        };
        let data = (0..shape.iter().product()).map(|_| mean + std * noise.next_gaussian()).collect();
        Tensor { shape, data }
    };
    let shapes = expected_shapes(&config);
    let tensors = shapes.into_iter().map(|(name, shape)| (name.clone(), tensor(&name, shape))).collect();
    Checkpoint { config, tensors }
}
