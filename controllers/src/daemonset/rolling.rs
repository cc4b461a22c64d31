//! Pods of an older template -> those that may be replaced now.
//!
//! Source: `rollingUpdate` of `pkg/controller/daemon/update.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    k8s::{
        api::apps::v1::{DaemonSetSpec, RollingUpdateDaemonSet},
        apimachinery::pkg::util::intstr::IntOrString,
    },
    steps,
};
use client::pods::Pod;

use super::{Changes, Daemon, strategy};
use crate::amount::{Round, scaled};

/// What of a node's pods is new, and what is old; more than one of either is left to [`Daemon::manage`].
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

/// What a rollout without surge has found so far.
#[derive(Default)]
struct Replacing<'a> {
    unavailable: usize,
    /// Not available anyway.
    allowed: Vec<&'a Arc<Pod>>,
    candidates: Vec<&'a Arc<Pod>>,
}

/// What a rollout with surge has found so far.
#[derive(Default)]
struct Surging<'a> {
    surge: usize,
    available: usize,
    delete: Vec<&'a Arc<Pod>>,
    /// On nodes that are not wanted any more.
    not_wanted: Vec<&'a Arc<Pod>>,
    allowed: Vec<&'a str>,
    candidates: Vec<&'a str>,
}

/// `AllowsSurge`
pub fn allows_surge(spec: &DaemonSetSpec) -> bool {
    fence(spec, 1, |rolling| rolling.max_surge.as_ref()) > 0
}

/// `SurgeCount`, `UnavailableCount`
fn fence(spec: &DaemonSetSpec, nodes: usize, amount: fn(&RollingUpdateDaemonSet) -> Option<&IntOrString>) -> usize {
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref()).filter(|_| strategy(spec) == "RollingUpdate");
    let of = i32::try_from(nodes).unwrap_or(i32::MAX);
    usize::try_from(scaled(rolling.and_then(amount), of, Round::Up)).unwrap_or(0)
}

impl<'a> Daemon<'a> {
    pub fn roll(&self) -> Changes<'a> {
        let wanted = self.world.nodes.iter().filter(|(_, fit)| fit.run);
        let mut all: BTreeMap<&'a str, &[&'a Arc<Pod>]> = wanted.clone().map(|(node, _)| (&**node, [].as_slice())).collect();
        let desired = all.len();
        all.extend(self.on_node.iter().map(|(node, pods)| (*node, pods.as_slice())));
        let surge = fence(self.spec, desired, |rolling| rolling.max_surge.as_ref());
        let unavailable = fence(self.spec, desired, |rolling| rolling.max_unavailable.as_ref());
        if surge == 0 {
            // An impossible strategy gets the default.
            self.replace(&all, if unavailable == 0 && desired > 0 { 1 } else { unavailable })
        } else {
            self.surge(&all, surge, desired)
        }
    }

    fn replace(&self, all: &BTreeMap<&'a str, &[&'a Arc<Pod>]>, max_unavailable: usize) -> Changes<'a> {
        let mut found = Replacing::default();
        for (_, pods) in steps::counted(all.iter()) {
            match self.pair(pods) {
                None | Some(Pair { new: None, old: None } | Pair { new: Some(_), old: Some(_) }) => found.unavailable += 1,
                Some(Pair { new: Some(new), .. }) => found.unavailable += usize::from(!self.is_available(new)),
                Some(Pair { old: Some(old), .. }) if !self.is_available(old) => {
                    found.allowed.push(old);
                    found.unavailable += 1;
                }
                Some(Pair { old: Some(old), .. }) => found.candidates.push(old),
            }
        }
        let left = max_unavailable.saturating_sub(found.unavailable);
        found.allowed.extend(found.candidates.into_iter().take(left));
        Changes { delete: found.allowed, ..Changes::default() }
    }

    fn surge(&self, all: &BTreeMap<&'a str, &[&'a Arc<Pod>]>, max_surge: usize, desired: usize) -> Changes<'a> {
        let mut found = Surging::default();
        for (node, pods) in steps::counted(all.iter()) {
            match self.pair(pods) {
                None => found.surge += 1,
                Some(pair) => self.surge_on(node, &pair, &mut found),
            }
        }
        // Where the wanted nodes change, an old place is left only when a new one is available.
        let deletable = found.available.saturating_sub(desired);
        found.delete.extend(found.not_wanted.into_iter().take(deletable));
        let left = max_surge.saturating_sub(found.surge);
        found.allowed.extend(found.candidates.into_iter().take(left));
        Changes { delete: found.delete, create: found.allowed, ..Changes::default() }
    }

    fn surge_on(&self, node: &'a str, pair: &Pair<'a>, found: &mut Surging<'a>) {
        found.available += usize::from(pair.old.or(pair.new).is_some_and(|pod| self.is_available(pod)));
        let Some(old) = pair.old else { return };
        match pair.new {
            // Of a node that is gone, the pods go as well.
            None => {
                let Some(fit) = self.world.nodes.get(node) else { return };
                match (self.is_available(old), fit.run) {
                    (false, false) => found.delete.push(old),
                    (false, true) => found.allowed.push(node),
                    (true, false) => found.not_wanted.push(old),
                    (true, true) => found.candidates.push(node),
                }
            }
            Some(new) if self.is_available(new) => found.delete.push(old),
            Some(_) => found.surge += 1,
        }
    }

    /// `findUpdatedPodsOnNode`
    fn pair(&self, pods: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
        let mut pair = Pair { new: None, old: None };
        for pod in pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let place = if self.is_updated(pod) { &mut pair.new } else { &mut pair.old };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some(pair)
    }
}
