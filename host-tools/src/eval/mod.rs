//! How close generated images come to the test split: Fréchet distance in the features of a small fixed network.
//!
//! This is not FID: the features are our own 64, so compare figures only within one data set of this project, and always
//! with the floor beside them.

pub mod confidence;
pub mod corrupt;
pub mod eigen;
pub mod features;
pub mod frechet;
pub mod neighbours;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::config::ImageConfig;
use features::FEATURES;
pub use features::FeatureNet;
use frechet::{Gaussian, frechet_distance};
pub use neighbours::Neighbours;

/// The figures of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalReport {
    /// Fréchet distance of the images to the test split.
    pub fd: f64,
    /// The same for as many real training images: what a perfect generator would score.
    pub fd_floor: f64,
    /// Share of labelled images that the network gives their own label; absent without labels.
    pub class_accuracy: Option<f64>,
    /// Share of images that the network takes for unbroken, where it learnt that instead of labels (faces, emoji).
    pub intact: Option<f64>,
    /// Number of images.
    pub samples: usize,
    /// The class accuracy by class asked for, in the order of the classes; empty without labels.
    pub per_class: Vec<ClassAccuracy>,
    /// Variety and closeness to the training images, when they were looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbours: Option<Neighbours>,
}

/// How often the images of one class are taken for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassAccuracy {
    /// Its name.
    pub class: String,
    /// Share of its images that the network gives their own label; 0 without one.
    pub accuracy: f64,
    /// Number of its images.
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
    let per_class = if card.classes_are_labels { by_class(&card.class_names, &classes, labels) } else { Vec::new() };
    let hits = || classes.iter().zip(labels).filter(|(class, label)| class == label).count();
    let whole = || classes.iter().filter(|&&class| class == 0).count();
    Ok(EvalReport {
        fd,
        fd_floor: card.floor(samples),
        class_accuracy: (card.classes_are_labels && !labels.is_empty()).then(|| share(hits())),
        intact: (!card.classes_are_labels).then(|| share(whole())),
        samples,
        per_class,
        neighbours: None,
    })
}

fn by_class(names: &[String], classes: &[u16], labels: &[u16]) -> Vec<ClassAccuracy> {
    let one = |(number, name): (usize, &String)| {
        let own = || classes.iter().zip(labels).filter(|(_, label)| usize::from(**label) == number);
        let samples = own().count();
        let right = own().filter(|(class, label)| class == label).count();
        ClassAccuracy { class: name.clone(), accuracy: right as f64 / samples.max(1) as f64, samples }
    };
    if labels.is_empty() { Vec::new() } else { names.iter().enumerate().map(one).collect() }
}
