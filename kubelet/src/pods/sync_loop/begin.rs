//! What the loop needs -> the loop, and the tasks that tell it things.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use api::{Key, k8s::api::core::v1::Pod, task::Group};
use client::Cache;
use tokio::sync::{Notify, mpsc, watch};

use super::{Changed, Event, SyncLoop};
use crate::{
    Pods,
    pods::{Deps, NodeCapacity, entry::Entry, pleg_evented, probe::Prober},
};

/// Answers of tasks; each pod has at most a worker, a look and a write under way.
const EVENTS_MAX: usize = 1024;
const FINDINGS_MAX: usize = 256;
/// Starts the loop. Static pods come through the sender it gives; with `has_manifests` nothing is swept away before they did.
pub fn start(
    deps: Arc<Deps>,
    cache: Cache<Pod>,
    pods: Pods,
    room: NodeCapacity,
    has_manifests: bool,
    group: &Group,
) -> mpsc::Sender<Event> {
    let (events, inbox) = mpsc::channel(EVENTS_MAX);
    let (findings_in, findings) = mpsc::channel(FINDINGS_MAX);
    let active = watch::channel(false);
    let changed = Changed::default();
    let mark = changed.clone();
    cache.on_change(move |old, new| {
        let meta = new.or(old).map(|pod| &pod.metadata);
        let text = |t: Option<&String>| t.cloned().unwrap_or_default();
        let Some(meta) = meta else { return };
        mark.mark(Key { namespace: text(meta.namespace.as_ref()), name: text(meta.name.as_ref()) });
    });
    let nudge = Arc::new(Notify::new());
    let (runtime, metrics) = (deps.runtime.clone(), deps.metrics.clone());
    let lookout = pleg_evented::Lookout { runtime, active: active.1, nudge: nudge.clone(), out: events.clone(), metrics };
    group.spawn_loop("runtime events", Box::pin(pleg_evented::follow(lookout)));
    let prober = Prober { deps: deps.clone(), group: group.clone(), findings: findings_in };
    let this = SyncLoop { active: active.0, nudge, ..SyncLoop::new(deps, cache, pods, room, prober, events.clone(), group) };
    group.spawn_loop("pods", Box::pin(this.run(inbox, findings, changed, has_manifests)));
    events
}

impl Changed {
    pub(super) fn mark(&self, key: Key) {
        self.keys.lock().insert(key);
        self.notify.notify_one();
    }
}

impl SyncLoop {
    pub(in crate::pods) fn new(
        deps: Arc<Deps>,
        cache: Cache<Pod>,
        pods: Pods,
        room: NodeCapacity,
        prober: Prober,
        events: mpsc::Sender<Event>,
        group: &Group,
    ) -> Self {
        Self {
            host_ips: deps.node.node_ips.iter().map(ToString::to_string).collect(),
            deps,
            group: group.clone(),
            events,
            entries: HashMap::new(),
            mirrors: HashMap::new(),
            touching: BTreeSet::new(),
            synced: false,
            listed: None,
            early: VecDeque::new(),
            static_pods: Vec::new(),
            timers: BTreeSet::new(),
            cache,
            pods,
            advance: Entry::advance,
            prober,
            active: watch::channel(false).0,
            nudge: Arc::default(),
            room,
            burstable_milli: None,
            serial: 0,
        }
    }
}

#[cfg(test)]
impl SyncLoop {
    pub(in crate::pods) fn advanced_by(self, advance: super::Advance) -> Self {
        Self { advance, ..self }
    }
}
