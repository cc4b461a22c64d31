//! Namespace that is to go -> its contents deleted, pods first, then itself. Source: `pkg/controller/namespace/deletion`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::core::v1::{Namespace, NamespaceCondition},
        apimachinery::pkg::apis::meta::v1::Time,
    },
    time::Timestamp,
};
use client::{Cache, Caches, kube, pods::Pod};
use futures::{StreamExt, stream};
use kube::ResourceExt;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake};

use serde::Deserialize;

use crate::{
    catalog::{AT_ONCE_MAX, Collection, collections, list_metadata},
    namespaces::is_active,
};

/// What is left, and grew no less, is looked at again after this long; the last pod that goes wakes us at once.
const AGAIN: Duration = Duration::from_secs(2);
const FINALIZER: &str = "kubernetes";
/// What a condition tells is made of words of the namespace's users, of which there may be any number (`metav1.Condition.message`).
const MESSAGE_BYTES_MAX: usize = 32_768;

pub struct Namespaces {
    client: kube::Client,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
    /// What was left when it was looked at last.
    left: Mutex<HashMap<Key, usize>>,
}

/// A namespace that is to go, and what is in it.
pub struct World {
    namespace: Arc<Namespace>,
    contents: Vec<Content>,
    /// Why some of it could not be looked at.
    trouble: Option<String>,
    /// Less is left than last time.
    moved: bool,
    now: Timestamp,
}

/// The objects of one collection.
struct Content {
    collection: Collection,
    count: usize,
    /// Those whose deletion has begun.
    going: usize,
    finalizers: BTreeMap<String, usize>,
}

/// Of no objects it has null for its items, as stock writes it.
#[derive(Deserialize)]
struct List {
    items: Option<Vec<Item>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
}

impl Namespaces {
    pub fn new(caches: &Caches, client: kube::Client) -> Self {
        Self { client, namespaces: caches.of(), pods: caches.of(), left: Mutex::default() }
    }

    async fn contents(&self, namespace: &str) -> (Vec<Content>, Option<String>) {
        let all = match collections(&self.client).await {
            Ok(all) => all,
            Err(error) => return (Vec::new(), Some(error.to_string())),
        };
        let ours = all.into_iter().filter(|c| c.namespaced && c.can("list") && c.can("delete"));
        let listed = stream::iter(ours).map(|collection| async {
            let list = list_metadata::<List>(&self.client, &collection.path(Some(namespace))).await;
            list.map(|list| content(collection, &list))
        });
        let (mut contents, mut trouble) = (Vec::new(), None);
        for outcome in listed.buffered(AT_ONCE_MAX).collect::<Vec<_>>().await {
            match outcome {
                Ok(found) => contents.extend(found),
                Err(error) => trouble = Some(error.to_string()),
            }
        }
        (contents, trouble)
    }

    /// Notes what is left; whether it is less than before.
    fn moved(&self, key: &Key, contents: &[Content]) -> bool {
        let now = contents.iter().map(|c| c.count).sum();
        self.left.lock().insert(key.clone(), now).is_none_or(|before| now < before)
    }
}

impl Controller for Namespaces {
    type World = World;

    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.namespaces);
        let (handle, namespaces) = (wake.handle(), self.namespaces.clone());
        let counts: Mutex<HashMap<String, usize>> = Mutex::default();
        self.pods.on_change(move |old, new| {
            let Some(namespace) = old.xor(new).and_then(|pod| pod.namespace()) else { return };
            if is_last(&counts, &namespace, new.is_some()) {
                let key = Key::new("", &namespace);
                if namespaces.get(&key).is_some_and(|ns| !is_active(&ns)) {
                    handle(key);
                }
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let going = |ns: &Arc<Namespace>| ns.metadata.deletion_timestamp.is_some() && finalizers(ns).any(|f| f == FINALIZER);
        let Some(namespace) = self.namespaces.get(key).filter(going) else {
            self.left.lock().remove(key);
            return None;
        };
        let (contents, trouble) = self.contents(&key.name).await;
        let moved = self.moved(key, &contents);
        Some(World { namespace, contents, trouble, moved, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

/// What is done stands before what is told of it: a status that cannot be written keeps nothing.
fn plan(world: &World) -> Plan {
    if world.contents.is_empty() && world.trouble.is_none() {
        let namespace = &world.namespace;
        let stays = finalizers(namespace).any(|f| f != FINALIZER) || !namespace.finalizers().is_empty();
        let told = conditions(world).filter(|_| stays).map(of_any_revision);
        return Plan::act([finalize(namespace)].into_iter().chain(told).collect());
    }
    let name = world.namespace.name_any();
    // What pods use (secrets, network policies, ...) stays until the last of them is gone (KEP-5080).
    let pods = world.contents.iter().find(|c| c.collection.plural == "pods" && c.collection.group.is_empty());
    let due: Vec<&Content> = pods.map_or_else(|| world.contents.iter().collect(), |pods| vec![pods]);
    let fresh = due.into_iter().filter(|c| c.going < c.count);
    let deletions = fresh.map(|c| Action::DeleteAll { resource: c.collection.gvr(), path: c.collection.path(Some(&name)) });
    let actions = deletions.chain(conditions(world)).collect();
    // Most deletions are done when they are answered: what is left shows at once.
    Plan::act(actions).again_in(if world.moved { Duration::ZERO } else { AGAIN })
}

/// Counts the pods of a namespace; true if the last one went.
fn is_last(counts: &Mutex<HashMap<String, usize>>, namespace: &str, came: bool) -> bool {
    let mut counts = counts.lock();
    if came {
        *counts.entry(namespace.to_owned()).or_insert(0) += 1;
        return false;
    }
    let Some(count) = counts.get_mut(namespace) else { return false };
    *count = count.saturating_sub(1);
    *count == 0 && counts.remove(namespace).is_some()
}

fn content(collection: Collection, list: &List) -> Option<Content> {
    let items = list.items.as_ref().filter(|items| !items.is_empty())?;
    let mut finalizers = BTreeMap::new();
    for finalizer in items.iter().flat_map(|i| &i.metadata.finalizers) {
        *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
    }
    let going = items.iter().filter(|i| i.metadata.deletion_timestamp.is_some()).count();
    Some(Content { collection, count: items.len(), going, finalizers })
}

fn finalizers(namespace: &Namespace) -> impl Iterator<Item = &str> {
    namespace.spec.iter().flat_map(|s| s.finalizers.iter().flatten()).map(String::as_str)
}

/// The server counts revisions of this very object: what was changed of it a moment ago must not refuse the second write.
fn of_any_revision(mut action: Action) -> Action {
    if let Action::Update { object, .. } = &mut action
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("resourceVersion");
    }
    action
}

/// A PUT to `finalize` without our own finalizer.
fn finalize(namespace: &Namespace) -> Action {
    let mut object = namespace.clone();
    if let Some(spec) = &mut object.spec {
        spec.finalizers = Some(finalizers(namespace).filter(|f| *f != FINALIZER).map(str::to_owned).collect());
    }
    match Action::update(&object) {
        Action::Update { resource, path, object } => Action::Update { resource, path: format!("{path}/finalize"), object },
        other => other,
    }
}

fn conditions(world: &World) -> Option<Action> {
    let mut wanted = vec![
        ok("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
        ok("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ok("NamespaceDeletionContentFailure", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ok("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
        ok("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
    ];
    if let Some(trouble) = &world.trouble {
        wanted[0] = failing("NamespaceDeletionDiscoveryFailure", "DiscoveryFailed", trouble.clone());
    }
    if !world.contents.is_empty() {
        let mut lines: Vec<String> = world.contents.iter().map(Content::remaining).collect();
        lines.sort();
        let message = format!("Some resources are remaining: {}", lines.join(", "));
        wanted[3] = failing("NamespaceContentRemaining", "SomeResourcesRemain", message);
    }
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in world.contents.iter().flat_map(|c| &c.finalizers) {
        *held.entry(finalizer).or_insert(0) += count;
    }
    if !held.is_empty() {
        let lines: Vec<String> = held.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
        let message = format!("Some content in the namespace has finalizers remaining: {}", lines.join(", "));
        wanted[4] = failing("NamespaceFinalizersRemaining", "SomeFinalizersRemain", message);
    }
    updated(world, wanted)
}

impl Content {
    fn remaining(&self) -> String {
        format!("{}.{} has {} resource instances", self.collection.plural, self.collection.group, self.count)
    }
}

/// The status with these conditions, if that changes anything worth telling.
fn updated(world: &World, wanted: Vec<NamespaceCondition>) -> Option<Action> {
    let mut namespace = (*world.namespace).clone();
    let status = namespace.status.get_or_insert_default();
    let old = status.conditions.take().unwrap_or_default();
    let same = |a: &NamespaceCondition, b: &NamespaceCondition| (&a.type_, &a.status, &a.message) == (&b.type_, &b.status, &b.message);
    if wanted.iter().all(|w| old.iter().any(|o| same(o, w))) {
        return None;
    }
    let since = |w: &NamespaceCondition| {
        let kept = old.iter().find(|o| o.type_ == w.type_ && o.status == w.status);
        kept.and_then(|o| o.last_transition_time.clone()).or(Some(Time(world.now)))
    };
    status.conditions = Some(wanted.iter().map(|w| NamespaceCondition { last_transition_time: since(w), ..w.clone() }).collect());
    Some(Action::update_status(&namespace))
}

fn ok(kind: &str, reason: &str, message: &str) -> NamespaceCondition {
    NamespaceCondition { status: "False".into(), ..failing(kind, reason, message.into()) }
}

fn failing(kind: &str, reason: &str, message: String) -> NamespaceCondition {
    NamespaceCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(shortened(message)),
        last_transition_time: None,
    }
}

fn shortened(mut message: String) -> String {
    const MORE: &str = "...";
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - MORE.len()));
        message.push_str(MORE);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_of_nothing_is_read_however_it_is_written() {
        for empty in [json!({"items": null}), json!({"items": []}), json!({})] {
            let list: List = serde_json::from_value(empty).unwrap();
            assert!(list.items.unwrap_or_default().is_empty());
        }
    }

    fn world(contents: &[(&str, usize)]) -> World {
        let namespace = json!({
            "metadata": {"name": "shop", "uid": "u", "resourceVersion": "7", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes", "other"]}, "status": {"phase": "Terminating"},
        });
        let content = |(plural, count): &(&str, usize)| Content {
            collection: Collection {
                group: String::new(),
                version: "v1".into(),
                plural: (*plural).into(),
                kind: "K".into(),
                namespaced: true,
                verbs: vec![],
            },
            count: *count,
            going: 0,
            finalizers: BTreeMap::new(),
        };
        World {
            namespace: Arc::new(serde_json::from_value(namespace).unwrap()),
            contents: contents.iter().map(content).collect(),
            trouble: None,
            moved: true,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn deleted(plan: &Plan) -> Vec<&str> {
        let path = |a: &Action| matches!(a, Action::DeleteAll { .. });
        plan.actions.iter().filter(|a| path(a)).map(|a| if let Action::DeleteAll { path, .. } = a { path.as_str() } else { "" }).collect()
    }

    #[test]
    fn pods_go_before_what_they_use() {
        let both = plan(&world(&[("configmaps", 1), ("pods", 2)]));
        assert_eq!(deleted(&both), ["/api/v1/namespaces/shop/pods"]);
        assert!(both.again.is_some());
        let rest = plan(&world(&[("configmaps", 1), ("secrets", 2)]));
        assert_eq!(deleted(&rest).len(), 2);
    }

    #[test]
    fn all_is_deleted_before_it_is_told_what_is_left_and_that_is_short() {
        let mut full = world(&[("configmaps", 15_000), ("secrets", 1)]);
        full.contents[0].finalizers = (0..15_000).map(|n| (format!("{n}.example.com/{}", "\u{e9}".repeat(60)), 1)).collect();
        let plan = plan(&full);
        let Some((Action::Update { path, object, .. }, before)) = plan.actions.split_last() else { panic!("{plan:?}") };
        assert_eq!((path.as_str(), before.len()), ("/api/v1/namespaces/shop/status", deleted(&plan).len()));
        assert!(object.to_string().len() < 2 * MESSAGE_BYTES_MAX);
    }

    #[test]
    fn what_goes_already_is_waited_for() {
        let mut waiting = world(&[("pods", 2)]);
        (waiting.contents[0].going, waiting.moved) = (2, false);
        let plan = plan(&waiting);
        assert_eq!((deleted(&plan).len(), plan.again), (0, Some(AGAIN)));
    }

    #[test]
    fn the_last_pod_is_known() {
        let counts = Mutex::default();
        let came = |came| is_last(&counts, "shop", came);
        assert_eq!([came(true), came(true), came(false), came(false), came(false)], [false, false, false, true, false]);
    }

    #[test]
    fn an_empty_namespace_loses_our_finalizer_only() {
        let plan = plan(&world(&[]));
        let [Action::Update { path, object, .. }, Action::Update { path: told, object: status, .. }] = &plan.actions[..] else {
            panic!("{plan:?}")
        };
        assert_eq!((path.as_str(), told.as_str()), ("/api/v1/namespaces/shop/finalize", "/api/v1/namespaces/shop/status"));
        assert_eq!(object["spec"]["finalizers"], json!(["other"]));
        assert_eq!((status["metadata"]["resourceVersion"].as_str(), status["metadata"]["uid"].as_str()), (None, Some("u")));
    }
}
