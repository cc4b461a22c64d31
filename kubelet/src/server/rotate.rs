//! Logs that grow -> the newest part, and a few older ones, compressed.
//!
//! Only directories in which something is written are looked at, at most once in a while: silent containers cost nothing.
//! Source: `pkg/kubelet/logs/container_log_manager.go`.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{task::Group, time::Timestamp};
use cri::{ReopenContainerLogRequest, Runtime};
use flate2::{Compression, write::GzEncoder};
use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::time::Instant;

use crate::inotify::Watcher;
use crate::view::Pods;

/// Upstream's `containerLogMaxSize` and `containerLogMaxFiles`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes_max: u64,
    /// With the one that is being written; at least 2.
    pub files_max: usize,
    /// How long a directory is left alone after something was written in it (`containerLogMonitorInterval`).
    pub pause: Duration,
}

/// The first look after a silence comes so soon, and no two looks come sooner after each other: who writes without end is met before the disk is full.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(250);

impl Default for Limits {
    fn default() -> Self {
        Self { bytes_max: 10 << 20, files_max: 5, pause: Duration::from_secs(10) }
    }
}

/// How much was there, and how long to wait when something is written again.
#[derive(Clone, Copy)]
struct Grown {
    bytes: u64,
    pause: Duration,
}

impl Limits {
    /// How long a directory may be left alone in which `bytes` were written within `within`: half of what a log may have comes no sooner.
    fn pause_after(&self, bytes: u64, within: Duration) -> Duration {
        let calm_millis = within.as_millis() * u128::from(self.bytes_max / 2) / u128::from(bytes.max(1));
        let calm = u64::try_from(calm_millis).map_or(self.pause, Duration::from_millis);
        calm.min(self.pause).max(PAUSE_MIN.min(self.pause))
    }
}

struct Rotation {
    root: PathBuf,
    limits: Limits,
    pods: Pods,
    runtime: Runtime,
    watcher: Watcher,
    watched: HashMap<i32, PathBuf>,
    /// Directories that were written to, as they were when they were looked at last.
    grown: HashMap<PathBuf, Grown>,
    due: BTreeSet<(Instant, PathBuf)>,
}

/// Rotates the logs below `log_dir` (`<pod>/<container>/N.log`) of the containers that `pods` shows, until `group` stops.
///
/// # Errors
/// Where the directory cannot be watched.
pub fn rotate(log_dir: &Path, limits: Limits, pods: Pods, runtime: Runtime, group: &Group) -> io::Result<()> {
    fs::create_dir_all(log_dir)?;
    let mut rotation = Rotation {
        root: log_dir.to_owned(),
        limits,
        pods,
        runtime,
        watcher: Watcher::new()?,
        watched: HashMap::new(),
        grown: HashMap::new(),
        due: BTreeSet::new(),
    };
    rotation.watch(log_dir.to_owned())?;
    group.spawn_loop(
        "log rotation",
        Box::pin(async move {
            while let Err(error) = rotation.run().await {
                tracing::error!(%error, "failed to watch container logs; retrying");
                tokio::time::sleep(rotation.limits.pause).await;
            }
        }),
    );
    Ok(())
}

impl Rotation {
    async fn run(&mut self) -> io::Result<()> {
        loop {
            let next = self.due.first().map(|(at, _)| *at);
            let wake = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                events = self.watcher.next() => {
                    for event in events? {
                        self.happened(event.watch, event.flags, &event.name);
                    }
                }
                () = wake => self.look().await,
            }
        }
    }

    fn happened(&mut self, watch: i32, flags: ReadFlags, name: &str) {
        let Some(dir) = self.watched.get(&watch).cloned() else { return };
        if flags.contains(ReadFlags::CREATE) && flags.contains(ReadFlags::ISDIR) {
            let _ = self.watch(dir.join(name));
        } else if flags.contains(ReadFlags::MODIFY) {
            let first = PAUSE_FIRST.min(self.limits.pause);
            let pause = self.grown.get(&dir).map_or(first, |grown| grown.pause);
            self.due.insert((Instant::now() + pause, dir));
        }
        if flags.contains(ReadFlags::IGNORED) {
            // Gone, or fired its one shot.
            self.watched.remove(&watch);
        }
    }

    /// Watches a directory for what is made in it, or, at the containers' level, for the next write; looks at what is there already.
    fn watch(&mut self, dir: PathBuf) -> io::Result<()> {
        let depth = dir.strip_prefix(&self.root).map_or(0, |rest| rest.components().count());
        let flags = if depth < 2 { WatchFlags::CREATE } else { WatchFlags::MODIFY | WatchFlags::ONESHOT };
        let watch = self.watcher.add(&dir, flags | WatchFlags::ONLYDIR)?;
        self.watched.insert(watch, dir.clone());
        if depth >= 2 {
            if self.is_over(&dir) {
                self.due.insert((Instant::now() + self.limits.pause, dir));
            }
            return Ok(());
        }
        for entry in fs::read_dir(&dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            let _ = self.watch(entry.path());
        }
        Ok(())
    }

    async fn look(&mut self) {
        let now = Instant::now();
        while let Some((at, dir)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, dir.clone()));
            self.measure(&dir);
            for log in self.logs(&dir).into_iter().filter(|log| size(log) > self.limits.bytes_max) {
                if let Err(error) = self.rotate(&log).await {
                    tracing::warn!(log = %log.display(), %error, "failed to rotate container log");
                }
            }
            if self.watch(dir.clone()).is_err() {
                // The container is gone.
                self.grown.remove(&dir);
            }
        }
    }

    /// Notes how fast the logs of a directory grow.
    fn measure(&mut self, dir: &Path) {
        let bytes = self.logs(dir).iter().map(|log| size(log)).sum::<u64>();
        let known = self.grown.get(dir).copied().unwrap_or(Grown { bytes: 0, pause: PAUSE_FIRST.min(self.limits.pause) });
        // After a rotation all of it is new.
        let written = bytes.checked_sub(known.bytes).unwrap_or(bytes);
        let pause = self.limits.pause_after(written, known.pause);
        self.grown.insert(dir.to_owned(), Grown { bytes, pause });
    }

    fn is_over(&self, dir: &Path) -> bool {
        self.logs(dir).iter().any(|log| size(log) > self.limits.bytes_max)
    }

    fn logs(&self, dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "log")).collect()
    }

    async fn rotate(&self, log: &Path) -> io::Result<()> {
        let views = self.pods.list();
        let id = views.iter().flat_map(|v| &v.containers).find(|c| c.running && c.log_path == log).map(|c| c.id.clone());
        // Nobody writes to it any more; it goes with its container.
        let Some(container_id) = id else { return Ok(()) };
        let (old, keep) = (log.to_owned(), self.limits.files_max.saturating_sub(2));
        let tidied = tokio::task::spawn_blocking(move || tidy(&old, keep)).await;
        tidied.unwrap_or_else(|panic| Err(io::Error::other(panic)))?;
        let aside = PathBuf::from(format!("{}.{}", log.display(), Timestamp::now().strftime("%Y%m%d-%H%M%S")));
        fs::rename(log, &aside)?;
        if let Err(error) = self.runtime.reopen_container_log(ReopenContainerLogRequest { container_id }).await {
            // The runtime still writes to it: give it its name back.
            fs::rename(&aside, log)?;
            return Err(io::Error::other(error.to_string()));
        }
        Ok(())
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Compresses the older parts of a log and deletes all but the newest `keep` of them.
fn tidy(log: &Path, keep: usize) -> io::Result<()> {
    let (dir, name) = (log.parent().unwrap_or(Path::new("/")), log.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let prefix = format!("{name}.");
    let mut parts: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir)?.flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        match other.strip_prefix(&prefix) {
            // Left by a crash while compressing.
            Some(rest) if rest.ends_with(".tmp") => fs::remove_file(entry.path())?,
            Some(_) => parts.push(entry.path()),
            None => {}
        }
    }
    // The names end in their time.
    parts.sort();
    let excess = parts.len().saturating_sub(keep);
    for part in parts.drain(..excess) {
        fs::remove_file(part)?;
    }
    parts.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")).try_for_each(|part| compress(part))
}

fn compress(part: &Path) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}.tmp", part.display()));
    let mut packer = GzEncoder::new(fs::File::create(&temporary)?, Compression::default());
    io::copy(&mut fs::File::open(part)?, &mut packer)?;
    packer.finish()?;
    fs::rename(&temporary, format!("{}.gz", part.display()))?;
    fs::remove_file(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn who_writes_without_end_is_looked_at_sooner() {
        let limits = Limits::default();
        let mut pause = PAUSE_FIRST;
        let mut looks = |bytes_per_second: u64| {
            for _ in 0..6 {
                let millis = u64::try_from(pause.as_millis()).unwrap();
                pause = limits.pause_after(bytes_per_second * millis / 1000, pause);
            }
            pause
        };
        assert_eq!(looks(1000), limits.pause, "upstream's interval");
        assert_eq!(looks(500 << 20), PAUSE_MIN);
        let steady = looks(5 << 20);
        assert!(steady > Duration::from_millis(900) && steady < Duration::from_millis(1100), "{steady:?}");
        assert_eq!(looks(0), limits.pause, "calm again");
    }

    #[test]
    fn older_parts_are_packed_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20260101-000001.gz", "0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "0.log.20260101-000004"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::write(dir.path().join("0.log.20260101-000009.tmp"), "x").unwrap();
        fs::write(dir.path().join("1.log"), "x").unwrap();
        tidy(&dir.path().join("0.log"), 3).unwrap();
        let wanted = ["0.log", "0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "0.log.20260101-000004.gz", "1.log"];
        assert_eq!(names(dir.path()), wanted);
        let mut text = String::new();
        let packed = fs::File::open(dir.path().join("0.log.20260101-000004.gz")).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text, "0.log.20260101-000004");
    }
}
