//! Every shipped model draws the golden images on this machine, in debug and in release; `tests/tests/emulated.rs` holds
//! the emulated boards to the same file.
//!
//! `tests/golden/images.json` (CRC-32 of seeds 0..8, class = seed mod classes, DDIM-2) is made by
//! `PICODREAM_WRITE_GOLDEN=1 cargo test -p picodream-tools --test golden`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use picodream::Model;
use picodream_tools::files;
use picodream_tools::sampling::{Network, Request, Settings, available_threads, default_class, draw};

const SEEDS: u64 = 8;
const STEPS: u16 = 2;

fn crcs(blob: &[u8]) -> Vec<String> {
    let model = Model::parse(blob).unwrap();
    let num_classes = model.header().unwrap().num_classes;
    let requests: Vec<_> = (0..SEEDS).map(|seed| Request { seed, class: default_class(num_classes, seed) }).collect();
    let settings = Settings { steps: STEPS, ..Settings::default() };
    let drawn = draw(&Network::Int8(model), &settings, &requests, available_threads(), || ()).unwrap();
    drawn.iter().map(|image| format!("{:08x}", image.crc32)).collect()
}

#[test]
fn host_draws_the_golden_images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let golden = root.join("tests/golden/images.json");
    let mut drawn = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pdm") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            drawn.insert(name, crcs(&files::read(&path).unwrap()));
        }
    }
    assert!(!drawn.is_empty(), "models/ has no blob");
    if std::env::var_os("PICODREAM_WRITE_GOLDEN").is_some() {
        let mut text = serde_json::to_string_pretty(&drawn).unwrap();
        text.push('\n');
        files::write_atomic(&golden, text.as_bytes()).unwrap();
    }
    let text = files::read(&golden).context("made by PICODREAM_WRITE_GOLDEN=1, see the top of this file").unwrap();
    let expected: BTreeMap<String, Vec<String>> = serde_json::from_slice(&text).unwrap();
    assert_eq!(drawn, expected);
}
