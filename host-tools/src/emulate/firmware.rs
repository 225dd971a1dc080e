//! Builds the firmware of the emulated boards with cargo, by way of `scripts/cargo-for`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use picodream_wire::Sampler;

use super::machines::Machine;
use crate::files;

/// How the blob gets onto the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Part of the program, in flash, with an arena of exactly its size: a product. Built anew for each blob.
    BuiltIn,
    /// The same with the sampler of few-step models and no other; [`Form::BuiltIn`] becomes it for that sampler.
    BuiltInFewStep,
    /// Read into RAM when the program runs, and checked by the board. One build for all blobs.
    Loaded,
    /// Like [`Form::Loaded`], but the firmware that measures instead of drawing.
    Bench,
    /// No blob: the firmware that holds its kernels to the portable ones.
    Kernels,
}

impl Form {
    /// The form that has a sampler.
    pub(super) fn with(self, sampler: Sampler) -> Self {
        match (self, sampler) {
            (Self::BuiltIn, Sampler::FewStep) => Self::BuiltInFewStep,
            (form, _) => form,
        }
    }

    /// Whether the blob is part of the program.
    pub(super) fn is_built_in(self) -> bool {
        matches!(self, Self::BuiltIn | Self::BuiltInFewStep)
    }

    fn binary(self) -> &'static str {
        match self {
            Self::BuiltIn => "dream",
            Self::BuiltInFewStep => "few_step",
            Self::Loaded => "loaded",
            Self::Bench => "bench",
            Self::Kernels => "kernels",
        }
    }
}

/// Builds the firmware for `machine` (around the blob at `model`, when built in) and returns its ELF file's bytes.
pub fn build(machine: &Machine, form: Form, model: &Path) -> Result<Vec<u8>> {
    let folder = repository()?.join("firmware");
    // Other compiler flags for one target would have everything built anew, back and forth.
    let target_dir =
        if machine.rustflags.is_empty() { folder.join("target") } else { folder.join("target").join(machine.core) };
    fs::create_dir_all(&target_dir).with_context(|| format!("cannot create {}", target_dir.display()))?;
    // Two processes building for two blobs would take each other's ELF file.
    let lock = File::create(target_dir.join(".emulate.lock")).context("cannot create the firmware's lock file")?;
    lock.lock().context("cannot lock the firmware's build folder")?;
    let elf = target_dir.join(machine.target).join("release").join(form.binary());
    if !elf.exists() {
        eprintln!("building the firmware for {}: about a minute, once", machine.core_name);
    }
    cargo(machine, form, &folder, &target_dir, model)?;
    files::read(&elf)
}

/// Whether there is a `core` for the machine's target, installed or to be built.
pub fn check_target(machine: &Machine) -> Result<()> {
    run(cargo_for(machine, "--check", &repository()?.join("firmware")), machine)
}

/// The checkout that this program was built from: the firmware's sources are there.
fn repository() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("host-tools has no parent folder")?;
    ensure!(
        root.join("firmware/Cargo.toml").is_file(),
        "the firmware's sources are not at {}: run this from a checkout of the repository",
        root.join("firmware").display()
    );
    Ok(root.to_owned())
}

fn cargo(machine: &Machine, form: Form, folder: &Path, target_dir: &Path, model: &Path) -> Result<()> {
    let mut command = cargo_for(machine, "build", folder);
    command.args(["--quiet", "--release", "-p", "picodream-qemu", "--bin", form.binary()]);
    command.env("CARGO_TARGET_DIR", target_dir).env("PICODREAM_BOARD", machine.board);
    if form.is_built_in() {
        let model = model.canonicalize().with_context(|| format!("cannot read {}", model.display()))?;
        command.env("PICODREAM_MODEL", model);
    }
    run(command, machine)
}

/// `scripts/cargo-for`, to be run in the firmware's folder.
fn cargo_for(machine: &Machine, verb: &str, folder: &Path) -> Command {
    let mut command = Command::new("bash");
    command.arg("../scripts/cargo-for").args([machine.target, verb]).current_dir(folder);
    // Settings for the computer's own builds are not for the chip.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "PICODREAM_MODEL"] {
        command.env_remove(name);
    }
    if !machine.rustflags.is_empty() {
        command.env("RUSTFLAGS", machine.rustflags);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command, machine: &Machine) -> Result<()> {
    let output = command.output().context("cannot run bash, which starts cargo for the chip (scripts/cargo-for)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        // scripts/cargo-for has its reason in one sentence.
        Some(3) => bail!("{}", said.trim()),
        _ => bail!("the firmware does not build for {}:\n{}", machine.core_name, said.trim()),
    }
}
