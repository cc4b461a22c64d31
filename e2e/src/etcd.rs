//! A real etcd on a folder and ports of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    eventually, free_port,
    process::{append_to, kill},
};

const READY_BOUND: Duration = Duration::from_secs(30);

/// Files (PEM) of an etcd that speaks TLS only, and only to holders of certificates by `client_ca`.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

/// A single etcd server; killed and removed when dropped.
pub struct Etcd {
    child: Child,
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<EtcdTls>,
}

impl Etcd {
    /// Resolves once it accepts connections.
    pub async fn start() -> Self {
        Self::on(None).await
    }

    /// The same over TLS, on 127.0.0.1.
    pub async fn start_tls(tls: EtcdTls) -> Self {
        Self::on(Some(tls)).await
    }

    async fn on(tls: Option<EtcdTls>) -> Self {
        let dir = tempfile::Builder::new().prefix("skiff-etcd-").tempdir().expect("a temporary folder");
        let (client_port, peer_port) = (free_port(), free_port());
        let started = command(dir.path(), client_port, peer_port, tls.as_ref()).spawn();
        let child = started.expect("etcd is installed: apt-get install etcd-server");
        let etcd = Self { child, dir, client_port, peer_port, tls };
        etcd.ready().await;
        etcd
    }

    /// For `--etcd-servers`.
    pub fn url(&self) -> String {
        url(self.client_port, self.tls.as_ref())
    }

    pub fn kill_9(&mut self) {
        kill(&mut self.child);
    }

    /// Starts it again on what it had.
    pub async fn restart(&mut self) {
        kill(&mut self.child);
        let mut command = command(self.dir.path(), self.client_port, self.peer_port, self.tls.as_ref());
        self.child = command.spawn().expect("etcd started before");
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

fn url(port: u16, tls: Option<&EtcdTls>) -> String {
    format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" })
}

fn command(dir: &Path, client_port: u16, peer_port: u16, tls: Option<&EtcdTls>) -> Command {
    let (client, peer) = (url(client_port, tls), url(peer_port, None));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(dir.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "warn"]);
    if let Some(tls) = tls {
        command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.client_ca);
    }
    let log = append_to(&dir.join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}
