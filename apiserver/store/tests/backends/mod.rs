//! The back ends under test, each fresh.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use store::{Store, etcd::Tls, faulty::Faulty, memory::Memory};
use tokio::task::JoinSet;

pub struct Backend {
    store: Box<dyn Store>,
    /// Of its server; empty where there is none.
    url: String,
    _tending: JoinSet<()>,
    // Dropped after the store, in this order: the server, then its files.
    _server: Option<Server>,
    _dir: Option<tempfile::TempDir>,
}

/// A child that does not outlive its test.
struct Server(Child);

impl Backend {
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Where its server listens, for an etcd.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn memory() -> Self {
        Self { store: Box::new(Memory::new()), url: String::new(), _tending: JoinSet::new(), _server: None, _dir: None }
    }

    /// Writes in the caller's own task, as simulations have it, behind a faulty store whose day is good.
    pub async fn unthreaded() -> Self {
        let store = Arc::new(Memory::without_thread());
        let tended = store.clone();
        let mut tending = JoinSet::new();
        tending.spawn(async move { tended.tend().await });
        Self { store: Box::new(Faulty::new(store, Box::new(|| 0))), url: String::new(), _tending: tending, _server: None, _dir: None }
    }

    pub async fn redb() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = store::redb::open(dir.path()).expect("a fresh store");
        Self { store: Box::new(store), url: String::new(), _tending: JoinSet::new(), _server: None, _dir: Some(dir) }
    }

    /// A real etcd of its own, on loopback.
    pub async fn etcd() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (client, peer) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir.path()).args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster"]);
        command.arg(format!("default={peer}")).args(["--log-level", "error"]).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server(command.spawn().expect("etcd is installed: apt-get install -y etcd-server"));
        let start = Instant::now();
        loop {
            match store::etcd::open(std::slice::from_ref(&client), &Tls::default()).await {
                Ok(store) => {
                    let (store, _tending) = (Box::new(store), JoinSet::new());
                    return Self { store, url: client, _tending, _server: Some(server), _dir: Some(dir) };
                }
                Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "etcd did not start: {error}"),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is left to do then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// Makes one module of tests per back end.
macro_rules! each_backend {
    ($($test:ident),* $(,)?) => {
        each_backend!(@ memory: $($test),*);
        each_backend!(@ unthreaded: $($test),*);
        each_backend!(@ redb: $($test),*);
        each_backend!(@ etcd: $($test),*);
    };
    (@ $backend:ident: $($test:ident),*) => {
        mod $backend {
            $(#[tokio::test]
            async fn $test() {
                let backend = $crate::backends::Backend::$backend().await;
                super::$test(&backend).await;
                backend.store().close().await;
            })*
        }
    };
}
pub(crate) use each_backend;
