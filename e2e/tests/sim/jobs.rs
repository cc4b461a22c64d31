//! Jobs: what users ask of them, and what must hold of them: no end of a pod is counted twice, and who is over stays so.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{invariants::text, user::User};

const NAMES: [&str; 2] = ["batch", "sum"];

/// Of each Job (uid): the pods it has had, and whether they succeeded.
#[derive(Default)]
pub struct Ends {
    pods: HashMap<String, BTreeMap<String, bool>>,
}

impl Ends {
    pub fn pod(&mut self, pod: &Value) {
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let Some(job) = owners.into_iter().find(|owner| owner["kind"] == "Job") else { return };
        let succeeded = text(pod, "/status/phase") == "Succeeded";
        *self.pods.entry(text(job, "/uid").to_owned()).or_default().entry(text(pod, "/metadata/uid").to_owned()).or_default() |= succeeded;
    }

    /// What a write of a Job breaks.
    pub fn job(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let (count, none) = (|job: &Value, field: &str| job["status"][field].as_u64().unwrap_or(0), BTreeMap::new());
        let named = |field: &str| new["status"]["uncountedTerminatedPods"][field].as_array().map_or(0, Vec::len) as u64;
        let pods = self.pods.get(text(new, "/metadata/uid")).unwrap_or(&none);
        let (succeeded, failed) = (count(new, "succeeded") + named("succeeded"), count(new, "failed") + named("failed"));
        let seen = pods.values().filter(|succeeded| **succeeded).count() as u64;
        let mut broken = Vec::new();
        if succeeded > seen {
            broken.push(format!("{succeeded} of its pods are said to have succeeded, and {seen} did"));
        }
        if succeeded + failed > pods.len() as u64 {
            broken.push(format!("{succeeded} succeeded and {failed} failed, and there were {} pods", pods.len()));
        }
        if has(new, "Complete") && count(new, "succeeded") < new["spec"]["completions"].as_u64().unwrap_or(1) {
            broken.push(format!("complete too early: {}", new["status"]));
        }
        let Some(old) = old.filter(|old| old["metadata"]["uid"] == new["metadata"]["uid"]) else { return broken };
        let fell = ["succeeded", "failed"].into_iter().find(|field| count(new, field) < count(old, field));
        broken.extend(fell.map(|field| format!("{field} fell: {} {}", old["status"], new["status"])));
        if is_over(old) && old["status"] != new["status"] {
            broken.push(format!("was over, and goes on: {} {}", old["status"], new["status"]));
        }
        broken
    }
}

pub fn is_over(job: &Value) -> bool {
    has(job, "Complete") || has(job, "Failed")
}

fn has(job: &Value, kind: &str) -> bool {
    job["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

/// What is not yet as it must be in the end.
pub fn unsettled(job: &Value) -> Option<String> {
    if !text(job, "/metadata/deletionTimestamp").is_empty() {
        return Some("being deleted".into());
    }
    let rests = is_over(job) || (job["spec"]["suspend"] == true && has(job, "Suspended") && job["status"]["active"].is_null());
    (!rests).then(|| format!("not over: {}", job["status"]))
}

impl User {
    /// A Job is made, suspended, resumed or deleted.
    pub async fn job(&mut self, namespace: &str) {
        let name = *NAMES.choose(&mut self.random).unwrap();
        let jobs = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
        let path = format!("{jobs}/{name}");
        match self.random.random_range(0..10) {
            0..6 => {
                let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
                let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container]});
                let mode = *["Indexed", "NonIndexed"].choose(&mut self.random).unwrap();
                let policy = *["Failed", "TerminatingOrFailed"].choose(&mut self.random).unwrap();
                let body = json!({"metadata": {"name": name}, "spec": {"completionMode": mode, "podReplacementPolicy": policy,
                    "parallelism": self.random.random_range(1..4), "completions": self.random.random_range(1..6), "template": {"spec": spec}}});
                self.make(&jobs, &format!("/registry/jobs/{namespace}/{name}"), body).await;
            }
            6..8 => {
                let suspend = self.random.random_ratio(1, 3);
                self.patch(&path, json!({"spec": {"suspend": suspend}})).await;
            }
            8 => {
                let parallelism = self.random.random_range(0..5);
                self.patch(&path, json!({"spec": {"parallelism": parallelism}})).await;
                self.patch(&path, json!({"spec": {"parallelism": 2}})).await;
            }
            _ => self.delete(&path, &format!("/registry/jobs/{namespace}/{name}")).await,
        }
    }
}
