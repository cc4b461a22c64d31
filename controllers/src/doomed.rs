//! A pod that is to go -> its status says so first. Source: `pkg/controller/podgc`, `pkg/controller/tainteviction`, KEP-3329.

use api::time::{Timestamp, rfc3339};
use client::pods::Pod;
use reconcile::Action;
use serde_json::{Value, json};

/// The reason and message of its condition `DisruptionTarget`.
pub struct Why(pub &'static str, pub &'static str);

/// `phase` is written where there is one. The revision guards it: a pod that the node ended meanwhile keeps its own.
pub fn mark(pod: &Pod, why: Option<&Why>, phase: Option<&str>, now: Timestamp) -> Option<Action> {
    let mut status = json!({});
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    if let Some(why) = why.filter(|why| !says(pod, why)) {
        status["conditions"] = json!([condition(why, now)]);
    }
    let changes = status.as_object().is_some_and(|s| !s.is_empty());
    changes.then(|| Action::strategic_patch_status(pod, json!({"metadata": {"resourceVersion": pod.resource_version()}, "status": status})))
}

pub fn is_terminated(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn says(pod: &Pod, why: &Why) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| {
        c.type_ == "DisruptionTarget" && c.status == "True" && c.reason.as_deref() == Some(why.0) && c.message.as_deref() == Some(why.1)
    })
}

fn condition(Why(reason, message): &Why, now: Timestamp) -> Value {
    json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(now)})
}
