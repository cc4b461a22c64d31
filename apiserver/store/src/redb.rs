//! The embedded back end: memory is the database, its durability are a log that each commit is written to, and a redb file that takes
//! over what the log holds once that is much: a tree of pages costs many writes where few keys change.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

mod backend;
mod tree;

use tree::{Ahead, Tree};

use crate::{
    Error, Event, Rev,
    files::{self, Dir, Files},
    local::{Disk, Loaded, Local},
    log::{self, Damage, Log, Told},
    trouble::Trouble,
};

/// When the log is too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// It is taken over into the tree: at a quarter of the tree's size, but not below this and not above the next. What is taken over costs
    /// whole pages, the more of them the larger the tree is.
    pub take_over_bytes_min: u64,
    pub take_over_bytes_max: u64,
    /// It could not be taken over, again and again: nothing more is written to it until it can.
    pub refuse_bytes: u64,
}

const TAKE_OVER_BYTES_MIN: u64 = 16 << 20;
const TAKE_OVER_BYTES_MAX: u64 = 64 << 20;
const REFUSE_BYTES_MAX: u64 = 256 << 20;
/// How long writes may wait for the tree, where the disk is quick enough for it.
const TAKE_OVER_USUAL: Duration = Duration::from_millis(500);
const BOUNDS: Bounds =
    Bounds { take_over_bytes_min: TAKE_OVER_BYTES_MIN, take_over_bytes_max: TAKE_OVER_BYTES_MAX, refuse_bytes: REFUSE_BYTES_MAX };

impl Bounds {
    /// The log's size at which it is taken over by a tree whose file is of this size.
    fn full(self, tree_bytes: u64) -> u64 {
        (tree_bytes / 4).clamp(self.take_over_bytes_min, self.take_over_bytes_max)
    }
}

struct RedbDisk {
    tree: Tree,
    log: Log,
    /// What the log holds and the tree does not, by key: `None` is gone.
    ahead: Ahead,
    rev: Rev,
    bounds: Bounds,
    /// The log's size at which it is taken over.
    full: u64,
    /// Why it could not be, the last time.
    stuck: Option<String>,
    ended: bool,
}

/// What a directory holds, as `skiff check` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub format: u64,
    pub rev: Rev,
    pub objects: usize,
    pub log_records: usize,
    /// What was being written when the last run was cut off; it was never acknowledged.
    pub loose_bytes: usize,
}

/// What stands on the disk, all of it checked and nothing of it touched.
struct Stored {
    tree: Tree,
    format: u64,
    /// `None`: there is none, as in format 1.
    log: Option<log::Found>,
    told: Told,
    loaded: Loaded,
}

/// Opens the store in `dir`, which is made where it does not exist.
///
/// # Errors
/// [`Error::Unusable`] where the directory holds somebody else's data, a damaged file, or another skiff has it open. It is then as it was.
pub fn open(dir: &Path) -> Result<Local, Error> {
    let files = Dir::open(dir).map_err(|error| unusable(dir, &error))?;
    let (disk, loaded) = open_in(Arc::new(files), BOUNDS)?;
    Ok(Local::start(disk, loaded))
}

/// Reads the store in `dir` as [`open`] does, down to the last checksum, and changes nothing. `None`: it was never used.
///
/// # Errors
/// As of [`open`].
pub fn check(dir: &Path) -> Result<Option<Seen>, Error> {
    let files: Arc<dyn Files> = Arc::new(Dir::read_only(dir));
    let names = files.names().map_err(|error| unusable(dir, &error))?;
    if is_fresh(&*files, &names)? {
        return Ok(None);
    }
    let Some(stored) = read(&files)? else { return Ok(None) };
    let Stored { format, told, loaded, .. } = stored;
    Ok(Some(Seen { format, rev: loaded.rev, objects: loaded.entries.len(), log_records: told.records, loose_bytes: told.loose_bytes }))
}

/// As [`open`], with something of the caller's between us and the disk.
pub(crate) fn open_in(files: Arc<dyn Files>, bounds: Bounds) -> Result<(Box<dyn Disk>, Loaded), Error> {
    let here = files.path("");
    // What an earlier life renamed may be seen and not be durable yet.
    files.sync().map_err(|error| unusable(&here, &error))?;
    let names = files.names().map_err(|error| unusable(&here, &error))?;
    let stored = if is_fresh(&*files, &names)? { None } else { read(&files)? };
    let (disk, loaded) = match stored {
        None => (begin(files, bounds)?, Loaded::default()),
        Some(stored) => go_on(files, stored, bounds)?,
    };
    Ok((Box::new(disk), loaded))
}

/// Whether the directory holds nothing, or what an interrupted first start left: the log is made first, the tree last.
fn is_fresh(files: &dyn Files, names: &[String]) -> Result<bool, Error> {
    if names.iter().any(|name| name == tree::NAME) {
        return Ok(false);
    }
    for name in names.iter().filter(|name| ![tree::NEW, log::NEW].contains(&name.as_str())) {
        let path = files.path(name);
        if name != log::NAME {
            return Err(Error::Unusable(format!(
                "{} is not empty and holds no skiff store: it was left untouched. Name another --data-dir, or empty it if nothing in it is needed.",
                files.path("").display()
            )));
        }
        if !log::is_unused(&files::read(files, name).map_err(|error| unusable(&path, &error))?) {
            return Err(damaged(&files.path(tree::NAME), &"it is missing, though its log is there"));
        }
    }
    Ok(true)
}

/// A new log that goes on from `rev`, in place of the one there is.
fn begun(files: &Arc<dyn Files>, rev: Rev) -> Result<Log, Error> {
    Log::create(files.clone(), rev).map_err(|trouble| cannot(&files.path(log::NAME), trouble))
}

fn begin(files: Arc<dyn Files>, bounds: Bounds) -> Result<RedbDisk, Error> {
    let log = begun(&files, 0)?;
    let tree = Tree::create(files)?;
    Ok(RedbDisk::new(tree, log, Ahead::new(), 0, bounds))
}

/// All there is. `None`: an older skiff was interrupted before it had put anything there.
fn read(files: &Arc<dyn Files>) -> Result<Option<Stored>, Error> {
    let (path, log_path) = (files.path(tree::NAME), files.path(log::NAME));
    let file = files.open(tree::NAME).map_err(|error| unusable(&path, &error))?;
    if !file.try_lock().map_err(|error| unusable(&path, &error))? {
        return Err(in_use(&path));
    }
    let log = match files.open(log::NAME) {
        Ok(log) => Some(log),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unusable(&log_path, &error)),
    };
    if log.is_none() && Tree::is_blank(&*file).map_err(|error| unusable(&path, &error))? {
        return Ok(None);
    }
    // A sync that failed in an earlier life may have left what can be read and is not on the disk.
    log.iter().chain([&file]).try_for_each(|file| file.forget()).map_err(|error| unusable(&path, &error))?;
    let (tree, contents) = Tree::open(files.clone(), file)?;
    let mut loaded = contents.loaded;
    let (log, told) = match (contents.format, log) {
        (Some(1), _) => (None, Told::none(loaded.rev)),
        (Some(_), Some(log)) => {
            Log::read(log, loaded.rev).map(|(log, told)| (Some(log), told)).map_err(|damage| told_where(&log_path, &damage))?
        }
        (Some(_), None) => return Err(damaged(&log_path, &"it is missing")),
        (None, log) => {
            let held = log.is_some_and(|log| files::whole(&*log).map_or(true, |bytes| bytes.len() > 16));
            return if held { Err(damaged(&path, &"it is empty, though its log is not")) } else { Ok(None) };
        }
    };
    let format = contents.format.unwrap_or_default();
    take_in(&mut loaded, &told);
    Ok(Some(Stored { tree, format, log, told, loaded }))
}

/// Brings what stood in the tree up to what the log tells.
fn take_in(loaded: &mut Loaded, told: &Told) {
    loaded.rev = told.rev;
    if told.changes.is_empty() {
        return;
    }
    // The last word on each key.
    let last: HashMap<&str, &log::Change> = told.changes.iter().map(|change| (&*change.key, change)).collect();
    loaded.entries.retain(|entry| !last.contains_key(&*entry.key));
    loaded.deadlines.retain(|key, _| !last.contains_key(&**key));
    for (entry, deadline) in last.values().filter_map(|change| change.put.as_ref()) {
        loaded.entries.push(entry.clone());
        if *deadline != 0 {
            loaded.deadlines.insert(entry.key.clone(), *deadline);
        }
    }
}

/// Writes on where the last life ended.
fn go_on(files: Arc<dyn Files>, stored: Stored, bounds: Bounds) -> Result<(RedbDisk, Loaded), Error> {
    let Stored { mut tree, format, log, told, loaded } = stored;
    let log_path = files.path(log::NAME);
    tree.let_through()?;
    let ahead: Ahead = told.changes.into_iter().map(|change| (change.key, change.put)).collect();
    let log = match log {
        Some(log) => log.go_on(files.clone(), loaded.rev).map_err(|error| unusable(&log_path, &error))?,
        None => None,
    };
    if let (Some(log), tree::FORMAT) = (log, format) {
        let mut disk = RedbDisk::new(tree, log, ahead, loaded.rev, bounds);
        if disk.log.len() > bounds.refuse_bytes {
            // Or the first write would be refused. Said where it failed; it is tried again.
            let _ = disk.take_over();
        }
        return Ok((disk, loaded));
    }
    // An older format: all goes into the tree, and the log begins anew. The tree says that there is a log: where there was none, that comes first.
    let first = if format == 1 { Some(begun(&files, loaded.rev)?) } else { None };
    tree.commit(&ahead, loaded.rev).map_err(|trouble| cannot(&files.path(tree::NAME), trouble))?;
    let log = first.map_or_else(|| begun(&files, loaded.rev), Ok)?;
    Ok((RedbDisk::new(tree, log, Ahead::new(), loaded.rev, bounds), loaded))
}

impl Disk for RedbDisk {
    fn commit(&mut self, batches: &[Arc<Vec<Event>>], deadlines: &HashMap<Arc<str>, u64>) -> Result<(), Trouble> {
        if self.log.len() > self.bounds.refuse_bytes {
            let why = self.stuck.as_deref().unwrap_or("it was not tried yet");
            return Err(Trouble::Unwritten(format!("the log holds {} bytes that could not be taken over: {why}", self.log.len())));
        }
        let done = self.log.append(batches, deadlines);
        self.note(&done);
        done?;
        for event in batches.iter().flat_map(|batch| batch.iter()) {
            self.rev = event.rev();
            let put = match event {
                Event::Put { entry, .. } => Some((entry.clone(), deadlines.get(&entry.key).copied().unwrap_or(0))),
                Event::Delete { .. } => None,
            };
            self.ahead.insert(event.key().clone(), put);
        }
        Ok(())
    }

    fn gathers(&self) -> bool {
        true
    }

    fn tidy(&mut self) -> Result<(), Trouble> {
        if self.log.len() <= self.full {
            return Ok(());
        }
        match self.take_over() {
            Err(ended @ Trouble::Ended(_)) => Err(ended),
            // The log has it still, and goes on.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn probe(&mut self) -> Result<(), Trouble> {
        if self.log.len() > self.bounds.refuse_bytes {
            return self.take_over();
        }
        let done = self.log.probe();
        self.note(&done);
        done
    }

    fn close(&mut self) {
        if self.ended {
            self.tree.abandon();
        } else if !self.log.is_empty() {
            // Said where it failed; the next start reads the log.
            let _ = self.take_over();
        }
    }
}

impl RedbDisk {
    fn new(tree: Tree, log: Log, ahead: Ahead, rev: Rev, bounds: Bounds) -> Self {
        let full = bounds.full(tree.bytes());
        Self { tree, log, ahead, rev, bounds, full, stuck: None, ended: false }
    }

    /// The tree takes over what the log holds, and a new log begins.
    fn take_over(&mut self) -> Result<(), Trouble> {
        let (bytes, begun) = (self.log.len(), Instant::now());
        let done = self.tree.commit(&self.ahead, self.rev).and_then(|()| {
            self.ahead.clear();
            self.log.renew()
        });
        self.note(&done);
        match &done {
            Ok(()) => {
                self.full = quick(self.bounds.full(self.tree.bytes()), bytes, begun.elapsed()).max(self.bounds.take_over_bytes_min);
                self.stuck = None;
            }
            Err(Trouble::Unwritten(why) | Trouble::Open(why) | Trouble::Ended(why)) => {
                tracing::error!(
                    why,
                    bytes = self.log.len(),
                    "the log could not be taken over into the tree; trying again when it has grown"
                );
                self.full = self.log.len() + self.bounds.take_over_bytes_min;
                self.stuck = Some(why.clone());
            }
        }
        done
    }

    fn note(&mut self, done: &Result<(), Trouble>) {
        self.ended |= matches!(done, Err(Trouble::Ended(_)));
    }
}

/// `full`, or as much as would be taken over in [`TAKE_OVER_USUAL`] at the pace of the last time: all writes wait for it.
fn quick(full: u64, bytes: u64, took: Duration) -> u64 {
    let in_time = u128::from(bytes) * TAKE_OVER_USUAL.as_micros() / took.as_micros().max(1);
    full.min(u64::try_from(in_time).unwrap_or(u64::MAX))
}

fn told_where(path: &Path, damage: &Damage) -> Error {
    let cut =
        damage.at.map(|at| format!(" What stands from there on, and only that, is given up by `truncate -s {at} {}`.", path.display()));
    Error::Unusable(format!(
        "{} is damaged {damage}. It was left untouched. Put a backup of the directory in its place; `skiff check --data-dir` tells whether that is sound.{}",
        path.display(),
        cut.unwrap_or_default()
    ))
}

fn damaged(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::Unusable(format!(
        "{} cannot be read as a skiff store ({why}): it was left untouched. Put a backup of the directory in its place, or move it away to start with an \
         empty cluster; `skiff check --data-dir` tells whether it is sound.",
        file.display()
    ))
}

fn in_use(path: &Path) -> Error {
    Error::Unusable(format!(
        "{} is open in another process: is another skiff running on this --data-dir? Stop it with `skiff down`.",
        path.display()
    ))
}

fn cannot(path: &Path, trouble: Trouble) -> Error {
    let (Trouble::Unwritten(why) | Trouble::Open(why) | Trouble::Ended(why)) = trouble;
    Error::Unusable(format!("{}: {why}", path.display()))
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    Error::Unusable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_grows_with_the_tree_as_far_as_the_disk_is_quick() {
        let full = [0, 100, 1024].map(|mib: u64| BOUNDS.full(mib << 20) >> 20);
        assert_eq!(full, [16, 25, 64]);
        let after = |took| quick(64 << 20, 32 << 20, Duration::from_millis(took)) >> 20;
        assert_eq!([after(0), after(100), after(500), after(2000)], [64, 64, 32, 8], "of 32 MiB");
    }
}
