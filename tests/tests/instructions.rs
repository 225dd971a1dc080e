//! Cost: no layer and no step on any core retires over 2 % more instructions than `tests/snapshots/instructions.json` says.
//!
//! After a change that is meant to cost more (or that made something cheaper) write the table anew:
//! `cargo run --release -- bench --snapshot tests/snapshots/instructions.json`, and look at its diff.
//! Counts also depend on the compiler: the table was made with the toolchain that CI uses.

use std::io::Write;
use std::path::Path;

use picodream_tools::bench::bench;
use picodream_tools::bench::snapshot::{self, Snapshot};
use picodream_tools::emulate::{MACHINES, check_ready};
use picodream_tools::files;

#[test]
fn no_count_has_grown() {
    if let Some(error) = MACHINES.iter().find_map(|machine| check_ready(machine).err()) {
        assert!(std::env::var_os("PICODREAM_REQUIRE_EMULATOR").is_none(), "must not be skipped: {error}");
        let _ = writeln!(std::io::stderr(), "skipped no_count_has_grown: {error}");
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let then: Snapshot =
        serde_json::from_slice(&files::read(&here.join("snapshots/instructions.json")).unwrap()).unwrap();
    let blob = files::read(&here.join("../models").join(snapshot::MODEL).with_extension("pdm")).unwrap();
    let report = bench(&snapshot::options(blob), &|_, _| ()).unwrap();
    has_the_promised_keys(&serde_json::to_value(&report).unwrap());
    let now = Snapshot::of(&report);
    let grown = then.regressions(&now);
    assert!(
        grown.is_empty(),
        "{}\nif this is meant: cargo run --release -- bench --snapshot tests/snapshots/instructions.json",
        grown.join("\n")
    );
}

/// What scripts read of `bench --json`: one entry for each shape or model on each core.
fn has_the_promised_keys(report: &serde_json::Value) {
    let cores: Vec<&str> = MACHINES.iter().map(|machine| machine.core).collect();
    for (list, what, figures) in [
        ("layers", "shape", ["instructions_per_mac", "scratch_bytes"]),
        ("steps", "model", ["instructions", "instructions_per_mac"]),
    ] {
        let entries = report[list].as_array().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for entry in entries {
            let (what, core) = (entry[what].as_str().unwrap(), entry["core"].as_str().unwrap());
            assert!(cores.contains(&core) && seen.insert((what, core)), "{what} on {core}");
            assert!(figures.iter().all(|figure| entry[figure].as_f64().is_some_and(|x| x > 0.0)), "{entry}");
        }
        assert!(!entries.is_empty() && entries.len().is_multiple_of(cores.len()));
    }
    assert!(report["host"].is_null());
}
