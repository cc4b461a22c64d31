//! What is decided of what was seen. The cases are those of upstream's `horizontal_test.go`.

mod asked;

use api::{
    Gvr,
    k8s::api::autoscaling::v2::{HorizontalPodAutoscalerStatus, MetricStatus},
};
use serde_json::{Value, json};

use super::*;
use measure::{Measured, PodMetric};

const NOW: &str = "2026-11-30T12:00:00Z";
const AT: Duration = Duration::from_secs(1_000_000);
const SCALE: &str = "/apis/apps/v1/namespaces/n/deployments/web/scale";

/// An autoscaler from 2 to 6 replicas by 30 % of CPU time, its target with three pods, and what they use.
struct Small {
    autoscaler: Value,
    replicas: i32,
    selector: &'static str,
    pods: Vec<Arc<Pod>>,
    asked: Vec<Result<Measured, String>>,
    unselected: Option<Unselected>,
    history: History,
    fault: Option<Fault>,
}

/// What was planned, in short.
#[derive(Debug, Default, PartialEq)]
struct Told {
    rescaled: Option<i64>,
    events: Vec<String>,
    status: Option<HorizontalPodAutoscalerStatus>,
}

fn pod(number: usize) -> Arc<Pod> {
    let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}});
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-30T08:00:00Z"});
    let status = json!({"phase": "Running", "startTime": "2026-11-30T08:00:00Z", "conditions": [ready]});
    let metadata = json!({"name": format!("p{number}"), "namespace": "n", "labels": {"app": "web"}});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": [container]}, "status": status})).unwrap())
}

fn cpu(percent: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn external(value: &str) -> Value {
    json!({"type": "External", "external": {"metric": {"name": "qps"}, "target": {"type": "Value", "value": value}}})
}

/// Of the first pods, in thousandths.
fn used(all: &[i64]) -> Result<Measured, String> {
    let metric = |value| PodMetric { at: NOW.parse().unwrap(), window: Duration::from_secs(60), value };
    Ok(Measured::Pods(all.iter().enumerate().map(|(at, value)| (format!("p{at}"), metric(*value))).collect()))
}

fn failed() -> Result<Measured, String> {
    Err("unable to fetch metrics from resource metrics API: something went wrong".into())
}

impl Small {
    fn of(replicas: i32, used_milli: &[i64]) -> Self {
        let metadata = json!({"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "7"});
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let spec = json!({"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 6, "metrics": [cpu(30)]});
        Self {
            autoscaler: json!({"metadata": metadata, "spec": spec}),
            replicas,
            selector: "app=web",
            pods: (0..usize::try_from(replicas).unwrap()).map(pod).collect(),
            asked: vec![used(used_milli)],
            unselected: None,
            history: History::default(),
            fault: None,
        }
    }

    fn spec(mut self, spec: Value) -> Self {
        self.autoscaler["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self
    }

    fn world(&self) -> World {
        let autoscaler: HorizontalPodAutoscaler = serde_json::from_value(self.autoscaler.clone()).unwrap();
        let scale = Scale {
            resource: Gvr::new("apps", "v1", "deployments"),
            path: SCALE.into(),
            object: json!({"metadata": {"name": "web", "resourceVersion": "3"}, "spec": {"replicas": self.replicas}}),
            replicas: self.replicas,
            status_replicas: self.replicas,
            selector: self.selector.into(),
        };
        let is_asked = decide::needs_metrics(&autoscaler.spec, self.replicas);
        let asked = self.asked.iter().map(|answer| Asked { answer: answer.clone(), took: Duration::ZERO }).collect();
        let looked = is_asked.then(|| Looked { pods: self.unselected.clone().map_or_else(|| Ok(self.pods.clone()), Err), asked });
        let seen = self.fault.clone().map_or_else(|| Seen::Scale(Box::new(scale), looked), Seen::NoScale);
        let config = AutoscalerConfig::default();
        World { autoscaler: Arc::new(autoscaler), config, at: AT, now: NOW.parse().unwrap(), history: self.history.clone(), seen }
    }

    fn run(&self) -> Told {
        told(&decide(&self.world()).0)
    }

    /// To how many, and the reasons of the three conditions.
    fn outcome(&self) -> (Option<i64>, [String; 3]) {
        let told = self.run();
        let status = told.status.unwrap();
        (told.rescaled, ["AbleToScale", "ScalingActive", "ScalingLimited"].map(|kind| reason(&status, kind)))
    }
}

fn reason(status: &HorizontalPodAutoscalerStatus, kind: &str) -> String {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    found
        .map_or_else(|| "-".into(), |c| format!("{}{}", if c.status == "True" { "" } else { "!" }, c.reason.as_deref().unwrap_or_default()))
}

fn message(status: &HorizontalPodAutoscalerStatus, kind: &str) -> String {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap().message.clone().unwrap()
}

fn told(plan: &Plan) -> Told {
    let mut told = Told::default();
    for action in &plan.actions {
        match action {
            Action::Event { warning, reason, message, .. } => {
                told.events.push(format!("{}{reason}: {message}", if *warning { "!" } else { "" }));
            }
            Action::Update { path, object, .. } if path == SCALE => {
                assert_eq!(object["metadata"]["resourceVersion"], "3", "it must be the scale that was seen");
                assert!(told.status.is_none(), "it is told after it is done");
                told.rescaled = object["spec"]["replicas"].as_i64();
            }
            Action::Update { path, object, .. } => {
                assert_eq!(path, "/apis/autoscaling/v2/namespaces/n/horizontalpodautoscalers/web/status");
                told.status = Some(serde_json::from_value(object["status"].clone()).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

#[test]
fn of_very_many_metrics_none_is_measured() {
    let metrics = |count: usize| json!({"metrics": vec![cpu(30); count]});
    let most = Small::of(3, &[300, 500, 700]).spec(metrics(decide::METRICS_MAX));
    assert_eq!(most.outcome().1[1], "ValidMetricFound");
    let more = Small::of(3, &[300, 500, 700]).spec(metrics(decide::METRICS_MAX + 1)).run();
    let status = more.status.unwrap();
    assert_eq!((more.rescaled, reason(&status, "ScalingActive")), (None, "!InvalidMetrics".into()));
    assert_eq!(message(&status, "ScalingActive"), "more than 64 metrics are named: none of them is measured");
}

#[test]
fn more_is_used_than_shall_be() {
    let small = Small::of(3, &[300, 500, 700]);
    let (plan, outcome) = decide(&small.world());
    let told = told(&plan);
    assert_eq!(told.rescaled, Some(5));
    assert_eq!(told.events, ["SuccessfulRescale: New size: 5; reason: cpu resource utilization (percentage of request) above target"]);
    assert_eq!((plan.again, outcome.rescaled), (Some(Duration::from_secs(15)), Some((3, 5))));
    let status = told.status.unwrap();
    let all = serde_json::to_value(&status).unwrap();
    let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 50, "averageValue": "500m"}}}]);
    assert_eq!((&all["currentMetrics"], &all["currentReplicas"], &all["desiredReplicas"]), (&current, &json!(3), &json!(5)));
    assert_eq!((&all["lastScaleTime"], all.get("observedGeneration")), (&json!(NOW), None));
    assert_eq!(message(&status, "AbleToScale"), "the HPA controller was able to update the target scale to 5");
    let from = "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)";
    assert_eq!(message(&status, "ScalingActive"), from);
    assert_eq!(message(&status, "ScalingLimited"), "the desired count is within the acceptable range");
    let (able, active, limited) = (reason(&status, "AbleToScale"), reason(&status, "ScalingActive"), reason(&status, "ScalingLimited"));
    assert_eq!([able.as_str(), &active, &limited], ["SucceededRescale", "ValidMetricFound", "!DesiredWithinRange"]);
}

/// Upstream's cases: replicas, what each pod uses, to how many, and the reasons of the three conditions.
#[test]
fn conditions_say_why() {
    type Row = (i32, &'static [i64], Option<i64>, [&'static str; 3]);
    let rescaled = |limited| ["SucceededRescale", "ValidMetricFound", limited];
    let cases: [Row; 7] = [
        (3, &[300, 310, 320], None, ["ReadyForNewScale", "ValidMetricFound", "!DesiredWithinRange"]),
        (3, &[8000, 9500, 1000], Some(6), rescaled("TooManyReplicas")),
        (2, &[8000, 9500], Some(4), rescaled("ScaleUpLimit")),
        (5, &[100, 100, 100, 100, 100], None, ["ScaleDownStabilized", "ValidMetricFound", "!DesiredWithinRange"]),
        (0, &[], None, ["SucceededGetScale", "!ScalingDisabled", "-"]),
        (1, &[], Some(2), ["SucceededRescale", "-", "-"]),
        (10, &[], Some(6), ["SucceededRescale", "-", "-"]),
    ];
    for (replicas, used, to, wanted) in cases {
        let (rescaled, found) = Small::of(replicas, used).outcome();
        assert_eq!((rescaled, found), (to, wanted.map(str::to_owned)), "{replicas} {used:?}");
    }
    let events = |replicas| Small::of(replicas, &[]).run().events;
    assert_eq!(events(1), ["SuccessfulRescale: New size: 2; reason: Current number of replicas below Spec.MinReplicas"]);
    assert_eq!(events(10), ["SuccessfulRescale: New size: 6; reason: Current number of replicas above Spec.MaxReplicas"]);
    assert_eq!(events(0), [""; 0]);
}

#[test]
fn less_is_used_than_shall_be() {
    let down = Small::of(5, &[100, 300, 500, 250, 250]).spec(json!({"metrics": [cpu(50)]}));
    assert_eq!(down.run().rescaled, None, "it has wanted five of late");
    let told = down.spec(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}})).run();
    assert_eq!(
        (told.rescaled, told.events),
        (Some(3), vec!["SuccessfulRescale: New size: 3; reason: All metrics below target".to_owned()])
    );
    let least = Small::of(3, &[0, 0, 0]).spec(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}));
    assert_eq!(least.outcome(), (Some(2), ["SucceededRescale", "ValidMetricFound", "TooFewReplicas"].map(str::to_owned)));
}

#[test]
fn tolerances_are_the_flags_or_the_behaviors() {
    let near = || Small::of(3, &[320, 325, 330]);
    assert_eq!(near().run().rescaled, None);
    let tolerance = |direction: &str, amount: &str| near().spec(json!({"behavior": {direction: {"tolerance": amount}}})).run().rescaled;
    assert_eq!((tolerance("scaleUp", "0.05"), tolerance("scaleUp", "50m"), tolerance("scaleDown", "0.05")), (Some(4), Some(4), None));
    let far = Small::of(3, &[300, 500, 700]).spec(json!({"behavior": {"scaleUp": {"tolerance": "2"}}}));
    assert_eq!(far.run().rescaled, None);
}

#[test]
fn a_metric_that_is_not_known_keeps_replicas() {
    let one =
        |small: Small, first, second| Small { asked: vec![first, second], ..small }.spec(json!({"metrics": [cpu(30), external("1")]}));
    let up = one(Small::of(3, &[]), used(&[300, 500, 700]), failed()).run();
    assert_eq!(up.rescaled, Some(5), "there may be more on the word of one");
    let reason = "FailedGetExternalMetric: unable to get external metric n/qps/nil: ";
    assert!(up.events[0].starts_with(&format!("!{reason}")), "{:?}", up.events);
    let statuses = up.status.unwrap().current_metrics.unwrap();
    assert_eq!((statuses.len(), &statuses[1]), (2, &MetricStatus::default()), "what is not known keeps its place");
    let behavior = json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}});
    let down = one(Small::of(3, &[]), used(&[0, 0, 0]), failed()).spec(behavior).run();
    assert_eq!(down.rescaled, None, "but no fewer");
    assert!(down.events[1].starts_with("!FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: "));
    let none = Small { asked: vec![failed()], ..Small::of(3, &[]) }.run();
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: something went wrong";
    let whole = format!("invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {why}");
    assert_eq!(none.events, [format!("!FailedGetResourceMetric: {why}"), format!("!FailedComputeMetricsReplicas: {whole}")]);
    let status = none.status.unwrap();
    assert_eq!(message(&status, "ScalingActive"), format!("the HPA was unable to compute the replica count: {why}"));
    assert_eq!((self::reason(&status, "ScalingActive").as_str(), none.rescaled), ("!FailedGetResourceMetric", None));
}

/// The names that events and the status have for each kind of metric.
#[test]
fn each_kind_of_metric_has_its_words() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "In", "values": ["v", "w"]}]});
    let object = |target: Value| {
        json!({"type": "Object", "object": {"describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
        "metric": {"name": "qps"}, "target": target}})
    };
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "100Mi"}}});
    let container = json!({"type": "ContainerResource", "containerResource": {"container": "c", "name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 30}}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "100"}}});
    let each = json!({"type": "External", "external": {"metric": {"name": "q", "selector": selector},
        "target": {"type": "AverageValue", "averageValue": "1k"}}});
    let selected = "external metric q(&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:k,Operator:In,Values:[v w],},},})";
    let cases = [
        (memory, used(&[(160 << 20) * 1000; 3]), "memory resource", "/resource/current/averageValue", "160Mi"),
        (
            container,
            used(&[500; 3]),
            "cpu container resource utilization (percentage of request)",
            "/containerResource/current/averageValue",
            "500m",
        ),
        (pods, used(&[160_000; 3]), "pods metric qps", "/pods/current/averageValue", "160"),
        (
            object(json!({"type": "Value", "value": "10"})),
            Ok(Measured::Object(15_000)),
            "Service metric qps",
            "/object/current/value",
            "15",
        ),
        (
            object(json!({"type": "AverageValue", "averageValue": "1"})),
            Ok(Measured::Object(5_000)),
            "external metric qps(nil)",
            "/object/current/averageValue",
            "1667m",
        ),
        (external("10"), Ok(Measured::External(vec![9_000, 6_000])), "external metric qps(nil)", "/external/current/value", "15"),
        (each, Ok(Measured::External(vec![5_000_000])), selected, "/external/current/averageValue", "1666667m"),
    ];
    for (metric, answer, name, place, value) in cases {
        let small = Small { asked: vec![answer], ..Small::of(3, &[]) }.spec(json!({"metrics": [metric]}));
        let told = small.run();
        assert!(told.events[0].ends_with(&format!("reason: {name} above target")), "{metric}: {:?}", told.events);
        let shown = serde_json::to_value(&told.status.unwrap().current_metrics.unwrap()[0]).unwrap();
        assert_eq!((shown["type"].clone(), shown.pointer(place).unwrap()), (metric["type"].clone(), &json!(value)), "{metric}");
    }
}

#[test]
fn pods_must_be_selected_and_by_one_alone() {
    let of = |unselected| Small { unselected: Some(unselected), ..Small::of(3, &[300, 500, 700]) }.run();
    let missing = of(Unselected::Missing);
    assert_eq!(missing.events[0], "!SelectorRequired: selector is required");
    assert_eq!(message(&missing.status.unwrap(), "ScalingActive"), "the HPA target's scale is missing a selector");
    let invalid = of(Unselected::Invalid("no".into()));
    let words = "couldn't convert selector into a corresponding internal selector object: no";
    assert_eq!(invalid.events[0], format!("!InvalidSelector: {words}"));
    assert_eq!(message(&invalid.status.unwrap(), "ScalingActive"), words);
    let all = |count: usize| (0..count).map(|n| Key::new("n", &format!("h{n:03}"))).collect();
    let two = of(Unselected::Ambiguous { selector: "a=b".into(), all: all(2) });
    let words = "pods by selector a=b are controlled by multiple HPAs: [{h000 n} {h001 n}]";
    assert_eq!(two.events, [format!("!AmbiguousSelector: {words}"), format!("!FailedComputeMetricsReplicas: {words}")]);
    let status = two.status.unwrap();
    assert_eq!((reason(&status, "ScalingActive").as_str(), two.rescaled), ("!AmbiguousSelector", None));
    let many = of(Unselected::Ambiguous { selector: "a=b".into(), all: all(900) });
    assert!(message(&many.status.unwrap(), "ScalingActive").ends_with("{h009 n} and 890 more]"));
}

#[test]
fn a_scale_that_is_not_there_is_told() {
    let fault = Fault { message: "deployments.apps \"web\" not found".into(), is_of_spec: false };
    let told = Small { fault: Some(fault), ..Small::of(3, &[]) }.run();
    assert_eq!(told.events, ["!FailedGetScale: deployments.apps \"web\" not found"]);
    let status = told.status.unwrap();
    assert_eq!(reason(&status, "AbleToScale"), "!FailedGetScale");
    assert_eq!(
        message(&status, "AbleToScale"),
        "the HPA controller was unable to get the target's current scale: deployments.apps \"web\" not found"
    );
}

#[test]
fn a_scale_that_could_not_be_written_is_told_without_being_tried_again() {
    let (_, outcome) = decide(&Small::of(3, &[300, 500, 700]).world());
    let failed = outcome.failed("no".into()).unwrap();
    let world = World { seen: Seen::Failed(Box::new(failed)), ..Small::of(3, &[]).world() };
    let told = told(&decide(&world).0);
    let words = "cpu resource utilization (percentage of request) above target";
    assert_eq!((told.rescaled, told.events), (None, vec![format!("!FailedRescale: New size: 5; reason: {words}; error: no")]));
    let status = told.status.unwrap();
    assert_eq!(reason(&status, "AbleToScale"), "!FailedUpdateScale");
    assert_eq!(message(&status, "AbleToScale"), "the HPA controller was unable to update the target scale: no");
    assert_eq!((status.current_replicas, status.desired_replicas, status.last_scale_time), (Some(3), 0, None));
    assert_eq!(status.current_metrics.unwrap().len(), 1);
}

/// `TestAvoidUnnecessaryUpdates`
#[test]
fn what_is_told_is_not_told_again() {
    let mut small = Small::of(3, &[300, 310, 320]);
    let first = small.run();
    small.autoscaler["status"] = serde_json::to_value(first.status.unwrap()).unwrap();
    let again = small.run();
    assert_eq!((again.status, again.events.len()), (None, 0));
    small.asked = vec![used(&[301, 311, 321])];
    assert!(small.run().status.is_some(), "but what is measured anew is");
}

#[test]
fn conditions_keep_their_time() {
    let mut small = Small::of(3, &[300, 310, 320]);
    let mut status = serde_json::to_value(small.run().status.unwrap()).unwrap();
    for condition in status["conditions"].as_array_mut().unwrap() {
        condition["lastTransitionTime"] = "2026-11-30T08:00:00Z".into();
    }
    status["conditions"].as_array_mut().unwrap().push(json!({"type": "ScaledToZero", "status": "False"}));
    small.autoscaler["status"] = status;
    small.asked = vec![failed()];
    let status = serde_json::to_value(small.run().status.unwrap()).unwrap();
    let since = |kind: &str| {
        let all = status["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).map(|c| c["lastTransitionTime"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(since("AbleToScale").as_deref(), Some("2026-11-30T08:00:00Z"));
    assert_eq!(since("ScalingActive").as_deref(), Some(NOW));
    small.replicas = 0;
    assert!(reason(&small.run().status.unwrap(), "ScaledToZero") == "-", "nothing here scales to zero");
}
