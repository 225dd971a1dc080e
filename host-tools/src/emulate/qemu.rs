//! One run of QEMU in a folder of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use super::machines::Machine;
use super::report::steps_done;
use crate::files;

const QEMU: &str = "qemu-system-arm";

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

/// What to run.
pub struct Job<'a> {
    /// On which machine.
    pub machine: &'a Machine,
    /// The firmware.
    pub elf: &'a [u8],
    /// Names and bytes of the files that the firmware finds.
    pub files: &'a [(&'a str, &'a [u8])],
    /// How many steps the firmware will report.
    pub steps: u64,
    /// Give up when it has reported nothing for this long.
    pub patience: Duration,
    /// Whether to show a bar of the steps.
    pub show_progress: bool,
}

/// Runs a firmware until it ends.
pub fn run(job: &Job) -> Result<Run> {
    let folder = Folder::create()?;
    files::write_atomic(&folder.path("firmware.elf"), job.elf)?;
    for (name, bytes) in job.files {
        files::write_atomic(&folder.path(name), bytes)?;
    }
    let log = File::create(folder.path("log.bin")).context("cannot create the log")?;
    let errors = File::create(folder.path("errors.txt")).context("cannot create the log")?;
    let child = Command::new(QEMU)
        .args(["-machine", job.machine.name, "-display", "none", "-monitor", "none", "-serial", "none"])
        .args(["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", "firmware.elf"])
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot run {QEMU}"))?;
    let status = wait(child, &folder.path("report.bin"), job)?;

    let report = fs::read(folder.path("report.bin")).unwrap_or_default();
    let errors = fs::read_to_string(folder.path("errors.txt")).unwrap_or_default();
    ensure!(
        matches!(status.code(), Some(0 | 1)),
        "the emulated {} stopped with {status} after {} of {} steps {}",
        job.machine.core_name,
        steps_done(&report),
        job.steps,
        errors.trim()
    );
    Ok(Run { report, log: files::read(&folder.path("log.bin"))? })
}

fn wait(mut child: Child, report: &Path, job: &Job) -> Result<ExitStatus> {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left").context("progress bar")?;
    let bar = if job.show_progress { ProgressBar::new(job.steps) } else { ProgressBar::hidden() }.with_style(style);
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
        if heard.elapsed() > job.patience {
            // Killed or already gone: either way it is over.
            let _ = child.kill();
            let _ = child.wait();
            bail!("the emulated board has done no step for {} s: given up", job.patience.as_secs());
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
