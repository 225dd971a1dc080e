//! An untrained model in a folder, and the binary run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use picodream_tools::config::{ImageConfig, UNetConfig};
use picodream_tools::export::{ExportOptions, Trajectories, export};
use picodream_tools::float::random;
use serde_json::Value;

/// A folder with an untrained model in it: `tiny.safetensors`, `tiny.json`, `tiny.pdm`; three classes, 8 × 8 × 3.
pub fn fixture() -> &'static Path {
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
pub fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A copy of the fixture that a test may damage.
pub fn copy(name: &str) -> PathBuf {
    let folder = scratch(name);
    for file in ["tiny.safetensors", "tiny.json", "tiny.pdm"] {
        fs::copy(fixture().join(file), folder.join(file)).unwrap();
    }
    folder
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_picodream")).args(arguments).current_dir(folder).output().unwrap()
}

/// Runs with `--json` and returns the one object.
pub fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, &[arguments, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value.is_object());
    value
}

/// Runs, and expects exit code `code`, nothing on stdout, one `error:` line with all of `parts`, and no new file.
pub fn refused(folder: &Path, arguments: &[&str], code: i32, parts: &[&str]) {
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

pub fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
