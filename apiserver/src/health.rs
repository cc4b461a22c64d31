//! Checks by name -> `/healthz`, `/livez`, `/readyz`, in upstream's words (`apiserver/pkg/server/healthz`).

pub mod slis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::{flight::Flight, task::Group};
use futures::future::BoxFuture;
use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use store::{Condition, Store};
use tokio::{sync::watch, time::Instant};

use crate::{
    non_resource::{Router, non_resource_routes},
    wire,
};

/// Upstream's `--etcd-healthcheck-timeout` and `--etcd-readycheck-timeout`.
const PROBE_BOUND: Duration = Duration::from_secs(2);
/// The store is asked no oftener, however many ask us; they get the last answer (upstream: half of the bound).
const PROBE_EACH: Duration = Duration::from_secs(1);
/// Upstream's key; nothing stands there.
const PROBE_KEY: &str = "/registry/health";
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// `Err` says why; the text is logged and shown at the check's own path, never in the list.
pub type Checked = Result<(), String>;

/// Has a deadline of its own.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Checked> + Send + Sync>;

/// Serves the three health endpoints and a path for each check.
pub struct Health {
    checks: RwLock<Vec<(Where, String, Check)>>,
    /// Until then `/livez` does not mind what is not finished.
    grace: RwLock<Instant>,
    /// The end has been announced.
    leaving: Latch,
    group: Group,
}

/// Which endpoints a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// `/healthz`, `/livez` and `/readyz`.
    Everywhere,
    /// The same; `/livez` has patience with it ([`Health::grants`]).
    Start,
    /// `/readyz` alone: not ready is not dead.
    Ready,
}

/// Something that must have happened before the server is ready.
#[derive(Clone, Debug, Default)]
pub struct Latch(Arc<AtomicBool>);

impl Latch {
    pub fn done(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Health {
    /// With `ping`; `loops`, which fails for good once a task that should run for ever has ended (in this group or a part of it); and
    /// `shutdown`, which fails readiness as soon as the group stops.
    pub fn new(group: &Group) -> Arc<Self> {
        let (grace, group) = (RwLock::new(Instant::now()), group.clone());
        let health = Self { checks: RwLock::default(), grace, leaving: Latch::default(), group: group.clone() };
        health.add(Where::Everywhere, "ping", at_once(|| Ok(())));
        let loops = group.clone();
        health.add(Where::Everywhere, "loops", at_once(move || loops.fault().map_or(Ok(()), |fault| Err(fault.to_owned()))));
        let leaving = health.leaving.0.clone();
        let running = move || {
            if group.is_stopping() || leaving.load(Ordering::Acquire) { Err("process is shutting down".to_owned()) } else { Ok(()) }
        };
        health.add(Where::Ready, "shutdown", at_once(running));
        Arc::new(health)
    }

    /// For so long from now on `/livez` takes what the start has yet to do for done (`--livez-grace-period`).
    pub fn grants(&self, grace: Duration) {
        *self.grace.write() = Instant::now() + grace;
    }

    /// `/readyz` fails from now on, and nothing else.
    pub fn leaves(&self) {
        self.leaving.done();
    }

    /// Registers a check: it is called for each request. `shutdown` stays the last, as upstream lists it.
    pub fn add(&self, place: Where, name: &str, check: Check) {
        let mut checks = self.checks.write();
        let at = checks.iter().position(|(_, n, _)| n == "shutdown").unwrap_or(checks.len());
        checks.insert(at, (place, name.to_owned(), check));
    }

    /// A check `poststarthook/<name>` that fails until the latch is done.
    pub fn hook(&self, name: &str) -> Latch {
        let latch = Latch::default();
        let seen = latch.0.clone();
        let check = move || if seen.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) };
        self.add(Where::Start, &format!("poststarthook/{name}"), at_once(check));
        latch
    }

    /// Checks `etcd` and `etcd-readiness`: whether the store answers. Nothing is asked while nobody asks.
    pub fn probe(&self, store: Arc<dyn Store>) {
        let probe = Arc::new(Probe { store, last: Mutex::default(), asking: Flight::new(&self.group) });
        let check: Check = Arc::new(move || Box::pin(probe.clone().look()));
        self.add(Where::Everywhere, "etcd", check.clone());
        self.add(Where::Ready, "etcd-readiness", check);
    }

    /// Checks `store`, which fails once nothing will be written any more, and `store-writable`, which fails while nothing can be: for a
    /// store that knows without being asked.
    pub fn watch_store(&self, condition: watch::Receiver<Condition>) {
        let of = condition.clone();
        self.add(
            Where::Everywhere,
            "store",
            at_once(move || match &*of.borrow() {
                Condition::Ended(why) => Err(format!("no more writes are taken: {why}")),
                _ => Ok(()),
            }),
        );
        self.add(
            Where::Ready,
            "store-writable",
            at_once(move || match &*condition.borrow() {
                Condition::Sound => Ok(()),
                Condition::Failing(why) | Condition::Ended(why) => Err(format!("writes are refused: {why}")),
            }),
        );
    }

    /// Serves the endpoints, and each check below them.
    pub fn routes(self: &Arc<Self>) -> Router {
        let health = self.clone();
        let of = |endpoint: &str| ["", "/", "/{*check}"].map(|rest| format!("/{endpoint}{rest}"));
        let paths: Vec<String> = ENDPOINTS.iter().flat_map(|endpoint| of(endpoint)).collect();
        non_resource_routes(&paths, move |request| {
            let health = health.clone();
            async move {
                let (code, words) = health.answer(request.uri.path(), request.uri.query().unwrap_or_default()).await?;
                Some(wire::text(code, words))
            }
        })
    }

    /// The reply to `path` with `query`; `None` where the path is not about health.
    pub async fn answer(&self, path: &str, query: &str) -> Option<(StatusCode, String)> {
        let path = path.strip_prefix('/')?;
        let (endpoint, check) = path.split_once('/').unwrap_or((path, ""));
        if !ENDPOINTS.contains(&endpoint) {
            return None;
        }
        let checks = self.of(endpoint);
        if !check.is_empty() {
            let (name, check) = checks.iter().find(|(name, _)| name == check)?;
            let done = check().await;
            slis::told(name, endpoint, done.is_ok());
            return Some(match done {
                Ok(()) => (StatusCode::OK, "ok".into()),
                Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}\n")),
            });
        }
        Some(whole(endpoint, &checks, query).await)
    }

    /// What counts for an endpoint.
    fn of(&self, endpoint: &str) -> Vec<(String, Check)> {
        let all = self.checks.read();
        let patient = endpoint == "livez" && Instant::now() < *self.grace.read();
        let asked = all.iter().filter(|(place, ..)| endpoint == "readyz" || *place != Where::Ready);
        let good = || at_once(|| Ok(()));
        asked.map(|(place, n, c)| (n.clone(), if patient && *place == Where::Start { good() } else { c.clone() })).collect()
    }
}

/// A store that may be away, and what was seen when it was asked last.
struct Probe {
    store: Arc<dyn Store>,
    last: Mutex<Option<(Instant, Checked)>>,
    asking: Flight<Checked>,
}

impl Probe {
    async fn look(self: Arc<Self>) -> Checked {
        let known = || self.last.lock().as_ref().filter(|(at, _)| at.elapsed() < PROBE_EACH).map(|(_, seen)| seen.clone());
        let probe = self.clone();
        let ask = || async move {
            let seen = match tokio::time::timeout(PROBE_BOUND, probe.store.get(PROBE_KEY)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("error getting data from etcd: {error}")),
                Err(_) => Err("error getting data from etcd: context deadline exceeded".to_owned()),
            };
            *probe.last.lock() = Some((Instant::now(), seen.clone()));
            seen
        };
        self.asking.join((), known, ask).await.unwrap_or_else(|lost| Err(format!("error getting data from etcd: {lost}")))
    }
}

/// A check that answers from memory.
fn at_once(check: impl Fn() -> Checked + Send + Sync + 'static) -> Check {
    Arc::new(move || Box::pin(std::future::ready(check())))
}

async fn whole(endpoint: &str, checks: &[(String, Check)], query: &str) -> (StatusCode, String) {
    let (verbose, mut excluded) = options(query);
    let mut unknown: Vec<String> = excluded.iter().filter(|e| !checks.iter().any(|(n, _)| n == *e)).cloned().collect();
    excluded.retain(|e| !unknown.contains(e));
    let (mut out, mut failed) = (String::new(), false);
    for (name, check) in checks {
        if excluded.contains(name) {
            out.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        let done = check().await;
        slis::told(name, endpoint, done.is_ok());
        match done {
            Ok(()) => out.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                failed = true;
                tracing::info!(check = name, error, endpoint, "health check failed");
                out.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    if !unknown.is_empty() {
        unknown.sort();
        let names: Vec<String> = unknown.iter().map(|n| api::quoted(n)).collect();
        out.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(",")));
    }
    match (failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{out}{endpoint} check failed\n")),
        (false, true) => (StatusCode::OK, format!("{out}{endpoint} check passed\n")),
        (false, false) => (StatusCode::OK, "ok".into()),
    }
}

/// `?verbose&exclude=a&exclude=b`
fn options(query: &str) -> (bool, Vec<String>) {
    let (mut verbose, mut excluded) = (false, Vec::new());
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "verbose" => verbose = true,
            "exclude" => excluded.push(value.replace("%2F", "/").replace("%2f", "/")),
            _ => {}
        }
    }
    (verbose, excluded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{
        faulty::{Faults, Faulty},
        memory::Memory,
    };

    async fn ask(health: &Health, path: &str, query: &str) -> Option<(u16, String)> {
        health.answer(path, query).await.map(|(code, text)| (code.as_u16(), text))
    }

    #[tokio::test]
    async fn replies_read_as_upstream_writes_them() {
        let group = Group::new();
        let health = Health::new(&group);
        let latch = health.hook("rbac/bootstrap-roles");
        let ask = async |path: &str, query: &str| ask(&health, path, query).await;
        let bad = "[+]ping ok\n[+]loops ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\nlivez check failed\n";
        assert_eq!(ask("/livez", "").await, Some((500, bad.into())));
        let good = "[+]ping ok\n[+]loops ok\n[+]poststarthook/rbac/bootstrap-roles excluded: ok\nlivez check passed\n";
        assert_eq!(ask("/livez", "verbose=true&exclude=poststarthook/rbac/bootstrap-roles").await, Some((200, good.into())));
        assert_eq!(
            ask("/healthz/poststarthook/rbac/bootstrap-roles", "").await,
            Some((500, "internal server error: not finished\n".into()))
        );
        latch.done();
        assert_eq!(ask("/readyz", "").await, Some((200, "ok".into())));
        assert_eq!(ask("/readyz/ping", "").await, Some((200, "ok".into())));
        assert_eq!(ask("/readyz/none", "").await, None);
        assert_eq!(ask("/version", "").await, None);
        let warned = ask("/livez", "verbose&exclude=x").await.unwrap().1;
        assert!(warned.contains("warn: some health checks cannot be excluded: no matches for \"x\"\n"), "{warned}");
    }

    #[tokio::test]
    async fn a_loop_that_ended_is_seen() {
        let group = Group::new();
        let health = Health::new(&group);
        // A part of the house, so that the house still answers.
        let part = group.child();
        part.spawn_loop("deployment-controller", async { panic!("no way on") });
        part.stopping().await;
        for endpoint in ["/livez", "/readyz", "/healthz"] {
            let text = ask(&health, endpoint, "").await.unwrap();
            assert!(text.0 == 500 && text.1.contains("[-]loops failed: reason withheld\n"), "{text:?}");
        }
        let why = "internal server error: deployment-controller: panic: no way on\n";
        assert_eq!(ask(&health, "/livez/loops", "").await, Some((500, why.to_owned())));
    }

    #[tokio::test]
    async fn a_store_that_takes_no_writes_is_not_ready_and_one_that_will_take_none_is_dead() {
        let health = Health::new(&Group::new());
        let (tell, condition) = watch::channel(Condition::Sound);
        health.watch_store(condition);
        let codes = async || [ask(&health, "/readyz", "").await.unwrap().0, ask(&health, "/livez", "").await.unwrap().0];
        assert_eq!(codes().await, [200, 200]);
        tell.send_replace(Condition::Failing("no space left on device".into()));
        assert_eq!(codes().await, [500, 200]);
        let why = "internal server error: writes are refused: no space left on device\n";
        assert_eq!(ask(&health, "/readyz/store-writable", "").await, Some((500, why.to_owned())));
        tell.send_replace(Condition::Sound);
        assert_eq!(codes().await, [200, 200]);
        tell.send_replace(Condition::Ended("syncing the log: input/output error".into()));
        assert_eq!(codes().await, [500, 500]);
    }

    #[tokio::test(start_paused = true)]
    async fn life_has_patience_with_the_start_and_readiness_has_none() {
        let health = Health::new(&Group::new());
        let latch = health.hook("rbac/bootstrap-roles");
        health.grants(Duration::from_secs(5));
        let codes = async || {
            let mut codes = Vec::new();
            for path in ["/livez", "/healthz", "/readyz"] {
                codes.push(ask(&health, path, "").await.unwrap().0);
            }
            codes
        };
        assert_eq!(codes().await, [200, 500, 500]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(codes().await, [500, 500, 500]);
        latch.done();
        assert_eq!(codes().await, [200, 200, 200]);
    }

    #[tokio::test]
    async fn readiness_ends_before_life() {
        let group = Group::new();
        let health = Health::new(&group);
        health.leaves();
        assert_eq!(ask(&health, "/readyz", "").await.unwrap().0, 500);
        assert_eq!(ask(&health, "/healthz", "").await.unwrap().0, 200);
        group.stop();
        assert_eq!(ask(&health, "/readyz", "").await.unwrap().0, 500);
        assert_eq!(ask(&health, "/livez", "").await.unwrap().0, 200);
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_asked_once_for_all_and_heals() {
        let asked = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = asked.clone();
        let store = Arc::new(Faulty::new(Arc::new(Memory::new()), Box::new(move || counter.fetch_add(1, Ordering::Relaxed))));
        store.set(Faults { unread: 1000, ..Faults::default() });
        let health = Health::new(&Group::new());
        health.probe(store.clone());
        let began = Instant::now();
        let asks = (0..20).map(|_| ask(&health, "/readyz", ""));
        let bad = "[+]ping ok\n[+]loops ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n";
        for answer in futures::future::join_all(asks).await {
            assert_eq!(answer, Some((500, bad.to_owned())));
        }
        assert!(asked.load(Ordering::Relaxed) <= 1 + began.elapsed().as_secs(), "each request asks the store");
        let why = "internal server error: error getting data from etcd: store is unavailable: no answer to a read\n";
        assert_eq!(ask(&health, "/livez/etcd", "").await, Some((500, why.to_owned())));

        store.set(Faults::default());
        let healed = async {
            while ask(&health, "/livez", "").await != Some((200, "ok".to_owned())) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(10 * PROBE_EACH, healed).await.expect("it heals");
    }
}
