//! How close generated images come to the test split: Fréchet distance in the features of a small fixed network.
//!
//! This is not FID: the features are our own 64, so compare figures only within one data set of this project, and always
//! with the floor beside them.

pub mod corrupt;
pub mod eigen;
pub mod features;
pub mod frechet;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::config::ImageConfig;
use features::FEATURES;
pub use features::FeatureNet;
use frechet::{Gaussian, frechet_distance};

/// The figures of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Fréchet distance of the images to the test split.
    pub fd: f64,
    /// The same for as many real training images: what a perfect generator would score.
    pub fd_floor: f64,
    /// Share of labelled images that the network gives their own label; absent without labels.
    pub class_accuracy: Option<f64>,
    /// Share of images that the network takes for unbroken, where it learnt that instead of labels (the faces).
    pub intact: Option<f64>,
    /// Number of images.
    pub samples: usize,
}

/// Compares `images` (N × height × width × channels bytes) with the test split of `source` through its network.
///
/// `labels` holds the class that each image was asked to show, or nothing. The statistics of the test split are part of
/// the network's file, so the data set itself is not needed.
pub fn evaluate(
    images: &[u8],
    labels: &[u16],
    image: ImageConfig,
    features: &FeatureNet,
    source: &str,
) -> Result<EvalReport> {
    let card = &features.card;
    ensure!(
        source == card.source || source == format!("{}-mini", card.source),
        "the feature network {} judges {}, but these images are of {source}",
        card.name,
        card.source
    );
    features.ensure_shape(image)?;
    let bytes = image.width * image.height * image.channels;
    let samples = images.len() / bytes;
    ensure!(images.len() == samples * bytes, "{} bytes are not a whole number of {bytes}-byte images", images.len());
    ensure!(
        labels.is_empty() || labels.len() == samples,
        "there are {} labels for {samples} images; give one each or none",
        labels.len()
    );
    let rows = features.features(images);
    let fd = frechet_distance(&Gaussian::fit(&rows, FEATURES)?, &features.reference);
    let classes = features.classes(&rows);
    let share = |right: usize| right as f64 / samples as f64;
    let hits = || classes.iter().zip(labels).filter(|(class, label)| class == label).count();
    let whole = || classes.iter().filter(|&&class| class == 0).count();
    Ok(EvalReport {
        fd,
        fd_floor: card.floor(samples),
        class_accuracy: (card.classes_are_labels && !labels.is_empty()).then(|| share(hits())),
        intact: (!card.classes_are_labels).then(|| share(whole())),
        samples,
    })
}
