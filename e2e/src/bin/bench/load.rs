//! Numbered requests -> answers, over some connections at once, each busy all the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{conn::Conn, door::Door};

/// How long a client that was told 429 waits; client-go takes what `Retry-After` says, which is a second.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// A request that is refused so often has failed.
const REFUSALS_MAX: usize = 600;
/// A connection that nobody used for so long may be closed by the server any moment (Go's and ours: after 90 s); it is not used again.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// Connections that are open and idle.
pub struct Pool {
    pub door: Arc<Door>,
    conns: Vec<Conn>,
}

/// How long the answers took.
#[derive(Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
    /// How often a request was refused for the time being (429).
    pub refused: usize,
}

/// Writes request `n` into the buffer.
pub type Make = Arc<dyn Fn(usize, &mut Vec<u8>) + Send + Sync>;
/// Looks at answer `n`.
pub type Check = Arc<dyn Fn(usize, u16, &[u8]) -> anyhow::Result<()> + Send + Sync>;

impl Pool {
    pub async fn open(door: &Arc<Door>, connections: usize) -> anyhow::Result<Self> {
        let mut conns = Vec::with_capacity(connections);
        let mut opening = JoinSet::new();
        for _ in 0..connections {
            let door = door.clone();
            opening.spawn(async move { Conn::open(&door).await });
            // A queue of the listener is 128 long by default in some servers.
            if opening.len() >= 32 {
                conns.extend(opening.join_next().await.transpose()?.transpose()?);
            }
        }
        while let Some(conn) = opening.join_next().await {
            conns.push(conn??);
        }
        Ok(Self { door: door.clone(), conns })
    }

    /// Sends requests 0 to `count`; each connection takes the next number when it is free.
    pub async fn run(&mut self, count: usize, make: Make, check: Check) -> anyhow::Result<Latencies> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut streams = JoinSet::new();
        for conn in self.conns.drain(..) {
            streams.spawn(stream(conn, next.clone(), count, make.clone(), check.clone()));
        }
        let mut all = Latencies::default();
        while let Some(stream) = streams.join_next().await {
            let (conn, latencies) = stream??;
            self.conns.push(conn);
            all.refused += latencies.refused;
            all.micros.extend(latencies.micros);
        }
        all.micros.sort_unstable();
        ensure!(all.micros.len() == count, "{} answers to {count} requests", all.micros.len());
        Ok(all)
    }

    /// POSTs one JSON object per number.
    pub async fn create(
        &mut self,
        path: &str,
        count: usize,
        body: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Latencies> {
        let (door, path) = (self.door.clone(), path.to_owned());
        let make = move |n, out: &mut Vec<u8>| door.full("POST", &path, crate::door::JSON, body(n).as_bytes(), out);
        self.run(count, Arc::new(make), status(201)).await
    }

    /// Any single request, by whoever is free.
    pub async fn ask(&mut self, method: &str, path: &str, content_type: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let mut request = Vec::new();
        match body {
            Value::Null => request = self.door.bare(method, path, crate::door::JSON),
            body => self.door.full(method, path, content_type, body.to_string().as_bytes(), &mut request),
        }
        self.conns.retain(|conn| conn.used.elapsed() < IDLE_MAX);
        let mut conn = match self.conns.pop() {
            Some(conn) => conn,
            None => Conn::open(&self.door).await?,
        };
        let mut answer = Vec::new();
        let status = conn.exchange(&request, &mut answer).await?;
        self.conns.push(conn);
        let value = serde_json::from_slice(&answer).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&answer).into_owned()));
        Ok((status, value))
    }

    /// A request that must succeed.
    pub async fn must(&mut self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { crate::door::JSON };
        let (status, answer) = self.ask(method, path, content_type, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// GETs `path` until `holds`, for at most `bound`.
    pub async fn until(&mut self, what: &str, path: &str, bound: Duration, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let end = Instant::now() + bound;
        loop {
            let (status, answer) = self.ask("GET", path, "", &Value::Null).await?;
            if status == 200 && holds(&answer) {
                return Ok(answer);
            }
            if Instant::now() > end {
                let seen: String = answer.to_string().chars().take(500).collect();
                bail!("{what}: not within {} s; last seen: {status} {seen}", bound.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Latencies {
    /// In milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        let at = (self.micros.len() as f64 * part) as usize;
        self.micros.get(at.min(self.micros.len().saturating_sub(1))).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }
}

/// Every answer must have this status.
pub fn status(wanted: u16) -> Check {
    Arc::new(move |n, status, body| {
        ensure!(status == wanted, "request {n} was answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(500)]));
        Ok(())
    })
}

async fn stream(mut conn: Conn, next: Arc<AtomicUsize>, count: usize, make: Make, check: Check) -> anyhow::Result<(Conn, Latencies)> {
    let (mut request, mut body, mut latencies) = (Vec::new(), Vec::new(), Latencies::default());
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= count {
            return Ok((conn, latencies));
        }
        make(n, &mut request);
        let begun = Instant::now();
        let mut refusals = 0;
        let status = loop {
            let status = conn.exchange(&request, &mut body).await?;
            if status != 429 {
                break status;
            }
            refusals += 1;
            ensure!(refusals < REFUSALS_MAX, "request {n} was refused {refusals} times");
            tokio::time::sleep(REFUSED_PAUSE).await;
        };
        latencies.refused += refusals;
        latencies.micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
        check(n, status, &body)?;
    }
}
