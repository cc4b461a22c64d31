//! Commits, in order -> a file that only grows: what the tree does not hold yet. One write and one sync make a commit durable.
//!
//! It begins with the revision that the tree had come to when it was made, and with a random number of its own; see [`record`] for what follows. A log is
//! never emptied: a new one takes its name. So whatever is interrupted leaves the old one or the new one, and a record always goes on where the
//! one before it ended. What cannot be a write that was cut off ([`end`]) is damage, and is left as it is.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
};

mod end;
mod old;
mod record;

pub(crate) use record::Change;

use crate::{
    Event, Rev,
    files::{Files, OneFile, whole, write_new},
    trouble::Trouble,
};

pub(crate) const NAME: &str = "skiff.log";
pub(crate) const NEW: &str = "skiff.log.new";
const MAGIC: &[u8; 16] = b"skiff log 2\n\0\0\0\0";
/// Magic, revision, random number, checksum of these.
const HEAD_BYTES: usize = 16 + 8 + 8 + 4;
/// Written and taken back to see whether a disk has room again.
const PROBE: &[u8] = &[0; 4096];

/// The log that is written to.
pub(crate) struct Log {
    files: Arc<dyn Files>,
    file: Arc<dyn OneFile>,
    /// What checksums of records begin with.
    seed: u32,
    /// What the last record came to.
    rev: Rev,
    end: u64,
    /// Something may stand behind `end`, which must go before anything is written there.
    loose: bool,
    record: Vec<u8>,
}

/// What a log has to tell beyond a revision.
#[derive(Debug)]
pub(crate) struct Told {
    pub changes: Vec<Change>,
    /// The newest revision.
    pub rev: Rev,
    pub records: usize,
    /// What stands behind the last record, and was never acknowledged.
    pub loose_bytes: usize,
}

/// Where something is wrong, and what.
#[derive(Debug)]
pub(crate) struct Damage {
    pub at: Option<usize>,
    pub why: String,
}

/// A log as it was found; nothing was changed yet.
pub(crate) struct Found {
    file: Arc<dyn OneFile>,
    /// `None`: it is of an older format, and can only be told.
    going_on: Option<GoingOn>,
}

struct GoingOn {
    seed: u32,
    end: usize,
    /// Where the last record begins, and its bytes.
    last: Option<(usize, Vec<u8>)>,
}

impl Log {
    /// An empty log that goes on from `rev`, which the tree holds durably, in place of the one there is.
    ///
    /// # Errors
    /// The log there was is as it was, unless a sync failed.
    pub fn create(files: Arc<dyn Files>, rev: Rev) -> Result<Self, Trouble> {
        let head = head(rev, RandomState::new().hash_one(rev));
        write_new(&*files, NEW, &head).map_err(|error| Trouble::unwritten("making a new log", &error))?;
        let file = files.open(NEW).map_err(|error| Trouble::unwritten("opening the new log", &error))?;
        files.rename(NEW, NAME).map_err(|error| Trouble::unwritten("putting the new log in place", &error))?;
        files.sync().map_err(|error| Trouble::ended("syncing the directory", &error))?;
        Ok(Self { files, file, seed: seed(&head), rev, end: HEAD_BYTES as u64, loose: false, record: Vec::new() })
    }

    /// What the log in `file` tells beyond `rev`, which the tree has come to.
    ///
    /// # Errors
    /// It is damaged, or does not belong to a tree that has come to `rev`.
    pub fn read(file: Arc<dyn OneFile>, rev: Rev) -> Result<(Found, Told), Damage> {
        let bytes = whole(&*file).map_err(|error| Damage::of(error.to_string()))?;
        if bytes.starts_with(old::MAGIC) {
            let told = old::read(&bytes, rev)?;
            return Ok((Found { file, going_on: None }, told));
        }
        let base = base(&bytes)?;
        if base > rev {
            return Err(Damage::of(format!(
                "it begins at revision {base}, but the tree is of revision {rev}: one of them is of another time"
            )));
        }
        let (going_on, told) = follow(&bytes, base, rev)?;
        if told.rev < rev {
            return Err(Damage::of(format!("it ends at revision {}, but the tree is of revision {rev}: its end is missing", told.rev)));
        }
        Ok((Found { file, going_on: Some(going_on) }, told))
    }

    /// Makes a commit durable; blocks until it is so.
    ///
    /// # Errors
    /// Which may leave the log as it was, to be tried again.
    pub fn append(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), Trouble> {
        self.cut()?;
        let mut record = std::mem::take(&mut self.record);
        let encoded = record::encode(&mut record, self.seed, batches, deadlines);
        let done = match encoded {
            Ok(Some(newest)) => self.write(&record, newest),
            Ok(None) => Ok(()),
            Err(error) => Err(Trouble::unwritten("encoding a commit", &error)),
        };
        self.record = record;
        // One large commit does not hold its memory for ever.
        self.record.shrink_to(1 << 20);
        done
    }

    fn write(&mut self, record: &[u8], newest: Rev) -> Result<(), Trouble> {
        self.loose = true;
        if let Err(error) = self.file.write(self.end, record) {
            // Whole or in part, it must not be there when we say that it is not.
            return Err(match self.cut() {
                Ok(()) => Trouble::unwritten("writing to the log", &error),
                Err(Trouble::Unwritten(why)) => Trouble::Open(format!("writing to the log: {error}; and {why}")),
                Err(other) => other,
            });
        }
        self.file.sync().map_err(|error| Trouble::ended("syncing the log", &error))?;
        self.loose = false;
        self.end += record.len() as u64;
        self.rev = newest;
        Ok(())
    }

    /// Takes away what a failed write left behind the end.
    fn cut(&mut self) -> Result<(), Trouble> {
        if self.loose {
            self.file.set_size(self.end).map_err(|error| Trouble::unwritten("cutting the log back to its last good end", &error))?;
            self.file.sync().map_err(|error| Trouble::ended("syncing the log", &error))?;
            self.loose = false;
        }
        Ok(())
    }

    /// Whether something could be written now.
    pub fn probe(&mut self) -> Result<(), Trouble> {
        self.cut()?;
        self.loose = true;
        let written = self.file.write(self.end, PROBE).map_err(|error| Trouble::unwritten("writing to the log", &error));
        self.cut()?;
        written
    }

    /// Forgets everything, which the tree has, durably: a new log in place of this one. Where that fails, this one goes on.
    pub fn renew(&mut self) -> Result<(), Trouble> {
        *self = Self::create(self.files.clone(), self.rev)?;
        Ok(())
    }

    pub fn len(&self) -> u64 {
        self.end
    }

    pub fn is_empty(&self) -> bool {
        self.end == HEAD_BYTES as u64
    }
}

impl Found {
    /// The log, to be written on. What was never acknowledged is cut off, and what it tells is durable from here on: a sync that failed in an
    /// earlier life may have left a last record that can be read and is not on the disk. `None`: it is of an older format.
    pub fn go_on(self, files: Arc<dyn Files>, rev: Rev) -> io::Result<Option<Log>> {
        let Some(GoingOn { seed, end, last }) = self.going_on else { return Ok(None) };
        if self.file.size()? > end as u64 {
            self.file.set_size(end as u64)?;
        }
        if let Some((at, record)) = last {
            self.file.write(at as u64, &record)?;
        }
        self.file.sync()?;
        Ok(Some(Log { files, file: self.file, seed, rev, end: end as u64, loose: false, record: Vec::new() }))
    }
}

impl Told {
    pub fn none(rev: Rev) -> Self {
        Self { changes: Vec::new(), rev, records: 0, loose_bytes: 0 }
    }
}

impl Damage {
    fn of(why: String) -> Self {
        Self { at: None, why }
    }

    fn at(at: usize, why: &str) -> Self {
        Self { at: Some(at), why: why.to_owned() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => write!(f, "at byte {at}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

/// Whether this is a log that nothing was ever written to: it begins at revision 0 and ends there.
pub(crate) fn is_unused(bytes: &[u8]) -> bool {
    bytes.len() == HEAD_BYTES && base(bytes).is_ok_and(|base| base == 0)
}

fn head(rev: Rev, random: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&rev.to_le_bytes());
    head.extend_from_slice(&random.to_le_bytes());
    let sum = crc32fast::hash(&head);
    head.extend_from_slice(&sum.to_le_bytes());
    head
}

fn seed(head: &[u8]) -> u32 {
    record::crc(0, &head[..HEAD_BYTES])
}

fn base(bytes: &[u8]) -> Result<Rev, Damage> {
    if !bytes.starts_with(MAGIC) {
        return Err(Damage::at(0, "it does not begin as a log does"));
    }
    let head = bytes.get(..HEAD_BYTES).ok_or_else(|| Damage::at(bytes.len(), "it ends within its head"))?;
    if crc32fast::hash(&head[..HEAD_BYTES - 4]) != record::four(head, HEAD_BYTES - 4) {
        return Err(Damage::at(0, "the checksum of its head does not hold"));
    }
    Ok(record::eight(head, 16))
}

/// All whole records from `base` on. What they tell up to `rev` is known.
fn follow(bytes: &[u8], base: Rev, rev: Rev) -> Result<(GoingOn, Told), Damage> {
    let (mut going_on, mut told) = (GoingOn { seed: seed(bytes), end: HEAD_BYTES, last: None }, Told::none(base));
    while let Some(record) = record::whole(&bytes[going_on.end..], going_on.seed).filter(|record| record.before == told.rev) {
        let at = going_on.end;
        let changes = record::changes(record.body).ok_or_else(|| Damage::at(at, "a record of it cannot be read"))?;
        told.rev = changes.last().map_or(told.rev, |change| change.rev);
        told.changes.extend(changes.into_iter().filter(|change| change.rev > rev));
        told.records += 1;
        going_on.end = at + record.len;
        going_on.last = Some((at, bytes[at..going_on.end].to_vec()));
    }
    if let end::End::Damaged(why) = end::look(bytes, going_on.end, going_on.seed, told.rev) {
        return Err(Damage::at(going_on.end, &why));
    }
    told.loose_bytes = bytes.len() - going_on.end;
    Ok((going_on, told))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;
    use crate::{
        Entry,
        files::{Dir, read},
    };

    fn put(key: &str, value: &'static str, rev: Rev) -> Arc<Vec<Event>> {
        let entry = Entry { key: key.into(), value: Bytes::from_static(value.as_bytes()), rev };
        Arc::new(vec![Event::Put { entry, prev: None }])
    }

    fn files(dir: &Path) -> Arc<dyn Files> {
        Arc::new(Dir::open(dir).unwrap())
    }

    /// Keys, with the revision of what was put there.
    type Changes = Vec<(String, Option<Rev>)>;

    fn told(files: &Arc<dyn Files>, rev: Rev) -> Result<(Changes, Rev), Damage> {
        let (_, told) = Log::read(files.open(NAME).unwrap(), rev)?;
        Ok((told.changes.iter().map(|c| (c.key.to_string(), c.put.as_ref().map(|(e, _)| e.rev))).collect(), told.rev))
    }

    /// Three records from revision 3 to 7; where each ends.
    fn three(files: &Arc<dyn Files>) -> [u64; 3] {
        let mut log = Log::create(files.clone(), 3).unwrap();
        log.append(&[put("/a", "1", 4), put("/b", "2", 5)], &HashMap::new()).unwrap();
        let first = log.len();
        let gone = Event::Delete { key: "/a".into(), rev: 6, prev: None };
        log.append(&[Arc::new(vec![gone])], &HashMap::new()).unwrap();
        let second = log.len();
        log.append(&[put("/c", "3", 7)], &HashMap::new()).unwrap();
        [first, second, log.len()]
    }

    #[test]
    fn whole_records_are_told_and_a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let [_, second, third] = three(&files);
        let all = [("/a", Some(4)), ("/b", Some(5)), ("/a", None), ("/c", Some(7))].map(|(k, r)| (k.to_owned(), r));
        assert_eq!(told(&files, 3).unwrap(), (all.to_vec(), 7));
        assert_eq!(told(&files, 5).unwrap(), (all[2..].to_vec(), 7), "the tree has the first record already");
        assert_eq!(told(&files, 7).unwrap(), (Vec::new(), 7));
        assert!(told(&files, 2).unwrap_err().why.contains("of another time"), "revision 3 is nowhere");
        assert!(told(&files, 8).unwrap_err().why.contains("its end is missing"));
        let file = files.open(NAME).unwrap();
        for torn in (second + 1..third).rev() {
            file.set_size(torn).unwrap();
            assert_eq!(told(&files, 3).unwrap(), (all[..3].to_vec(), 6), "{torn}");
        }
        let (found, told) = Log::read(file.clone(), 3).unwrap();
        let mut log = found.go_on(files.clone(), told.rev).unwrap().unwrap();
        assert_eq!(file.size().unwrap(), second);
        log.append(&[put("/d", "4", 7)], &HashMap::new()).unwrap();
        assert_eq!(self::told(&files, 3).unwrap().1, 7);
    }

    #[test]
    fn each_flipped_bit_is_damage_and_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        three(&files);
        let good = read(&*files, NAME).unwrap();
        let file = files.open(NAME).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            file.write(0, &bad).unwrap();
            assert!(told(&files, 3).is_err(), "bit {bit}");
            assert_eq!(read(&*files, NAME).unwrap(), bad);
        }
    }

    #[test]
    fn sectors_that_never_came_are_a_torn_end_only_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let long: &'static str = Box::leak("x".repeat(3000).into_boxed_str());
        let mut log = Log::create(files.clone(), 0).unwrap();
        let mut ends = vec![log.len()];
        for rev in 1..=2 {
            log.append(&[put("/a", long, rev)], &HashMap::new()).unwrap();
            ends.push(log.len());
        }
        let good = read(&*files, NAME).unwrap();
        let file = files.open(NAME).unwrap();
        let sectors = good.len().div_ceil(512);
        for gone in 0..sectors {
            let at = |sector: usize| (sector * 512).min(good.len());
            let mut bad = good.clone();
            // The part of a sector that was there before the last write is there still.
            let (from, to) = (at(gone).max(usize::try_from(ends[1]).unwrap()), at(gone + 1));
            if from < to {
                bad[from..to].fill(0);
                file.write(0, &bad).unwrap();
                assert_eq!(told(&files, 0).unwrap().1, 1, "sector {gone}");
            }
            let mut bad = good.clone();
            bad[at(gone)..at(gone + 1)].fill(0);
            file.write(0, &bad).unwrap();
            if at(gone) < usize::try_from(ends[1]).unwrap() {
                assert!(told(&files, 0).is_err(), "sector {gone} of an acknowledged record");
            }
        }
    }

    #[test]
    fn a_record_of_another_log_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let mut log = Log::create(files.clone(), 0).unwrap();
        log.append(&[put("/a", "1", 1)], &HashMap::new()).unwrap();
        let one = read(&*files, NAME).unwrap();
        log.renew().unwrap();
        assert_eq!(told(&files, 1).unwrap(), (Vec::new(), 1));
        let file = files.open(NAME).unwrap();
        file.write(log.len(), &one[HEAD_BYTES..]).unwrap();
        assert!(told(&files, 1).is_err(), "neither as a record nor as nothing");
    }

    #[test]
    fn the_older_format_is_read_and_its_damage_seen() {
        let record = |before: u64, key: &str| {
            let mut body = before.to_le_bytes().to_vec();
            body.push(2);
            body.extend_from_slice(&(before + 1).to_le_bytes());
            body.extend_from_slice(&u32::try_from(key.len()).unwrap().to_le_bytes());
            body.extend_from_slice(key.as_bytes());
            let mut record = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
            record.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
            [record, body].concat()
        };
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let mut log = old::MAGIC.to_vec();
        for (before, key) in [(3, "/a"), (4, "/b"), (5, "/c")] {
            log.extend(record(before, key));
        }
        files.create(NAME).unwrap().write(0, &log).unwrap();
        let all: Changes = ["/a", "/b", "/c"].map(|key| (key.to_owned(), None)).to_vec();
        assert_eq!(told(&files, 3).unwrap(), (all.clone(), 6));
        assert_eq!(told(&files, 4).unwrap(), (all[1..].to_vec(), 6));
        let file = files.open(NAME).unwrap();
        file.set_size(log.len() as u64 - 1).unwrap();
        assert_eq!(told(&files, 3).unwrap(), (all[..2].to_vec(), 5), "a torn end");
        file.write(0, &log).unwrap();
        file.write(60, &[log[60] ^ 1]).unwrap();
        assert!(told(&files, 3).unwrap_err().why.contains("good ones stand behind it"));
    }
}
