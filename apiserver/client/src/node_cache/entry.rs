//! One watched collection -> what of it is in its file, and what is to be written.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::journal::{self, Collection};
use crate::watch::FROM_DISK;

/// What is added to a file before it is written anew: as much as it was when it was whole, and this.
const SLACK_BYTES: u64 = 256 << 10;
/// Changes that wait to be written; beyond that they are not kept, until the collection is listed again.
const CHANGES_BYTES_MAX: usize = 8 << 20;

/// A collection, or a single object, by the path of its watch.
pub struct Entry {
    path: PathBuf,
    /// For logs.
    key: String,
    state: Mutex<State>,
    /// Held while the file is written or read.
    file: Mutex<Size>,
}

#[derive(Default)]
struct Size {
    whole: u64,
    now: u64,
}

struct State {
    /// What file and changes together stand for. `None`: they are behind.
    revision: Option<String>,
    /// All of it, to be written anew.
    whole: Option<BTreeMap<String, Vec<u8>>>,
    /// To be added: the last event of each object.
    changes: BTreeMap<String, Vec<u8>>,
    change_bytes: usize,
    used: Instant,
    /// A watch is open, and tells.
    is_claimed: bool,
}

/// The right to tell: of one watch at a time.
pub struct Claim(Arc<Entry>);

impl Claim {
    pub fn of(entry: Arc<Entry>) -> Option<Self> {
        let was = std::mem::replace(&mut entry.state.lock().is_claimed, true);
        (!was).then(|| Self(entry))
    }

    pub fn entry(&self) -> &Entry {
        &self.0
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        (state.is_claimed, state.used) = (false, Instant::now());
    }
}

impl Entry {
    pub fn new(path: PathBuf, key: &str) -> Self {
        let state =
            State { revision: None, whole: None, changes: BTreeMap::new(), change_bytes: 0, used: Instant::now(), is_claimed: false };
        Self { path, key: key.to_owned(), state: Mutex::new(state), file: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn touch(&self) {
        self.state.lock().used = Instant::now();
    }

    pub fn is_open(&self) -> bool {
        self.state.lock().is_claimed
    }

    pub fn idle(&self) -> Duration {
        self.state.lock().used.elapsed()
    }

    /// Whether a watch from that revision tells what comes next.
    pub fn stands_at(&self, revision: &str) -> bool {
        self.state.lock().revision.as_deref() == Some(revision)
    }

    /// All there is.
    pub fn listed(&self, all: BTreeMap<String, Vec<u8>>, revision: String) {
        let mut state = self.state.lock();
        state.changes.clear();
        (state.whole, state.change_bytes, state.revision) = (Some(all), 0, Some(revision));
    }

    /// One object is so now (`line`, and as one that is there: `put`), or gone.
    pub fn changed(&self, key: String, put: Option<Vec<u8>>, line: &[u8], revision: String) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(whole) = state.whole.as_mut() {
            match put {
                Some(put) => drop(whole.insert(key, put)),
                None => drop(whole.remove(&key)),
            }
        } else if state.revision.is_some() {
            let line = put.unwrap_or_else(|| line.trim_ascii_end().to_vec());
            state.change_bytes += line.len();
            let old = state.changes.insert(key, line);
            state.change_bytes -= old.map_or(0, |old| old.len());
            if state.change_bytes > CHANGES_BYTES_MAX {
                tracing::warn!(what = self.key, "more changes at once than are kept; what was kept before stays");
                state.changes.clear();
                (state.change_bytes, state.revision) = (0, None);
                return;
            }
        } else {
            return;
        }
        state.revision = Some(revision);
    }

    /// Nothing else happened up to that revision. Not worth a write of its own.
    pub fn reached(&self, revision: String) {
        let mut state = self.state.lock();
        if state.revision.is_some() {
            state.revision = Some(revision);
        }
    }

    /// Writes what there is to write.
    pub fn flush(&self) {
        let mut size = self.file.lock();
        let (whole, changes, revision) = {
            let mut state = self.state.lock();
            state.change_bytes = 0;
            (state.whole.take(), std::mem::take(&mut state.changes), state.revision.clone())
        };
        let Some(revision) = revision else { return };
        let written = match whole {
            Some(all) => self.write_whole(&all, &revision, &mut size),
            None if changes.is_empty() => return,
            None => self.add(changes, &revision, &mut size),
        };
        if let Err(error) = written {
            tracing::warn!(what = self.key, %error, "what a server told cannot be kept");
            self.state.lock().revision = None;
        }
    }

    fn write_whole(&self, all: &BTreeMap<String, Vec<u8>>, revision: &str, size: &mut Size) -> std::io::Result<()> {
        if journal::load(&self.path).is_some_and(|there| there.lines == *all) {
            // The same, a little older: a watch may go on from there as well.
            let there = std::fs::metadata(&self.path)?.len();
            *size = Size { whole: there, now: there };
            return Ok(());
        }
        let whole = journal::replace(&self.path, all.values().cloned(), Some(revision))?;
        *size = Size { whole, now: whole };
        Ok(())
    }

    fn add(&self, changes: BTreeMap<String, Vec<u8>>, revision: &str, size: &mut Size) -> std::io::Result<()> {
        size.now += journal::append(&self.path, changes.into_values(), revision)?;
        if size.now <= size.whole * 2 + SLACK_BYTES {
            return Ok(());
        }
        let Some(Collection { lines, revision }) = journal::load(&self.path) else { return Ok(()) };
        let whole = journal::replace(&self.path, lines.into_values(), Some(&revision))?;
        *size = Size { whole, now: whole };
        Ok(())
    }

    /// What was kept, as the beginning of a watch. The next watch goes on from the revision at its end.
    pub fn told(&self) -> Option<Vec<u8>> {
        self.flush();
        let mut size = self.file.lock();
        let Collection { lines, revision } = journal::load(&self.path)?;
        // What was cut off is not built upon.
        let whole = journal::replace(&self.path, lines.values().cloned(), Some(&revision))
            .inspect_err(|error| tracing::warn!(what = self.key, %error, "what was kept cannot be written"))
            .ok()?;
        *size = Size { whole, now: whole };
        let mut body = lines.into_values().flat_map(|line| line.into_iter().chain([b'\n'])).collect::<Vec<u8>>();
        let mark = format!(
            r#"{{"type":"BOOKMARK","object":{{"kind":"Kept","apiVersion":"v1","metadata":{{"resourceVersion":"{revision}","annotations":{{"k8s.io/initial-events-end":"true","{FROM_DISK}":"true"}}}}}}}}"#
        );
        body.extend_from_slice(mark.as_bytes());
        body.push(b'\n');
        self.state.lock().revision = Some(revision);
        Some(body)
    }

    /// Keeps one answer.
    pub fn replace(&self, answer: &[u8]) -> std::io::Result<()> {
        let _file = self.file.lock();
        journal::replace(&self.path, std::iter::once(answer.to_vec()), None).map(drop)
    }

    /// The answer that was kept.
    pub fn single(&self) -> Option<Vec<u8>> {
        let _file = self.file.lock();
        journal::load_single(&self.path)
    }
}
