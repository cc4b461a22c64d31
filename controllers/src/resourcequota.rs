//! ResourceQuotas -> how much of them is used. Source: `pkg/controller/resourcequota`.
//!
//! Admission charges a quota for what comes, before it is there; what goes is taken back here. Pods, services and claims are summed up as they come and
//! go ([`ledger`]), in namespaces with a quota and nowhere else; other objects are counted by the server when there is something to count.

mod concerns;
mod counts;
mod ledger;
mod looks;
#[cfg(test)]
mod tests;

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    Key,
    k8s::{
        api::core::v1::{PersistentVolumeClaim, ResourceQuota, ResourceQuotaStatus, Service},
        apimachinery::pkg::api::resource::Quantity as Text,
    },
    quantity::Quantity,
    time::Timestamp,
};
use client::{Cache, Caches, Object, kube, pods::Pod};
use podspec::quota::{Evaluator, Measure, PodFacts, Scope, Usage, expires, pod as measure_pod};
use reconcile::{Action, Controller, Matters, Plan, Wake, own_key};
use serde::Serialize;
use tokio::time::Instant;

use crate::census::{Census, Change};
use concerns::Concerns;
use counts::counted;
use ledger::{Ledger, Moved, Of, Opened};
use looks::{Looks, RESYNC};

/// Where something could not be counted.
const COUNT_AGAIN: Duration = Duration::from_secs(5);
/// A run rests as one about so many objects, 50 ms: of those that go together, many are taken back at once.
const WEIGHT: usize = 5_000;
/// Objects that are measured before others have the thread.
const TURN_OBJECTS: usize = 256;

pub struct Quotas {
    client: kube::Client,
    quotas: Cache<ResourceQuota>,
    pods: Cache<Pod>,
    services: Cache<Service>,
    claims: Cache<PersistentVolumeClaim>,
    census: Census,
    ledger: Arc<Ledger>,
    concerns: Arc<Concerns>,
    looks: Arc<Looks>,
}

/// A quota, and what was counted.
pub struct World {
    quota: Arc<ResourceQuota>,
    hard: Usage,
    /// By those names of `hard` that could be counted.
    counted: Usage,
    /// Whether less than was charged is believed.
    may_lower: bool,
    again: Duration,
}

impl Quotas {
    pub fn new(caches: &Caches, client: kube::Client, census: &Census) -> Self {
        Self {
            client,
            quotas: caches.of(),
            pods: caches.of(),
            services: caches.of(),
            claims: caches.of(),
            census: census.clone(),
            ledger: Arc::default(),
            concerns: Arc::default(),
            looks: Arc::default(),
        }
    }

    /// Puts in the namespace's book what is there, if that is yet to be done. False where there is no quota any more.
    async fn open_book(&self, namespace: &str) -> bool {
        let book = match self.ledger.open(namespace, || self.concerns.has(namespace)) {
            Some(Opened::Filled) => return true,
            Some(Opened::Empty(book)) => book,
            None => return false,
        };
        self.fill(Of::Pods, &self.pods, namespace, measured_pod).await;
        self.fill(Of::Services, &self.services, namespace, |service| measured(&Evaluator::Services, service)).await;
        self.fill(Of::Claims, &self.claims, namespace, |claim| measured(&Evaluator::Claims, claim)).await;
        self.ledger.is_filled(namespace, book);
        true
    }

    async fn fill<K: Object>(&self, of: Of, cache: &Cache<K>, namespace: &str, measured: fn(&K) -> Measured) {
        for some in cache.in_namespace(namespace).chunks(TURN_OBJECTS) {
            for object in some {
                let key = own_key(&**object);
                // As it is by then: who tells of its changes waits for the book.
                self.ledger.note(of, namespace, &key.name, || cache.get(&key).map(|now| measured(&now)));
            }
            tokio::task::yield_now().await;
        }
    }

    /// What is used by the names of `hard`, when that may be less with nothing happening, and whether all of it is known.
    async fn count(&self, key: &Key, hard: &Usage, scopes: &[Scope], now: Timestamp) -> (Usage, Option<Timestamp>, bool) {
        let (mut used, mut next, mut is_whole) = (Usage::new(), None, true);
        for of in Of::ALL {
            let evaluator = of.evaluator();
            let names: Vec<&String> = hard.keys().filter(|name| evaluator.counts(name)).collect();
            if names.is_empty() {
                continue;
            }
            let (sum, expiring) = self.ledger.used(of, &key.namespace, scopes, now);
            next = next.into_iter().chain(expiring).min();
            let amount = |name: &String| sum.get(name).copied().unwrap_or(Quantity::from_units(0));
            used.extend(names.into_iter().map(|name| (name.clone(), amount(name))));
        }
        for one in counted(hard.keys(), &self.census) {
            // Objects that are only counted are in no scope.
            if !scopes.is_empty() {
                used.extend(one.nothing());
                continue;
            }
            match one.used(&self.client, &key.namespace).await {
                Ok(amounts) => used.extend(amounts),
                Err(error) => {
                    tracing::warn!(quota = %key, resource = one.collection.plural, error, "failed to count; trying again");
                    is_whole = false;
                }
            }
        }
        (used, next, is_whole)
    }
}

impl Controller for Quotas {
    type World = World;

    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self, wake: &Wake) {
        // Before anybody is woken: a quota that nobody is told of is not counted.
        let (concerns, ledger, looks) = (self.concerns.clone(), self.ledger.clone(), self.looks.clone());
        self.quotas.on_change(move |old, new| {
            if let Some(new) = new {
                concerns.put(new);
                if let Some(old) = old {
                    looks.changed(old, new);
                }
            } else if let Some(old) = old {
                let key = own_key(&**old);
                concerns.remove(&key);
                looks.forget(&key);
                ledger.close(&key.namespace, || concerns.has(&key.namespace));
            }
        });
        wake.on_own_if(&self.quotas, matters);
        self.follow(wake, Of::Pods, &self.pods, measured_pod);
        self.follow(wake, Of::Services, &self.services, |service| measured(&Evaluator::Services, service));
        self.follow(wake, Of::Claims, &self.claims, |claim| measured(&Evaluator::Claims, claim));
        let (concerns, looks, handle) = (self.concerns.clone(), self.looks.clone(), wake.handle());
        self.census.listen(move |collection, change| {
            let (namespace, is_less) = match change {
                Change::Came(namespace) => (Some(namespace), false),
                Change::Went(namespace) => (Some(namespace), true),
                Change::Listed => (None, true),
            };
            wake_all(concerns.counting(collection, namespace), is_less, &looks, &handle);
        });
    }

    /// All runs alike.
    fn weight(&self, _: &World) -> usize {
        WEIGHT
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let quota = self.quotas.get(key)?;
        let spec = serde_json::to_value(&quota.spec).unwrap_or_default();
        let (hard, scopes) = (amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref())), Scope::all(Some(&spec)));
        if Of::ALL.iter().any(|of| hard.keys().any(|name| of.evaluator().counts(name))) && !self.open_book(&key.namespace).await {
            return None;
        }
        let is_new = !is_told(&quota, &hard);
        let (wait, may_lower) = self.looks.begin(key, is_new, Instant::now());
        let now = Timestamp::now();
        let (counted, next, is_whole) = self.count(key, &hard, &scopes, now).await;
        if may_lower && !is_whole {
            self.looks.less(key);
        }
        let next = next.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().saturating_add(Duration::from_secs(1)));
        let again = [Some(RESYNC), wait, next, (!is_whole).then_some(COUNT_AGAIN)].into_iter().flatten().min().unwrap_or(RESYNC);
        Some(World { quota, hard, counted, may_lower, again })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }

    fn failed(&self, key: &Key, _: &Action, _: &kube::Error) -> Option<Action> {
        self.looks.less(key);
        None
    }
}

/// What an object takes, and when it stops taking it by itself.
type Measured = (Measure, Option<Timestamp>);

impl Quotas {
    fn follow<K: Object>(&self, wake: &Wake, of: Of, cache: &Cache<K>, measured: fn(&K) -> Measured) {
        wake.needs(cache);
        let (ledger, concerns, looks, handle) = (self.ledger.clone(), self.concerns.clone(), self.looks.clone(), wake.handle());
        cache.on_change(move |old, new| {
            let Some(object) = new.or(old) else { return };
            let meta = object.object_meta();
            if !ledger.has(meta.namespace) {
                return;
            }
            let moved = ledger.note(of, meta.namespace, meta.name, || new.map(|new| measured(new)));
            if moved != Moved::Nothing {
                wake_all(concerns.about(of, meta.namespace), moved == Moved::Down, &looks, &handle);
            }
        });
    }
}

fn wake_all(keys: Vec<Key>, is_less: bool, looks: &Looks, wake: &impl Fn(Key)) {
    for key in keys {
        if is_less {
            looks.less(&key);
        }
        wake(key);
    }
}

/// Whether a change of a quota is one that it is counted for: of its limits, and of what is told to be used, by whomever.
fn matters(old: Option<&ResourceQuota>, new: Option<&ResourceQuota>) -> Matters {
    let Some(new) = new else { return Matters::Not };
    let hard = |quota: &ResourceQuota| amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()));
    let limits = hard(new);
    if !is_told(new, &limits) {
        return Matters::Much;
    }
    // A selector cannot be changed; one that was made anew in the place of another has another uid.
    let used = |quota: &ResourceQuota| amounts(quota.status.as_ref().and_then(|status| status.used.as_ref()));
    let is_same = |old: &ResourceQuota| old.metadata.uid == new.metadata.uid && same(&hard(old), &limits) && same(&used(old), &used(new));
    if old.is_some_and(is_same) { Matters::Not } else { Matters::Somewhat }
}

/// Whether the quota's status is about what its spec says, for the names that can be counted without asking.
fn is_told(quota: &ResourceQuota, hard: &Usage) -> bool {
    let status = quota.status.clone().unwrap_or_default();
    let (told, used) = (amounts(status.hard.as_ref()), status.used.unwrap_or_default());
    let is_counted = |name: &String| Of::ALL.iter().any(|of| of.evaluator().counts(name));
    same(&told, hard) && hard.keys().filter(|name| is_counted(name)).all(|name| used.contains_key(name))
}

fn plan(world: &World) -> Plan {
    let World { quota, hard, counted, may_lower, again } = world;
    let status = quota.status.clone().unwrap_or_default();
    let (told, before) = (amounts(status.hard.as_ref()), amounts(status.used.as_ref()));
    let used = |name: &String| match (counted.get(name), before.get(name)) {
        (Some(now), Some(before)) if !may_lower && now < before => Some(*before),
        (now, before) => now.or(before).copied(),
    };
    let used: Usage = hard.keys().filter_map(|name| Some((name.clone(), used(name)?))).collect();
    let rest = Plan::rest().again_in(*again);
    if same(&told, hard) && same(&before, &used) {
        return rest;
    }
    let mut changed = (**quota).clone();
    changed.status = Some(ResourceQuotaStatus { hard: Some(texts(hard)), used: Some(texts(&used)) });
    Plan { actions: vec![Action::update_status(&changed)], ..rest }
}

fn measured_pod(pod: &Pod) -> Measured {
    let (spec, meta) = (pod.spec.as_ref(), &pod.metadata);
    let facts = PodFacts {
        phase: pod.phase(),
        active_deadline_seconds: spec.and_then(|spec| spec.active_deadline_seconds),
        priority_class: spec.and_then(|spec| spec.priority_class_name.as_deref()).unwrap_or_default(),
        crosses_namespaces: spec
            .and_then(|spec| spec.affinity.as_ref())
            .is_some_and(|affinity| podspec::typed::crosses_namespaces(affinity)),
        is_expired: false,
    };
    let expires = meta.deletion_timestamp.as_ref().zip(meta.deletion_grace_period_seconds).map(|(at, grace)| expires(at.0, grace));
    (measure_pod(spec, &facts), expires)
}

fn measured<K: Serialize>(evaluator: &Evaluator, object: &K) -> Measured {
    (evaluator.measure(&serde_json::to_value(object).unwrap_or_default()), None)
}

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Usage {
    let all = list.into_iter().flatten();
    all.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(&amount.0).ok()?))).collect()
}

fn texts(amounts: &Usage) -> BTreeMap<String, Text> {
    amounts.iter().map(|(name, amount)| (name.clone(), Text(amount.to_string()))).collect()
}

/// By value: 1 equals 1000m.
fn same(one: &Usage, other: &Usage) -> bool {
    let equal = |(a, b): (&Quantity, &Quantity)| a.partial_cmp(b) == Some(Ordering::Equal);
    one.keys().eq(other.keys()) && one.values().zip(other.values()).all(equal)
}
