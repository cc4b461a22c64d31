//! Discovery and a watch of each collection -> the graph, kept current.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    task::Group,
    time::Timestamp,
};
use client::kube;
use futures::StreamExt;
use kube::{
    Api, Resource,
    core::{ApiResource, DynamicResourceScope},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;

use super::graph::{Graph, Node, Owner};
use crate::{
    catalog::{Collection, Served, served},
    census::{Census, Change},
};

/// Collections that neither own nor are owned by rule (upstream: `DefaultIgnoredResources`).
const IGNORED: [&str; 1] = ["events"];
/// How often the server is asked what it serves.
const DISCOVERY_EACH: Duration = Duration::from_secs(30);
/// The first wait after a discovery that failed; each is twice as long, up to [`DISCOVERY_EACH`].
const DISCOVERY_AGAIN: Duration = Duration::from_secs(1);
/// So long a collection that cannot be listed keeps owners from leaving (upstream: `initialSyncTimeout`).
const LISTED_WITHIN: Duration = Duration::from_secs(30);

pub type WakeUid = Arc<dyn Fn(&str) + Send + Sync>;

/// Who is told of what is seen.
#[derive(Clone)]
pub struct Told {
    pub graph: Arc<Mutex<Graph>>,
    /// Called with the uid of each object whose turn has come.
    pub wake: WakeUid,
    pub census: Census,
}

/// Watches every collection that can be deleted from.
pub fn follow(client: kube::Client, told: Told, group: &Group) {
    let monitors = Monitors { client, told, group: group.clone(), running: HashMap::new(), begun: None };
    group.spawn_loop("garbage collector discovery", Box::pin(monitors.run()));
}

struct Monitors {
    client: kube::Client,
    told: Told,
    group: Group,
    /// By group and plural.
    running: HashMap<(String, String), Monitor>,
    begun: Option<Instant>,
}

/// The watch of one collection.
struct Monitor {
    version: String,
    group: Group,
    known: Arc<Mutex<Uids>>,
}

type Uids = HashSet<Arc<str>>;

impl Monitors {
    async fn run(mut self) {
        let mut pause = DISCOVERY_AGAIN;
        loop {
            match served(&self.client).await {
                Ok(served) if !served.is_empty() => {
                    self.sync(&served);
                    pause = DISCOVERY_EACH;
                }
                Ok(_) => tracing::warn!("garbage collector: the server serves nothing; asking again"),
                Err(error) => tracing::warn!(%error, "garbage collector: discovery failed; trying again"),
            }
            tokio::time::sleep(self.until_whole(pause)).await;
            pause = (pause * 2).min(DISCOVERY_EACH);
        }
    }

    /// Nobody waits for ever for a collection that cannot be listed.
    fn until_whole(&self, pause: Duration) -> Duration {
        let Some(begun) = self.begun else { return pause };
        let mut graph = self.told.graph.lock();
        if graph.is_whole() {
            return pause;
        }
        let left = (begun + LISTED_WITHIN).saturating_duration_since(Instant::now());
        if left.is_zero() {
            let without = graph.give_up_waiting();
            tracing::warn!(?without, "garbage collector: not all collections could be listed; going on without");
        }
        if left.is_zero() { pause } else { pause.min(left) }
    }

    /// Watches what is new, and ends the watches of what is no more served. What was seen of it stays in the graph: that a kind is not
    /// served does not mean that its objects are gone.
    fn sync(&mut self, served: &[Served]) {
        self.told.graph.lock().serve(served);
        self.told.census.serve(served);
        let is_first = self.begun.is_none();
        self.begun.get_or_insert_with(Instant::now);
        let is_watched = |s: &&Served| {
            let c = &s.collection;
            s.preferred && ["delete", "list", "watch"].iter().all(|verb| c.can(verb)) && !IGNORED.contains(&c.plural.as_str())
        };
        let wanted: HashMap<(String, String), &Served> =
            served.iter().filter(is_watched).map(|s| ((s.collection.group.clone(), s.collection.plural.clone()), s)).collect();
        for (name, served) in &wanted {
            let known = match self.running.get(name) {
                // It had gone, and is back.
                Some(monitor) if monitor.group.is_stopping() => monitor.known.clone(),
                // Of a group that does not answer nothing new is known.
                Some(monitor) if served.stale || monitor.version == served.collection.version => continue,
                Some(monitor) => monitor.known.clone(),
                None => Arc::default(),
            };
            self.start(name.clone(), Arc::new(served.collection.clone()), known, is_first);
        }
        for (name, monitor) in &mut self.running {
            if !wanted.contains_key(name) {
                // What it knows is compared with once it is back.
                monitor.group.stop();
                monitor.version.clear();
            }
        }
    }

    fn start(&mut self, name: (String, String), collection: Arc<Collection>, known: Arc<Mutex<Uids>>, is_first: bool) {
        if is_first {
            self.told.graph.lock().expect(collection.clone());
        }
        let monitor = Monitor { version: collection.version.clone(), group: self.group.child(), known: known.clone() };
        let (client, told, own) = (self.client.clone(), self.told.clone(), monitor.group.clone());
        monitor.group.spawn_loop("garbage collector watch", Box::pin(watch(client, collection, told, known, own)));
        if let Some(old) = self.running.insert(name, monitor) {
            old.group.stop();
        }
    }
}

/// Ends, with its group, once the collection is no more served; the next discovery that has it again begins anew.
async fn watch(client: kube::Client, collection: Arc<Collection>, told: Told, known: Arc<Mutex<Uids>>, own: Group) {
    let Told { graph, wake, census } = told;
    let resource = ApiResource {
        group: collection.group.clone(),
        version: collection.version.clone(),
        api_version: collection.api_version(),
        kind: collection.kind.clone(),
        plural: collection.plural.clone(),
    };
    let api: Api<Entry> = Api::all_with(client, &resource);
    let mut events = Box::pin(watcher::watcher(api, watcher::Config::default().streaming_lists()).default_backoff());
    let mut listed = Uids::new();
    while let Some(event) = events.next().await {
        let turn = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(entry)) => take(&graph, &collection, &entry, &mut listed).0,
            Ok(Event::Apply(entry)) => {
                let (turn, is_new) = take(&graph, &collection, &entry, &mut known.lock());
                if is_new {
                    census.tell(&collection, Change::Came(entry.namespace()));
                }
                turn
            }
            Ok(Event::Delete(entry)) => {
                let uid = entry.0.uid.as_deref().unwrap_or_default();
                known.lock().remove(uid);
                census.tell(&collection, Change::Went(entry.namespace()));
                graph.lock().remove(uid, true)
            }
            Ok(Event::InitDone) => {
                census.tell(&collection, Change::Listed);
                let mut known = known.lock();
                let mut graph = graph.lock();
                graph.listed(&collection);
                let old = std::mem::replace(&mut *known, std::mem::take(&mut listed));
                old.difference(&known).flat_map(|uid| graph.remove(uid, false)).collect()
            }
            Err(error) if is_gone(&error) => {
                tracing::debug!(resource = collection.plural, group = collection.group, "no more served; watch ends");
                own.stop();
                return;
            }
            Err(error) => {
                tracing::warn!(resource = collection.plural, %error, "watch failed; trying again");
                continue;
            }
        };
        turn.iter().for_each(|uid| wake(uid));
    }
}

/// Whether there is no such collection.
fn is_gone(error: &watcher::Error) -> bool {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status,
        _ => return false,
    };
    status.code == 404
}

/// Whose turn it is, and whether the object is new.
fn take(graph: &Mutex<Graph>, collection: &Arc<Collection>, entry: &Entry, known: &mut Uids) -> (Vec<Arc<str>>, bool) {
    let node = entry.node(collection);
    let is_new = known.insert(node.uid.clone());
    (graph.lock().put(node), is_new)
}

/// An object's metadata, as far as garbage is concerned. Whatever else is in it, and how odd, does not keep it from being read.
#[derive(Clone, Debug)]
pub struct Entry(ObjectMeta);

impl Entry {
    fn namespace(&self) -> &str {
        self.0.namespace.as_deref().unwrap_or_default()
    }

    pub fn node(&self, collection: &Arc<Collection>) -> Node {
        let metadata = &self.0;
        let owners = metadata.owner_references.iter().flatten().map(|reference| Owner {
            reference: serde_json::to_string(reference).unwrap_or_default().into(),
            blocks: reference.block_owner_deletion == Some(true),
            uid: reference.uid.as_str().into(),
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            name: reference.name.as_str().into(),
        });
        Node {
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            collection: collection.clone(),
            key: Key::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default()),
            revision: metadata.resource_version.as_deref().unwrap_or_default().into(),
            owners: owners.collect(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Resource for Entry {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Read { metadata: read } = Read::deserialize(from)?;
        let texts = |list: Option<Vec<Value>>| list.map(|l| l.into_iter().filter_map(|v| v.as_str().map(str::to_owned)).collect());
        Ok(Self(ObjectMeta {
            name: read.name,
            namespace: read.namespace,
            uid: read.uid,
            resource_version: read.resource_version,
            // That it is there is all that counts.
            deletion_timestamp: read.deletion_timestamp.map(|_| Time(Timestamp::UNIX_EPOCH)),
            finalizers: texts(read.finalizers),
            owner_references: read.owner_references.map(|list| list.into_iter().map(Into::into).collect()),
            ..ObjectMeta::default()
        }))
    }
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    finalizers: Option<Vec<Value>>,
    owner_references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Whole(OwnerReference),
    /// What is of another type than it should be says nothing.
    Odd(Value),
}

impl From<Reference> for OwnerReference {
    fn from(read: Reference) -> Self {
        let odd = match read {
            Reference::Whole(reference) => return reference,
            Reference::Odd(odd) => odd,
        };
        let text = |field: &str| odd[field].as_str().unwrap_or_default().to_owned();
        Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: odd["controller"].as_bool(),
            block_owner_deletion: odd["blockOwnerDeletion"].as_bool(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

    const BOUND: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_with_its_kind_and_begins_again_with_it() {
        let (asked, code) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU16::new(404)));
        let server = {
            let (asked, code) = (asked.clone(), code.clone());
            tower::service_fn(move |_: http::Request<kube::client::Body>| {
                asked.fetch_add(1, Ordering::SeqCst);
                let answer = http::Response::builder().status(code.load(Ordering::SeqCst)).body(kube::client::Body::empty());
                async { Ok::<_, std::convert::Infallible>(answer.unwrap()) }
            })
        };
        let group = Group::new();
        let mut monitors = Monitors {
            client: kube::Client::new(server, "default"),
            told: Told { graph: Arc::default(), wake: Arc::new(|_| {}), census: Census::default() },
            group: group.clone(),
            running: HashMap::new(),
            begun: None,
        };
        let verbs = ["delete", "list", "watch"].map(str::to_owned).into();
        let collection =
            Collection { group: "g".into(), version: "v1".into(), kind: "K".into(), plural: "ks".into(), verbs, ..Collection::default() };
        let served = [Served { collection, preferred: true, stale: false }];
        let mut seen = 0;
        for _ in 0..2 {
            monitors.sync(&served);
            let own = monitors.running.values().next().unwrap().group.clone();
            tokio::time::timeout(BOUND, own.stopping()).await.expect("the watch ends");
            assert!(asked.load(Ordering::SeqCst) > seen, "it asked anew");
            seen = asked.load(Ordering::SeqCst);
        }
        // A server that fails is asked again and again.
        code.store(500, Ordering::SeqCst);
        monitors.sync(&served);
        let own = monitors.running.values().next().unwrap().group.clone();
        assert!(tokio::time::timeout(BOUND, own.stopping()).await.is_err());
        assert!(asked.load(Ordering::SeqCst) > seen + 1 && group.fault().is_none());
        group.stop();
    }

    #[test]
    fn whatever_the_server_admits_is_read() {
        let odd = r#"{"kind": "K", "spec": 7, "metadata": {"name": "a b", "uid": "u", "resourceVersion": "5", "namespace": null,
            "deletionTimestamp": "0001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 9223372036854775807, "creationTimestamp": null,
            "labels": {"a": null}, "annotations": null, "managedFields": [{"time": null, "fieldsV1": null}, null],
            "finalizers": ["x", null], "ownerReferences": [{"uid": "o", "name": "a/../b", "kind": null, "controller": null}, null]}}"#;
        let node = serde_json::from_str::<Entry>(odd).unwrap().node(&Arc::default());
        assert_eq!(
            (&*node.uid, node.key.name.as_str(), node.deleting, node.finalizers.as_slice()),
            ("u", "a b", true, &["x".to_owned()][..])
        );
        assert_eq!((&*node.owners[0].uid, &*node.owners[0].name, node.owners.len()), ("o", "a/../b", 2));
        let plain = serde_json::from_str::<Entry>(r#"{"metadata": {"deletionTimestamp": null}}"#).unwrap().node(&Arc::default());
        assert!(!plain.deleting && plain.owners.is_empty());
    }
}
