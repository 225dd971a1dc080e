//! Runs a [`Graph`] in f32, batch 1: the reference that int8 is measured against, and the source of calibration data.
//!
//! Same formulas as the int8 runtime without its rounding; sums inside GroupNorm are f64, matrix products go through
//! [`super::gemm`], whose order of summation depends on the machine: results agree across machines to about 1e-5, not in bits.

use anyhow::Result;

use super::bake::pick;
use super::gemm::{MatRef, gemm};
use super::graph::{Attention, Conv, Graph, Linear, Norm, Op, Skips, TensorId, TensorInfo, TimeEmbed};
use crate::checkpoint::Checkpoint;

/// What one op read and wrote.
#[derive(Clone, Copy, Debug)]
pub struct OpTrace<'a> {
    /// What enters the op's integer matrix products, after norm and SiLU. For a convolution: source a and source b (empty
    /// without one), pixels of channels. For attention: the normalised x (input of q) and the attention's result (input
    /// of the projection). For the others: both empty.
    pub inputs: [&'a [f32]; 2],
    /// The output tensor, NHWC.
    pub output: &'a [f32],
}

/// One op of one pass, for those who put other values in place of its result.
#[derive(Clone, Copy, Debug)]
pub struct OpCall<'a> {
    /// Which op of the graph.
    pub index: usize,
    /// The pass's timestep.
    pub timestep: f32,
    /// The pass's class; `None` is the null class.
    pub class: Option<usize>,
    /// By tensor: what has been written in this pass.
    pub values: &'a [Vec<f32>],
}

/// The f32 engine.
#[derive(Clone, Debug)]
pub struct FloatUNet {
    graph: Graph,
}

impl FloatUNet {
    /// Lowers a checkpoint; fails when a tensor is absent or of the wrong size.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        Self::with_skips(checkpoint, Skips::default())
    }

    /// The same with the op list of other skips; it computes the same.
    pub fn with_skips(checkpoint: &Checkpoint, skips: Skips) -> Result<Self> {
        Ok(Self { graph: Graph::new(checkpoint, skips)? })
    }

    /// Runs the ops in another order from now on, if [`Graph::reordered`] accepts it; it computes the same.
    pub fn reorder(&mut self, order: &[usize]) {
        if let Some(graph) = self.graph.reordered(order) {
            self.graph = graph;
        }
    }

    /// Knows these timesteps only from now on, their biases written down as [`Graph::baked`] does.
    pub fn bake(&mut self, timesteps: &[f32]) {
        self.graph = self.graph.baked(timesteps);
    }

    /// The op list it runs.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// One pass of the network: `x` is an NHWC image, `out` one too, or with twice its channels where the network gives
    /// variances; `t` a timestep in 0..T (fractions allowed), `class` `None`
    /// the null class (ignored by an unconditional model). `observer` sees every op by name, in order of execution.
    ///
    /// # Panics
    /// When `x` or `out` has another length than that, or `class` is not below the number of classes.
    pub fn forward(
        &self,
        x: &[f32],
        t: f32,
        class: Option<usize>,
        out: &mut [f32],
        observer: &mut impl FnMut(&str, &OpTrace<'_>),
    ) {
        self.forward_replacing(x, t, class, out, observer, &mut |_, _| {});
    }

    /// Like [`FloatUNet::forward`]; `replace` may overwrite what an op has computed before anything reads or sees it.
    pub fn forward_replacing(
        &self,
        x: &[f32],
        t: f32,
        class: Option<usize>,
        out: &mut [f32],
        observer: &mut impl FnMut(&str, &OpTrace<'_>),
        replace: &mut impl FnMut(&OpCall<'_>, &mut [f32]),
    ) {
        let graph = &self.graph;
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); graph.tensors.len()];
        values[graph.sample] = x.to_vec();
        assert_eq!(x.len(), graph.tensors[graph.sample].len(), "x_t has another length than the image");
        let mut scratch = Scratch::default();
        for (index, op) in graph.ops.iter().enumerate() {
            let mut result = match op {
                Op::TimeEmbed(op) => time_embed(op, t, class, graph.num_classes),
                Op::Conv(op) => conv(graph, op, &values, &mut scratch),
                Op::Narrow(op) => values[op.src].clone(),
                Op::Attention(op) => attention(&graph.tensors[op.x], op, &values, &mut scratch),
            };
            replace(&OpCall { index, timestep: t, class, values: &values }, &mut result);
            observer(op.name(), &OpTrace { inputs: scratch.traced(op, &values), output: &result });
            values[op.out()] = result;
        }
        out.copy_from_slice(&values[graph.output]);
    }
}

/// Buffers kept from op to op.
#[derive(Default)]
struct Scratch {
    /// Normalised sources; empty where the raw source was used.
    branches: [Vec<f32>; 2],
    columns: Vec<f32>,
}

impl Scratch {
    fn traced<'a>(&'a self, op: &Op, values: &'a [Vec<f32>]) -> [&'a [f32]; 2] {
        match op {
            Op::TimeEmbed(_) | Op::Narrow(_) => [&[], &[]],
            Op::Conv(op) => [self.source(op, 0, values), self.source(op, 1, values)],
            Op::Attention(_) => [&self.branches[0], &self.branches[1]],
        }
    }

    /// Branch 0 or 1 of a convolution's input.
    fn source<'a>(&'a self, op: &Conv, branch: usize, values: &'a [Vec<f32>]) -> &'a [f32] {
        match [Some(op.src_a), op.src_b][branch] {
            None => &[],
            Some(_) if op.norm.is_some() || op.silu => &self.branches[branch],
            Some(id) => &values[id],
        }
    }
}

/// x·σ(x).
fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

fn linear(layer: &Linear, x: &[f32]) -> Vec<f32> {
    let rows = layer.weight.chunks_exact(x.len()).zip(&layer.bias);
    rows.map(|(row, bias)| bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect()
}

/// cos(t·f_k) for k < F/2, then sin(t·f_k), f_k = exp(−ln(10000)·k/(F/2)).
fn sinusoids(t: f32, freq_dim: usize) -> Vec<f32> {
    let half = freq_dim / 2;
    let angle = |k: usize| f64::from(t) * (-(10_000f64.ln()) * k as f64 / half as f64).exp();
    (0..half).map(|k| angle(k).cos() as f32).chain((0..half).map(|k| angle(k).sin() as f32)).collect()
}

pub(super) fn time_embed(op: &TimeEmbed, t: f32, class: Option<usize>, num_classes: usize) -> Vec<f32> {
    if !op.timesteps.is_empty() {
        return pick(op, t, class, num_classes);
    }
    let mut hidden = linear(&op.linear_1, &sinusoids(t, op.freq_dim));
    hidden.iter_mut().for_each(|x| *x = silu(*x));
    let mut temb = linear(&op.linear_2, &hidden);
    if num_classes > 0 {
        let row = class.unwrap_or(num_classes);
        assert!(class.is_none_or(|c| c < num_classes), "class {row} of {num_classes}");
        let width = temb.len();
        temb.iter_mut().zip(&op.classes[row * width..]).for_each(|(x, c)| *x += c);
    }
    temb.iter_mut().for_each(|x| *x = silu(*x));
    temb
}

/// Per channel (a, b) with norm(x) = a·x + b, statistics taken over both sources together.
fn norm_affine(norm: &Norm, sources: [&[f32]; 2], channels: [usize; 2]) -> Vec<(f32, f32)> {
    let mut sums = Vec::with_capacity(channels[0] + channels[1]);
    for (data, width) in sources.into_iter().zip(channels).filter(|(data, _)| !data.is_empty()) {
        let start = sums.len();
        sums.resize(start + width, (0.0f64, 0.0f64));
        for pixel in data.chunks_exact(width) {
            for (sum, &x) in sums[start..].iter_mut().zip(pixel) {
                sum.0 += f64::from(x);
                sum.1 += f64::from(x) * f64::from(x);
            }
        }
    }
    let per_group = sums.len() / norm.groups;
    let count = (per_group * sources[0].len() / channels[0]) as f64;
    let mut affine = Vec::with_capacity(sums.len());
    for (g, group) in sums.chunks_exact(per_group).enumerate() {
        let mean = group.iter().map(|s| s.0).sum::<f64>() / count;
        let variance = (group.iter().map(|s| s.1).sum::<f64>() / count - mean * mean).max(0.0);
        let inverse = 1.0 / (variance + f64::from(norm.eps)).sqrt();
        for c in g * per_group..(g + 1) * per_group {
            let a = f64::from(norm.gamma[c]) * inverse;
            affine.push((a as f32, (f64::from(norm.beta[c]) - a * mean) as f32));
        }
    }
    affine
}

/// Writes the normalised, activated sources into `scratch.branches`, where the op asks for it.
fn prepare(norm: Option<&Norm>, activate: bool, sources: [&[f32]; 2], channels: [usize; 2], scratch: &mut Scratch) {
    let affine = norm.map(|norm| norm_affine(norm, sources, channels));
    for (branch, data) in sources.into_iter().enumerate() {
        let target = &mut scratch.branches[branch];
        target.clear();
        target.extend_from_slice(data);
        if let Some(affine) = affine.as_ref().filter(|_| !data.is_empty()) {
            let affine = &affine[branch * channels[0]..][..channels[branch]];
            for pixel in target.chunks_exact_mut(channels[branch]) {
                pixel.iter_mut().zip(affine).for_each(|(x, (a, b))| *x = a * *x + b);
            }
        }
        if activate {
            target.iter_mut().for_each(|x| *x = silu(*x));
        }
    }
}

fn conv(graph: &Graph, op: &Conv, values: &[Vec<f32>], scratch: &mut Scratch) -> Vec<f32> {
    let value = |id: Option<TensorId>| id.map_or(&[][..], |id| &values[id][..]);
    let width = |id: Option<TensorId>| id.map_or(0, |id| graph.tensors[id].channels);
    let channels = [width(Some(op.src_a)), width(op.src_b)];
    if op.norm.is_some() || op.silu {
        prepare(op.norm.as_ref(), op.silu, [value(Some(op.src_a)), value(op.src_b)], channels, scratch);
    }
    let mut columns = std::mem::take(&mut scratch.columns);
    columns.clear();
    let sources = [scratch.source(op, 0, values), scratch.source(op, 1, values)];
    im2col(op, &graph.tensors[op.src_a], sources, channels, &mut columns);

    let mut bias = op.bias.clone();
    if let Some(time) = &op.time {
        bias.iter_mut().zip(linear(time, &values[graph.temb])).for_each(|(b, t)| *b += t);
    }
    let pixels = graph.tensors[op.out].height * graph.tensors[op.out].width;
    let mut out = bias.repeat(pixels);
    out.iter_mut().zip(value(op.residual)).for_each(|(o, r)| *o += r);
    let depth = op.kernel * op.kernel * (channels[0] + channels[1]);
    let weight = MatRef::new(&op.weight, op.cout(), depth, depth);
    gemm(1.0, MatRef::new(&columns, pixels, depth, depth), weight.t(), 1.0, &mut out, op.cout());
    scratch.columns = columns;
    out
}

/// What enters the matrix product of a convolution with these prepared inputs (of its trace): rows per output pixel of
/// `[ky][kx][channels of a, channels of b]`.
#[must_use]
pub fn columns(graph: &Graph, op: &Conv, inputs: [&[f32]; 2]) -> Vec<f32> {
    let source = &graph.tensors[op.src_a];
    let channels = [source.channels, op.src_b.map_or(0, |b| graph.tensors[b].channels)];
    let mut columns = Vec::new();
    im2col(op, source, inputs, channels, &mut columns);
    columns
}

/// Appends `[output pixel][ky][kx][channels of a, channels of b]`, zero outside the image.
fn im2col(op: &Conv, source: &TensorInfo, sources: [&[f32]; 2], channels: [usize; 2], columns: &mut Vec<f32>) {
    let shift = usize::from(op.upsample);
    let (height, width) = (source.height << shift, source.width << shift);
    let (pad, cin) = (op.kernel / 2, channels[0] + channels[1]);
    for y in (0..height).step_by(op.stride) {
        for x in (0..width).step_by(op.stride) {
            for (ky, kx) in (0..op.kernel).flat_map(|ky| (0..op.kernel).map(move |kx| (ky, kx))) {
                let (iy, ix) = ((y + ky).wrapping_sub(pad), (x + kx).wrapping_sub(pad));
                if iy >= height || ix >= width {
                    columns.resize(columns.len() + cin, 0.0);
                    continue;
                }
                let pixel = (iy >> shift) * source.width + (ix >> shift);
                columns.extend_from_slice(&sources[0][pixel * channels[0]..][..channels[0]]);
                if channels[1] > 0 {
                    columns.extend_from_slice(&sources[1][pixel * channels[1]..][..channels[1]]);
                }
            }
        }
    }
}

fn attention(x_info: &TensorInfo, op: &Attention, values: &[Vec<f32>], scratch: &mut Scratch) -> Vec<f32> {
    let (tokens, channels) = (x_info.height * x_info.width, x_info.channels);
    prepare(Some(&op.norm), false, [&values[op.x], &[]], [channels, 0], scratch);
    let square = |weight| MatRef::new(weight, channels, channels, channels).t();
    let mut query = op.query.bias.repeat(tokens);
    let normed = MatRef::new(&scratch.branches[0], tokens, channels, channels);
    gemm(1.0, normed, square(&op.query.weight), 1.0, &mut query, channels);

    let mut mixed = vec![0.0; tokens * channels];
    let mut scores = vec![0.0; tokens * tokens];
    let size = channels / op.heads;
    for start in (0..channels).step_by(size) {
        let q = MatRef::new(&query[start..], tokens, size, channels);
        let k = MatRef::new(&values[op.kv][start..], tokens, size, 2 * channels);
        let v = MatRef::new(&values[op.kv][channels + start..], tokens, size, 2 * channels);
        gemm(1.0 / (size as f32).sqrt(), q, k.t(), 0.0, &mut scores, tokens);
        scores.chunks_exact_mut(tokens).for_each(softmax);
        gemm(1.0, MatRef::new(&scores, tokens, tokens, tokens), v, 0.0, &mut mixed[start..], channels);
    }
    let mut out = values[op.x].clone();
    out.chunks_exact_mut(channels).for_each(|row| row.iter_mut().zip(&op.projection.bias).for_each(|(o, b)| *o += b));
    let mixed_matrix = MatRef::new(&mixed, tokens, channels, channels);
    gemm(1.0, mixed_matrix, square(&op.projection.weight), 1.0, &mut out, channels);
    scratch.branches[1] = mixed;
    out
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}
