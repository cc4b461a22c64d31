//! redb's calls -> a file's. Until the file is known to be good they end in memory: whoever refuses a file has not touched it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::files::OneFile;

const BLOCK: usize = 4096;

/// What redb has in its hands.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<dyn OneFile>,
    door: Arc<Door>,
}

/// Between redb and its file; we keep one end of it.
#[derive(Debug)]
pub(super) struct Door {
    file: Arc<dyn OneFile>,
    sync_failed: AtomicBool,
    held: AtomicBool,
    holding: Mutex<Held>,
}

/// What was asked of the file and not done yet.
#[derive(Debug)]
struct Held {
    /// In order.
    asked: Vec<Asked>,
    /// The file as it would be.
    size: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
    /// How much of the real file can be seen still.
    real: u64,
}

#[derive(Debug)]
enum Asked {
    Write(u64, Vec<u8>),
    Size(u64),
    Sync,
}

impl Backend {
    /// What it is asked is done at once.
    pub fn open(file: Arc<dyn OneFile>) -> (Self, Arc<Door>) {
        Self::new(file, 0, false)
    }

    /// Nothing is done until [`Door::let_through`].
    pub fn hold(file: Arc<dyn OneFile>) -> io::Result<(Self, Arc<Door>)> {
        let size = file.size()?;
        Ok(Self::new(file, size, true))
    }

    fn new(file: Arc<dyn OneFile>, size: u64, held: bool) -> (Self, Arc<Door>) {
        let holding = Mutex::new(Held { asked: Vec::new(), size, blocks: BTreeMap::new(), real: size });
        let door = Door { file: file.clone(), sync_failed: AtomicBool::new(false), held: AtomicBool::new(held), holding };
        let door = Arc::new(door);
        (Self { file, door: door.clone() }, door)
    }

    fn is_held(&self) -> bool {
        self.door.held.load(Ordering::Acquire)
    }
}

impl Door {
    /// Does what was asked so far, in order, and from here on at once. Nothing may be asked meanwhile.
    pub fn let_through(&self) -> io::Result<()> {
        let mut held = self.holding.lock();
        for asked in std::mem::take(&mut held.asked) {
            match asked {
                Asked::Write(offset, bytes) => self.file.write(offset, &bytes)?,
                Asked::Size(size) => self.file.set_size(size)?,
                Asked::Sync => self.sync()?,
            }
        }
        held.blocks.clear();
        self.held.store(false, Ordering::Release);
        Ok(())
    }

    /// A sync that failed leaves the file in a state that nobody knows.
    pub fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    fn sync(&self) -> io::Result<()> {
        let done = self.file.sync();
        if done.is_err() {
            self.sync_failed.store(true, Ordering::Release);
        }
        done
    }
}

impl Held {
    fn block(&self, file: &dyn OneFile, number: u64) -> io::Result<Box<[u8; BLOCK]>> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.clone());
        }
        let (mut block, begin) = (Box::new([0; BLOCK]), number * BLOCK as u64);
        let there = usize::try_from(self.real.saturating_sub(begin)).unwrap_or(BLOCK).min(BLOCK);
        file.read(begin, &mut block[..there])?;
        Ok(block)
    }

    fn read(&self, file: &dyn OneFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        each_block(offset, out.len(), |number, within, part| {
            let block = self.block(file, number)?;
            out[part.clone()].copy_from_slice(&block[within..within + part.len()]);
            Ok(())
        })
    }

    fn write(&mut self, file: &dyn OneFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.asked.push(Asked::Write(offset, bytes.to_vec()));
        self.size = self.size.max(offset + bytes.len() as u64);
        each_block(offset, bytes.len(), |number, within, part| {
            let mut block = self.block(file, number)?;
            block[within..within + part.len()].copy_from_slice(&bytes[part]);
            self.blocks.insert(number, block);
            Ok(())
        })
    }

    fn set_size(&mut self, file: &dyn OneFile, size: u64) -> io::Result<()> {
        self.asked.push(Asked::Size(size));
        if size < self.size {
            let (last, within) = (size / BLOCK as u64, usize::try_from(size % BLOCK as u64).unwrap_or(0));
            let mut block = self.block(file, last)?;
            block[within..].fill(0);
            self.blocks.retain(|number, _| *number < last);
            self.blocks.insert(last, block);
            self.real = self.real.min(size);
        }
        self.size = size;
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        if self.is_held() { Ok(self.door.holding.lock().size) } else { self.file.size() }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.is_held() { self.door.holding.lock().read(&*self.file, offset, out) } else { self.file.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.is_held() { self.door.holding.lock().set_size(&*self.file, len) } else { self.file.set_size(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_held() {
            self.door.holding.lock().asked.push(Asked::Sync);
            return Ok(());
        }
        self.door.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.is_held() { self.door.holding.lock().write(&*self.file, offset, data) } else { self.file.write(offset, data) }
    }
}

/// Calls with the number of each block of `len` bytes at `offset`, where in the block it begins, and which of the bytes are in it.
fn each_block(offset: u64, len: usize, mut one: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = usize::try_from(at % BLOCK as u64).map_err(io::Error::other)?;
        let part = (BLOCK - within).min(len - done);
        one(at / BLOCK as u64, within, done..done + part)?;
        done += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Dir, Files, whole};

    #[test]
    fn what_is_held_reads_as_if_it_were_done_and_is_done_later() {
        let dir = tempfile::tempdir().unwrap();
        let files = Dir::open(dir.path()).unwrap();
        let file = files.create("x").unwrap();
        file.write(0, &[1; 10_000]).unwrap();
        let (backend, door) = Backend::hold(file.clone()).unwrap();
        backend.write(4000, &[2; 200]).unwrap();
        backend.set_len(4100).unwrap();
        backend.sync_data().unwrap();
        backend.set_len(9000).unwrap();
        backend.write(8999, &[3; 2]).unwrap();
        let mut wanted = [vec![1; 4000], vec![2; 100], vec![0; 4899], vec![3; 2]].concat();
        let mut seen = vec![9; 9001];
        backend.read(0, &mut seen).unwrap();
        assert!(seen == wanted && backend.len().unwrap() == 9001);
        assert!(backend.read(1, &mut seen).is_err());
        assert_eq!(whole(&*file).unwrap(), vec![1; 10_000], "nothing is done yet");
        door.let_through().unwrap();
        assert!(whole(&*file).unwrap() == wanted);
        backend.write(0, &[4]).unwrap();
        wanted[0] = 4;
        assert!(whole(&*file).unwrap() == wanted);
    }
}
