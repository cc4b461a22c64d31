//! Options -> the real binary, running on a folder and ports of its own, killed and removed when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    Api, eventually, free_port,
    nodes::Net,
    process::{append_to, kill, signal, skiff},
};

const READY_BOUND: Duration = Duration::from_secs(60);
const UP_BOUND: Duration = Duration::from_secs(180);
/// A tick in `/proc/<pid>/stat`: Linux tells user programs 100 a second, whatever the kernel itself uses.
const TICK_MS: f64 = 10.0;
const END_BOUND: Duration = Duration::from_secs(30);

/// Where the objects are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Redb,
    Memory,
    /// The URLs of running etcd servers, comma separated: see [`crate::Etcd`].
    Etcd(String),
}

/// How to start; `Options::default()` is `skiff server` on redb.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub backend: Backend,
    /// The binary; by default `SKIFF_BIN`, or what `cargo build -p skiff` made.
    pub bin: Option<PathBuf>,
    /// More flags, at the end of the command line.
    pub args: Vec<String>,
    /// An environment variable each.
    pub env: Vec<(String, String)>,
    /// Where it runs, at the address it has there; else here, on 127.0.0.1.
    pub net: Option<Net>,
}

/// `skiff server`, or `skiff up` in the foreground.
pub struct Server {
    child: Child,
    dir: TempDir,
    verb: &'static str,
    port: u16,
    kubelet_port: u16,
    options: Options,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time, in milliseconds.
    pub cpu_ms: f64,
    /// Resident and proportional memory, in KiB.
    pub rss_kib: u64,
    pub pss_kib: u64,
}

impl Server {
    /// `skiff server`, once `/readyz` says ok.
    pub async fn start(options: Options) -> Self {
        let server = Self::spawn("server", options);
        server.ready().await;
        server
    }

    /// `skiff up --foreground` (root, containerd), once it says that the cluster is up. Dropping it runs `skiff reset`.
    pub async fn up(options: Options) -> Self {
        let mut server = Self::spawn("up", options);
        server.came_up().await;
        server
    }

    /// Starts without waiting for anything.
    pub fn spawn(verb: &'static str, options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-e2e-").tempdir().expect("a temporary folder");
        let (port, kubelet_port) = (free_port(), free_port());
        let child = command(verb, dir.path(), port, kubelet_port, &options).spawn().expect("the binary starts");
        Self { child, dir, verb, port, kubelet_port, options }
    }

    /// Waits for `/readyz`; panics at once if the process ends.
    pub async fn ready(&self) {
        let mut api = None;
        eventually("/readyz says ok", READY_BOUND, async || {
            self.alive()?;
            // The certificates are made by the first start: there is nothing to trust before.
            if api.is_none() {
                api = Api::from_kubeconfig(&self.kubeconfig()).ok();
            }
            let api = api.as_ref().ok_or_else(|| "no kubeconfig yet".to_owned())?;
            match api.send("GET", "/readyz", &[], Vec::new()).await {
                Ok(reply) if reply.status == 200 => Ok(()),
                Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await;
    }

    async fn came_up(&mut self) {
        let out = self.dir.path().join("out");
        eventually("skiff up comes up", UP_BOUND, async || {
            self.alive()?;
            let said = fs::read_to_string(&out).unwrap_or_default();
            // The end of transmission is the last that `up` says once all stands.
            if said.contains('\u{4}') { Ok(()) } else { Err(said) }
        })
        .await;
    }

    fn alive(&self) -> Result<(), String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        assert!(state.is_some_and(|s| s != 'Z' && s != 'X'), "skiff ended:\n{}", tail(&self.log(), 20));
        Ok(())
    }

    /// Kills it as a power cut would; nothing is flushed.
    pub fn kill_9(&mut self) {
        kill(&mut self.child);
    }

    /// It stands still, and its connections with it: nobody is told.
    pub fn pause(&self) {
        signal(&self.child, Signal::STOP);
    }

    pub fn resume(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Starts it again on the same folder and port, after [`Server::kill_9`] or [`Server::stop`], and waits until it is ready.
    pub async fn restart(&mut self) {
        self.respawn();
        if self.verb == "up" { self.came_up().await } else { self.ready().await }
    }

    /// Starts it again without waiting.
    pub fn respawn(&mut self) {
        kill(&mut self.child);
        let _ = fs::remove_file(self.dir.path().join("out"));
        let mut command = command(self.verb, self.dir.path(), self.port, self.kubelet_port, &self.options);
        self.child = command.spawn().expect("the binary starts");
    }

    /// Asks it to end (SIGTERM) and waits for it.
    pub async fn stop(&mut self) -> ExitStatus {
        signal(&self.child, Signal::TERM);
        eventually("skiff ends when asked to", END_BOUND, async || self.child.try_wait().ok().flatten()).await
    }

    /// Waits until it ends by itself, as after flags that cannot be met.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("skiff ends by itself", READY_BOUND, async || self.child.try_wait().ok().flatten()).await
    }

    /// `skiff reset`, while it runs: it is stopped, and what it made is removed.
    ///
    /// # Errors
    /// What the command said.
    pub fn reset(mut self) -> Result<String, String> {
        let said = run_reset(&self);
        kill(&mut self.child);
        said
    }

    /// The network it was started in.
    pub fn net(&self) -> Option<&Net> {
        self.options.net.as_ref()
    }

    /// What the next start is given.
    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// A client of the administrator, on connections of its own.
    pub fn api(&self) -> Api {
        Api::from_kubeconfig(&self.kubeconfig()).expect("the server wrote a kubeconfig")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder for the test's own files; it goes with the server.
    pub fn scratch(&self) -> PathBuf {
        let path = self.dir.path().join("scratch");
        fs::create_dir_all(&path).expect("a folder in our own folder");
        path
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Panics if the server did, or has ended.
    pub fn assert_sound(&self) {
        self.alive().expect("it panics by itself");
        let log = self.log();
        let panics: Vec<&str> = log.lines().filter(|l| l.contains("panicked at") || l.contains("overflowed its stack")).collect();
        assert!(panics.is_empty(), "the server panicked: {panics:?}");
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        usage(self.pid())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the server's log ---\n{}", tail(&self.log(), 40));
        }
        kill(&mut self.child);
        if self.verb == "up" && self.data_dir().exists() {
            let _ = run_reset(self).map_err(|error| eprintln!("skiff reset failed: {error}"));
        }
    }
}

/// What it printed, or all that is known of why it failed.
fn run_reset(server: &Server) -> Result<String, String> {
    let mut reset = Command::new(server.options.bin.clone().unwrap_or_else(skiff));
    reset.arg("reset").arg("--data-dir").arg(server.data_dir()).stdin(Stdio::null());
    // Not the developer's own, which may have a context of the same name.
    reset.env("KUBECONFIG", server.dir.path().join("kubeconfig"));
    match reset.output() {
        Ok(done) if done.status.success() => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        other => Err(format!("{other:?}")),
    }
}

fn command(verb: &str, dir: &Path, port: u16, kubelet_port: u16, options: &Options) -> Command {
    let bin = options.bin.clone().unwrap_or_else(skiff);
    let mut command = options.net.as_ref().map_or_else(|| Command::new(&bin), |net| net.command(&bin));
    command.arg(verb).arg("--data-dir").arg(dir.join("data")).arg("--secure-port").arg(port.to_string());
    if verb == "up" {
        command.arg("--foreground").arg("--kubeconfig").arg(dir.join("kubeconfig"));
        command.arg("--kubelet-port").arg(kubelet_port.to_string());
        // A disk that builds have filled is no reason for a test to fail.
        command.args(["--eviction-hard", "memory.available<100Mi"]);
        // As after a plain `su`: skiff finds iptables and runc all the same.
        command.env("PATH", "/usr/bin:/bin");
    } else {
        command.args(["--bind-address", options.net.as_ref().map_or("127.0.0.1", Net::address)]);
    }
    match &options.backend {
        Backend::Redb => {}
        Backend::Memory => drop(command.args(["--storage-backend", "memory"])),
        Backend::Etcd(urls) => drop(command.arg("--etcd-servers").arg(urls)),
    }
    command.args(&options.args).envs(options.env.iter().cloned()).env_remove("KUBECONFIG");
    command.stdin(Stdio::null()).stdout(append_to(&dir.join("out"))).stderr(append_to(&dir.join("log")));
    command
}

fn usage(pid: u32) -> Usage {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // proc(5): utime and stime are fields 14 and 15, in ticks; the state, after the name, is field 3.
    let ticks = |i: usize| fields.get(i - 3).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
    let rollup = read("smaps_rollup");
    let kib = |key: &str| {
        let line = rollup.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    #[expect(clippy::cast_precision_loss, reason = "ticks of a test's lifetime")]
    let cpu_ms = (ticks(14) + ticks(15)) as f64 * TICK_MS;
    Usage { cpu_ms, rss_kib: kib("Rss:"), pss_kib: kib("Pss:") }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
