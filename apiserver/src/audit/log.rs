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
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{task::Group, time::Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
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
/// What is still there at the end.
const END_BOUND: Duration = Duration::from_secs(4);
/// Room that stays for the next write.
const KEPT_BYTES: usize = 64 << 10;
const SECONDS_OF_A_DAY: i64 = 24 * 60 * 60;
/// As many events in one write are a crowd: before the next write it is waited for again, those who were told in the last one are back soon.
const CROWD: usize = 4;
const CROWD_PAUSE: Duration = Duration::from_millis(1);
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
    /// Events that nobody waited for and that were not written.
    lost: Arc<AtomicU64>,
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
    /// It is to be woken by this many, 0: by its clock.
    wanted: usize,
    /// How many are being written.
    writing: usize,
    /// The log is gone: what is there is the last.
    is_ended: bool,
}

struct Entry {
    event: Bytes,
    written: Option<oneshot::Sender<bool>>,
    _room: OwnedSemaphorePermit,
}

/// Requests whose events were in one write, and whether it was done.
struct Told {
    waiting: Vec<oneshot::Sender<bool>>,
    is_written: bool,
}

/// Wakes those who wait until the thread is over. The thread wakes this task alone: a task that wakes others does so by its own worker's queue, and a thread that is none of the
/// runtime's by a queue with a lock, and a system call for each worker that sleeps.
async fn wake(mut told: mpsc::UnboundedReceiver<Told>) {
    while let Some(Told { waiting, is_written }) = told.recv().await {
        for waiting in waiting {
            // Who waits no longer need not know.
            let _ = waiting.send(is_written);
        }
    }
}

impl Queue {
    /// False where there are so many that it is not taken, and at the end.
    fn put(&self, entry: Entry, most: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.is_ended || waiting.entries.len() >= most {
            return false;
        }
        waiting.entries.push_back(entry);
        if std::mem::take(&mut waiting.is_asleep) || waiting.entries.len() == waiting.wanted {
            drop(waiting);
            self.comes.notify_one();
        }
        true
    }

    fn end(&self) {
        self.waiting.lock().is_ended = true;
        self.comes.notify_one();
    }

    /// All that there are, as many as one write takes, once there are any; `None` after the last. `pause`: so long more are waited for, until
    /// there are `crowd`.
    fn take(&self, pause: Duration, crowd: usize) -> Option<Vec<Entry>> {
        let mut waiting = self.waiting.lock();
        waiting.writing = 0;
        while waiting.entries.is_empty() {
            if waiting.is_ended {
                return None;
            }
            waiting.is_asleep = true;
            self.comes.wait(&mut waiting);
        }
        waiting.is_asleep = false;
        if !pause.is_zero() && !waiting.is_ended && waiting.entries.len() < crowd {
            // Nobody else wakes it: that is what the pause is for.
            waiting.wanted = crowd;
            self.comes.wait_for(&mut waiting, pause);
            waiting.wanted = 0;
        }
        let (mut bytes, mut count) = (0, 0);
        while bytes < WRITE_BYTES_MAX
            && let Some(entry) = waiting.entries.get(count)
        {
            bytes += entry.event.len();
            count += 1;
        }
        waiting.writing = count;
        Some(waiting.entries.drain(..count).collect())
    }

    /// How many are not written.
    fn left(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.entries.len() + waiting.writing
    }
}

impl Log {
    /// Opens the file and starts the thread; it ends when the log is dropped or `group` stops, and all is written: the group waits for that.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(config: LogConfig, group: &Group) -> io::Result<Self> {
        let mode = config.mode;
        let lost = Arc::<AtomicU64>::default();
        let mut writer = Writer::open(config, lost.clone())?;
        let queue = Arc::<Queue>::default();
        let (room, is_stuck) = (Arc::new(Semaphore::new(WAITING_BYTES_MAX >> 10)), Arc::<AtomicBool>::default());
        let (taken, stuck) = (queue.clone(), is_stuck.clone());
        // No more is in it than there are requests that wait.
        let (tell, told) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("audit-log".into()).spawn(move || {
            writer.run(&taken, &stuck, &tell);
        })?;
        group.spawn_careful(watch_over(group.clone(), queue.clone(), told, lost.clone()));
        Ok(Self { mode, queue, room, is_stuck, lost })
    }

    /// How much of the room an event takes.
    fn kib(event: &Bytes) -> u32 {
        u32::try_from((event.len() >> 10) + 1).unwrap_or(u32::MAX).min((WAITING_BYTES_MAX >> 10) as u32)
    }

    async fn wait(&self, event: Bytes, is_put: &AtomicBool) -> Result<(), String> {
        let (written, told) = oneshot::channel();
        let room = self.room.clone().acquire_many_owned(Self::kib(&event)).await.map_err(|error| error.to_string())?;
        // There are no more of them than there is room for.
        self.queue.put(Entry { event, written: Some(written), _room: room }, usize::MAX);
        is_put.store(true, Ordering::Relaxed);
        match told.await {
            Ok(true) => Ok(()),
            _ => Err("the audit log was not written".to_owned()),
        }
    }
}

/// An event of somebody who waits. Should they go away before there is room for it, it is not forgotten, but taken as of who cannot wait.
struct Awaited<'a> {
    log: &'a Log,
    event: Option<Bytes>,
    is_put: AtomicBool,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(event) = self.event.take().filter(|_| !*self.is_put.get_mut()) else { return };
        if self.log.take_now(event).is_err() {
            self.log.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Wakes who waits, and sees to it that what is there is written before the group is over, or is told of as lost.
async fn watch_over(group: Group, queue: Arc<Queue>, told: mpsc::UnboundedReceiver<Told>, lost: Arc<AtomicU64>) {
    let mut waking = std::pin::pin!(wake(told));
    tokio::select! {
        () = group.stopping() => {
            queue.end();
            let _ = timeout(END_BOUND, &mut waking).await;
        }
        // The log is gone before; or its thread is, and nothing more is to be taken.
        () = &mut waking => queue.end(),
    }
    let events = queue.left();
    if events > 0 {
        lost.fetch_add(u64::try_from(events).unwrap_or(u64::MAX), Ordering::Relaxed);
        tracing::error!(events, "audit events are lost: the log was not written before the end");
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
        let mut awaited = Awaited { log: self, event: Some(event.clone()), is_put: AtomicBool::new(false) };
        let written = timeout(WRITTEN_BOUND, self.wait(event, &awaited.is_put)).await;
        awaited.event = None;
        written.unwrap_or_else(|_| {
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

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The thread's.
struct Writer {
    config: LogConfig,
    out: Out,
    is_failing: bool,
    lost: Arc<AtomicU64>,
}

enum Out {
    Stdout,
    File { file: File, bytes: u64 },
}

impl Writer {
    fn open(config: LogConfig, lost: Arc<AtomicU64>) -> io::Result<Self> {
        let out = if config.path == Path::new("-") { Out::Stdout } else { open(&config.path)? };
        Ok(Self { config, out, is_failing: false, lost })
    }

    fn run(&mut self, queue: &Queue, is_stuck: &AtomicBool, tell: &mpsc::UnboundedSender<Told>) {
        let (mut text, mut last) = (Vec::new(), 0);
        loop {
            let (pause, crowd) = match self.config.mode {
                LogMode::Batch => (BATCH_PAUSE, usize::MAX),
                _ if last >= CROWD => (CROWD_PAUSE, last),
                _ => (Duration::ZERO, 0),
            };
            let Some(entries) = queue.take(pause, crowd) else { return };
            entries.iter().for_each(|entry| text.extend_from_slice(&entry.event));
            let written = self.write(&text);
            emptied(&mut text);
            is_stuck.store(false, Ordering::Relaxed);
            self.tell(written.as_ref().err());
            last = entries.len();
            if written.is_err() {
                let unawaited = entries.iter().filter(|entry| entry.written.is_none()).count();
                self.lost.fetch_add(unawaited as u64, Ordering::Relaxed);
            }
            let waiting: Vec<_> = entries.into_iter().filter_map(|entry| entry.written).collect();
            if !waiting.is_empty() {
                let _ = tell.send(Told { waiting, is_written: written.is_ok() });
            }
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

/// Room for the next write: what a large one took is not kept until it comes, which may be never.
fn emptied(text: &mut Vec<u8>) {
    text.clear();
    text.shrink_to(KEPT_BYTES);
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
        let log = Log::open(config(path.clone(), LogMode::BlockingStrict), &Group::new()).unwrap();
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
        let log = Log::open(config(path.clone(), LogMode::Blocking), &Group::new()).unwrap();
        log.take(Bytes::from("x".repeat(90))).await.unwrap();
        fs::remove_file(&path).unwrap();
        log.take(Bytes::from("y".repeat(90))).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "y".repeat(90));
    }

    #[tokio::test]
    async fn what_is_not_written_is_told_to_who_waits_and_spoils_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (place, path) = (dir.path().join("logs"), dir.path().join("logs/audit.log"));
        let log = Log::open(config(path.clone(), LogMode::Blocking), &Group::new()).unwrap();
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
        let log = |mode| {
            let (room, is_stuck) = (Arc::new(Semaphore::new(4)), Arc::new(AtomicBool::new(true)));
            Log { mode, queue: queue.clone(), room, is_stuck, lost: Arc::default() }
        };
        let strict = log(LogMode::BlockingStrict);
        assert_eq!(strict.take(Bytes::from_static(b"x")).await.unwrap_err(), "the audit log is not written");
        let blocking = log(LogMode::Blocking);
        blocking.take(Bytes::from_static(b"x")).await.unwrap();
        blocking.take(Bytes::from(vec![b'x'; 2 << 10])).await.unwrap();
        assert_eq!(blocking.take(Bytes::from_static(b"x")).await.unwrap_err(), "too many events wait to be written", "bytes are counted");
        assert_eq!(queue.take(Duration::ZERO, 0).unwrap()[0].event, "x");
    }

    #[tokio::test]
    async fn a_crowd_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let sorted = |text: &str| text.lines().map(|line| line.parse::<usize>().unwrap()).collect::<std::collections::BTreeSet<_>>();
        for mode in [LogMode::Blocking, LogMode::Batch] {
            let path = dir.path().join(format!("{mode:?}.log"));
            let log = Log::open(LogConfig { bytes_max: 1 << 30, ..config(path.clone(), mode) }, &Group::new()).unwrap();
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
        assert_eq!(queue.take(BATCH_PAUSE, usize::MAX).map(|all| all.len()), Some(2), "what is there when it ends is written");
        assert!(queue.take(Duration::ZERO, 0).is_none());
        assert_eq!(room.available_permits(), 8);
    }

    #[tokio::test]
    async fn what_is_there_when_the_group_ends_is_written_and_nothing_after_that() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [LogMode::Blocking, LogMode::Batch] {
            let (group, path) = (Group::new(), dir.path().join(format!("{mode:?}.log")));
            let log = Log::open(LogConfig { bytes_max: 1 << 30, ..config(path.clone(), mode) }, &group).unwrap();
            for at in 0..100 {
                log.take_now(Bytes::from(format!("{at}\n"))).unwrap();
            }
            assert!(group.drain(END_BOUND).await);
            assert_eq!((fs::read_to_string(&path).unwrap().lines().count(), log.lost()), (100, 0), "{mode:?}");
            log.take_now(Bytes::from_static(b"late\n")).unwrap_err();
            log.take(Bytes::from_static(b"late\n")).await.unwrap_err();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_disk_that_hangs_does_not_take_before_the_end_is_counted() {
        let (group, queue, lost) = (Group::new(), Arc::<Queue>::default(), Arc::<AtomicU64>::default());
        let (_thread, told) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(8));
        let put = || queue.put(Entry { event: Bytes::new(), written: None, _room: room.clone().try_acquire_owned().unwrap() }, 8);
        assert!(put() && put());
        let _written = queue.take(Duration::ZERO, 0);
        assert!(put());
        group.spawn_careful(watch_over(group.clone(), queue.clone(), told, lost.clone()));
        assert!(group.drain(2 * END_BOUND).await);
        assert_eq!(lost.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn who_goes_away_before_there_is_room_for_an_event_does_not_keep_it_out_unseen() {
        // Nobody takes anything out of it.
        let (queue, room) = (Arc::<Queue>::default(), Arc::new(Semaphore::new(2)));
        let lost = Arc::<AtomicU64>::default();
        let log = Log { mode: LogMode::Blocking, queue: queue.clone(), room, is_stuck: Arc::default(), lost: lost.clone() };
        let hangs_up = async |bytes: usize| {
            let mut taking = log.take(Bytes::from(vec![b'x'; bytes]));
            assert!(futures::poll!(&mut taking).is_pending());
        };
        hangs_up(1).await;
        hangs_up(2 << 10).await;
        let told = (queue.left(), lost.load(Ordering::Relaxed));
        assert_eq!(told, (1, 1), "what has its place stays, and what has none is counted");
    }

    #[tokio::test]
    async fn what_nobody_waits_for_and_is_not_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (place, path) = (dir.path().join("logs"), dir.path().join("logs/audit.log"));
        let group = Group::new();
        let log = Log::open(config(path.clone(), LogMode::Batch), &group).unwrap();
        log.take_now(Bytes::from("x".repeat(90))).unwrap();
        let end = tokio::time::Instant::now() + WRITTEN_BOUND;
        while fs::read(&path).unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < end);
            tokio::task::yield_now().await;
        }
        // It cannot be turned over: its folder is none any more.
        fs::remove_dir_all(&place).unwrap();
        fs::write(&place, "").unwrap();
        log.take_now(Bytes::from("y".repeat(90))).unwrap();
        assert!(group.drain(END_BOUND).await);
        assert_eq!(log.lost(), 1);
    }

    #[test]
    fn a_large_write_leaves_no_large_room() {
        let mut text = vec![b'x'; 3 << 20];
        emptied(&mut text);
        assert!(text.is_empty() && text.capacity() <= KEPT_BYTES, "{}", text.capacity());
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
        Writer::open(config, Arc::default()).unwrap().prune(at("2026-01-05T00:00:01Z")).unwrap();
        let mut left: Vec<String> = old_files(&path).unwrap().into_iter().map(|(at, _)| at.to_string()).collect();
        left.sort();
        assert_eq!(left, ["2026-01-04T00:00:00Z"]);
        assert!(dir.path().join("audit-other.log").exists());
    }
}
