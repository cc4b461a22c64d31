//! Pods -> the ConfigMaps and Secrets they refer to: each watched by itself while a pod here needs it, and no others.
//!
//! Source: the watch-based managers of `pkg/kubelet/util/manager/watch_based_manager.go`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::api::core::v1::{ConfigMap, Pod, Secret, Volume},
    task::Group,
};
use client::{
    kube,
    lenient::Seen,
    watch::{Change, Query},
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    env::{self, Fetched},
    meta, tokens,
};

/// Watched objects. Clones share them.
#[derive(Clone)]
pub struct Objects {
    shared: Arc<Shared>,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    ConfigMap(Key),
    Secret(Key),
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub enum Object {
    Unknown,
    Missing,
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Failed(String),
}

/// Everything a pod refers to: what there is, and what could not be read, in words.
#[derive(Clone, Debug, Default)]
pub struct All {
    pub fetched: Fetched,
    pub failed: HashMap<Reference, String>,
    pub namespace: String,
}

struct Shared {
    client: kube::Client,
    group: Group,
    entries: Mutex<HashMap<Reference, Entry>>,
    /// Objects that changed since they were last asked for; bounded by the number of objects.
    changed: Mutex<BTreeSet<Reference>>,
    change: Notify,
}

struct Entry {
    users: HashSet<String>,
    state: watch::Sender<Object>,
    /// Stops the watch.
    watching: Group,
}

impl Objects {
    /// Watches run in `group`.
    pub fn new(client: kube::Client, group: &Group) -> Self {
        let shared = Shared { client, group: group.clone(), entries: Mutex::default(), changed: Mutex::default(), change: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Watches what the pod refers to, until [`Objects::release`].
    pub fn hold(&self, pod: &Pod) {
        let uid = meta::uid(pod);
        let mut entries = self.shared.entries.lock();
        for reference in references(pod) {
            let entry = entries.entry(reference.clone()).or_insert_with(|| self.watch(&reference));
            entry.users.insert(uid.to_owned());
        }
    }

    /// Ends the watches that no other pod needs.
    pub fn release(&self, uid: &str) {
        let mut entries = self.shared.entries.lock();
        entries.retain(|_, entry| {
            entry.users.remove(uid);
            let needed = !entry.users.is_empty();
            if !needed {
                entry.watching.stop();
            }
            needed
        });
    }

    /// Waits until each object the pod refers to has been seen, or is known to be missing; at most `bound`.
    pub async fn ready(&self, pod: &Pod, bound: Duration) {
        let waits: Vec<watch::Receiver<Object>> = {
            let entries = self.shared.entries.lock();
            references(pod).iter().filter_map(|r| entries.get(r)).map(|e| e.state.subscribe()).collect()
        };
        let all = async {
            for mut wait in waits {
                // An error means that the pod was released meanwhile.
                let _ = wait.wait_for(|o| !matches!(o, Object::Unknown)).await;
            }
        };
        // What is late reads as failed.
        let _ = tokio::time::timeout(bound, all).await;
    }

    /// Whether everything the pod refers to has been seen, or is known to be missing.
    pub fn all_seen(&self, pod: &Pod) -> bool {
        let entries = self.shared.entries.lock();
        references(pod).iter().all(|r| entries.get(r).is_some_and(|e| !matches!(*e.state.borrow(), Object::Unknown)))
    }

    /// All the pod refers to, as it is now.
    pub fn all(&self, pod: &Pod) -> All {
        let entries = self.shared.entries.lock();
        let mut all = All { namespace: meta::namespace(pod).to_owned(), ..All::default() };
        for reference in references(pod) {
            let state = entries.get(&reference).map_or(Object::Unknown, |e| e.state.borrow().clone());
            let name = reference.key().name.clone();
            match state {
                Object::ConfigMap(map) => drop(all.fetched.config_maps.insert(name, map)),
                Object::Secret(secret) => drop(all.fetched.secrets.insert(name, secret)),
                Object::Missing => {}
                Object::Failed(why) => drop(all.failed.insert(reference, why)),
                Object::Unknown => {
                    let why = format!("failed to sync {} cache: timed out waiting for the condition", reference.kind());
                    all.failed.insert(reference, why);
                }
            }
        }
        all
    }

    /// What the pod's environments refer to.
    ///
    /// # Errors
    /// The first that could not be read.
    pub fn of_environment(&self, pod: &Pod) -> Result<Fetched, String> {
        let all = self.all(pod);
        let (config_maps, secrets) = env::references(pod);
        let unread = config_maps.iter().map(|n| all.failed_config_map(n)).chain(secrets.iter().map(|n| all.failed_secret(n)));
        match unread.flatten().next() {
            Some(why) => Err(why.clone()),
            None => Ok(all.fetched),
        }
    }

    /// Resolves when something has changed since [`Objects::changed`] was last called.
    pub async fn change(&self) {
        self.shared.change.notified().await;
    }

    /// The uids of the pods whose objects changed.
    pub fn changed(&self) -> HashSet<String> {
        let changed = std::mem::take(&mut *self.shared.changed.lock());
        let entries = self.shared.entries.lock();
        changed.iter().filter_map(|r| entries.get(r)).flat_map(|e| e.users.iter().cloned()).collect()
    }

    /// Puts an object there as if it had been watched.
    #[cfg(test)]
    pub fn set(&self, pod: &Pod, name: &str, object: Object) {
        self.hold(pod);
        let key = Key::new(meta::namespace(pod), name);
        let reference = if matches!(object, Object::Secret(_)) { Reference::Secret(key) } else { Reference::ConfigMap(key) };
        let state = self.shared.entries.lock()[&reference].state.clone();
        self.shared.publish(&reference, &state, object);
    }

    fn watch(&self, reference: &Reference) -> Entry {
        let entry = Entry { users: HashSet::new(), state: watch::channel(Object::Unknown).0, watching: self.shared.group.child() };
        let (shared, state, about) = (self.shared.clone(), entry.state.clone(), reference.clone());
        match reference {
            Reference::ConfigMap(_) => {
                entry
                    .watching
                    .spawn_loop("config map", Box::pin(follow(about, shared, state, |o: ConfigMap| Object::ConfigMap(Arc::new(o)))));
            }
            Reference::Secret(_) => {
                entry.watching.spawn_loop("secret", Box::pin(follow(about, shared, state, |o: Secret| Object::Secret(Arc::new(o)))));
            }
        }
        entry
    }
}

impl Shared {
    fn publish(&self, reference: &Reference, state: &watch::Sender<Object>, object: Object) {
        state.send_replace(object);
        self.changed.lock().insert(reference.clone());
        self.change.notify_one();
    }
}

impl Reference {
    pub fn key(&self) -> &Key {
        match self {
            Reference::ConfigMap(key) | Reference::Secret(key) => key,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Reference::ConfigMap(_) => "configmap",
            Reference::Secret(_) => "secret",
        }
    }
}

impl All {
    pub fn failed_config_map(&self, name: &str) -> Option<&String> {
        self.failed.get(&Reference::ConfigMap(Key::new(&self.namespace, name)))
    }

    pub fn failed_secret(&self, name: &str) -> Option<&String> {
        self.failed.get(&Reference::Secret(Key::new(&self.namespace, name)))
    }
}

async fn follow<K>(about: Reference, shared: Arc<Shared>, state: watch::Sender<Object>, wrap: fn(K) -> Object)
where
    K: client::Object,
{
    let (client, query) = (shared.client.clone(), Query::named(&about.key().namespace, &about.key().name));
    let show = |seen: Option<Seen<K>>| match seen {
        None => shared.publish(&about, &state, Object::Missing),
        Some(Seen { object, fault: None }) => shared.publish(&about, &state, wrap(object)),
        Some(Seen { fault: Some(why), .. }) => failed(&about, &shared, &state, &format!("it cannot be read: {why}")),
    };
    client::watch::follow(client, query, |change| match change {
        Change::Listed(all, _) | Change::Kept(all, _) => show(all.into_values().next()),
        Change::Put(seen) => show(Some(seen)),
        Change::Gone(_) => show(None),
        Change::Reached(_) => {}
        Change::Failed(error) => {
            tracing::warn!(ns = about.key().namespace, name = about.key().name, kind = about.kind(), %error, "watch failed; retrying");
            failed(&about, &shared, &state, &tokens::said(&error));
        }
    })
    .await;
}

/// What was seen before stays good while the server is away, or the object cannot be read.
fn failed(about: &Reference, shared: &Shared, state: &watch::Sender<Object>, why: &str) {
    if matches!(*state.borrow(), Object::Unknown | Object::Failed(_)) {
        shared.publish(about, state, Object::Failed(format!("failed to fetch {} {}: {why}", about.kind(), about.key())));
    }
}

/// All ConfigMaps and Secrets that a pod's environments and volumes name.
pub(super) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let (mut maps, mut secrets) = env::references(pod);
    for volume in meta::spec(pod).and_then(|s| s.volumes.as_deref()).unwrap_or_default() {
        of_volume(volume, &mut maps, &mut secrets);
    }
    let key = |name: &str| Key::new(meta::namespace(pod), name);
    let maps = maps.into_iter().filter(|n| !n.is_empty()).map(|n| Reference::ConfigMap(key(n)));
    let secrets = secrets.into_iter().filter(|n| !n.is_empty()).map(|n| Reference::Secret(key(n)));
    maps.chain(secrets).collect()
}

fn of_volume<'a>(volume: &'a Volume, maps: &mut Vec<&'a str>, secrets: &mut Vec<&'a str>) {
    maps.extend(volume.config_map.as_ref().map(|c| c.name.as_str()));
    secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
    for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
        maps.extend(source.config_map.as_ref().map(|c| c.name.as_str()));
        secrets.extend(source.secret.as_ref().map(|s| s.name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::container_config::testing::pod;

    fn map(rev: u32, value: &str) -> String {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"c","namespace":"default","resourceVersion":"{rev}"}},"data":{{"k":"{value}"}}}}"#
        )
    }

    const LISTED: &str = r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"1","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;

    /// An API server with `default/c`, which changes once it is watched, and nothing else; secrets are forbidden.
    fn server() -> kube::Client {
        let answer = |request: http::Request<kube::client::Body>| {
            let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
            let mut code = 200;
            let mut lines = Vec::new();
            if path.ends_with("/secrets") {
                code = 403;
                lines.push(r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"secrets \"s\" is forbidden"}"#.to_owned());
            } else {
                assert!(query.contains("fieldSelector=metadata.name%3D") && query.contains("sendInitialEvents=true"), "{query}");
                let is_there = query.contains("%3Dc");
                lines.extend(is_there.then(|| format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", map(1, "one"))));
                lines.push(format!("{LISTED}\n"));
                lines.extend(is_there.then(|| format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", map(2, "two"))));
            }
            let lines = futures::stream::iter(lines.into_iter().map(|l| Ok::<_, std::io::Error>(Frame::data(Bytes::from(l)))));
            let rest = if code == 200 { futures::stream::pending().left_stream() } else { futures::stream::empty().right_stream() };
            let body = StreamBody::new(lines.chain(rest));
            let reply = http::Response::builder().status(code).body(body).expect("a response");
            std::future::ready(Ok::<_, std::convert::Infallible>(reply))
        };
        kube::Client::new(tower::service_fn(answer), "default")
    }

    #[tokio::test]
    async fn objects_are_watched_one_by_one_while_they_are_used() {
        let group = Group::new();
        let objects = Objects::new(server(), &group);
        let p = pod(r#"{"containers":[{"name":"a","envFrom":[{"configMapRef":{"name":"missing"}},{"secretRef":{"name":"s"}}]}],
            "volumes":[{"name":"v","configMap":{"name":"c"}}]}"#);
        objects.hold(&p);
        objects.ready(&p, Duration::from_secs(10)).await;
        assert!(objects.all_seen(&p));
        let all = objects.all(&p);
        assert!(all.fetched.config_map("c").is_ok() && all.fetched.config_map("missing").is_err());
        assert_eq!(objects.of_environment(&p).unwrap_err(), "failed to fetch secret default/s: secrets \"s\" is forbidden");
        let changed = async {
            while objects.all(&p).fetched.config_maps["c"].data.as_ref().is_none_or(|d| d["k"] != "two") {
                objects.change().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), changed).await.expect("the change");
        assert_eq!(objects.changed(), HashSet::from(["u1".to_owned()]));
        objects.release("u1");
        assert!(objects.shared.entries.lock().is_empty());
        assert!(group.drain(Duration::from_secs(5)).await);
    }
}
