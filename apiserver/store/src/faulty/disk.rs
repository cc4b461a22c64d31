//! Files, dice -> files whose power goes at some sync: what was not yet synced is kept, lost or torn. For tests of the redb back end.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use redb::StorageBackend;

use super::Dice;
use crate::{Error, local::Local};

/// The smallest part that is written whole.
const SECTOR: usize = 512;
/// So little that the log is taken over several times in a test.
const LOG_BYTES_MAX: u64 = 24 << 10;

/// Opens the store in `dir` as [`crate::redb::open`] does, on a disk that fails at the sync after `syncs` good ones, and for ever after.
///
/// What of the unsynced writes reaches the file is up to the dice: each is kept, lost, or torn at a sector.
///
/// # Errors
/// As [`crate::redb::open`], and where the power goes before it is open.
pub fn open(dir: &Path, syncs: u64, dice: Dice) -> Result<Local, Error> {
    let power = Arc::new(Mutex::new(Power { syncs_left: syncs, dead: false, dice }));
    crate::redb::open_through(dir, LOG_BYTES_MAX, |path| FailingFile::open(path, power.clone()))
}

#[derive(Debug)]
struct FailingFile(Mutex<State>);

struct State {
    file: File,
    /// What a reader sees: the page cache.
    seen: Vec<u8>,
    unsynced: Vec<Write>,
    power: Arc<Mutex<Power>>,
}

/// One for all files of the disk.
struct Power {
    syncs_left: u64,
    dead: bool,
    dice: Dice,
}

enum Write {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl FailingFile {
    fn open(path: &Path, power: Arc<Mutex<Power>>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut seen = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut seen, 0)?;
        Ok(Self(Mutex::new(State { file, seen, unsynced: Vec::new(), power })))
    }
}

impl StorageBackend for FailingFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().alive()?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let part = state.alive()?.seen.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let length = usize::try_from(len).map_err(io::Error::other)?;
        state.alive()?.seen.resize(length, 0);
        state.unsynced.push(Write::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.lock().alive()?.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let seen = &mut state.alive()?.seen;
        if seen.len() < from + data.len() {
            seen.resize(from + data.len(), 0);
        }
        seen[from..from + data.len()].copy_from_slice(data);
        state.unsynced.push(Write::Bytes(offset, data.to_vec()));
        Ok(())
    }
}

impl State {
    fn alive(&mut self) -> io::Result<&mut Self> {
        if self.power.lock().dead { Err(io::Error::other("the disk is gone")) } else { Ok(self) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.power.lock().goes() {
            self.fall()?;
            return Err(io::Error::other("the power went"));
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        unsynced.into_iter().try_for_each(|write| self.store(&write))?;
        self.file.sync_data()
    }

    /// What becomes of the unsynced writes when the power is gone.
    fn fall(&mut self) -> io::Result<()> {
        let unsynced = std::mem::take(&mut self.unsynced);
        unsynced.into_iter().try_for_each(|write| self.perhaps(write))
    }

    fn perhaps(&mut self, write: Write) -> io::Result<()> {
        let (fate, torn) = self.power.lock().throw();
        match (fate % 3, write) {
            (0, _) => Ok(()),
            (1, Write::Bytes(offset, mut bytes)) => {
                let sectors = bytes.len().div_ceil(SECTOR) as u64;
                bytes.truncate(usize::try_from(torn % (sectors + 1)).unwrap_or(0) * SECTOR);
                self.store(&Write::Bytes(offset, bytes))
            }
            (_, write) => self.store(&write),
        }
    }

    fn store(&self, write: &Write) -> io::Result<()> {
        match write {
            Write::Bytes(offset, bytes) => self.file.write_all_at(bytes, *offset),
            Write::Length(length) => self.file.set_len(*length),
        }
    }
}

impl Power {
    /// Whether it goes with this sync.
    fn goes(&mut self) -> bool {
        self.dead = self.syncs_left == 0;
        self.syncs_left = self.syncs_left.saturating_sub(1);
        self.dead
    }

    fn throw(&mut self) -> (u64, u64) {
        ((self.dice)(), (self.dice)())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.power.lock().dead
            && let Err(error) = self.fall()
        {
            tracing::error!(%error, "a failing disk failed in its own way");
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("length", &self.seen.len()).finish_non_exhaustive()
    }
}
