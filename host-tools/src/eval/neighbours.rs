//! Nearest neighbours: variety and truth to the data by density and coverage (arXiv:2002.09797), and closeness to training images.
//!
//! A ball around every real test image reaches to its fifth nearest test image, in the features of the evaluation network.
//! *Density* is how many balls an image lies in, over five: about 1 for real images, more where only the safest kind is
//! drawn. *Coverage* is the share of balls that hold an image: low when some kinds are never drawn. A model that has learnt
//! images by heart draws nearer to its training images than unseen test images lie.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::features::{FEATURES, FeatureNet};
use crate::data::Dataset;
use crate::float::gemm::{MatRef, gemm};

/// k of the balls, as in the paper.
const NEAREST: usize = 5;
/// Images, real and drawn, that are compared at most.
const MOST: usize = 5000;
/// Images of which the nearest training image is looked for, at most.
const MOST_SEARCHED: usize = 1000;
/// Rows of the table of distances that are in memory at once.
const BLOCK: usize = 256;
/// Share of the test images that lie nearer to a training image than the threshold of [`Neighbours::near_training`].
const NEAR: f64 = 0.05;

/// What the neighbours say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Neighbours {
    /// Density of the images.
    pub density: f64,
    /// Coverage of the test images.
    pub coverage: f64,
    /// Coverage by as many training images: what a perfect generator would reach.
    pub coverage_floor: f64,
    /// Median distance to the nearest training image: root mean square over pixels, of 255.
    pub train_distance: f64,
    /// The same for as many test images.
    pub train_distance_test: f64,
    /// Share of images that are nearer to a training image than 95 % of the test images are: 0.05 when nothing was learnt
    /// by heart.
    pub near_training: f64,
}

/// Compares `images` (N × height × width × channels bytes) with both splits of their data; N is at least 10.
pub fn neighbours(images: &[u8], net: &FeatureNet, train: &Dataset, test: &Dataset) -> Result<Neighbours> {
    let len = train.image_bytes();
    let count = (images.len() / len).min(MOST).min(test.len()).min(train.len());
    ensure!(count > 2 * NEAREST, "neighbours need at least {} images of each kind, got {count}", 2 * NEAREST + 1);
    let features = |images: &[u8]| net.features(&images[..count * len]);
    let balls = Balls::new(features(&test.images));
    let (density, coverage) = balls.density_and_coverage(&features(images));
    let (_, coverage_floor) = balls.density_and_coverage(&features(&spread(train, count)));

    let searched = count.min(MOST_SEARCHED);
    let drawn = nearest_images(&images[..searched * len], train);
    let unseen = nearest_images(&test.images[..searched * len], train);
    let threshold = quantile(&unseen, NEAR);
    let near_training = drawn.iter().filter(|d| **d < threshold).count() as f64 / searched as f64;
    let (train_distance, train_distance_test) = (quantile(&drawn, 0.5), quantile(&unseen, 0.5));
    Ok(Neighbours { density, coverage, coverage_floor, train_distance, train_distance_test, near_training })
}

/// `count` images from all over the data, whose order may be that of its classes.
fn spread(data: &Dataset, count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| data.image(i * data.len() / count)).copied().collect()
}

/// The value that a share of `values` lies below; `values` must not be empty.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Real images and their radii, squared.
struct Balls {
    /// `[N, FEATURES]`.
    centres: Vec<f32>,
    radii: Vec<f32>,
}

impl Balls {
    fn new(centres: Vec<f32>) -> Self {
        let mut radii = Vec::with_capacity(centres.len() / FEATURES);
        squared_distances(&centres, &centres, FEATURES, |_, row| {
            // The nearest is the image itself.
            row.select_nth_unstable_by(NEAREST, f32::total_cmp);
            radii.push(row[NEAREST]);
        });
        Self { centres, radii }
    }

    fn density_and_coverage(&self, features: &[f32]) -> (f64, f64) {
        let (mut inside, mut covered) = (0usize, 0usize);
        squared_distances(&self.centres, features, FEATURES, |centre, row| {
            let held = row.iter().filter(|d| **d <= self.radii[centre]).count();
            inside += held;
            covered += usize::from(held > 0);
        });
        let images = features.len() / FEATURES;
        (inside as f64 / (NEAREST * images) as f64, covered as f64 / self.radii.len() as f64)
    }
}

/// Distance of each image to the nearest of `data`: root mean square over its bytes.
fn nearest_images(images: &[u8], data: &Dataset) -> Vec<f64> {
    let len = data.image_bytes();
    let floats = |bytes: &[u8]| bytes.iter().map(|b| f32::from(*b)).collect::<Vec<_>>();
    let mut nearest = Vec::with_capacity(images.len() / len);
    squared_distances(&floats(images), &floats(&data.images), len, |image, row| {
        let best = (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0);
        // Exact for the one that was found: the table's differences of large sums are off by some units.
        let pairs = images[image * len..(image + 1) * len].iter().zip(data.image(best));
        let square: f64 = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        nearest.push((square / len as f64).sqrt());
    });
    nearest
}

/// Calls `row` with (i, |a_i − b_j|² for all j) for every row i of a; both are row-major with `len` columns.
fn squared_distances(a: &[f32], b: &[f32], len: usize, mut row: impl FnMut(usize, &mut [f32])) {
    let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
    let (rows, columns) = (a.len() / len, b.len() / len);
    let squares: Vec<f32> = b.chunks_exact(len).map(square).collect();
    let mut table = vec![0.0; BLOCK * columns];
    for first in (0..rows).step_by(BLOCK) {
        let count = BLOCK.min(rows - first);
        let block = &a[first * len..(first + count) * len];
        gemm(
            -2.0,
            MatRef::new(block, count, len, len),
            MatRef::new(b, columns, len, len).t(),
            0.0,
            &mut table,
            columns,
        );
        for (i, (x, distances)) in block.chunks_exact(len).zip(table.chunks_exact_mut(columns)).enumerate() {
            let own = square(x);
            distances.iter_mut().zip(&squares).for_each(|(d, other)| *d = (*d + own + other).max(0.0));
            row(first + i, distances);
        }
    }
}

#[cfg(test)]
mod tests {
    use picodream::rng::NoiseStream;

    use super::*;
    use crate::config::ImageConfig;
    use crate::data::{load_test, load_train};

    /// `count` points around `centre` with deviation `spread` in every feature.
    fn cloud(stream: u64, count: usize, centre: f32, spread: f32) -> Vec<f32> {
        let mut points = vec![0.0; count * FEATURES];
        NoiseStream::new(5, stream).fill_gaussian(&mut points);
        points.iter_mut().for_each(|x| *x = centre + spread * *x);
        points
    }

    #[test]
    fn distances_are_those_of_plain_loops() {
        let (a, b) = (cloud(1, 300, 0.0, 1.0), cloud(2, 7, 0.5, 2.0));
        let mut rows = 0;
        squared_distances(&a, &b, FEATURES, |i, row| {
            for (j, d) in row.iter().enumerate() {
                let pairs = a[i * FEATURES..][..FEATURES].iter().zip(&b[j * FEATURES..][..FEATURES]);
                let want: f64 = pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
                // Sums of some hundred in f32.
                assert!((f64::from(*d) - want).abs() < 1e-3, "{i} {j}: {d} but {want}");
            }
            rows += 1;
        });
        assert_eq!(rows, 300);
    }

    #[test]
    fn density_and_coverage_know_the_four_plain_cases() {
        let balls = Balls::new(cloud(1, 400, 0.0, 1.0));
        // The centres themselves: each ball holds its own and, by construction, five others.
        let (density, coverage) = balls.density_and_coverage(&balls.centres);
        assert_eq!((density, coverage), (6.0 / 5.0, 1.0));
        // Another sample of the same cloud covers most; in the paper 1 − 2^−k = 0.97 for k = 5 is the expectation.
        let (density, coverage) = balls.density_and_coverage(&cloud(2, 400, 0.0, 1.0));
        assert!((density - 1.0).abs() < 0.35 && coverage > 0.9, "{density} {coverage}");
        // Far away: nothing.
        assert_eq!(balls.density_and_coverage(&cloud(3, 400, 30.0, 1.0)), (0.0, 0.0));
        // One image again and again: hardly any ball.
        let one = balls.centres[..FEATURES].repeat(400);
        assert!(balls.density_and_coverage(&one).1 < 0.2);
    }

    #[test]
    fn copies_of_training_images_are_found() {
        let shape = ImageConfig { width: 16, height: 16, channels: 1 };
        let (train, test) = (load_train("fashion-mini", shape).unwrap(), load_test("fashion-mini", shape).unwrap());
        let net = FeatureNet::for_source("fashion-mini", shape).unwrap();
        let copied = neighbours(&train.images, &net, &train, &test).unwrap();
        assert!(copied.train_distance == 0.0 && copied.near_training == 1.0, "{copied:?}");
        let unseen = neighbours(&test.images, &net, &train, &test).unwrap();
        assert_eq!(unseen.train_distance, unseen.train_distance_test);
        assert!(unseen.near_training <= NEAR && unseen.coverage == 1.0, "{unseen:?}");
        assert!((0.8..=1.0).contains(&copied.coverage_floor), "{copied:?}");
        let error = neighbours(&test.images[..256 * 5], &net, &train, &test).unwrap_err().to_string();
        assert!(error.contains("at least 11 images"), "{error}");
    }

    #[test]
    fn quantiles_of_a_known_list() {
        let list: Vec<f64> = (0..101).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.05, 0.5, 1.0].map(|share| quantile(&list, share)), [0.0, 5.0, 50.0, 100.0]);
    }
}
