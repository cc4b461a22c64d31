//! One running skiff per data directory: its id in a locked file, found and stopped through it.

use std::{
    fs::{self, File, TryLockError},
    io::Write,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::dirs::Dirs;

const NODE_LOCK: &str = "/run/skiff-node.lock";

/// Held as long as this process runs on the data directory.
#[derive(Debug)]
pub struct Instance {
    _locked: File,
}

impl Instance {
    /// # Errors
    /// Another skiff runs on this data directory.
    pub fn start(dirs: &Dirs) -> anyhow::Result<Self> {
        let mut file = open(dirs)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("skiff already runs on {}; `skiff down` stops it", dirs.root.display()),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the pid file"),
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { _locked: file })
    }
}

/// Held while this process has a node on this machine: bridge, rules and DNS address are the machine's, so there is one at a time.
#[derive(Debug)]
pub struct Node {
    _locked: File,
}

impl Node {
    /// # Errors
    /// Another skiff has a node here; it says where.
    pub fn claim(dirs: &Dirs) -> anyhow::Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(NODE_LOCK).with_context(|| format!("opening {NODE_LOCK}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another skiff has a node on this machine ({}): reset that one first", whose()),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the node"),
        }
        file.set_len(0)?;
        write!(file, "data in {}", dirs.root.display())?;
        Ok(Self { _locked: file })
    }
}

fn whose() -> String {
    fs::read_to_string(NODE_LOCK).unwrap_or_default()
}

/// The id of the skiff that runs on this data directory.
pub fn running(dirs: &Dirs) -> anyhow::Result<Option<Pid>> {
    if !dirs.pid().exists() {
        return Ok(None);
    }
    match open(dirs)?.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("looking at the pid file"),
        Err(TryLockError::WouldBlock) => {
            let text = fs::read_to_string(dirs.pid())?;
            let pid = text.trim().parse().ok().and_then(Pid::from_raw);
            Ok(Some(pid.with_context(|| format!("{} is locked but holds no process id", dirs.pid().display()))?))
        }
    }
}

/// Asks the running skiff to end and waits for it; false if none was running.
///
/// # Errors
/// It did not end within `bound`.
pub async fn stop(dirs: &Dirs, bound: Duration) -> anyhow::Result<bool> {
    let Some(pid) = running(dirs)? else { return Ok(false) };
    kill_process(pid, Signal::TERM).with_context(|| format!("stopping process {}", pid.as_raw_nonzero()))?;
    // The lock falls when the process is gone, however it went.
    let file = open(dirs)?;
    let gone = tokio::task::spawn_blocking(move || file.lock());
    match tokio::time::timeout(bound, gone).await {
        Ok(locked) => locked?.context("waiting for the pid file").map(|()| true),
        Err(_) => bail!("process {} did not end within {} s; see {}", pid.as_raw_nonzero(), bound.as_secs(), dirs.log().display()),
    }
}

fn open(dirs: &Dirs) -> anyhow::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(dirs.pid()).with_context(|| format!("opening {}", dirs.pid().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_while_the_first_runs() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        assert_eq!(running(&dirs).unwrap(), None);
        let first = Instance::start(&dirs).unwrap();
        assert!(Instance::start(&dirs).is_err());
        assert_eq!(running(&dirs).unwrap().map(|p| p.as_raw_nonzero().get().unsigned_abs()), Some(std::process::id()));
        drop(first);
        assert_eq!(running(&dirs).unwrap(), None);
        Instance::start(&dirs).unwrap();
    }
}
