//! A pod that is to go -> its status says so first. Source: `pkg/controller/podgc`, `pkg/controller/tainteviction`, KEP-3329.

use api::time::Timestamp;
use client::pods::{Pod, Wanted};
use reconcile::Action;
use serde_json::json;

/// The reason and message of its condition `DisruptionTarget`.
pub struct Why(pub &'static str, pub &'static str);

/// `phase` is written where there is one. The revision guards it: a pod that the node ended meanwhile keeps its own.
pub fn mark(pod: &Pod, why: Option<&Why>, phase: Option<&str>, now: Timestamp) -> Option<Action> {
    let mut status = json!({});
    if let Some(phase) = phase {
        status["phase"] = phase.into();
    }
    if let Some(condition) = why.and_then(|why| pod.changed_condition(why.wanted(), now)) {
        status["conditions"] = json!([condition]);
    }
    let changes = status.as_object().is_some_and(|s| !s.is_empty());
    changes.then(|| Action::patch_status(pod, json!({"metadata": {"resourceVersion": pod.resource_version()}, "status": status})))
}

pub fn is_terminated(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Why {
    fn wanted(&self) -> Wanted<'static> {
        Wanted { kind: "DisruptionTarget", status: "True", reason: self.0, message: self.1 }
    }
}
