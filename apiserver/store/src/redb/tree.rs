//! What the log holds -> a redb file, now and then, in key order. It may fail and be tried again; a sync may not.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError};

use super::{
    backend::{Backend, Door},
    damaged, in_use, unusable,
};
use crate::{
    Entry, Error, Rev,
    files::{Files, OneFile},
    local::Loaded,
    trouble::Trouble,
};

/// Key -> revision (8 bytes LE), deadline (Unix seconds, 8 bytes LE, 0 lasts), value.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `format` -> [`FORMAT`]; `revision` -> the newest revision.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// 1 had no log, 2 one that could not tell damage from a torn end. Both are read.
pub(super) const FORMAT: u64 = 3;
pub(super) const NAME: &str = "skiff.redb";
/// Until there is something in it.
pub(super) const NEW: &str = "skiff.redb.new";
/// The index holds everything already; redb's own cache only has to hold the pages of a commit.
const CACHE_BYTES_MAX: usize = 2 << 20;
const MAGIC: &[u8; 9] = b"redb\x1A\x0A\xA9\x0D\x0A";
const HEAD_BYTES: usize = 16;

/// What a commit brings, by key: `None` is gone.
pub(super) type Ahead = BTreeMap<Arc<str>, Option<(Entry, u64)>>;

pub(super) struct Tree {
    files: Arc<dyn Files>,
    file: Arc<dyn OneFile>,
    /// `None` after a failed write, until it is opened again: redb does nothing more then.
    open: Option<Open>,
    /// The revision that is in it, durably.
    rev: Rev,
}

struct Open {
    database: Database,
    door: Arc<Door>,
}

/// What was found in a file.
pub(super) struct Contents {
    /// `None`: there is nothing in it at all. Whoever made it was interrupted; only older skiffs left such a file in place.
    pub format: Option<u64>,
    pub loaded: Loaded,
}

impl Tree {
    /// A new file with nothing in it, under its name once that is so.
    pub fn create(files: Arc<dyn Files>) -> Result<Self, Error> {
        let (new, path) = (files.path(NEW), files.path(NAME));
        let file = files.create(NEW).map_err(|error| unusable(&new, &error))?;
        if !file.try_lock().map_err(|error| unusable(&new, &error))? {
            return Err(in_use(&new));
        }
        let (backend, door) = Backend::open(file.clone());
        let database = builder().create_with_backend(backend).map_err(|error| explain(&new, error))?;
        let mut tree = Self { files, file, open: Some(Open { database, door }), rev: 0 };
        tree.commit(&Ahead::new(), 0).map_err(|trouble| Error::Unusable(format!("{}: {trouble:?}", new.display())))?;
        tree.files.rename(NEW, NAME).and_then(|()| tree.files.sync()).map_err(|error| unusable(&path, &error))?;
        Ok(tree)
    }

    /// Whether redb had not yet put its sign there when it was interrupted: older skiffs made the file in place.
    pub fn is_blank(file: &dyn OneFile) -> std::io::Result<bool> {
        let mut head = [0; HEAD_BYTES];
        let there = usize::try_from(file.size()?).unwrap_or(HEAD_BYTES).min(HEAD_BYTES);
        file.read(0, &mut head[..there])?;
        Ok(head == [0; HEAD_BYTES])
    }

    /// What there is, checked to the last page. The file is not touched until [`Tree::let_through`].
    ///
    /// # Errors
    /// It is damaged, of a format that we do not know, or open in another process.
    pub fn open(files: Arc<dyn Files>, file: Arc<dyn OneFile>) -> Result<(Self, Contents), Error> {
        let path = files.path(NAME);
        let mut head = [0; HEAD_BYTES];
        match file.read(0, &mut head) {
            Ok(()) if head.starts_with(MAGIC) => {}
            Ok(()) => return Err(damaged(&path, &"it does not begin as a redb file does")),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(damaged(&path, &"it is too short")),
            Err(error) => return Err(unusable(&path, &error)),
        }
        // redb panics on some damage. What is left of it then holds nothing but memory of its own.
        let opened = catch_unwind(AssertUnwindSafe(|| open_checked(&path, &file)));
        let (open, contents) = opened.unwrap_or_else(|_| Err(damaged(&path, &"redb gave up on it")))?;
        let rev = contents.loaded.rev;
        Ok((Self { files, file, open: Some(open), rev }, contents))
    }

    /// The file is good: from here on it is written to.
    pub fn let_through(&self) -> Result<(), Error> {
        let door = self.open.as_ref().map(|open| &open.door);
        door.map_or(Ok(()), |door| door.let_through()).map_err(|error| unusable(&self.files.path(NAME), &error))
    }

    /// The size of its file; 0 where that cannot be told now.
    pub fn bytes(&self) -> u64 {
        self.file.size().unwrap_or_default()
    }

    /// Brings the tree to `rev`; blocks until that is durable.
    ///
    /// # Errors
    /// The tree is as it was, or as it was to be, which is the same once all of `ahead` is brought again.
    pub fn commit(&mut self, ahead: &Ahead, rev: Rev) -> Result<(), Trouble> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open_again(rev)?,
        };
        let done = catch_unwind(AssertUnwindSafe(|| write(&open.database, ahead, rev)));
        if open.door.sync_failed() {
            return Err(Trouble::Ended(format!("syncing {} failed", self.files.path(NAME).display())));
        }
        match done {
            Ok(Ok(())) => {
                self.open = Some(open);
                self.rev = rev;
                Ok(())
            }
            Ok(Err(error)) => Err(Trouble::Unwritten(format!("{}: {error}", self.files.path(NAME).display()))),
            Err(_) => {
                // Its destructor would find the same state.
                std::mem::forget(open);
                Err(Trouble::Ended(format!("redb gave up on {}", self.files.path(NAME).display())))
            }
        }
    }

    /// After a failed write, before which nothing was lost.
    fn open_again(&self, wanted: Rev) -> Result<Open, Trouble> {
        let again = || -> Result<(Open, Contents), redb::Error> {
            let (backend, door) = Backend::open(self.file.clone());
            let database = builder().create_with_backend(backend)?;
            let contents = read_meta(&database)?;
            Ok((Open { database, door }, contents))
        };
        let path = self.files.path(NAME);
        match catch_unwind(AssertUnwindSafe(again)) {
            Ok(Ok((open, contents))) if (self.rev..=wanted).contains(&contents.loaded.rev) => Ok(open),
            Ok(Ok((_, contents))) => {
                Err(Trouble::Ended(format!("{} fell from revision {} to {}", path.display(), self.rev, contents.loaded.rev)))
            }
            Ok(Err(error)) => Err(Trouble::Unwritten(format!("{}: {error}", path.display()))),
            Err(_) => Err(Trouble::Ended(format!("redb gave up on {}", path.display()))),
        }
    }

    /// Closes it without another word: what is on the disk is not known.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            std::mem::forget(open);
        }
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES_MAX);
    builder
}

fn open_checked(path: &std::path::Path, file: &Arc<dyn OneFile>) -> Result<(Open, Contents), Error> {
    let (backend, door) = Backend::hold(file.clone()).map_err(|error| unusable(path, &error))?;
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = repaired.clone();
    let mut builder = builder();
    builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
    let mut database = builder.create_with_backend(backend).map_err(|error| explain(path, error))?;
    // A file that was not closed in order is checked while it is opened.
    if !repaired.load(Ordering::Relaxed) && !database.check_integrity().map_err(|error| explain(path, error))? {
        return Err(damaged(path, &"its checksums do not hold"));
    }
    let contents = load(&database, path)?;
    Ok((Open { database, door }, contents))
}

/// The format, and what stands in the tree.
fn load(database: &Database, path: &std::path::Path) -> Result<Contents, Error> {
    let mut contents = read_meta(database).map_err(|error| damaged(path, &error))?;
    match contents.format {
        Some(1..=FORMAT) => {}
        Some(other) => {
            return Err(Error::Unusable(format!(
                "{} has store format {other}, this skiff knows {FORMAT}: it was left untouched. Use the skiff that wrote it, or name another --data-dir.",
                path.display()
            )));
        }
        None if is_empty(database).map_err(|error| damaged(path, &error))? => return Ok(contents),
        None => return Err(damaged(path, &"it is a redb file, but not skiff's")),
    }
    match read_objects(database, &mut contents.loaded) {
        Ok(true) => Ok(contents),
        Ok(false) => Err(damaged(path, &"an object in it is cut short")),
        Err(error) => Err(damaged(path, &error)),
    }
}

fn is_empty(database: &Database) -> Result<bool, redb::Error> {
    Ok(database.begin_read()?.list_tables()?.next().is_none())
}

fn read_meta(database: &Database) -> Result<Contents, redb::Error> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Contents { format: None, loaded: Loaded::default() }),
        Err(error) => return Err(error.into()),
    };
    let format = meta.get("format")?.map(|v| v.value());
    let rev: Rev = meta.get("revision")?.map_or(0, |v| v.value());
    Ok(Contents { format, loaded: Loaded { rev, ..Loaded::default() } })
}

fn read_objects(database: &Database, loaded: &mut Loaded) -> Result<bool, redb::Error> {
    for row in database.begin_read()?.open_table(OBJECTS)?.iter()? {
        let (key, value) = row?;
        let Some((entry, deadline)) = decode(key.value(), value.value()) else { return Ok(false) };
        if deadline != 0 {
            loaded.deadlines.insert(entry.key.clone(), deadline);
        }
        loaded.entries.push(entry);
    }
    Ok(true)
}

fn write(database: &Database, ahead: &Ahead, rev: Rev) -> Result<(), redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    {
        let (mut objects, mut row) = (txn.open_table(OBJECTS)?, Vec::new());
        // In key order: each page is written once.
        for (key, put) in ahead {
            match put {
                Some((entry, deadline)) => {
                    encode(&mut row, entry, *deadline);
                    objects.insert(&**key, row.as_slice())?;
                }
                None => drop(objects.remove(&**key)?),
            }
        }
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", rev)?;
    }
    Ok(txn.commit()?)
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
    let entry = Entry { key: Arc::from(key), value: bytes::Bytes::copy_from_slice(value), rev: u64::from_le_bytes(*rev) };
    Some((entry, u64::from_le_bytes(*deadline)))
}

fn explain(path: &std::path::Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::Storage(StorageError::Io(error)) => unusable(path, &error),
        other => damaged(path, &other),
    }
}
