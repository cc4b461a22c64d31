//! Pods made and ended, one after the other or at once, and who counts as one of the set's.

use serde_json::{Value, json};

use super::{
    super::identity::{identity_matches, is_member, parent_and_ordinal},
    cluster::{Cluster, NOW},
};

fn parallel() -> Value {
    json!({"podManagementPolicy": "Parallel"})
}

/// `TestGetParentNameAndOrdinal`, `TestIsMemberOf`
#[test]
fn a_name_says_whose_a_pod_is() {
    let cases = [
        ("web-1", Some(("web", Some(1)))),
        ("web-0", Some(("web", Some(0)))),
        ("my-web-10", Some(("my-web", Some(10)))),
        ("web-01", Some(("web", None))),
        ("web-2147483647", Some(("web", Some(2_147_483_647)))),
        ("web-2147483648", Some(("web", Some(2_147_483_648)))),
        ("web-4294967296", Some(("web", None))),
        ("web-99999999999999999999", Some(("web", None))),
        ("web-", None),
        ("web", None),
        ("web-a", None),
        ("web-+1", None),
        ("-1", Some(("", Some(1)))),
    ];
    for (name, wanted) in cases {
        assert_eq!(parent_and_ordinal(name), wanted, "{name}");
    }
}

#[test]
fn ordinals_go_on_beyond_31_bits() {
    let mut cluster = Cluster::new(&json!({"replicas": 2, "ordinals": {"start": i32::MAX}}));
    for wanted in ["+web-2147483647", "+web-2147483648"] {
        assert_eq!(cluster.step(), [wanted]);
        cluster.ready();
    }
    assert!(cluster.step().is_empty(), "both are its own");
    cluster.change(&json!({"replicas": 1}));
    assert_eq!(cluster.step(), ["-web-2147483648"]);
}

/// `CreatesPods`, `ScalesUp`, `ScalesDown` of `TestStatefulSetControl`
#[test]
fn in_order_each_waits_for_those_before_it() {
    let mut cluster = Cluster::new(&json!({}));
    for wanted in ["+web-0", "+web-1", "+web-2"] {
        assert_eq!(cluster.step(), [wanted]);
        assert!(cluster.step().is_empty(), "it is not ready");
        cluster.ready();
    }
    assert!(cluster.step().is_empty());
    assert_eq!(cluster.counts(), [3, 3, 3, 3, 3]);
    cluster.change(&json!({"replicas": 5}));
    cluster.status("web-1", json!({"phase": "Running"}));
    assert!(cluster.step().is_empty(), "one of them is not ready");
    cluster.status("web-1", json!({"phase": "Pending"}));
    cluster.ready();
    assert_eq!(cluster.step(), ["+web-3"]);
    cluster.ready();
    assert_eq!(cluster.step(), ["+web-4"]);
    cluster.ready();
    cluster.change(&json!({"replicas": 2}));
    cluster.going("web-4");
    assert!(cluster.step().is_empty(), "it is still there");
    cluster.pods.remove("web-4");
    assert_eq!(cluster.step(), ["-web-3"]);
    assert_eq!(cluster.step(), ["-web-2"]);
    assert!(cluster.step().is_empty());
    assert_eq!(cluster.counts(), [2, 2, 2, 2, 2]);
}

#[test]
fn in_order_nobody_goes_while_another_is_not_well() {
    let mut cluster = Cluster::settled(&json!({"replicas": 4}));
    cluster.change(&json!({"replicas": 1}));
    cluster.status("web-2", json!({"phase": "Running"}));
    cluster.status("web-3", json!({"phase": "Running"}));
    assert!(cluster.step().is_empty(), "the lowest that is not ready is not the next to go");
    cluster.status("web-3", json!({"phase": "Pending"}));
    cluster.ready();
    assert_eq!(cluster.step(), ["-web-3"], "it is ready");
    assert_eq!(cluster.step(), ["-web-2"], "the only one that is not goes");
    cluster.status("web-0", json!({"phase": "Running"}));
    assert!(cluster.step().is_empty(), "what is wanted comes first");
}

/// `TestParallelScale`
#[test]
fn in_parallel_nobody_waits() {
    let mut cluster = Cluster::new(&parallel());
    assert_eq!(cluster.step(), ["+web-0", "+web-1", "+web-2"]);
    cluster.change(&json!({"replicas": 1}));
    assert_eq!(cluster.step(), ["-web-2", "-web-1"]);
    cluster.change(&json!({"replicas": 1200}));
    assert_eq!([cluster.step().len(), cluster.step().len(), cluster.step().len()], [500, 500, 199]);
}

/// `ReplacesPods`, `RecreatesFailedPod`, `RecreatesSucceededPod` of `TestStatefulSetControl`, and evictions.
#[test]
fn what_is_over_comes_again() {
    for parts in [json!({}), parallel()] {
        for status in [json!({"phase": "Failed", "reason": "Evicted"}), json!({"phase": "Succeeded"})] {
            let mut cluster = Cluster::settled(&parts);
            cluster.status("web-1", status);
            assert_eq!(cluster.step(), ["-web-1"]);
            assert_eq!(cluster.step(), ["+web-1"]);
            cluster.status("web-1", json!({"phase": "Failed"}));
            cluster.going("web-1");
            assert!(cluster.step().is_empty(), "its name is taken until it is gone");
        }
        let mut cluster = Cluster::settled(&parts);
        cluster.pods.remove("web-0");
        cluster.pods.remove("web-2");
        let made = cluster.step();
        assert_eq!(made, if parts == json!({}) { vec!["+web-0"] } else { vec!["+web-0", "+web-2"] });
        cluster.settle();
        assert_eq!(cluster.pods.len(), 3);
    }
}

/// `TestStatefulSetControlWithStartOrdinal`
#[test]
fn ordinals_begin_where_they_are_told_to() {
    let mut cluster = Cluster::settled(&json!({"ordinals": {"start": 2}}));
    assert_eq!(cluster.pods.keys().collect::<Vec<_>>(), ["web-2", "web-3", "web-4"]);
    cluster.change(&json!({"ordinals": {"start": 3}}));
    assert_eq!(cluster.step(), ["+web-5"]);
    cluster.ready();
    assert_eq!(cluster.step(), ["-web-2"]);
    cluster.change(&json!({"ordinals": {"start": i32::MAX}, "replicas": 2}));
    cluster.pods.clear();
    assert_eq!(cluster.step(), ["+web-2147483647"]);
}

#[test]
fn pods_are_who_their_ordinal_says() {
    let cluster = Cluster::settled(&json!({}));
    let (pod, revision) = (&cluster.pods["web-1"], cluster.set.status.clone().unwrap().update_revision.unwrap());
    let labels = json!({"app": "web", "statefulset.kubernetes.io/pod-name": "web-1", "apps.kubernetes.io/pod-index": "1",
        "controller-revision-hash": revision});
    assert_eq!(pod["metadata"]["labels"], labels);
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-1"), &json!("governing")));
    assert_eq!(pod["metadata"]["generateName"], "web-");
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"], &owner["controller"]), (&json!("StatefulSet"), &json!("set"), &json!(true)));
    let told = cluster.told.iter().filter(|(reason, _)| *reason == "SuccessfulCreate").map(|(_, message)| message.as_str());
    assert_eq!(told.collect::<Vec<_>>()[1], "Create Pod web-1 in StatefulSet web successful");
    let nameless = Cluster::settled(&json!({"serviceName": ""}));
    assert_eq!(nameless.pods["web-0"]["spec"]["subdomain"], Value::Null);
}

/// `TestStatefulPodControlUpdatesIdentity`
#[test]
fn a_pod_that_lost_its_label_gets_it_again() {
    let mut cluster = Cluster::settled(&json!({}));
    let labels = cluster.pods.get_mut("web-1").unwrap()["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("statefulset.kubernetes.io/pod-name").unwrap();
    assert!(!identity_matches(&cluster.set, &cluster.view("web-1")));
    cluster.step();
    assert!(identity_matches(&cluster.set, &cluster.view("web-1")));
    assert_eq!(cluster.told.last().unwrap(), &("SuccessfulUpdate", "Update Pod web-1 in StatefulSet web successful".to_owned()));
    assert_eq!(cluster.writes["patch pods"], 1);
}

/// `TestGetPodsForStatefulSetAdopt`, `TestGetPodsForStatefulSetRelease`
#[test]
fn only_members_are_adopted_and_strays_are_let_go() {
    let mut cluster = Cluster::settled(&json!({"replicas": 1}));
    let mut add = |name: &str, app: &str, owned: bool| {
        let mut pod = cluster.pods["web-0"].clone();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["labels"]["app"] = app.into();
        if !owned {
            pod["metadata"]["ownerReferences"] = Value::Null;
        }
        cluster.keep_pod(pod);
    };
    add("web-7", "web", false);
    add("other-1", "web", false);
    add("mine-1", "web", true);
    add("web-8", "db", true);
    let mut paths: Vec<String> = Vec::new();
    for action in cluster.plan().actions {
        let reconcile::Action::Patch { path, patch, .. } = action else { panic!("{action:?}") };
        let owners = patch["metadata"]["ownerReferences"].as_array().unwrap().len();
        paths.push(format!("{} {owners}", path.rsplit('/').next().unwrap()));
    }
    assert_eq!(paths, ["mine-1 0", "web-7 1", "web-8 0"]);
    assert!(is_member(&cluster.set, &cluster.view("web-7")) && !is_member(&cluster.set, &cluster.view("mine-1")));
}

/// `TestStatefulSetControllerDeletionTimestamp`
#[test]
fn a_set_that_goes_only_tells() {
    let mut cluster = Cluster::settled(&json!({}));
    cluster.set.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
    cluster.pods.remove("web-2");
    assert!(cluster.step().is_empty());
    assert_eq!(cluster.counts()[0], 2);
    cluster.revisions.clear();
    cluster.pods.remove("web-1");
    assert!(cluster.plan().actions.is_empty(), "no new revision outlives it");
}

/// `TestStatefulSetScaleDownRespectsMinReadySeconds`, `TestStatefulSetAvailability`
#[test]
fn in_order_ready_is_not_enough_where_time_is_asked_for() {
    let mut cluster = Cluster::new(&json!({"minReadySeconds": 30}));
    assert_eq!(cluster.step(), ["+web-0"]);
    cluster.ready();
    assert!(cluster.step().is_empty());
    assert_eq!((cluster.counts()[1], cluster.counts()[2]), (1, 0));
    assert_eq!(cluster.plan().again, Some(std::time::Duration::from_secs(30)));
    cluster.now = NOW + 30;
    assert_eq!(cluster.step(), ["+web-1"]);
    let mut cluster = Cluster::new(&json!({"minReadySeconds": 30, "podManagementPolicy": "Parallel"}));
    assert_eq!(cluster.step().len(), 3);
}

/// The most that a user can ask for costs what is done, and not what is asked.
#[test]
fn a_set_of_two_billion_pods_is_looked_at_quickly() {
    let start = std::time::Instant::now();
    for policy in ["OrderedReady", "Parallel"] {
        let mut cluster = Cluster::new(&json!({"replicas": i32::MAX, "podManagementPolicy": policy, "ordinals": {"start": i32::MAX}}));
        assert_eq!(cluster.step().len(), if policy == "Parallel" { 500 } else { 1 });
        cluster.step();
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(10));
}
