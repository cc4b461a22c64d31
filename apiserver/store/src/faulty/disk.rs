//! Files in memory, random numbers -> a disk on a bad day: full, failing at any call, without power. For tests.
//!
//! It forgets as a real one may. What was written and not synced is kept, lost, or torn at sectors when the power goes, in any order; names that
//! were made or changed and not synced are kept or lost. What is unsynced when a sync fails may be on the disk, or on its way still, or be in
//! the page cache only, where it reads well until it is forgotten, and no later sync brings it to the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::PathBuf,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};

use super::Random;
use crate::{
    Error,
    files::{Files, OneFile},
    local::Local,
    redb::{Bounds, open_in},
};

/// The smallest part that is written whole.
const SECTOR: usize = 512;
/// What a file system gives at a time.
const BLOCK: u64 = 4096;

/// What one call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing was done. Where a sync meets it, what was unsynced is in the page cache only.
    Refused,
    /// An error, and a part was done.
    Partly,
    /// An error, and all was done. Renaming is done without an error or not at all.
    Done,
    /// The process is gone after a part was done. What it wrote is in the page cache.
    Killed,
    /// So is the power.
    Dark,
}

/// One directory of a disk in memory. Clones are the same.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<State>>);

struct State {
    inodes: Vec<Inode>,
    /// As they are seen, and as they are on the disk.
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    unsynced: Vec<Naming>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    /// Nothing goes any more, until the next life.
    dead: bool,
    dark: bool,
    full: Full,
    /// Whose pages stay in the page cache, whatever is advised.
    kept: Option<String>,
    random: Random,
}

#[derive(PartialEq, Eq)]
enum Full {
    No,
    Yes,
    For(String),
}

#[derive(Default)]
struct Inode {
    /// As it is seen: the page cache.
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Write>,
    blocks: BTreeSet<u64>,
}

#[derive(Clone)]
enum Write {
    Bytes(u64, Vec<u8>),
    Size(u64),
}

enum Naming {
    Is(String, usize),
    Gone(String),
    Moved(String, String, usize),
}

struct Handle {
    disk: Disk,
    inode: usize,
}

/// Opens the store on `disk` as [`crate::redb::open`] does, but writes are carried out by whoever asks. The log is taken over into the tree at
/// `take_over_bytes`, and refuses to grow at `refuse_bytes`. Must be called within a runtime.
///
/// # Errors
/// As [`crate::redb::open`], and where the disk fails.
pub fn open(disk: &Disk, take_over_bytes: u64, refuse_bytes: u64) -> Result<Local, Error> {
    let (disk, loaded) = open_in(Arc::new(disk.clone()), bounds(take_over_bytes, refuse_bytes))?;
    Ok(Local::inline(disk, loaded))
}

/// As [`open`], but with the thread that [`crate::redb::open`] gives it.
///
/// # Errors
/// As of [`open`].
pub fn start(disk: &Disk, take_over_bytes: u64, refuse_bytes: u64) -> Result<Local, Error> {
    let (disk, loaded) = open_in(Arc::new(disk.clone()), bounds(take_over_bytes, refuse_bytes))?;
    Ok(Local::start(disk, loaded))
}

fn bounds(take_over_bytes: u64, refuse_bytes: u64) -> Bounds {
    Bounds { take_over_bytes_min: take_over_bytes, take_over_bytes_max: take_over_bytes, refuse_bytes }
}

impl Disk {
    pub fn new(random: Random) -> Self {
        let (inodes, names, durable) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self(Arc::new(Mutex::new(State {
            inodes,
            names,
            durable,
            unsynced: Vec::new(),
            calls: 0,
            fault: None,
            dead: false,
            dark: false,
            full: Full::No,
            kept: None,
            random,
        })))
    }

    /// Calls so far that could have met a fault: all that change something.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The call after `calls` others meets it.
    pub fn meet(&self, calls: u64, fault: Fault) {
        self.0.lock().fault = Some((calls, fault));
    }

    /// While it is full nothing that takes more room is written.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = if full { Full::Yes } else { Full::No };
    }

    /// There is room for all but this file.
    pub fn set_full_for(&self, name: &str) {
        self.0.lock().full = Full::For(name.to_owned());
    }

    /// What a failed sync left of this file in the page cache is read for ever.
    pub fn keep(&self, name: &str) {
        self.0.lock().kept = Some(name.to_owned());
    }

    /// The process ends as it is, whatever its destructors try.
    pub fn kill(&self) {
        self.0.lock().dead = true;
    }

    /// After the end of a process, killed or not: a new one finds what was in the page cache, or the power went as well.
    pub fn next_life(&self, dark: bool) {
        let mut state = self.0.lock();
        if dark || state.dark {
            state.fall();
        }
        (state.dead, state.dark, state.fault) = (false, false, None);
    }

    /// What is to be seen, by name.
    pub fn seen(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock();
        state.names.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].seen.clone())).collect()
    }

    /// What is on the disk, by name.
    pub fn image(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock();
        state.durable.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].durable.clone())).collect()
    }

    /// A disk on which this stands.
    pub fn of(image: &BTreeMap<String, Vec<u8>>, random: Random) -> Self {
        let disk = Self::new(random);
        let mut state = disk.0.lock();
        for (name, bytes) in image {
            let inode = state.inodes.len();
            let blocks = (0..(bytes.len() as u64).div_ceil(BLOCK)).collect();
            state.inodes.push(Inode { seen: bytes.clone(), durable: bytes.clone(), unsynced: Vec::new(), blocks });
            state.names.insert(name.clone(), inode);
            state.durable.insert(name.clone(), inode);
        }
        drop(state);
        disk
    }

    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.0.lock();
        if state.dead { Err(io::Error::other("the disk is gone")) } else { Ok(state) }
    }

    /// A call that changes something: what it meets.
    fn call(&self) -> io::Result<(MutexGuard<'_, State>, Option<Fault>)> {
        let mut state = self.lock()?;
        let fault = state.fault.and_then(|(at, fault)| (at == state.calls).then_some(fault));
        state.calls += 1;
        if matches!(fault, Some(Fault::Killed | Fault::Dark)) {
            (state.dead, state.dark) = (true, fault == Some(Fault::Dark));
        }
        Ok((state, fault))
    }
}

impl State {
    fn throw(&mut self, below: u64) -> u64 {
        (self.random)() % below.max(1)
    }

    fn file(&mut self, inode: usize) -> &mut Inode {
        &mut self.inodes[inode]
    }

    /// What becomes of what is not synced when the power goes.
    fn fall(&mut self) {
        for inode in 0..self.inodes.len() {
            for write in std::mem::take(&mut self.file(inode).unsynced) {
                let fate = self.throw(4);
                match write {
                    Write::Bytes(offset, bytes) if fate == 1 => {
                        let kept: Vec<bool> = (0..=bytes.len() / SECTOR + 1).map(|_| self.throw(2) == 0).collect();
                        torn(&mut self.file(inode).durable, offset, &bytes, |sector| kept[sector]);
                    }
                    // The size, without what was to be there.
                    Write::Bytes(offset, bytes) if fate == 2 => torn(&mut self.file(inode).durable, offset, &bytes, |_| false),
                    write if fate > 0 => write.apply(&mut self.file(inode).durable),
                    _ => {}
                }
            }
            let file = self.file(inode);
            file.seen.clone_from(&file.durable);
        }
        for naming in std::mem::take(&mut self.unsynced) {
            if self.throw(2) == 0 {
                naming.apply(&mut self.durable);
            }
        }
        self.names.clone_from(&self.durable);
    }

    /// A sync that fails: each unsynced write is on the disk, still on its way, or only seen.
    fn sync_badly(&mut self, inode: usize, fault: Fault) {
        for write in std::mem::take(&mut self.file(inode).unsynced) {
            let fate = if fault == Fault::Done {
                0
            } else if fault == Fault::Refused {
                2
            } else {
                self.throw(3)
            };
            match fate {
                0 => write.apply(&mut self.file(inode).durable),
                1 => self.file(inode).unsynced.push(write),
                _ => {}
            }
        }
    }

    /// How many of `len` bytes at `offset` there is room for.
    fn room(&mut self, inode: usize, offset: u64, len: usize) -> usize {
        let full = match &self.full {
            Full::No => false,
            Full::Yes => true,
            Full::For(name) => self.names.get(name) == Some(&inode),
        };
        let file = self.file(inode);
        for block in offset / BLOCK..(offset + len as u64).div_ceil(BLOCK) {
            if full && !file.blocks.contains(&block) {
                return usize::try_from((block * BLOCK).saturating_sub(offset)).unwrap_or(0);
            }
            file.blocks.insert(block);
        }
        len
    }

    fn write(&mut self, inode: usize, write: Write) {
        let file = self.file(inode);
        write.apply(&mut file.seen);
        if let Write::Size(size) = write {
            file.blocks.retain(|block| block * BLOCK < size);
        }
        file.unsynced.push(write);
    }
}

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, new) => torn(bytes, *offset, new, |_| true),
            Self::Size(size) => resize(bytes, usize::try_from(*size).unwrap_or(0)),
        }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Is(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Gone(name) => drop(names.remove(name)),
            Self::Moved(from, to, inode) => {
                // Another may have taken the old name since.
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// Writes the sectors of `new` that are kept, counted from the one it begins in.
fn torn(bytes: &mut Vec<u8>, offset: u64, new: &[u8], kept: impl Fn(usize) -> bool) {
    let begin = usize::try_from(offset).unwrap_or(usize::MAX);
    if bytes.len() < begin + new.len() {
        resize(bytes, begin + new.len());
    }
    let mut at = 0;
    while at < new.len() {
        let end = new.len().min(at + SECTOR - (begin + at) % SECTOR);
        if kept((begin + at) / SECTOR - begin / SECTOR) {
            bytes[begin + at..begin + end].copy_from_slice(&new[at..end]);
        }
        at = end;
    }
}

/// As `Vec::resize`, which takes its time where nothing is optimized.
fn resize(bytes: &mut Vec<u8>, len: usize) {
    bytes.truncate(len);
    bytes.append(&mut vec![0; len - bytes.len()]);
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

impl Files for Disk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("disk").join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OneFile>> {
        let (state, fault) = self.call()?;
        if fault.is_some() {
            return Err(broken());
        }
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle { disk: self.clone(), inode }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OneFile>> {
        let (mut state, fault) = self.call()?;
        if state.full == Full::Yes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let done = match fault {
            None | Some(Fault::Done) => true,
            Some(Fault::Refused) => false,
            Some(_) => state.throw(2) == 0,
        };
        let existing = state.names.get(name).copied();
        let inode = existing.unwrap_or(state.inodes.len());
        match (done, existing) {
            (false, _) => {}
            (true, Some(inode)) => state.write(inode, Write::Size(0)),
            (true, None) => {
                state.inodes.push(Inode::default());
                state.names.insert(name.to_owned(), inode);
                state.unsynced.push(Naming::Is(name.to_owned(), inode));
            }
        }
        if fault.is_some() { Err(broken()) } else { Ok(Arc::new(Handle { disk: self.clone(), inode })) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, fault) = self.call()?;
        let inode = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        let done = match fault {
            None => true,
            Some(Fault::Killed | Fault::Dark) => state.throw(2) == 0,
            Some(_) => false,
        };
        if done {
            state.names.remove(from);
            state.names.insert(to.to_owned(), inode);
            state.unsynced.push(Naming::Moved(from.to_owned(), to.to_owned(), inode));
        }
        if fault.is_some() { Err(broken()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, fault) = self.call()?;
        if matches!(fault, None | Some(Fault::Done)) {
            state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            state.unsynced.push(Naming::Gone(name.to_owned()));
        }
        if fault.is_some() { Err(broken()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, fault) = self.call()?;
        for naming in std::mem::take(&mut state.unsynced) {
            let done = match fault {
                None | Some(Fault::Done) => true,
                Some(Fault::Refused) => false,
                Some(_) => state.throw(2) == 0,
            };
            if done {
                naming.apply(&mut state.durable);
            } else {
                state.unsynced.push(naming);
            }
        }
        if fault.is_some() { Err(broken()) } else { Ok(()) }
    }
}

impl OneFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock()?.file(self.inode).seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let mut state = self.disk.lock()?;
        out.copy_from_slice(state.file(self.inode).seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut state, fault) = self.disk.call()?;
        let part = match fault {
            None | Some(Fault::Done) => bytes.len(),
            Some(Fault::Refused) => 0,
            Some(_) => usize::try_from(state.throw(bytes.len() as u64 + 1)).unwrap_or(0),
        };
        let room = state.room(self.inode, offset, part);
        if room > 0 {
            state.write(self.inode, Write::Bytes(offset, bytes[..room].to_vec()));
        }
        match fault {
            Some(_) => Err(broken()),
            None if room < part => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let (mut state, fault) = self.disk.call()?;
        let done = match fault {
            None | Some(Fault::Done) => true,
            Some(Fault::Refused) => false,
            Some(_) => state.throw(2) == 0,
        };
        if done {
            state.write(self.inode, Write::Size(size));
        }
        if fault.is_some() { Err(broken()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, fault) = self.disk.call()?;
        match fault {
            None => {
                let file = state.file(self.inode);
                std::mem::take(&mut file.unsynced).iter().for_each(|write| write.apply(&mut file.durable));
                Ok(())
            }
            // A process that is gone does not stop the disk.
            Some(Fault::Killed | Fault::Dark) => Err(broken()),
            Some(fault) => {
                state.sync_badly(self.inode, fault);
                Err(broken())
            }
        }
    }

    fn forget(&self) -> io::Result<()> {
        let mut state = self.disk.lock()?;
        if state.kept.as_ref().is_some_and(|name| state.names.get(name) == Some(&self.inode)) {
            return Ok(());
        }
        let file = state.file(self.inode);
        file.seen.clone_from(&file.durable);
        for write in file.unsynced.clone() {
            write.apply(&mut file.seen);
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk(..)")
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("inode", &self.inode).finish_non_exhaustive()
    }
}
