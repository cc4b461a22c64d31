//! Directories -> what happens in them, by the kernel's inotify.

use std::{mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Events read at once; more stay in the kernel's queue.
const BUFFER: usize = 4096;

/// One happening. `name` is that of the file in the watched directory; empty where it is the directory's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub watch: i32,
    pub flags: ReadFlags,
    pub name: String,
}

/// Watched directories.
pub struct Watcher {
    fd: AsyncFd<OwnedFd>,
}

impl Watcher {
    /// # Errors
    /// Where the kernel's limit of watchers is reached.
    pub fn new() -> std::io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // Deprecated for types whose descriptor may change while they are registered, in favour of an unsafe one: an OwnedFd's cannot.
        #[allow(deprecated)]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd })
    }

    /// Gives the number that events of this path carry.
    ///
    /// # Errors
    /// Where the path is not there, or the kernel's limit of watches is reached.
    pub fn add(&self, path: &Path, flags: WatchFlags) -> std::io::Result<i32> {
        Ok(inotify::add_watch(self.fd.get_ref(), path, flags)?)
    }

    /// Waits for at least one event.
    ///
    /// # Errors
    /// Where reading fails.
    pub async fn next(&self) -> std::io::Result<Vec<Event>> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| read(fd.get_ref())) {
                Ok(events) => return events,
                Err(_would_block) => {}
            }
        }
    }
}

fn read(fd: &OwnedFd) -> std::io::Result<Vec<Event>> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                events.push(Event { watch: event.wd(), flags: event.events(), name });
            }
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if !events.is_empty() => return Ok(events),
            Err(error) => return Err(error.into()),
        }
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}
