//! Network namespaces for tests: made under a name of this process, gone when dropped.

#![allow(dead_code)] // each test target uses a part

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

static MADE: AtomicU32 = AtomicU32::new(0);

/// How long a peer is waited for.
const BOUND: Duration = Duration::from_secs(5);
/// How long a condition is waited for: also on a machine that is busy with other work.
const WAIT_BOUND: Duration = Duration::from_secs(60);

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(label: &str) -> Self {
        let name = format!("px{}-{}-{label}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        must(api::programs::command("ip").args(["netns", "add", &name]));
        let made = Self { name };
        made.ip("link set lo up");
        made
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A program that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = api::programs::command("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    pub fn ip(&self, args: &str) -> String {
        text(&must(api::programs::command("ip").args(["-n", &self.name]).args(args.split_whitespace())))
    }

    /// Moves this thread inside, for good.
    pub fn enter(&self) {
        enter(&self.path());
    }

    /// Runs `work` on a thread that is inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// Answers each TCP connection with `word` and the peer's address, until the process ends.
    pub fn serve_tcp(&self, port: u16, word: &str) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let word = word.to_owned();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{word} {peer}");
            }
        });
    }

    /// Answers each datagram with `word`, until the process ends.
    pub fn serve_udp(&self, port: u16, word: &str) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let word = word.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(word.as_bytes(), peer);
            }
        });
    }

    /// What a server of [`Namespace::serve_tcp`] says.
    pub fn ask(&self, address: &str) -> std::io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&address, BOUND)?;
            stream.set_read_timeout(Some(BOUND))?;
            let mut said = String::new();
            stream.read_to_string(&mut said).map(|_| said)
        })
    }

    pub fn udp_client(&self) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = api::programs::command("ip").args(["netns", "del", &self.name]).output();
    }
}

pub fn enter(path: &Path) {
    let file = File::open(path).unwrap();
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

pub fn ask_udp(socket: &UdpSocket, address: &str) -> Option<String> {
    let mut buffer = [0; 64];
    socket.send_to(b"?", address).ok()?;
    let size = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

pub fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {} (these tests need root)", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The program with this on its stdin.
pub fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "this is the wait for a condition with a bound")]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < WAIT_BOUND, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
