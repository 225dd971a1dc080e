//! Bad flags, blobs, checkpoints, configs and data: one sentence each, and nothing written.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::harness::*;

#[test]
fn bad_flags_are_one_sentence() {
    let folder = copy("flags");
    let sample = |extra: &[&'static str]| [&["sample", "tiny.pdm", "--out", "x.png"], extra].concat();
    refused(&folder, &sample(&["--steps", "0"]), 1, &["steps is 0", "1..=1000"]);
    refused(&folder, &sample(&["--steps", "1001"]), 1, &["steps is 1001", "1..=1000"]);
    refused(&folder, &sample(&["--steps", "many"]), 2, &["many", "--steps"]);
    refused(&folder, &sample(&["--seed", "-1"]), 2, &["-1"]);
    refused(&folder, &sample(&["--seed", "18446744073709551615", "--count", "2"]), 1, &["passes 2^64"]);
    refused(&folder, &sample(&["--count", "0"]), 2, &["--count"]);
    refused(&folder, &sample(&["--class", "hat"]), 1, &["there is no class 'hat'", "class 0, class 1, class 2"]);
    refused(&folder, &sample(&["--class", "3"]), 1, &["there is no class '3'", "0..=2"]);
    refused(&folder, &sample(&["--guidance", "NaN"]), 1, &["guidance is NaN"]);
    refused(&folder, &sample(&["--guidance", "2", "--class", "none"]), 1, &["guidance is 2", "no class"]);
    refused(&folder, &sample(&["--eta", "1.5"]), 1, &["eta is 1.5", "0..=1"]);
    refused(&folder, &sample(&["--engine", "int4"]), 2, &["int4", "int8, f32"]);
    refused(&folder, &sample(&["--trajectory", "x.mp4"]), 1, &["x.mp4", ".gif"]);
    refused(&folder, &sample(&["--colour"]), 2, &["--colour"]);
    refused(&folder, &["sample"], 2, &["<MODEL>"]);
    refused(&folder, &["paint"], 2, &["paint"]);
    refused(&folder, &["sampel", "tiny.pdm"], 2, &["'sampel'", "a similar subcommand exists: 'sample'"]);
    refused(
        &folder,
        &["sample", "fashion-17"],
        1,
        &[
            "there is no model 'fashion-17'",
            "fashion-16, fashion-16-fast, fashion-16-nano, fashion-16-nano-fast, faces-16-fast, faces-16, fashion-28, \
             emoji-32, fashion-16-eps",
        ],
    );
    refused(&folder, &["sample", "tiny.safetensors"], 1, &["is a checkpoint, not a blob", "picodream export"]);
    refused(&folder, &["sample", "tiny.pdm", "--out", "tiny.pdm/x.png"], 1, &["tiny.pdm"]);
    refused(&folder, &["emulate", "tiny.pdm", "--machine", "toaster"], 1, &["toaster", "mps2-an386"]);
    refused(&folder, &["emulate", "tiny.pdm", "--core", "m9"], 1, &["'m9'", "m33"]);
    refused(&folder, &["emulate", "tiny.pdm", "--core", "m3", "--machine", "mps2-an386"], 2, &["--core"]);
    refused(&folder, &["bench", "--core", "m9"], 1, &["'m9'", "m33"]);
    refused(&folder, &["bench", "--shape", "5x5"], 1, &["'5x5'", "3x3 28x28x16->16"]);
    refused(&folder, &["bench", "--model", "nothing"], 1, &["nothing"]);
    refused(&folder, &["bench", "--snapshot", "counts.json", "--core", "m4"], 2, &["--snapshot"]);
    refused(&folder, &["emulate", "tiny.pdm", "--class", "hat"], 1, &["there is no class 'hat'"]);
    refused(&folder, &["emulate", "tiny.pdm", "--sampler", "heun"], 1, &["flash has no heun", "--loaded"]);
    refused(&folder, &["emulate", "tiny.pdm", "--loaded", "--sampler", "heun", "--eta", "1"], 1, &["--eta", "heun"]);
    refused(&folder, &["diff", "tiny.pdm", "--steps", "0"], 1, &["steps is 0"]);
    refused(&folder, &["diff", "tiny.pdm", "--class", "7"], 1, &["there is no class '7'"]);
}

/// Writes `bytes` as `broken.pdm` and expects every verb that reads a blob to refuse it.
fn blob_refused(folder: &Path, bytes: &[u8], parts: &[&str]) {
    fs::write(folder.join("broken.pdm"), bytes).unwrap();
    for verb in ["inspect", "sample", "diff", "emulate", "eval"] {
        refused(folder, &[verb, "broken.pdm"], 1, parts);
    }
}

#[test]
fn bad_blobs_are_one_sentence() {
    let folder = copy("blobs");
    let blob = fs::read(folder.join("tiny.pdm")).unwrap();
    blob_refused(&folder, &[], &["broken.pdm is empty"]);
    blob_refused(&folder, &blob[..blob.len() - 1], &["truncated", "broken.pdm"]);
    blob_refused(&folder, &blob[..60], &["truncated", "144 bytes needed, 60 given"]);
    blob_refused(&folder, &[&blob[..], &[0]].concat(), &["trailing bytes"]);
    blob_refused(&folder, "not a blob ".repeat(20).as_bytes(), &["does not begin with PDRM"]);
    let with = |at: usize, value: u8| {
        let mut bytes = blob.clone();
        bytes[at] ^= value;
        bytes
    };
    blob_refused(&folder, &with(blob.len() / 2, 1), &["damaged: checksum"]);
    blob_refused(&folder, &with(4, 1), &["format version 3", "reads 2"]);
    fs::remove_file(folder.join("broken.pdm")).unwrap();
    for verb in ["inspect", "sample", "diff", "emulate", "eval"] {
        refused(&folder, &[verb, "absent.pdm"], 1, &["there is no model 'absent.pdm'"]);
    }
}

#[test]
fn bad_checkpoints_are_one_sentence() {
    let folder = copy("checkpoints");
    let path = folder.join("tiny.safetensors");
    let good = fs::read(&path).unwrap();
    let export = ["export", "tiny.safetensors", "--out", "x.pdm"];
    let check = |bytes: &[u8], parts: &[&str]| {
        fs::write(&path, bytes).unwrap();
        refused(&folder, &export, 1, parts);
        refused(&folder, &["sample", "tiny.pdm", "--engine", "f32", "--out", "x.png"], 1, parts);
        refused(&folder, &["diff", "tiny.pdm"], 1, parts);
    };
    check(&[], &["tiny.safetensors"]);
    check(&good[..good.len() - 4], &["tiny.safetensors"]);
    check(b"\xff\xff\xff\xff\xff\xff\xff\xff", &["tiny.safetensors"]);
    let mut nan = good.clone();
    let at = nan.len() - 4;
    nan[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    check(&nan, &["tiny.safetensors", "finite"]);
    let renamed = String::from_utf8_lossy(&good[..2000]).find("conv_in.weight").unwrap();
    let mut wrong = good.clone();
    wrong[renamed] = b'x';
    check(&wrong, &["conv_in.weight"]);
    fs::remove_file(&path).unwrap();
    refused(&folder, &export, 1, &["cannot read", "tiny.safetensors"]);
    refused(&folder, &["diff", "tiny.pdm"], 1, &["needs the checkpoint", "tiny.safetensors"]);
    fs::write(&path, &good).unwrap();
    fs::remove_file(folder.join("tiny.json")).unwrap();
    refused(&folder, &export, 1, &["tiny.json"]);
}

#[test]
fn bad_configs_are_one_sentence() {
    let folder = copy("configs");
    let path = folder.join("tiny.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let check_text = |text: &str, parts: &[&str]| {
        fs::write(&path, text).unwrap();
        refused(&folder, &["export", "tiny.safetensors", "--out", "x.pdm"], 1, parts);
        refused(&folder, &["train", "tiny.json", "--out", "x.safetensors"], 1, parts);
    };
    let check = |change: fn(&mut Value), parts: &[&str]| {
        let mut value = good.clone();
        change(&mut value);
        check_text(&value.to_string(), parts);
    };
    check_text("", &["tiny.json is not a model config"]);
    check_text("{ \"name\":", &["tiny.json is not a model config"]);
    check(|v| v["version"] = 2.into(), &["unknown field `version`"]);
    check(|v| v["image"]["channels"] = 2.into(), &["image.channels is 2"]);
    check(|v| v["image"]["width"] = 7.into(), &["image.width is 7"]);
    check(|v| v["unet"]["block_out_channels"] = serde_json::json!([8, 12]), &["multiple of norm_num_groups"]);
    check(|v| v["data"]["std"] = 0.into(), &["data.std"]);
    check(|v| v["data"]["mean"] = Value::Null, &["null"]);
    check(|v| v["prediction_type"] = "score".into(), &["score", "epsilon"]);
    // A valid config of another network: told before anything is trained or exported.
    let mut wider = good.clone();
    wider["unet"]["block_out_channels"] = serde_json::json!([16, 8]);
    fs::write(&path, wider.to_string()).unwrap();
    refused(
        &folder,
        &["export", "tiny.safetensors", "--out", "x.pdm"],
        1,
        &["tiny.safetensors does not fit its config"],
    );
    refused(&folder, &["train", "absent.json"], 1, &["cannot read absent.json"]);
    refused(&folder, &["train", "tiny.json", "--size", "16"], 1, &["--size"]);
    refused(&folder, &["train", "fashion-mini", "--out", "x.pdm"], 1, &["must end in .safetensors"]);
}

#[test]
fn bad_data_is_one_sentence() {
    let folder = scratch("data");
    refused(&folder, &["data", "absent"], 1, &["there is no data 'absent'", "fashion"]);
    refused(&folder, &["train", "absent"], 1, &["there is no data 'absent'"]);
    fs::create_dir(folder.join("empty")).unwrap();
    refused(&folder, &["data", "empty"], 1, &["empty", "holds no PNG or JPEG"]);
    fs::create_dir(folder.join("broken")).unwrap();
    (0..30).for_each(|i| fs::write(folder.join(format!("broken/{i}.png")), b"\x89PNG\r\n\x1a\nno").unwrap());
    refused(&folder, &["data", "broken"], 1, &["not a readable PNG or JPEG"]);
    fs::write(folder.join("cut.idx"), b"\0\0\x08\x03\0\0\0\x02\0\0\0\x04\0\0\0\x04 too short").unwrap();
    refused(&folder, &["data", "cut.idx"], 1, &["cut.idx"]);
    refused(&folder, &["data", "fashion-mini", "--size", "0"], 2, &["--size"]);
}

#[test]
fn bad_tuning_is_one_sentence_before_the_trainer_is_built() {
    let folder = copy("tune");
    let tune = ["tune", "tiny.safetensors"];
    let with = |more: &[&'static str], parts: &[&str]| refused(&folder, &[&tune, more].concat(), 1, parts);
    with(&["--out", "x.pdm"], &["--out is x.pdm, but must end in .safetensors"]);
    with(&["--out", "tiny.safetensors"], &["the checkpoint to start from"]);
    with(&["--guidance", "NaN"], &["guidance is NaN, but must be in 0..=20"]);
    with(&["--guidance", "-1"], &["guidance is -1"]);
    with(&["--steps", "0"], &["train.steps", "at least 1"]);
    with(&["--name", "Bad Name"], &["name is 'Bad Name'"]);
    with(&["--recipe", "absent.json"], &["cannot read absent.json"]);
    with(&["--recipe", "tiny.json"], &["tiny.json is not a recipe of tuning"]);
    refused(&folder, &["tune", "absent.safetensors"], 1, &["there is no model 'absent.safetensors'"]);
    refused(&folder, &["tune", "tiny.safetensors", "--method", "magic"], 2, &["magic"]);
    refused(&folder, &["tune", "tiny.safetensors", "--method", "progressive", "--recipe", "r.json"], 2, &["--recipe"]);
}
