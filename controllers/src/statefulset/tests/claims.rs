//! Claims: made before their pods, and owned as the retention policy says.

use api::k8s::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::{
    super::{
        claims::{Owners, Policy},
        identity::storage_matches,
    },
    cluster::{Cluster, with_claims},
};

fn policy(scaled: &str, deleted: &str) -> Value {
    json!({"volumeClaimTemplates": with_claims(), "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}})
}

fn owners_of(cluster: &Cluster, claim: &str) -> Vec<String> {
    let claim = &cluster.claims[claim];
    claim.metadata.owner_references.iter().flatten().map(|owner| format!("{} {}", owner.kind, owner.name)).collect()
}

/// `TestStatefulPodControlCreatesPods`, `TestGetPersistentVolumeClaims`
#[test]
fn claims_come_before_their_pods() {
    let mut cluster = Cluster::new(&policy("Retain", "Retain"));
    assert_eq!(cluster.step(), ["+web-0"]);
    let claim = &cluster.claims["data-web-0"];
    assert_eq!(serde_json::to_value(&claim.metadata.labels).unwrap(), json!({"app": "web", "tier": "back"}));
    assert_eq!((claim.metadata.namespace.as_deref(), owners_of(&cluster, "data-web-0").len()), (Some("d"), 0));
    let volume = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}]);
    assert_eq!(cluster.pods["web-0"]["spec"]["volumes"], volume);
    assert!(storage_matches(&cluster.set, &cluster.view("web-0")));
    let told: Vec<&str> = cluster.told.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(told, ["Create Claim data-web-0 Pod web-0 in StatefulSet web success", "Create Pod web-0 in StatefulSet web successful"]);
    cluster.settle();
    cluster.change(&json!({"replicas": 1}));
    cluster.settle();
    assert_eq!((cluster.pods.len(), cluster.claims.len()), (1, 3), "they stay");
    cluster.change(&json!({"replicas": 2}));
    cluster.settle();
    assert_eq!(cluster.writes["create persistentvolumeclaims"], 3, "and are used again");
}

/// A template's volume of a claim's name gives way to it (`TestUpdateStorage`).
#[test]
fn a_claim_stands_before_a_volume_of_its_name() {
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}});
    let cluster = Cluster::settled(&json!({"template": template, "volumeClaimTemplates": with_claims(), "replicas": 1}));
    let volumes = &cluster.pods["web-0"]["spec"]["volumes"];
    assert_eq!(volumes, &json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}, {"name": "tmp", "emptyDir": {}}]));
}

/// A pod that waits gets claims that somebody took away; one that runs without them is changed.
#[test]
fn what_claims_are_missing_is_made() {
    let mut cluster = Cluster::new(&policy("Retain", "Retain"));
    cluster.step();
    cluster.claims.clear();
    assert!(cluster.step().is_empty());
    assert_eq!(cluster.claims.len(), 1);
    cluster.settle();
    cluster.pods.get_mut("web-1").unwrap()["spec"]["volumes"] = json!([]);
    cluster.claims.remove("data-web-1");
    cluster.step();
    assert!(storage_matches(&cluster.set, &cluster.view("web-1")) && cluster.claims.contains_key("data-web-1"));
}

/// `TestStatefulPodControlCreatePodPVCDeleting`
#[test]
fn a_claim_that_goes_keeps_its_pod_from_coming() {
    let mut cluster = Cluster::settled(&policy("Retain", "Retain"));
    cluster.pods.remove("web-1");
    cluster.claims.get_mut("data-web-1").unwrap().metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    cluster.told.clear();
    assert!(cluster.step().is_empty());
    assert!(cluster.plan().again.is_some());
    let message = "Create Pod web-1 in StatefulSet web failed error: pvc data-web-1 is being deleted";
    assert_eq!(cluster.told, [("FailedCreate", message.to_owned())]);
    cluster.claims.remove("data-web-1");
    assert_eq!(cluster.step(), ["+web-1"]);
}

/// `TestIsClaimOwnerUpToDate`, `TestUpdateClaimOwnerRefForSetAndPod`
#[test]
fn a_claim_is_owned_as_the_policy_says() {
    let reference = |kind: &str, name: &str, uid: &str, controls: bool| {
        let api = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!({"apiVersion": api, "kind": kind, "name": name, "uid": uid, "controller": controls, "blockOwnerDeletion": true})
    };
    let (pod, set) = (reference("Pod", "web-1", "p1", true), reference("StatefulSet", "web", "set", true));
    let own = serde_json::from_value(set.clone()).unwrap();
    let claim = |references: &[&Value]| -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "ownerReferences": references}})).unwrap()
    };
    // Scaled, deleted, wanted: who is to own it, the pod and the set.
    let cases = [
        ((false, false, true), (false, false)),
        ((false, false, false), (false, false)),
        ((false, true, true), (false, true)),
        ((false, true, false), (false, true)),
        ((true, false, true), (false, false)),
        ((true, false, false), (true, false)),
        ((true, true, true), (false, true)),
        ((true, true, false), (true, false)),
    ];
    let others = [reference("Pod", "rand1", "r1", false), reference("Pod", "rand2", "r2", false)];
    for ((deletes_scaled, deletes_deleted, is_wanted), wanted) in cases {
        let policy = Policy { deletes_scaled, deletes_deleted };
        let owners = Owners { reference: &own, pod: ("web-1", Some("p1")), is_wanted };
        for has in [(false, false), (false, true), (true, false), (true, true)] {
            for beside in [&[][..], &others] {
                let mut all: Vec<&Value> = beside.iter().collect();
                all.extend(has.0.then_some(&pod));
                all.extend(has.1.then_some(&set));
                let mut claim = claim(&all);
                assert_eq!(owners.are_told(policy, &claim), has == wanted, "{policy:?} {is_wanted} {has:?}");
                owners.tell(policy, &mut claim);
                assert!(owners.are_told(policy, &claim), "{policy:?} {is_wanted} {has:?}: {claim:?}");
                let kept = claim.metadata.owner_references.iter().flatten().filter(|owner| owner.name.starts_with("rand")).count();
                assert_eq!(kept, beside.len());
            }
        }
    }
    // `TestClaimOwnerUpToDateEdgeCases`
    let (all, owners) =
        (Policy { deletes_scaled: true, deletes_deleted: true }, Owners { reference: &own, pod: ("web-1", Some("p1")), is_wanted: true });
    assert!(!owners.are_told(all, &claim(&[&reference("StatefulSet", "web", "set", false)])), "it owns, and does not control");
    assert!(!owners.are_told(all, &claim(&[&set, &reference("Other", "x", "x", true)])), "another does");
    assert!(owners.are_told(all, &claim(&[&reference("Other", "x", "x", true)])), "which is not ours to end");
    assert!(owners.are_told(all, &claim(&[&reference("StatefulSet", "web", "earlier", true)])), "an earlier set's");
    assert!(owners.are_told(all, &claim(&[&reference("Pod", "web-1", "earlier", true)])), "an earlier pod's");
}

#[test]
fn policies_that_change_are_told_to_every_claim() {
    let mut cluster = Cluster::settled(&policy("Retain", "Retain"));
    cluster.change(&policy("Delete", "Delete"));
    cluster.settle();
    assert_eq!(owners_of(&cluster, "data-web-2"), ["StatefulSet web"]);
    assert_eq!(cluster.writes["update persistentvolumeclaims"], 3);
    cluster.change(&json!({"replicas": 2}));
    assert_eq!(cluster.step(), ["-web-2"]);
    assert_eq!(owners_of(&cluster, "data-web-2"), ["Pod web-2"], "before the pod goes");
    // Until the collector has ended the claim of the pod that was, there is no new one (`TestStaleOwnerRefOnScaleup`).
    cluster.change(&json!({"replicas": 3}));
    assert!(cluster.step().is_empty());
    cluster.claims.remove("data-web-2");
    assert_eq!(cluster.step(), ["+web-2"]);
    assert_eq!(owners_of(&cluster, "data-web-2"), ["StatefulSet web"], "from the first");
    cluster.change(&policy("Retain", "Retain"));
    cluster.settle();
    assert!(owners_of(&cluster, "data-web-0").is_empty());
}

#[test]
fn a_claim_that_another_controls_is_told_of() {
    let mut cluster = Cluster::new(&policy("Delete", "Delete"));
    cluster.step();
    let other = json!([{"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "x", "controller": true}]);
    cluster.claims.get_mut("data-web-0").unwrap().metadata.owner_references = serde_json::from_value(other).unwrap();
    cluster.told.clear();
    cluster.step();
    assert_eq!(cluster.told[0].0, "ConflictingController");
    assert!(cluster.told[0].1.starts_with("PersistentVolumeClaim data-web-0 has a conflicting OwnerReference"));
}

/// A user may ask for thousands of claims for each of thousands of pods: one run makes as many as it makes pods.
#[test]
fn many_claims_for_many_pods_are_made_in_many_runs() {
    let templates = |n: usize| -> Vec<Value> { (0..n).map(|at| json!({"metadata": {"name": format!("c{at}")}, "spec": {}})).collect() };
    for (count, pods) in [(1, 500), (100, 5), (2_000, 1)] {
        let mut cluster =
            Cluster::new(&json!({"replicas": 1_000, "podManagementPolicy": "Parallel", "volumeClaimTemplates": templates(count)}));
        assert_eq!((cluster.step().len(), cluster.claims.len()), (pods, pods * count));
    }
}
