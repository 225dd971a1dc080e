//! The emulated machines, and one run of QEMU in a folder of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use picodream_wire::Request;

use super::report::steps_done;
use crate::files;

const QEMU: &str = "qemu-system-arm";

/// A machine that QEMU emulates and the firmware knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// QEMU's name for it.
    pub name: &'static str,
    /// Its core.
    pub core: &'static str,
    /// Rust's target for that core.
    pub target: &'static str,
}

/// All machines; the first is the default.
pub const MACHINES: [Machine; 2] = [
    Machine { name: "mps2-an386", core: "Cortex-M4F", target: "thumbv7em-none-eabihf" },
    Machine { name: "mps2-an385", core: "Cortex-M3", target: "thumbv7m-none-eabi" },
];

impl Machine {
    /// The machine of this name; the error lists those there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        let known = || MACHINES.map(|m| format!("{} ({})", m.name, m.core)).join(", ");
        MACHINES.iter().find(|m| m.name == name).with_context(|| format!("no machine '{name}'; there are {}", known()))
    }
}

/// Fails with what to install when QEMU is not there.
pub fn check_installed() -> Result<()> {
    match Command::new(QEMU).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{QEMU} is not installed: install the package {QEMU} (on Debian and Ubuntu, scripts/setup does it)")
        }
        Err(error) => Err(error).with_context(|| format!("cannot run {QEMU}")),
    }
}

/// What a run left behind.
pub struct Run {
    /// The records that the board sent.
    pub report: Vec<u8>,
    /// The frames of its log.
    pub log: Vec<u8>,
}

/// Runs `elf` until it ends, or until it has done no step for `patience`.
pub fn run(machine: &Machine, elf: &[u8], blob: &[u8], request: &Request, patience: Duration) -> Result<Run> {
    let folder = Folder::create()?;
    for (name, bytes) in [("firmware.elf", elf), ("model.pdm", blob), ("request.bin", &request.emit())] {
        files::write_atomic(&folder.path(name), bytes)?;
    }
    let log = File::create(folder.path("log.bin")).context("cannot create the log")?;
    let errors = File::create(folder.path("errors.txt")).context("cannot create the log")?;
    let child = Command::new(QEMU)
        .args(["-machine", machine.name, "-display", "none", "-monitor", "none", "-serial", "none"])
        .args(["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "firmware.elf"])
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot run {QEMU}"))?;
    let steps = u64::from(request.steps) * u64::from(request.count);
    let status = wait(child, &folder.path("report.bin"), steps, patience)?;

    let report = fs::read(folder.path("report.bin")).unwrap_or_default();
    let errors = fs::read_to_string(folder.path("errors.txt")).unwrap_or_default();
    ensure!(
        matches!(status.code(), Some(0 | 1)),
        "the emulated {} stopped with {status} after {} of {steps} steps {}",
        machine.name,
        steps_done(&report),
        errors.trim()
    );
    Ok(Run { report, log: files::read(&folder.path("log.bin"))? })
}

fn wait(mut child: Child, report: &Path, steps: u64, patience: Duration) -> Result<ExitStatus> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left").context("progress bar")?;
    let bar = ProgressBar::new(steps).with_style(style);
    let (mut seen, mut heard) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for QEMU")? {
            bar.finish_and_clear();
            return Ok(status);
        }
        let bytes = fs::metadata(report).map_or(0, |file| file.len());
        if bytes != seen {
            (seen, heard) = (bytes, Instant::now());
            bar.set_position(steps_done(&fs::read(report).unwrap_or_default()));
        }
        if heard.elapsed() > patience {
            // Killed or already gone: either way it is over.
            let _ = child.kill();
            let _ = child.wait();
            bail!("the emulated board has done no step for {} s: given up", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A new folder for one run, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("picodream-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A left-over in the temporary folder is no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_machines() {
        assert_eq!(Machine::named("mps2-an385").unwrap().core, "Cortex-M3");
        let error = Machine::named("mps2").unwrap_err().to_string();
        assert!(error.contains("'mps2'") && MACHINES.iter().all(|m| error.contains(m.name)), "{error}");
    }
}
