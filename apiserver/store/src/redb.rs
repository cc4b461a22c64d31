//! The embedded back end: memory is the database, its durability are a log that each commit is written to, and a redb file that takes
//! over what the log holds once that is much: a tree of pages costs many writes where few keys change.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition};

use crate::{
    Entry, Error, Event, Rev,
    local::{Disk, Loaded, Local},
    log::{Log, Plain, Told},
};

/// Key -> revision (8 bytes LE), deadline (Unix seconds, 8 bytes LE, 0 lasts), value.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `format` -> [`FORMAT`]; `revision` -> the newest revision.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// 1 had no log.
const FORMAT: u64 = 2;
const FILE: &str = "skiff.redb";
const LOG: &str = "skiff.log";
/// A log of this size is taken over into the tree.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// The index holds everything already; redb's own cache only has to hold the pages of a commit.
const CACHE_BYTES: usize = 2 << 20;
const MAGIC: &[u8; 9] = b"redb\x1A\x0A\xA9\x0D\x0A";
const HEAD_BYTES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

struct RedbDisk {
    database: Database,
    log: Log,
    /// What the log holds and the tree does not, by key: `None` is gone.
    ahead: BTreeMap<Arc<str>, Option<(Entry, u64)>>,
    rev: Rev,
    log_bytes_max: u64,
    /// The log's size at which it is taken over.
    full: u64,
}

/// Opens the store in `dir`, which is made where it does not exist.
///
/// # Errors
/// [`Error::Unusable`] where the directory holds somebody else's data, a damaged file, or another skiff has it open. It is then as it was.
pub fn open(dir: &Path) -> Result<Local, Error> {
    let file = dir.join(FILE);
    let fresh = check(dir, &file)?;
    let opened = if fresh == Fresh::Yes { builder().create(&file) } else { builder().open(&file) };
    let opened = opened.map_err(|error| explain(&file, error))?;
    start(opened, dir, fresh, LOG_BYTES_MAX, Plain::open)
}

/// As [`open`], with something between us and the files, which `backend` makes from their paths, and a log of this size.
pub(crate) fn open_through<B: StorageBackend>(
    dir: &Path,
    log_bytes_max: u64,
    mut backend: impl FnMut(&Path) -> io::Result<B>,
) -> Result<Local, Error> {
    let file = dir.join(FILE);
    let fresh = check(dir, &file)?;
    let through = backend(&file).map_err(|error| unusable(&file, &error))?;
    let opened = builder().create_with_backend(through).map_err(|error| explain(&file, error))?;
    start(opened, dir, fresh, log_bytes_max, backend)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn start<B: StorageBackend>(
    database: Database,
    dir: &Path,
    fresh: Fresh,
    log_bytes_max: u64,
    backend: impl FnOnce(&Path) -> io::Result<B>,
) -> Result<Local, Error> {
    let (file, path) = (dir.join(FILE), dir.join(LOG));
    let (format, mut loaded) = match fresh {
        Fresh::Yes => (None, Loaded::default()),
        Fresh::No => load(&database, &file)?,
    };
    if format == Some(FORMAT) && !path.exists() {
        return Err(damaged(&path, &"it is missing"));
    }
    let through = Box::new(backend(&path).map_err(|error| unusable(&path, &error))?);
    let (log, told) = if format == Some(FORMAT) {
        Log::open(through, loaded.rev).map_err(|error| damaged(&path, &error))?
    } else {
        let log = Log::create(through).map_err(|error| unusable(&path, &error))?;
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| unusable(dir, &e))?;
        // From here on the log is a part of the store.
        found(&database).map_err(|e| damaged(&file, &e))?;
        (log, Told { changes: Vec::new(), rev: loaded.rev })
    };
    let ahead = take_in(&mut loaded, told);
    let disk = RedbDisk { database, log, ahead, rev: loaded.rev, log_bytes_max, full: log_bytes_max };
    Ok(Local::start(Box::new(disk), loaded))
}

/// Brings what stood in the tree up to what the log tells. Returns the difference.
fn take_in(loaded: &mut Loaded, told: Told) -> BTreeMap<Arc<str>, Option<(Entry, u64)>> {
    let ahead: BTreeMap<_, _> = told.changes.into_iter().map(|change| (change.key, change.put)).collect();
    loaded.rev = told.rev;
    if ahead.is_empty() {
        return ahead;
    }
    loaded.entries.retain(|entry| !ahead.contains_key(&entry.key));
    loaded.deadlines.retain(|key, _| !ahead.contains_key(key));
    for (entry, deadline) in ahead.values().flatten() {
        loaded.entries.push(entry.clone());
        if *deadline != 0 {
            loaded.deadlines.insert(entry.key.clone(), *deadline);
        }
    }
    ahead
}

impl Disk for RedbDisk {
    fn commit(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), Error> {
        self.log.append(batches, deadlines).map_err(|error| Error::Unavailable(format!("writing to disk failed: {error}")))?;
        for event in batches.iter().flat_map(|batch| batch.iter()) {
            self.rev = event.rev();
            let put = match event {
                Event::Put { entry, .. } => Some((entry.clone(), deadlines.get(&entry.key).copied().unwrap_or(0))),
                Event::Delete { .. } => None,
            };
            self.ahead.insert(event.key().clone(), put);
        }
        if self.log.len() > self.full {
            self.take_over();
        }
        Ok(())
    }

    fn close(&mut self) {
        self.take_over();
    }
}

impl RedbDisk {
    /// The tree takes over what the log holds. Where that fails the log has it still, and goes on.
    fn take_over(&mut self) {
        if self.ahead.is_empty() {
            return;
        }
        match self.write() {
            Ok(()) => self.full = self.log_bytes_max,
            Err(error) => {
                tracing::error!(%error, "the log could not be taken over into the tree; trying again when it has grown");
                self.full = self.log.len() + self.log_bytes_max;
            }
        }
    }

    fn write(&mut self) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let (mut objects, mut row) = (txn.open_table(OBJECTS)?, Vec::new());
            // In key order: each page is written once.
            for (key, put) in &self.ahead {
                match put {
                    Some((entry, deadline)) => {
                        encode(&mut row, entry, *deadline);
                        objects.insert(&**key, row.as_slice())?;
                    }
                    None => drop(objects.remove(&**key)?),
                }
            }
            txn.open_table(META)?.insert("revision", self.rev)?;
        }
        txn.commit()?;
        self.log.clear()?;
        self.ahead.clear();
        Ok(())
    }
}

/// Whether there is nothing yet; an error where the directory may not be used.
fn check(dir: &Path, file: &Path) -> Result<Fresh, Error> {
    fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
    if file.exists() {
        let mut head = [0; HEAD_BYTES];
        let read = fs::File::open(file).and_then(|mut f| f.read_exact(&mut head));
        return match read {
            Ok(()) if head.starts_with(MAGIC) => Ok(Fresh::No),
            Ok(()) => Err(damaged(file, &"it does not begin as a redb file does")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged(file, &"it is too short")),
            Err(error) => Err(unusable(file, &error)),
        };
    }
    let mut others = fs::read_dir(dir).map_err(|e| unusable(dir, &e))?;
    match others.next() {
        None => Ok(Fresh::Yes),
        Some(_) => Err(Error::Unusable(format!(
            "{} is not empty and holds no skiff store: it was left untouched. Name another --data-dir, or empty it if nothing in it is needed.",
            dir.display()
        ))),
    }
}

fn found(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(META)?.insert("format", FORMAT)?;
    txn.open_table(OBJECTS)?;
    Ok(txn.commit()?)
}

/// The format, and what stands in the tree.
fn load(database: &Database, file: &Path) -> Result<(Option<u64>, Loaded), Error> {
    let (format, loaded) = read(database).map_err(|error| damaged(file, &error))?;
    match (format, loaded) {
        (Some(1..=FORMAT), Some(loaded)) => Ok((format, loaded)),
        (Some(1..=FORMAT), None) => Err(damaged(file, &"an object in it is cut short")),
        (Some(other), _) => Err(Error::Unusable(format!(
            "{} has store format {other}, this skiff knows {FORMAT}: it was left untouched. Use the skiff that wrote it, or name another --data-dir.",
            file.display()
        ))),
        (None, _) => Err(damaged(file, &"it is a redb file, but not skiff's")),
    }
}

fn read(database: &Database) -> Result<(Option<u64>, Option<Loaded>), redb::Error> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let format = meta.get("format")?.map(|v| v.value());
    let rev: Rev = meta.get("revision")?.map_or(0, |v| v.value());
    let mut loaded = Loaded { rev, ..Loaded::default() };
    if matches!(format, Some(1..=FORMAT)) {
        for row in txn.open_table(OBJECTS)?.iter()? {
            let (key, value) = row?;
            let Some((entry, deadline)) = decode(key.value(), value.value()) else { return Ok((format, None)) };
            if deadline != 0 {
                loaded.deadlines.insert(entry.key.clone(), deadline);
            }
            loaded.entries.push(entry);
        }
    }
    Ok((format, Some(loaded)))
}

fn encode(out: &mut Vec<u8>, entry: &Entry, deadline: u64) {
    out.clear();
    out.extend_from_slice(&entry.rev.to_le_bytes());
    out.extend_from_slice(&deadline.to_le_bytes());
    out.extend_from_slice(&entry.value);
}

fn decode(key: &str, bytes: &[u8]) -> Option<(Entry, u64)> {
    let (rev, rest) = bytes.split_first_chunk::<8>()?;
    let (deadline, value) = rest.split_first_chunk::<8>()?;
    let entry = Entry { key: Arc::from(key), value: Bytes::copy_from_slice(value), rev: u64::from_le_bytes(*rev) };
    Some((entry, u64::from_le_bytes(*deadline)))
}

fn explain(file: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Unusable(format!(
            "{} is open in another process: is another skiff running on this --data-dir? Stop it with `skiff down`.",
            file.display()
        )),
        DatabaseError::Storage(StorageError::Io(error)) => unusable(file, &error),
        other => damaged(file, &other),
    }
}

fn damaged(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Unusable(format!(
        "{} cannot be read as a skiff store ({why}): it was left untouched. Put a backup in its place, or move it away to start with an empty cluster.",
        file.display()
    ))
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Unusable(format!("{}: {error}", path.display()))
}
