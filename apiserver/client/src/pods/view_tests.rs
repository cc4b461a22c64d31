//! One pod in three representations -> one answer.

use api::k8s::api::core::v1::PodSpec as Full;
use podspec::{HostPort, Overhead, QosClass, SpecView, host_ports, limits, requests, running};
use serde_json::{Value, json};

use super::PodSpec;

/// What each says of itself, by name.
type Answer = (Vec<String>, Vec<String>, Vec<String>, QosClass, Vec<HostPort>, usize);

fn of<S: SpecView>(spec: &S) -> Answer {
    let text = |amounts: podspec::Amounts<'_>| amounts.sorted().iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    let missing = [("cpu", api::quantity::Quantity::from_milli(100))];
    (
        text(requests(spec, Overhead::Included, &[])),
        text(requests(spec, Overhead::Excluded, &missing)),
        text(limits(spec, Overhead::Included)),
        QosClass::of(spec),
        host_ports(spec),
        running(spec).count(),
    )
}

/// All three, where they agree.
fn answer(said: &Value) -> Answer {
    let json = of(said);
    let full: Full = serde_json::from_value(said.clone()).unwrap();
    let kept: PodSpec = serde_json::from_value(said.clone()).unwrap();
    assert_eq!(of(&full), json, "k8s-openapi: {said}");
    assert_eq!(of(&kept), json, "client::pods: {said}");
    json
}

fn stating(requests: Value, limits: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

fn sidecar(mut container: Value) -> Value {
    container["restartPolicy"] = "Always".into();
    container
}

#[test]
fn requests_and_limits_are_those_of_the_widest_moment() {
    let cpu = |cpu: &str| stating(json!({"cpu": cpu}), json!({"cpu": cpu}));
    let rows = [
        (json!({"containers": []}), vec![], vec![], vec![]),
        (json!({"containers": [cpu("1"), cpu("500m"), {"name": "c"}]}), vec!["cpu=1500m"], vec!["cpu=1600m"], vec!["cpu=1500m"]),
        (json!({"containers": [cpu("1")], "initContainers": [cpu("3"), cpu("2")]}), vec!["cpu=3"], vec!["cpu=3"], vec!["cpu=3"]),
        // A sidecar counts for those after it, and beside the containers.
        (json!({"containers": [cpu("1")], "initContainers": [sidecar(cpu("1")), cpu("3")]}), vec!["cpu=4"], vec!["cpu=4"], vec!["cpu=4"]),
        (json!({"containers": [cpu("1")], "initContainers": [cpu("3"), sidecar(cpu("1"))]}), vec!["cpu=3"], vec!["cpu=3"], vec!["cpu=3"]),
        // One that names nothing is started beside the sidecars all the same.
        (json!({"containers": [], "initContainers": [sidecar(cpu("1")), {"name": "i"}]}), vec!["cpu=1"], vec!["cpu=1100m"], vec!["cpu=1"]),
        // Zero is stated.
        (json!({"containers": [stating(json!({"cpu": "0"}), json!({}))]}), vec!["cpu=0"], vec!["cpu=0"], vec![]),
    ];
    for (spec, want, with_missing, want_limits) in rows {
        let (requests, missing, limits, ..) = answer(&spec);
        assert_eq!((requests, missing, limits), (owned(&want), owned(&with_missing), owned(&want_limits)), "{spec}");
    }
}

#[test]
fn the_pod_as_a_whole_and_its_overhead() {
    let own = json!({"requests": {"cpu": "4", "hugepages-2Mi": "4Mi", "example.com/gpu": "9"}, "limits": {"memory": "1Gi"}});
    let container = stating(json!({"cpu": "1", "memory": "1Mi", "example.com/gpu": "1"}), json!({"example.com/gpu": "1", "memory": "0"}));
    let mut spec = json!({"containers": [container], "resources": own, "overhead": {"cpu": "250m", "memory": "1Mi"}});
    let (requests, excluded, limits, ..) = answer(&spec);
    assert_eq!(requests, ["cpu=4250m", "example.com/gpu=1", "hugepages-2Mi=4Mi", "memory=2Mi"]);
    assert_eq!(excluded, ["cpu=4", "example.com/gpu=1", "hugepages-2Mi=4Mi", "memory=1Mi"]);
    // On top of what is limited; nothing is not.
    assert_eq!(limits, ["example.com/gpu=1", "memory=1025Mi"]);
    spec.as_object_mut().unwrap().remove("resources");
    assert_eq!(answer(&spec).2, ["example.com/gpu=1", "memory=0"]);
}

#[test]
fn classes() {
    let full = || json!({"cpu": "1", "memory": "1Gi"});
    let same = || stating(json!({"cpu": "1000m", "memory": "1024Mi"}), full());
    let rows = [
        (json!({"containers": [{"name": "c"}]}), QosClass::BestEffort),
        (json!({"containers": [stating(json!({"cpu": "0"}), json!({}))]}), QosClass::BestEffort),
        (json!({"containers": [stating(json!({}), json!({"example.com/gpu": "1"}))]}), QosClass::BestEffort),
        (json!({"containers": [stating(json!({"cpu": "1"}), json!({}))]}), QosClass::Burstable),
        (json!({"containers": [same()]}), QosClass::Guaranteed),
        (json!({"containers": [same(), {"name": "c"}]}), QosClass::Burstable),
        (json!({"containers": [same()], "initContainers": [{"name": "c"}]}), QosClass::Burstable),
        (json!({"containers": [stating(json!({"cpu": "1", "memory": "1"}), full())]}), QosClass::Burstable),
        (json!({"containers": [{"name": "c"}], "resources": {"requests": full(), "limits": full()}}), QosClass::Guaranteed),
        (json!({"containers": [same()], "resources": {"requests": full()}}), QosClass::Burstable),
        (json!({"containers": [same()], "resources": {}}), QosClass::BestEffort),
        (json!({"containers": [same()], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}), QosClass::Burstable),
    ];
    for (spec, want) in rows {
        assert_eq!(answer(&spec).3, want, "{spec}");
        assert_eq!(QosClass::named(want.word()), Some(want));
    }
}

#[test]
fn host_ports_are_those_of_what_keeps_running() {
    let listening = |port: i32| json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": port}, {"containerPort": 81}]});
    let bound = json!({"name": "c", "ports": [{"containerPort": 80, "hostPort": 9, "hostIP": "10.0.0.1", "protocol": "UDP"}]});
    let spec = json!({"containers": [listening(1), bound], "initContainers": [listening(2), sidecar(listening(3))]});
    let (.., ports, running) = answer(&spec);
    let port = |ip: &str, protocol: &str, port| HostPort { ip: ip.into(), protocol: protocol.into(), port };
    assert_eq!(ports, [port("0.0.0.0", "TCP", 1), port("10.0.0.1", "UDP", 9), port("0.0.0.0", "TCP", 3)]);
    assert_eq!(running, 3);
    assert!(ports[1].conflicts(&port("0.0.0.0", "UDP", 9)) && !ports[1].conflicts(&port("10.0.0.2", "UDP", 9)));
    assert!(!ports[1].conflicts(&port("10.0.0.1", "TCP", 9)) && !ports[0].conflicts(&ports[2]));
}

fn owned(all: &[&str]) -> Vec<String> {
    all.iter().map(|text| (*text).to_owned()).collect()
}
