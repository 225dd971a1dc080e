//! A lowered network and its config to one sealed blob, through the runtime's own writers.

use anyhow::{Context, Result, anyhow, ensure};
use picodream::Model;
use picodream::blob::{
    HEADER_BYTES, Header, NONE, OP_RECORD_BYTES, SectionKind, TENSOR_RECORD_BYTES, TextRef, place_sections, seal,
};

use super::lower::Lowered;
use crate::config::ModelConfig;
use crate::float::pipeline::{pixel_mapping, prediction_type, schedule_bytes};

/// The text section as it grows.
#[derive(Default)]
struct Texts(String);

impl Texts {
    fn add(&mut self, text: &str) -> Result<TextRef> {
        let offset = self.0.len();
        self.0.push_str(text);
        ensure!(self.0.len() <= usize::from(u16::MAX), "names and licences take more than 65535 bytes; shorten them");
        Ok(TextRef { offset: offset as u16, bytes: text.len() as u16 })
    }
}

/// Packs and seals a blob, and lets the runtime check it.
pub fn pack(config: &ModelConfig, lowered: &Lowered) -> Result<Vec<u8>> {
    let mut texts = Texts::default();
    for name in &config.data.class_names {
        ensure!(!name.contains('\n'), "config: the class name {name:?} holds a line break");
    }
    let name = texts.add(&config.name)?;
    let licence = texts.add(&config.licence)?;
    let data_licence = texts.add(&config.data.licence)?;
    let class_names = texts.add(&config.data.class_names.join("\n"))?;
    let ops = op_records(lowered, &mut texts)?;
    let mut tensors = vec![0; lowered.tensors.len() * TENSOR_RECORD_BYTES];
    for (record, bytes) in lowered.tensors.iter().zip(tensors.chunks_exact_mut(TENSOR_RECORD_BYTES)) {
        record.write(bytes);
    }
    let baked: Vec<u8> = lowered.timesteps.iter().flat_map(|t| t.to_le_bytes()).collect();
    let sections = [texts.0.into_bytes(), [schedule_bytes(config), baked].concat(), tensors, ops, lowered.data.clone()];
    let (table, total) =
        place_sections(sections.each_ref().map(|s| s.len() as u32)).context("the blob would exceed 4 GiB")?;
    let (pixel_scale, pixel_offset) = pixel_mapping(config);
    let header = Header {
        total_bytes: total,
        crc32: 0,
        arena_bytes: lowered.plan.peak,
        width: config.image.width as u16,
        height: config.image.height as u16,
        channels: config.image.channels as u8,
        prediction_type: prediction_type(config),
        num_classes: config.num_classes() as u16,
        num_train_timesteps: config.schedule.num_train_timesteps() as u16,
        sample: lowered.sample,
        model_output: lowered.model_output,
        guidance: lowered.guidance.unwrap_or(NONE),
        tensor_count: lowered.tensors.len() as u16,
        op_count: lowered.ops.len() as u16,
        pixel_scale,
        pixel_offset,
        name,
        licence,
        data_licence,
        class_names,
        few_steps: if config.for_consistency() { FEW_STEPS } else { 0 },
        few_step_sigma: config.few_step_sigma().unwrap_or(0.0),
        sections: table,
    };
    let mut blob = vec![0; total as usize];
    header.write(&mut blob[..HEADER_BYTES]);
    for (region, bytes) in table.iter().zip(&sections) {
        blob[region.range()].copy_from_slice(bytes);
    }
    seal(&mut blob);
    debug_assert_eq!(table.len(), SectionKind::Data as usize + 1);
    Model::parse(&blob).map_err(|error| anyhow!("the exported blob is refused by the runtime: {error}"))?;
    Ok(blob)
}

/// Most steps that tuning for consistency is shown with.
const FEW_STEPS: u8 = 4;

fn op_records(lowered: &Lowered, texts: &mut Texts) -> Result<Vec<u8>> {
    let mut bytes = vec![0; lowered.ops.len() * OP_RECORD_BYTES];
    let records = bytes.chunks_exact_mut(OP_RECORD_BYTES);
    for ((op, name), record) in lowered.ops.iter().zip(&lowered.names).zip(records) {
        ensure!(name.len() < 256, "the operator name {name} is longer than 255 bytes");
        let mut op = *op;
        op.common_mut().name = texts.add(name)?;
        op.write(record);
    }
    Ok(bytes)
}
