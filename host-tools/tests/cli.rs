//! The real binary, as a person or a script runs it: help, JSON, files, and one sentence for everything that is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use picodream_tools::config::{ImageConfig, UNetConfig};
use picodream_tools::export::{ExportOptions, Trajectories, export};
use picodream_tools::float::random;
use picodream_tools::picture;
use serde_json::Value;

const VERBS: [&str; 10] = ["data", "train", "tune", "export", "inspect", "sample", "eval", "diff", "emulate", "bench"];

/// A folder with an untrained model in it: `tiny.safetensors`, `tiny.json`, `tiny.pdm`; three classes, 8 × 8 × 3.
fn fixture() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch("fixture");
        let unet = UNetConfig { block_out_channels: vec![8, 8], ..UNetConfig::default() };
        let mut config = random::config(ImageConfig { width: 8, height: 8, channels: 3 }, unet, 3);
        config.name = "tiny".into();
        let checkpoint = random::checkpoint(config, 5);
        checkpoint.save(&folder.join("tiny.safetensors")).unwrap();
        let trajectories = Trajectories { images: 4, steps: vec![4], ..Trajectories::default() };
        let blob = export(&checkpoint, &ExportOptions { trajectories, ..ExportOptions::default() }).unwrap().bytes;
        fs::write(folder.join("tiny.pdm"), blob).unwrap();
        folder
    })
}

/// An empty folder of this test run.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A copy of the fixture that a test may damage.
fn copy(name: &str) -> PathBuf {
    let folder = scratch(name);
    for file in ["tiny.safetensors", "tiny.json", "tiny.pdm"] {
        fs::copy(fixture().join(file), folder.join(file)).unwrap();
    }
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_picodream")).args(arguments).current_dir(folder).output().unwrap()
}

/// Runs with `--json` and returns the one object.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, &[arguments, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value.is_object());
    value
}

/// Runs, and expects exit code `code`, nothing on stdout, one `error:` line with all of `parts`, and no new file.
fn refused(folder: &Path, arguments: &[&str], code: i32, parts: &[&str]) {
    let before = listing(folder);
    let output = run(folder, arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{arguments:?}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{arguments:?}: '{part}' is not in: {stderr}");
    }
    assert_eq!(listing(folder), before, "{arguments:?} left something behind");
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_verb_has_help_with_examples() {
    for verb in VERBS {
        let output = run(fixture(), &[verb, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Examples:") && text.contains("--json"), "{verb}: {text}");
        assert!(text.contains(&format!("picodream {verb}")), "{verb}");
    }
    let text = String::from_utf8(run(fixture(), &["--help"]).stdout).unwrap();
    assert!(VERBS.iter().all(|verb| text.contains(verb)));
}

#[test]
fn inspect_has_the_keys_that_are_relied_on() {
    let folder = copy("inspect");
    let value = json(&folder, &["inspect", "tiny.pdm", "--svg", "map.svg"]);
    assert_eq!(value["name"], "tiny");
    assert_eq!(value["blob_bytes"], fs::read(folder.join("tiny.pdm")).unwrap().len());
    assert_eq!(value["crc32"].as_str().unwrap().len(), 8);
    assert!(value["arena_bytes"].as_u64().unwrap() >= value["arena_lower_bound_bytes"].as_u64().unwrap());
    assert_eq!(value["image"], serde_json::json!({ "width": 8, "height": 8, "channels": 3 }));
    let ops = value["ops"].as_array().unwrap();
    let macs: u64 = ops.iter().map(|op| op["macs"].as_u64().unwrap()).sum();
    assert_eq!(value["macs_per_step"], macs);
    assert!(ops.iter().all(|op| op["name"].is_string() && op["kind"].is_string()));
    let lower_bound = ops.iter().map(|op| op["live_bytes"].as_u64().unwrap()).max().unwrap();
    assert_eq!(value["arena_lower_bound_bytes"], lower_bound);
    assert!(fs::read_to_string(folder.join("map.svg")).unwrap().contains("(peak)"));
}

#[test]
fn a_folder_gets_single_images_whose_bytes_have_the_crc() {
    let folder = copy("singles");
    let value = json(&folder, &["sample", "tiny.pdm", "--steps", "3", "--seed", "5", "--count", "4", "--out", "drawn"]);
    assert_eq!((&value["engine"], value["images"].as_array().unwrap().len()), (&"int8".into(), 4));
    assert!(value["seconds"].as_f64().unwrap() >= 0.0);
    for (i, image) in value["images"].as_array().unwrap().iter().enumerate() {
        assert_eq!(image["seed"], 5 + i);
        assert_eq!(image["class"], (5 + i) % 3);
        let decoded = picture::decode(&fs::read(folder.join(image["file"].as_str().unwrap())).unwrap()).unwrap();
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&decoded.rgb);
        assert_eq!(image["crc32"], format!("{crc:08x}"));
    }
}

#[test]
fn engines_threads_and_sheets() {
    let folder = copy("sheets");
    let arguments =
        |threads| vec!["sample", "tiny.pdm", "--steps", "2", "--count", "3", "--class", "all", "--threads", threads];
    let one = json(&folder, &[arguments("1"), vec!["--out", "one.png", "--trajectory", "way.gif"]].concat());
    let many = json(&folder, &[arguments("5"), vec!["--out", "many.png"]].concat());
    assert_eq!(one["images"].as_array().unwrap().len(), 9);
    for i in 0..9 {
        assert_eq!(one["images"][i]["crc32"], many["images"][i]["crc32"]);
    }
    assert_eq!(fs::read(folder.join("one.png")).unwrap(), fs::read(folder.join("many.png")).unwrap());
    assert!(fs::read(folder.join("way.gif")).unwrap().starts_with(b"GIF89a"));
    for extra in [&["--engine", "f32"][..], &["--sampler", "ddpm"], &["--guidance", "2.5", "--class", "class 1"]] {
        let value = json(&folder, &[&["sample", "tiny.pdm", "--steps", "2"], extra].concat());
        assert_eq!(value["images"][0]["file"], "tiny.png");
    }
}

#[test]
fn text_goes_to_stdout_and_previews_only_when_asked() {
    let folder = copy("preview");
    let plain = run(&folder, &["sample", "tiny.pdm", "--steps", "1"]);
    assert!(plain.status.success() && !plain.stdout.contains(&0x1b));
    assert!(String::from_utf8(plain.stdout).unwrap().contains("crc32"));
    let shown = run(&folder, &["sample", "tiny.pdm", "--steps", "1", "--preview"]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains('\u{2580}'));
}

#[test]
fn export_and_diff_work_end_to_end() {
    let folder = copy("export");
    let value = json(&folder, &["export", "tiny.safetensors", "--out", "again.pdm"]);
    assert_eq!(json(&folder, &["inspect", "again.pdm"])["crc32"], value["crc32"]);
    fs::copy(folder.join("again.pdm"), folder.join("tiny.pdm")).unwrap();
    let value = json(&folder, &["diff", "tiny.pdm", "--steps", "4", "--count", "2"]);
    assert_eq!(value["steps"].as_array().unwrap().len(), 4);
    for step in value["steps"].as_array().unwrap() {
        assert!(step["timestep"].is_u64() && step["x0_sqnr_db"].is_f64() && step["output_sqnr_db"].is_f64());
    }
    assert!(value["image_psnr_db"]["mean"].is_f64() && value["image_psnr_db"]["min"].is_f64());
    let worst_first: Vec<f64> =
        value["ops"].as_array().unwrap().iter().map(|op| op["sqnr_db"].as_f64().unwrap()).collect();
    assert!(worst_first.is_sorted());
}

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
        &["there is no model 'fashion-17'", "fashion-16, fashion-16-fast, faces-16, fashion-16-eps"],
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
fn data_in_the_repository_needs_no_network() {
    let folder = scratch("mini");
    let value = json(&folder, &["data", "fashion-mini"]);
    assert!(value["train_images"] == 1000 && value["test_images"] == 1000);
    assert_eq!(value["class_names"].as_array().unwrap().len(), 10);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_picodream"))
        .args(["inspect", "tiny.pdm"])
        .current_dir(fixture())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
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

#[test]
fn evaluations_repeat_and_say_how_sure_they_are() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let eval = |more: &[&str]| {
        let model = ["eval", "fashion-16", "--samples", "12", "--steps", "1", "--data", "fashion-mini"];
        json(&models, &[&model, more].concat())
    };
    let once = eval(&[]);
    assert!(once["fd"].is_f64() && once["fd_floor"].is_f64() && once["class_accuracy"].is_f64());
    assert_eq!((once["sampler"].as_str(), once["per_class"].as_array().unwrap().len()), (Some("DDIM"), 10));
    assert!(once.get("confidence").is_none() && once.get("neighbours").is_none());
    let next = eval(&["--seed", "12"]);
    let both = eval(&["--repeats", "2", "--neighbours"]);
    let mean = 0.5 * (once["fd"].as_f64().unwrap() + next["fd"].as_f64().unwrap());
    assert!((both["fd"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9, "repeats go on where the seeds ended");
    assert_eq!(both["confidence"]["repeats"], 2);
    for key in ["density", "coverage", "coverage_floor", "train_distance", "train_distance_test", "near_training"] {
        assert!(both["neighbours"][key].is_f64(), "{key}");
    }
    refused(&models, &["eval", "fashion-16", "--repeats", "0"], 2, &["--repeats"]);
}

#[test]
fn every_sampler_draws_by_its_name() {
    let folder = copy("samplers");
    for (name, _) in picodream::sampler::AnySampler::ALL {
        for engine in ["int8", "f32"] {
            let arguments =
                ["sample", "tiny.pdm", "--sampler", name, "--engine", engine, "--steps", "5", "--out", "x.png"];
            let value = json(&folder, &arguments);
            assert_eq!(value["sampler"], name);
            let calls = value["network_calls"].as_u64().unwrap();
            let want = match name {
                "heun" | "pf-heun" | "predictor-corrector" => 9..=9,
                "flow-midpoint" => 10..=10,
                "langevin" => 26..=26,
                "plms" => 6..=6,
                "pndm" => 14..=14,
                "adaptive" => 1..=5,
                _ => 5..=5,
            };
            assert!(want.contains(&calls), "{name}: {calls} calls");
        }
    }
}

#[test]
fn compare_draws_a_sheet_of_samplers_by_steps() {
    let folder = copy("compare");
    let value = json(
        &folder,
        &["sample", "tiny.pdm", "--compare", "ddim,heun,pndm", "--compare-steps", "2,6", "--out", "sheet.png"],
    );
    let cells = value["cells"].as_array().unwrap();
    let calls: Vec<_> = cells.iter().map(|cell| cell["network_calls"].as_u64()).collect();
    // PNDM cannot start with two steps: its place stays empty, with the reason.
    assert_eq!(calls, [Some(2), Some(6), Some(3), Some(11), None, Some(15)]);
    assert!(cells[4]["refused"].as_str().unwrap().contains("at least 4"));
    assert!(picture::decode(&fs::read(folder.join("sheet.png")).unwrap()).unwrap().height > 3 * 136);
    refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim,magic"], 1, &["magic", "ddim, ddpm, euler"]);
    refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim", "--frechet", "1"], 1, &["--frechet is 1"]);
    for extra in [["--trajectory", "x.gif"], ["--sampler", "heun"], ["--eta", "1"], ["--steps", "3"], ["--count", "2"]]
    {
        refused(&folder, &["sample", "tiny.pdm", "--compare", "ddim", extra[0], extra[1]], 2, &["--compare", extra[0]]);
    }
}

#[test]
fn pictures_are_edited_by_flags() {
    let folder = copy("edits");
    let grey = |bytes: Vec<u8>| picture::png_bytes(8, 8, 1, &bytes).unwrap();
    fs::write(folder.join("picture.png"), grey((0..64).map(|i| 3 * i).collect())).unwrap();
    fs::write(folder.join("mask.png"), grey((0..64).map(|i| if i % 8 < 4 { 0 } else { 255 }).collect())).unwrap();
    fs::write(folder.join("black.png"), grey(vec![0; 64])).unwrap();
    let draw = |extra: &[&'static str]| {
        let value = json(&folder, &[&["sample", "tiny.pdm", "--steps", "4", "--out", "x.png"], extra].concat());
        let drawn = picture::decode(&fs::read(folder.join("x.png")).unwrap()).unwrap();
        (drawn, value["images"][0]["crc32"].as_str().unwrap().to_owned())
    };
    let (kept, _) = draw(&["--init", "picture.png", "--mask", "mask.png", "--repeats", "2"]);
    let same = |x: usize, y: usize| kept.pixel(x, y) == [3 * (8 * y + x) as u8; 3];
    assert!((0..8).all(|y| (0..4).all(|x| same(x, y))) && !(0..8).all(|y| (4..8).all(|x| same(x, y))));
    let (untouched, _) = draw(&["--init", "picture.png", "--strength", "0"]);
    assert!((0..8).all(|y| (0..8).all(|x| untouched.pixel(x, y) == [3 * (8 * y + x) as u8; 3])));
    let crc = |extra| draw(extra).1;
    assert_eq!(crc(&["--seed", "3", "--to-seed", "3"]), crc(&["--seed", "3"]));
    assert_eq!(
        crc(&["--seed", "3", "--to-seed", "6", "--weight", "1", "--class", "0"]),
        crc(&["--seed", "6", "--class", "0"])
    );
    assert_eq!(crc(&["--sampler", "ddpm", "--variance", "fixed-small"]), crc(&["--sampler", "ddpm"]));
    assert_ne!(crc(&["--sampler", "ddpm", "--variance", "fixed-large"]), crc(&["--sampler", "ddpm"]));
    assert_ne!(crc(&["--guidance-per-step", "3,2,1,1"]), crc(&["--guidance", "3"]));
    assert_eq!(crc(&["--guidance-per-step", "3,3,3,3"]), crc(&["--guidance", "3"]));
    assert_eq!(crc(&["--guidance", "3", "--guidance-interval", "0", "5"]), crc(&[]));
    assert_eq!(crc(&["--guidance", "0", "--class", "2", "--negative-class", "1"]), crc(&["--class", "1"]));
    let sample = |extra: &[&'static str]| [&["sample", "tiny.pdm", "--out", "x.png"], extra].concat();
    for (extra, parts) in [
        (&["--init", "picture.png", "--strength", "1.5"][..], ["strength is 1.5", "0..=1"]),
        (&["--init", "picture.png", "--strength", "NaN"], ["strength is NaN", "0..=1"]),
        (&["--init", "nothing.png"], ["nothing.png", ""]),
        (&["--init", "tiny.json"], ["tiny.json", "PNG or JPEG"]),
        (&["--init", "picture.png", "--mask", "black.png"], ["black everywhere", "white"]),
        (&["--init", "picture.png", "--mask", "mask.png", "--repeats", "0"], ["repeats is 0", "1..=100"]),
        (&["--to-seed", "4", "--weight", "-1"], ["weight is -1", "0..=1"]),
        (&["--sampler", "heun", "--eta", "0.5"], ["--eta", "heun"]),
        (&["--sampler", "heun", "--variance", "fixed-large"], ["--variance", "--sampler ddpm"]),
        (&["--sampler", "ddpm", "--variance", "learned-range"], ["output channels is 3", "does not give"]),
        (&["--sampler", "ddim", "--tolerance", "0.5"], ["--tolerance", "--sampler adaptive"]),
        (&["--sampler", "adaptive", "--tolerance", "0"], ["tolerance is 0", "0.00001..=1"]),
        (&["--guidance-per-step", "1,2"], ["2 guidance scales for 20 steps", "each step"]),
        (&["--guidance-interval", "9", "2", "--guidance", "2"], ["guidance_interval is 9..=2", "the lower first"]),
    ] {
        refused(&folder, &sample(extra), 1, &parts);
    }
    refused(&folder, &sample(&["--sampler", "magic"]), 2, &["magic", "dpmpp-2m"]);
    refused(&folder, &sample(&["--sampler", "ddpm", "--variance", "huge"]), 2, &["huge", "learned-range"]);
    // What would be ignored without another flag.
    for (extra, needed) in [
        (["--mask", "mask.png"], "--init"),
        (["--strength", "0.5"], "--init"),
        (["--repeats", "2"], "--mask"),
        (["--weight", "0.5"], "--to-seed"),
        (["--compare-steps", "4"], "--compare"),
        (["--frechet", "500"], "--compare"),
    ] {
        refused(&folder, &sample(&extra), 2, &[needed]);
    }
    let both = ["--init", "picture.png", "--mask", "mask.png", "--strength", "0.5"];
    refused(&folder, &sample(&both), 2, &["--strength", "--mask"]);
}

#[test]
fn learned_variances_are_reached_by_their_flag() {
    let folder = copy("variances");
    let unet = UNetConfig { block_out_channels: vec![8, 8], learned_variance: true, ..UNetConfig::default() };
    let mut config = random::config(ImageConfig { width: 8, height: 8, channels: 3 }, unet, 3);
    config.name = "learned".into();
    random::checkpoint(config, 5).save(&folder.join("learned.safetensors")).unwrap();
    json(&folder, &["export", "learned.safetensors"]);
    assert_eq!(json(&folder, &["inspect", "learned.pdm"])["learned_variance"], true);
    let crc = |variance: &str, engine: &str| {
        let ddpm = ["sample", "learned.pdm", "--sampler", "ddpm", "--steps", "4", "--out", "x.png"];
        let value = json(&folder, &[&ddpm[..], &["--variance", variance, "--engine", engine]].concat());
        value["images"][0]["crc32"].as_str().unwrap().to_owned()
    };
    for engine in ["int8", "f32"] {
        assert_ne!(crc("learned-range", engine), crc("fixed-small", engine));
    }
}

#[test]
fn inversion_shows_picture_noise_and_what_comes_back() {
    let folder = copy("inversion");
    let grey = |size: usize| picture::png_bytes(size, size, 1, &vec![90; size * size]).unwrap();
    fs::write(folder.join("picture.png"), grey(8)).unwrap();
    fs::write(folder.join("large.png"), grey(16)).unwrap();
    for (engine, more) in [("f32", &["--class", "1"][..]), ("int8", &["--calls", "2", "--spacing", "karras"])] {
        let inversion = ["sample", "tiny.pdm", "--invert", "picture.png", "--engine", engine, "--steps", "6"];
        let value = json(&folder, &[&inversion[..], &["--out", "sheet.png"], more].concat());
        let calls = if engine == "f32" { 36 } else { 18 };
        assert_eq!((value["network_calls"].as_u64(), value["engine"].as_str()), (Some(calls), Some(engine)));
        assert!(value["psnr_db"].is_f64() && value["file"] == "sheet.png" && value["picture"] == "picture.png");
        assert_eq!(value["class_name"], if engine == "f32" { Value::from("class 1") } else { Value::Null });
        // Three images of 16 × 8 pixels side by side, the first one grey 90.
        let sheet = picture::decode(&fs::read(folder.join("sheet.png")).unwrap()).unwrap();
        assert!(sheet.width > 3 * 128 && sheet.height > 128 && sheet.rgb.chunks_exact(3).any(|p| p == [90; 3]));
    }
    assert_eq!(json(&folder, &["sample", "tiny.pdm", "--invert", "picture.png", "--out", "x.png"])["steps"], 50);
    let invert = |extra: &[&'static str]| [&["sample", "tiny.pdm", "--invert", "picture.png"], extra].concat();
    for (extra, parts) in [
        (&["--steps", "0"][..], &["steps is 0", "1..=1000"][..]),
        (&["--calls", "0"], &["calls is 0", "1..=50"]),
        (&["--class", "all"], &["--class all", "one class"]),
        (&["--class", "hat"], &["there is no class 'hat'"]),
        (&["--out", "folder"], &["--out is folder", ".png"]),
    ] {
        refused(&folder, &invert(extra), 1, parts);
    }
    let sized = ["sample", "tiny.pdm", "--invert", "large.png"];
    refused(&folder, &sized, 1, &["large.png has 16x16 pixels, but tiny draws 8x8", "--strength 0"]);
    refused(&folder, &["sample", "tiny.pdm", "--invert", "absent.png"], 1, &["absent.png"]);
    refused(&folder, &["sample", "tiny.pdm", "--invert", "tiny.json"], 1, &["tiny.json", "PNG or JPEG"]);
    for extra in [
        &["--compare", "ddim"][..],
        &["--init", "picture.png"],
        &["--to-seed", "3"],
        &["--sampler", "heun"],
        &["--guidance", "2"],
        &["--trajectory", "x.gif"],
        &["--count", "2"],
    ] {
        refused(&folder, &invert(extra), 2, &["--invert", extra[0]]);
    }
    refused(&folder, &["sample", "tiny.pdm", "--calls", "3"], 2, &["--invert"]);
}
