//! The U-Net as a candle graph: NHWC activations, weights by the names of [`crate::checkpoint::expected_shapes`].

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use picodream::math;
use picodream::rng::NoiseStream;

use super::ops::attention::Attention;
use super::ops::conv::Conv;
use super::ops::norm::GroupNorm;
use crate::checkpoint::{self, expected_shapes};
use crate::config::ModelConfig;

/// The network of a config, over tensors that somebody else owns.
#[derive(Clone, Copy)]
pub struct UNet<'a> {
    config: &'a ModelConfig,
    weights: &'a BTreeMap<String, Tensor>,
    convolutions: Convolutions,
}

/// Which code runs the convolutions of more than one input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convolutions {
    /// That of [`super::ops`].
    #[default]
    Own,
    /// candle's `conv2d`, for comparison only.
    Candle,
}

impl<'a> UNet<'a> {
    /// `weights` holds every tensor of [`expected_shapes`], in its checkpoint layout.
    #[must_use]
    pub fn new(config: &'a ModelConfig, weights: &'a BTreeMap<String, Tensor>) -> Self {
        Self::with(config, weights, Convolutions::Own)
    }

    /// The same with a choice of convolutions.
    #[must_use]
    pub fn with(config: &'a ModelConfig, weights: &'a BTreeMap<String, Tensor>, convolutions: Convolutions) -> Self {
        Self { config, weights, convolutions }
    }

    /// x `[B, H, W, C]`, `timesteps` `[B]` in 0..T (fractions allowed), `classes` `[B]` rows of the class table (the last is
    /// the null class; empty when the model has none) → the prediction [B, H, W, C], with learned variances [B, H, W, 2·C].
    pub fn forward(&self, x: &Tensor, timesteps: &[f32], classes: &[u32]) -> Result<Tensor> {
        let unet = &self.config.unet;
        let levels = unet.block_out_channels.len();
        let temb = self.time_embedding(timesteps, classes)?;
        let mut h = self.conv("conv_in", x, Conv { input_grad: false, ..Conv::PLAIN })?;
        let mut skips = vec![h.clone()];
        for i in 0..levels {
            for j in 0..unet.layers_per_block {
                h = self.resnet(&format!("down_blocks.{i}.resnets.{j}"), &h, &temb)?;
                if unet.attention_levels[i] {
                    h = self.attention(&format!("down_blocks.{i}.attentions.{j}"), &h)?;
                }
                skips.push(h.clone());
            }
            if i + 1 < levels {
                let op = Conv { stride: 2, ..Conv::PLAIN };
                h = self.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), &h, op)?;
                skips.push(h.clone());
            }
        }
        h = self.resnet("mid_block.resnets.0", &h, &temb)?;
        if unet.mid_attention {
            h = self.attention("mid_block.attentions.0", &h)?;
        }
        h = self.resnet("mid_block.resnets.1", &h, &temb)?;
        for u in 0..levels {
            let i = levels - 1 - u;
            for j in 0..=unet.layers_per_block {
                let skip = skips.pop().expect("one skip per ResBlock of the way up");
                h = Tensor::cat(&[h, skip], 3)?;
                h = self.resnet(&format!("up_blocks.{u}.resnets.{j}"), &h, &temb)?;
                if unet.attention_levels[i] {
                    h = self.attention(&format!("up_blocks.{u}.attentions.{j}"), &h)?;
                }
            }
            if i > 0 {
                let op = Conv { upsample: true, ..Conv::PLAIN };
                h = self.conv(&format!("up_blocks.{u}.upsamplers.0.conv"), &h, op)?;
            }
        }
        h = self.norm("conv_norm_out", &h, true)?;
        self.conv("conv_out", &h, Conv::PLAIN)
    }

    fn weight(&self, name: &str, suffix: &str) -> &'a Tensor {
        let name = format!("{name}.{suffix}");
        self.weights.get(&name).unwrap_or_else(|| panic!("no tensor {name}: not in expected_shapes"))
    }

    fn conv(&self, name: &str, x: &Tensor, op: Conv) -> Result<Tensor> {
        self.convolve(op, x, self.weight(name, "weight"), &self.weight(name, "bias").unsqueeze(0)?)
    }

    fn convolve(&self, op: Conv, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        match self.convolutions {
            Convolutions::Own => Ok(op.apply(x, weight, bias)?),
            Convolutions::Candle => candle_convolution(op, x, weight, bias),
        }
    }

    /// x [B, I] · weightᵀ + bias [O], as a 1×1 convolution over an image of B pixels.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        let y = self.pointwise(name, &x.reshape((1, rows, 1, inputs))?)?;
        Ok(y.reshape((rows, y.dim(3)?))?)
    }

    /// A linear layer on every pixel.
    fn pointwise(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight(name, "weight");
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.reshape((outputs, inputs, 1, 1))?;
        Ok(Conv::PLAIN.apply(x, &weight, &self.weight(name, "bias").unsqueeze(0)?)?)
    }

    fn norm(&self, name: &str, x: &Tensor, silu: bool) -> Result<Tensor> {
        let unet = &self.config.unet;
        let op = GroupNorm { groups: unet.norm_num_groups, eps: unet.norm_eps, silu };
        Ok(op.apply(x, self.weight(name, "weight"), self.weight(name, "bias"))?)
    }

    fn time_embedding(&self, timesteps: &[f32], classes: &[u32]) -> Result<Tensor> {
        let freq = self.config.unet.time_freq_dim;
        let emb = Tensor::from_vec(sinusoids(timesteps, freq), (timesteps.len(), freq), &Device::Cpu)?;
        let h = self.linear("time_embedding.linear_1", &emb)?.silu()?;
        let mut h = self.linear("time_embedding.linear_2", &h)?;
        if self.config.num_classes() > 0 {
            ensure!(classes.len() == timesteps.len(), "{} classes for {} images", classes.len(), timesteps.len());
            let rows = Tensor::new(classes, &Device::Cpu)?;
            h = (h + self.weight("class_embedding", "weight").index_select(&rows, 0)?)?;
        }
        Ok(h.silu()?)
    }

    fn resnet(&self, name: &str, x: &Tensor, temb: &Tensor) -> Result<Tensor> {
        let h = self.norm(&format!("{name}.norm1"), x, true)?;
        let time = self.linear(&format!("{name}.time_emb_proj"), temb)?;
        let bias = time.broadcast_add(self.weight(name, "conv1.bias"))?;
        let h = self.convolve(Conv::PLAIN, &h, self.weight(name, "conv1.weight"), &bias)?;
        let h = self.norm(&format!("{name}.norm2"), &h, true)?;
        let h = self.conv(&format!("{name}.conv2"), &h, Conv::PLAIN)?;
        if x.dim(3)? == h.dim(3)? {
            return Ok((h + x)?);
        }
        Ok((h + self.conv(&format!("{name}.conv_shortcut"), x, Conv::PLAIN)?)?)
    }

    fn attention(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let h = self.norm(&format!("{name}.group_norm"), x, false)?;
        let [q, k, v] = ["to_q", "to_k", "to_v"].map(|p| self.pointwise(&format!("{name}.{p}"), &h));
        let h = Attention { heads: self.config.unet.attention_heads }.apply(&q?, &k?, &v?)?;
        Ok((self.pointwise(&format!("{name}.to_out.0"), &h)? + x)?)
    }
}

/// `op` by candle's own operators, which want NCHW. Its upsampling has a wrong gradient when something else reads x too;
/// nothing does here.
fn candle_convolution(op: Conv, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let mut x = x.permute((0, 3, 1, 2))?.contiguous()?;
    if op.upsample {
        x = x.upsample_nearest2d(2 * x.dim(2)?, 2 * x.dim(3)?)?;
    }
    let y = x.conv2d(weight, weight.dim(2)? / 2, op.stride, 1, 1)?;
    Ok(y.broadcast_add(&bias.unsqueeze(2)?.unsqueeze(3)?)?.permute((0, 2, 3, 1))?.contiguous()?)
}

/// [cos(t·f_k)][sin(t·f_k)] per timestep, f_k = exp(−ln 10000 · k/(dim/2)).
fn sinusoids(timesteps: &[f32], dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let mut out = vec![0.0; timesteps.len() * dim];
    for (row, t) in out.chunks_exact_mut(dim).zip(timesteps) {
        for k in 0..half {
            let f = math::exp(-math::ln(10_000.0) * k as f32 / half as f32);
            (row[half + k], row[k]) = math::sin_cos(t * f);
        }
    }
    out
}

/// Initial weights from `seed`, one noise stream per tensor: uniform in ±1/√fan_in as PyTorch does for convolutions and
/// linear layers, 1 and 0 for norms, standard normal for classes; the last layer of every residual branch and of the
/// network starts at zero, so that the untrained network predicts zero.
#[must_use]
pub fn initial_weights(config: &ModelConfig, seed: u64) -> BTreeMap<String, checkpoint::Tensor> {
    let mut fan_in = 1;
    let mut weights = BTreeMap::new();
    for (index, (name, shape)) in expected_shapes(config).into_iter().enumerate() {
        let mut stream = NoiseStream::new(seed, super::STREAM_INIT + index as u64);
        let len = shape.iter().product();
        let zero = ["conv2.", "to_out.0.", "conv_out."].iter().any(|layer| name.contains(layer));
        let is_norm = ["norm1.", "norm2.", "group_norm.", "conv_norm_out."].iter().any(|layer| name.contains(layer));
        if shape.len() > 1 {
            fan_in = shape[1..].iter().product();
        }
        let bound = 1.0 / math::sqrt(fan_in as f32);
        let data = if zero {
            vec![0.0; len]
        } else if is_norm {
            vec![if name.ends_with("weight") { 1.0 } else { 0.0 }; len]
        } else if name.starts_with("class_embedding") {
            (0..len).map(|_| stream.next_gaussian()).collect()
        } else {
            (0..len).map(|_| (2.0 * stream.next_f32() - 1.0) * bound).collect()
        };
        weights.insert(name, checkpoint::Tensor { shape, data });
    }
    weights
}
