//! Which model is meant: the name of a shipped model, or the path of a blob or checkpoint.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use picodream::Model;

use crate::checkpoint::Checkpoint;
use crate::files;

/// The shipped models: name and blob, which is part of this program.
const SHIPPED: [(&str, &[u8]); 9] = [
    ("fashion-16", include_bytes!("../../../models/fashion-16.pdm")),
    ("fashion-16-fast", include_bytes!("../../../models/fashion-16-fast.pdm")),
    ("fashion-16-nano", include_bytes!("../../../models/fashion-16-nano.pdm")),
    ("fashion-16-nano-fast", include_bytes!("../../../models/fashion-16-nano-fast.pdm")),
    ("faces-16-fast", include_bytes!("../../../models/faces-16-fast.pdm")),
    ("faces-16", include_bytes!("../../../models/faces-16.pdm")),
    ("fashion-28", include_bytes!("../../../models/fashion-28.pdm")),
    ("emoji-32", include_bytes!("../../../models/emoji-32.pdm")),
    ("fashion-16-eps", include_bytes!("../../../models/fashion-16-eps.pdm")),
];

/// Names of the shipped models.
pub fn names() -> Vec<String> {
    SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// The folder of the shipped models: `models/` of the repository that this program was built from.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

/// A model on disk: its blob, its checkpoint, or both.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// As it was named.
    pub name: String,
    /// The file that the name or path means.
    pub path: PathBuf,
    /// The blob, unless `path` is a checkpoint.
    pub blob: Option<Cow<'static, [u8]>>,
    /// Where the checkpoint is, or would be.
    pub checkpoint: PathBuf,
}

impl ModelFiles {
    /// Finds what `name` means: a shipped name first, then a path.
    pub fn find(name: &str) -> Result<Self> {
        if let Some((_, blob)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            let path = folder().join(name).with_extension("pdm");
            let (blob, checkpoint) = (Some(Cow::Borrowed(*blob)), path.with_extension("safetensors"));
            return Ok(Self { name: name.into(), blob, checkpoint, path });
        }
        let path = PathBuf::from(name);
        ensure!(
            path.is_file(),
            "there is no model '{name}': give the path of a .pdm blob, or one of {}",
            SHIPPED.map(|(name, _)| name).join(", ")
        );
        let is_checkpoint = path.extension().is_some_and(|e| e == "safetensors");
        let blob = if is_checkpoint { None } else { Some(Cow::Owned(files::read(&path)?)) };
        Ok(Self { name: name.into(), blob, checkpoint: path.with_extension("safetensors"), path })
    }

    /// The checked blob.
    pub fn model(&self) -> Result<Model<'_>> {
        let Some(blob) = &self.blob else {
            bail!("{} is a checkpoint, not a blob: run picodream export on it first", self.name);
        };
        ensure!(!blob.is_empty(), "{} is empty", self.name);
        Model::parse(blob).map_err(|error| anyhow::anyhow!("{}: {error}", self.name))
    }

    /// The f32 weights.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        ensure!(
            self.checkpoint.is_file(),
            "the f32 engine needs the checkpoint of {} at {}, but there is none",
            self.name,
            self.checkpoint.display()
        );
        Checkpoint::load(&self.checkpoint)
    }
}

/// Class names of a checked blob.
pub fn class_names(model: &Model<'_>) -> Result<Vec<String>> {
    let header = model.header().map_err(|error| anyhow::anyhow!("{error}"))?;
    let text = model.text(&header, header.class_names);
    let mut names: Vec<String> = text.lines().map(String::from).collect();
    let classes = usize::from(header.num_classes);
    (names.len()..classes).for_each(|i| names.push(i.to_string()));
    names.truncate(classes);
    Ok(names)
}
