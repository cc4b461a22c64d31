//! Another template: which pods get it when, and what is kept of the old one.

use serde_json::{Value, json};

use super::cluster::Cluster;

fn numbers(cluster: &Cluster) -> Vec<i64> {
    let mut numbers: Vec<i64> = cluster.revisions.values().map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    numbers
}

/// `TestStatefulSetControlRollingUpdate`
#[test]
fn the_highest_ordinal_is_first_and_each_waits_for_the_one_above() {
    for policy in ["OrderedReady", "Parallel"] {
        let mut cluster = Cluster::settled(&json!({"podManagementPolicy": policy}));
        let old = cluster.set.status.clone().unwrap().current_revision;
        cluster.image("v2");
        for name in ["web-2", "web-1", "web-0"] {
            assert_eq!(cluster.step(), [format!("-{name}")]);
            assert_eq!(cluster.step(), [format!("+{name}")]);
            assert!(cluster.step().is_empty(), "it is not ready");
            if name == "web-2" {
                let status = cluster.set.status.clone().unwrap();
                assert_eq!((status.current_revision.clone(), cluster.counts()), (old.clone(), [3, 2, 2, 2, 1]));
                assert_ne!(status.update_revision, old);
                assert_eq!(status.observed_generation, Some(2));
            }
            cluster.ready();
        }
        cluster.settle();
        let status = cluster.set.status.clone().unwrap();
        assert_eq!((status.current_revision == status.update_revision, cluster.counts()), (true, [3, 3, 3, 3, 3]));
        assert_eq!((cluster.images(), numbers(&cluster)), (vec!["v2"; 3], vec![1, 2]));
    }
}

/// The status counts one that is ended for an update as no longer current, at once.
#[test]
fn the_status_is_ahead_of_the_pod_that_goes() {
    let mut cluster = Cluster::settled(&json!({}));
    cluster.image("v2");
    cluster.step();
    assert_eq!(cluster.counts(), [3, 3, 3, 2, 0]);
}

/// Scaled while it is being updated (`TestStatefulSetControlRollingUpdate`): what is made is new, and scaling comes first.
#[test]
fn scaling_comes_before_updating() {
    let mut cluster = Cluster::settled(&json!({"replicas": 2}));
    cluster.image("v2");
    cluster.change(&json!({"replicas": 4}));
    assert_eq!(cluster.step(), ["+web-2"]);
    cluster.ready();
    assert_eq!(cluster.step(), ["+web-3"]);
    cluster.ready();
    assert_eq!(cluster.images(), ["v1", "v1", "v2", "v2"]);
    cluster.settle();
    assert_eq!(cluster.images(), ["v2"; 4]);
    cluster.image("v3");
    cluster.change(&json!({"replicas": 1}));
    assert_eq!([cluster.step(), cluster.step(), cluster.step()], [["-web-3"], ["-web-2"], ["-web-1"]]);
    assert_eq!(cluster.step(), ["-web-0"]);
}

/// `TestStatefulSetControlRollingUpdateWithPartition`
#[test]
fn below_the_partition_nothing_changes() {
    let mut cluster = Cluster::settled(&json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    cluster.image("v2");
    cluster.settle();
    assert_eq!((cluster.images(), cluster.counts()), (vec!["v1", "v1", "v2"], [3, 3, 3, 2, 1]));
    // What is made anew below it is of the old template.
    cluster.pods.remove("web-0");
    cluster.pods.remove("web-2");
    cluster.settle();
    assert_eq!(cluster.images(), ["v1", "v1", "v2"]);
    cluster.change(&json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}));
    cluster.settle();
    assert_eq!(cluster.images(), ["v2"; 3]);
    let mut cluster = Cluster::settled(
        &json!({"ordinals": {"start": 5}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
    );
    cluster.image("v2");
    cluster.settle();
    assert_eq!(cluster.images(), ["v1", "v2", "v2"], "it counts from the first");
}

/// `TestStatefulSetControlOnDeleteUpdate`
#[test]
fn on_delete_waits_for_the_user() {
    let mut cluster = Cluster::settled(&json!({"updateStrategy": {"type": "OnDelete"}}));
    cluster.image("v2");
    cluster.settle();
    assert_eq!(cluster.images(), ["v1"; 3]);
    cluster.pods.remove("web-1");
    cluster.settle();
    assert_eq!(cluster.images(), ["v1", "v2", "v1"]);
    let status = cluster.set.status.clone().unwrap();
    assert_ne!(status.current_revision, status.update_revision);
    assert_eq!(cluster.counts(), [3, 3, 3, 2, 1]);
}

/// `TestStatefulSetControlRollback`
#[test]
fn going_back_restarts_no_more_than_it_must() {
    let mut cluster = Cluster::settled(&json!({}));
    let old = cluster.set.status.clone().unwrap().current_revision;
    cluster.image("v2");
    cluster.step();
    cluster.step();
    cluster.ready();
    assert_eq!(cluster.images(), ["v1", "v1", "v2"]);
    cluster.image("v1");
    assert_eq!(cluster.step(), ["-web-2"]);
    cluster.settle();
    assert_eq!((cluster.images(), numbers(&cluster)), (vec!["v1"; 3], vec![2, 3]));
    assert_eq!(cluster.set.status.clone().unwrap().current_revision, old, "it is found again");
    assert_eq!(cluster.writes["create controllerrevisions"], 2);
}

/// A pod of the update that does not come up stays as it is: the user has to end it. (Forced rollback, upstream's issue 67250.)
#[test]
fn in_order_a_pod_that_never_was_ready_stays_in_the_way() {
    let mut cluster = Cluster::settled(&json!({}));
    cluster.image("bad");
    cluster.step();
    assert_eq!(cluster.step(), ["+web-2"]);
    cluster.image("v1");
    assert!(cluster.step().is_empty());
    cluster.pods.remove("web-2");
    cluster.settle();
    assert_eq!(cluster.images(), ["v1"; 3]);
}

/// `TestStatefulSetRollingUpdateRespectsMinReadySeconds`
#[test]
fn ready_is_not_enough_where_time_is_asked_for() {
    let mut cluster = Cluster::settled(&json!({}));
    cluster.change(&json!({"minReadySeconds": 30}));
    cluster.now += 30;
    cluster.image("v2");
    assert_eq!([cluster.step(), cluster.step()], [["-web-2"], ["+web-2"]]);
    cluster.ready();
    assert!(cluster.step().is_empty());
    cluster.now += 30;
    assert_eq!(cluster.step(), ["-web-1"]);
}

/// `TestStatefulSetControlLimitsHistory`, `TestStatefulSetHonorRevisionHistoryLimit`
#[test]
fn the_oldest_that_nobody_runs_are_forgotten() {
    let mut cluster = Cluster::settled(&json!({"revisionHistoryLimit": 2}));
    for n in 2..7 {
        cluster.image(&format!("v{n}"));
        cluster.settle();
    }
    assert_eq!(numbers(&cluster), [4, 5, 6]);
    cluster.change(&json!({"revisionHistoryLimit": 0, "updateStrategy": {"type": "OnDelete"}}));
    cluster.image("v7");
    cluster.settle();
    assert_eq!(numbers(&cluster), [6, 7], "pods are of the old one");
    cluster.change(&json!({"revisionHistoryLimit": -1}));
    (8..12).for_each(|n| {
        cluster.image(&format!("v{n}"));
        cluster.settle();
    });
    assert_eq!(cluster.revisions.len(), 6, "no limit");
}

/// `TestStatefulSetControl_getSetRevisions`, and names that others have.
#[test]
fn names_that_others_have_are_passed_over() {
    let mut cluster = Cluster::settled(&json!({"replicas": 1}));
    let (name, first) = cluster.revisions.first_key_value().map(|(name, first)| (name.clone(), first.clone())).unwrap();
    assert_eq!(cluster.set.status.clone().unwrap().collision_count, Some(0));
    let mut other = first.clone();
    other.data.as_mut().unwrap().0 = json!({"other": 1});
    other.metadata.owner_references = None;
    other.metadata.labels = None;
    cluster.revisions.insert(name.clone(), other);
    cluster.settle();
    assert_eq!((cluster.set.status.clone().unwrap().collision_count, cluster.revisions.len()), (Some(1), 2));
    // One that says the same is taken, whoever's it is.
    cluster.revisions.clear();
    cluster.set.status = None;
    let mut same = first;
    same.metadata.owner_references.as_mut().unwrap()[0].uid = "another's".into();
    cluster.revisions.insert(name.clone(), same);
    cluster.settle();
    assert_eq!((cluster.set.status.clone().unwrap().current_revision, cluster.revisions.len()), (Some(name), 1));
}

/// `TestStatefulSetCompatibility`: what an older server wrote says the same.
#[test]
fn revisions_of_older_servers_make_no_pod_anew() {
    let mut cluster = Cluster::settled(&json!({}));
    let revision = cluster.revisions.values_mut().next().unwrap();
    revision.data.as_mut().unwrap().0["spec"]["template"]["metadata"]["creationTimestamp"] = Value::Null;
    cluster.image("v1");
    cluster.settle();
    assert_eq!((cluster.revisions.len(), cluster.writes["create pods"]), (1, 3));
    // What cannot be read of the current one stops it all, before anything is done.
    cluster.image("v2");
    cluster.revisions.values_mut().next().unwrap().data.as_mut().unwrap().0 = json!({"spec": 1});
    assert!(cluster.plan().actions.is_empty());
}

/// No write that upstream does not make: a revision, each pod's end and beginning, and a status where it changes.
#[test]
fn a_rollout_writes_what_it_must() {
    let mut cluster = Cluster::settled(&json!({}));
    cluster.writes.clear();
    cluster.image("v2");
    for _ in 0..20 {
        cluster.step();
        cluster.step();
        cluster.ready();
    }
    let of = |what: &str| cluster.writes.get(what).copied().unwrap_or(0);
    assert_eq!([of("create pods"), of("delete pods"), of("create controllerrevisions")], [3, 3, 1]);
    // For each pod: it is to go, it is gone, there is a new one, that is ready. The last two of one are the first of the next.
    assert!(of("update statefulsets") <= 4 * 3, "{:?}", cluster.writes);
    assert_eq!(cluster.writes.len(), 4);
}
