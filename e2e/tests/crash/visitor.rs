//! An address -> somebody who asks there all the time, over a new connection each time, and keeps what went wrong.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

/// An answer that takes longer is none: a connection that is tried a second time is one that was lost.
const ANSWER_BOUND: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(10);

/// Ends with the value.
pub struct Visitor {
    served: Arc<AtomicU64>,
    unserved: Arc<Mutex<Vec<String>>>,
    // It ends when this is dropped.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Visitor {
    /// Whoever answers must say `wanted`.
    pub fn start(address: SocketAddr, wanted: &'static str) -> Self {
        let (served, unserved) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (count, misses) = (served.clone(), unserved.clone());
        let (stop, ended) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                match visit(address) {
                    Ok(page) if page.contains(wanted) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Ok(page) => misses.lock().push(page),
                    Err(error) => misses.lock().push(error.to_string()),
                }
            }
        });
        Self { served, unserved, stop: Some(stop), thread: Some(thread) }
    }

    /// How often it was served so far. Panics if it once was not.
    pub fn served(&self) -> u64 {
        let unserved = self.unserved.lock();
        assert!(unserved.is_empty(), "the service did not answer {} times: {unserved:?}", unserved.len());
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.stop = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

pub fn visit(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_BOUND)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
