//! The embedded back end: memory is the database, a redb file is its durability.

use std::{
    collections::HashMap,
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
};

/// Key -> revision (8 bytes LE), deadline (Unix seconds, 8 bytes LE, 0 lasts), value.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `format` -> [`FORMAT`]; `revision` -> the newest revision.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const FILE: &str = "skiff.redb";
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
}

/// Opens the store in `dir`, which is made where it does not exist.
///
/// # Errors
/// [`Error::Unusable`] where the directory holds somebody else's data, a damaged file, or another skiff has it open. It is then as it was.
pub fn open(dir: &Path) -> Result<Local, Error> {
    let file = dir.join(FILE);
    let fresh = check(dir, &file)?;
    let opened = if fresh == Fresh::Yes { builder().create(&file) } else { builder().open(&file) };
    start(opened.map_err(|error| explain(&file, error))?, dir, fresh)
}

/// As [`open`], with something between redb and the file, which `backend` makes from the file's path.
pub(crate) fn open_through<B: StorageBackend>(dir: &Path, backend: impl FnOnce(&Path) -> io::Result<B>) -> Result<Local, Error> {
    let file = dir.join(FILE);
    let fresh = check(dir, &file)?;
    let backend = backend(&file).map_err(|error| unusable(&file, &error))?;
    let opened = builder().create_with_backend(backend);
    start(opened.map_err(|error| explain(&file, error))?, dir, fresh)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn start(database: Database, dir: &Path, fresh: Fresh) -> Result<Local, Error> {
    let file = dir.join(FILE);
    if fresh == Fresh::Yes {
        found(&database).map_err(|e| damaged(&file, &e))?;
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| unusable(dir, &e))?;
    }
    let loaded = load(&database, &file)?;
    Ok(Local::start(Box::new(RedbDisk { database }), loaded))
}

impl Disk for RedbDisk {
    fn commit(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), Error> {
        self.write(batches, deadlines).map_err(|error| Error::Unavailable(format!("writing to disk failed: {error}")))
    }
}

impl RedbDisk {
    fn write(&self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), redb::Error> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut objects = txn.open_table(OBJECTS)?;
            let mut newest = None;
            for event in batches.iter().flat_map(|b| b.iter()) {
                newest = Some(event.rev());
                match event {
                    Event::Put { entry, .. } => {
                        let deadline = deadlines.get(&entry.key).copied().unwrap_or(0);
                        objects.insert(&*entry.key, encode(entry, deadline).as_slice())?;
                    }
                    Event::Delete { key, .. } => drop(objects.remove(&**key)?),
                }
            }
            if let Some(rev) = newest {
                txn.open_table(META)?.insert("revision", rev)?;
            }
        }
        Ok(txn.commit()?)
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

fn load(database: &Database, file: &Path) -> Result<Loaded, Error> {
    let (format, loaded) = read(database).map_err(|error| damaged(file, &error))?;
    match (format, loaded) {
        (Some(FORMAT), Some(loaded)) => Ok(loaded),
        (Some(FORMAT), None) => Err(damaged(file, &"an object in it is cut short")),
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
    if format == Some(FORMAT) {
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

fn encode(entry: &Entry, deadline: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + entry.value.len());
    out.extend_from_slice(&entry.rev.to_le_bytes());
    out.extend_from_slice(&deadline.to_le_bytes());
    out.extend_from_slice(&entry.value);
    out
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
