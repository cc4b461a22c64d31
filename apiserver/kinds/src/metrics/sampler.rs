//! Nodes that somebody wants to know about -> what their agents say, asked no more often than every [`FRESH_FOR`].
//!
//! Nobody is asked for nothing: there is no loop, but for one that forgets what was asked long ago and ends with that. A rate needs two readings; of a node
//! that was not asked lately the second is made [`PAIR_AFTER`] the first, while the caller waits (metrics-server, which polls, has two long before).

use std::{borrow::Cow, collections::HashMap, future::ready, sync::Arc, time::Duration};

use api::{GroupResource, Key, Status, time::Timestamp};
use apiserver::{
    engine::{Engine, Object},
    kind::Target,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    measured::Measured,
    page::{self, Page},
};
use crate::common::{Read, node};

/// For so long what an agent said is good enough (metrics-server: `--metric-resolution`).
const FRESH_FOR: Duration = Duration::from_secs(15);
/// Between two readings where there is only one.
const PAIR_AFTER: Duration = Duration::from_secs(1);
/// For so long an agent that did not answer is not asked again.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// How long an agent may take, connecting included (metrics-server: `--kubelet-request-timeout`, 10 s).
const PAGE_BOUND: Duration = Duration::from_secs(5);
/// How long all of them may take together: what is there by then is told.
const ALL_BOUND: Duration = Duration::from_secs(25);
/// Agents asked at a time on behalf of one request, and of all together.
const PARALLEL_MAX: usize = 64;
/// What an agent may say: a thousand containers' lines and more.
pub const PAGE_BYTES_MAX: usize = 2 << 20;
/// What nobody has asked about for so long is forgotten.
const KEPT_FOR: Duration = Duration::from_secs(120);

const PATH: &str = "/metrics/resource";

/// Asks a node's agent for a page.
pub type Ask = Arc<dyn Fn(Target) -> BoxFuture<'static, Result<Bytes, Status>> + Send + Sync>;

pub struct Sampler {
    ask: Ask,
    nodes: Mutex<Nodes>,
    /// Requests of all callers together.
    places: Semaphore,
}

#[derive(Default)]
struct Nodes {
    by_name: HashMap<String, Arc<Node>>,
    /// Whether somebody is there who forgets.
    is_kept: bool,
}

struct Node {
    /// One asks at a time.
    asking: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    wanted: Instant,
    /// When the agent was asked last.
    asked: Option<Instant>,
    /// `None` where it did not answer.
    measured: Option<Arc<Measured>>,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// One that is not old.
    Fresh,
    /// One more, where there was but one.
    Second,
}

impl Sampler {
    pub fn new(ask: Ask) -> Arc<Self> {
        Arc::new(Self { ask, nodes: Mutex::default(), places: Semaphore::new(PARALLEL_MAX) })
    }

    /// By node. One that does not answer in time is left out, and so is one that is not ready.
    pub async fn measured(self: &Arc<Self>, engine: &Arc<Engine>, names: Vec<String>) -> HashMap<String, Arc<Measured>> {
        let nodes = self.wanted(engine, names);
        // What was not asked in time is told as it is.
        let _ = timeout(ALL_BOUND, self.read(engine, &nodes)).await;
        let told = |(name, node): (String, Arc<Node>)| Some((name, node.state.lock().told()?));
        nodes.into_iter().filter_map(told).collect()
    }

    async fn read(&self, engine: &Arc<Engine>, nodes: &[(String, Arc<Node>)]) {
        for reading in [Reading::Fresh, Reading::Second] {
            stream::iter(self.readings(engine, nodes, reading)).buffer_unordered(PARALLEL_MAX).for_each(|()| ready(())).await;
        }
    }

    /// Of those that are due.
    fn readings<'a>(&'a self, engine: &'a Arc<Engine>, nodes: &'a [(String, Arc<Node>)], reading: Reading) -> Vec<BoxFuture<'a, ()>> {
        let due = nodes.iter().filter(|(_, node)| node.state.lock().is_due(reading));
        due.map(|(name, node)| self.one(engine, name, node, reading).boxed()).collect()
    }

    async fn one(&self, engine: &Arc<Engine>, name: &str, node: &Node, reading: Reading) {
        let since = node.state.lock().asked.filter(|_| reading == Reading::Second);
        if let Some(since) = since {
            sleep_until(since + PAIR_AFTER).await;
        }
        let _turn = node.asking.lock().await;
        // Somebody else may have asked meanwhile.
        if !node.state.lock().is_due(reading) {
            return;
        }
        let Ok(_place) = self.places.acquire().await else { return };
        let page = timeout(PAGE_BOUND, self.page(engine, name)).await;
        let page = page.unwrap_or_else(|_| Err(Status::timeout("no answer in time")));
        let mut state = node.state.lock();
        state.asked = Some(Instant::now());
        state.measured = match page {
            Ok(page) => Some(Arc::new(Measured::after(state.measured.as_deref(), page))),
            Err(status) => {
                tracing::debug!(node = name, error = status.message, "failed to read what a node uses");
                None
            }
        };
    }

    async fn page(&self, engine: &Arc<Engine>, name: &str) -> Result<Page, Status> {
        let gone = || Status::not_found(&GroupResource::new("", "nodes"), name);
        let object = engine.cached(&GroupResource::new("", "nodes"), &Key::new("", name)).ok_or_else(gone)?.value();
        if !is_ready(&object) {
            return Err(Status::unavailable("the node is not ready"));
        }
        let (host, port) = node::agent_of(&object).ok_or_else(|| Status::unavailable("the node has no address"))?;
        let (path_and_query, node_agent) = (PATH.to_owned(), Some(name.to_owned()));
        let text = (self.ask)(Target { scheme: "https", host, port, path_and_query, node_agent, rewrite_prefix: None }).await?;
        let text = str::from_utf8(&text).map_err(Status::internal)?;
        let pods = GroupResource::new("", "pods");
        let is_here = |key: &Key| engine.cached(&pods, key).is_some_and(|pod| is_bound(&pod, name));
        Ok(page::parse(text, Timestamp::now().as_millisecond(), is_here))
    }

    /// Notes that somebody wants to know about them.
    fn wanted(self: &Arc<Self>, engine: &Arc<Engine>, names: Vec<String>) -> Vec<(String, Arc<Node>)> {
        let (mut nodes, now) = (self.nodes.lock(), Instant::now());
        let of = |name: String| {
            let node = nodes.by_name.entry(name.clone()).or_insert_with(|| Arc::new(Node::new(now))).clone();
            node.state.lock().wanted = now;
            (name, node)
        };
        let wanted: Vec<_> = names.into_iter().map(of).collect();
        if !nodes.is_kept && !nodes.by_name.is_empty() {
            nodes.is_kept = true;
            let sampler = self.clone();
            engine.group().spawn(async move { sampler.forget().await });
        }
        wanted
    }

    /// Until there is nothing to forget.
    async fn forget(&self) {
        loop {
            sleep(KEPT_FOR).await;
            let mut nodes = self.nodes.lock();
            nodes.by_name.retain(|_, node| node.state.lock().wanted.elapsed() < KEPT_FOR);
            if nodes.by_name.is_empty() {
                *nodes = Nodes::default();
                return;
            }
        }
    }
}

impl Node {
    fn new(now: Instant) -> Self {
        Self { asking: tokio::sync::Mutex::default(), state: Mutex::new(State { wanted: now, asked: None, measured: None }) }
    }
}

impl State {
    fn is_due(&self, reading: Reading) -> bool {
        let Some(ago) = self.asked.map(|at| at.elapsed()) else { return reading == Reading::Fresh };
        match (reading, &self.measured) {
            (Reading::Fresh, Some(_)) => ago >= FRESH_FOR,
            (Reading::Fresh, None) => ago >= FAILED_FOR,
            (Reading::Second, Some(measured)) => measured.is_first(),
            (Reading::Second, None) => false,
        }
    }

    /// What is no longer fresh was not read again in time.
    fn told(&self) -> Option<Arc<Measured>> {
        self.measured.clone().filter(|_| self.asked.is_some_and(|at| at.elapsed() < FRESH_FOR + ALL_BOUND))
    }
}

fn is_ready(node: &Value) -> bool {
    node.at("status").list("conditions").iter().any(|condition| condition.text("type") == "Ready" && condition.text("status") == "True")
}

fn is_bound(pod: &Object, node: &str) -> bool {
    #[derive(Deserialize)]
    struct Pod<'a> {
        #[serde(borrow)]
        spec: Spec<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec<'a> {
        #[serde(borrow)]
        node_name: Cow<'a, str>,
    }
    pod.part::<Pod<'_>>().is_ok_and(|pod| pod.spec.node_name == node)
}
