//! A real etcd on a folder and ports of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    eventually, free_port,
    process::{append_to, kill},
};

const READY_BOUND: Duration = Duration::from_secs(30);

/// A single etcd server; killed and removed when dropped.
pub struct Etcd {
    child: Child,
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
}

impl Etcd {
    /// Resolves once it accepts connections.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-etcd-").tempdir().expect("a temporary folder");
        let (client_port, peer_port) = (free_port(), free_port());
        let child = command(dir.path(), client_port, peer_port).spawn().expect("etcd is installed: apt-get install etcd-server");
        let etcd = Self { child, dir, client_port, peer_port };
        etcd.ready().await;
        etcd
    }

    /// For `--etcd-servers`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub fn kill_9(&mut self) {
        kill(&mut self.child);
    }

    /// Starts it again on what it had.
    pub async fn restart(&mut self) {
        kill(&mut self.child);
        self.child = command(self.dir.path(), self.client_port, self.peer_port).spawn().expect("etcd started before");
        self.ready().await;
    }

    async fn ready(&self) {
        let address = ("127.0.0.1", self.client_port);
        eventually("etcd accepts connections", READY_BOUND, async || tokio::net::TcpStream::connect(address).await).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn command(dir: &Path, client_port: u16, peer_port: u16) -> Command {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "warn"]);
    let log = append_to(&dir.join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}
