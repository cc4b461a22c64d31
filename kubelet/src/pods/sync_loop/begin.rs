//! What the loop needs -> the loop, and the tasks that tell it things.

use std::{collections::HashMap, sync::Arc};

use api::{k8s::api::core::v1::Pod, task::Group};
use client::Cache;
use tokio::sync::{Notify, mpsc, watch};

use super::{
    SyncLoop,
    changed::Changed,
    early::Early,
    entry::{Advance, Entry},
    tasks::Tasks,
    timers::Timers,
};
use crate::{
    Pods,
    pods::{
        desired::{admit::NodeCapacity, burstable::Burstable, mirror::MirrorPods},
        event::Event,
        probes::Prober,
        runtime_state::pleg_evented,
        storage_limits::{self, StorageLimits},
        workers::Deps,
    },
};

/// Answers of tasks; each pod has at most a worker, an inspection and a write under way.
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
    let (active_in, active) = watch::channel(false);
    let changed = Changed::of(&cache);
    let nudge = Arc::new(Notify::new());
    let (runtime, metrics) = (deps.runtime.clone(), deps.metrics.clone());
    let pleg = pleg_evented::EventedPleg { runtime, active, nudge: nudge.clone(), out: events.clone(), metrics };
    group.spawn_loop("runtime events", Box::pin(pleg_evented::follow(pleg)));
    let limits =
        StorageLimits { runtime: deps.runtime.clone(), pods: pods.clone(), root_dir: deps.node.root_dir.clone(), out: events.clone() };
    group.spawn_loop("storage limits", Box::pin(storage_limits::follow(limits)));
    let prober = Prober {
        runtime: deps.runtime.clone(),
        recorder: deps.recorder.clone(),
        node_ip: deps.node.node_ips.first().copied(),
        group: group.clone(),
        findings: findings_in,
    };
    let tasks = Tasks::new(deps.clone(), group.clone(), events.clone());
    let this = SyncLoop { active: active_in, nudge, ..SyncLoop::new(deps, cache, pods, room, prober, tasks, Entry::advance) };
    group.spawn_loop("pods", Box::pin(this.run(inbox, findings, changed, has_manifests)));
    events
}

impl SyncLoop {
    pub(super) fn new(
        deps: Arc<Deps>,
        cache: Cache<Pod>,
        pods: Pods,
        room: NodeCapacity,
        prober: Prober,
        tasks: Tasks,
        advance: Advance,
    ) -> Self {
        Self {
            host_ips: deps.node.node_ips.iter().map(ToString::to_string).collect(),
            deps,
            tasks,
            entries: HashMap::new(),
            mirrors: MirrorPods::default(),
            static_pods: Vec::new(),
            synced: false,
            listed: None,
            early: Early::default(),
            timers: Timers::default(),
            cache,
            pods,
            advance,
            prober,
            active: watch::channel(false).0,
            nudge: Arc::default(),
            room,
            burstable: Burstable::default(),
            serial: 0,
        }
    }
}
