//! Fetches Fashion-MNIST through the system's package manager, or says exactly how to get it by hand.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::fashion::{FILES, read_verified};

/// Debian package that holds the four standard files.
const PACKAGE: &str = "dataset-fashion-mnist";
/// The version that the checksums were taken from; another one that passes them will do.
const VERSION: &str = "0.0~git20200523.55506a9-1";
/// Where the files lie inside the package.
const INSIDE: &str = "usr/share/datasets/fashion-mnist";

/// What [`fetch_fashion`] had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// All four files were there with the right checksums.
    AlreadyThere,
    /// They were fetched, verified and moved into place.
    Downloaded,
}

/// Puts the four verified files of Fashion-MNIST into `folder` by `apt-get download` and `dpkg-deb`; needs no root.
///
/// Without these programs, or when they fail, the error says how to get the files by hand.
pub fn fetch_fashion(folder: &Path) -> Result<Fetched> {
    fetch_with(folder, OsStr::new("apt-get"), OsStr::new("dpkg-deb"))
}

fn fetch_with(folder: &Path, apt_get: &OsStr, dpkg_deb: &OsStr) -> Result<Fetched> {
    if FILES.iter().all(|file| read_verified(folder, file).is_ok()) {
        return Ok(Fetched::AlreadyThere);
    }
    let temporary = folder.with_extension(format!("{}.tmp", std::process::id()));
    let outcome = download(&temporary, apt_get, dpkg_deb).and_then(|files| move_files(&files, folder));
    // Best effort: what matters is the outcome.
    let _ = fs::remove_dir_all(&temporary);
    outcome.with_context(|| by_hand(folder))?;
    Ok(Fetched::Downloaded)
}

/// Downloads and unpacks the package below `temporary`; returns the folder of the verified files.
fn download(temporary: &Path, apt_get: &OsStr, dpkg_deb: &OsStr) -> Result<PathBuf> {
    fs::create_dir_all(temporary).with_context(|| format!("cannot create the folder {}", temporary.display()))?;
    let pinned = format!("{PACKAGE}={VERSION}");
    let apt = |package: &str| run(Command::new(apt_get).args(["download", package]).current_dir(temporary));
    apt(&pinned).or_else(|_| apt(PACKAGE))?;
    let package = fs::read_dir(temporary)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .ok_or_else(|| anyhow!("apt-get left no package in {}", temporary.display()))?;
    let unpacked = temporary.join("unpacked");
    run(Command::new(dpkg_deb).arg("-x").args([&package, &unpacked]))?;
    let files = unpacked.join(INSIDE);
    for file in &FILES {
        read_verified(&files, file)?;
    }
    Ok(files)
}

/// Runs a command to its end; an error carries the last line that it printed on stderr.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
    ensure!(output.status.success(), "{name} failed: {}", last.trim());
    Ok(())
}

/// Renames each file into place: the folders lie side by side, so a file arrives whole or not at all.
fn move_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create the folder {}", to.display()))?;
    for file in &FILES {
        let name = format!("{}.gz", file.name);
        if let Err(error) = fs::rename(from.join(&name), to.join(&name)) {
            bail!("cannot move {name} to {}: {error}", to.display());
        }
    }
    Ok(())
}

fn by_hand(folder: &Path) -> String {
    let names: Vec<String> = FILES.iter().map(|f| format!("{}.gz", f.name)).collect();
    format!(
        "Fashion-MNIST was not fetched; put any copy of {} into {} (Debian's package {PACKAGE} {VERSION} has them under \
         {INSIDE}; on Debian run `apt-get update` first), their checksums are verified",
        names.join(", "),
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_package_manager_it_says_what_to_do() {
        let folder = std::env::temp_dir().join(format!("picodream-fetch-{}", std::process::id())).join("fashion-mnist");
        let none = OsStr::new("picodream-no-such-program");
        let error = format!("{:#}", fetch_with(&folder, none, none).unwrap_err());
        let left: Vec<_> = fs::read_dir(folder.parent().unwrap()).unwrap().collect();
        fs::remove_dir_all(folder.parent().unwrap()).unwrap();
        assert!(left.is_empty(), "nothing half-written: {left:?}");
        for part in [PACKAGE, VERSION, "t10k-labels-idx1-ubyte.gz", "cannot run picodream-no-such-program"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_failing_command_tells_its_last_line() {
        let error = run(Command::new("ls").arg("/no/such/folder/picodream")).unwrap_err().to_string();
        assert!(error.starts_with("ls failed: "), "{error}");
    }
}
