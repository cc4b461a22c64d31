//! A package's name -> files of it, from this machine if it is installed, else fetched and unpacked beside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// Finds `path` (relative to the root) on this machine, else fetches `package` and unpacks it below `dir`.
///
/// # Errors
/// The package cannot be fetched, or has no such file.
pub fn file(dir: &Path, package: &str, path: &str) -> anyhow::Result<PathBuf> {
    let installed = Path::new("/").join(path);
    if installed.is_file() {
        return Ok(installed);
    }
    let unpacked = unpack(dir, package)?.join(path);
    if !unpacked.is_file() {
        bail!("Debian's {package} has no /{path}");
    }
    Ok(unpacked)
}

/// Fetches a package and unpacks it into `<dir>/debian/<package>`, beside the system; a second call finds it there.
///
/// # Errors
/// What `apt-get` or `dpkg` said, with what mends it.
pub fn unpack(dir: &Path, package: &str) -> anyhow::Result<PathBuf> {
    let root = dir.join("debian").join(package);
    if root.is_dir() {
        return Ok(root);
    }
    let fetched = dir.join("debian").join(format!("{package}.fetch"));
    fs::create_dir_all(&fetched).with_context(|| format!("making {}", fetched.display()))?;
    let download = Command::new("apt-get").args(["download", package]).current_dir(&fetched).output();
    let download = download.context("apt-get is missing: this needs Debian")?;
    if !download.status.success() {
        bail!("{package} was not fetched; try `apt-get update` first:\n{}", String::from_utf8_lossy(&download.stderr));
    }
    let deb = fs::read_dir(&fetched)?.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.with_context(|| format!("apt-get fetched no file for {package}"))?;
    // Whole or not at all: a half unpacked package is never taken for a whole one.
    let half = root.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    said("dpkg", &["-x", &deb.display().to_string(), &half.display().to_string()])?;
    fs::rename(&half, &root)?;
    fs::remove_dir_all(&fetched)?;
    Ok(root)
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// It is missing, or failed: with all that it said.
pub fn said(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = api::programs::command(program).args(args).output();
    let output = output.with_context(|| format!("{program} is missing"))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{program} {} failed ({}):\n{out}{}", args.join(" "), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(out)
}
