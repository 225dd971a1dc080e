//! Loss and gradient of a batch, shard by shard: shards go to threads in turn and are summed in their own order.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Result;
use candle_core::Tensor;

use super::optimizer::FlatLayout;

/// Images per shard. Gradients are summed shard by shard, so this number (not that of the threads) fixes the result.
pub const SHARD_IMAGES: usize = 16;

/// The weights of a network by name.
pub type Weights = BTreeMap<String, Tensor>;

/// Mean loss over `images` images and its gradient; `loss` gives the mean over a range of them as a scalar of the graph.
pub fn loss_and_gradient(
    layout: &FlatLayout,
    weights: &[f32],
    images: usize,
    threads: usize,
    loss: impl Fn(&Weights, Range<usize>) -> Result<Tensor> + Sync,
) -> Result<(f64, Vec<f32>)> {
    let variables = layout.variables(weights)?;
    let shards = images.div_ceil(SHARD_IMAGES);
    let threads = threads.min(shards);
    let shard = |number: usize| -> Result<(f64, Vec<f32>)> {
        let range = number * SHARD_IMAGES..((number + 1) * SHARD_IMAGES).min(images);
        let part = range.len() as f64 / images as f64;
        let loss = loss(&variables, range)?;
        let gradient = layout.gradients(&loss.backward()?, &variables, part as f32)?;
        Ok((f64::from(loss.to_scalar::<f32>()?) * part, gradient))
    };
    let work = |first: usize| (first..shards).step_by(threads).map(shard).collect::<Vec<_>>();
    let mut results: Vec<_> = if threads == 1 {
        vec![work(0).into_iter()]
    } else {
        std::thread::scope(|scope| {
            let work = &work;
            let handles: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
            handles.into_iter().map(|h| h.join().expect("a training thread panicked").into_iter()).collect()
        })
    };
    let (mut total, mut gradient) = (0.0, vec![0.0; layout.len()]);
    for number in 0..shards {
        let (loss, part) = results[number % threads].next().expect("one result per shard")?;
        total += loss;
        gradient.iter_mut().zip(part).for_each(|(sum, g)| *sum += g);
    }
    Ok((total, gradient))
}

/// The same weights outside the graph: nothing that is computed with them gets a gradient.
#[must_use]
pub fn detached(weights: &Weights) -> Weights {
    weights.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect()
}
