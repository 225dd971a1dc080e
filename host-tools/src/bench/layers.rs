//! Networks of one layer worth measuring, with seeded random weights: what `bench` feeds to an emulated board.
//!
//! Around the layer stand a convolution that fills its input from the sample and one that turns its output into an image,
//! because a blob begins and ends with an image; only the layer's own operator is reported.

use anyhow::{Context, Result};
use picodream::blob::{self, Algorithm};
use picodream::rng::NoiseStream;

use crate::config::{ImageConfig, UNetConfig};
use crate::export::calibrate::{BranchStats, Calibration, OpStats};
use crate::export::lower::{self, Kernels};
use crate::export::moments::InputMoments;
use crate::export::{Rules, pack};
use crate::float::random;
use crate::float::{Conv, Graph, Linear, Norm, Op, TensorId, TensorInfo, TimeEmbed};

/// Name of the measured operator in its blob.
pub const LAYER_NAME: &str = "layer";

const TIME_DIM: usize = 64;
const NORM_GROUPS: usize = 8;

/// A convolution by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Nearest ×2 before the convolution.
    pub upsample: bool,
    /// Height and width of the input.
    pub size: usize,
    /// Input channels.
    pub cin: usize,
    /// Output channels.
    pub cout: usize,
    /// With everything a ResBlock's convolution does beside its products: norm, SiLU, time bias, residual, and the sums for
    /// the next norm.
    pub fused: bool,
}

const fn plain(kernel: usize, size: usize, cin: usize, cout: usize) -> Layer {
    Layer { kernel, stride: 1, upsample: false, size, cin, cout, fused: false }
}

/// The shapes that are measured: those of the field's comparisons, an upsampling one, and a fused one beside its plain self.
pub const LAYERS: [Layer; 10] = [
    plain(3, 28, 16, 16),
    plain(3, 14, 32, 32),
    plain(3, 16, 32, 32),
    plain(3, 8, 64, 64),
    plain(1, 14, 32, 64),
    plain(1, 8, 64, 64),
    Layer { stride: 2, ..plain(3, 28, 16, 32) },
    Layer { upsample: true, ..plain(3, 8, 32, 16) },
    plain(3, 16, 16, 16),
    Layer { fused: true, ..plain(3, 16, 16, 16) },
];

impl Layer {
    /// `3x3 28x28x16->16`, with `s2`, `up` and ` fused` where they apply. The size is the input's.
    #[must_use]
    pub fn shape(&self) -> String {
        let Self { kernel, size, cin, cout, .. } = self;
        let stride = if self.stride == 2 { "s2" } else { "" };
        let up = if self.upsample { "up" } else { "" };
        let fused = if self.fused { " fused" } else { "" };
        format!("{kernel}x{kernel}{stride}{up} {size}x{size}x{cin}->{cout}{fused}")
    }

    /// Multiply-accumulates of the convolution as it is defined, whatever an algorithm saves: output pixels · k² · cin · cout.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.outputs() * (self.kernel * self.kernel * self.cin) as u64
    }

    /// Elements of the output.
    #[must_use]
    pub fn outputs(&self) -> u64 {
        let side = (self.size << usize::from(self.upsample)).div_ceil(self.stride);
        (side * side * self.cout) as u64
    }

    /// The network around the layer with each algorithm that the layer can have, the one of fewest products last.
    ///
    /// # Errors
    /// When the exporter refuses it.
    pub fn blobs(&self) -> Result<Vec<LayerBlob>> {
        let mut blobs: Vec<LayerBlob> = Vec::new();
        for kernels in [Kernels::Direct, Kernels::Fast, Kernels::Fewest] {
            let (algorithm, blob) = self.blob(kernels)?;
            if blobs.iter().all(|other| other.algorithm != algorithm) {
                blobs.push(LayerBlob { layer: *self, algorithm, blob });
            }
        }
        Ok(blobs)
    }

    fn blob(&self, kernels: Kernels) -> Result<(Algorithm, Vec<u8>)> {
        let graph = Network::of(self);
        let calibration = Calibration { ops: graph.ops.iter().map(|_| stats()).collect() };
        // There is no data to round the weights by.
        let rules = Rules { compensate: false, ..Rules::default() };
        let lowered = lower::lower(&graph, &calibration, &rules, kernels)?;
        let algorithm = lowered.names.iter().zip(&lowered.ops).find_map(|(name, op)| match op {
            blob::Op::Conv(op) if name == LAYER_NAME => Some(op.algorithm),
            _ => None,
        });
        let algorithm = algorithm.with_context(|| format!("the layer {} was not lowered", self.shape()))?;
        let image = ImageConfig { width: self.size, height: self.size, channels: 1 };
        let config = random::config(image, UNetConfig::default(), 0);
        let blob = pack::pack(&config, &lowered);
        Ok((algorithm, blob.with_context(|| format!("the layer {} cannot be packed", self.shape()))?))
    }
}

/// A layer in one of its algorithms.
#[derive(Clone, Debug)]
pub struct LayerBlob {
    /// The layer.
    pub layer: Layer,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// The blob whose operator [`LAYER_NAME`] it is.
    pub blob: Vec<u8>,
}

impl LayerBlob {
    /// The algorithm's name in tables.
    #[must_use]
    pub fn algorithm_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Direct => "direct",
            Algorithm::Winograd => "winograd",
            Algorithm::Phases => "phases",
            Algorithm::Strided => "strided",
        }
    }
}

/// A graph as it grows, with weights from one seeded stream.
struct Network {
    tensors: Vec<TensorInfo>,
    ops: Vec<Op>,
    noise: NoiseStream,
}

/// What a convolution of [`Network`] has beside its shape.
#[derive(Default)]
struct Extras {
    norm: bool,
    time: bool,
    residual: Option<TensorId>,
}

impl Network {
    fn of(layer: &Layer) -> Graph {
        let mut network = Self { tensors: Vec::new(), ops: Vec::new(), noise: NoiseStream::new(1, 0) };
        let sample = network.tensor("sample", layer.size, 1);
        let temb = network.time_embed();
        let input = network.conv("input", &plain(3, layer.size, 1, layer.cin), sample, Extras::default());
        let residual = layer.fused.then(|| {
            let shape = plain(3, layer.size, 1, layer.cout);
            network.conv("residual", &shape, sample, Extras::default())
        });
        let hidden = network.conv(LAYER_NAME, layer, input, Extras { norm: layer.fused, time: layer.fused, residual });
        // Back to the size of the image: up where the layer goes down, and the other way round.
        let last = Layer {
            stride: if layer.upsample { 2 } else { 1 },
            upsample: layer.stride == 2,
            ..plain(3, network.tensors[hidden].height, layer.cout, 1)
        };
        let output = network.conv("output", &last, hidden, Extras { norm: layer.fused, ..Extras::default() });
        Graph { tensors: network.tensors, ops: network.ops, sample, temb, output, num_classes: 0 }
    }

    fn tensor(&mut self, name: &str, size: usize, channels: usize) -> TensorId {
        self.tensors.push(TensorInfo { name: name.into(), height: size, width: size, channels });
        self.tensors.len() - 1
    }

    /// Gaussian values, scaled so that a row of `fan_in` keeps the size of its input.
    fn weights(&mut self, len: usize, fan_in: usize) -> Vec<f32> {
        let scale = 1.0 / (fan_in as f32).sqrt();
        (0..len).map(|_| scale * self.noise.next_gaussian()).collect()
    }

    fn linear(&mut self, outputs: usize, inputs: usize) -> Linear {
        Linear { weight: self.weights(outputs * inputs, inputs), bias: vec![0.0; outputs] }
    }

    fn time_embed(&mut self) -> TensorId {
        let freq_dim = 32;
        let (linear_1, linear_2) = (self.linear(TIME_DIM, freq_dim), self.linear(TIME_DIM, TIME_DIM));
        let out = self.tensor("time_embed", 1, TIME_DIM);
        self.ops.push(Op::TimeEmbed(TimeEmbed {
            freq_dim,
            linear_1,
            linear_2,
            classes: Vec::new(),
            timesteps: Vec::new(),
            out,
        }));
        out
    }

    fn conv(&mut self, name: &str, layer: &Layer, src_a: TensorId, extras: Extras) -> TensorId {
        let &Layer { kernel, stride, upsample, size, cin, cout, .. } = layer;
        let fan_in = kernel * kernel * cin;
        let (weight, bias) = (self.weights(cout * fan_in, fan_in), vec![0.1; cout]);
        let norm =
            extras.norm.then(|| Norm { groups: NORM_GROUPS, eps: 1e-5, gamma: vec![1.0; cin], beta: vec![0.1; cin] });
        let time = extras.time.then(|| self.linear(cout, TIME_DIM));
        let out = self.tensor(name, (size << usize::from(upsample)).div_ceil(stride), cout);
        let (name, silu, residual) = (name.into(), norm.is_some(), extras.residual);
        let conv =
            Conv { name, src_a, src_b: None, residual, out, kernel, stride, upsample, norm, silu, weight, bias, time };
        self.ops.push(Op::Conv(conv));
        out
    }
}

/// Inputs between ±4, which is where normalised values lie.
fn stats() -> OpStats {
    let mut branch = BranchStats::default();
    branch.add(&[-4.0, 4.0]);
    OpStats { branches: [branch.clone(), branch], products: [0, 0].map(InputMoments::new) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use picodream::Model;
    use picodream::blob::Op as BlobOp;

    #[test]
    fn shapes_read_as_the_field_writes_them() {
        assert_eq!(LAYERS[0].shape(), "3x3 28x28x16->16");
        assert_eq!(LAYERS[6].shape(), "3x3s2 28x28x16->32");
        assert_eq!(LAYERS[7].shape(), "3x3up 8x8x32->16");
        assert_eq!(LAYERS[9].shape(), "3x3 16x16x16->16 fused");
    }

    #[test]
    fn every_blob_holds_its_layer_and_nothing_more_than_asked() {
        for layer in &LAYERS {
            for LayerBlob { algorithm, blob, .. } in layer.blobs().unwrap() {
                let model = Model::parse(&blob).unwrap();
                let header = model.header().unwrap();
                let named = |op: &BlobOp| model.text(&header, op.common().name) == LAYER_NAME;
                let Some(BlobOp::Conv(op)) = model.ops(&header).find(named) else {
                    panic!("no layer in {}", layer.shape())
                };
                assert_eq!((usize::from(op.kernel), usize::from(op.stride)), (layer.kernel, layer.stride));
                assert_eq!(op.upsample, layer.upsample);
                let extras = [op.norm.is_some(), op.silu, op.time.is_some(), op.residual.is_some()];
                assert_eq!(extras, [layer.fused; 4], "{}", layer.shape());
                assert_eq!(op.algorithm, algorithm);
            }
        }
        let ways = |layer: &Layer| layer.blobs().unwrap().iter().map(LayerBlob::algorithm_name).collect::<Vec<_>>();
        assert_eq!(ways(&LAYERS[0]), ["direct", "winograd"]);
        assert_eq!(ways(&LAYERS[5]), ["direct"]);
        assert_eq!(ways(&LAYERS[6]), ["direct", "strided"]);
        assert_eq!(ways(&LAYERS[7]), ["direct", "phases"]);
    }

    #[test]
    fn macs_are_those_of_the_definition() {
        // 28·28·16·16·9 and, at stride 2, 14·14·32·16·9; upsampled 16·16·16·32·9.
        assert_eq!([0, 6, 7].map(|i| LAYERS[i].macs()), [1_806_336, 903_168, 1_179_648]);
    }
}
