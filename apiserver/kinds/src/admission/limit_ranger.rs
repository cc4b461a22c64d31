//! LimitRanges -> defaults for what a pod leaves open, and refusals of what is out of bounds.
//!
//! Source: `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::{BTreeMap, HashSet};

use api::{GroupResource, Status, quantity::Quantity};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::common::Read;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

/// Resources by name; each quantity beside its text.
type Amounts = BTreeMap<String, Quantity>;

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is(review, "", "pods") || !concerns(review) {
            return Ok(());
        }
        let ranges = ranges(review);
        if let Some(pod) = review.object.as_deref_mut() {
            for range in &ranges {
                fill(pod, range);
            }
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !concerns(review) {
            return Ok(());
        }
        let Some(object) = review.object.as_deref() else { return Ok(()) };
        for range in ranges(review) {
            let errors = if is(review, "", "pods") { pod_errors(object, &range) } else { claim_errors(object, &range) };
            if !errors.is_empty() {
                return Err(forbidden(review, &aggregate(errors)));
            }
        }
        Ok(())
    }
}

/// New pods and their resizing; new and changed claims.
fn concerns(review: &Review<'_>) -> bool {
    if review.old.is_some_and(|old| old.at("metadata").at("deletionTimestamp").is_some()) {
        return false;
    }
    let whole = review.ctx.subresource.is_empty();
    match review.operation {
        Operation::Create => whole && (is(review, "", "pods") || is(review, "", "persistentvolumeclaims")),
        Operation::Update => {
            is(review, "", "pods") && review.ctx.subresource == "resize" || whole && is(review, "", "persistentvolumeclaims")
        }
        _ => false,
    }
}

fn ranges(review: &Review<'_>) -> Vec<Value> {
    let found = review.ctx.engine.cached_list(&GroupResource::new("", "limitranges"), Some(review.ctx.namespace));
    found.iter().map(|r| r.value()).collect()
}

/// Gives every container what the range has as default.
fn fill(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in range.at("spec").list("limits").iter().filter(|l| l.text("type") == "Container") {
        requests.extend(limit.entries("defaultRequest").map(|(k, v)| (k.to_owned(), v.to_owned())));
        limits.extend(limit.entries("default").map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = container.text("name").to_owned();
            let set_limits = set(container, "limits", &limits);
            for (words, kind) in [(set(container, "requests", &requests), "request"), (set_limits, "limit")] {
                if !words.is_empty() {
                    notes.push(format!("{} {kind} for {what} {name}", words.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"][ANNOTATION] = text.into();
    }
}

/// Sets what is missing; gives the names set, sorted.
fn set(container: &mut Value, field: &str, defaults: &BTreeMap<String, String>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, amount) in defaults {
        if container.at("resources").at(field).at(name).is_none() {
            if !container["resources"][field].is_object() {
                container["resources"][field] = json!({});
            }
            container["resources"][field][name] = amount.as_str().into();
            names.push(name.clone());
        }
    }
    names
}

fn pod_errors(pod: &Value, range: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let spec = pod.at("spec");
    for limit in range.at("spec").list("limits") {
        match limit.text("type") {
            "Container" => {
                for container in spec.list("containers").iter().chain(spec.list("initContainers")) {
                    let resources = container.at("resources");
                    all_errors(limit, &amounts(resources, "requests"), &amounts(resources, "limits"), &mut errors);
                }
            }
            "Pod" => all_errors(limit, &sum(spec, "requests"), &sum(spec, "limits"), &mut errors),
            _ => {}
        }
    }
    errors
}

fn claim_errors(claim: &Value, range: &Value) -> Vec<String> {
    let requests = amounts(claim.at("spec").at("resources"), "requests");
    let mut errors = Vec::new();
    let limits = range.at("spec").list("limits").iter().filter(|l| l.text("type") == "PersistentVolumeClaim");
    for limit in limits {
        for (name, bound) in amounts(Some(limit), "min") {
            errors.extend(min_error("PersistentVolumeClaim", &name, bound, requests.get(&name), None));
        }
        for (name, bound) in amounts(Some(limit), "max") {
            let start = format!("maximum {name} usage per PersistentVolumeClaim is {bound}");
            errors.extend(match requests.get(&name) {
                None => Some(format!("{start}.  No request is specified")),
                Some(request) if *request > bound => Some(format!("{start}, but request is {request}")),
                Some(_) => None,
            });
        }
    }
    errors
}

fn all_errors(limit: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    let typ = limit.text("type");
    for (name, bound) in amounts(Some(limit), "min") {
        errors.extend(min_error(typ, &name, bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in amounts(Some(limit), "max") {
        errors.extend(max_error(typ, &name, bound, requests.get(&name), limits.get(&name)));
    }
    for (name, bound) in amounts(Some(limit), "maxLimitRequestRatio") {
        errors.extend(ratio_error(typ, &name, bound, requests.get(&name), limits.get(&name)));
    }
}

fn min_error(typ: &str, name: &str, bound: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let start = format!("minimum {name} usage per {typ} is {bound}");
    match (request, limit) {
        (None, _) => Some(format!("{start}.  No request is specified")),
        (Some(request), _) if *request < bound => Some(format!("{start}, but request is {request}")),
        (_, Some(limit)) if *limit < bound => Some(format!("{start}, but limit is {limit}")),
        _ => None,
    }
}

fn max_error(typ: &str, name: &str, bound: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let start = format!("maximum {name} usage per {typ} is {bound}");
    match (limit, request) {
        (None, _) => Some(format!("{start}.  No limit is specified")),
        (Some(limit), _) if *limit > bound => Some(format!("{start}, but limit is {limit}")),
        (_, Some(request)) if *request > bound => Some(format!("{start}, but request is {request}")),
        _ => None,
    }
}

fn ratio_error(typ: &str, name: &str, bound: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let start = format!("{name} max limit to request ratio per {typ} is {bound}");
    let Some(request) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{start}, but no request is specified or request is 0"));
    };
    let Some(limit) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{start}, but no limit is specified or limit is 0"));
    };
    #[allow(clippy::cast_precision_loss)]
    let (limit, request, bound) = (limit.milli() as f64, request.milli() as f64, bound.milli() as f64 / 1000.0);
    let ratio = limit / request;
    (ratio > bound).then(|| format!("{start}, but provided ratio is {ratio:.6}"))
}

/// What the pod takes as a whole: containers and sidecars together, or what its init containers need at their worst; the pod's
/// own figures stand above for cpu and memory.
fn sum(spec: Option<&Value>, field: &str) -> Amounts {
    let of = |container: &Value| amounts(container.at("resources"), field);
    let mut total = Amounts::new();
    for container in spec.list("containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut worst) = (Amounts::new(), Amounts::new());
    for container in spec.list("initContainers") {
        let own = of(container);
        if container.text("restartPolicy") == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut worst, &sidecars);
        } else {
            let mut then = sidecars.clone();
            add(&mut then, &own);
            raise(&mut worst, &then);
        }
    }
    raise(&mut total, &worst);
    let own = amounts(spec.at("resources"), field);
    total.extend(own.into_iter().filter(|(name, _)| name == "cpu" || name == "memory"));
    total
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        total.entry(name.clone()).and_modify(|sum| *sum = sum.plus(*amount)).or_insert(*amount);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = total.entry(name.clone()).or_insert(*amount);
        if *amount > *known {
            *known = *amount;
        }
    }
}

fn amounts(holder: Option<&Value>, field: &str) -> Amounts {
    let map = holder.object(field).into_iter().flatten();
    map.filter_map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), Quantity::parse(&text).ok()?))
    })
    .collect()
}

/// As `utilerrors.NewAggregate` prints: each message once.
fn aggregate(errors: Vec<String>) -> String {
    let mut seen = HashSet::new();
    let mut unique: Vec<String> = errors.into_iter().filter(|error| seen.insert(error.clone())).collect();
    if unique.len() == 1 { unique.remove(0) } else { format!("[{}]", unique.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_fill_what_is_open() {
        let range = range(json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}));
        let mut pod = pod(json!({"limits": {"cpu": "2"}}));
        fill(&mut pod, &range);
        let resources = &pod["spec"]["containers"][0]["resources"];
        assert_eq!(resources, &json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}}));
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; memory limit for container c"
        );
    }

    #[test]
    fn what_is_out_of_bounds_is_told_in_upstreams_words() {
        let cases = [
            (json!({"min": {"cpu": "1"}}), json!({}), "minimum cpu usage per Container is 1.  No request is specified"),
            (
                json!({"min": {"cpu": "1"}}),
                json!({"requests": {"cpu": "500m"}}),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (json!({"max": {"cpu": "1"}}), json!({}), "maximum cpu usage per Container is 1.  No limit is specified"),
            (json!({"max": {"cpu": "1"}}), json!({"limits": {"cpu": "2"}}), "maximum cpu usage per Container is 1, but limit is 2"),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                json!({"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            ),
        ];
        for (mut limit, resources, why) in cases {
            limit["type"] = "Container".into();
            assert_eq!(pod_errors(&pod(resources), &range(limit)), [why]);
        }
        let fine = json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}});
        assert!(pod_errors(&pod(json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})), &range(fine)).is_empty());
    }

    #[test]
    fn pods_are_measured_as_a_whole() {
        let spec = json!({
            "containers": [{"resources": {"requests": {"cpu": "1"}}}, {"resources": {"requests": {"cpu": "500m"}}}],
            "initContainers": [
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"resources": {"requests": {"cpu": "3"}}},
            ],
        });
        assert_eq!(sum(Some(&spec), "requests")["cpu"].milli(), 3100);
        let mut own = spec.clone();
        own["resources"] = json!({"requests": {"cpu": "5", "x": "1"}});
        let total = sum(Some(&own), "requests");
        assert_eq!((total["cpu"].milli(), total.len()), (5000, 1));
    }
}
