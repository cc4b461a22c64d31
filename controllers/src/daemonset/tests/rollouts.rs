//! Another template, and what each strategy does about it.

use serde_json::json;

use super::cluster::{Cluster, NOW, node, surging, unavailable};

/// `TestDaemonSetUpdatesPods`
#[test]
fn so_many_at_a_time_are_replaced() {
    for (most, rounds) in [(json!(2), vec![2, 2, 1, 0]), (json!("20%"), vec![1, 1, 1, 1, 1, 0]), (json!("21%"), vec![2, 2, 1, 0])] {
        let mut cluster = Cluster::settled(5, &unavailable(most.clone()));
        cluster.image("v2");
        for round in rounds {
            assert_eq!(cluster.sync(), (round, round), "{most}");
            cluster.ready();
        }
        assert_eq!(cluster.images(), [("v2".to_owned(), 5)].into());
    }
}

/// `TestDaemonSetUpdatesWhenNewPodIsNotReady`, `TestDaemonSetUpdatesSomeOldPodsNotReady`, `TestDaemonSetUpdatesSaveOldHealthyPods`
#[test]
fn those_that_run_outlast_templates_that_do_not() {
    let mut cluster = Cluster::settled(20, &unavailable(json!(10)));
    cluster.image("bad-0");
    assert_eq!(cluster.sync(), (10, 10));
    assert_eq!(cluster.sync(), (0, 0));
    for (n, most) in [0, 1, 5, 9].into_iter().enumerate() {
        cluster.strategy(unavailable(json!(most)));
        cluster.image(&format!("bad-{}", n + 1));
        assert_eq!(cluster.sync(), (10, 10), "only what does not run anyway");
        assert_eq!(cluster.images()["v1"], 10);
    }
}

/// `TestDaemonSetUpdatesAllOldPodsNotReady`, `TestDaemonSetUpdatesAllOldNotReadyPodsAndNewNotReadyPods`
#[test]
fn what_does_not_run_is_replaced_whatever_the_strategy_says() {
    let mut cluster = Cluster::new(5, &unavailable(json!(3)));
    assert_eq!(cluster.sync(), (5, 0));
    cluster.image("v2");
    assert_eq!(cluster.sync(), (5, 5));
    let mut cluster = Cluster::new(5, &surging(json!(3)));
    assert_eq!(cluster.sync(), (5, 0));
    cluster.image("v2");
    assert_eq!(cluster.sync(), (5, 5));
}

/// `TestDaemonSetUpdatesPodsWithMaxSurge`
#[test]
fn a_surge_leaves_no_node_without() {
    let mut cluster = Cluster::settled(5, &surging(json!(2)));
    cluster.image("v2");
    for round in [(2, 0), (2, 2), (1, 2), (0, 1), (0, 0)] {
        assert_eq!(cluster.sync(), round);
        cluster.ready();
    }
    assert_eq!(cluster.images(), [("v2".to_owned(), 5)].into());
}

/// `TestDaemonSetUpdatesPodsNotMatchTainstWithMaxSurge`
#[test]
fn a_node_that_is_not_wanted_any_more_is_left_when_another_is_there() {
    let mut cluster = Cluster::new(5, &surging(json!(1)));
    let control = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    cluster.nodes.insert("node-0".into(), node("node-0", &json!({}), &control));
    let tolerations = json!([{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]);
    let template = |cluster: &mut Cluster, tolerations| {
        cluster.set.spec.as_mut().unwrap().template.spec.as_mut().unwrap().tolerations = serde_json::from_value(tolerations).unwrap();
    };
    template(&mut cluster, tolerations);
    assert_eq!(cluster.sync(), (5, 0));
    cluster.ready();
    template(&mut cluster, json!(null));
    cluster.set.metadata.annotations.as_mut().unwrap().values_mut().for_each(|number| *number = "2".into());
    for round in [(1, 1), (1, 1), (1, 1), (1, 1), (0, 1), (0, 0)] {
        assert_eq!(cluster.sync(), round);
        cluster.ready();
    }
}

/// `TestSurgePreservesReadyOldPods`, `TestSurgeDeletesUnreadyOldPods`, `TestSurgePreservesOldReadyWithUnsatisfiedMinReady`,
/// `TestSurgeDeletesOldReadyWithUnsatisfiedMinReady`
#[test]
fn of_a_surging_node_the_oldest_of_each_template_may_stay() {
    let cases = [
        // Old and ready, new and ready for so long, least; which of the old ones go.
        (true, None, 0, vec!["excess"]),
        (false, None, 0, vec!["excess", "old"]),
        (true, Some(10), 15, vec!["excess"]),
        (true, Some(20), 15, vec!["excess", "old"]),
    ];
    for (old_ready, new_ready, least, gone) in cases {
        let mut cluster = Cluster::new(1, &surging(json!(1)));
        cluster.set.spec.as_mut().unwrap().min_ready_seconds = Some(least);
        cluster.sync();
        cluster.pods.clear();
        let hash = cluster.hash();
        cluster.add("new", "node-0", Some(&hash), NOW, false);
        if let Some(since) = new_ready {
            cluster.ready_one("new", NOW - since);
        }
        cluster.add("old", "node-0", None, NOW - 50, old_ready);
        cluster.add("excess", "node-0", None, NOW - 40, true);
        cluster.sync();
        let mut left: Vec<&str> = vec!["new", "old", "excess"];
        left.retain(|name| !gone.contains(name));
        left.sort_unstable();
        assert_eq!(cluster.pods.keys().collect::<Vec<_>>(), left, "{old_ready} {new_ready:?}");
    }
}

/// `TestSurgeCreatesNewPodWhenAtMaxSurgeAndOldPodDeleted`
#[test]
fn a_node_that_lost_its_pod_does_not_count_against_the_surge() {
    let mut cluster = Cluster::new(5, &surging(json!(1)));
    cluster.sync();
    cluster.pods.clear();
    let hash = cluster.hash();
    cluster.add("new-0", "node-0", Some(&hash), NOW, false);
    (0..5).for_each(|n| cluster.add(&format!("old-{n}"), &format!("node-{n}"), None, NOW - 9, true));
    cluster.pods.get_mut("old-4").unwrap()["metadata"]["deletionTimestamp"] = super::cluster::at(NOW).into();
    assert_eq!(cluster.sync(), (1, 0));
}

#[test]
fn pods_are_available_after_min_ready_seconds() {
    let mut cluster = Cluster::settled(3, &unavailable(json!(1)));
    cluster.set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
    cluster.now += 30;
    cluster.image("v2");
    assert_eq!(cluster.sync(), (1, 1));
    cluster.ready();
    assert_eq!(cluster.sync(), (0, 0), "ready, but not for long enough");
    assert_eq!(cluster.plan().again, Some(std::time::Duration::from_secs(30)));
    cluster.now += 30;
    assert_eq!(cluster.sync(), (1, 1));
}

#[test]
fn on_delete_waits_for_the_user() {
    let mut cluster = Cluster::settled(3, &json!({"type": "OnDelete"}));
    cluster.image("v2");
    assert_eq!(cluster.sync(), (0, 0));
    let gone = cluster.pods.keys().next().unwrap().clone();
    cluster.pods.remove(&gone);
    assert_eq!(cluster.sync(), (1, 0));
    assert_eq!(cluster.images(), [("v1".to_owned(), 2), ("v2".to_owned(), 1)].into());
    let status = cluster.set.status.as_ref().unwrap();
    assert_eq!((status.updated_number_scheduled, status.observed_generation), (Some(1), Some(2)));
}

/// No write that upstream does not make: a revision, each pod's end and beginning, and a status where it changes.
#[test]
fn a_rollout_writes_what_it_must() {
    let mut cluster = Cluster::settled(5, &unavailable(json!(1)));
    cluster.writes.clear();
    cluster.image("v2");
    for _ in 0..6 {
        cluster.sync();
        cluster.ready();
        cluster.sync();
    }
    let of = |what: &str| cluster.writes.get(what).copied().unwrap_or(0);
    assert_eq!([of("create pods"), of("delete pods"), of("create controllerrevisions")], [5, 5, 1]);
    // For each node: it has none, it has a new one, that is ready; and the new generation once. The status of the last is that of the first.
    assert!(of("update daemonsets") <= 3 * 5 + 1, "{:?}", cluster.writes);
    assert_eq!(cluster.writes.len(), 4);
}
