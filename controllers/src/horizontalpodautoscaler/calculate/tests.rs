//! Pods and what they use, over upstream's own cases.

use std::collections::HashMap;

use api::{k8s::apimachinery::pkg::apis::meta::v1::Time, time::rfc3339};
use serde_json::{Value, json};

use super::*;

const PERIODS: AutoscalerConfig = AutoscalerConfig {
    sync_period: Duration::ZERO,
    downscale_stabilization: Duration::ZERO,
    tolerance: 0.1,
    cpu_initialization: Duration::from_secs(120),
    initial_readiness_delay: Duration::from_secs(10),
};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: u64) -> Timestamp {
    api::time::before(now(), seconds as i64)
}

/// One of `replicas.txt`.
struct Case<'a>(HashMap<&'a str, &'a str>);

impl<'a> Case<'a> {
    fn of(line: &'a str) -> Self {
        Self(line.split_whitespace().filter_map(|word| word.split_once('=')).collect())
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    fn letter(&self, name: &str, at: usize) -> Option<char> {
        self.text(name)?.chars().nth(at)
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, name: &str) -> T {
        self.0[name].parse().unwrap()
    }

    fn list(&self, name: &str) -> Vec<&'a str> {
        self.text(name).into_iter().flat_map(|text| text.split(',')).filter(|part| !part.is_empty()).collect()
    }

    /// As many as there are replicas, or phases.
    fn pods(&self) -> Vec<Arc<Pod>> {
        let count = self.number::<usize>("current").max(self.text("phase").map_or(0, str::len));
        (0..count).map(|at| Arc::new(self.pod(at))).collect()
    }

    fn pod(&self, at: usize) -> Pod {
        let ready = match self.letter("ready", at).unwrap_or('T') {
            'T' => "True",
            'F' => "False",
            _ => "Unknown",
        };
        let phase = match self.letter("phase", at).unwrap_or('R') {
            'P' => "Pending",
            'F' => "Failed",
            'S' => "Succeeded",
            _ => "Running",
        };
        let mut container = json!({"image": "i"});
        if let (Some(request), Some(resource)) = (self.list("requests").get(at), self.text("resource")) {
            container["resources"]["requests"][resource] = (*request).into();
        }
        let containers: Vec<Value> = ["container1", "container2"]
            .map(|name| {
                let mut one = container.clone();
                one["name"] = name.into();
                one
            })
            .into();
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("test-pod-{at}"), "namespace": "n"},
            "spec": {"containers": containers},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap();
        let started = match self.letter("start", at) {
            Some('h') => ago(60),
            Some(_) => ago(180),
            // As old as can be.
            None => Timestamp::MIN,
        };
        pod.status.as_mut().unwrap().start_time = Some(Time(started));
        pod.metadata.deletion_timestamp = self.letter("going", at).filter(|is| *is == '1').map(|_| Time(now()));
        pod
    }

    /// Of all containers, or of the one that is named.
    fn metrics(&self) -> PodMetrics {
        let names = self.list("names");
        let place = match self.text("container") {
            Some("container1") => Some(0),
            Some(_) => Some(1),
            None => None,
        };
        let one = |(at, level): (usize, &str)| {
            let each: Vec<i64> = level.split('+').map(|used| used.parse().unwrap()).collect();
            let value = place.map_or(Some(each.iter().sum()), |place: usize| each.get(place).copied())?;
            let name = names.get(at).map_or_else(|| format!("test-pod-{at}"), |name| (*name).to_owned());
            Some((name, PodMetric { at: Timestamp::MIN, window: Duration::from_secs(60), value }))
        };
        self.list("levels").into_iter().enumerate().filter_map(one).collect()
    }

    fn run(&self) -> Result<Proposal, String> {
        let pods = self.pods();
        let members = Members { pods: &pods, now: now(), config: &PERIODS };
        let current: i32 = self.number("current");
        let tolerances = self.text("tolerances").map_or(vec![0.1, 0.1], |text| text.split(',').map(|part| part.parse().unwrap()).collect());
        let tolerances = Tolerances { down: tolerances[0], up: tolerances[1] };
        if let Some(resource) = self.text("resource") {
            let metrics = self.metrics();
            if self.list("levels").is_empty() {
                return Err("unable to get metrics for resource cpu: no metrics returned from resource metrics API".into());
            }
            return by_utilization(members, metrics, current, self.number("target"), (resource, self.text("container")), tolerances);
        }
        let target = self.number("target");
        let values: Vec<i64> = self.list("levels").into_iter().map(|level| level.parse().unwrap()).collect();
        match self.text("metric").unwrap() {
            "podMetric" => by_average(members, self.metrics(), current, target, "", tolerances),
            "objectMetric" | "externalMetric" => by_value(members, total(&values), current, target, tolerances),
            _ => Ok(by_part(total(&values), current, target, tolerances)),
        }
    }
}

/// Upstream's cases (`replica_calculator_test.go`).
#[test]
fn replicas_are_as_upstream_calculates_them() {
    let cases = include_str!("replicas.txt");
    assert!(cases.lines().count() > 70);
    for line in cases.lines() {
        let case = Case::of(line);
        match (case.text("error"), case.run()) {
            (Some(error), Err(why)) => assert!(why.contains(&error.replace('_', " ")), "{line}: {why}"),
            (Some(_), Ok(proposal)) => panic!("{line}: {proposal:?}"),
            (None, proposal) => {
                let utilization = case.text("utilization").map(|text| text.parse().unwrap());
                let wanted = Proposal { replicas: case.number("replicas"), usage: case.number("usage"), utilization };
                assert_eq!(proposal, Ok(wanted), "{line}");
            }
        }
    }
}

/// `TestGroupPods`, of one pod: its phase, when it started, how long it is as ready as it is (both in seconds), when it was measured and over how long.
#[test]
fn pods_count_once_their_cpu_time_says_something() {
    let ready = |is: &str, seconds| Some((is.to_owned(), seconds));
    let metric = |ago_seconds, window| Some((ago_seconds, window));
    let cases = [
        ("memory", "Succeeded", None, None, metric(0, 60), "ready"),
        ("cpu", "Succeeded", Some(0), None, metric(0, 0), "unready"),
        ("cpu", "Succeeded", Some(60), ready("True", 30), metric(0, 30), "ready"),
        ("cpu", "Succeeded", Some(60), ready("True", 30), metric(0, 60), "unready"),
        ("cpu", "Succeeded", Some(60), ready("False", 30), metric(0, 30), "unready"),
        // After its first minutes it counts, unless it has never been ready.
        ("cpu", "Running", Some(180), ready("True", 3), metric(0, 60), "ready"),
        ("cpu", "Running", Some(180), ready("False", 10), metric(0, 60), "ready"),
        ("cpu", "Running", Some(180), ready("False", 175), metric(0, 60), "unready"),
        ("", "Running", None, ready("False", 175), metric(0, 60), "ready"),
        ("cpu", "Running", Some(600), ready("True", 500), None, "missing"),
        ("cpu", "Pending", None, None, metric(0, 60), "unready"),
        ("cpu", "Pending", None, None, None, "unready"),
        ("cpu", "Failed", None, None, metric(0, 60), "ignored"),
    ];
    for (resource, phase, started, ready, metric, wanted) in cases {
        let mut status = json!({"phase": phase});
        if let Some(seconds) = started {
            status["startTime"] = rfc3339(ago(seconds)).into();
        }
        if let Some((is, seconds)) = &ready {
            status["conditions"] = json!([{"type": "Ready", "status": is, "lastTransitionTime": rfc3339(ago(*seconds))}]);
        }
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
        let of = |(seconds, window)| PodMetric { at: ago(seconds), window: Duration::from_secs(window), value: 1 };
        let metrics = metric.map(|metric| ("p".to_owned(), of(metric))).into_iter().collect();
        let pods = [Arc::new(pod)];
        let groups = Members { pods: &pods, now: now(), config: &PERIODS }.groups(&metrics, resource);
        let found = [
            ("ready", groups.ready),
            ("unready", groups.unready.len()),
            ("missing", groups.missing.len()),
            ("ignored", groups.ignored.len()),
        ];
        let found: Vec<&str> = found.iter().filter(|(_, count)| *count > 0).map(|(name, _)| *name).collect();
        assert_eq!(found, [wanted], "{resource} {phase} {started:?} {ready:?}");
    }
}

/// `TestCalculateRequests`
#[test]
fn requests_are_the_pods_own_or_those_of_its_containers() {
    let container = |name: &str, cpu: &str| json!({"name": name, "image": "i", "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = container("side", "20m");
    sidecar["restartPolicy"] = "Always".into();
    let first = json!({"containers": [container("a", "100m"), container("b", "50m")], "initContainers": [container("once", "1"), sidecar]});
    let mut own = first.clone();
    own["resources"] = json!({"requests": {"cpu": "800m"}});
    let mut of_memory = first.clone();
    of_memory["resources"] = json!({"requests": {"memory": "1Gi"}});
    let without = json!({"containers": [container("a", "100m"), {"name": "b", "image": "i"}]});
    let cases: [(&Value, Option<&str>, Result<i64, &str>); 9] = [
        (&first, None, Ok(170)),
        (&first, Some("b"), Ok(50)),
        (&first, Some("side"), Ok(20)),
        (&first, Some("once"), Err("container once not found in Pod p")),
        (&own, None, Ok(800)),
        (&own, Some("a"), Ok(100)),
        (&of_memory, None, Ok(1000)),
        (&without, None, Err("missing request for cpu in container b of Pod p")),
        (&without, Some("a"), Ok(100)),
    ];
    for (spec, container, wanted) in cases {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let found = requests(&[Arc::new(pod)], container, "cpu").map(|all| all["p"]);
        assert_eq!(found, wanted.map_err(str::to_owned), "{spec} {container:?}");
    }
}

/// What a metrics API may say, whatever it is: a number comes of it.
#[test]
fn no_amount_is_too_odd() {
    let spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]});
    let pod = |name: &str| json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Running"}});
    let pods: Vec<Arc<Pod>> = ["a", "b", "c"].map(|name| Arc::new(serde_json::from_value(pod(name)).unwrap())).into();
    let members = Members { pods: &pods, now: now(), config: &PERIODS };
    let tolerances = Tolerances { down: 0.1, up: 0.1 };
    for value in [i64::MIN, -1, 0, 1, i64::MAX] {
        let metric = PodMetric { at: now(), window: Duration::MAX, value };
        let metrics: PodMetrics = ["a", "b", "z"].map(|name| (name.to_owned(), metric)).into();
        for target in [1, 100, i32::MAX] {
            let proposal = by_utilization(members, metrics.clone(), 3, target, ("memory", None), tolerances);
            assert!(proposal.is_err(), "memory is not requested: {proposal:?}");
            by_average(members, metrics.clone(), 3, target.into(), "", tolerances).unwrap();
            by_value(members, value, 3, target.into(), tolerances).unwrap();
            by_part(value, 0, target.into(), tolerances);
        }
    }
    assert_eq!(by_part(1000, 0, 100, tolerances), Proposal { replicas: 10, usage: 1000, utilization: None });
    assert_eq!(total(&[i64::MAX, i64::MAX, -1]), i64::MAX);
}
