//! Stored APIServices -> the table of who serves which group version, looked after: where each server is, whether it answers, and what it says of itself.
//!
//! Source: kube-aggregator `pkg/apiserver/{apiservice_controller,handler_discovery}.go`, `pkg/controllers/status`. Each API server does this for itself, as
//! upstream's do; they share the conditions. Where no APIService names a Service nothing is done at all.

mod availability;
mod documents;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use api::{GroupResource, Key, Status, certificate::Identity, task::Group};
use apiserver::{
    connect,
    delegation::{self, Delegate, Delegations, Reached, Version},
    engine::{Change, Engine, Object},
    identity::User,
};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use self::{
    availability::{Available, asked, wrong},
    documents::Documents,
};
use super::{GROUP, resource, spec::Spec};
use crate::{
    common::{Read, all_written, conditions, edit, settled},
    service::resolve,
};

/// How often a server is asked whether it answers, where nothing has changed.
const LOOK_EACH: Duration = Duration::from_secs(30);
/// The same of what it says of itself (`discoveryRefreshInterval`).
const READ_EACH: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(5);
const READ_RETRY_MIN: Duration = Duration::from_millis(500);
/// Servers that are asked at a time: those that hang keep a place for six seconds.
const ASKED_MAX: usize = 16;
/// Documents that are read at a time: each may be some megabytes.
const READ_MAX: usize = 8;
/// The one APIService of upstream's whose group has none: it comes first (`APIRegistrationGroupPriority`).
const OWN_PRIORITY: i64 = 20_001;

/// Looks after the table; see the module.
pub struct Aggregator {
    engine: Arc<Engine>,
    user: User,
    delegations: Arc<Delegations>,
    may_be_called: fn(IpAddr) -> bool,
    /// As whom servers are called; a number that rises with each renewal.
    shown: RwLock<(Option<Identity>, u64)>,
    /// What is stored, read.
    rows: Mutex<BTreeMap<String, Arc<Row>>>,
    remotes: Mutex<BTreeMap<String, Arc<Remote>>>,
    /// Services -> who is behind them.
    interest: RwLock<HashMap<Key, Vec<Arc<Remote>>>>,
    /// Those that are this server's own, and are not said to be.
    locals: Mutex<Vec<String>>,
    /// The table is to be made anew.
    is_stale: AtomicBool,
    changed: Notify,
    asking: Semaphore,
    reading: Semaphore,
}

/// An APIService as it is stored.
struct Row {
    object: Arc<Object>,
    spec: Spec,
    is_available: bool,
    /// It is said of it that it is this server's own.
    is_local: bool,
}

impl Row {
    fn read(object: &Arc<Object>) -> Self {
        let value = object.value();
        let (is_available, is_local) = (is_available(&value), Available::local().stands_in(&value));
        Self { object: object.clone(), spec: Spec::read(&value), is_available, is_local }
    }

    fn name(&self) -> &str {
        &self.object.key.name
    }
}

/// An APIService that names a Service.
struct Remote {
    name: String,
    spec: Spec,
    shown: u64,
    delegate: Arc<Delegate>,
    /// Its loops; it ends with it.
    group: Group,
    documents: Mutex<Documents>,
    /// Its Service or its endpoints have changed.
    has_moved: AtomicBool,
    to_be_asked: Notify,
    to_be_read: Notify,
}

impl Aggregator {
    /// Servers are called at global addresses alone, as `user` writes their conditions.
    pub fn new(engine: &Arc<Engine>, user: User, delegations: &Arc<Delegations>) -> Arc<Self> {
        Self::reaching(engine, user, delegations, connect::is_global_unicast)
    }

    fn reaching(engine: &Arc<Engine>, user: User, delegations: &Arc<Delegations>, may_be_called: fn(IpAddr) -> bool) -> Arc<Self> {
        let aggregator = Arc::new(Self {
            engine: engine.clone(),
            user,
            delegations: delegations.clone(),
            may_be_called,
            shown: RwLock::default(),
            rows: Mutex::default(),
            remotes: Mutex::default(),
            interest: RwLock::default(),
            locals: Mutex::default(),
            is_stale: AtomicBool::new(true),
            changed: Notify::new(),
            asking: Semaphore::new(ASKED_MAX),
            reading: Semaphore::new(READ_MAX),
        });
        aggregator.listen();
        aggregator
    }

    /// The certificate that servers are shown from now on.
    pub fn show(&self, shown: Identity) {
        let mut held = self.shown.write();
        *held = (Some(shown), held.1 + 1);
        drop(held);
        self.is_stale.store(true, Relaxed);
        self.changed.notify_one();
    }

    fn listen(self: &Arc<Self>) {
        let of = |change: &Change| change.new.as_ref().or(change.old.as_ref()).cloned();
        // Listeners stay for as long as the engine does.
        let aggregator = Arc::downgrade(self);
        let changed = move |_: &Change| {
            if let Some(aggregator) = aggregator.upgrade() {
                aggregator.is_stale.store(true, Relaxed);
                aggregator.changed.notify_one();
            }
        };
        self.engine.on_change(&resource(), Arc::new(changed));
        let aggregator = Arc::downgrade(self);
        let moved = move |key: &Key| {
            if let Some(aggregator) = aggregator.upgrade() {
                aggregator.moved(key);
            }
        };
        let services = moved.clone();
        let of_service = move |change: &Change| {
            if let Some(object) = of(change) {
                services(&object.key);
            }
        };
        self.engine.on_change(&GroupResource::new("", "services"), Arc::new(of_service));
        let of_slice = move |change: &Change| {
            for object in change.new.iter().chain(&change.old) {
                if let Some(service) = object.label(resolve::SERVICE_NAME) {
                    moved(&Key::new(&object.key.namespace, service));
                }
            }
        };
        self.engine.on_change(&GroupResource::new("discovery.k8s.io", "endpointslices"), Arc::new(of_slice));
    }

    fn moved(&self, service: &Key) {
        let interest = self.interest.read();
        let Some(remotes) = interest.get(service) else { return };
        remotes.iter().for_each(|remote| remote.has_moved.store(true, Relaxed));
        self.changed.notify_one();
    }

    /// Keeps the table for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.bring_about();
            let locals = std::mem::take(&mut *self.locals.lock());
            let this = &self;
            let tell = |name: String| (name.clone(), async move { this.tell(&name, &Available::local()).await });
            // Each that fails is told of there.
            let _first = all_written(locals.into_iter().map(tell)).await;
            self.changed.notified().await;
        }
    }

    /// The table as of now. Before anything is served this is called once, so that no request is answered as if nobody served it.
    pub fn bring_about(self: &Arc<Self>) {
        if self.is_stale.swap(false, Relaxed) {
            self.remake();
        }
        let moved: Vec<Arc<Remote>> = {
            let remotes = self.remotes.lock();
            remotes.values().filter(|remote| remote.has_moved.swap(false, Relaxed)).cloned().collect()
        };
        for remote in moved {
            remote.delegate.is_at(self.places(&remote));
            remote.to_be_asked.notify_one();
        }
    }

    /// What is stored, in the order of names; of it what has changed is read.
    fn rows(&self) -> Vec<Arc<Row>> {
        let stored = self.engine.cached_list(&resource(), None);
        let mut rows = self.rows.lock();
        let mut before = std::mem::take(&mut *rows);
        for object in &stored {
            let there = before.remove(&object.key.name).filter(|row| Arc::ptr_eq(&row.object, object));
            rows.insert(object.key.name.clone(), there.unwrap_or_else(|| Arc::new(Row::read(object))));
        }
        rows.values().cloned().collect()
    }

    fn remake(self: &Arc<Self>) {
        let rows = self.rows();
        let (mut versions, mut kept) = (vec![own()], BTreeMap::new());
        let mut remotes = self.remotes.lock();
        for row in &rows {
            let (name, spec) = (row.name(), &row.spec);
            let (mut version, is_local) = (version_of(spec), spec.service.is_none());
            // What names APIServices is served here, and so is the core: without them nobody could take anything back.
            if spec.service.is_some() && spec.group != GROUP && !spec.group.is_empty() {
                let remote = self.remote(name, spec, remotes.remove(name));
                if !remote.delegate.set_available(row.is_available) && row.is_available {
                    remote.to_be_read.notify_one();
                }
                version.remote = Some(remote.shown_in_table());
                kept.insert(name.to_owned(), remote);
            } else if is_local && !row.is_local {
                self.locals.lock().push(name.to_owned());
            }
            versions.push(version);
        }
        for (name, gone) in &*remotes {
            gone.group.stop();
            availability::forgotten(name);
        }
        *remotes = kept;
        let mut interest = HashMap::<Key, Vec<Arc<Remote>>>::new();
        for remote in remotes.values() {
            if let Some(service) = &remote.spec.service {
                interest.entry(service.key()).or_default().push(remote.clone());
            }
        }
        drop(remotes);
        *self.interest.write() = interest;
        self.delegations.replace(versions);
    }

    /// The one that there is, if nothing but priorities has changed.
    fn remote(self: &Arc<Self>, name: &str, spec: &Spec, there: Option<Arc<Remote>>) -> Arc<Remote> {
        let shown = self.shown.read();
        if let Some(there) = there {
            if there.shown == shown.1 && there.spec.leads_where(spec) {
                return there;
            }
            there.group.stop();
        }
        let group = self.engine.group().child();
        let service = spec.service.as_ref();
        let reached = Reached {
            name,
            server_name: &service.map(|service| service.server_name()).unwrap_or_default(),
            ca_bundle: service.map_or_else(|| Ok(Vec::new()), |service| service.ca_bundle()),
            insecure: service.is_some_and(|service| service.insecure),
            shown: shown.0.as_ref(),
            may_be_called: self.may_be_called,
        };
        // What was begun goes on, whatever becomes of the APIService.
        let delegate = Arc::new(Delegate::new(self.engine.group(), reached));
        let remote = Arc::new(Remote {
            name: name.to_owned(),
            spec: spec.clone(),
            shown: shown.1,
            delegate,
            group,
            documents: Mutex::default(),
            has_moved: AtomicBool::new(false),
            to_be_asked: Notify::new(),
            to_be_read: Notify::new(),
        });
        remote.delegate.is_at(self.places(&remote));
        remote.group.spawn(Box::pin(self.clone().ask(remote.clone())));
        remote.group.spawn(Box::pin(self.clone().read(remote.clone())));
        remote
    }

    /// Where its server is: the ready endpoints of its Service. (Upstream: the Service's cluster address, or with
    /// `--enable-aggregator-routing` the endpoints.)
    fn places(&self, remote: &Remote) -> Result<Vec<String>, String> {
        let service = remote.spec.service.as_ref().ok_or_else(|| "no service is named".to_owned())?;
        if let Some(name) = resolve::external_name(&self.engine, &service.key()) {
            return Ok(vec![format!("{name}:{}", service.port)]);
        }
        let found = resolve::endpoints(&self.engine, &service.key(), service.port, self.may_be_called)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    /// Asks a server whether it answers, and says so in its condition: when something has changed, and from time to time.
    async fn ask(self: Arc<Self>, remote: Arc<Remote>) {
        let mut failures = 0;
        loop {
            let available = self.judge(&remote).await;
            let told = self.tell(&remote.name, &available).await;
            if let Err(status) = &told {
                tracing::warn!(name = remote.name, error = status.message, "the condition of an APIService was not written");
            }
            failures = if available.is_retried() || told.is_err() { failures + 1 } else { 0 };
            let rest = if failures == 0 { LOOK_EACH } else { doubled(RETRY_MIN, failures).min(LOOK_EACH) };
            if timeout(rest, remote.to_be_asked.notified()).await.is_ok() {
                failures = 0;
            }
        }
    }

    async fn judge(&self, remote: &Remote) -> Available {
        let Some(service) = &remote.spec.service else { return Available::local() };
        let found = self.engine.cached(&GroupResource::new("", "services"), &service.key()).map(|object| object.value());
        let slices = resolve::slices(&self.engine, &service.key());
        if let Some(wrong) = wrong(service, found.as_ref(), &slices) {
            return wrong;
        }
        let Ok(_place) = self.asking.acquire().await else { return Available::local() };
        asked(&remote.delegate, &remote.spec).await
    }

    /// Writes nothing where it stands there already.
    async fn tell(&self, name: &str, available: &Available) -> Result<(), Status> {
        let key = Key::new("", name);
        let Some(found) = self.engine.cached(&resource(), &key).map(|object| object.value()) else { return Ok(()) };
        availability::told(name, available, is_available(&found));
        if available.stands_in(&found) {
            return Ok(());
        }
        let (reason, message) = (available.reason, &available.message);
        tracing::info!(name, status = available.status, reason, message, "an API server is available, or is not");
        let change = |object: &mut Value| {
            edit::default_to(object, "status", json!({}));
            if let Some(status) = edit::child(object, "status") {
                conditions::set(status, available.condition(), api::time::Timestamp::now());
            }
            Ok(())
        };
        settled(self.engine.update(&resource(), &key, "status", &self.user, &change).await.map(drop))
    }

    /// Reads what a server says of itself.
    async fn read(self: Arc<Self>, remote: Arc<Remote>) {
        let mut failures = 0;
        loop {
            let before = remote.documents.lock().clone();
            let (now, current) = before.clone().renewed(&remote.delegate, &remote.spec, &self.reading).await;
            let is_news = !now.shows_as(&before);
            *remote.documents.lock() = now;
            if is_news {
                self.is_stale.store(true, Relaxed);
                self.changed.notify_one();
            }
            if let Err(why) = &current {
                tracing::debug!(name = remote.name, why, "discovery of an aggregated API server could not be read");
            }
            failures = if current.is_err() { failures + 1 } else { 0 };
            let rest = if failures == 0 { READ_EACH } else { doubled(READ_RETRY_MIN, failures).min(READ_EACH) };
            let _ = timeout(rest, remote.to_be_read.notified()).await;
        }
    }
}

impl Remote {
    fn shown_in_table(&self) -> delegation::Remote {
        let documents = self.documents.lock();
        delegation::Remote {
            delegate: self.delegate.clone(),
            discovery: documents.discovery(&self.spec.version),
            openapi_v3: documents.openapi_v3.clone(),
            openapi_v2: documents.openapi_v2.clone(),
        }
    }
}

fn own() -> Version {
    Version { group: GROUP.to_owned(), version: "v1".to_owned(), group_priority: OWN_PRIORITY, version_priority: 0, remote: None }
}

fn version_of(spec: &Spec) -> Version {
    let (group, version) = (spec.group.clone(), spec.version.clone());
    Version { group, version, group_priority: spec.group_priority, version_priority: spec.version_priority, remote: None }
}

fn is_available(object: &Value) -> bool {
    object.at("status").list("conditions").iter().any(|c| c.text("type") == "Available" && c.text("status") == "True")
}

/// Twice as long with each failure but the first.
fn doubled(least: Duration, failures: u32) -> Duration {
    least.saturating_mul(1 << failures.saturating_sub(1).min(20))
}

#[cfg(test)]
mod tests;
