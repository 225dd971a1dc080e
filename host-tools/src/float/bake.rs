//! Biases of time and class written down for a few timesteps, in place of the network that makes them.

use picodream::blob::TimeEmbedOp;

use super::engine::time_embed;
use super::graph::{Graph, Linear, Op, TimeEmbed};

/// Largest integer of a bias's first half; the blob keeps both halves in int8.
const LARGEST: f32 = 127.0;

impl Graph {
    /// The same network for these timesteps only: each convolution has its time bias of every timestep and class (and the null
    /// class) as a row of weights, and temb marks the row, so that nothing is left to compute. Biases are exact to 2⁻¹⁵ of the
    /// largest of their channel.
    #[must_use]
    pub fn baked(&self, timesteps: &[f32]) -> Self {
        let mut graph = self.clone();
        let Some(source) = self.ops.iter().find_map(|op| if let Op::TimeEmbed(op) = op { Some(op) } else { None })
        else {
            return graph;
        };
        let classes = (0..self.num_classes).map(Some).chain([None]);
        let pairs = timesteps.iter().flat_map(|&t| classes.clone().map(move |class| (t, class)));
        let tembs: Vec<Vec<f32>> = pairs.map(|(t, class)| time_embed(source, t, class, self.num_classes)).collect();
        for op in &mut graph.ops {
            match op {
                Op::TimeEmbed(op) => {
                    let nothing = Linear { weight: Vec::new(), bias: Vec::new() };
                    let (linear_1, linear_2) = (nothing.clone(), nothing);
                    let (timesteps, out) = (timesteps.to_vec(), op.out);
                    *op = TimeEmbed { freq_dim: 0, linear_1, linear_2, classes: Vec::new(), timesteps, out };
                }
                Op::Conv(op) => {
                    if let Some(time) = &mut op.time {
                        time.weight = table(time, &tembs);
                    }
                }
                Op::Attention(_) | Op::Narrow(_) => {}
            }
        }
        graph.tensors[graph.temb].channels = 2 * tembs.len();
        graph
    }

    /// Bytes that time and class take in a blob, without padding: the embedding, its two layers, the classes, and each
    /// convolution's time weights; or the timesteps and the baked biases.
    #[must_use]
    pub fn time_bytes(&self) -> usize {
        // Integers, and a scale and a bias of each output.
        let layer = |layer: &Linear| layer.weight.len() + 8 * layer.bias.len();
        let bytes = |op: &Op| match op {
            Op::TimeEmbed(op) => {
                let floats = op.freq_dim / 2 + op.timesteps.len();
                4 * floats + layer(&op.linear_1) + layer(&op.linear_2) + 2 * op.classes.len()
            }
            Op::Conv(op) => op.time.as_ref().map_or(0, |time| time.weight.len()),
            Op::Attention(_) | Op::Narrow(_) => 0,
        };
        self.ops.iter().map(bytes).sum()
    }
}

/// Per output channel what each temb projects to (the layer's own bias apart), in two halves: whole multiples of a 127th of the
/// channel's largest, then what is left of them in whole multiples of a 127th, worth [`TimeEmbedOp::FINE`] each.
fn table(layer: &Linear, tembs: &[Vec<f32>]) -> Vec<f32> {
    let mut table = Vec::with_capacity(2 * tembs.len() * layer.outputs());
    for weights in layer.weight.chunks_exact(layer.inputs()) {
        let dot = |temb: &Vec<f32>| weights.iter().zip(temb).map(|(w, x)| w * x).sum::<f32>();
        let biases: Vec<f32> = tembs.iter().map(dot).collect();
        let largest = biases.iter().fold(0.0f32, |m, b| m.max(b.abs()));
        let step = if largest > 0.0 { largest / LARGEST } else { 1.0 };
        let coarse = |b: &f32| (b / step).round() * step;
        table.extend(biases.iter().map(coarse));
        table.extend(biases.iter().map(|b| ((b - coarse(b)) / TimeEmbedOp::FINE / step).round() * step));
    }
    table
}

/// temb of baked biases: the row of the first timestep that is not above `t` and the class in both halves, as the runtime marks it.
pub(super) fn pick(op: &TimeEmbed, t: f32, class: Option<usize>, num_classes: usize) -> Vec<f32> {
    let above = op.timesteps.iter().take_while(|&&known| known > t).count().min(op.timesteps.len() - 1);
    let rows = op.timesteps.len() * (num_classes + 1);
    let row = above * (num_classes + 1) + class.unwrap_or(num_classes);
    let mut temb = vec![0.0; 2 * rows];
    (temb[row], temb[rows + row]) = (1.0, TimeEmbedOp::FINE);
    temb
}

#[cfg(test)]
mod tests {
    use crate::config::{ImageConfig, UNetConfig};
    use crate::float::{FloatUNet, random};
    use picodream::rng::NoiseStream;

    #[test]
    fn a_baked_network_draws_what_the_whole_one_does_at_its_timesteps() {
        for classes in [0, 3] {
            let unet = UNetConfig {
                block_out_channels: vec![8, 16],
                attention_levels: vec![false; 2],
                ..UNetConfig::default()
            };
            let image = ImageConfig { width: 8, height: 8, channels: 1 };
            let checkpoint = random::checkpoint(random::config(image, unet, classes), 7);
            let whole = FloatUNet::new(&checkpoint).unwrap();
            let mut baked = whole.clone();
            baked.bake(&[40.0, 12.25, 3.0]);
            let mut x = vec![0.0; 8 * 8];
            NoiseStream::new(1, 0).fill_gaussian(&mut x);
            let forward = |net: &FloatUNet, t: f32, class| {
                let mut out = vec![0.0; x.len()];
                net.forward(&x, t, class, &mut out, &mut |_, _| {});
                out
            };
            for (t, class) in [(40.0, None), (12.25, Some(0)), (3.0, Some(2)), (3.0, None)] {
                let class = class.filter(|_| classes > 0);
                let (want, got) = (forward(&whole, t, class), forward(&baked, t, class));
                let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let far = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                // 2⁻¹⁵ of a bias, through the network.
                assert!(far < 1e-3 * largest, "{classes} classes, {t}: {far} of {largest}");
                let other = forward(&baked, if t == 3.0 { 40.0 } else { 3.0 }, class);
                assert!(other.iter().zip(&got).any(|(a, b)| (a - b).abs() > 0.01 * largest), "the timestep counts");
            }
        }
    }
}
