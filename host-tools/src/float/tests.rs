//! The float engine against naive loops over the definition of the network.

use picodream::rng::NoiseStream;

use super::{FloatUNet, Op, random};
use crate::checkpoint::Checkpoint;
use crate::config::{ImageConfig, UNetConfig};

/// Loops straight from the definition of the network, by tensor names; CHW, no graph, no gemm.
struct Naive<'a> {
    checkpoint: &'a Checkpoint,
    temb: Vec<f64>,
}

/// Channels of height × width.
#[derive(Clone)]
struct Map(Vec<Vec<f64>>, usize, usize);

fn silu64(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

impl Naive<'_> {
    fn w(&self, name: &str) -> Vec<f64> {
        self.checkpoint.tensor(name).data.iter().map(|&x| f64::from(x)).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (w, b) = (self.w(&format!("{name}.weight")), self.w(&format!("{name}.bias")));
        (0..b.len()).map(|o| b[o] + (0..x.len()).map(|i| w[o * x.len() + i] * x[i]).sum::<f64>()).collect()
    }

    fn norm(&self, name: &str, x: &Map, activate: bool) -> Map {
        let unet = &self.checkpoint.config.unet;
        let (gamma, beta) = (self.w(&format!("{name}.weight")), self.w(&format!("{name}.bias")));
        let mut y = x.clone();
        let per_group = x.0.len() / unet.norm_num_groups;
        for start in (0..x.0.len()).step_by(per_group) {
            let all: Vec<f64> = x.0[start..start + per_group].concat();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let var = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            for c in start..start + per_group {
                for v in &mut y.0[c] {
                    *v = (*v - mean) / (var + f64::from(unet.norm_eps)).sqrt() * gamma[c] + beta[c];
                    *v = if activate { silu64(*v) } else { *v };
                }
            }
        }
        y
    }

    fn conv(&self, name: &str, x: &Map, stride: usize) -> Map {
        let k = self.checkpoint.tensor(&format!("{name}.weight")).shape[2] as isize;
        let (w, b) = (self.w(&format!("{name}.weight")), self.w(&format!("{name}.bias")));
        let (h, width) = (x.1 / stride, x.2 / stride);
        let mut out = Map(vec![vec![0.0; h * width]; b.len()], h, width);
        for (o, plane) in out.0.iter_mut().enumerate() {
            for (p, value) in plane.iter_mut().enumerate() {
                *value = b[o];
                for (i, source) in x.0.iter().enumerate() {
                    for tap in 0..k * k {
                        let y = (p / width * stride) as isize + tap / k - k / 2;
                        let z = (p % width * stride) as isize + tap % k - k / 2;
                        if y >= 0 && z >= 0 && y < x.1 as isize && z < x.2 as isize {
                            let weight = w[((o * x.0.len() + i) as isize * k * k + tap) as usize];
                            *value += weight * source[(y * x.2 as isize + z) as usize];
                        }
                    }
                }
            }
        }
        out
    }

    fn resnet(&self, name: &str, x: &Map) -> Map {
        let mut h = self.conv(&format!("{name}.conv1"), &self.norm(&format!("{name}.norm1"), x, true), 1);
        let time = self.linear(&format!("{name}.time_emb_proj"), &self.temb);
        h.0.iter_mut().zip(time).for_each(|(plane, t)| plane.iter_mut().for_each(|v| *v += t));
        h = self.conv(&format!("{name}.conv2"), &self.norm(&format!("{name}.norm2"), &h, true), 1);
        let shortcut = format!("{name}.conv_shortcut");
        let changes = self.checkpoint.tensors.contains_key(&format!("{shortcut}.weight"));
        add(h, &if changes { self.conv(&shortcut, x, 1) } else { x.clone() })
    }

    fn attention(&self, name: &str, x: &Map) -> Map {
        let n = self.norm(&format!("{name}.group_norm"), x, false);
        let token = |p: usize| n.0.iter().map(|plane| plane[p]).collect::<Vec<_>>();
        let all =
            |part: &str| (0..x.1 * x.2).map(|p| self.linear(&format!("{name}.{part}"), &token(p))).collect::<Vec<_>>();
        let (q, k, v) = (all("to_q"), all("to_k"), all("to_v"));
        let size = x.0.len() / self.checkpoint.config.unet.attention_heads;
        let mut out = x.clone();
        for (p, query) in q.iter().enumerate() {
            let mut mixed = vec![0.0; x.0.len()];
            for start in (0..x.0.len()).step_by(size) {
                let head = start..start + size;
                let dot = |key: &Vec<f64>| head.clone().map(|c| query[c] * key[c]).sum::<f64>();
                let e: Vec<f64> = k.iter().map(|key| (dot(key) / (size as f64).sqrt()).exp()).collect();
                let sum: f64 = e.iter().sum();
                head.clone().for_each(|c| mixed[c] = (0..e.len()).map(|j| e[j] / sum * v[j][c]).sum());
            }
            let projected = self.linear(&format!("{name}.to_out.0"), &mixed);
            out.0.iter_mut().zip(projected).for_each(|(plane, value)| plane[p] += value);
        }
        out
    }

    fn run(mut self, x: Map, t: f64, class: usize) -> Map {
        let config = &self.checkpoint.config;
        let (unet, half) = (&config.unet, config.unet.time_freq_dim / 2);
        let angles: Vec<f64> = (0..half).map(|k| t * (-(1e4f64.ln()) * k as f64 / half as f64).exp()).collect();
        let emb: Vec<f64> = angles.iter().map(|a| a.cos()).chain(angles.iter().map(|a| a.sin())).collect();
        let hidden: Vec<f64> = self.linear("time_embedding.linear_1", &emb).into_iter().map(silu64).collect();
        let temb = self.linear("time_embedding.linear_2", &hidden);
        let row = &self.w("class_embedding.weight")[class * temb.len()..];
        self.temb = temb.iter().zip(row).map(|(a, b)| silu64(a + b)).collect();
        let levels = unet.block_out_channels.len();
        let mut h = self.conv("conv_in", &x, 1);
        let mut skips = vec![h.clone()];
        for i in 0..levels {
            for j in 0..unet.layers_per_block {
                h = self.resnet(&format!("down_blocks.{i}.resnets.{j}"), &h);
                if unet.attention_levels[i] {
                    h = self.attention(&format!("down_blocks.{i}.attentions.{j}"), &h);
                }
                skips.push(h.clone());
            }
            if i + 1 < levels {
                h = self.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), &h, 2);
                skips.push(h.clone());
            }
        }
        h = self.resnet("mid_block.resnets.0", &h);
        h = self.attention("mid_block.attentions.0", &h);
        h = self.resnet("mid_block.resnets.1", &h);
        for u in 0..levels {
            for j in 0..=unet.layers_per_block {
                h.0.extend(skips.pop().unwrap().0);
                h = self.resnet(&format!("up_blocks.{u}.resnets.{j}"), &h);
                if unet.attention_levels[levels - 1 - u] {
                    h = self.attention(&format!("up_blocks.{u}.attentions.{j}"), &h);
                }
            }
            if u + 1 < levels {
                h = self.conv(&format!("up_blocks.{u}.upsamplers.0.conv"), &upsample(&h), 1);
            }
        }
        self.conv("conv_out", &self.norm("conv_norm_out", &h, true), 1)
    }
}

fn add(mut a: Map, b: &Map) -> Map {
    a.0.iter_mut().flatten().zip(b.0.iter().flatten()).for_each(|(x, y)| *x += y);
    a
}

fn upsample(x: &Map) -> Map {
    let (h, w) = (2 * x.1, 2 * x.2);
    let big = |plane: &Vec<f64>| (0..h * w).map(|p| plane[p / w / 2 * x.2 + p % w / 2]).collect();
    Map(x.0.iter().map(big).collect(), h, w)
}

fn unet() -> UNetConfig {
    UNetConfig {
        block_out_channels: vec![4, 8, 8],
        layers_per_block: 2,
        attention_levels: vec![false, true, false],
        attention_heads: 2,
        norm_num_groups: 4,
        time_freq_dim: 8,
        time_embed_dim: 12,
        ..UNetConfig::default()
    }
}

#[test]
fn forward_matches_naive_loops() {
    let image = ImageConfig { width: 12, height: 8, channels: 3 };
    let checkpoint = random::checkpoint(random::config(image, unet(), 3), 5);
    let net = FloatUNet::new(&checkpoint).unwrap();
    let mut x = vec![0.0; 12 * 8 * 3];
    NoiseStream::new(1, 0).fill_gaussian(&mut x);
    let plane = |c: usize| x.iter().skip(c).step_by(3).map(|&v| f64::from(v)).collect();
    let mut out = vec![0.0; x.len()];
    for (t, class) in [(999.0, Some(1)), (0.0, None), (412.5, Some(2))] {
        net.forward(&x, t, class, &mut out, &mut |_, _| {});
        let naive = Naive { checkpoint: &checkpoint, temb: Vec::new() };
        let want = naive.run(Map((0..3).map(plane).collect(), 8, 12), f64::from(t), class.unwrap_or(3));
        for (i, &got) in out.iter().enumerate() {
            let want = want.0[i % 3][i / 3];
            assert!((f64::from(got) - want).abs() < 2e-5 * (1.0 + want.abs()), "{t} {class:?} {i}: {got} {want}");
        }
    }
}

#[test]
fn observer_sees_every_op_with_its_input_and_output() {
    let image = ImageConfig { width: 8, height: 8, channels: 1 };
    let checkpoint = random::checkpoint(random::config(image, unet(), 0), 5);
    let net = FloatUNet::new(&checkpoint).unwrap();
    let graph = net.graph();
    let mut index = 0;
    net.forward(&[0.5; 64], 3.0, None, &mut [0.0; 64], &mut |name, trace| {
        let op = &graph.ops[index];
        assert_eq!(name, op.name());
        assert_eq!(trace.output.len(), graph.tensors[op.out()].len());
        if let Op::Conv(op) = op {
            assert_eq!(trace.inputs[0].len(), graph.tensors[op.src_a].len());
            assert_eq!(trace.inputs[1].len(), op.src_b.map_or(0, |b| graph.tensors[b].len()));
        }
        index += 1;
    });
    assert_eq!(index, graph.ops.len());
}
