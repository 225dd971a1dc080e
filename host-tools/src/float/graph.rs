//! The U-Net as a list of tensors and ops: the one lowering of a checkpoint, run in f32 here and quantised by `export`.
//!
//! Tensors are NHWC with batch 1. Convolution weights are `[cout][ky][kx][cin]`. A ResBlock becomes `NAME.conv1`, for a
//! changing width `NAME.conv_shortcut`, and `NAME.conv2`; an attention block becomes `NAME.kv` (a 1×1 convolution that
//! writes keys, then values, per token) and `NAME`. A skip concat is never made: ops read one or two sources.

use anyhow::{Context, Result, ensure};

use crate::checkpoint::Checkpoint;

/// Index into [`Graph::tensors`].
pub type TensorId = usize;

/// One NHWC tensor, batch 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name of the op that writes it; `sample` for x_t.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl TensorInfo {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// GroupNorm over the (concatenated) channels of an op's sources.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Scale per channel.
    pub gamma: Vec<f32>,
    /// Shift per channel.
    pub beta: Vec<f32>,
}

/// y = W·x + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out][in]`.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

impl Linear {
    /// Length of x.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// Length of y.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }
}

/// temb = SiLU(linear_2(SiLU(linear_1(sinusoids of t))) + class row).
#[derive(Clone, Debug)]
pub struct TimeEmbed {
    /// Length of the sinusoidal embedding: half cosines, then half sines.
    pub freq_dim: usize,
    /// First layer.
    pub linear_1: Linear,
    /// Second layer, before the class row is added.
    pub linear_2: Linear,
    /// `[num_classes + 1][E]`, the last row being the null class; empty for an unconditional model.
    pub classes: Vec<f32>,
    /// Where temb goes.
    pub out: TensorId,
}

/// Norm → SiLU → convolution → + bias + time bias → + residual.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Name in the blob's op table.
    pub name: String,
    /// First source.
    pub src_a: TensorId,
    /// Second source (a skip), concatenated after the first.
    pub src_b: Option<TensorId>,
    /// Added to the output.
    pub residual: Option<TensorId>,
    /// Where the result goes.
    pub out: TensorId,
    /// 1 or 3; zero padding of `kernel / 2`.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Read the source at twice its size (nearest).
    pub upsample: bool,
    /// GroupNorm on the way in.
    pub norm: Option<Norm>,
    /// SiLU on the way in, after the norm.
    pub silu: bool,
    /// `[cout][ky][kx][cin]`.
    pub weight: Vec<f32>,
    /// `[cout]`.
    pub bias: Vec<f32>,
    /// Projects temb to a bias per output channel.
    pub time: Option<Linear>,
}

impl Conv {
    /// Output channels.
    #[must_use]
    pub fn cout(&self) -> usize {
        self.bias.len()
    }
}

/// out = x + projection(softmax(q·k/√d)·v), q from the normalised x, k and v already there.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Name in the blob's op table.
    pub name: String,
    /// The residual stream; every pixel is a token.
    pub x: TensorId,
    /// Keys, then values, per token: 2·C channels.
    pub kv: TensorId,
    /// Where the result goes; may share x's place.
    pub out: TensorId,
    /// GroupNorm before the query.
    pub norm: Norm,
    /// Heads; divides C.
    pub heads: usize,
    /// Wq.
    pub query: Linear,
    /// Wo.
    pub projection: Linear,
}

/// One entry of the op list.
#[derive(Clone, Debug)]
pub enum Op {
    /// Timestep and class to temb.
    TimeEmbed(TimeEmbed),
    /// Fused convolution.
    Conv(Conv),
    /// Self-attention, given keys and values.
    Attention(Attention),
}

impl Op {
    /// Name in the op table.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::TimeEmbed(_) => "time_embed",
            Self::Conv(op) => &op.name,
            Self::Attention(op) => &op.name,
        }
    }

    /// The tensor it writes.
    #[must_use]
    pub fn out(&self) -> TensorId {
        match self {
            Self::TimeEmbed(op) => op.out,
            Self::Conv(op) => op.out,
            Self::Attention(op) => op.out,
        }
    }

    /// The tensors it reads.
    #[must_use]
    pub fn reads(&self, temb: TensorId) -> Vec<TensorId> {
        match self {
            Self::TimeEmbed(_) => Vec::new(),
            Self::Conv(op) => {
                let temb = op.time.is_some().then_some(temb);
                [Some(op.src_a), op.src_b, op.residual, temb].into_iter().flatten().collect()
            }
            Self::Attention(op) => vec![op.x, op.kv],
        }
    }
}

/// A whole U-Net.
#[derive(Clone, Debug)]
pub struct Graph {
    /// Every tensor.
    pub tensors: Vec<TensorInfo>,
    /// Ops in order of execution.
    pub ops: Vec<Op>,
    /// x_t.
    pub sample: TensorId,
    /// Time embedding, `[E]` as 1×1×E.
    pub temb: TensorId,
    /// Model output, shaped as x_t.
    pub output: TensorId,
    /// Classes without the null class.
    pub num_classes: usize,
}

impl Graph {
    /// Lowers a checkpoint; fails when a tensor is absent or of the wrong size.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        Builder { checkpoint, tensors: Vec::new(), ops: Vec::new(), skips: Vec::new() }.build()
    }

    /// Multiply-accumulates of op `index`, all its matrix products together.
    #[must_use]
    pub fn macs(&self, index: usize) -> u64 {
        let macs = match &self.ops[index] {
            Op::TimeEmbed(op) => op.linear_1.weight.len() + op.linear_2.weight.len(),
            Op::Conv(op) => {
                let out = &self.tensors[op.out];
                out.height * out.width * op.weight.len() + op.time.as_ref().map_or(0, |l| l.weight.len())
            }
            Op::Attention(op) => {
                let x = &self.tensors[op.x];
                let tokens = x.height * x.width;
                2 * tokens * tokens * x.channels + tokens * (op.query.weight.len() + op.projection.weight.len())
            }
        };
        macs as u64
    }
}

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

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    tensors: Vec<TensorInfo>,
    ops: Vec<Op>,
    skips: Vec<TensorId>,
}

impl Builder<'_> {
    fn build(mut self) -> Result<Graph> {
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
        Ok(Graph { tensors: self.tensors, ops: self.ops, sample, temb, output, num_classes: config.num_classes() })
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
