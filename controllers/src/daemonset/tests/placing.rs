//! Which nodes get a pod, what it looks like, and which pods go.

use api::{k8s::api::core::v1::PodSpec, steps};
use client::{Caches, kube};
use reconcile::Action;
use serde_json::{Value, json};

use super::{
    super::{
        nodes::{Asked, Fit, Fits},
        pods,
    },
    cluster::{Cluster, NOW, at, node, set, surging, unavailable},
};

const RUNS: Fit = Fit { run: true, stay: true };
const STAYS: Fit = Fit { run: false, stay: true };
const GOES: Fit = Fit { run: false, stay: false };

fn fit(pod: Value, taints: &Value) -> Fit {
    let mut set = set(&json!({}));
    let template = set.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    let mut whole = serde_json::to_value(&*template).unwrap();
    whole.as_object_mut().unwrap().extend(pod.as_object().cloned().unwrap());
    *template = serde_json::from_value(whole).unwrap();
    Asked::by(&set).of(&node("test-node", &json!({"type": "production"}), taints))
}

/// `TestNodeShouldRunDaemonPod`, and the tests of tainted nodes.
#[test]
fn what_is_asked_of_a_node_is_held_to() {
    let affinity = |value: &str| {
        let term = json!({"matchExpressions": [{"key": "type", "operator": "In", "values": [value]}]});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
    let tolerates = |effect: &str| json!({"tolerations": [{"key": "k", "operator": "Exists", "effect": effect}]});
    let none = json!([]);
    let cases = [
        (json!({}), none.clone(), RUNS),
        (json!({"nodeName": "other-node"}), none.clone(), GOES),
        (json!({"nodeName": "test-node"}), none.clone(), RUNS),
        (json!({"nodeSelector": {"type": "test"}}), none.clone(), GOES),
        (json!({"nodeSelector": {"type": "production"}}), none.clone(), RUNS),
        (affinity("test"), none.clone(), GOES),
        (affinity("production"), none, RUNS),
        (json!({}), taint("k", "NoSchedule"), STAYS),
        (json!({}), taint("k", "NoExecute"), GOES),
        (json!({}), taint("k", "PreferNoSchedule"), RUNS),
        (tolerates("NoSchedule"), taint("k", "NoSchedule"), RUNS),
        (tolerates("NoSchedule"), taint("k", "NoExecute"), GOES),
        (tolerates(""), taint("k", "NoExecute"), RUNS),
        (json!({}), taint("node.kubernetes.io/not-ready", "NoExecute"), RUNS),
        (json!({}), taint("node.kubernetes.io/not-ready", "NoSchedule"), STAYS),
        (json!({}), taint("node.kubernetes.io/unreachable", "NoExecute"), RUNS),
        (json!({}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), RUNS),
        (json!({}), taint("node.kubernetes.io/memory-pressure", "NoSchedule"), RUNS),
        (json!({}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), STAYS),
        (json!({"hostNetwork": true}), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), RUNS),
    ];
    for (pod, taints, wanted) in cases {
        assert_eq!(fit(pod.clone(), &taints), wanted, "{pod} {taints}");
    }
}

#[test]
fn tolerations_are_added_once() {
    let of = |spec: Value| -> Vec<String> {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let text = |text: Option<String>| text.unwrap_or_default().rsplit('/').next().unwrap_or_default().to_owned();
        let all = pods::tolerations(&spec).into_iter();
        all.map(|t| format!("{}:{}:{:?}", text(t.key), t.effect.unwrap_or_default(), t.toleration_seconds)).collect()
    };
    let always = [
        "not-ready:NoExecute:None",
        "unreachable:NoExecute:None",
        "disk-pressure:NoSchedule:None",
        "memory-pressure:NoSchedule:None",
        "pid-pressure:NoSchedule:None",
        "unschedulable:NoSchedule:None",
    ];
    assert_eq!(of(json!({"containers": []})), always);
    let stated = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}]);
    let mut moved = always.to_vec();
    moved[..2].reverse();
    assert_eq!(of(json!({"containers": [], "tolerations": stated})), moved, "it is for ever");
    assert_eq!(of(json!({"containers": [], "hostNetwork": true}))[6], "network-unavailable:NoSchedule:None");
}

/// `TestSimpleDaemonSetLaunchesPods`, `TestSimpleDaemonSetScheduleDaemonSetPodsLaunchesPods`
#[test]
fn each_node_gets_a_pod_that_says_where_it_belongs() {
    let mut cluster = Cluster::new(5, &unavailable(json!(1)));
    let asked = json!({"podAntiAffinity": {}, "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}]}}});
    let template = &mut cluster.set.spec.as_mut().unwrap().template.spec;
    template.as_mut().unwrap().affinity = serde_json::from_value(asked).unwrap();
    assert_eq!(cluster.step(), (5, 0));
    assert_eq!(cluster.step(), (0, 0));
    let mut nodes: Vec<&str> = Vec::new();
    for pod in cluster.pods.values() {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels, &json!({"app": "foo", "controller-revision-hash": cluster.hash(), "pod-template-generation": "1"}));
        assert_eq!(pod["metadata"]["generateName"], "foo-");
        let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["key"], "metadata.name");
        assert_eq!((terms.as_array().unwrap().len(), &terms[0]["matchExpressions"]), (1, &Value::Null));
        nodes.push(terms[0]["matchFields"][0]["values"][0].as_str().unwrap());
    }
    nodes.sort_unstable();
    assert_eq!(nodes, ["node-0", "node-1", "node-2", "node-3", "node-4"]);
    let created = cluster.told.iter().filter(|(reason, message)| *reason == "SuccessfulCreate" && message.starts_with("Created pod: foo-"));
    assert_eq!(created.count(), 5);
}

#[test]
fn a_run_makes_no_more_than_a_burst() {
    let mut cluster = Cluster::new(600, &unavailable(json!(1)));
    assert_eq!([cluster.step().0, cluster.step().0, cluster.step().0, cluster.step().0], [250, 250, 100, 0]);
    cluster.nodes.clear();
    cluster.ready();
    assert_eq!(cluster.step(), (0, 0), "what is bound is collected with its node");
}

/// `TestDeleteUnscheduledPodForNotExistingNode`
#[test]
fn what_waits_for_a_node_that_is_gone_goes() {
    let mut cluster = Cluster::new(3, &unavailable(json!(1)));
    cluster.step();
    cluster.nodes.remove("node-1");
    assert_eq!(cluster.sync(), (0, 1));
}

/// One that goes already is not deleted once more.
#[test]
fn what_goes_from_a_node_that_is_gone_is_not_counted() {
    let mut cluster = Cluster::settled(3, &unavailable(json!(1)));
    cluster.add("leftover", "node-9", None, NOW, false);
    let leftover = cluster.pods.get_mut("leftover").unwrap();
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-9"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    leftover["spec"] = json!({"containers": [], "affinity": {"nodeAffinity": required}});
    leftover["metadata"]["deletionTimestamp"] = at(NOW).into();
    assert_eq!(cluster.step(), (0, 0));
}

/// What stands behind a failure is not begun.
#[test]
fn neither_creations_nor_deletions_wait_for_the_others_for_ever() {
    let mut cluster = Cluster::settled(2, &unavailable(json!(1)));
    let hash = cluster.hash();
    cluster.add("late", "node-1", Some(&hash), NOW + 9, true);
    cluster.nodes.insert("node-2".into(), node("node-2", &json!({}), &json!([])));
    let verbs = |cluster: &Cluster| -> Vec<&'static str> {
        let verb = |action: Action| match action {
            Action::Create { .. } => Some("create"),
            Action::Delete { .. } => Some("delete"),
            _ => None,
        };
        cluster.plan().actions.into_iter().filter_map(verb).collect()
    };
    assert_eq!(verbs(&cluster), ["create", "delete"]);
    cluster.was_refused = true;
    assert_eq!(verbs(&cluster), ["delete", "create"]);
}

/// `TestDealsWithExistingPods`: of several the oldest stays.
#[test]
fn too_many_on_a_node_become_one() {
    for bound in [true, false] {
        let mut cluster = Cluster::settled(3, &unavailable(json!(1)));
        let hash = cluster.hash();
        cluster.add("early", "node-1", Some(&hash), NOW - 9, bound);
        cluster.add("late", "node-2", Some(&hash), NOW + 9, bound);
        assert_eq!(cluster.sync(), (0, 2));
        assert!(cluster.pods.contains_key("early") && !cluster.pods.contains_key("late"));
    }
}

/// `TestNoScheduleTaintedDoesntEvicitRunningIntolerantPod`, `TestNoExecuteTaintedDoesEvicitRunningIntolerantPod`, `TestNumberReadyStatus`
#[test]
fn pods_stay_go_and_are_counted_as_their_nodes_change() {
    let mut cluster = Cluster::settled(3, &unavailable(json!(1)));
    let counts = |cluster: &Cluster| {
        let status = cluster.set.status.clone().unwrap();
        let of = |n: Option<i32>| n.unwrap_or(0);
        let [desired, current, misscheduled] =
            [status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled];
        [
            desired,
            current,
            misscheduled,
            status.number_ready,
            of(status.updated_number_scheduled),
            of(status.number_available),
            of(status.number_unavailable),
        ]
    };
    assert_eq!(counts(&cluster), [3, 3, 0, 3, 3, 3, 0]);
    assert_eq!(cluster.set.status.as_ref().unwrap().observed_generation, Some(1));
    let tainted = |effect: &str| node("node-1", &json!({}), &json!([{"key": "k", "effect": effect}]));
    cluster.nodes.insert("node-1".into(), tainted("NoSchedule"));
    assert_eq!(cluster.sync(), (0, 0));
    assert_eq!(counts(&cluster), [2, 2, 1, 2, 2, 2, 0]);
    cluster.nodes.insert("node-1".into(), tainted("NoExecute"));
    assert_eq!(cluster.sync(), (0, 1));
    assert_eq!(counts(&cluster), [2, 2, 0, 2, 2, 2, 0]);
    cluster.nodes.insert("node-1".into(), node("node-1", &json!({}), &json!([])));
    assert_eq!(cluster.sync(), (1, 0));
    assert_eq!(counts(&cluster), [3, 3, 0, 2, 3, 2, 1]);
}

/// `TestDaemonKillFailedPods`, `TestDaemonKillFailedPodsBackoff`
#[test]
fn what_is_over_is_replaced_when_its_time_has_come() {
    for (phase, reason) in [("Failed", "FailedDaemonPod"), ("Succeeded", "SucceededDaemonPod")] {
        let mut cluster = Cluster::settled(2, &unavailable(json!(1)));
        let name = cluster.pods.keys().next().unwrap().clone();
        cluster.pods.get_mut(&name).unwrap()["status"] = json!({"phase": phase});
        if phase == "Failed" {
            cluster.waits.insert(name.clone(), std::time::Duration::from_secs(3));
            assert_eq!(cluster.sync(), (0, 0));
            assert_eq!(cluster.plan().again, Some(std::time::Duration::from_secs(3)));
            cluster.waits.clear();
        }
        assert_eq!(cluster.sync(), (1, 1));
        let node = format!("d/{name} on node node-");
        assert!(cluster.told.iter().any(|(told, message)| *told == reason && message.contains(&node)), "{:?}", cluster.told);
        // One that is over and going is not there: its place is free before it is gone (`TestGetNodesToDaemonPods`).
        let name = cluster.pods.keys().next().unwrap().clone();
        let pod = cluster.pods.get_mut(&name).unwrap();
        pod["status"] = json!({"phase": phase});
        pod["metadata"]["deletionTimestamp"] = super::cluster::at(NOW).into();
        assert_eq!(cluster.sync(), (1, 0));
    }
}

/// `TestDaemonSetRespectsTermination`
#[test]
fn one_that_is_going_keeps_its_place() {
    let mut cluster = Cluster::settled(1, &unavailable(json!(1)));
    let name = cluster.pods.keys().next().unwrap().clone();
    cluster.pods.get_mut(&name).unwrap()["metadata"]["deletionTimestamp"] = super::cluster::at(NOW).into();
    assert_eq!(cluster.sync(), (0, 0));
    // Who surges does not wait for it.
    cluster.strategy(surging(json!(1)));
    assert_eq!(cluster.sync(), (1, 0));
}

/// `TestPodIsNotDeletedByDaemonsetWithEmptyLabelSelector`
#[test]
fn who_selects_all_is_told_so() {
    let mut cluster = Cluster::new(1, &unavailable(json!(1)));
    cluster.set.spec.as_mut().unwrap().selector = serde_json::from_value(json!({})).unwrap();
    assert_eq!(cluster.sync(), (0, 0));
    assert_eq!((cluster.told.len(), cluster.told[0].0), (1, "SelectingAll"));
}

/// 1,000 nodes and 20 DaemonSets: a node that reports costs nothing, one that changes a look at each of them, and only those are woken that
/// want something else of it now.
#[tokio::test]
async fn a_nodes_event_costs_the_daemonsets_and_no_more() {
    let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::empty()))
    });
    let caches = Caches::unfollowed(kube::Client::new(nobody, "d"), api::task::Group::new());
    let (sets, nodes, fits) = (caches.of(), caches.of(), Fits::default());
    let woken = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = woken.clone();
    fits.follow(&sets, &nodes, move |key| heard.lock().push(key.name.to_string()));
    for n in 0..20 {
        let mut of = set(&json!({}));
        of.metadata.name = Some(format!("s{n}"));
        if n % 2 == 0 {
            of.spec.as_mut().unwrap().template.spec.as_mut().unwrap().node_selector = Some([("disk".to_owned(), "ssd".to_owned())].into());
        }
        sets.feed(of, false);
    }
    let mut version = 10;
    let mut feed = |name: &str, labels: &Value, taints: &Value, gone: bool| {
        version += 1;
        let mut node = node(name, labels, taints);
        node.metadata.resource_version = Some(version.to_string());
        steps::of(|| nodes.feed(node, gone)).1
    };
    for n in 0..1_000 {
        feed(&format!("n{n}"), &json!({}), &json!([]), false);
    }
    assert_eq!(woken.lock().len(), 10_000);
    woken.lock().clear();
    assert_eq!(feed("n7", &json!({}), &json!([]), false), 0, "it reports");
    assert!(woken.lock().is_empty());
    assert_eq!(feed("n7", &json!({"disk": "ssd"}), &json!([]), false), 20);
    assert_eq!(woken.lock().len(), 10);
    woken.lock().clear();
    feed("n7", &json!({"disk": "ssd", "rack": "1"}), &json!([]), false);
    assert!(woken.lock().is_empty());
    feed("n7", &json!({"disk": "ssd", "rack": "1"}), &json!([]), true);
    assert_eq!(woken.lock().len(), 20);
    let kept = fits.get(&api::Key::new("d", "s1")).unwrap();
    assert_eq!((kept.nodes.len(), kept.nodes.values().filter(|fit| fit.run).count()), (999, 999));
    // A status that is written is no other question.
    let mut told = (*kept.set).clone();
    told.metadata.resource_version = Some("99999".into());
    told.status = Some(api::k8s::api::apps::v1::DaemonSetStatus::default());
    assert_eq!(steps::of(|| sets.feed(told, false)).1, 0);
    let after = fits.get(&api::Key::new("d", "s1")).unwrap();
    assert!(
        after.set.status.is_some() && std::sync::Arc::ptr_eq(&after.nodes, &kept.nodes) && std::sync::Arc::ptr_eq(&after.data, &kept.data)
    );
    sets.feed((*after.set).clone(), true);
    assert!(fits.get(&api::Key::new("d", "s1")).is_none());
}
