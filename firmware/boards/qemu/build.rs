//! Hands the linker its scripts, and the program the rate of its SysTick and the path of the blob that is built into it.
//!
//! `PICODREAM_BOARD` names one of [`BOARDS`]; without it, the one with a core of the target is taken.
//! `PICODREAM_MODEL` names the blob; without it, the shipped `fashion-16` is taken.

use std::path::PathBuf;
use std::{env, fs};

/// Name (and memory map, in `memory/`), and rate of SysTick in Hz of virtual time: QEMU's clock of the core.
///
/// `mps2` is mps2-an385, mps2-an386 and mps2-an500, which differ in nothing else than their core.
const BOARDS: [(&str, u32); 3] = [("mps2", 25_000_000), ("an505", 20_000_000), ("an547", 32_000_000)];

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    println!("cargo::rerun-if-env-changed=PICODREAM_BOARD");
    let board = env::var("PICODREAM_BOARD").unwrap_or_else(|_| board_of_target().into());
    let (_, systick_hz) =
        BOARDS.iter().find(|(name, _)| *name == board).expect("PICODREAM_BOARD is mps2, an505 or an547");
    let memory = format!("memory/{board}.x");
    fs::copy(here.join(&memory), out.join("memory.x")).expect("the memory map can be copied");
    println!("cargo::rerun-if-changed={memory}");
    println!("cargo::rustc-link-search={}", out.display());
    println!("cargo::rustc-env=PICODREAM_SYSTICK_HZ={systick_hz}");
    for argument in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }

    let shipped = || "../../../models/fashion-16.pdm".into();
    // A path that is not absolute begins in this folder.
    let model = here.join(env::var_os("PICODREAM_MODEL").unwrap_or_else(shipped));
    println!("cargo::rerun-if-env-changed=PICODREAM_MODEL");
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=PICODREAM_MODEL_PATH={}", model.display());
}

fn board_of_target() -> &'static str {
    let target = env::var("TARGET").expect("cargo sets it");
    if target.starts_with("thumbv8m") { "an505" } else { "mps2" }
}
