//! Hands the linker its scripts, and the program the path of its blob: that of `PICODREAM_MODEL`, or the shipped `fashion-16-fast`.

use std::env;
use std::path::PathBuf;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    println!("cargo::rustc-link-search={}", here.display());
    println!("cargo::rerun-if-changed=memory.x");
    println!("cargo::rustc-link-arg-bins=--nmagic");
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    println!("cargo::rerun-if-env-changed=PICODREAM_MODEL");
    let shipped = || "../../../models/fashion-16-fast.pdm".into();
    // A path that is not absolute begins in this folder.
    let model = here.join(env::var_os("PICODREAM_MODEL").unwrap_or_else(shipped));
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=PICODREAM_MODEL_PATH={}", model.display());
}
