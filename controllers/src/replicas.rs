//! A count, a template, the pods there are -> pods to make and to delete. What ReplicaSet and ReplicationController do, and what DaemonSet, StatefulSet and Job share of it.
//!
//! Source: `pkg/controller/replicaset/replica_set.go`, `pkg/controller/controller_utils.go`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use api::{
    Key,
    k8s::{
        api::core::v1::{self, PodTemplateSpec},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    },
    selector::Labels,
    time::{Timestamp, span, whole_seconds},
};
use client::{Cache, Object, kube, pods::Pod};
use kube::Resource;
use parking_lot::{Mutex, RwLock};
use reconcile::{
    Action, Owner, Wake, claim,
    selectors::{self, Selectors},
};

use crate::{
    lasted::Lasted,
    owned::{Owned, Tally},
};

/// The condition of a set whose pods cannot be made.
pub const FAILURE: &str = "ReplicaFailure";
/// Pods made or deleted in one run; the next run does the rest.
const BURST: usize = 500;
/// What goes before the five characters of a generated name (apiserver `storage/names`).
const BASE_CHARS: usize = 58;

/// What a set wants.
pub struct Wanted<'a, K> {
    pub set: &'a K,
    pub owner: Owner,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub template: Option<&'a PodTemplateSpec>,
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pods: Pods,
    pub lasted: Lasted,
    /// Names of new pods come from here: another number each time.
    pub random: u64,
    /// Why the last pod could not be made.
    pub failure: Option<String>,
}

/// The pods as far as they have to be known.
#[derive(Clone, Debug)]
pub enum Pods {
    /// None of them is to be changed: their number says it all.
    Counted(Tally),
    /// The set's pods, and the orphans that it would have.
    Listed(Vec<Arc<Pod>>),
}

/// What is to be done, and what the status says.
#[derive(Debug, Default, PartialEq)]
pub struct Decided {
    pub actions: Vec<Action>,
    pub counts: Counts,
    /// When a pod that is ready will count as available.
    pub again: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    pub terminating: i32,
}

impl Pods {
    /// Those of the set with this uid. Only a set that has to give up pods, to adopt or to release some costs O(pods).
    pub fn look(
        owned: &Owned,
        set: &ObjectMeta,
        selector: Option<&Labels>,
        (replicas, min_ready_seconds): (i32, i32),
        now: Timestamp,
    ) -> Self {
        let (namespace, uid) = (set.namespace.as_deref().unwrap_or_default(), set.uid.as_deref().unwrap_or_default());
        let Some(selector) = selector else { return Self::Counted(Tally::default()) };
        let adopts = set.deletion_timestamp.is_none();
        let mut orphans = if adopts { owned.orphans(namespace, selector) } else { Vec::new() };
        orphans.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        let young = Timestamp::from_second(now.as_second().saturating_sub(i64::from(min_ready_seconds.max(0)))).unwrap_or(Timestamp::MIN);
        let tally = owned.tally(namespace, uid, young);
        if orphans.is_empty() && tally.is_within(selector) && tally.active() <= usize::try_from(replicas).unwrap_or(0) {
            return Self::Counted(tally);
        }
        let mut all = owned.pods(namespace, uid);
        all.append(&mut orphans);
        Self::Listed(all)
    }

    /// Since when those are ready that may not be available yet.
    pub fn young(&self, min_ready_seconds: i32, now: Timestamp) -> Vec<Timestamp> {
        let is_young = |since: &Timestamp| Lasted::at(now).left_seconds(*since, min_ready_seconds) > 0;
        match self {
            Self::Counted(tally) => {
                tally.newly_ready().filter_map(|(since, _)| Timestamp::from_second(since).ok()).filter(is_young).collect()
            }
            Self::Listed(pods) => young(pods, min_ready_seconds, now),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Counted(tally) => tally.active(),
            Self::Listed(pods) => pods.len(),
        }
    }
}

pub fn decide<K: Object>(wanted: &Wanted<'_, K>, seen: &Seen) -> Decided {
    match &seen.pods {
        Pods::Counted(tally) => from_count(wanted, tally, seen),
        Pods::Listed(pods) => from_list(wanted, pods, seen),
    }
}

fn from_count<K: Object>(wanted: &Wanted<'_, K>, tally: &Tally, seen: &Seen) -> Decided {
    let labels = wanted.template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let left = |since: i64| available_in(Timestamp::from_second(since).unwrap_or(Timestamp::MIN), wanted.min_ready_seconds, &seen.lasted);
    let young = tally.newly_ready().filter(|(since, _)| left(*since) > 0);
    let (again, waiting) = young.fold((None, 0), |(soonest, all), (since, pods)| (least(soonest, left(since)), all + pods));
    let counts = Counts {
        replicas: count(tally.active()),
        fully_labeled: count(tally.having(labels)),
        ready: count(tally.ready()),
        available: count(tally.ready().saturating_sub(waiting)),
        terminating: count(tally.terminating()),
    };
    let actions = if wanted.owner.deleting { Vec::new() } else { additions(wanted, tally.active(), seen) };
    Decided { actions, counts, again: again.map(|s| Duration::from_secs(s.unsigned_abs())) }
}

fn least(a: Option<i64>, b: i64) -> Option<i64> {
    Some(a.map_or(b, |a| a.min(b)))
}

fn from_list<K: Object>(wanted: &Wanted<'_, K>, pods: &[Arc<Pod>], seen: &Seen) -> Decided {
    let claimed = claim(&wanted.owner, pods.iter().cloned());
    let (active, rest): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = claimed.owned.into_iter().partition(|pod| pod.is_active());
    let terminating = rest.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pod.is_over()).count();
    let counts = Counts { terminating: count(terminating), ..counts(wanted, &active, &seen.lasted) };
    let mut actions = claimed.actions;
    if !wanted.owner.deleting {
        actions.extend(changes(wanted, &active, seen));
    }
    Decided { actions, counts, again: next_available(wanted.min_ready_seconds, &active, &seen.lasted) }
}

/// A set's own changes wake it, and those of its pods; an orphan wakes every set of its namespace that would have it.
pub fn watches<K: Object>(wake: &Wake, sets: &Cache<K>, pods: &Cache<Pod>, selector: fn(&K) -> Option<Labels>) {
    wake.on_own(sets);
    on_dependents::<K, _>(wake, pods, &selectors::follow(sets, selector));
}

/// Changes of what sets of this kind own wake them; an orphan wakes every set of its namespace that would have it.
pub fn on_dependents<K: Object, D: Object>(wake: &Wake, dependents: &Cache<D>, selectors: &Arc<RwLock<Selectors>>) {
    let (selectors, none) = (selectors.clone(), BTreeMap::new());
    wake.on(dependents, move |dependent, wake| {
        let meta = dependent.object_meta();
        match meta.controller() {
            Some(owner) if owner.kind == K::Served::kind(&()) => wake(Key::new(meta.namespace, &owner.name)),
            Some(_) => {}
            None => {
                let labels = meta.labels.unwrap_or(&none);
                selectors.read().matching(meta.namespace, labels).for_each(|name| wake(Key::new(meta.namespace, name)));
            }
        }
    });
}

/// What the user is told of a pod that could not be made, and the message alone.
pub fn creation_failed<K: Object>(set: &K, action: &Action, error: &kube::Error) -> Option<(Action, String)> {
    let (Action::Create { .. }, kube::Error::Api(status)) = (action, error) else { return None };
    Some((Action::warning(set, "FailedCreate", format!("Error creating: {}", status.message)), status.message.clone()))
}

fn counts<K>(wanted: &Wanted<'_, K>, active: &[Arc<Pod>], lasted: &Lasted) -> Counts {
    let labels = wanted.template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let has_all = |pod: &Arc<Pod>| labels.into_iter().flatten().all(|(k, v)| pod.labels().get(k) == Some(v));
    let of = |f: &dyn Fn(&Arc<Pod>) -> bool| count(active.iter().filter(|p| f(p)).count());
    Counts {
        replicas: count(active.len()),
        fully_labeled: of(&has_all),
        ready: of(&|p| p.ready_since().is_some()),
        available: of(&|p| is_available(p, wanted.min_ready_seconds, lasted)),
        terminating: 0,
    }
}

/// Seconds until a pod that is ready since then counts as available.
pub fn available_in(since: Timestamp, min_ready_seconds: i32, lasted: &Lasted) -> i64 {
    lasted.left_seconds(whole_seconds(since), min_ready_seconds).max(0)
}

/// `IsPodAvailable`
pub fn is_available(pod: &Pod, min_ready_seconds: i32, lasted: &Lasted) -> bool {
    pod.ready_since().is_some_and(|since| available_in(since, min_ready_seconds, lasted) == 0)
}

/// Since when those are ready that may not be available yet.
pub fn young(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Vec<Timestamp> {
    let is_young = |since: &Timestamp| Lasted::at(now).left_seconds(*since, min_ready_seconds) > 0;
    pods.iter().filter_map(|pod| pod.ready_since()).map(whole_seconds).filter(is_young).collect()
}

/// When the next of the pods that are ready counts as available.
pub fn next_available(min_ready_seconds: i32, active: &[Arc<Pod>], lasted: &Lasted) -> Option<Duration> {
    let waits = active.iter().filter_map(|p| Some(available_in(p.ready_since()?, min_ready_seconds, lasted))).filter(|s| *s > 0);
    waits.min().map(span)
}

fn changes<K: Object>(wanted: &Wanted<'_, K>, active: &[Arc<Pod>], seen: &Seen) -> Vec<Action> {
    let target = usize::try_from(wanted.replicas).unwrap_or(0);
    let spare = active.len().saturating_sub(target).min(BURST);
    if spare == 0 {
        return additions(wanted, active.len(), seen);
    }
    worst_first(active, seen.lasted.now).into_iter().take(spare).flat_map(|pod| delete(wanted.set, &pod)).collect()
}

/// What is missing where so many are active.
fn additions<K: Object>(wanted: &Wanted<'_, K>, active: usize, seen: &Seen) -> Vec<Action> {
    let missing = usize::try_from(wanted.replicas).unwrap_or(0).saturating_sub(active).min(BURST);
    (0..missing).flat_map(|i| create(wanted, seen.random.wrapping_add(i as u64))).collect()
}

fn create<K: Object>(wanted: &Wanted<'_, K>, random: u64) -> Vec<Action> {
    let Some(template) = wanted.template else { return Vec::new() };
    let pod = pod_of(wanted.set, &wanted.owner.reference, template, random);
    let name = pod.metadata.name.clone().unwrap_or_default();
    vec![Action::create(&pod), Action::normal(wanted.set, "SuccessfulCreate", format!("Created pod: {name}"))]
}

/// A pod of the template, named after the set (`GetPodFromTemplate`).
pub fn pod_of<K: Object>(set: &K, owner: &OwnerReference, template: &PodTemplateSpec, random: u64) -> v1::Pod {
    let set = set.object_meta();
    let prefix = format!("{}-", set.name);
    let from = template.metadata.clone().unwrap_or_default();
    // As the server cuts what it generates names from.
    let base = prefix.get(..BASE_CHARS).unwrap_or(&prefix);
    let metadata = ObjectMeta {
        name: Some(format!("{base}{}", suffix(random))),
        generate_name: Some(prefix),
        namespace: Some(set.namespace.to_owned()),
        labels: from.labels,
        annotations: from.annotations,
        finalizers: from.finalizers,
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    };
    v1::Pod { metadata, spec: template.spec.clone(), status: None }
}

/// Also told.
pub fn delete<K: Object>(set: &K, pod: &Pod) -> Vec<Action> {
    vec![Action::delete(pod), Action::normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()))]
}

/// Five characters of upstream's alphabet (no vowels, no look-alikes): apimachinery `pkg/util/rand`.
pub fn suffix(random: u64) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    // A multiplicative hash spreads neighbouring numbers.
    let mut left = (random.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 20;
    let mut text = String::new();
    for _ in 0..5 {
        text.push(char::from(ALPHABET[usize::try_from(left % 27).unwrap_or(0)]));
        left /= 27;
    }
    text
}

/// The order in which pods are given up (`ActivePodsWithRanks`).
fn worst_first(active: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut ready_on_node: HashMap<&str, i64> = HashMap::new();
    for pod in active.iter().filter(|p| p.ready_since().is_some()) {
        *ready_on_node.entry(node(pod)).or_default() += 1;
    }
    let mut pods = active.to_vec();
    pods.sort_by_cached_key(|pod| {
        let ready = pod.ready_since();
        (
            !node(pod).is_empty(),
            ["Pending", "Unknown", "Running"].iter().position(|p| *p == pod.phase()),
            ready.is_some(),
            deletion_cost(pod),
            Reverse(ready_on_node.get(node(pod)).copied().unwrap_or(0)),
            ready.map(|at| age_bucket(at, now)),
            Reverse(restarts(pod)),
            pod.metadata.creation_timestamp.as_ref().map(|t| age_bucket(t.0, now)),
            pod.uid(),
        )
    });
    pods
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get("controller.kubernetes.io/pod-deletion-cost").and_then(|v| v.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|s| s.restart_count).max().unwrap_or(0)
}

/// Ages are compared by powers of two of seconds, so that which of two old pods goes is left to chance.
fn age_bucket(since: Timestamp, now: Timestamp) -> u32 {
    let age = u64::try_from(now.as_second() - since.as_second()).unwrap_or(0);
    age.checked_ilog2().map_or(0, |bucket| bucket + 1)
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Why pods of sets could not be made, as it was told last.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<Key, String>>);

impl Failures {
    pub fn note(&self, key: &Key, message: String) {
        self.0.lock().insert(key.clone(), message);
    }

    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }

    /// What still holds: once there are as many pods as are wanted, nothing does.
    pub fn of(&self, key: &Key, there: usize, wanted: i32) -> Option<String> {
        if count(there) >= wanted {
            self.forget(key);
        }
        self.0.lock().get(key).cloned()
    }
}

/// Conditions of a status with `ReplicaFailure` in it while `failure` lasts, and without it else. `typ` is a condition's type, `fresh` one that says
/// the message.
///
/// An old failure is no news once the count is right. While it lasts the condition stays as it is: a message that names another pod each time would
/// be a change, and wake the set again at once.
pub fn with_failure<C: Clone>(
    old: Option<&Vec<C>>,
    failure: Option<&String>,
    typ: impl Fn(&C) -> &str,
    fresh: impl FnOnce(&str) -> C,
) -> Option<Vec<C>> {
    let (told, mut conditions): (Vec<C>, Vec<C>) = old.into_iter().flatten().cloned().partition(|condition| typ(condition) == FAILURE);
    conditions.extend(failure.map(|message| told.into_iter().next().unwrap_or_else(|| fresh(message))));
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::k8s::{api::apps::v1::ReplicaSet, apimachinery::pkg::apis::meta::v1::Time};
    use client::pods::{PodCondition, PodMeta, PodSpec, PodStatus, Shared, SharedMeta};

    const NOW: i64 = 1_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn set() -> ReplicaSet {
        let metadata = ObjectMeta { name: Some("web".into()), namespace: Some("d".into()), uid: Some("u".into()), ..ObjectMeta::default() };
        ReplicaSet { metadata, ..ReplicaSet::default() }
    }

    fn pod(name: &str, node: &str, ready_at: Option<i64>) -> Arc<Pod> {
        let owner = OwnerReference { uid: "u".into(), controller: Some(true), ..OwnerReference::default() };
        let shared = Shared::new(SharedMeta { owner_references: Some(vec![owner]), ..SharedMeta::default() });
        let metadata = PodMeta { name: Some(name.into()), uid: Some(name.into()), shared, ..PodMeta::default() };
        let spec = Some(PodSpec { node_name: Some(node.into()), ..PodSpec::default() });
        let ready = |s: i64| PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(at(s))),
            ..PodCondition::default()
        };
        let conditions = ready_at.map(|s| vec![ready(s)]);
        let status = Some(PodStatus { phase: Some("Running".into()), conditions, ..PodStatus::default() });
        Arc::new(Pod { metadata, spec, status })
    }

    /// Counting them says what looking at them says, wherever none has to go.
    fn decided(replicas: i32, min_ready_seconds: i32, pods: Vec<Arc<Pod>>) -> Decided {
        let listed = with(replicas, min_ready_seconds, Pods::Listed(pods.clone()));
        let owned = Owned::default();
        pods.iter().for_each(|pod| owned.put(None, Some(pod)));
        let set = ObjectMeta { uid: Some("u".into()), namespace: Some(String::new()), ..ObjectMeta::default() };
        let looked = Pods::look(&owned, &set, Some(&Labels::default()), (replicas, min_ready_seconds), at(NOW));
        let is_counted = matches!(looked, Pods::Counted(_));
        assert_eq!(is_counted, pods.iter().filter(|pod| pod.is_active()).count() <= usize::try_from(replicas).unwrap());
        if is_counted {
            assert_eq!(with(replicas, min_ready_seconds, looked), listed);
        }
        listed
    }

    fn with(replicas: i32, min_ready_seconds: i32, pods: Pods) -> Decided {
        let (set, template) = (set(), PodTemplateSpec::default());
        let owner = Owner::of(&set, Labels::default()).unwrap();
        let wanted = Wanted { set: &set, owner, replicas, min_ready_seconds, template: Some(&template) };
        decide(&wanted, &Seen { pods, lasted: Lasted::at(at(NOW)), random: 1, failure: None })
    }

    fn names(actions: &[Action]) -> Vec<String> {
        let deleted = |a: &Action| match a {
            Action::Delete { path, .. } => path.rsplit('/').next().map(str::to_owned),
            _ => None,
        };
        actions.iter().filter_map(deleted).collect()
    }

    #[test]
    fn a_failure_is_told_while_it_lasts_and_stays_as_it_was_told_first() {
        let told = |old: &[(&'static str, &str)], failure: Option<&str>| {
            let old = old.iter().map(|(typ, message)| (*typ, (*message).to_owned())).collect();
            with_failure(Some(&old), failure.map(str::to_owned).as_ref(), |condition| condition.0, |message| (FAILURE, message.to_owned()))
        };
        let one = |typ, message: &str| (typ, message.to_owned());
        assert_eq!(told(&[], Some("no room")), Some(vec![one(FAILURE, "no room")]));
        assert_eq!(told(&[("Other", "x"), (FAILURE, "first")], Some("then")), Some(vec![one("Other", "x"), one(FAILURE, "first")]));
        assert_eq!(told(&[("Other", "x"), (FAILURE, "first")], None), Some(vec![one("Other", "x")]));
        assert_eq!(told(&[(FAILURE, "first")], None), None);
        let (failures, key) = (Failures::default(), Key::new("d", "a"));
        failures.note(&key, "no room".into());
        assert_eq!(failures.of(&key, 1, 2).as_deref(), Some("no room"));
        assert_eq!((failures.of(&key, 2, 2), failures.of(&key, 1, 2)), (None, None), "what is over is not told again");
    }

    #[test]
    fn missing_pods_are_made_with_distinct_names() {
        let decided = decided(3, 0, vec![pod("a", "n1", None)]);
        let made: Vec<&Action> = decided.actions.iter().filter(|a| matches!(a, Action::Create { .. })).collect();
        assert_eq!(made.len(), 2);
        assert_ne!(made[0], made[1]);
    }

    #[test]
    fn unassigned_and_unready_pods_go_first() {
        let pods = vec![pod("ready", "n1", Some(NOW - 500)), pod("unready", "n1", None), pod("unassigned", "", None)];
        assert_eq!(names(&decided(1, 0, pods.clone()).actions), ["unassigned", "unready"]);
        assert_eq!(names(&decided(0, 0, pods).actions).len(), 3);
    }

    #[test]
    fn the_crowded_node_gives_first() {
        let pods = vec![pod("alone", "n1", Some(0)), pod("one", "n2", Some(0)), pod("two", "n2", Some(0))];
        assert_eq!(names(&decided(2, 0, pods).actions), ["one"]);
    }

    #[test]
    fn a_pod_is_available_after_min_ready_seconds() {
        let decided = decided(2, 30, vec![pod("old", "n", Some(NOW - 40)), pod("new", "n", Some(NOW - 10))]);
        assert_eq!((decided.counts.ready, decided.counts.available), (2, 1));
        assert_eq!(decided.again, Some(Duration::from_secs(20)));
        assert!(decided.actions.is_empty());
    }
}
