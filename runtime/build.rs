//! Chooses the back end of the kernels by target: `cfg(picodream_backend = "…")`.
//!
//! Stable Rust does not say whether a target has DSP or Helium instructions, so the target's name and `-C target-cpu` decide.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!(r#"cargo::rustc-check-cfg=cfg(picodream_backend, values("dsp", "helium", "plain", "host"))"#);
    println!("cargo::rustc-check-cfg=cfg(picodream_armv8m)");
    let target = env::var("TARGET").unwrap_or_default();
    if target.starts_with("thumbv8m") {
        println!("cargo::rustc-cfg=picodream_armv8m");
    }
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    println!(r#"cargo::rustc-cfg=picodream_backend="{}""#, back_end(&target, &flags));
    // Cores without MLA and without most instructions on the high registers.
    println!("cargo::rustc-check-cfg=cfg(picodream_baseline)");
    if target.starts_with("thumbv6m") || target.starts_with("thumbv8m.base") {
        println!("cargo::rustc-cfg=picodream_baseline");
    }
}

/// Cortex-M4 and M7 always have the DSP extension. An M33 may lack it, but one with an FPU is not known to; without FPU it gets
/// the loops that run everywhere.
fn back_end(target: &str, flags: &str) -> &'static str {
    let helium = ["cortex-m55", "cortex-m85"].iter().any(|cpu| flags.contains(&format!("target-cpu={cpu}")));
    match target {
        "thumbv8m.main-none-eabihf" if helium => "helium",
        "thumbv7em-none-eabi" | "thumbv7em-none-eabihf" | "thumbv8m.main-none-eabihf" => "dsp",
        _ if target.starts_with("thumbv") => "plain",
        _ => "host",
    }
}
