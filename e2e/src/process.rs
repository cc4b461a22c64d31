//! What all started processes share: ports, the folder of tools, output in files.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Child,
};

use rustix::process::{Pid, Signal, kill_process};

/// A port of the loopback address that nobody listens on right now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the kernel gives a port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e is a folder of the checkout").to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Programs that `deploy/setup.sh tools` unpacks for the tests: `kubectl-1.20`, ...
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The binary under test: `SKIFF_BIN`, else what `cargo build -p skiff` made.
pub fn skiff() -> PathBuf {
    let bin = std::env::var_os("SKIFF_BIN").map_or_else(|| target().join("debug/skiff"), PathBuf::from);
    assert!(bin.is_file(), "{} is not there: run `cargo build -p skiff`, or name the binary in SKIFF_BIN", bin.display());
    bin
}

pub(crate) fn append_to(path: &Path) -> File {
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).expect("process ids fit");
    // Gone already: that is what was wanted.
    let _ = kill_process(Pid::from_raw(id).expect("a child has an id"), signal);
}

/// Kills and waits, so that nothing stays behind, also after a panic.
pub(crate) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
