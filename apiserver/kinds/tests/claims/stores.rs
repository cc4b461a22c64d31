//! Stores that several servers open: one in memory, and a real etcd.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use store::{Store, etcd::Tls, memory::Memory};

/// Opens the same store as often as it is asked to.
pub enum Shared {
    Memory(Arc<Memory>),
    Etcd(Etcd),
}

/// An etcd of its own, on loopback, that does not outlive its test.
pub struct Etcd {
    url: String,
    server: Child,
    _dir: tempfile::TempDir,
}

impl Shared {
    pub fn memory() -> Self {
        Self::Memory(Arc::new(Memory::new()))
    }

    pub fn etcd() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (url, peer) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path()).args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster"]);
        command.arg(format!("default={peer}")).args(["--log-level", "error"]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().expect("etcd is installed: apt-get install -y etcd-server");
        Self::Etcd(Etcd { url, server, _dir: dir })
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(memory) => memory.clone(),
            Self::Etcd(etcd) => {
                let opened = tokio::time::timeout(Duration::from_secs(30), async {
                    loop {
                        if let Ok(store) = store::etcd::open(std::slice::from_ref(&etcd.url), &Tls::default()).await {
                            return store;
                        }
                    }
                });
                Arc::new(opened.await.expect("etcd starts"))
            }
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is left to do then.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
