//! Commits, in order -> a file that only grows: what the tree does not hold yet. One write and one sync make a commit durable.
//!
//! A record is its length and checksum (4 bytes each, LE), then the revision before it, then its changes. It counts only if it is whole
//! and goes on where the one before it ended, so that neither a torn end nor what is left of an older log is taken for a commit.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use redb::StorageBackend;

use crate::{Entry, Event, Rev};

const MAGIC: &[u8; 16] = b"skiff log 1\n\0\0\0\0";
const RECORD_HEAD_BYTES: usize = 8;
const PUT: u8 = 1;
const DELETE: u8 = 2;

pub(crate) struct Log {
    file: Box<dyn StorageBackend>,
    end: u64,
    /// A write that failed may or may not be there: nothing can follow it.
    failed: bool,
    record: Vec<u8>,
}

/// What a commit did to one key. `None`: it is gone.
pub(crate) struct Change {
    pub key: Arc<str>,
    /// With its deadline, 0 lasts.
    pub put: Option<(Entry, u64)>,
}

/// What a log has to tell beyond a revision.
pub(crate) struct Told {
    pub changes: Vec<Change>,
    /// The newest revision.
    pub rev: Rev,
}

/// A plain file.
#[derive(Debug)]
pub(crate) struct Plain(File);

impl Log {
    /// An empty log, durable, in place of whatever `file` holds.
    pub fn create(file: Box<dyn StorageBackend>) -> io::Result<Self> {
        file.set_len(0)?;
        file.write(0, MAGIC)?;
        file.sync_data()?;
        Ok(Self { file, end: MAGIC.len() as u64, failed: false, record: Vec::new() })
    }

    /// The log as it was left, and what it tells beyond `rev`, which the tree has come to.
    ///
    /// # Errors
    /// `InvalidData` where it is no log, or does not go on from `rev`.
    pub fn open(file: Box<dyn StorageBackend>, rev: Rev) -> io::Result<(Self, Told)> {
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        file.read(0, &mut bytes)?;
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("it does not begin as a log does"))?;
        let mut told = Told { changes: Vec::new(), rev };
        let mut last = None;
        while let Some((record, behind)) = next_record(rest) {
            let Some((before, changes)) = read_record(record) else { return Err(bad("a record of it cannot be read")) };
            match last {
                Some(last) if before != last => break,
                None if before > rev => return Err(bad("what comes before it is missing")),
                _ => {}
            }
            let newest = changes.last().map_or(before, |(rev, _)| *rev);
            last = Some(newest);
            told.rev = told.rev.max(newest);
            told.changes.extend(changes.into_iter().filter(|(at, _)| *at > rev).map(|(_, change)| change));
            rest = behind;
        }
        let end = (bytes.len() - rest.len()) as u64;
        if !rest.is_empty() {
            file.set_len(end)?;
        }
        Ok((Self { file, end, failed: false, record: Vec::new() }, told))
    }

    /// Makes a commit durable; blocks until it is so.
    pub fn append(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let Some(first) = batches.iter().find_map(|batch| batch.first()) else { return Ok(()) };
        self.record.clear();
        self.record.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
        self.record.extend_from_slice(&first.rev().saturating_sub(1).to_le_bytes());
        for event in batches.iter().flat_map(|batch| batch.iter()) {
            put_event(&mut self.record, event, deadlines)?;
        }
        let (head, body) = self.record.split_at_mut(RECORD_HEAD_BYTES);
        head[..4].copy_from_slice(&length(body)?);
        head[4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let written = self.file.write(self.end, &self.record).and_then(|()| self.file.sync_data());
        self.failed = written.is_err();
        self.end += self.record.len() as u64;
        // One large commit does not hold its memory for ever.
        self.record.shrink_to(1 << 20);
        written
    }

    /// Forgets everything: the tree has it, durably.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(MAGIC.len() as u64)?;
        self.file.sync_data()?;
        self.end = MAGIC.len() as u64;
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.end
    }
}

impl Plain {
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map(Self)
    }
}

impl StorageBackend for Plain {
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|meta| meta.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// `PUT rev key deadline value` or `DELETE rev key`, texts with their length before them.
fn put_event(out: &mut Vec<u8>, event: &Event, deadlines: &HashMap<Arc<str>, u64>) -> io::Result<()> {
    out.push(if matches!(event, Event::Put { .. }) { PUT } else { DELETE });
    out.extend_from_slice(&event.rev().to_le_bytes());
    put_text(out, event.key().as_bytes())?;
    if let Event::Put { entry, .. } = event {
        out.extend_from_slice(&deadlines.get(&entry.key).copied().unwrap_or(0).to_le_bytes());
        put_text(out, &entry.value)?;
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) -> io::Result<()> {
    out.extend_from_slice(&length(text)?);
    out.extend_from_slice(text);
    Ok(())
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(io::Error::other)
}

/// The first record's body and what follows it, if it is whole.
fn next_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (body, behind) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    (crc32fast::hash(body) == u32::from_le_bytes(*sum) && !body.is_empty()).then_some((body, behind))
}

/// The revision before a record, and its changes with theirs.
fn read_record(body: &[u8]) -> Option<(Rev, Vec<(Rev, Change)>)> {
    let (before, mut rest) = number(body)?;
    let mut changes = Vec::new();
    while let Some((kind, behind)) = rest.split_first() {
        let (rev, behind) = number(behind)?;
        let (key, behind) = text(behind)?;
        let key: Arc<str> = Arc::from(std::str::from_utf8(key).ok()?);
        rest = behind;
        let put = match *kind {
            PUT => {
                let (deadline, behind) = number(behind)?;
                let (value, behind) = text(behind)?;
                rest = behind;
                Some((Entry { key: key.clone(), value: Bytes::copy_from_slice(value), rev }, deadline))
            }
            DELETE => None,
            _ => return None,
        };
        changes.push((rev, Change { key, put }));
    }
    Some((before, changes))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &'static str, rev: Rev) -> Arc<Vec<Event>> {
        let entry = Entry { key: key.into(), value: Bytes::from_static(value.as_bytes()), rev };
        Arc::new(vec![Event::Put { entry, prev: None }])
    }

    /// Keys, with the revision of what was put there.
    type Changes = Vec<(String, Option<Rev>)>;

    fn told(path: &Path, rev: Rev) -> io::Result<(Changes, Rev)> {
        let (_, told) = Log::open(Box::new(Plain::open(path)?), rev)?;
        Ok((told.changes.iter().map(|c| (c.key.to_string(), c.put.as_ref().map(|(e, _)| e.rev))).collect(), told.rev))
    }

    #[test]
    fn whole_records_are_told_and_a_torn_end_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(Box::new(Plain::open(&path).unwrap())).unwrap();
        log.append(&[put("/a", "1", 4), put("/b", "2", 5)], &HashMap::new()).unwrap();
        let gone = Event::Delete { key: "/a".into(), rev: 6, prev: None };
        log.append(&[Arc::new(vec![gone])], &HashMap::new()).unwrap();
        let whole = log.len();
        log.append(&[put("/c", "3", 7)], &HashMap::new()).unwrap();
        let all = [("/a", Some(4)), ("/b", Some(5)), ("/a", None), ("/c", Some(7))].map(|(k, r)| (k.to_owned(), r));
        assert_eq!(told(&path, 3).unwrap(), (all.to_vec(), 7));
        assert_eq!(told(&path, 5).unwrap(), (all[2..].to_vec(), 7), "the tree has the first record already");
        assert_eq!(told(&path, 9).unwrap(), (Vec::new(), 9));
        assert!(told(&path, 2).is_err(), "revision 3 is nowhere");
        let file = Plain::open(&path).unwrap();
        file.write(log.len() - 1, b"x").unwrap();
        assert_eq!(told(&path, 3).unwrap(), (all[..3].to_vec(), 6));
        assert_eq!(file.len().unwrap(), whole, "the torn end is cut off");
        file.write(0, b"x").unwrap();
        assert!(told(&path, 3).is_err());
    }

    #[test]
    fn a_record_of_another_time_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(Box::new(Plain::open(&path).unwrap())).unwrap();
        log.append(&[put("/a", "1", 1)], &HashMap::new()).unwrap();
        log.append(&[put("/a", "2", 9)], &HashMap::new()).unwrap();
        assert_eq!(told(&path, 0).unwrap().1, 1);
        log.clear().unwrap();
        assert_eq!(told(&path, 9).unwrap(), (Vec::new(), 9));
    }
}
