//! A side of the comparison (a kubeconfig, or a binary to start) -> a server to measure, and what is to be cleared up after a row.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use e2e::{Options, Server};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{conn::Conn, door::Door, load::Pool};

pub const READY_BOUND: Duration = Duration::from_secs(120);
const CLEARED_BOUND: Duration = Duration::from_secs(300);

/// What is measured.
#[derive(Clone, Debug)]
pub enum Side {
    /// A server that runs already; its processes, if their use is to be read.
    Running { kubeconfig: PathBuf, pids: Vec<u32> },
    /// A skiff binary: each row starts a server of its own, on an empty folder.
    Binary(PathBuf),
}

/// A server that answers.
pub struct Subject {
    pub door: Arc<Door>,
    pub pids: Vec<u32>,
    pub kubeconfig: PathBuf,
    /// It lives as long as this does.
    own: Option<Server>,
    /// Paths to delete after the row, the last first.
    made: Mutex<Vec<String>>,
}

impl Side {
    /// A server that says it is ready; one that is started here gets these flags.
    pub async fn subject(&self, flags: &[&str]) -> anyhow::Result<Subject> {
        match self {
            Self::Running { kubeconfig, pids } => Ok(Subject {
                door: Arc::new(Door::open(kubeconfig)?),
                pids: pids.clone(),
                kubeconfig: kubeconfig.clone(),
                own: None,
                made: Mutex::default(),
            }),
            Self::Binary(bin) => {
                let options = Options { args: flags.iter().map(|flag| (*flag).to_owned()).collect(), ..options(bin) };
                let server = Server::spawn("server", options);
                let (door, _) = ready(&server, Instant::now()).await?;
                Ok(Subject::of(server, door))
            }
        }
    }
}

impl Subject {
    pub fn of(server: Server, door: Arc<Door>) -> Self {
        Self { door, pids: vec![server.pid()], kubeconfig: server.kubeconfig(), own: Some(server), made: Mutex::default() }
    }

    /// The folder of a server that was started here: all that it starts in turn is told it.
    pub fn folder(&self) -> Option<PathBuf> {
        self.own.as_ref().map(Server::data_dir)
    }

    pub async fn pool(&self, connections: usize) -> anyhow::Result<Pool> {
        Pool::open(&self.door, connections).await
    }

    /// A fresh namespace in which pods can be made, and in which nothing but the row makes anything any more: rows count what comes.
    pub async fn namespace(&self, pool: &mut Pool, row: &str) -> anyhow::Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench-{row}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        self.object(pool, "/api/v1/namespaces", &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
        for own in ["serviceaccounts/default", "configmaps/kube-root-ca.crt"] {
            let path = format!("/api/v1/namespaces/{name}/{own}");
            pool.until(&format!("the namespace gets its {own}"), &path, Duration::from_secs(30), |_| true).await?;
        }
        Ok(name)
    }

    /// Makes an object that goes after the row.
    pub async fn object(&self, pool: &mut Pool, path: &str, body: &Value) -> anyhow::Result<Value> {
        let made = pool.must("POST", path, body).await?;
        self.forget_later(format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default()));
        Ok(made)
    }

    pub fn forget_later(&self, path: String) {
        if self.own.is_none() {
            self.made.lock().push(path);
        }
    }

    /// Removes what the row made on a server that goes on running.
    pub async fn clear(&self) -> anyhow::Result<()> {
        let made = std::mem::take(&mut *self.made.lock());
        if made.is_empty() {
            return Ok(());
        }
        let mut pool = self.pool(4).await?;
        let paths: Arc<Vec<String>> = Arc::new(made.into_iter().rev().collect());
        let (own, door) = (paths.clone(), pool.door.clone());
        let make = move |n: usize, out: &mut Vec<u8>| *out = door.bare("DELETE", &own[n], crate::door::JSON);
        let check = |n, status, body: &[u8]| {
            ensure!(status < 300 || status == 404 || status == 409, "deletion {n}: {status} {}", String::from_utf8_lossy(body));
            Ok(())
        };
        pool.run(paths.len(), Arc::new(make), Arc::new(check)).await?;
        for path in paths.iter().filter(|p| p.starts_with("/api/v1/namespaces/")) {
            let end = Instant::now() + CLEARED_BOUND;
            while pool.ask("GET", path, "", &Value::Null).await?.0 != 404 {
                ensure!(Instant::now() < end, "{path} is still there {} s after its deletion", CLEARED_BOUND.as_secs());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}

pub fn options(bin: &std::path::Path) -> Options {
    Options { bin: Some(bin.to_path_buf()), ..Options::default() }
}

/// Asks `/readyz` until it says ok: the door, and the time since `begun`.
pub async fn ready(server: &Server, begun: Instant) -> anyhow::Result<(Arc<Door>, Duration)> {
    let path = server.kubeconfig();
    while begun.elapsed() < READY_BOUND {
        // The certificates are made by the first start: there is nothing to trust before.
        if let Ok(door) = Door::open(&path)
            && let Ok(mut conn) = Conn::open(&door).await
        {
            let request = door.bare("GET", "/readyz", "*/*");
            while begun.elapsed() < READY_BOUND {
                match conn.drain(&request).await {
                    Ok((200, _)) => return Ok((Arc::new(door), begun.elapsed())),
                    Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    Err(_) => break,
                }
            }
        }
        if !std::path::Path::new(&format!("/proc/{}/exe", server.pid())).exists() {
            bail!("the server ended: {}", server.log());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("not ready within {} s: {}", READY_BOUND.as_secs(), server.log())
}
