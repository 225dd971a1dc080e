//! Sinusoidal time embedding (arXiv:2006.11239), its two-layer MLP, and the class embedding, ending in a SiLU; or the choice
//! among baked biases.

use super::{Context, dots};
use crate::blob::{Region, TimeEmbedOp, TimeEmbedScratch};
use crate::math;
use crate::tensor::{Floats, Halves, f32s_mut, split};

/// Writes the embedding vector (f32 \[E\]) to the output tensor.
pub(crate) fn run(context: Context<'_>, op: &TimeEmbedOp, out: Region, arena: &mut [u8]) {
    let Some([out, scratch]) = split(arena, [out, op.common.scratch]) else { return };
    let out = f32s_mut(out);
    let time_dim = out.len();
    let data = op.data_layout(time_dim as u32, context.header.num_classes.into());
    let TimeEmbedScratch { embedding, hidden, .. } = op.scratch_layout(time_dim as u32);
    let Some([embedding, hidden]) = split(scratch, [embedding, hidden]) else { return };
    let (embedding, hidden) = (f32s_mut(embedding), f32s_mut(hidden));
    let array = |region| context.model.array(context.header, &op.common, region);

    if op.freq_dim == 0 {
        return pick(context, out);
    }
    let half = embedding.len() / 2;
    let freqs = Floats::new(array(data.freqs));
    for k in 0..half {
        let (sin, cos) = math::sin_cos(context.timestep * freqs.get(k));
        embedding[k] = cos;
        embedding[half + k] = sin;
    }
    dense(embedding, array(data.weight_1), Floats::new(array(data.scale_1)), Floats::new(array(data.bias_1)), hidden);
    for h in hidden.iter_mut() {
        *h = math::silu(*h);
    }
    dense(hidden, array(data.weight_2), Floats::new(array(data.scale_2)), Floats::new(array(data.bias_2)), out);
    let classes = array(data.class_embedding);
    for (e, value) in out.iter_mut().enumerate() {
        if !classes.is_empty() {
            *value += Halves::new(classes).get(usize::from(context.class) * time_dim + e);
        }
        *value = math::silu(*value);
    }
}

/// Marks the row of a class at the first baked timestep that is not above that of the context, or the last (a walk's steps stop
/// at those baked only), in both halves.
fn pick(context: Context<'_>, out: &mut [f32]) {
    let timesteps = Floats::new(context.model.baked_timesteps(context.header));
    // All but the last.
    let noisier = timesteps.iter_from(0).zip(timesteps.iter_from(1));
    let above = noisier.take_while(|(known, _)| *known > context.timestep).count();
    let row = above * (usize::from(context.header.num_classes) + 1) + usize::from(context.class);
    let (coarse, fine) = out.split_at_mut(out.len() / 2);
    for (half, mark) in [(coarse, 1.0), (fine, TimeEmbedOp::FINE)] {
        half.fill(0.0);
        if let Some(value) = half.get_mut(row) {
            *value = mark;
        }
    }
}

/// out\[o\] = (Σ w\[o\]\[i\] · x\[i\]) · scale\[o\] + bias\[o\], summed as in [`math::dot`].
fn dense(x: &[f32], weight: &[u8], scale: Floats<'_>, bias: Floats<'_>, out: &mut [f32]) {
    dots(x, weight, out);
    for (o, value) in out.iter_mut().enumerate() {
        *value = *value * scale.get(o) + bias.get(o);
    }
}
