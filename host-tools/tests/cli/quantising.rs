//! `export` and `diff`: what quantisation costs, what would mend it, and the options that do.

use std::fs;

use serde_json::Value;

use super::harness::*;

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
    let ranks = |value: &Value, key: &str| -> Vec<f64> {
        value["ops"].as_array().unwrap().iter().map(|op| op[key].as_f64().unwrap()).collect()
    };
    assert!(ranks(&value, "image_psnr_db").is_sorted());
    let value = json(&folder, &["diff", "tiny.pdm", "--steps", "4", "--count", "2", "--rank", "0"]);
    assert!(ranks(&value, "sqnr_db").is_sorted() && value["ops"][0].get("image_psnr_db").is_none());
}

#[test]
fn what_a_repair_promises_its_export_keeps() {
    let folder = copy("repair");
    let diff = ["diff", "tiny.pdm", "--steps", "2", "--count", "2", "--rank", "2"];
    assert!(json(&folder, &diff).get("repairs").is_none());
    let value = json(&folder, &[&diff[..], &["--repair"]].concat());
    let repairs = value["repairs"].as_array().unwrap();
    let options: Vec<_> = repairs.iter().map(|repair| repair["export"].as_str().unwrap()).collect();
    assert_eq!(options, ["--input-bits 12", "--skips 16", "--skips 16 --input-bits 12"]);
    let repair = &repairs[2];
    let export = ["export", "tiny.safetensors", "--out", "mended.pdm", "--input-bits", "12", "--skips", "16"];
    let exported = json(&folder, &export);
    assert_eq!((&exported["blob_bytes"], &exported["arena_bytes"]), (&repair["blob_bytes"], &repair["arena_bytes"]));
    fs::copy(folder.join("tiny.safetensors"), folder.join("mended.safetensors")).unwrap();
    fs::copy(folder.join("tiny.json"), folder.join("mended.json")).unwrap();
    let mended = json(&folder, &["diff", "mended.pdm", "--steps", "2", "--count", "2", "--rank", "0"]);
    assert_eq!(mended["image_psnr_db"], repair["image_psnr_db"]);
    refused(&folder, &["diff", "tiny.pdm", "--rank", "0", "--repair"], 1, &["--rank 1"]);
    refused(&folder, &["export", "tiny.safetensors", "--out", "x.pdm", "--input-bits", "13"], 2, &["13", "8..=12"]);
    refused(&folder, &["export", "tiny.safetensors", "--out", "x.pdm", "--skips", "12"], 2, &["12", "8, 16"]);
}
