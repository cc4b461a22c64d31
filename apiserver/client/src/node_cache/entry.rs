//! One watched collection -> what of it is in its file, and what is to be written.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    event::{Told, read},
    journal::{self, Collection},
};
use crate::watch::FROM_DISK;

/// What is added to a file before it is written anew: as much as it was when it was whole, and this.
const SLACK_BYTES: u64 = 256 << 10;
/// Changes that wait to be written; beyond that they are not kept, until the collection is listed again.
const CHANGES_BYTES_MAX: usize = 8 << 20;

/// A client is told to list again at most so often: what cannot be kept would be listed for nothing.
const RELIST_EVERY: Duration = Duration::from_secs(600);

/// A collection, or a single object, by the path of its watch; or a token.
pub struct Entry {
    path: PathBuf,
    /// For logs.
    key: String,
    /// Of a token, the pod that it is bound to: namespace and name.
    pod: Option<String>,
    state: Mutex<State>,
    /// Held while the file is written or read.
    file: Mutex<Size>,
}

/// What the file is, as we wrote it.
#[derive(Default)]
struct Size {
    whole: u64,
    now: u64,
    revision: String,
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
    /// A server has told more since the start than is kept: who heard of that is not led back to what was before.
    is_behind: bool,
    /// When a client was last told to list again.
    relisted: Option<Instant>,
}

/// What could not be written.
struct Unwritten {
    whole: Option<BTreeMap<String, Vec<u8>>>,
    changes: BTreeMap<String, Vec<u8>>,
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
    pub fn new(path: PathBuf, key: &str, pod: Option<String>) -> Self {
        let state = State {
            revision: None,
            whole: None,
            changes: BTreeMap::new(),
            change_bytes: 0,
            used: Instant::now(),
            is_claimed: false,
            is_behind: false,
            relisted: None,
        };
        Self { path, key: key.to_owned(), pod, state: Mutex::new(state), file: Mutex::default() }
    }

    pub fn pod(&self) -> Option<&str> {
        self.pod.as_deref()
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
        state.is_behind = false;
    }

    /// More was told than we know of: until the collection is listed again, nothing is written or told.
    pub fn fell_behind(&self) {
        self.state.lock().fall_behind();
    }

    /// Whether a watch that goes on is to begin with a list instead, so that the collection is kept again. True at most once in [`RELIST_EVERY`].
    pub fn is_to_relist(&self) -> bool {
        let mut state = self.state.lock();
        let is_early = state.relisted.is_some_and(|at| at.elapsed() < RELIST_EVERY);
        if !state.is_behind || is_early {
            return false;
        }
        state.relisted = Some(Instant::now());
        true
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
                return state.fall_behind();
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

    /// Writes what there is to write. False where that is to be tried again.
    pub fn flush(&self) -> bool {
        let mut file = self.file.lock();
        self.write(&mut file)
    }

    fn write(&self, file: &mut Size) -> bool {
        let (work, revision) = {
            let mut state = self.state.lock();
            state.change_bytes = 0;
            let work = Unwritten { whole: state.whole.take(), changes: std::mem::take(&mut state.changes) };
            (work, state.revision.clone())
        };
        let Some(revision) = revision else { return true };
        let written = match &work.whole {
            Some(all) => self.write_whole(all, &revision, file),
            None if work.changes.is_empty() => return true,
            None => self.add(&work.changes, &revision, file),
        };
        let Err(error) = written else { return true };
        tracing::warn!(what = self.key, %error, "what a server told cannot be kept");
        let mut state = self.state.lock();
        match error.kind() {
            // Another try would find the same.
            ErrorKind::FileTooLarge | ErrorKind::InvalidData => {
                state.fall_behind();
                true
            }
            _ => {
                state.put_back(work);
                state.revision.is_none()
            }
        }
    }

    fn write_whole(&self, all: &BTreeMap<String, Vec<u8>>, revision: &str, file: &mut Size) -> io::Result<()> {
        if let Some(there) = journal::load(&self.path).filter(|there| there.lines == *all) {
            // The same, a little older: a watch may go on from there as well.
            journal::cut(&self.path, there.bytes)?;
            *file = Size { whole: there.bytes, now: there.bytes, revision: there.revision };
            return Ok(());
        }
        let whole = journal::replace(&self.path, all.values().cloned(), Some(revision))?;
        *file = Size { whole, now: whole, revision: revision.to_owned() };
        Ok(())
    }

    fn add(&self, changes: &BTreeMap<String, Vec<u8>>, revision: &str, file: &mut Size) -> io::Result<()> {
        let most = (file.whole * 2 + SLACK_BYTES).min(journal::FILE_BYTES_MAX);
        if file.now + journal::bytes_of(changes.values(), revision) <= most {
            file.now = journal::append(&self.path, file.now, changes.values().cloned(), revision)?;
            file.revision = revision.to_owned();
            return Ok(());
        }
        let there = journal::load(&self.path).filter(|there| there.revision == file.revision);
        let mut lines = there.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it is not what was written"))?.lines;
        apply(changes.clone(), &mut lines);
        let whole = journal::replace(&self.path, lines.into_values(), Some(revision))?;
        *file = Size { whole, now: whole, revision: revision.to_owned() };
        Ok(())
    }

    /// What was kept, as the beginning of a watch. The next watch goes on from the revision at its end. Nothing where whoever listens knows more.
    pub fn told(&self) -> Option<Vec<u8>> {
        let mut file = self.file.lock();
        self.write(&mut file);
        let is_unwritten = {
            let state = self.state.lock();
            state.is_behind || state.whole.is_some() || !state.changes.is_empty()
        };
        if is_unwritten {
            return None;
        }
        let Collection { lines, revision, bytes } = journal::load(&self.path)?;
        // What was cut off is not built upon. Where it cannot be removed, nothing is added.
        let is_whole = journal::cut(&self.path, bytes)
            .inspect_err(|error| tracing::warn!(what = self.key, %error, "what was kept cannot be written"))
            .is_ok();
        *file = Size { whole: bytes, now: bytes, revision: revision.clone() };
        let mut body = lines.into_values().flat_map(|line| line.into_iter().chain([b'\n'])).collect::<Vec<u8>>();
        let mark = format!(
            r#"{{"type":"BOOKMARK","object":{{"kind":"Kept","apiVersion":"v1","metadata":{{"resourceVersion":"{revision}","annotations":{{"k8s.io/initial-events-end":"true","{FROM_DISK}":"true"}}}}}}}}"#
        );
        body.extend_from_slice(mark.as_bytes());
        body.push(b'\n');
        self.state.lock().revision = is_whole.then_some(revision);
        Some(body)
    }

    /// Keeps one answer.
    pub fn replace(&self, answer: &[u8]) -> io::Result<()> {
        let _file = self.file.lock();
        journal::replace(&self.path, std::iter::once(answer.to_vec()), None).map(drop)
    }

    /// The answer that was kept.
    pub fn single(&self) -> Option<Vec<u8>> {
        let _file = self.file.lock();
        journal::load_single(&self.path)
    }
}

impl State {
    fn fall_behind(&mut self) {
        self.changes.clear();
        (self.whole, self.change_bytes, self.revision, self.is_behind) = (None, 0, None, true);
    }

    /// Before what came since.
    fn put_back(&mut self, work: Unwritten) {
        if self.revision.is_none() || self.whole.is_some() {
            return;
        }
        if let Some(mut all) = work.whole {
            apply(std::mem::take(&mut self.changes), &mut all);
            (self.whole, self.change_bytes) = (Some(all), 0);
            return;
        }
        for (key, line) in work.changes {
            self.changes.entry(key).or_insert(line);
        }
        self.change_bytes = self.changes.values().map(Vec::len).sum();
        if self.change_bytes > CHANGES_BYTES_MAX {
            self.fall_behind();
        }
    }
}

/// Events, each the last of its object, on what there was.
fn apply(changes: BTreeMap<String, Vec<u8>>, lines: &mut BTreeMap<String, Vec<u8>>) {
    for (key, line) in changes {
        match read(&line) {
            Some(Told::Gone { .. }) => drop(lines.remove(&key)),
            _ => drop(lines.insert(key, line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn line(kind: &str, name: &str, revision: u32) -> Vec<u8> {
        format!(r#"{{"type":"{kind}","object":{{"metadata":{{"namespace":"n","name":"{name}","resourceVersion":"{revision}"}}}}}}"#).into()
    }

    fn put(entry: &Entry, name: &str, revision: u32) {
        let line = line("ADDED", name, revision);
        entry.changed(format!("n/{name}"), Some(line.clone()), &line, revision.to_string());
    }

    fn gone(entry: &Entry, name: &str, revision: u32) {
        entry.changed(format!("n/{name}"), None, &line("DELETED", name, revision), revision.to_string());
    }

    /// The names that are told, and the revision that the next watch goes on from.
    fn told(entry: &Entry) -> Option<(String, String)> {
        let body = String::from_utf8(entry.told()?).unwrap();
        let (mut names, mut end) = (Vec::new(), String::new());
        for line in body.lines() {
            match read(line.as_bytes()).unwrap() {
                Told::Put { key, .. } => names.push(key),
                Told::End { revision } => end = revision,
                other => panic!("{other:?}"),
            }
        }
        Some((names.join(" "), end))
    }

    fn is(names: &str, revision: &str) -> Option<(String, String)> {
        Some((names.into(), revision.into()))
    }

    /// A disk on which nothing new can be made.
    fn fill(path: &Path) -> PathBuf {
        let in_the_way = path.with_extension("new");
        fs::create_dir(&in_the_way).unwrap();
        in_the_way
    }

    fn entry(dir: &tempfile::TempDir) -> Entry {
        Entry::new(dir.path().join("a"), "k", None)
    }

    fn listed(entry: &Entry, names: &[&str], revision: u32) {
        let all = names.iter().map(|name| (format!("n/{name}"), line("ADDED", name, revision))).collect();
        entry.listed(all, revision.to_string());
    }

    #[test]
    fn what_cannot_be_written_is_written_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let all = entry(&dir);
        let in_the_way = fill(all.path());
        listed(&all, &["a", "b"], 3);
        assert!(!all.flush(), "to be tried again");
        gone(&all, "a", 4);
        put(&all, "c", 5);
        assert!(!all.flush());
        fs::remove_dir(in_the_way).unwrap();
        assert!(all.flush());
        assert_eq!(told(&entry(&dir)), is("n/b n/c", "5"), "the next run");
        // The file itself is away for a while.
        let away = dir.path().join("away");
        fs::rename(all.path(), &away).unwrap();
        put(&all, "d", 6);
        gone(&all, "b", 7);
        assert!(!all.flush());
        put(&all, "b", 8);
        fs::rename(&away, all.path()).unwrap();
        assert!(all.flush());
        assert_eq!(told(&entry(&dir)), is("n/b n/c n/d", "8"));
    }

    #[test]
    fn nobody_is_led_back_to_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let all = entry(&dir);
        listed(&all, &["old"], 3);
        assert!(all.flush());
        // Told of more, which the disk does not take; then 410, and no server.
        let in_the_way = fill(all.path());
        listed(&all, &["new"], 9);
        assert_eq!(told(&all), None);
        all.fell_behind();
        assert_eq!(told(&all), None);
        assert!(all.flush(), "there is nothing to write");
        assert_eq!(told(&entry(&dir)), is("n/old", "3"), "a run that knows nothing begins with what there is");
        fs::remove_dir(in_the_way).unwrap();
        listed(&all, &["newer"], 12);
        assert_eq!(told(&all), is("n/newer", "12"));
        // More changes than are kept while the disk does not take them.
        fs::remove_file(all.path()).unwrap();
        for n in 0..9 {
            all.changed(format!("n/{n}"), Some(vec![b'x'; 1 << 20]), b"", (20 + n).to_string());
        }
        assert_eq!(told(&all), None);
    }

    #[test]
    fn a_torn_tail_is_cut_off_before_anything_is_added() {
        for torn in [&b"0123"[..], &[0; 64], &line("ADDED", "x", 9)] {
            let dir = tempfile::tempdir().unwrap();
            let first = entry(&dir);
            listed(&first, &["a"], 3);
            first.flush();
            let tear = || fs::write(first.path(), [&fs::read(first.path()).unwrap(), torn].concat()).unwrap();
            tear();
            // A server tells the same again, and more.
            let second = entry(&dir);
            listed(&second, &["a"], 3);
            second.flush();
            put(&second, "b", 4);
            assert!(second.flush());
            assert_eq!(told(&entry(&dir)), is("n/a n/b", "4"));
            // No server tells it: it is told from the file, and the watch goes on from there.
            tear();
            let third = entry(&dir);
            assert_eq!(told(&third), is("n/a n/b", "4"));
            put(&third, "c", 5);
            assert!(third.flush());
            assert_eq!(told(&entry(&dir)), is("n/a n/b n/c", "5"));
        }
    }

    #[test]
    fn a_file_that_grew_is_written_anew_with_what_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let all = entry(&dir);
        listed(&all, &["a"], 1);
        all.flush();
        let long = "x".repeat(100 << 10);
        for n in 2..20_u32 {
            let line = format!(
                r#"{{"type":"ADDED","object":{{"metadata":{{"namespace":"n","name":"b","resourceVersion":"{n}"}},"data":"{long}"}}}}"#
            );
            all.changed("n/b".into(), Some(line.clone().into()), line.as_bytes(), n.to_string());
            assert!(all.flush());
            assert!(fs::metadata(all.path()).unwrap().len() < 2 * (SLACK_BYTES + (200 << 10)));
        }
        gone(&all, "a", 20);
        assert!(all.flush());
        assert_eq!(told(&entry(&dir)), is("n/b", "20"));
    }
}
