//! Every other verb: help, the keys that are relied on, and what each verb promises.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::*;

const VERBS: [&str; 11] =
    ["data", "train", "tune", "export", "inspect", "sample", "eval", "curve", "diff", "emulate", "bench"];

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
fn data_in_the_repository_needs_no_network() {
    let folder = scratch("mini");
    let value = json(&folder, &["data", "fashion-mini"]);
    assert!(value["train_images"] == 1000 && value["test_images"] == 1000);
    assert_eq!(value["class_names"].as_array().unwrap().len(), 10);
    // Emoji come at their own size; 1,078 of 1,295 are for training, each also mirrored.
    let value = json(&folder, &["data", "emoji"]);
    assert!(value["train_images"] == 2 * 1078 && value["test_images"] == 217, "{value}");
    assert_eq!(value["image"], serde_json::json!({ "width": 32, "height": 32, "channels": 3 }));
    assert_eq!(value["class_names"][0], "Faces");
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
fn a_curve_has_the_distances_of_eval() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let out = scratch("curve").join("curve.svg");
    let curve = ["curve", "fashion-16", "fashion-16-fast", "--samples", "12", "--steps", "1,2", "--out"];
    let value = json(&models, &[&curve[..], &[out.to_str().unwrap()]].concat());
    let points = value["points"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    let eval = json(&models, &["eval", "fashion-16-fast", "--samples", "12", "--steps", "2"]);
    assert_eq!((&points[3]["fd"], &points[3]["model"]), (&eval["fd"], &"fashion-16-fast".into()));
    assert_eq!(points[3]["macs_per_image"], 2 * points[2]["macs_per_image"].as_u64().unwrap());
    let svg = fs::read_to_string(out).unwrap();
    assert_eq!(svg.matches("<circle").count(), 4);
    refused(&models, &["curve", "fashion-16", "faces-16"], 1, &["faces-16 was trained on faces", "fashion"]);
    refused(&models, &["curve"], 2, &["<MODEL>"]);
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
