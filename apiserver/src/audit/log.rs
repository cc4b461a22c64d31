//! Audit events -> a file, a line each, that is turned over before it grows too large.
//!
//! Sources: apiserver `plugin/pkg/audit/{log,buffered}`, `pkg/server/options/audit.go`; for the names of old files lumberjack, which writes them upstream.
//!
//! One thread writes: whatever has come meanwhile goes into one write, and in a crowd it waits a moment for more. A request waits for its own event unless
//! they are written in batches.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::time::Timestamp;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};

use super::Sink;

/// Of events that wait to be written and for which nobody waits (upstream: `--audit-log-batch-buffer-size`).
const BUFFERED_MAX: usize = 10_000;
/// Of all events that wait, together.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Of one write.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Until an event must be written that a request waits for. Upstream waits for ever.
const WRITTEN_BOUND: Duration = Duration::from_secs(10);
/// Room that stays for the next write.
const KEPT_BYTES: usize = 64 << 10;
const SECONDS_OF_A_DAY: i64 = 24 * 60 * 60;
/// As many events in one write are a crowd: before the next write more are waited for.
const CROWD: usize = 4;
const CROWD_PAUSE: Duration = Duration::from_micros(250);
/// The same where nobody waits for them (upstream's `--audit-log-batch-max-wait` is 30 s).
const BATCH_PAUSE: Duration = Duration::from_millis(5);

/// Where the log is, and when it is turned over.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `-` is the standard output.
    pub path: PathBuf,
    pub mode: LogMode,
    /// A file is turned over before it is larger.
    pub bytes_max: u64,
    /// Old files are removed after so many days, 0: never.
    pub days_max: u32,
    /// So many old files are kept, 0: all.
    pub backups_max: usize,
}

/// Whether requests wait for their events (`--audit-log-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// They do not; where too many wait to be written, events are dropped.
    Batch,
    /// They do, and go on when they could not be written.
    Blocking,
    /// The same, but a request whose begin could not be written is refused.
    BlockingStrict,
}

/// See the module.
pub struct Log {
    mode: LogMode,
    queue: Arc<Queue>,
    /// Of [`WAITING_BYTES_MAX`], in KiB.
    room: Arc<Semaphore>,
    /// Somebody waited in vain, and nothing was written since: nobody else waits for the disk.
    is_stuck: Arc<AtomicBool>,
}

/// Events that wait to be written. (Not a channel: whoever brings one need not wake a writer that is up, or that waits for more.)
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    comes: Condvar,
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    /// The writer is to be woken.
    is_asleep: bool,
    /// The log is gone: what is there is the last.
    is_ended: bool,
}

struct Entry {
    event: Bytes,
    written: Option<oneshot::Sender<bool>>,
    _room: OwnedSemaphorePermit,
}

impl Queue {
    /// False where there are so many that it is not taken.
    fn put(&self, entry: Entry, most: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.entries.len() >= most {
            return false;
        }
        waiting.entries.push_back(entry);
        if std::mem::take(&mut waiting.is_asleep) {
            drop(waiting);
            self.comes.notify_one();
        }
        true
    }

    fn end(&self) {
        self.waiting.lock().is_ended = true;
        self.comes.notify_one();
    }

    /// All that there are, as many as one write takes, once there are any; `None` after the last. `pause`: so long more are waited for.
    fn take(&self, pause: Duration) -> Option<Vec<Entry>> {
        let mut waiting = self.waiting.lock();
        while waiting.entries.is_empty() {
            if waiting.is_ended {
                return None;
            }
            waiting.is_asleep = true;
            self.comes.wait(&mut waiting);
        }
        waiting.is_asleep = false;
        if !pause.is_zero() && !waiting.is_ended {
            // Nobody wakes it: that is what the pause is for.
            self.comes.wait_for(&mut waiting, pause);
        }
        let (mut bytes, mut count) = (0, 0);
        while bytes < WRITE_BYTES_MAX
            && let Some(entry) = waiting.entries.get(count)
        {
            bytes += entry.event.len();
            count += 1;
        }
        Some(waiting.entries.drain(..count).collect())
    }
}

impl Log {
    /// Opens the file and starts the thread; it ends when the log is dropped and all is written.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(config: LogConfig) -> io::Result<Self> {
        let mode = config.mode;
        let mut writer = Writer::open(config)?;
        let queue = Arc::<Queue>::default();
        let (room, is_stuck) = (Arc::new(Semaphore::new(WAITING_BYTES_MAX >> 10)), Arc::<AtomicBool>::default());
        let (taken, stuck) = (queue.clone(), is_stuck.clone());
        std::thread::Builder::new().name("audit-log".into()).spawn(move || writer.run(&taken, &stuck))?;
        Ok(Self { mode, queue, room, is_stuck })
    }

    /// How much of the room an event takes.
    fn kib(event: &Bytes) -> u32 {
        u32::try_from((event.len() >> 10) + 1).unwrap_or(u32::MAX).min((WAITING_BYTES_MAX >> 10) as u32)
    }

    async fn wait(&self, event: Bytes) -> Result<(), String> {
        let (written, told) = oneshot::channel();
        let room = self.room.clone().acquire_many_owned(Self::kib(&event)).await.map_err(|error| error.to_string())?;
        // There are no more of them than there is room for.
        self.queue.put(Entry { event, written: Some(written), _room: room }, usize::MAX);
        match told.await {
            Ok(true) => Ok(()),
            _ => Err("the audit log was not written".to_owned()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.end();
    }
}

#[async_trait]
impl Sink for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn is_strict(&self) -> bool {
        self.mode == LogMode::BlockingStrict
    }

    async fn take(&self, event: Bytes) -> Result<(), String> {
        match self.mode {
            LogMode::Batch => return self.take_now(event),
            LogMode::Blocking if self.is_stuck.load(Ordering::Relaxed) => return self.take_now(event),
            LogMode::BlockingStrict if self.is_stuck.load(Ordering::Relaxed) => return Err("the audit log is not written".to_owned()),
            LogMode::Blocking | LogMode::BlockingStrict => {}
        }
        timeout(WRITTEN_BOUND, self.wait(event)).await.unwrap_or_else(|_| {
            self.is_stuck.store(true, Ordering::Relaxed);
            Err("the audit log was not written in time".to_owned())
        })
    }

    fn take_now(&self, event: Bytes) -> Result<(), String> {
        let too_many = "too many events wait to be written";
        let room = self.room.clone().try_acquire_many_owned(Self::kib(&event)).map_err(|_| too_many.to_owned())?;
        let is_taken = self.queue.put(Entry { event, written: None, _room: room }, BUFFERED_MAX);
        if is_taken { Ok(()) } else { Err(too_many.to_owned()) }
    }
}

/// The thread's.
struct Writer {
    config: LogConfig,
    out: Out,
    is_failing: bool,
}

enum Out {
    Stdout,
    File { file: File, bytes: u64 },
}

impl Writer {
    fn open(config: LogConfig) -> io::Result<Self> {
        let out = if config.path == Path::new("-") { Out::Stdout } else { open(&config.path)? };
        Ok(Self { config, out, is_failing: false })
    }

    fn run(&mut self, queue: &Queue, is_stuck: &AtomicBool) {
        let (mut text, mut last) = (Vec::new(), 0);
        loop {
            let pause = match self.config.mode {
                LogMode::Batch => BATCH_PAUSE,
                _ if last >= CROWD => CROWD_PAUSE,
                _ => Duration::ZERO,
            };
            let Some(entries) = queue.take(pause) else { return };
            text.clear();
            entries.iter().for_each(|entry| text.extend_from_slice(&entry.event));
            let written = self.write(&text);
            is_stuck.store(false, Ordering::Relaxed);
            self.tell(written.as_ref().err());
            last = entries.len();
            for one in entries.into_iter().filter_map(|entry| entry.written) {
                // Who waits no longer need not know.
                let _ = one.send(written.is_ok());
            }
            text.shrink_to(KEPT_BYTES);
        }
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let more = text.len() as u64;
        if matches!(&self.out, Out::File { bytes, .. } if *bytes > 0 && *bytes + more > self.config.bytes_max) {
            self.turn_over()?;
        }
        match &mut self.out {
            Out::Stdout => io::stdout().lock().write_all(text),
            Out::File { file, bytes } => {
                if let Err(error) = file.write_all(text) {
                    // What was written of a line would spoil the next one.
                    file.set_len(*bytes)?;
                    return Err(error);
                }
                *bytes += more;
                Ok(())
            }
        }
    }

    /// The file gets the name of an old one, and a new one is begun.
    fn turn_over(&mut self) -> io::Result<()> {
        let path = &self.config.path;
        let mut at = Timestamp::now();
        // No two of one millisecond: the name of the one before would be taken from it.
        while old_name(path, at).try_exists()? {
            at = api::time::after(at, Duration::from_millis(1));
        }
        match fs::rename(path, old_name(path, at)) {
            // Somebody has moved it away, or it was turned over before and could not be opened anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        self.out = open(path)?;
        if let Err(error) = self.prune(Timestamp::now()) {
            tracing::warn!(%error, path = %path.display(), "old audit logs are not removed");
        }
        Ok(())
    }

    fn prune(&self, now: Timestamp) -> io::Result<()> {
        let config = &self.config;
        let mut old = old_files(&config.path)?;
        // The newest first.
        old.sort_by(|a, b| b.cmp(a));
        let born_after = now.as_second() - i64::from(config.days_max) * SECONDS_OF_A_DAY;
        for (at, (born, file)) in old.into_iter().enumerate() {
            let is_one_too_many = config.backups_max > 0 && at >= config.backups_max;
            if is_one_too_many || config.days_max > 0 && born.as_second() < born_after {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    /// Once when it begins to fail, and once when it is over.
    fn tell(&mut self, error: Option<&io::Error>) {
        if let Some(error) = error.filter(|_| !self.is_failing) {
            tracing::error!(%error, path = %self.config.path.display(), "audit log is not written");
        }
        if error.is_none() && self.is_failing {
            tracing::info!(path = %self.config.path.display(), "audit log is written again");
        }
        self.is_failing = error.is_some();
    }
}

fn open(path: &Path) -> io::Result<Out> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // What is in it is for its owner.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Out::File { file, bytes })
}

/// `audit.log` -> `audit-2026-11-29T23-48-57.000.log`.
fn old_name(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", at.strftime("%Y-%m-%dT%H-%M-%S.%3f")))
}

/// The file's name up to its last dot, and from there on.
fn parts(path: &Path) -> (String, String) {
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), extension)
}

/// When each was turned over, by its name.
fn old_files(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (stem, extension) = parts(path);
    let mut found = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let at = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension)).and_then(born);
        found.extend(at.map(|at| (at, file)));
    }
    Ok(found)
}

fn born(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T')?;
    api::time::parse(&format!("{day}T{}Z", time.replace('-', ":")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: PathBuf, mode: LogMode) -> LogConfig {
        LogConfig { path, mode, bytes_max: 100, days_max: 0, backups_max: 2 }
    }

    #[tokio::test]
    async fn a_log_is_turned_over_and_old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/audit.log");
        let log = Log::open(config(path.clone(), LogMode::BlockingStrict)).unwrap();
        for at in 0..10 {
            log.take(Bytes::from(format!("{at}{}\n", "x".repeat(40)))).await.unwrap();
        }
        assert_eq!(old_files(&path).unwrap().len(), 2, "as many as are kept");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().map(|l| &l[..1]).collect::<String>(), "89");
        let all: u64 = old_files(&path).unwrap().iter().map(|(_, file)| fs::metadata(file).unwrap().len()).sum();
        assert_eq!(all, 2 * 2 * 42);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = Log::open(config(path.clone(), LogMode::Blocking)).unwrap();
        log.take(Bytes::from("x".repeat(90))).await.unwrap();
        fs::remove_file(&path).unwrap();
        log.take(Bytes::from("y".repeat(90))).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "y".repeat(90));
    }

    #[tokio::test]
    async fn what_is_not_written_is_told_to_who_waits_and_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (place, path) = (dir.path().join("logs"), dir.path().join("logs/audit.log"));
        let log = Log::open(config(path.clone(), LogMode::Blocking)).unwrap();
        log.take(Bytes::from("x".repeat(90))).await.unwrap();
        // It cannot be turned over: its folder is none any more.
        fs::remove_dir_all(&place).unwrap();
        fs::write(&place, "").unwrap();
        assert_eq!(log.take(Bytes::from("y".repeat(90))).await.unwrap_err(), "the audit log was not written");
        fs::remove_file(&place).unwrap();
        log.take(Bytes::from_static(b"it is turned over again\n")).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "it is turned over again\n");
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_waited_for_once() {
        // Nobody takes anything out of it.
        let queue = Arc::<Queue>::default();
        let log = |mode| Log { mode, queue: queue.clone(), room: Arc::new(Semaphore::new(4)), is_stuck: Arc::new(AtomicBool::new(true)) };
        assert_eq!(log(LogMode::BlockingStrict).take(Bytes::from_static(b"x")).await.unwrap_err(), "the audit log is not written");
        let blocking = log(LogMode::Blocking);
        blocking.take(Bytes::from_static(b"x")).await.unwrap();
        blocking.take(Bytes::from(vec![b'x'; 2 << 10])).await.unwrap();
        assert_eq!(blocking.take(Bytes::from_static(b"x")).await.unwrap_err(), "too many events wait to be written", "bytes are counted");
        assert_eq!(queue.take(Duration::ZERO).unwrap()[0].event, "x");
    }

    #[tokio::test]
    async fn a_crowd_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let sorted = |text: &str| text.lines().map(|line| line.parse::<usize>().unwrap()).collect::<std::collections::BTreeSet<_>>();
        for mode in [LogMode::Blocking, LogMode::Batch] {
            let path = dir.path().join(format!("{mode:?}.log"));
            let log = Log::open(LogConfig { bytes_max: 1 << 30, ..config(path.clone(), mode) }).unwrap();
            let taken = futures::future::join_all((0..2000).map(|at| log.take(Bytes::from(format!("{at}\n"))))).await;
            assert!(taken.iter().all(Result::is_ok), "{taken:?}");
            if mode == LogMode::Blocking {
                assert_eq!(sorted(&fs::read_to_string(&path).unwrap()), (0..2000).collect(), "who waited finds it written");
            }
            // What nobody waited for is written all the same, though the log is gone.
            drop(log);
            let end = tokio::time::Instant::now() + WRITTEN_BOUND;
            while sorted(&fs::read_to_string(&path).unwrap()) != (0..2000).collect() {
                assert!(tokio::time::Instant::now() < end, "not all of it was written in {mode:?} mode");
                tokio::task::yield_now().await;
            }
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2000);
        }
    }

    #[test]
    fn more_than_may_wait_in_batches_is_not_taken() {
        let (queue, room) = (Queue::default(), Arc::new(Semaphore::new(8)));
        let entry = || Entry { event: Bytes::new(), written: None, _room: room.clone().try_acquire_owned().unwrap() };
        assert_eq!([2, 2, 2].map(|most| queue.put(entry(), most)), [true, true, false]);
        queue.end();
        assert_eq!(queue.take(BATCH_PAUSE).map(|all| all.len()), Some(2), "what is there when it ends is written");
        assert!(queue.take(Duration::ZERO).is_none());
        assert_eq!(room.available_permits(), 8);
    }

    #[test]
    fn old_files_go_after_their_days() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let at = |text: &str| api::time::parse(text).unwrap();
        for day in ["2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z"] {
            fs::write(old_name(&path, at(day)), "x").unwrap();
        }
        fs::write(dir.path().join("audit-other.log"), "x").unwrap();
        let config = LogConfig { days_max: 2, backups_max: 0, ..config(path.clone(), LogMode::Batch) };
        Writer::open(config).unwrap().prune(at("2026-01-05T00:00:01Z")).unwrap();
        let mut left: Vec<String> = old_files(&path).unwrap().into_iter().map(|(at, _)| at.to_string()).collect();
        left.sort();
        assert_eq!(left, ["2026-01-04T00:00:00Z"]);
        assert!(dir.path().join("audit-other.log").exists());
    }
}
