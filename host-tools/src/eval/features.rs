//! A small fixed network that turns an image into 64 features and a class: plain loops, the same bits on every machine.
//!
//! conv 3×3 (C→16) → ReLU → conv 3×3 stride 2 (→32) → ReLU → conv 3×3 stride 2 (→64) → ReLU → linear (→64) = *features*
//! → ReLU → linear = class scores. Pixels enter as p/127.5 − 1. `train/classifier.rs` trains it; on disk it is
//! `features-NAME.safetensors` (weights and the reference statistics of the test split) with a JSON card beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::frechet::{Gaussian, frechet_distance};
use crate::checkpoint::{Tensor, read_tensors, write_tensors};
use crate::config::ImageConfig;
use crate::data::{Source, chosen_classes, class_index, load_test, load_train};
use crate::files;

/// Features per image.
pub const FEATURES: usize = 64;
/// Output channels of the three convolutions.
pub const WIDTHS: [usize; 3] = [16, 32, 64];

/// What a feature network is, where it comes from, and the figures that belong to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureCard {
    /// File name without extension.
    pub name: String,
    /// The data set it judges ([`Source::NAMES`]).
    pub source: String,
    /// Shape of the images it takes.
    pub image: ImageConfig,
    /// What the network learnt to tell apart, in order.
    pub class_names: Vec<String>,
    /// The classes are those of the data (labels can be checked); otherwise class 0 means an unbroken image.
    pub classes_are_labels: bool,
    /// Share of the test split that it classifies rightly.
    pub test_accuracy: f64,
    /// Images of the test split that the reference statistics were taken from.
    pub test_images: usize,
    /// Fréchet distance of n training images to the test split, for rising n.
    pub floors: Vec<Floor>,
    /// Licence of the data.
    pub licence: String,
    /// Command that trains it.
    pub command: String,
    /// Seed of weights, order and noise.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: usize,
}

/// What a perfect generator would score with a finite number of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    /// Number of training images.
    pub samples: usize,
    /// Their Fréchet distance to the test split, averaged over disjoint sets of that size.
    pub fd: f64,
}

impl FeatureCard {
    /// The floor for `samples` images: linear in 1/samples between the table's entries (the finite-sample excess of a
    /// Fréchet distance falls as 1/n); beyond the last entry, the last.
    #[must_use]
    pub fn floor(&self, samples: usize) -> f64 {
        let place = self.floors.partition_point(|f| f.samples < samples);
        let (Some(low), Some(high)) = (self.floors.get(place.max(1) - 1), self.floors.get(place.max(1))) else {
            return self.floors.last().map_or(0.0, |f| f.fd);
        };
        let inverse = |n: usize| 1.0 / n as f64;
        let part = (inverse(samples) - inverse(low.samples)) / (inverse(high.samples) - inverse(low.samples));
        low.fd + part * (high.fd - low.fd)
    }
}

/// The network with its reference statistics, ready to judge.
pub struct FeatureNet {
    /// What it is.
    pub card: FeatureCard,
    /// Mean and covariance of the features of the test split.
    pub reference: Gaussian,
    convs: [Conv; 3],
    dense: Linear,
    head: Linear,
}

impl FeatureNet {
    /// The shipped network that judges `source` at this image shape, from the repository's `models/`.
    ///
    /// Classes chosen from a set ([`chosen_classes`]) are compared with the test images of these classes alone.
    pub fn for_source(source: &str, image: ImageConfig) -> Result<Self> {
        let (name, classes) = chosen_classes(source);
        let family = name.split('-').next().unwrap_or(name);
        ensure!(
            matches!(family, "fashion" | "faces" | "emoji") && Source::NAMES.contains(&name),
            "there is no feature network for the data '{source}'; a Fréchet distance can be measured for fashion, faces \
             and emoji"
        );
        // A size without a network of its own is refused by the one of the usual size.
        let of_size = shipped_path(family, image.width);
        let usual = shipped_path(family, Source::parse(source)?.size());
        let net = Self::load(&if of_size.is_file() { of_size } else { usual })?;
        net.ensure_shape(image)?;
        match classes {
            Some(_) => net.of_chosen_classes(source),
            None => Ok(net),
        }
    }

    /// The network with reference, floor and classes of `source`, a choice of classes of the set that it judges.
    fn of_chosen_classes(mut self, source: &str) -> Result<Self> {
        let (train, test) = (load_train(source, self.card.image)?, load_test(source, self.card.image)?);
        self.reference = Gaussian::fit(&self.features(&test.images), FEATURES)?;
        let known = Gaussian::fit(&self.features(&train.images), FEATURES)?;
        self.card.floors = vec![Floor { samples: train.len(), fd: frechet_distance(&known, &self.reference) }];
        self.card.test_images = test.len();
        self.card.source = source.to_owned();
        if self.card.classes_are_labels {
            let numbers = test.class_names.iter().map(|name| class_index(&self.card.class_names, name));
            self.head = self.head.of_outputs(&numbers.collect::<Result<Vec<_>>>()?);
            self.card.class_names = test.class_names;
        }
        Ok(self)
    }

    /// Reads a `.safetensors` file and the `.json` beside it, and checks both.
    pub fn load(path: &Path) -> Result<Self> {
        let json = path.with_extension("json");
        let card: FeatureCard = serde_json::from_slice(&files::read(&json)?)
            .with_context(|| format!("{} is not the card of a feature network", json.display()))?;
        Self::new(card, &read_tensors(path)?).with_context(|| format!("{} is not its card's network", path.display()))
    }

    /// Builds the network from the tensors of [`expected_shapes`].
    pub fn new(card: FeatureCard, tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let ImageConfig { width, height, channels } = card.image;
        ensure!(
            width % 4 == 0 && height % 4 == 0 && width * height > 0 && matches!(channels, 1 | 3),
            "images of {width}×{height}×{channels} do not fit: sizes must be multiples of 4, channels 1 or 3"
        );
        ensure!(!card.floors.is_empty() && !card.class_names.is_empty(), "the card has no floors or no classes");
        for (name, shape) in expected_shapes(card.image, card.class_names.len()) {
            let tensor = tensors.get(&name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.shape == shape, "tensor {name} has shape {:?}, but must be {shape:?}", tensor.shape);
            ensure!(tensor.data.iter().all(|x| x.is_finite()), "tensor {name} holds a value that is not finite");
        }
        let wide = |name: &str| tensors[name].data.iter().map(|&x| f64::from(x)).collect();
        let reference = Gaussian { mean: wide("reference.mean"), covariance: wide("reference.covariance") };
        let convs = [("conv_1", 1), ("conv_2", 2), ("conv_3", 2)].map(|(name, stride)| {
            Conv::new(&tensors[&format!("{name}.weight")], &tensors[&format!("{name}.bias")].data, stride)
        });
        let linear =
            |name: &str| Linear::new(&tensors[&format!("{name}.weight")], &tensors[&format!("{name}.bias")].data);
        Ok(Self { reference, convs, dense: linear("dense"), head: linear("head"), card })
    }

    /// Features `[N, 64]` of N images of `card.image`, one after another in `images`.
    #[must_use]
    pub fn features(&self, images: &[u8]) -> Vec<f32> {
        let ImageConfig { width, height, channels } = self.card.image;
        images.chunks_exact(width * height * channels).flat_map(|image| self.one(image)).collect()
    }

    /// The class of each row of features.
    #[must_use]
    pub fn classes(&self, features: &[f32]) -> Vec<u16> {
        let best = |row: &[f32]| {
            let mut x = row.to_vec();
            relu(&mut x);
            let scores = self.head.apply(&x);
            (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0) as u16
        };
        features.chunks_exact(FEATURES).map(best).collect()
    }

    /// Refuses images of another shape.
    pub fn ensure_shape(&self, image: ImageConfig) -> Result<()> {
        let own = self.card.image;
        if own != image {
            bail!(
                "the feature network {} takes images of {}×{}×{}, but these are {}×{}×{}",
                self.card.name,
                own.width,
                own.height,
                own.channels,
                image.width,
                image.height,
                image.channels
            );
        }
        Ok(())
    }

    fn one(&self, image: &[u8]) -> Vec<f32> {
        let (mut height, mut width) = (self.card.image.height, self.card.image.width);
        let mut x: Vec<f32> = image.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect();
        for conv in &self.convs {
            x = conv.apply(&x, height, width);
            relu(&mut x);
            (height, width) = (height / conv.stride, width / conv.stride);
        }
        self.dense.apply(&x)
    }
}

/// Where the shipped network of `family` for square images of this size lies.
#[must_use]
pub fn shipped_path(family: &str, size: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(format!("features-{family}-{size}.safetensors"))
}

/// Writes the network's tensors and its card, each file completely or not at all.
pub fn save(path: &Path, card: &FeatureCard, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(card)?;
    json.push(b'\n');
    write_tensors(path, tensors)?;
    files::write_atomic(&path.with_extension("json"), &json)
}

/// Name and shape of every tensor; convolutions are [out, in, 3, 3], linears [out, in], the dense input in NHWC order.
#[must_use]
pub fn expected_shapes(image: ImageConfig, classes: usize) -> Vec<(String, Vec<usize>)> {
    let mut list = Vec::new();
    let mut push = |name: &str, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        list.push((format!("{name}.weight"), weight));
        list.push((format!("{name}.bias"), bias));
    };
    push("conv_1", vec![WIDTHS[0], image.channels, 3, 3]);
    push("conv_2", vec![WIDTHS[1], WIDTHS[0], 3, 3]);
    push("conv_3", vec![WIDTHS[2], WIDTHS[1], 3, 3]);
    push("dense", vec![FEATURES, image.height / 4 * (image.width / 4) * WIDTHS[2]]);
    push("head", vec![classes, FEATURES]);
    list.push(("reference.mean".into(), vec![FEATURES]));
    list.push(("reference.covariance".into(), vec![FEATURES, FEATURES]));
    list
}

fn relu(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = x.max(0.0));
}

/// 3×3, zero padding 1.
struct Conv {
    /// `[3, 3, in, out]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    cin: usize,
    stride: usize,
}

impl Conv {
    fn new(weight: &Tensor, bias: &[f32], stride: usize) -> Self {
        let (cout, cin) = (weight.shape[0], weight.shape[1]);
        let at = |k: usize| {
            let (o, i, tap) = (k % cout, k / cout % cin, k / cout / cin);
            weight.data[(o * cin + i) * 9 + tap]
        };
        Self { weight: (0..9 * cin * cout).map(at).collect(), bias: bias.to_vec(), cin, stride }
    }

    /// x [height, width, in] → [height/stride, width/stride, out].
    fn apply(&self, x: &[f32], height: usize, width: usize) -> Vec<f32> {
        let (cin, cout) = (self.cin, self.bias.len());
        let mut out = self.bias.repeat(height / self.stride * (width / self.stride));
        for (pixel, sums) in out.chunks_exact_mut(cout).enumerate() {
            let (oy, ox) = (pixel / (width / self.stride), pixel % (width / self.stride));
            for tap in 0..9 {
                // One more than the coordinate, so that the border is at 0.
                let (y, x1) = (oy * self.stride + tap / 3, ox * self.stride + tap % 3);
                if (1..=height).contains(&y) && (1..=width).contains(&x1) {
                    let input = &x[((y - 1) * width + x1 - 1) * cin..][..cin];
                    accumulate(sums, input, &self.weight[tap * cin * cout..][..cin * cout]);
                }
            }
        }
        out
    }
}

struct Linear {
    /// `[in, out]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    fn new(weight: &Tensor, bias: &[f32]) -> Self {
        let (outputs, inputs) = (weight.shape[0], weight.shape[1]);
        let transposed = (0..inputs * outputs).map(|k| weight.data[k % outputs * inputs + k / outputs]).collect();
        Self { weight: transposed, bias: bias.to_vec() }
    }

    /// Only these outputs, in this order.
    fn of_outputs(&self, outputs: &[u16]) -> Self {
        let pick = |row: &[f32]| -> Vec<f32> { outputs.iter().map(|&o| row[usize::from(o)]).collect() };
        Self { weight: self.weight.chunks_exact(self.bias.len()).flat_map(pick).collect(), bias: pick(&self.bias) }
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = self.bias.clone();
        accumulate(&mut out, x, &self.weight);
        out
    }
}

/// sums += x · weight, weight `[x.len(), sums.len()]`; inputs that ReLU made zero add nothing and are passed over.
fn accumulate(sums: &mut [f32], x: &[f32], weight: &[f32]) {
    for (&factor, row) in x.iter().zip(weight.chunks_exact(sums.len())) {
        if factor != 0.0 {
            sums.iter_mut().zip(row).for_each(|(s, w)| *s += factor * w);
        }
    }
}
