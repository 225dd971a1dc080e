//! Walks the network of a checkpoint, block by block, and lists its tensors and ops.

use anyhow::{Context, Result, ensure};

use super::graph::{Attention, Conv, Graph, Linear, Narrow, Norm, Op, Skips, TensorId, TensorInfo, TimeEmbed};
use crate::checkpoint::Checkpoint;

/// What a convolution reads and how, before its output tensor exists.
struct ConvSpec {
    src_a: TensorId,
    src_b: Option<TensorId>,
    residual: Option<TensorId>,
    stride: usize,
    upsample: bool,
    norm: Option<Norm>,
    silu: bool,
    time: Option<Linear>,
}

impl ConvSpec {
    fn plain(src_a: TensorId) -> Self {
        Self { src_a, src_b: None, residual: None, stride: 1, upsample: false, norm: None, silu: false, time: None }
    }
}

/// Tensors and ops so far.
pub(super) struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    tensors: Vec<TensorInfo>,
    ops: Vec<Op>,
    skips: Vec<TensorId>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, tensors: Vec::new(), ops: Vec::new(), skips: Vec::new() }
    }

    pub(super) fn build(mut self, skips: Skips) -> Result<Graph> {
        let config = self.checkpoint.config.clone();
        let (image, unet) = (config.image, &config.unet);
        let sample = self.tensor("sample", image.height, image.width, image.channels);
        let temb = self.tensor("time_embed", 1, 1, unet.time_embed_dim);
        self.time_embed(temb)?;
        let mut h = self.conv("conv_in", ConvSpec::plain(sample))?;
        self.skips.push(h);
        let levels = unet.block_out_channels.len();
        for i in 0..levels {
            h = self.down_block(i, i + 1 < levels, h)?;
        }
        h = self.resblock("mid_block.resnets.0", h, None)?;
        if unet.mid_attention {
            h = self.attention("mid_block.attentions.0", h)?;
        }
        h = self.resblock("mid_block.resnets.1", h, None)?;
        for u in 0..levels {
            h = self.up_block(u, levels - 1 - u, h)?;
        }
        let norm = Some(self.norm("conv_norm_out")?);
        let output = self.conv("conv_out", ConvSpec { norm, silu: true, ..ConvSpec::plain(h) })?;
        let graph =
            Graph { tensors: self.tensors, ops: self.ops, sample, temb, output, num_classes: config.num_classes() };
        Ok(match skips {
            Skips::Narrowed => narrow_skips(graph),
            Skips::Whole => graph,
        })
    }

    fn down_block(&mut self, level: usize, downsample: bool, mut h: TensorId) -> Result<TensorId> {
        let unet = &self.checkpoint.config.unet;
        let (layers, attend) = (unet.layers_per_block, unet.attention_levels[level]);
        for j in 0..layers {
            h = self.resblock(&format!("down_blocks.{level}.resnets.{j}"), h, None)?;
            if attend {
                h = self.attention(&format!("down_blocks.{level}.attentions.{j}"), h)?;
            }
            self.skips.push(h);
        }
        if downsample {
            let name = format!("down_blocks.{level}.downsamplers.0.conv");
            h = self.conv(&name, ConvSpec { stride: 2, ..ConvSpec::plain(h) })?;
            self.skips.push(h);
        }
        Ok(h)
    }

    fn up_block(&mut self, u: usize, level: usize, mut h: TensorId) -> Result<TensorId> {
        let unet = &self.checkpoint.config.unet;
        let (layers, attend) = (unet.layers_per_block, unet.attention_levels[level]);
        for j in 0..=layers {
            let skip = self.skips.pop();
            h = self.resblock(&format!("up_blocks.{u}.resnets.{j}"), h, skip)?;
            if attend {
                h = self.attention(&format!("up_blocks.{u}.attentions.{j}"), h)?;
            }
        }
        if level > 0 {
            let name = format!("up_blocks.{u}.upsamplers.0.conv");
            h = self.conv(&name, ConvSpec { upsample: true, ..ConvSpec::plain(h) })?;
        }
        Ok(h)
    }

    fn resblock(&mut self, name: &str, src_a: TensorId, src_b: Option<TensorId>) -> Result<TensorId> {
        let source = ConvSpec { src_b, ..ConvSpec::plain(src_a) };
        let norm = Some(self.norm(&format!("{name}.norm1"))?);
        let time = Some(self.linear(&format!("{name}.time_emb_proj"))?);
        let h =
            self.conv(&format!("{name}.conv1"), ConvSpec { src_b, norm, silu: true, time, ..ConvSpec::plain(src_a) })?;
        let shortcut = format!("{name}.conv_shortcut");
        let residual = if self.checkpoint.tensors.contains_key(&format!("{shortcut}.weight")) {
            self.conv(&shortcut, source)?
        } else {
            src_a
        };
        let norm = Some(self.norm(&format!("{name}.norm2"))?);
        let spec = ConvSpec { residual: Some(residual), norm, silu: true, ..ConvSpec::plain(h) };
        self.conv(&format!("{name}.conv2"), spec)
    }

    fn attention(&mut self, name: &str, x: TensorId) -> Result<TensorId> {
        let norm = self.norm(&format!("{name}.group_norm"))?;
        let (key, value) = (self.linear(&format!("{name}.to_k"))?, self.linear(&format!("{name}.to_v"))?);
        let weight = [key.weight, value.weight].concat();
        let bias = [key.bias, value.bias].concat();
        let spec = ConvSpec { norm: Some(norm.clone()), ..ConvSpec::plain(x) };
        let kv = self.push_conv(&format!("{name}.kv"), spec, 1, weight, bias)?;
        let query = self.linear(&format!("{name}.to_q"))?;
        let projection = self.linear(&format!("{name}.to_out.0"))?;
        let TensorInfo { height, width, channels, .. } = self.tensors[x];
        let out = self.tensor(name, height, width, channels);
        let heads = self.checkpoint.config.unet.attention_heads;
        self.ops.push(Op::Attention(Attention { name: name.into(), x, kv, out, norm, heads, query, projection }));
        Ok(out)
    }

    fn time_embed(&mut self, out: TensorId) -> Result<()> {
        let classes =
            if self.checkpoint.config.num_classes() > 0 { self.data("class_embedding.weight")?.1 } else { Vec::new() };
        let op = TimeEmbed {
            timesteps: Vec::new(),
            freq_dim: self.checkpoint.config.unet.time_freq_dim,
            linear_1: self.linear("time_embedding.linear_1")?,
            linear_2: self.linear("time_embedding.linear_2")?,
            classes,
            out,
        };
        self.ops.push(Op::TimeEmbed(op));
        Ok(())
    }

    /// A convolution whose weight is stored OIHW under `name`.
    fn conv(&mut self, name: &str, spec: ConvSpec) -> Result<TensorId> {
        let (shape, oihw) = self.data(&format!("{name}.weight"))?;
        let [cout, cin, kernel, _] = shape[..] else {
            anyhow::bail!("checkpoint: {name}.weight has shape {shape:?}; a convolution needs [cout, cin, k, k]");
        };
        let (_, bias) = self.data(&format!("{name}.bias"))?;
        let weight = oihw_to_ohwi(&oihw, cout, cin, kernel * kernel);
        self.push_conv(name, spec, kernel, weight, bias)
    }

    fn push_conv(
        &mut self,
        name: &str,
        spec: ConvSpec,
        kernel: usize,
        weight: Vec<f32>,
        bias: Vec<f32>,
    ) -> Result<TensorId> {
        let ConvSpec { src_a, src_b, residual, stride, upsample, norm, silu, time } = spec;
        let TensorInfo { height, width, channels, .. } = self.tensors[src_a];
        let cin = channels + src_b.map_or(0, |b| self.tensors[b].channels);
        ensure!(
            weight.len() == bias.len() * kernel * kernel * cin,
            "checkpoint: {name} has {} weights, but {cin} input channels need {}",
            weight.len(),
            bias.len() * kernel * kernel * cin
        );
        let scale = if upsample { 2 } else { 1 };
        let out = self.tensor(name, height * scale / stride, width * scale / stride, bias.len());
        let name = name.to_owned();
        let op = Conv { name, src_a, src_b, residual, out, kernel, stride, upsample, norm, silu, weight, bias, time };
        self.ops.push(Op::Conv(op));
        Ok(out)
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let (_, gamma) = self.data(&format!("{name}.weight"))?;
        let (_, beta) = self.data(&format!("{name}.bias"))?;
        let unet = &self.checkpoint.config.unet;
        Ok(Norm { groups: unet.norm_num_groups, eps: unet.norm_eps, gamma, beta })
    }

    fn linear(&self, name: &str) -> Result<Linear> {
        let (_, weight) = self.data(&format!("{name}.weight"))?;
        let (_, bias) = self.data(&format!("{name}.bias"))?;
        Ok(Linear { weight, bias })
    }

    fn data(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let tensor = self.checkpoint.tensors.get(name);
        let tensor = tensor.with_context(|| format!("checkpoint: the tensor {name} is missing"))?;
        let (shape, len) = (&tensor.shape, tensor.data.len());
        ensure!(
            len == shape.iter().product::<usize>(),
            "checkpoint: {name} has {len} values, which is not its shape {shape:?}"
        );
        Ok((tensor.shape.clone(), tensor.data.clone()))
    }

    fn tensor(&mut self, name: &str, height: usize, width: usize, channels: usize) -> TensorId {
        self.tensors.push(TensorInfo { name: name.to_owned(), height, width, channels });
        self.tensors.len() - 1
    }
}

/// `[cout][cin][ky·kx]` to `[cout][ky·kx][cin]`.
fn oihw_to_ohwi(oihw: &[f32], cout: usize, cin: usize, taps: usize) -> Vec<f32> {
    let mut weight = Vec::with_capacity(oihw.len());
    for o in 0..cout {
        for tap in 0..taps {
            weight.extend((0..cin).map(|i| oihw[(o * cin + i) * taps + tap]));
        }
    }
    weight
}

/// Lets everything behind the first skip concat read narrowed skips, each narrowed after its last reader before that.
fn narrow_skips(mut graph: Graph) -> Graph {
    let skip_of = |op: &Op| if let Op::Conv(op) = op { op.src_b } else { None };
    let mut skips: Vec<TensorId> = graph.ops.iter().filter_map(skip_of).collect();
    skips.sort_unstable();
    skips.dedup();
    for skip in skips {
        let Some(first_up) = graph.ops.iter().position(|op| skip_of(op).is_some()) else { break };
        let uses = |op: &Op| op.reads(graph.temb).contains(&skip) || op.out() == skip;
        // A skip that is read again at once would only be kept twice.
        let Some(last) = graph.ops[..first_up].iter().rposition(uses).filter(|last| last + 1 < first_up) else {
            continue;
        };
        let TensorInfo { name, height, width, channels } = graph.tensors[skip].clone();
        let (name, out) = (format!("{name}.skip"), graph.tensors.len());
        graph.tensors.push(TensorInfo { name: name.clone(), height, width, channels });
        for op in &mut graph.ops[first_up..] {
            if let Op::Conv(op) = op {
                op.src_b = op.src_b.map(|b| if b == skip { out } else { b });
            }
        }
        graph.ops.insert(last + 1, Op::Narrow(Narrow { name, src: skip, out }));
    }
    graph
}
