//! A cgroup's directory -> its files written, its processes killed, itself removed.

use std::{fs, io, path::Path};

use rustix::process::{Pid, Signal, kill_process};

use super::Error;

/// How many levels a pod's cgroup may have below it: container, and what the container itself made.
const DEPTH_MAX: usize = 32;

/// Makes the directory and those above it.
pub fn create(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(|source| file(dir, source))
}

/// Writes one control file.
pub fn write(dir: &Path, name: &str, value: &str) -> Result<(), Error> {
    let path = dir.join(name);
    fs::write(&path, value).map_err(|source| file(&path, source))
}

/// One control file's text, trimmed; empty where it cannot be read.
pub fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default().trim().to_owned()
}

/// One control file that holds one number; `None` where it cannot be read, and where it says `max`.
pub fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// The first process of the directory itself.
pub fn first_process(dir: &Path) -> Option<u32> {
    // A process of another PID namespace than ours reads as 0.
    read(dir, "cgroup.procs").lines().find_map(|line| line.parse().ok()).filter(|pid| *pid > 0)
}

/// Removes the directory and all below it; what still runs there is killed, and [`Error::Busy`] given until it is gone.
pub fn remove(dir: &Path) -> Result<(), Error> {
    remove_below(dir, DEPTH_MAX)
}

pub fn file(path: &Path, source: io::Error) -> Error {
    Error::File { path: path.display().to_string(), source }
}

fn remove_below(dir: &Path, depth: usize) -> Result<(), Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| file(dir, source))?,
    };
    for entry in entries.flatten() {
        // `file_type` does not follow links.
        if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_below(&entry.path(), depth - 1)?;
        }
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            kill(dir);
            // What was killed just now may be gone already.
            fs::remove_dir(dir).map_err(|_| Error::Busy(dir.display().to_string()))
        }
        Err(source) => Err(file(dir, source)),
    }
}

fn kill(dir: &Path) {
    for pid in read(dir, "cgroup.procs").lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
