//! How many: surge, unavailable, proportions. Source: `pkg/controller/deployment/util/deployment_util.go`.
//!
//! Any of these numbers may be the largest there is: sums end there, where upstream's wrap around.

use api::k8s::api::apps::v1::{Deployment, ReplicaSet};
use client::kube::ResourceExt;

use crate::amount::{Round, scaled};

pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Pods above the desired number that may be there, and below it that may be missing.
pub fn fences(deployment: &Deployment) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let desired = desired(deployment);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), desired, Round::Up);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), desired, Round::Down);
    // Both can round to nothing; a surge might be refused by a quota, so one pod is given up instead.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    (surge, unavailable.min(desired))
}

pub fn max_surge(deployment: &Deployment) -> i32 {
    fences(deployment).0
}

pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// Pods that the set says it has.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sum(sets.into_iter().map(size))
}

pub fn sum(counts: impl Iterator<Item = i32>) -> i32 {
    counts.fold(0, i32::saturating_add)
}

/// How large the new set may be now (`NewRSNewReplicas`); `all` includes it at `current`.
pub fn new_size(deployment: &Deployment, all: i32, current: i32) -> i32 {
    let desired = desired(deployment);
    if is_recreate(deployment) {
        return desired;
    }
    let limit = desired.saturating_add(max_surge(deployment));
    if all >= limit { current } else { current.saturating_add(limit.saturating_sub(all).min(desired.saturating_sub(current))) }
}

/// The set's share of `to_add` replicas (negative: to take away), of which `added` are given already.
pub fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (fraction, allowed) = (fraction(deployment, set), to_add.saturating_sub(added));
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    if desired(deployment) == 0 {
        return size(set).saturating_neg();
    }
    let max_now = desired(deployment).saturating_add(max_surge(deployment));
    let annotated = set.annotations().get(MAX).and_then(|v| v.parse::<i32>().ok()).filter(|n| *n != 0);
    let max_before = annotated.or(deployment.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
    if max_before == 0 {
        return 0;
    }
    let scaled = f64::from(size(set)) * f64::from(max_now) / f64::from(max_before);
    #[expect(clippy::cast_possible_truncation, reason = "numbers of replicas")]
    let rounded = scaled.round() as i32;
    rounded.saturating_sub(size(set))
}
