//! One running skiff per data directory: its id in a locked file, found and stopped through it.
//!
//! Locks are for their owner alone: whoever can open a file can lock it, and keep us from starting.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::machine::dirs::Dirs;

const NODE_LOCK: &str = "/run/skiff-node.lock";
/// Together 300 ms: longer than any look and any exec, shorter than what a person notices.
const LOOKS: u32 = 30;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Held as long as this process runs on the data directory.
#[derive(Debug)]
pub struct Instance {
    _locked: File,
}

impl Instance {
    /// # Errors
    /// Another skiff runs on this data directory.
    pub fn start(dirs: &Dirs) -> anyhow::Result<Self> {
        let mut file = open(&dirs.pid())?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let root = dirs.root.display();
                bail!("skiff already runs on {root}; `skiff down --data-dir {root}` stops it")
            }
            Err(TryLockError::Error(error)) => return Err(error).context("locking the pid file"),
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Self { _locked: file })
    }
}

/// Held while this process has a node on this machine: bridge, rules and DNS address are the machine's, so there is one at a time.
#[derive(Debug)]
pub struct NodeLock {
    _locked: File,
}

impl NodeLock {
    /// # Errors
    /// Another skiff has a node here; it says where.
    pub fn claim(dirs: &Dirs) -> anyhow::Result<Self> {
        Self::claim_at(Path::new(NODE_LOCK), dirs)
    }

    /// What the skiff that has a node on this machine says of itself; `None` where there is none, or where we may not look.
    pub fn holder() -> Option<String> {
        Self::holder_at(Path::new(NODE_LOCK))
    }

    fn holder_at(path: &Path) -> Option<String> {
        let is_held = matches!(File::open(path).ok()?.try_lock_shared(), Err(TryLockError::WouldBlock));
        is_held.then(|| fs::read_to_string(path).unwrap_or_default())
    }

    fn claim_at(path: &Path, dirs: &Dirs) -> anyhow::Result<Self> {
        let mut file = open(path)?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let whose = fs::read_to_string(path).unwrap_or_default();
                bail!("another skiff has a node on this machine ({whose}): stop it first, with `skiff down --data-dir` and that directory")
            }
            Err(TryLockError::Error(error)) => return Err(error).context("locking the node"),
        }
        file.set_len(0)?;
        write!(file, "data in {}", dirs.root.display())?;
        Ok(Self { _locked: file })
    }
}

/// A process that is sure to be the skiff of a data directory: the handle cannot come to mean another, as its number can.
#[derive(Debug)]
pub struct Running {
    pub pid: Pid,
    handle: OwnedFd,
}

/// The skiff that runs on this data directory.
///
/// # Errors
/// Somebody has the lock who is not the process that is written down.
pub fn running(dirs: &Dirs) -> anyhow::Result<Option<Running>> {
    let path = dirs.pid();
    if !path.exists() {
        return Ok(None);
    }
    let file = open(&path)?;
    match file.try_lock() {
        Ok(()) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error).context("looking at the pid file"),
        Err(TryLockError::WouldBlock) => {}
    }
    let text = fs::read_to_string(&path)?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{} is locked but holds no process id", path.display()))?;
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => bail!("{} is locked, but not by process {pid}, which it names: that one is gone", path.display()),
        Err(error) => return Err(error).with_context(|| format!("looking at process {pid}")),
    };
    // Looked at after the handle is open: what is seen is that process.
    if !has_open(pid, &file.metadata()?) {
        bail!("{} is locked, but process {pid}, which it names, does not have it open: it is not ours and was left alone", path.display());
    }
    Ok(Some(Running { pid, handle }))
}

/// Asks the running skiff to end and waits for it; false if none was running.
///
/// # Errors
/// It did not end within `bound`, or it is not certain who runs.
pub async fn stop(dirs: &Dirs, bound: Duration) -> anyhow::Result<bool> {
    let Some(Running { pid, handle }) = running(dirs)? else { return Ok(false) };
    match pidfd_send_signal(&handle, Signal::TERM) {
        // Gone in the meantime.
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error).with_context(|| format!("stopping process {pid}")),
    }
    // The lock falls when the process is gone, however it went.
    let file = open(&dirs.pid())?;
    let gone = tokio::task::spawn_blocking(move || file.lock());
    match tokio::time::timeout(bound, gone).await {
        Ok(locked) => locked?.context("waiting for the pid file").map(|()| true),
        Err(_) => bail!("process {pid} did not end within {} s; see {}", bound.as_secs(), dirs.log().display()),
    }
}

/// Whether a process has this very file open. False where we may not look: then it is another user's.
fn has_open(pid: Pid, file: &Metadata) -> bool {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let seen = links.filter_map(|link| fs::metadata(link.path()).ok());
    seen.into_iter().any(|seen| (seen.dev(), seen.ino()) == (file.dev(), file.ino()))
}

/// Locks a file that nobody holds for longer than a moment. Who looks whether somebody has it takes it himself meanwhile, and a child has
/// what its parent has from its fork to its exec: neither is a reason to refuse a start.
fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOOKS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOOK_EVERY),
            ended => return ended,
        }
    }
    file.try_lock()
}

/// For its owner alone, also where an older skiff left it open to others.
fn open(path: &Path) -> anyhow::Result<File> {
    let private = || -> io::Result<File> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        Ok(file)
    };
    private().with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_refused_while_the_first_runs() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        assert!(running(&dirs).unwrap().is_none());
        let first = Instance::start(&dirs).unwrap();
        let again = Instance::start(&dirs).unwrap_err().to_string();
        let root = dir.path().display();
        assert_eq!(again, format!("skiff already runs on {root}; `skiff down --data-dir {root}` stops it"));
        let found = running(&dirs).unwrap().expect("it runs");
        assert_eq!(found.pid.as_raw_nonzero().get().unsigned_abs(), std::process::id());
        drop(first);
        // A start waits for a child of another test that is between its fork and its exec; who only looks may see it.
        drop(Instance::start(&dirs).unwrap());
        assert!((0..LOOKS).any(|_| running(&dirs).unwrap().is_none() || {
            std::thread::park_timeout(LOOK_EVERY);
            false
        }));
    }

    #[test]
    fn locks_are_closed_to_others_even_where_they_were_open() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        let node = dir.path().join("node.lock");
        for path in [dirs.pid(), node.clone()] {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert_eq!(NodeLock::holder_at(&node), None);
        let _held = (Instance::start(&dirs).unwrap(), NodeLock::claim_at(&node, &dirs).unwrap());
        assert_eq!(NodeLock::holder_at(&node), Some(format!("data in {}", dir.path().display())));
        for path in [dirs.pid(), node] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }

    /// A process that has nothing to do with us.
    struct Bystander(std::process::Child);

    impl Drop for Bystander {
        fn drop(&mut self) {
            // It may be gone, which is what the test then says.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_process_that_does_not_have_our_file_is_never_signalled() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(Some(dir.path()));
        let mut bystander = Bystander(std::process::Command::new("sleep").arg("60").spawn().unwrap());
        let held = Instance::start(&dirs).unwrap();
        fs::write(dirs.pid(), bystander.0.id().to_string()).unwrap();
        let error = stop(&dirs, Duration::from_secs(1)).await.unwrap_err().to_string();
        assert!(error.contains("it is not ours and was left alone"), "{error}");
        assert!(bystander.0.try_wait().unwrap().is_none(), "it was ended");
        drop(held);
        // A child of another test may still have it, from its fork to its exec.
        lock(&open(&dirs.pid()).unwrap()).expect("nobody holds it");
        assert!(!stop(&dirs, Duration::from_secs(1)).await.unwrap(), "a stale id is nobody's");
        assert!(bystander.0.try_wait().unwrap().is_none(), "it was ended");
    }
}
