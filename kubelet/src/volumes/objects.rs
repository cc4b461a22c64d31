//! Pods -> the ConfigMaps and Secrets they refer to: each watched by itself while a pod here needs it, and no others.
//!
//! A pod may name as many as fit into it. Those that are too many are not watched but read again and again, one of a pod after the other: they cost the node no
//! stream, and no place among what it keeps for a start without a server.
//!
//! Source: the watch-based and the cache-based managers of `pkg/kubelet/util/manager`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
    turns::{Silent, Turns},
};

/// Objects of one pod that are watched, while the node watches few...
const POD_WATCHES_MAX: usize = 128;
/// ... and where it watches [`NODE_WATCHES_MAX`]: no pod is without, however many others ask for.
const POD_WATCHES_CROWDED_MAX: usize = 24;
const NODE_WATCHES_MAX: usize = 1024;
/// What is not watched is read anew so often: upstream's lifetime of what its cache-based managers hold.
const READ_EVERY: Duration = Duration::from_secs(60);
/// Objects of this node that are read at a time; pods take turns.
const READS_MAX: usize = 4;
/// Between two reads of one of them.
const READ_PAUSE: Duration = Duration::from_millis(10);
/// One of them. Who waited for its turn then is not answered either, and the pod's others wait until it is tried again.
const READ_BOUND: Duration = Duration::from_secs(10);
const READ_RETRY: Duration = Duration::from_secs(10);

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
    /// How many of them are watched; written under their lock.
    watched: AtomicUsize,
    /// By uid, of the pods that name more than are watched.
    readers: Mutex<HashMap<String, Reader>>,
    reads: Turns,
    /// Objects that changed since they were last asked for; bounded by the number of objects.
    changed: Mutex<BTreeSet<Reference>>,
    change: Notify,
}

struct Entry {
    users: HashSet<String>,
    state: watch::Sender<Object>,
    /// Stops the watch; `None` where the object is read.
    watching: Option<Group>,
}

/// Who reads what of a pod's objects is not watched.
struct Reader {
    what: Arc<[Reference]>,
    /// Stops it.
    reading: Group,
    is_told: bool,
}

impl Objects {
    /// Watches run in `group`.
    pub fn new(client: kube::Client, group: &Group) -> Self {
        let shared = Shared {
            client,
            group: group.clone(),
            entries: Mutex::default(),
            watched: AtomicUsize::new(0),
            readers: Mutex::default(),
            reads: Turns::new(READS_MAX),
            changed: Mutex::default(),
            change: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Watches what the pod refers to, or reads it where that is too much, until [`Objects::release`].
    pub fn hold(&self, pod: &Pod) {
        let uid = meta::uid(pod);
        let mut entries = self.shared.entries.lock();
        let (mut mine, mut read) = (0, Vec::new());
        for reference in references(pod) {
            let room =
                if self.shared.watched.load(Ordering::Relaxed) < NODE_WATCHES_MAX { POD_WATCHES_MAX } else { POD_WATCHES_CROWDED_MAX };
            let entry = entries.entry(reference.clone()).or_insert_with(|| {
                if mine >= room {
                    return Entry::default();
                }
                self.shared.watched.fetch_add(1, Ordering::Relaxed);
                self.watch(&reference)
            });
            entry.users.insert(uid.to_owned());
            match entry.watching {
                Some(_) => mine += 1,
                None => read.push(reference),
            }
        }
        drop(entries);
        self.read(uid, read.into());
    }

    /// Has these objects read for the pod, and no others.
    fn read(&self, uid: &str, what: Arc<[Reference]>) {
        let mut readers = self.shared.readers.lock();
        if readers.get(uid).map_or(what.is_empty(), |reader| reader.what == what) {
            return;
        }
        let before = readers.remove(uid);
        if let Some(before) = &before {
            before.reading.stop();
        }
        if what.is_empty() {
            return;
        }
        let reading = self.shared.group.child();
        reading.spawn_loop("objects that are not watched", Box::pin(read_all(self.shared.clone(), what.clone())));
        readers.insert(uid.to_owned(), Reader { what, reading, is_told: before.is_some_and(|before| before.is_told) });
    }

    /// How many of the pod's objects are not watched; once, and `None` where all are.
    pub fn untold(&self, uid: &str) -> Option<usize> {
        let mut readers = self.shared.readers.lock();
        let reader = readers.get_mut(uid)?;
        (!std::mem::replace(&mut reader.is_told, true)).then_some(reader.what.len())
    }

    /// Ends the watches that no other pod needs.
    pub fn release(&self, uid: &str) {
        self.read(uid, [].into());
        let mut entries = self.shared.entries.lock();
        entries.retain(|_, entry| {
            entry.users.remove(uid);
            let needed = !entry.users.is_empty();
            if let Some(watching) = entry.watching.as_ref().filter(|_| !needed) {
                watching.stop();
                self.shared.watched.fetch_sub(1, Ordering::Relaxed);
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
        let (entry, watching) = (Entry::default(), self.shared.group.child());
        let (shared, state, about) = (self.shared.clone(), entry.state.clone(), reference.clone());
        match reference {
            Reference::ConfigMap(_) => {
                watching.spawn_loop("config map", Box::pin(follow(about, shared, state, |o: ConfigMap| Object::ConfigMap(Arc::new(o)))));
            }
            Reference::Secret(_) => {
                watching.spawn_loop("secret", Box::pin(follow(about, shared, state, |o: Secret| Object::Secret(Arc::new(o)))));
            }
        }
        Entry { watching: Some(watching), ..entry }
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self { users: HashSet::new(), state: watch::channel(Object::Unknown).0, watching: None }
    }
}

impl Shared {
    fn publish(&self, reference: &Reference, state: &watch::Sender<Object>, object: Object) {
        state.send_replace(object);
        self.changed.lock().insert(reference.clone());
        self.change.notify_one();
    }
}

impl Object {
    /// What tells one state of it from another; `None` before it was seen.
    fn version(&self) -> Option<(Option<&str>, Option<&str>)> {
        match self {
            Self::Unknown | Self::Failed(_) => None,
            Self::Missing => Some((None, None)),
            Self::ConfigMap(map) => Some((map.metadata.uid.as_deref(), map.metadata.resource_version.as_deref())),
            Self::Secret(secret) => Some((secret.metadata.uid.as_deref(), secret.metadata.resource_version.as_deref())),
        }
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

/// Reads these objects, again and again.
async fn read_all(shared: Arc<Shared>, what: Arc<[Reference]>) {
    loop {
        let mut silent_from = None;
        for (at, about) in what.iter().enumerate() {
            let state = shared.entries.lock().get(about).map(|entry| entry.state.clone());
            let Some(state) = state else { continue };
            let read = match about {
                Reference::ConfigMap(_) => read::<ConfigMap>(about, &shared, &state, |o| Object::ConfigMap(Arc::new(o))).await,
                Reference::Secret(_) => read::<Secret>(about, &shared, &state, |o| Object::Secret(Arc::new(o))).await,
            };
            if read == Err(Silent) {
                silent_from = Some(at);
                break;
            }
        }
        let Some(from) = silent_from else {
            tokio::time::sleep(READ_EVERY).await;
            continue;
        };
        for about in what.iter().skip(from) {
            let state = shared.entries.lock().get(about).map(|entry| entry.state.clone());
            if let Some(state) = state {
                failed(about, &shared, &state, "the server does not answer");
            }
        }
        tokio::time::sleep(READ_RETRY).await;
    }
}

async fn read<K: client::Object>(
    about: &Reference,
    shared: &Shared,
    state: &watch::Sender<Object>,
    wrap: fn(K) -> Object,
) -> Result<(), Silent> {
    let key = about.key();
    let ask = async {
        let answer = client::watch::get::<K>(&shared.client, Some(&key.namespace), &key.name).await;
        tokio::time::sleep(READ_PAUSE).await;
        answer
    };
    let new = match shared.reads.within(READ_BOUND, ask).await? {
        Ok(Seen { object, fault: None }) => wrap(object),
        Ok(Seen { fault: Some(why), .. }) => {
            failed(about, shared, state, &format!("it cannot be read: {why}"));
            return Ok(());
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Object::Missing,
        Err(error) => {
            failed(about, shared, state, &tokens::said(&error));
            return Ok(());
        }
    };
    let is_same = new.version() == state.borrow().version();
    if !is_same {
        shared.publish(about, state, new);
    }
    Ok(())
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

    /// Answers watches and reads of any ConfigMap, and counts both; what is read has changed each time.
    fn counting() -> (kube::Client, Arc<[AtomicUsize; 2]>) {
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let counted = counts.clone();
        let answer = move |request: http::Request<kube::client::Body>| {
            let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default());
            let is_watch = query.contains("watch=");
            let count = counted[usize::from(!is_watch)].fetch_add(1, Ordering::Relaxed);
            let read = format!(
                r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{}","namespace":"default","resourceVersion":"{count}"}}}}"#,
                path.rsplit('/').next().unwrap_or_default()
            );
            let (line, rest) = if is_watch {
                (format!("{LISTED}\n"), futures::stream::pending().left_stream())
            } else {
                (read, futures::stream::empty().right_stream())
            };
            let line = futures::stream::once(std::future::ready(Ok::<_, std::io::Error>(Frame::data(Bytes::from(line)))));
            let reply = http::Response::new(StreamBody::new(line.chain(rest)));
            std::future::ready(Ok::<_, std::convert::Infallible>(reply))
        };
        (kube::Client::new(tower::service_fn(answer), "default"), counts)
    }

    fn naming(uid: &str, objects: usize) -> Pod {
        let from: Vec<_> = (0..objects).map(|at| serde_json::json!({"configMapRef": {"name": format!("{uid}-{at}")}})).collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": uid, "namespace": "default", "uid": uid}, "spec": {"containers": [{"name": "a", "envFrom": from}]},
        }))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_names_thousands_leaves_the_node_to_others() {
        let (group, (client, counts)) = (Group::new(), counting());
        let objects = Objects::new(client, &group);
        let count = |which: usize| counts[which].load(Ordering::Relaxed);
        let (greedy, modest) = (naming("greedy", 2000), naming("modest", 20));
        objects.hold(&greedy);
        objects.hold(&greedy);
        objects.hold(&modest);
        objects.ready(&modest, Duration::from_secs(1)).await;
        assert!(objects.all_seen(&modest) && !objects.all_seen(&greedy));
        assert_eq!(
            (objects.untold("modest"), objects.untold("greedy"), objects.untold("greedy")),
            (None, Some(2000 - POD_WATCHES_MAX), None)
        );
        objects.ready(&greedy, Duration::from_secs(60)).await;
        assert!(objects.all_seen(&greedy), "it is slow, and has all of them");
        assert_eq!((count(0), count(1)), (POD_WATCHES_MAX + 20, 2000 - POD_WATCHES_MAX));
        // A change is seen, and whose it is.
        objects.changed();
        let changed = async {
            loop {
                objects.change().await;
                let changed = objects.changed();
                if !changed.is_empty() {
                    return changed;
                }
            }
        };
        let changed = tokio::time::timeout(READ_EVERY * 2, changed).await.expect("a change is read");
        assert_eq!(changed, HashSet::from(["greedy".to_owned()]));
        objects.release("greedy");
        objects.release("modest");
        assert!(objects.shared.entries.lock().is_empty() && objects.shared.readers.lock().is_empty());
        assert_eq!(objects.shared.watched.load(Ordering::Relaxed), 0);
        assert!(group.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_waited_for_once_by_all_that_are_read() {
        let silent = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let group = Group::new();
        let objects = Objects::new(kube::Client::new(silent, "default"), &group);
        let pods: Vec<Pod> = (0..20).map(|at| naming(&format!("greedy{at}"), POD_WATCHES_MAX + 50)).collect();
        pods.iter().for_each(|pod| objects.hold(pod));
        let read = |pod: &Pod| {
            let entries = objects.shared.entries.lock();
            let of_pod = |entry: &&Entry| entry.users.contains(meta::uid(pod)) && entry.watching.is_none();
            entries.values().filter(of_pod).all(|entry| matches!(*entry.state.borrow(), Object::Failed(_)))
        };
        tokio::time::sleep(READ_BOUND * 2).await;
        assert!(pods.iter().all(read), "each waits for its own silence");
        group.stop();
    }

    #[tokio::test(start_paused = true)]
    async fn where_many_are_greedy_each_pod_is_still_watched_for() {
        let (group, (client, _)) = (Group::new(), counting());
        let objects = Objects::new(client, &group);
        let watched = || objects.shared.entries.lock().values().filter(|entry| entry.watching.is_some()).count();
        for at in 0..NODE_WATCHES_MAX / POD_WATCHES_MAX {
            objects.hold(&naming(&format!("greedy{at}"), 200));
        }
        assert_eq!(watched(), NODE_WATCHES_MAX);
        objects.hold(&naming("modest", POD_WATCHES_CROWDED_MAX));
        objects.hold(&naming("late", 200));
        assert_eq!((watched(), objects.untold("modest")), (NODE_WATCHES_MAX + 2 * POD_WATCHES_CROWDED_MAX, None));
        assert_eq!(objects.untold("late"), Some(200 - POD_WATCHES_CROWDED_MAX));
        group.stop();
    }
}
