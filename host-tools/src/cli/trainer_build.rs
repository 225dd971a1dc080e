//! Hands what needs candle to a build of this program that contains it, which the ordinary build leaves out.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// Runs this process's own arguments through `cargo run --features train`; returns its exit code. `what` needs it.
pub fn run(what: &str) -> Result<ExitCode> {
    let workspace = workspace()?;
    // Nowhere is left to complain when standard error is closed.
    let _ = writeln!(
        io::stderr(),
        "{what} needs the trainer (candle), which is built once now; this can take a few minutes"
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--release", "--quiet", "--package", "picodream-tools", "--features", "train"]);
    command.arg("--manifest-path").arg(&workspace).arg("--").args(std::env::args_os().skip(1));
    let status = command.status().with_context(|| by_hand("cargo could not be started"))?;
    Ok(match status.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::from(1),
    })
}

/// The manifest of the workspace that this program was built from.
fn workspace() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    if !manifest.is_file() {
        bail!(by_hand("the sources that this program was built from are gone"));
    }
    manifest.canonicalize().with_context(|| format!("cannot open {}", manifest.display()))
}

fn by_hand(why: &str) -> String {
    format!(
        "this build has no trainer, and {why}: in a clone of picodream run `cargo run --release -p picodream-tools \
         --features train -- train ...`"
    )
}
