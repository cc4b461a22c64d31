//! Jobs beside the real API server: what the controller writes is what the server takes. Nobody runs the pods: a test says how they fare.

use std::collections::BTreeSet;

use api::{
    k8s::api::{
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
    task::Group,
};
use client::kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use door::{Door, until};
use serde_json::{Value, json};

use super::{GROUPS, account, start};

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

struct House {
    door: Door,
    group: Group,
    jobs: Api<Job>,
    pods: Api<Pod>,
}

impl House {
    async fn new() -> Self {
        let group = Group::new();
        let door = Door::new(&group).await;
        door.make_account().await;
        start(&door, &group, &|name| door.client(&account(name), &GROUPS));
        let (jobs, pods) = (Api::namespaced(door.admin(), "default"), Api::namespaced(door.admin(), "default"));
        Self { door, group, jobs, pods }
    }

    async fn make(&self, name: &str, spec: Value) {
        let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
        let mut job = json!({"metadata": {"name": name}, "spec": {"template": template}});
        job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
    }

    /// Its pods that have not come to their end, once there are so many.
    async fn active(&self, job: &str, count: usize) -> Vec<Pod> {
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        until(&format!("{job} has {count} pods"), async || {
            let mut pods = self.pods.list(&of_job).await.unwrap().items;
            let is_over = |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
            pods.retain(|pod| !is_over(pod) && pod.metadata.deletion_timestamp.is_none());
            (pods.len() == count).then_some(pods)
        })
        .await
    }

    async fn ends(&self, pod: &Pod, phase: &str) {
        let status = json!({"status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": i32::from(phase == "Failed"), "finishedAt": "2020-01-01T00:00:00Z"}}}]}});
        self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }

    /// Its status, once that holds.
    async fn status(&self, job: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        until(&format!("{job}: {what}"), async || {
            let status = serde_json::to_value(self.jobs.get(job).await.unwrap().status).unwrap();
            if status != last {
                println!("{job}: {status}");
                last.clone_from(&status);
            }
            holds(&status).then_some(status)
        })
        .await
    }

    async fn reasons(&self, job: &str, wanted: &[&str]) {
        let (events, wanted) = (Api::<Event>::namespaced(self.door.admin(), "default"), wanted.iter().copied().collect::<BTreeSet<_>>());
        let of = ListParams::default().fields(&format!("involvedObject.name={job},involvedObject.kind=Job"));
        until(&format!("events of {job}"), async || {
            let found = events.list(&of).await.unwrap().items;
            let reasons: BTreeSet<&str> = found.iter().filter_map(|event| event.reason.as_deref()).collect();
            wanted.is_subset(&reasons).then_some(())
        })
        .await;
    }

    fn end(self) {
        assert_eq!(self.group.fault(), None);
        self.group.stop();
    }
}

fn has(status: &Value, kind: &str) -> bool {
    status["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

#[tokio::test]
async fn a_job_runs_to_its_end() {
    let house = House::new().await;
    house.make("all", json!({"parallelism": 2, "completions": 3})).await;
    let pods = house.active("all", 2).await;
    house.status("all", "two run", |s| s["active"] == 2 && s["ready"] == 0 && s["startTime"].is_string()).await;
    assert!(pods.iter().all(|pod| pod.finalizers() == [TRACKING]));
    house.ends(&pods[0], "Succeeded").await;
    house.ends(&pods[1], "Succeeded").await;
    let last = house.active("all", 1).await;
    house.status("all", "two are counted", |s| s["succeeded"] == 2 && s["active"] == 1).await;
    house.ends(&last[0], "Succeeded").await;
    let status = house.status("all", "complete", |s| has(s, "Complete")).await;
    assert_eq!((&status["succeeded"], &status["uncountedTerminatedPods"], &status["terminating"]), (&json!(3), &json!({}), &json!(0)));
    assert!(has(&status, "SuccessCriteriaMet") && status["completionTime"].is_string() && status.get("active").is_none(), "{status}");
    let left = house.pods.list(&ListParams::default()).await.unwrap().items;
    assert!(left.len() == 3 && left.iter().all(|pod| pod.finalizers().is_empty()), "they stay, and nothing holds them");
    house.reasons("all", &["SuccessfulCreate", "Completed"]).await;
    // Whoever is done writes no more.
    let before = house.jobs.get("all").await.unwrap().resource_version();
    house.ends(&left[0], "Succeeded").await;
    house.make("next", json!({"completions": 0})).await;
    house.status("next", "nothing to do", |s| has(s, "Complete")).await;
    assert_eq!(house.jobs.get("all").await.unwrap().resource_version(), before);
    house.end();
}

#[tokio::test]
async fn indexes_fail_and_succeed() {
    let house = House::new().await;
    house.make("some", json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0})).await;
    let mut pods = house.active("some", 3).await;
    pods.sort_by_key(|pod| pod.spec.as_ref().and_then(|spec| spec.hostname.clone()));
    let names: Vec<_> = pods.iter().filter_map(|pod| pod.spec.as_ref()?.hostname.clone()).collect();
    assert_eq!(names, ["some-0", "some-1", "some-2"]);
    house.ends(&pods[0], "Succeeded").await;
    house.ends(&pods[2], "Failed").await;
    house.status("some", "one of each", |s| s["completedIndexes"] == "0" && s["failedIndexes"] == "2" && s["failed"] == 1).await;
    house.ends(&pods[1], "Succeeded").await;
    let status = house.status("some", "failed", |s| has(s, "Failed")).await;
    assert_eq!((&status["completedIndexes"], &status["succeeded"]), (&json!("0,1"), &json!(2)));
    assert!(status["conditions"].as_array().unwrap().iter().all(|c| c["reason"] == "FailedIndexes"), "{status}");
    house.reasons("some", &["FailedIndexes"]).await;
    house.make("never", json!({"parallelism": 2, "completions": 2, "backoffLimit": 0})).await;
    let pods = house.active("never", 2).await;
    house.ends(&pods[0], "Failed").await;
    let status = house.status("never", "failed", |s| has(s, "Failed")).await;
    assert_eq!((&status["failed"], &status["conditions"][1]["reason"]), (&json!(2), &json!("BackoffLimitExceeded")), "{status}");
    house.active("never", 0).await;
    house.end();
}

#[tokio::test]
async fn a_job_is_suspended_and_resumed() {
    let house = House::new().await;
    house.make("later", json!({"parallelism": 2, "completions": 2, "suspend": true})).await;
    house.status("later", "suspended", |s| has(s, "Suspended") && s.get("startTime").is_none()).await;
    let suspend = |suspend: bool| Patch::Merge(json!({"spec": {"suspend": suspend}}));
    house.jobs.patch("later", &PatchParams::default(), &suspend(false)).await.unwrap();
    house.active("later", 2).await;
    house.status("later", "resumed", |s| !has(s, "Suspended") && s["startTime"].is_string() && s["active"] == 2).await;
    house.jobs.patch("later", &PatchParams::default(), &suspend(true)).await.unwrap();
    house.active("later", 0).await;
    house.status("later", "suspended again", |s| has(s, "Suspended") && s.get("startTime").is_none() && s["terminating"] == 0).await;
    // Its pods have not failed, and its template may be another one now.
    let place = Patch::Merge(json!({"spec": {"suspend": false, "template": {"spec": {"nodeSelector": {"a": "b"}}}}}));
    house.jobs.patch("later", &PatchParams::default(), &place).await.unwrap();
    let pods = house.active("later", 2).await;
    assert!(pods.iter().all(|pod| pod.spec.as_ref().unwrap().node_selector.is_some()));
    for pod in &pods {
        house.ends(pod, "Succeeded").await;
    }
    let status = house.status("later", "complete", |s| has(s, "Complete")).await;
    assert_eq!(status.get("failed"), None);
    house.reasons("later", &["Suspended", "Resumed", "SuccessfulDelete", "Completed"]).await;
    house.end();
}

#[tokio::test]
async fn a_job_goes_with_its_pods_or_without() {
    let house = House::new().await;
    house.make("short", json!({"ttlSecondsAfterFinished": 0})).await;
    let pods = house.active("short", 1).await;
    house.ends(&pods[0], "Succeeded").await;
    until("the job is gone", async || house.jobs.get_opt("short").await.unwrap().is_none().then_some(())).await;
    until("its pod is gone", async || house.pods.get_opt(&pods[0].name_any()).await.unwrap().is_none().then_some(())).await;
    // Its pods outlive it: nobody will count them.
    house.make("left", json!({})).await;
    let pods = house.active("left", 1).await;
    house
        .jobs
        .delete("left", &DeleteParams { propagation_policy: Some(client::kube::api::PropagationPolicy::Orphan), ..DeleteParams::default() })
        .await
        .unwrap();
    until("its pod is free", async || house.pods.get(&pods[0].name_any()).await.unwrap().finalizers().is_empty().then_some(())).await;
    house.make("gone", json!({"parallelism": 3, "completions": 3})).await;
    house.active("gone", 3).await;
    house.jobs.delete("gone", &DeleteParams::background()).await.unwrap();
    house.active("gone", 0).await;
    // Another's is left alone.
    house.make("others", json!({"managedBy": "example.com/other"})).await;
    house.make("mine", json!({"completions": 0})).await;
    house.status("mine", "complete", |s| has(s, "Complete")).await;
    assert_eq!(house.jobs.get("others").await.unwrap().status.unwrap_or_default(), api::k8s::api::batch::v1::JobStatus::default());
    house.end();
}
