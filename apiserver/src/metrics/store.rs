//! A store, and how long it takes -> `etcd_request_duration_seconds` and its kin: under upstream's names whatever stands behind it.
//!
//! Source: apiserver `pkg/storage/etcd3/metrics`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::metrics::{Family, Series};
use async_trait::async_trait;
use parking_lot::RwLock;
use store::{Condition, Entry, Error, Events, Expect, Listener, Op, Outcome, Page, Range, Rev, Store, Txn};
use tokio::sync::watch;

use crate::kind::{Kind, Storage};

/// Seconds.
const BUCKETS: &[f64] =
    &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
const REGISTRY: &str = "/registry/";
/// Prefixes whose series are kept at hand; those of others are looked up each time.
const KEPT_MAX: usize = 1000;

static TOOK: Family = Family::times(
    "etcd_request_duration_seconds",
    "[ALPHA] Etcd request latency in seconds for each operation and object type.",
    &["operation", "group", "resource"],
    BUCKETS,
);
static REQUESTS: Family = Family::counter(
    "etcd_requests_total",
    "[ALPHA] Etcd request counts for each operation and object type.",
    &["operation", "group", "resource"],
);
static ERRORS: Family = Family::counter(
    "etcd_request_errors_total",
    "[ALPHA] Etcd failed request counts for each operation and object type.",
    &["operation", "group", "resource"],
);

/// See the module.
pub(crate) struct Measured {
    store: Arc<dyn Store>,
    /// Group and resource of what stands under a prefix (`pods`, `apiregistration.k8s.io/apiservices`).
    names: HashMap<String, (String, String)>,
    /// By operation, then prefix.
    kept: [RwLock<HashMap<Box<str>, Arc<Told>>>; 5],
}

struct Told {
    took: Arc<Series>,
    requests: Arc<Series>,
    errors: Arc<Series>,
}

#[derive(Clone, Copy)]
enum Operation {
    Get,
    List,
    Create,
    Update,
    Delete,
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// A transaction is what it does first, and where.
    fn of(txn: &Txn) -> (Self, &str) {
        match txn.ops.first() {
            Some(Op::Delete { key }) => (Self::Delete, key),
            Some(Op::Put { key, .. }) => {
                let is_new = txn.expect.iter().any(|(expected, expect)| expected == key && *expect == Expect::Absent);
                (if is_new { Self::Create } else { Self::Update }, key)
            }
            None => (Self::Get, txn.expect.first().map_or("", |(key, _)| key)),
        }
    }
}

impl Measured {
    /// Where `kinds` are kept; those that come later stand under their own names.
    pub fn new(store: Arc<dyn Store>, kinds: &[Arc<Kind>]) -> Self {
        let named = |kind: &Arc<Kind>| match &kind.storage {
            Storage::Kept { prefix, .. } => Some((prefix.to_string(), (kind.group.to_string(), kind.plural.to_string()))),
            _ => None,
        };
        Self { store, names: kinds.iter().filter_map(named).collect(), kept: Default::default() }
    }

    fn told(&self, operation: Operation, key: &str) -> Arc<Told> {
        let prefix = self.prefix(key);
        let kept = self.kept.get(operation as usize);
        if let Some(found) = kept.and_then(|kept| kept.read().get(prefix).cloned()) {
            return found;
        }
        let (group, resource) = match self.names.get(prefix) {
            Some((group, resource)) => (group.as_str(), resource.as_str()),
            None => prefix.split_once('/').unwrap_or(("", prefix)),
        };
        let labels = [operation.word(), group, resource];
        let told = Arc::new(Told { took: TOOK.with(&labels), requests: REQUESTS.with(&labels), errors: ERRORS.with(&labels) });
        if let Some(mut kept) = kept.map(RwLock::write).filter(|kept| kept.len() < KEPT_MAX) {
            kept.insert(prefix.into(), told.clone());
        }
        told
    }

    /// Two words where a name stands for them, or where the first can be no resource's: it is a group's; else one. What lies elsewhere has none.
    fn prefix<'k>(&self, key: &'k str) -> &'k str {
        let Some(rest) = key.strip_prefix(REGISTRY) else { return "" };
        let mut ends = rest.match_indices('/').map(|(at, _)| at);
        let first = rest.get(..ends.next().unwrap_or(rest.len())).unwrap_or_default();
        let two = rest.get(..ends.next().unwrap_or(rest.len())).unwrap_or_default();
        if self.names.contains_key(two) || first.contains('.') { two } else { first }
    }
}

impl Told {
    fn done<T>(&self, took: Duration, done: Result<T, Error>) -> Result<T, Error> {
        self.took.took(took);
        self.requests.add(1);
        if done.is_err() {
            self.errors.add(1);
        }
        done
    }
}

#[async_trait]
impl Store for Measured {
    async fn revision(&self) -> Result<Rev, Error> {
        self.store.revision().await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let (began, told) = (Instant::now(), self.told(Operation::Get, key));
        let done = self.store.get(key).await;
        told.done(began.elapsed(), done)
    }

    async fn range(&self, range: Range) -> Result<Page, Error> {
        let (began, told) = (Instant::now(), self.told(Operation::List, &range.prefix));
        let done = self.store.range(range).await;
        told.done(began.elapsed(), done)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        let (operation, key) = Operation::of(&txn);
        let (began, told) = (Instant::now(), self.told(operation, key));
        let done = self.store.txn(txn).await;
        told.done(began.elapsed(), done)
    }

    async fn seal(&self) -> Result<(), Error> {
        self.store.seal().await
    }

    async fn watch(&self, prefix: &str, after: Rev) -> Result<Events, Error> {
        self.store.watch(prefix, after).await
    }

    fn listen(&self, after: Rev, listener: &Listener) -> Option<Result<(), Error>> {
        self.store.listen(after, listener)
    }

    fn condition(&self) -> Option<watch::Receiver<Condition>> {
        self.store.condition()
    }

    async fn compact(&self, rev: Rev) -> Result<(), Error> {
        self.store.compact(rev).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use store::memory::Memory;

    fn lines() -> String {
        let mut page = String::new();
        api::metrics::text("etcd_request", &mut page);
        page
    }

    #[tokio::test]
    async fn what_is_asked_is_told_by_what_it_is_about() {
        let names = HashMap::from([("measured".to_owned(), ("apps".to_owned(), "things".to_owned()))]);
        let store = Measured { names, ..Measured::new(Arc::new(Memory::new()), &[]) };
        let put = |key: &str, expect: Expect| {
            let op = Op::Put { key: key.to_owned(), value: Bytes::from_static(b"{}"), ttl: None };
            store.txn(Txn { expect: vec![(key.to_owned(), expect)], ops: vec![op] })
        };
        let Outcome::Done(rev) = put("/registry/measured/d/a", Expect::Absent).await.unwrap() else { panic!("refused") };
        put("/registry/measured/d/a", Expect::At(rev)).await.unwrap();
        put("/registry/measured.test/widgets/d/a", Expect::Absent).await.unwrap();
        store.get("/registry/measured/d/a").await.unwrap();
        store.range(Range { prefix: "/registry/measured/".into(), ..Range::default() }).await.unwrap();
        let delete = vec![Op::Delete { key: "/registry/measured/d/a".into() }];
        store.txn(Txn { expect: Vec::new(), ops: delete }).await.unwrap();
        let future = Range { prefix: "/registry/measured/".into(), at: Some(1000), ..Range::default() };
        store.range(future).await.unwrap_err();
        let page = lines();
        for line in [
            r#"etcd_requests_total{operation="create",group="apps",resource="things"} 1"#,
            r#"etcd_requests_total{operation="update",group="apps",resource="things"} 1"#,
            r#"etcd_requests_total{operation="delete",group="apps",resource="things"} 1"#,
            r#"etcd_requests_total{operation="get",group="apps",resource="things"} 1"#,
            r#"etcd_requests_total{operation="list",group="apps",resource="things"} 2"#,
            r#"etcd_requests_total{operation="create",group="measured.test",resource="widgets"} 1"#,
            r#"etcd_request_errors_total{operation="list",group="apps",resource="things"} 1"#,
            r#"etcd_request_errors_total{operation="get",group="apps",resource="things"} 0"#,
            r#"etcd_request_duration_seconds_count{operation="update",group="apps",resource="things"} 1"#,
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
    }
}
