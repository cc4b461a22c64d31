//! Pods that wait to be counted, and whose Job is gone or over -> their finalizers taken away. Source: `syncOrphanPod` in `pkg/controller/job`.

use std::{sync::Arc, time::Duration};

use api::{Key, k8s::api::batch::v1::Job, names::segment};
use client::{Cache, Caches, kube, pods::Pod};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake, controller_of, own_key};
use serde_json::Value;

use super::pods::{TRACKING, is_finished, is_tracked, managed_elsewhere};
use crate::{
    catalog::{get_metadata, is_absent},
    owned::Owned,
};

/// Where it cannot be told whether the Job is there.
const AGAIN: Duration = Duration::from_secs(5);

pub struct Orphans {
    client: kube::Client,
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    owned: Owned,
}

pub struct World {
    pod: Arc<Pod>,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its Job, or another controller, will see to it.
    Kept,
    Orphaned,
    /// Its Job is not seen; it may be newer than what is.
    Unknown,
}

impl Orphans {
    pub fn new(caches: &Caches, owned: &Owned, client: kube::Client) -> Self {
        Self { client, jobs: caches.of(), pods: caches.of(), owned: owned.clone() }
    }

    /// A Job that was just made, and whose pods are seen before it, is no Job that is gone.
    async fn ask(&self, pod: &Pod) -> Fate {
        let (Some(owner), Some(namespace)) = (controller_of(pod), pod.metadata.namespace.as_deref()) else { return Fate::Orphaned };
        let path = format!("/apis/batch/v1/namespaces/{}/jobs/{}", segment(namespace), segment(&owner.name));
        match get_metadata::<Value>(&self.client, &path).await {
            Ok(job) if job["metadata"]["uid"] != *owner.uid => Fate::Orphaned,
            Err(error) if is_absent(&error, &owner.name) => Fate::Orphaned,
            _ => Fate::Unknown,
        }
    }
}

fn fate(pod: &Pod, jobs: &Cache<Job>) -> Fate {
    let Some(owner) = controller_of(pod) else { return Fate::Orphaned };
    if owner.kind != "Job" || owner.api_version != "batch/v1" {
        return Fate::Kept;
    }
    match jobs.get(&Key::new(pod.metadata.namespace.as_deref().unwrap_or_default(), &owner.name)) {
        Some(job) if job.metadata.uid.as_ref() != Some(&owner.uid) => Fate::Unknown,
        Some(job) if managed_elsewhere(&job).is_none() && is_finished(&job) => Fate::Orphaned,
        Some(_) => Fate::Kept,
        None => Fate::Unknown,
    }
}

impl Controller for Orphans {
    type World = World;

    fn name(&self) -> &'static str {
        "job-orphan-pod-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on(&self.jobs, |_, _| {});
        wake.on(&self.pods, |_, _| {});
        let (handle, jobs) = (wake.handle(), self.jobs.clone());
        self.pods.on_change(move |_, new| {
            if let Some(pod) = new.filter(|pod| is_tracked(pod) && fate(pod, &jobs) != Fate::Kept) {
                handle(own_key(&**pod));
            }
        });
        let (handle, owned) = (wake.handle(), self.owned.clone());
        self.jobs.on_change(move |old, new| {
            // Once for each Job: when it is over, and when it is gone.
            let ends = new.is_none_or(|job| is_finished(job)) && (new.is_none() || old.is_none_or(|job| !is_finished(job)));
            let Some(job) = new.or(old).filter(|_| ends) else { return };
            let (namespace, uid) = (job.namespace().unwrap_or_default(), job.uid().unwrap_or_default());
            let left = owned.pods(&namespace, &uid);
            left.iter().filter(|pod| is_tracked(pod)).for_each(|pod| handle(own_key(&**pod)));
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let pod = self.pods.get(key).filter(|pod| is_tracked(pod))?;
        let fate = match fate(&pod, &self.jobs) {
            Fate::Unknown => self.ask(&pod).await,
            known => known,
        };
        Some(World { pod, fate })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        match world.fate {
            Fate::Kept => Plan::rest(),
            Fate::Orphaned => Plan::act(vec![freed(&world.pod)]),
            Fate::Unknown => Plan::rest().again_in(AGAIN),
        }
    }
}

/// As it was seen: a Job that adopts it meanwhile gives it a finalizer that must stay.
fn freed(pod: &Pod) -> Action {
    let mut action = Action::without_finalizer(pod, TRACKING);
    if let Action::Patch { patch, .. } = &mut action {
        patch["metadata"]["resourceVersion"] = pod.metadata.resource_version.clone().into();
    }
    action
}

#[cfg(test)]
mod tests {
    use api::task::Group;
    use serde_json::json;

    use super::*;

    fn pod(owner: &Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "d", "finalizers": [TRACKING], "ownerReferences": [owner]});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn owner(api_version: &str, kind: &str, uid: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": "j", "uid": uid, "controller": true})
    }

    /// `TestSyncOrphanPod`.
    #[tokio::test]
    async fn only_what_no_job_will_count_is_freed() {
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::builder().status(404).body(kube::client::Body::empty()).unwrap())
        });
        let jobs = Caches::unfollowed(kube::Client::new(nobody, "default"), Group::new()).of::<Job>();
        let revision = std::cell::Cell::new(1);
        let has = |spec: Value, status: Value| {
            let at = revision.replace(revision.get() + 1).to_string();
            let metadata = json!({"name": "j", "namespace": "d", "uid": "u", "resourceVersion": at});
            let job = json!({"metadata": metadata, "spec": spec, "status": status});
            jobs.feed(serde_json::from_value(job).unwrap(), false);
        };
        let mine = pod(&owner("batch/v1", "Job", "u"));
        assert_eq!(fate(&mine, &jobs), Fate::Unknown);
        has(json!({"template": {}}), json!({}));
        assert_eq!(fate(&mine, &jobs), Fate::Kept);
        has(json!({"template": {}}), json!({"conditions": [{"type": "Failed", "status": "True"}]}));
        assert_eq!(fate(&mine, &jobs), Fate::Orphaned);
        assert_eq!(fate(&pod(&owner("batch/v1", "Job", "other")), &jobs), Fate::Unknown);
        for (api_version, kind) in [("batch/v1", "CronJob"), ("example.com/v1", "Job")] {
            assert_eq!(fate(&pod(&owner(api_version, kind, "u")), &jobs), Fate::Kept);
        }
        let mut free = owner("batch/v1", "Job", "u");
        free["controller"] = false.into();
        assert_eq!(fate(&pod(&free), &jobs), Fate::Orphaned);
        has(json!({"template": {}, "managedBy": "a.b/c"}), json!({"conditions": [{"type": "Failed", "status": "True"}]}));
        assert_eq!(fate(&mine, &jobs), Fate::Kept, "another controller sees to it");
        let mut seen = mine;
        seen.metadata.resource_version = Some("7".into());
        let Action::Patch { patch, .. } = freed(&seen) else { panic!() };
        assert_eq!(patch, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [TRACKING], "resourceVersion": "7"}}));
    }
}
