//! Weights on the grid on which a blob keeps them, and the lesson that brings them there: to give what the real weights gave.

use anyhow::Result;
use candle_core::{Device, Tensor};
use picodream::blob::{WeightFormat, group_of};

use super::batch::{Batch, NoiseLevels, Order};
use super::estimate::{Level, class_rows, image_len};
use super::optimizer::{FlatLayout, State};
use super::sample::visited;
use super::shards::{self, detached};
use super::unet::UNet;
use crate::config::ModelConfig;
use crate::data::Dataset;
use crate::export::Trajectories;
use crate::export::grid::RowGrid;
use crate::grid::GridRecipe;
use crate::sampling::usual_spacing;

/// The weights at the nearest values of the recipe's grid that suits the weights `real`; biases, norms and the class embedding
/// stay as they are. The blob keeps the first and the last convolution, queries, the projection behind attention and what
/// makes the time embedding with 8 bits always.
///
/// The grid hangs on `real` alone, which do not change in training: one that followed its own largest weights would move
/// under all the others at every step.
#[must_use]
pub fn on_grid(layout: &FlatLayout, real: &[f32], flat: &[f32], recipe: &GridRecipe) -> Vec<f32> {
    layout.replaced(flat, |name, shape, range| {
        if shape.len() == 1 || name.starts_with("class_embedding") {
            return None;
        }
        let whole = ["conv_in.", "conv_out.", ".to_q.", ".to_out.", "time_emb"].iter().any(|part| name.contains(part));
        let format = if whole { WeightFormat::Int8 } else { recipe.format() };
        let (groups, coarser) = (groups_of(shape), coarser(name, shape, recipe));
        let rows = real[range.clone()].chunks_exact(groups.len()).zip(flat[range].chunks_exact(groups.len()));
        let nearest = |(real, row): (&[f32], &[f32])| -> Vec<f32> {
            let real: Vec<f32> = real.iter().zip(&coarser).map(|(w, times)| w / times).collect();
            let grid = RowGrid::suited(&real, format, &groups);
            let columns = row.iter().zip(&groups).zip(&coarser);
            columns.map(|((w, &group), times)| grid.nearest(w / times, group) * times).collect()
        };
        Some(rows.flat_map(nearest).collect())
    })
}

/// By column, how many times coarser than that of the row its grid is: [`GridRecipe::finer`] for the channels of a second source.
/// In this U-Net the first source of such a convolution has as many channels as its output.
fn coarser(name: &str, shape: &[usize], recipe: &GridRecipe) -> Vec<f32> {
    let columns = shape[1..].iter().product::<usize>();
    let times = name.strip_suffix(".weight").and_then(|op| recipe.finer.get(op)).copied().unwrap_or(1.0);
    let first = columns / shape[1] * shape[0];
    (0..columns).map(|i| if i < first { 1.0 } else { times }).collect()
}

/// The groups of the blob's 4-bit weights in a row of `[cout, cin, kernel, kernel]` or `[cout, cin]`.
fn groups_of(shape: &[usize]) -> Vec<usize> {
    let (cin, kernel) = (shape[1], shape.get(2).copied().unwrap_or(1));
    let taps = kernel * kernel;
    (0..cin * taps).map(|i| group_of(kernel, cin, (i % taps / kernel, i % kernel, i / taps))).collect()
}

/// The images of step `step`, half at the noise levels that training draws, half at those where the model's samplers stop.
#[must_use]
pub fn draw(config: &ModelConfig, data: &Dataset, levels: &NoiseLevels, order: &mut Order, step: usize) -> Batch {
    let Trajectories { sampler, steps, .. } = Trajectories::of(config);
    let spacing = usual_spacing(&sampler, config.few_step());
    let stops = steps.iter().flat_map(|&steps| visited(config, spacing, steps.into()));
    let stops: Vec<Level> = stops.filter(|level| *level != Level::CLEAN).collect();
    Batch::draw_at(config, data, levels, order, step, |stream| {
        if stream.next_f32() < 0.5 {
            return levels.draw(config.train.timestep_density, stream);
        }
        let Level { t, signal, noise } = stops[stream.below(stops.len() as u32) as usize];
        (t, signal, noise)
    })
}

/// Mean square distance of the output on the grid from the output of the real weights, `state.teacher`, and its gradient;
/// `state.weights` stand on the grid.
pub fn loss_and_gradient(
    config: &ModelConfig,
    layout: &FlatLayout,
    state: &State,
    batch: &Batch,
    threads: usize,
) -> Result<(f64, Vec<f32>)> {
    let (image, len) = (config.image, image_len(config));
    let teacher = detached(&layout.variables(&state.teacher)?);
    shards::loss_and_gradient(layout, &state.weights, batch.timesteps.len(), threads, |weights, range| {
        let shape = (range.len(), image.height, image.width, image.channels);
        let x = Tensor::from_slice(&batch.noised[range.start * len..range.end * len], shape, &Device::Cpu)?;
        let (timesteps, classes) = (&batch.timesteps[range.clone()], class_rows(&batch.classes, range));
        let output = UNet::new(config, weights).forward(&x, timesteps, classes)?;
        let target = UNet::new(config, &teacher).forward(&x, timesteps, classes)?;
        Ok((output - target)?.sqr()?.mean_all()?)
    })
}
