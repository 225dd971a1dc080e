//! Time of one network call on this computer: the int8 runtime against f32 networks with the same weights.
//!
//! One thread, batch 1, the networks in turn within one run, so that what else the computer does hits them alike; what is
//! told is the ratio of medians. Absolute times are this computer's, at this moment. There are three f32 networks: candle's
//! with candle's own convolution, which is what a user of candle has; the same with the trainer's operators; and the
//! engine that calibration runs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use picodream::rng::NoiseStream;
use picodream::{BACKEND, Model, UNet};

use super::HostReport;
use crate::checkpoint::Checkpoint;
use crate::diff::Arena;
use crate::float::FloatUNet;
use crate::train::host;
use crate::train::unet::{Convolutions, UNet as CandleUNet};

/// Calls before the clock runs.
const WARM_UP: usize = 3;

/// Times `repetitions` network calls of each network; `on_progress` hears how many are done.
///
/// # Errors
/// When blob and checkpoint are not of one network.
pub fn measure(
    model: &Model<'_>,
    checkpoint: &Checkpoint,
    repetitions: usize,
    on_progress: impl Fn(usize),
) -> Result<HostReport> {
    host::prepare();
    let mut int8 = Int8::new(model)?;
    let candle = Candle::new(checkpoint)?;
    let engine = FloatUNet::new(checkpoint)?;
    let noise = int8.noise.clone();
    let mut output = vec![0.0; noise.len()];
    let mut all = [(); 4].map(|()| Vec::with_capacity(repetitions));
    for done in 0..WARM_UP + repetitions {
        let times = [
            seconds(|| {
                int8.forward();
                Ok(())
            })?,
            seconds(|| candle.forward(&noise, Convolutions::Candle))?,
            seconds(|| candle.forward(&noise, Convolutions::Own))?,
            seconds(|| {
                engine.forward(&noise, TIMESTEP, None, &mut output, &mut |_, _| {});
                Ok(())
            })?,
        ];
        if done >= WARM_UP {
            all.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
            on_progress(done + 1 - WARM_UP);
        }
    }
    let [int8_ms, f32_ms, f32_own_operators_ms, float_engine_ms] = all.map(|times| 1e3 * median(times));
    Ok(HostReport {
        model: checkpoint.config.name.clone(),
        int8_ms,
        f32_ms,
        ratio: f32_ms / int8_ms,
        f32_own_operators_ms,
        float_engine_ms,
        repetitions,
        backend: BACKEND,
        built_for: super::built_for(),
    })
}

/// In the middle of the trajectory.
const TIMESTEP: f32 = 500.0;

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The int8 network with its arena.
struct Int8<'m> {
    network: UNet<'m>,
    arena: Arena,
    noise: Vec<f32>,
}

impl<'m> Int8<'m> {
    fn new(model: &Model<'m>) -> Result<Self> {
        let network = UNet::new(model).map_err(|error| anyhow!("{error}"))?;
        let mut arena = Arena::new(model.arena_bytes());
        let mut noise = vec![0.0; network.sample(arena.bytes()).len()];
        NoiseStream::new(1, 0).fill_gaussian(&mut noise);
        Ok(Self { network, arena, noise })
    }

    fn forward(&mut self) {
        let arena = self.arena.bytes();
        self.network.sample_mut(arena).copy_from_slice(&self.noise);
        self.network.forward(TIMESTEP, self.network.header().num_classes, arena);
        black_box(self.network.model_output(arena));
    }
}

/// The network that the trainer trains.
struct Candle<'c> {
    checkpoint: &'c Checkpoint,
    weights: BTreeMap<String, Tensor>,
}

impl<'c> Candle<'c> {
    fn new(checkpoint: &'c Checkpoint) -> Result<Self> {
        let tensor = |(name, tensor): (&String, &crate::checkpoint::Tensor)| {
            Ok((name.clone(), Tensor::from_slice(&tensor.data, &tensor.shape[..], &Device::Cpu)?))
        };
        Ok(Self { checkpoint, weights: checkpoint.tensors.iter().map(tensor).collect::<Result<_>>()? })
    }

    fn forward(&self, noise: &[f32], convolutions: Convolutions) -> Result<()> {
        let config = &self.checkpoint.config;
        let shape = (1, config.image.height, config.image.width, config.image.channels);
        let null_class = [config.num_classes() as u32];
        let classes = if config.num_classes() > 0 { &null_class[..] } else { &[] };
        let x = Tensor::from_slice(noise, shape, &Device::Cpu)?;
        black_box(CandleUNet::with(config, &self.weights, convolutions).forward(&x, &[TIMESTEP], classes)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ImageConfig, UNetConfig};
    use crate::export::{ExportOptions, Trajectories, export};
    use crate::float::random;

    #[test]
    fn the_networks_run_on_one_input() {
        let unet = UNetConfig { block_out_channels: vec![8, 16], ..UNetConfig::default() };
        let image = ImageConfig { width: 8, height: 8, channels: 1 };
        for classes in [0, 2] {
            let checkpoint = random::checkpoint(random::config(image, unet.clone(), classes), 2);
            let trajectories = Trajectories { images: 2, steps: vec![2], ..Trajectories::default() };
            let exported = export(&checkpoint, &ExportOptions { trajectories, ..ExportOptions::default() }).unwrap();
            let model = Model::parse(&exported.bytes).unwrap();
            let report = measure(&model, &checkpoint, 2, |_| ()).unwrap();
            let times = [report.int8_ms, report.f32_ms, report.f32_own_operators_ms, report.float_engine_ms];
            assert!(times.iter().all(|ms| *ms > 0.0), "{report:?}");
            assert_eq!(report.ratio, report.f32_ms / report.int8_ms);
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
