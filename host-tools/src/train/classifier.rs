//! Trains the feature networks of `eval`: garments by their ten classes, faces and emoji by how they are broken.
//!
//! Faces have no classes and emoji too few images, so their network learns to name the [`Corruption`] of an image, and
//! (with a second head that is not shipped) to give back its colours in a 4×4 grid, so that its features also notice
//! missing variety. Every training image gets noise of up to 4 levels: features must not hang on perfectly flat colours.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Tensor, Var};
use picodream::rng::NoiseStream;

use super::batch::Order;
use super::ops::conv::Conv;
use super::{STREAM_INIT, STREAM_STEP};
use crate::checkpoint::Tensor as Plain;
use crate::config::ImageConfig;
use crate::data::{Dataset, Source, load_test, load_train};
use crate::eval::corrupt::{Corruption, add_noise};
use crate::eval::features::{FEATURES, FeatureCard, FeatureNet, Floor, expected_shapes, save};
use crate::eval::frechet::{Gaussian, frechet_distance};

const BATCH: usize = 128;
const LEARNING_RATE: f64 = 2e-3;
const WARMUP: usize = 100;
const WEIGHT_DECAY: f64 = 0.05;
/// Deviation of the noise that every image gets is uniform in 0..this, in levels.
const BASE_NOISE: f32 = 4.0;
/// Corruptions are drawn with a strength of at least this.
const MIN_STRENGTH: f32 = 0.2;
/// Weight of the squared error of the 4×4 colours.
const COLOUR_WEIGHT: f64 = 4.0;
const COLOUR_CELLS: usize = 4;
/// Sizes for which the floor is measured, from one pool of training images.
const FLOOR_SIZES: [usize; 7] = [100, 250, 500, 1000, 2500, 5000, 10_000];
const FLOOR_POOL: usize = 10_000;
/// Stream of the test images' corruptions.
const STREAM_TEST: u64 = 5 << 40;

/// What is trained.
struct Task {
    source: String,
    image: ImageConfig,
    train: Dataset,
    test: Dataset,
    class_names: Vec<String>,
    labelled: bool,
    seed: u64,
}

/// Trains the network of `source` (`fashion`, `faces` or `emoji`) at `size`×`size` for `steps` steps and writes `out`
/// (`.safetensors`) and its card.
pub fn train_features(source: &str, size: usize, steps: usize, seed: u64, out: &Path) -> Result<FeatureCard> {
    ensure!(steps > WARMUP, "{steps} steps are too few; give more than {WARMUP}");
    let task = Task::new(source, size, seed)?;
    let mut learner = Learner::new(&task)?;
    let mut order = Order::new(seed, task.train.len());
    let mut mean = 0.0;
    for step in 0..steps {
        let loss = learner.step(&task, &task.batch(step, &mut order), step, steps)?;
        mean += (loss - mean) * if step == 0 { 1.0 } else { 0.02 };
        if (step + 1) % 100 == 0 || step + 1 == steps {
            eprintln!("step {}/{steps} loss {mean:.4}", step + 1);
        }
    }
    let (card, tensors) = finish(&task, learner.plain()?, steps, out)?;
    save(out, &card, &tensors)?;
    Ok(card)
}

impl Task {
    fn new(source: &str, size: usize, seed: u64) -> Result<Self> {
        let channels = Source::parse(source)?.channels();
        let image = ImageConfig { width: size, height: size, channels };
        let (train, test) = (load_train(source, image)?, load_test(source, image)?);
        // Emoji are too few to learn their classes from: 55 % right on the test split.
        let labelled = !train.labels.is_empty() && source != "emoji";
        let class_names = match labelled {
            true => train.class_names.clone(),
            false => Corruption::ALL.iter().map(|c| c.name()).collect(),
        };
        Ok(Self { source: source.to_owned(), image, train, test, class_names, labelled, seed })
    }

    /// One image to judge and its class: image `index` of `set`, broken if the data has no labels of its own.
    fn example(&self, set: &Dataset, index: usize, stream: &mut NoiseStream) -> (Vec<u8>, u16) {
        if self.labelled {
            return (set.image(index).to_vec(), set.labels[index]);
        }
        let class = stream.below(Corruption::ALL.len() as u32);
        let other = set.image(stream.below(set.len() as u32) as usize);
        let strength = MIN_STRENGTH + (1.0 - MIN_STRENGTH) * stream.next_f32();
        let family = Corruption::ALL[class as usize];
        (family.apply(set.image(index), other, self.image, strength, stream), class as u16)
    }

    fn batch(&self, step: usize, order: &mut Order) -> Batch {
        let mut stream = NoiseStream::new(self.seed, STREAM_STEP + step as u64);
        let mut batch = Batch::default();
        for i in 0..BATCH {
            let (mut image, class) = self.example(&self.train, order.index((step * BATCH + i) as u64), &mut stream);
            if !self.labelled {
                batch.colours.extend(grid_means(&image, self.image));
            }
            let sigma = BASE_NOISE * stream.next_f32();
            add_noise(&mut image, sigma, &mut stream);
            batch.pixels.extend(image.iter().map(|&p| scaled(f32::from(p))));
            batch.classes.push(u32::from(class));
        }
        batch
    }
}

#[derive(Default)]
struct Batch {
    /// BATCH × height × width × channels in −1..=1.
    pixels: Vec<f32>,
    classes: Vec<u32>,
    /// BATCH × 4 × 4 × channels in −1..=1, or empty.
    colours: Vec<f32>,
}

fn scaled(pixel: f32) -> f32 {
    pixel / 127.5 - 1.0
}

/// Mean colour of each cell of a 4×4 grid.
fn grid_means(image: &[u8], shape: ImageConfig) -> Vec<f32> {
    let grid = ImageConfig { width: COLOUR_CELLS, height: COLOUR_CELLS, channels: shape.channels };
    let mut cells = Vec::new();
    crate::data::fit::Fit::new(shape, grid).append(image, &mut cells);
    cells.iter().map(|&p| scaled(f32::from(p))).collect()
}

/// Weights with their AdamW moments.
struct Learner {
    variables: BTreeMap<String, Var>,
    moments: BTreeMap<String, (Tensor, Tensor)>,
}

impl Learner {
    fn new(task: &Task) -> Result<Self> {
        let mut shapes = expected_shapes(task.image, task.class_names.len());
        shapes.retain(|(name, _)| !name.starts_with("reference"));
        if !task.labelled {
            let outputs = COLOUR_CELLS * COLOUR_CELLS * task.image.channels;
            shapes.push(("colours.weight".into(), vec![outputs, FEATURES]));
            shapes.push(("colours.bias".into(), vec![outputs]));
        }
        let (mut variables, mut moments) = (BTreeMap::new(), BTreeMap::new());
        for (i, (name, shape)) in shapes.into_iter().enumerate() {
            let zero = Tensor::zeros(&shape[..], candle_core::DType::F32, &Device::Cpu)?;
            let tensor = if shape.len() > 1 { initial(&shape, task.seed, i)? } else { zero.clone() };
            variables.insert(name.clone(), Var::from_tensor(&tensor)?);
            moments.insert(name, (zero.clone(), zero));
        }
        Ok(Self { variables, moments })
    }

    /// A convolution with its weight and bias; linears are 1×1 convolutions.
    fn conv(&self, name: &str, x: &Tensor, op: Conv) -> Result<Tensor> {
        let mut weight = self.variables[&format!("{name}.weight")].as_tensor().clone();
        if weight.rank() == 2 {
            weight = weight.unsqueeze(2)?.unsqueeze(3)?;
        }
        let bias = self.variables[&format!("{name}.bias")].unsqueeze(0)?;
        Ok(op.apply(x, &weight, &bias)?)
    }

    /// pixels [B, H, W, C] → features [B, 1, 1, 64].
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        let down = Conv { stride: 2, ..Conv::PLAIN };
        let x = self.conv("conv_1", x, Conv { input_grad: false, ..Conv::PLAIN })?.relu()?;
        let x = self.conv("conv_2", &x, down)?.relu()?;
        let x = self.conv("conv_3", &x, down)?.relu()?;
        let batch = x.dim(0)?;
        self.conv("dense", &x.reshape((batch, 1, 1, ()))?, Conv::PLAIN)
    }

    /// One AdamW step; gives the loss.
    fn step(&mut self, task: &Task, batch: &Batch, step: usize, steps: usize) -> Result<f64> {
        let ImageConfig { width, height, channels } = task.image;
        let x = Tensor::from_slice(&batch.pixels, (BATCH, height, width, channels), &Device::Cpu)?;
        let features = self.features(&x)?;
        let scores = self.conv("head", &features.relu()?, Conv::PLAIN)?.reshape((BATCH, ()))?;
        let classes = Tensor::from_slice(&batch.classes, (BATCH, 1), &Device::Cpu)?;
        let mut loss = cross_entropy(&scores, &classes)?;
        if !task.labelled {
            let colours = self.conv("colours", &features, Conv::PLAIN)?.reshape((BATCH, ()))?;
            let target = Tensor::from_slice(&batch.colours, colours.shape(), &Device::Cpu)?;
            loss = (loss + ((colours - target)?.sqr()?.mean_all()? * COLOUR_WEIGHT)?)?;
        }
        let grads = loss.backward()?;
        let warm = ((step + 1) as f64 / WARMUP as f64).min(1.0);
        let rate = LEARNING_RATE * warm * 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        for (name, variable) in &self.variables {
            let grad = grads.get(variable).with_context(|| format!("tensor {name} got no gradient"))?;
            let moments = self.moments.get_mut(name).context("every variable has moments")?;
            variable.set(&adamw(variable, grad, moments, rate, step + 1)?)?;
        }
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    /// The shipped tensors (without the second head) as plain arrays.
    fn plain(&self) -> Result<BTreeMap<String, Plain>> {
        let shipped = self.variables.iter().filter(|(name, _)| !name.starts_with("colours"));
        shipped
            .map(|(name, v)| Ok((name.clone(), Plain { shape: v.dims().to_vec(), data: v.flatten_all()?.to_vec1()? })))
            .collect()
    }
}

/// He initialisation: N(0, 2 / inputs).
fn initial(shape: &[usize], seed: u64, number: usize) -> Result<Tensor> {
    let inputs: usize = shape[1..].iter().product();
    let mut data = vec![0.0; shape.iter().product()];
    NoiseStream::new(seed, STREAM_INIT + number as u64).fill_gaussian(&mut data);
    let deviation = (2.0 / inputs as f32).sqrt();
    data.iter_mut().for_each(|x| *x *= deviation);
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// −ln softmax(scores)[class], averaged; scores [B, n], classes [B, 1].
fn cross_entropy(scores: &Tensor, classes: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok((log_sum - shifted.gather(classes, 1)?)?.mean_all()?)
}

fn adamw(w: &Tensor, grad: &Tensor, (m, v): &mut (Tensor, Tensor), rate: f64, t: usize) -> Result<Tensor> {
    let grad = grad.detach();
    *m = ((&*m * 0.9)? + (&grad * 0.1)?)?;
    *v = ((&*v * 0.999)? + (grad.sqr()? * 0.001)?)?;
    let (m_hat, v_hat) = ((&*m / (1.0 - 0.9f64.powi(t as i32)))?, (&*v / (1.0 - 0.999f64.powi(t as i32)))?);
    let decay = if w.rank() > 1 { 1.0 - rate * WEIGHT_DECAY } else { 1.0 };
    Ok(((w.detach() * decay)? - (m_hat / (v_hat.sqrt()? + 1e-8)?)? * rate)?)
}

/// A card without figures, and the tensors with an empty reference.
fn unmeasured(
    task: &Task,
    mut tensors: BTreeMap<String, Plain>,
    steps: usize,
    out: &Path,
) -> Result<(FeatureCard, BTreeMap<String, Plain>)> {
    let name = out.file_stem().and_then(|s| s.to_str()).context("the output needs a file name")?.to_owned();
    let licence = match &task.source[..] {
        "faces" => "CC0-1.0 (Pixel Art, DiceBear)",
        "emoji" => "Apache-2.0 (Noto Emoji, Google)",
        _ => "MIT (Fashion-MNIST, Zalando SE)",
    };
    let card = FeatureCard {
        name,
        source: task.source.clone(),
        image: task.image,
        class_names: task.class_names.clone(),
        classes_are_labels: task.labelled,
        test_accuracy: 0.0,
        test_images: task.test.len(),
        floors: vec![Floor { samples: 1, fd: 0.0 }],
        licence: licence.into(),
        command: format!(
            "cargo run --release -p picodream-tools --features train --example train_features -- {}{} --steps \
             {steps} --seed {}",
            task.source,
            if task.image.width == 16 { String::new() } else { format!(" --size {}", task.image.width) },
            task.seed
        ),
        seed: task.seed,
        steps,
    };
    let empty = Gaussian { mean: vec![0.0; FEATURES], covariance: vec![0.0; FEATURES * FEATURES] };
    set_reference(&mut tensors, &empty);
    Ok((card, tensors))
}

/// Scales the features, measures accuracy, reference statistics and floors, and fills the card.
fn finish(
    task: &Task,
    tensors: BTreeMap<String, Plain>,
    steps: usize,
    out: &Path,
) -> Result<(FeatureCard, BTreeMap<String, Plain>)> {
    let (mut card, mut tensors) = unmeasured(task, tensors, steps, out)?;
    let raw = FeatureNet::new(card.clone(), &tensors)?;
    let spread = Gaussian::fit(&raw.features(&task.test.images), FEATURES)?;
    let variance = (0..FEATURES).map(|i| spread.covariance[i * FEATURES + i]).sum::<f64>() / FEATURES as f64;
    rescale(&mut tensors, variance.sqrt() as f32);

    let net = FeatureNet::new(card.clone(), &tensors)?;
    let reference = Gaussian::fit(&net.features(&task.test.images), FEATURES)?;
    card.test_accuracy = accuracy(task, &net);
    card.floors = floors(task, &net, &reference)?;
    set_reference(&mut tensors, &reference);
    Ok((card, tensors))
}

/// Divides the features by `deviation`, so that their mean variance over the test split is 1; classes do not change.
fn rescale(tensors: &mut BTreeMap<String, Plain>, deviation: f32) {
    for (name, factor) in
        [("dense.weight", 1.0 / deviation), ("dense.bias", 1.0 / deviation), ("head.weight", deviation)]
    {
        if let Some(tensor) = tensors.get_mut(name) {
            tensor.data.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

fn set_reference(tensors: &mut BTreeMap<String, Plain>, reference: &Gaussian) {
    let narrow = |data: &[f64]| data.iter().map(|&x| x as f32).collect();
    let mean = Plain { shape: vec![FEATURES], data: narrow(&reference.mean) };
    let covariance = Plain { shape: vec![FEATURES, FEATURES], data: narrow(&reference.covariance) };
    tensors.insert("reference.mean".into(), mean);
    tensors.insert("reference.covariance".into(), covariance);
}

fn accuracy(task: &Task, net: &FeatureNet) -> f64 {
    let mut right = 0;
    for index in 0..task.test.len() {
        let mut stream = NoiseStream::new(task.seed, STREAM_TEST + index as u64);
        let (image, class) = task.example(&task.test, index, &mut stream);
        right += usize::from(net.classes(&net.features(&image)) == [class]);
    }
    right as f64 / task.test.len() as f64
}

/// Fréchet distance of disjoint sets of n training images to the test split, averaged over the sets of each n.
fn floors(task: &Task, net: &FeatureNet, reference: &Gaussian) -> Result<Vec<Floor>> {
    let mut order = Order::new(task.seed, task.train.len());
    let pool: Vec<u8> = (0..FLOOR_POOL.min(task.train.len()) as u64)
        .flat_map(|n| task.train.image(order.index(n)).iter().copied())
        .collect();
    let features = net.features(&pool);
    let floor = |samples: usize| {
        let sets: Vec<f64> = features
            .chunks_exact(samples * FEATURES)
            .map(|set| Ok(frechet_distance(&Gaussian::fit(set, FEATURES)?, reference)))
            .collect::<Result<_>>()?;
        // Four places: below that the figure hangs on the order of the sums.
        Ok(Floor { samples, fd: (sets.iter().sum::<f64>() / sets.len() as f64 * 1e4).round() / 1e4 })
    };
    FLOOR_SIZES.into_iter().filter(|&samples| samples <= task.train.len()).map(floor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_has_its_closed_form() {
        let scores = Tensor::new(&[[0.0f32, 0.0], [2.0, 0.0]], &Device::Cpu).unwrap();
        let classes = Tensor::new(&[[0u32], [1]], &Device::Cpu).unwrap();
        let loss = cross_entropy(&scores, &classes).unwrap().to_scalar::<f32>().unwrap();
        let want = (2.0f32.ln() + (1.0 + 2.0f32.exp()).ln()) / 2.0;
        assert!((loss - want).abs() < 1e-6);
    }

    #[test]
    fn the_plain_network_agrees_with_the_trained_graph() {
        let task = Task::new("faces", 16, 1).unwrap();
        let learner = Learner::new(&task).unwrap();
        let (card, tensors) = unmeasured(&task, learner.plain().unwrap(), 1, Path::new("toy.safetensors")).unwrap();
        let images = &task.test.images[..20 * 768];
        let plain = FeatureNet::new(card, &tensors).unwrap().features(images);
        let pixels: Vec<f32> = images.iter().map(|&p| scaled(f32::from(p))).collect();
        let x = Tensor::from_vec(pixels, (20, 16, 16, 3), &Device::Cpu).unwrap();
        let graph = learner.features(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The same f32 sums in another order.
        let largest = plain.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.1 && plain.iter().zip(&graph).all(|(a, b)| (a - b).abs() < 1e-5 * largest.max(1.0)));
    }

    #[test]
    fn a_short_training_learns_and_repeats() {
        let folder = std::env::temp_dir().join(format!("picodream-classifier-{}", std::process::id()));
        let run = |name: &str| {
            let path = folder.join(name);
            (train_features("fashion-mini", 16, 101, 1, &path).unwrap(), std::fs::read(&path).unwrap())
        };
        let (first, second) = (run("a.safetensors"), run("b.safetensors"));
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(first.0.test_accuracy > 0.6, "{}", first.0.test_accuracy);
        assert_eq!(first.1, second.1);
    }
}
