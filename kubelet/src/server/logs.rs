//! A container's log file -> what a client asked for of it: whole, the end, since a time, or as it grows.
//!
//! Source: `staging/src/k8s.io/cri-client/pkg/logs/logs.go`; unlike it, a followed log is followed through its rotation.

mod lines;
mod options;
mod tail;

use std::{
    io::{self, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    time::Instant,
};

use self::lines::Lines;
pub use self::options::{Options, Which};
use crate::inotify::Watcher;

const CHUNK: usize = 64 << 10;
/// When the runtime has closed a log: how often, and how far apart, the runtime is queried whether the container has ended.
const END_ASKS: u32 = 6;
const END_ASK_FIRST: Duration = Duration::from_millis(50);
/// While a log is followed that nobody writes: how often the runtime is queried all the same.
const SAFETY: Duration = Duration::from_secs(60);

/// Whether a container runs still.
#[async_trait]
pub trait Liveness: Send + Sync {
    async fn runs(&self, id: &str) -> bool;
}

#[async_trait]
impl Liveness for cri::Runtime {
    async fn runs(&self, id: &str) -> bool {
        let asked = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        match self.container_status(asked).await {
            Ok(answer) => answer.status.is_some_and(|s| s.state == cri::ContainerState::ContainerRunning as i32),
            // Containers run on while the runtime is away.
            Err(error) => matches!(error, cri::Error::Unavailable(_) | cri::Error::Deadline { .. }),
        }
    }
}

/// The text of a whole log in the CRI format, as a fuzz target feeds it: in pieces of `piece` bytes. `None` where the query is refused.
#[doc(hidden)]
pub fn read_all(data: &[u8], query: &str, piece: usize) -> Option<Vec<u8>> {
    let (mut lines, mut out) = (Lines::new(Options::parse(query, api::time::Timestamp::UNIX_EPOCH).ok()?), Vec::new());
    for part in data.chunks(piece.max(1)) {
        if lines.feed(part, &mut out).is_break() {
            return Some(out);
        }
    }
    lines.finish(&mut out);
    Some(out)
}

/// A log that is being read.
pub struct Reader {
    file: File,
    path: PathBuf,
    lines: Lines,
    follow: Option<Follow>,
    chunk: Vec<u8>,
    /// To be read once the end of `file` is reached, which has been rotated.
    next_file: Option<File>,
    ended: bool,
}

struct Follow {
    watcher: Watcher,
    liveness: Arc<dyn Liveness>,
    container_id: String,
    /// The container has ended: what is in the file is all there will be.
    last_round: bool,
}

/// Opens a log at the place where `options` begin. `liveness` tells whether the container runs while the log is followed.
///
/// # Errors
/// Where the file cannot be read.
pub async fn open(path: &Path, options: Options, liveness: Arc<dyn Liveness>, container_id: &str) -> io::Result<Reader> {
    let follow = if options.follow { Some(Follow::new(path, liveness, container_id)?) } else { None };
    let mut file = File::open(path).await?;
    if let Some(count) = options.tail_lines {
        let start = tail::start(&mut file, count).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    Ok(Reader { file, path: path.to_owned(), lines: Lines::new(options), follow, chunk: vec![0; CHUNK], next_file: None, ended: false })
}

impl Reader {
    /// The answer's body, read as the client takes it.
    pub fn chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            let chunk = Box::pin(reader.next()).await?;
            Ok(chunk.map(|chunk| (chunk, reader)))
        })
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.ended {
            let mut out = Vec::new();
            let count = self.file.read(&mut self.chunk).await?;
            if count > 0 {
                self.ended = self.lines.feed(self.chunk.get(..count).unwrap_or_default(), &mut out).is_break();
            } else if !self.more(&mut out).await? {
                self.ended = true;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }

    /// At the end of the file: waits until there is more. False: there will not be.
    async fn more(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        let Some(follow) = &mut self.follow else {
            self.lines.finish(out);
            return Ok(false);
        };
        if let Some(next) = self.next_file.take() {
            self.file = next;
            return Ok(true);
        }
        self.next_file = rotated(&self.file, &self.path).await?;
        if self.next_file.is_some() {
            // There may be what was written between our last read and the rotation.
            return Ok(true);
        }
        if follow.last_round {
            self.lines.finish(out);
            return Ok(false);
        }
        follow.wait().await?;
        Ok(true)
    }
}

impl Follow {
    fn new(path: &Path, liveness: Arc<dyn Liveness>, container_id: &str) -> io::Result<Self> {
        let watcher = Watcher::new()?;
        let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF;
        watcher.add(path.parent().unwrap_or(Path::new("/")), flags)?;
        // Whoever ended before the watch began is seen by the first wait.
        Ok(Self { watcher, liveness, container_id: container_id.into(), last_round: false })
    }

    /// Until something was written, or the container has ended.
    async fn wait(&mut self) -> io::Result<()> {
        if !self.liveness.runs(&self.container_id).await {
            self.last_round = true;
            return Ok(());
        }
        let events = match tokio::time::timeout(SAFETY, self.watcher.next()).await {
            Ok(events) => events?,
            Err(_) => return Ok(()),
        };
        let closed = ReadFlags::CLOSE_WRITE | ReadFlags::DELETE_SELF | ReadFlags::IGNORED;
        if events.iter().any(|e| e.flags.intersects(closed)) {
            self.ended().await;
        }
        Ok(())
    }

    /// The runtime closes a log just before it knows that the container has ended, and when a log is rotated.
    async fn ended(&mut self) {
        let mut pause = END_ASK_FIRST;
        for _ in 0..END_ASKS {
            if !self.liveness.runs(&self.container_id).await {
                self.last_round = true;
                return;
            }
            // Something new meanwhile: it was a rotation.
            let until = Instant::now() + pause;
            if tokio::time::timeout_at(until, self.watcher.next()).await.is_ok() {
                return;
            }
            pause *= 2;
        }
    }
}

/// The file that stands at `path` now, if it is another than the one that is open.
async fn rotated(open: &File, path: &Path) -> io::Result<Option<File>> {
    let there = match tokio::fs::metadata(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        there => there?,
    };
    let ours = open.metadata().await?;
    if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
        return Ok(None);
    }
    File::open(path).await.map(Some)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Write,
        sync::atomic::{AtomicBool, Ordering},
    };

    use api::time::Timestamp;
    use futures::StreamExt;

    use super::*;

    struct Flag(AtomicBool);

    #[async_trait]
    impl Liveness for Flag {
        async fn runs(&self, _id: &str) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    const FILE: &str = "2026-01-02T03:04:05.000000001Z stdout F one\n\
        2026-01-02T03:04:06.000000002Z stderr P two-\n\
        2026-01-02T03:04:06.000000003Z stderr F more\n\
        2026-01-02T03:04:07.000000004Z stdout F \n\
        2026-01-02T03:04:08.5Z stdout F four\n";

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, FILE).unwrap();
        let now = "2026-01-02T03:04:10Z".parse::<Timestamp>().unwrap();
        let reader = open(&path, Options::parse(query, now).unwrap(), Arc::new(Flag(false.into())), "x").await.unwrap();
        let chunks: Vec<_> = reader.chunks().map(|c| c.unwrap()).collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn options_cut_as_upstreams() {
        let cases = [
            ("", "one\ntwo-more\n\nfour\n"),
            ("tailLines=2", "\nfour\n"),
            ("tailLines=0", ""),
            ("tailLines=99", "one\ntwo-more\n\nfour\n"),
            ("sinceSeconds=2", "four\n"),
            ("sinceTime=2026-01-02T03:04:07Z", "\nfour\n"),
            ("limitBytes=5", "one\nt"),
            ("follow=true", "one\ntwo-more\n\nfour\n"),
            ("follow=true&tailLines=1", "four\n"),
            ("stream=Stderr", "two-more\n"),
            (
                "timestamps=true&tailLines=4",
                "2026-01-02T03:04:06.000000002Z two-more\n2026-01-02T03:04:07.000000004Z \n2026-01-02T03:04:08.500000000Z four\n",
            ),
        ];
        for (query, wanted) in cases {
            assert_eq!(read(query).await, wanted, "{query}");
        }
    }

    #[tokio::test]
    async fn a_log_is_followed_through_its_rotation_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-02T03:04:05Z stdout F {text}\n");
        fs::write(&path, line("one")).unwrap();
        let alive = Arc::new(Flag(true.into()));
        let options = Options::parse("follow=true", Timestamp::UNIX_EPOCH).unwrap();
        let mut chunks = Box::pin(open(&path, options, alive.clone(), "x").await.unwrap().chunks());
        let mut next = async || tokio::time::timeout(Duration::from_secs(10), chunks.next()).await.expect("in time").map(|c| c.unwrap());
        assert_eq!(next().await.unwrap(), "one\n");

        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(line("two").as_bytes()).unwrap();
        assert_eq!(next().await.unwrap(), "two\n");
        // Half a line is not shown before its end is there.
        file.write_all(b"2026-01-02T03:04:05Z stdout F th").unwrap();
        file.write_all(b"ree\n").unwrap();
        assert_eq!(next().await.unwrap(), "three\n");

        fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        file.write_all(line("late").as_bytes()).unwrap();
        drop(file);
        fs::write(&path, line("new")).unwrap();
        let mut seen = String::new();
        while !seen.contains("new") {
            seen += std::str::from_utf8(&next().await.unwrap()).unwrap();
        }
        assert_eq!(seen, "late\nnew\n");

        alive.0.store(false, Ordering::SeqCst);
        drop(fs::OpenOptions::new().append(true).open(&path).unwrap());
        assert!(next().await.is_none());
    }
}
