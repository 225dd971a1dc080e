//! Hands the linker its scripts and the program the path of the blob that is built into it.
//!
//! `PICODREAM_MODEL` names the blob; without it, the shipped `fashion-16` is taken.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::copy(here.join("memory.x"), out.join("memory.x")).expect("memory.x can be copied");
    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rustc-link-search={}", out.display());
    for argument in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }

    let shipped = here.join("../../../models/fashion-16.pdm");
    let model = env::var_os("PICODREAM_MODEL").map_or(shipped, PathBuf::from);
    println!("cargo::rerun-if-env-changed=PICODREAM_MODEL");
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=PICODREAM_MODEL_PATH={}", model.display());
}
