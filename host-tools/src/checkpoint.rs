//! A trained model on disk: `NAME.safetensors` (f32 weights under diffusers' names) and `NAME.json` (its config) beside it.
//!
//! [`expected_shapes`] is the one list of names and shapes; the trainer, the float engine and the exporter all read it.
//! A [`Checkpoint`] that loaded holds exactly those tensors, with those shapes, all finite.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::config::ModelConfig;
use crate::files;

/// An f32 tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first; convolutions are [out, in, kh, kw].
    pub shape: Vec<usize>,
    /// `shape.product()` values.
    pub data: Vec<f32>,
}

/// Weights and config of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What the model is and how it was trained.
    pub config: ModelConfig,
    /// The tensors of [`expected_shapes`], by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads `path` (a `.safetensors` file) and the `.json` beside it, and checks both.
    pub fn load(path: &Path) -> Result<Self> {
        let json_path = path.with_extension("json");
        let json = files::read(&json_path)
            .with_context(|| format!("checkpoint {} needs its config {}", path.display(), json_path.display()))?;
        let config: ModelConfig =
            serde_json::from_slice(&json).with_context(|| format!("{} is not a model config", json_path.display()))?;
        config.validate().with_context(|| format!("{} is not a valid model config", json_path.display()))?;
        let checkpoint = Self { config, tensors: read_tensors(path)? };
        checkpoint.validate().with_context(|| format!("{} does not fit its config", path.display()))?;
        Ok(checkpoint)
    }

    /// Writes `path` and the `.json` beside it, each completely or not at all. The same checkpoint gives the same bytes.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.config.validate()?;
        self.validate()?;
        let mut json = serde_json::to_vec_pretty(&self.config)?;
        json.push(b'\n');
        write_tensors(path, &self.tensors)?;
        files::write_atomic(&path.with_extension("json"), &json)
    }

    /// The tensor `name`; panics when it is not in [`expected_shapes`] of the config.
    #[must_use]
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}: not in expected_shapes"))
    }

    fn validate(&self) -> Result<()> {
        let expected = expected_shapes(&self.config);
        for (name, shape) in &expected {
            let tensor = self.tensors.get(name).with_context(|| format!("tensor {name} is missing"))?;
            ensure!(tensor.shape == *shape, "tensor {name} has shape {:?}, but must be {shape:?}", tensor.shape);
            let len: usize = shape.iter().product();
            ensure!(tensor.data.len() == len, "tensor {name} holds {} values, not {len}", tensor.data.len());
            let bad = tensor.data.iter().position(|x| !x.is_finite());
            if let Some(i) = bad {
                bail!("tensor {name} holds {} at index {i}; every weight must be finite", tensor.data[i]);
            }
        }
        let extra = self.tensors.keys().find(|name| !expected.iter().any(|(known, _)| known == *name));
        extra.map_or(Ok(()), |name| Err(anyhow!("tensor {name} does not belong to this network")))
    }
}

/// Reads every tensor of a safetensors file; all must be F32.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = files::read(path)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| anyhow!("{} is not a whole safetensors file ({} bytes): {e}", path.display(), bytes.len()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = view.dtype();
        ensure!(dtype == Dtype::F32, "{}: tensor {name} is {dtype:?}, but must be F32", path.display());
        let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensors.insert(name.to_owned(), Tensor { shape: view.shape().to_vec(), data });
    }
    Ok(tensors)
}

/// Writes tensors as a safetensors file, completely or not at all.
pub fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let bytes: Vec<(&String, &Tensor, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| (name, tensor, tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, tensor, data) in &bytes {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data)
            .map_err(|e| anyhow!("tensor {name} cannot be written: {e}"))?;
        views.push((name.as_str(), view));
    }
    let file = safetensors::serialize(views, None).map_err(|e| anyhow!("cannot pack {}: {e}", path.display()))?;
    files::write_atomic(path, &file)
}

/// Name and shape of every tensor of the network, in the order of the forward pass.
#[must_use]
pub fn expected_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let unet = &config.unet;
    let widths = &unet.block_out_channels;
    let (levels, embed) = (widths.len(), unet.time_embed_dim);
    let mut list = ShapeList { shapes: Vec::new(), embed };
    list.conv("conv_in", config.image.channels, widths[0], 3);
    list.linear("time_embedding.linear_1", unet.time_freq_dim, embed);
    list.linear("time_embedding.linear_2", embed, embed);
    if config.num_classes() > 0 {
        list.push("class_embedding.weight", &[config.num_classes() + 1, embed]);
    }
    let mut skips = vec![widths[0]];
    let mut channels = widths[0];
    for (i, &width) in widths.iter().enumerate() {
        for j in 0..unet.layers_per_block {
            list.resnet(&format!("down_blocks.{i}.resnets.{j}"), channels, width);
            if unet.attention_levels[i] {
                list.attention(&format!("down_blocks.{i}.attentions.{j}"), width);
            }
            channels = width;
            skips.push(channels);
        }
        if i + 1 < levels {
            list.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), width, width, 3);
            skips.push(width);
        }
    }
    list.resnet("mid_block.resnets.0", channels, channels);
    if unet.mid_attention {
        list.attention("mid_block.attentions.0", channels);
    }
    list.resnet("mid_block.resnets.1", channels, channels);
    for u in 0..levels {
        let i = levels - 1 - u;
        for j in 0..=unet.layers_per_block {
            let skip = skips.pop().expect("one skip per ResBlock of the way up");
            list.resnet(&format!("up_blocks.{u}.resnets.{j}"), channels + skip, widths[i]);
            if unet.attention_levels[i] {
                list.attention(&format!("up_blocks.{u}.attentions.{j}"), widths[i]);
            }
            channels = widths[i];
        }
        if i > 0 {
            list.conv(&format!("up_blocks.{u}.upsamplers.0.conv"), widths[i], widths[i - 1], 3);
            channels = widths[i - 1];
        }
    }
    list.norm("conv_norm_out", channels);
    list.conv("conv_out", channels, config.output_channels(), 3);
    list.shapes
}

struct ShapeList {
    shapes: Vec<(String, Vec<usize>)>,
    embed: usize,
}

impl ShapeList {
    fn push(&mut self, name: &str, shape: &[usize]) {
        self.shapes.push((name.to_owned(), shape.to_vec()));
    }

    fn conv(&mut self, name: &str, cin: usize, cout: usize, kernel: usize) {
        self.push(&format!("{name}.weight"), &[cout, cin, kernel, kernel]);
        self.push(&format!("{name}.bias"), &[cout]);
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.push(&format!("{name}.weight"), &[outputs, inputs]);
        self.push(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.push(&format!("{name}.weight"), &[channels]);
        self.push(&format!("{name}.bias"), &[channels]);
    }

    fn resnet(&mut self, name: &str, cin: usize, cout: usize) {
        self.norm(&format!("{name}.norm1"), cin);
        self.conv(&format!("{name}.conv1"), cin, cout, 3);
        self.linear(&format!("{name}.time_emb_proj"), self.embed, cout);
        self.norm(&format!("{name}.norm2"), cout);
        self.conv(&format!("{name}.conv2"), cout, cout, 3);
        if cin != cout {
            self.conv(&format!("{name}.conv_shortcut"), cin, cout, 1);
        }
    }

    fn attention(&mut self, name: &str, channels: usize) {
        self.norm(&format!("{name}.group_norm"), channels);
        for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
            self.linear(&format!("{name}.{projection}"), channels, channels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        DataConfig, ImageConfig, PredictionType, ScheduleConfig, TimestepDensity, TrainConfig, UNetConfig,
    };
    use std::fs;
    use std::path::PathBuf;

    fn tiny() -> Checkpoint {
        let config = ModelConfig {
            name: "tiny".into(),
            licence: "MIT".into(),
            image: ImageConfig { width: 4, height: 4, channels: 1 },
            unet: UNetConfig {
                block_out_channels: vec![4, 8],
                norm_num_groups: 2,
                time_freq_dim: 4,
                time_embed_dim: 8,
                ..UNetConfig::default()
            },
            prediction_type: PredictionType::VPrediction,
            schedule: ScheduleConfig::Cosine { num_train_timesteps: 10, s: 0.008 },
            data: DataConfig {
                source: "none".into(),
                mean: 0.5,
                std: 0.5,
                licence: "MIT".into(),
                class_names: vec!["a".into(), "b".into()],
            },
            train: TrainConfig {
                steps: 1,
                batch_size: 1,
                learning_rate: 1e-3,
                warmup_steps: 0,
                weight_decay: 0.0,
                clip_norm: 1.0,
                ema_decay: 0.9,
                label_dropout: 0.0,
                timestep_density: TimestepDensity::Uniform,
                seed: 1,
            },
            tune: None,
            grid: None,
        };
        let tensors = expected_shapes(&config)
            .into_iter()
            .map(|(name, shape)| {
                let data = (0..shape.iter().product()).map(|i: usize| i as f32 * 0.25 - 1.0).collect();
                (name, Tensor { shape, data })
            })
            .collect();
        Checkpoint { config, tensors }
    }

    fn folder(test: &str) -> PathBuf {
        std::env::temp_dir().join(format!("picodream-checkpoint-{test}-{}", std::process::id()))
    }

    /// Saves the tiny checkpoint, lets `spoil` change the files, and gives the error of loading them.
    fn error_after(test: &str, spoil: impl FnOnce(&Path, Checkpoint)) -> String {
        let folder = folder(test);
        let path = folder.join("tiny.safetensors");
        tiny().save(&path).unwrap();
        spoil(&path, tiny());
        let error = format!("{:#}", Checkpoint::load(&path).expect_err("a spoilt checkpoint must not load"));
        fs::remove_dir_all(folder).unwrap();
        error
    }

    #[test]
    fn saves_and_loads_the_same_values() {
        let folder = folder("same");
        let path = folder.join("tiny.safetensors");
        tiny().save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap(), tiny());
        let files: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert_eq!(files.len(), 2, "no temporary file stays behind");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn default_network_has_the_parameters_of_the_design() {
        let mut config = tiny().config;
        config.unet = UNetConfig::default();
        config.data.class_names = vec![String::from("x"); 10];
        let parameters: usize = expected_shapes(&config).iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert!((100_000..200_000).contains(&parameters), "{parameters}");
    }

    #[test]
    fn refuses_a_missing_tensor() {
        let error = error_after("missing", |path, mut c| {
            c.tensors.remove("conv_in.bias");
            write_tensors(path, &c.tensors).unwrap();
        });
        assert!(error.contains("conv_in.bias is missing"), "{error}");
    }

    #[test]
    fn refuses_an_extra_tensor() {
        let error = error_after("extra", |path, mut c| {
            c.tensors.insert("surplus".into(), Tensor { shape: vec![1], data: vec![0.0] });
            write_tensors(path, &c.tensors).unwrap();
        });
        assert!(error.contains("surplus does not belong"), "{error}");
    }

    #[test]
    fn refuses_a_wrong_shape() {
        let error = error_after("shape", |path, mut c| {
            c.tensors.get_mut("conv_in.weight").unwrap().shape = vec![1, 4, 3, 3];
            write_tensors(path, &c.tensors).unwrap();
        });
        assert!(error.contains("shape [1, 4, 3, 3], but must be [4, 1, 3, 3]"), "{error}");
    }

    #[test]
    fn refuses_nan_and_infinity() {
        for (test, value) in [("nan", f32::NAN), ("inf", f32::NEG_INFINITY)] {
            let error = error_after(test, |path, mut c| {
                c.tensors.get_mut("conv_out.bias").unwrap().data[0] = value;
                write_tensors(path, &c.tensors).unwrap();
            });
            assert!(error.contains("conv_out.bias holds") && error.contains("finite"), "{error}");
        }
    }

    #[test]
    fn refuses_truncated_empty_and_absent_files() {
        for (test, keep) in [("header", 5), ("names", 300), ("data", 9000), ("empty", 0)] {
            let error = error_after(test, |path, _| {
                let bytes = fs::read(path).unwrap();
                assert!(bytes.len() > keep);
                fs::write(path, &bytes[..keep]).unwrap();
            });
            assert!(error.contains("not a whole safetensors file"), "{error}");
        }
        let error = error_after("absent", |path, _| fs::remove_file(path).unwrap());
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn refuses_another_type() {
        let error = error_after("type", |path, _| {
            let data = [0u8; 8];
            let view = TensorView::new(Dtype::F64, vec![1], &data).unwrap();
            fs::write(path, safetensors::serialize([("conv_in.bias", view)], None).unwrap()).unwrap();
        });
        assert!(error.contains("is F64, but must be F32"), "{error}");
    }

    #[test]
    fn refuses_missing_or_bad_config() {
        let error = error_after("nojson", |path, _| fs::remove_file(path.with_extension("json")).unwrap());
        assert!(error.contains("needs its config"), "{error}");
        let error = error_after("badjson", |path, _| fs::write(path.with_extension("json"), b"{").unwrap());
        assert!(error.contains("is not a model config"), "{error}");
        let error = error_after("badvalue", |path, mut c| {
            c.config.image.width = 5;
            fs::write(path.with_extension("json"), serde_json::to_vec(&c.config).unwrap()).unwrap();
        });
        assert!(error.contains("image.width is 5"), "{error}");
    }

    #[test]
    fn does_not_save_what_it_would_not_load() {
        let path = folder("unsaved").join("tiny.safetensors");
        let mut bad = tiny();
        bad.tensors.get_mut("conv_out.bias").unwrap().data[0] = f32::NAN;
        assert!(bad.save(&path).is_err());
        assert!(!path.exists() && !path.with_extension("json").exists());
    }
}
