//! The committed table of instruction counts, and what has grown since: condition × condition → figure, so that a change in
//! cost shows in the diff.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{BenchOptions, BenchReport, LAYERS, LayerReport};
use crate::emulate::MACHINES;

/// How much a count may grow before it is a failure, for layout and inlining shift a little with every change.
pub const TOLERANCE: f64 = 0.02;

/// Name of the model whose steps are in the table.
pub const MODEL: &str = "fashion-16";

/// What the table holds: every layer and the steps of one model, whose blob this is, on every core.
#[must_use]
pub fn options(blob: Vec<u8>) -> BenchOptions {
    BenchOptions { machines: MACHINES.iter().collect(), layers: LAYERS.to_vec(), models: vec![(MODEL.into(), blob)] }
}

/// Counts by core, by what was counted.
type Table = BTreeMap<String, BTreeMap<String, f64>>;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Instructions per MAC of every layer in every algorithm, by core: `3x3 28x28x16->16 winograd`.
    pub layers: Table,
    /// Instructions per convolution MAC of a whole step, by model and core.
    pub steps: Table,
}

impl Snapshot {
    /// The table of a report, rounded to four decimals so that a diff shows no noise.
    #[must_use]
    pub fn of(report: &BenchReport) -> Self {
        let mut snapshot = Self::default();
        let put = |table: &mut Table, what: String, core: &str, count: f64| {
            let rounded = (count * 1e4).round() / 1e4;
            table.entry(what).or_default().insert(core.to_owned(), rounded);
        };
        for LayerReport { shape, core, algorithms, .. } in &report.layers {
            for way in algorithms {
                put(&mut snapshot.layers, format!("{shape} {}", way.algorithm), core, way.instructions_per_mac);
            }
        }
        for step in &report.steps {
            put(&mut snapshot.steps, step.model.clone(), step.core, step.instructions_per_mac);
        }
        snapshot
    }

    /// What `now` has that is more than [`TOLERANCE`] dearer than here or is not here, and what it no longer has; one
    /// sentence each.
    #[must_use]
    pub fn regressions(&self, now: &Self) -> Vec<String> {
        let mut found = compare(&self.layers, &now.layers);
        found.extend(compare(&self.steps, &now.steps));
        found
    }
}

fn compare(then: &Table, now: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (what, cores) in now {
        for (core, count) in cores {
            match then.get(what).and_then(|cores| cores.get(core)) {
                None => found.push(format!("{what} on {core} is not in the table")),
                Some(before) if *count > before * (1.0 + TOLERANCE) => {
                    let growth = 100.0 * (count / before - 1.0);
                    found.push(format!("{what} on {core} grew by {growth:.1} %, from {before} to {count}"));
                }
                Some(_) => {}
            }
        }
    }
    for (what, cores) in then {
        let gone = cores.keys().filter(|core| !now.get(what).is_some_and(|cores| cores.contains_key(*core)));
        found.extend(gone.map(|core| format!("{what} on {core} is in the table, but was not measured")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(counts: &[(&str, &str, f64)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (what, core, count) in counts {
            snapshot.layers.entry((*what).into()).or_default().insert((*core).into(), *count);
        }
        snapshot
    }

    #[test]
    fn only_growth_beyond_the_tolerance_is_told() {
        let then = snapshot(&[("a", "m4", 1.0), ("a", "m3", 2.0), ("b", "m4", 3.0)]);
        assert_eq!(then.regressions(&snapshot(&[("a", "m4", 1.0199), ("a", "m3", 0.5), ("b", "m4", 3.0)])), [""; 0]);
        let told = then.regressions(&snapshot(&[("a", "m4", 1.0), ("a", "m3", 2.05), ("b", "m4", 3.0)]));
        assert_eq!(told, ["a on m3 grew by 2.5 %, from 2 to 2.05"]);
    }

    #[test]
    fn what_appears_or_disappears_is_told() {
        let then = snapshot(&[("a", "m4", 1.0), ("b", "m4", 3.0)]);
        let told = then.regressions(&snapshot(&[("a", "m4", 1.0), ("a", "m3", 2.0)]));
        assert_eq!(told, ["a on m3 is not in the table", "b on m4 is in the table, but was not measured"]);
    }
}
