//! LimitRanges -> defaults for what a pod leaves open, and refusals of what is out of bounds.
//!
//! Source: `plugin/pkg/admission/limitranger/admission.go`.

mod range;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use api::{GroupResource, Status, quantity::Quantity};
use apiserver::{
    engine::{Engine, View},
    identity::{Admission, Operation, Review},
    pace::{LOOK_BYTES, Turn},
};
use async_trait::async_trait;
use podspec::{Overhead, Side};
use serde_json::{Value, json};

use super::{forbidden, is};
use crate::common::Read;
use range::{Limit, Range, Texts, Type};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Most that defaults add to one pod, as JSON: what is larger cannot be stored anyway.
const ADDED_BYTES_MAX: usize = 3 << 20;
/// Most that one refusal tells.
const ERRORS_MAX: usize = 1000;

#[derive(Default)]
pub struct LimitRanger {
    ranges: View<Range>,
}

/// Resources by name; each quantity beside its text.
type Amounts = BTreeMap<String, Quantity>;

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.ranges.follow(engine, &GroupResource::new("", "limitranges"));
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is(review, "", "pods") || !concerns(review) {
            return Ok(());
        }
        let (ranges, mut turn, mut left) = (self.ranges(review)?, Turn::default(), ADDED_BYTES_MAX);
        for range in ranges.iter() {
            let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
            let looks = fill(pod, range, &mut left);
            if left == 0 {
                return Err(Status::too_large("Request entity too large: the defaults of LimitRanges make the pod too large".to_owned()));
            }
            turn.took(looks * LOOK_BYTES);
            turn.rest().await;
        }
        Ok(())
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !concerns(review) {
            return Ok(());
        }
        let ranges = self.ranges(review)?;
        let Some(object) = review.object.as_deref().filter(|_| !ranges.is_empty()) else { return Ok(()) };
        let (asked, mut turn) =
            (if is(review, "", "pods") { Requested::by_pod(object) } else { Requested::by_claim(object) }, Turn::default());
        for range in ranges.iter() {
            let errors = asked.errors(range);
            if !errors.is_empty() {
                return Err(forbidden(review, &aggregate(errors)));
            }
            turn.took(asked.looks(range) * LOOK_BYTES);
            turn.rest().await;
        }
        Ok(())
    }
}

impl LimitRanger {
    fn ranges(&self, review: &Review<'_>) -> Result<Arc<[Arc<Range>]>, Status> {
        let why = "the LimitRanges of this namespace are too large to be looked through";
        self.ranges.of(review.ctx.engine, review.ctx.namespace).map_err(|unseen| unseen.status(|| forbidden(review, why)))
    }
}

/// New pods and their resizing; new and changed claims.
fn concerns(review: &Review<'_>) -> bool {
    if review.old.is_some_and(|old| old.at("metadata").at("deletionTimestamp").is_some()) {
        return false;
    }
    let whole = review.ctx.subresource.is_empty();
    match review.ctx.operation {
        Operation::Create => whole && (is(review, "", "pods") || is(review, "", "persistentvolumeclaims")),
        Operation::Update => {
            is(review, "", "pods") && review.ctx.subresource == "resize" || whole && is(review, "", "persistentvolumeclaims")
        }
        _ => false,
    }
}

/// Gives every container what the range has as default, for no more than `left` bytes; tells how many entries were looked at.
fn fill(pod: &mut Value, range: &Range, left: &mut usize) -> usize {
    let (mut notes, mut looks) = (Vec::new(), 1);
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            looks += range.default_requests.len() + range.default_limits.len();
            let name = container.text("name").to_owned();
            let set_limits = set(container, "limits", &range.default_limits, left);
            for (words, kind) in [(set(container, "requests", &range.default_requests, left), "request"), (set_limits, "limit")] {
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
    looks
}

/// Sets what is missing; gives the names set, sorted. Nothing is set any more once no bytes are `left`.
fn set<'a>(container: &mut Value, field: &str, defaults: &'a Texts, left: &mut usize) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (name, amount) in defaults {
        if container.at("resources").at(field).at(name).is_none() {
            // Quotes, a colon, a comma.
            *left = left.saturating_sub(name.len() + amount.len() + 6);
            if *left == 0 {
                break;
            }
            if !container["resources"][field].is_object() {
                container["resources"][field] = json!({});
            }
            container["resources"][field][&**name] = (&**amount).into();
            names.push(&**name);
        }
    }
    names
}

/// What one object asks for: measured once, compared with each range.
#[derive(Default)]
struct Requested {
    /// Of each container: requests, limits.
    containers: Vec<(Amounts, Amounts)>,
    pod: Option<(Amounts, Amounts)>,
    claim: Option<Amounts>,
}

impl Requested {
    fn by_pod(pod: &Value) -> Self {
        let spec = pod.at("spec");
        let all = spec.list("containers").iter().chain(spec.list("initContainers")).map(|container| container.at("resources"));
        let containers = all.map(|resources| (amounts(resources, "requests"), amounts(resources, "limits"))).collect();
        Self { containers, pod: Some((sum(spec, Side::Requests), sum(spec, Side::Limits))), claim: None }
    }

    fn by_claim(claim: &Value) -> Self {
        Self { claim: Some(amounts(claim.at("spec").at("resources"), "requests")), ..Self::default() }
    }

    /// About how many amounts [`Requested::errors`] compares.
    fn looks(&self, range: &Range) -> usize {
        range.limits.iter().map(|limit| 1 + limit.len()).sum::<usize>() * (1 + self.containers.len())
    }

    fn errors(&self, range: &Range) -> Vec<String> {
        let mut errors = Vec::new();
        for limit in &range.limits {
            match limit.typ {
                Type::Container => self.containers.iter().for_each(|(requests, limits)| all_errors(limit, requests, limits, &mut errors)),
                Type::Pod => self.pod.iter().for_each(|(requests, limits)| all_errors(limit, requests, limits, &mut errors)),
                Type::Claim => self.claim.iter().for_each(|requests| claim_errors(limit, requests, &mut errors)),
            }
        }
        errors
    }
}

/// Adds an error for each amount that has one, until there are [`ERRORS_MAX`].
fn each(errors: &mut Vec<String>, bounds: &[(Box<str>, Quantity)], error: impl Fn(&str, Quantity) -> Option<String>) {
    let left = ERRORS_MAX.saturating_sub(errors.len());
    errors.extend(bounds.iter().filter_map(|(name, bound)| error(name, *bound)).take(left));
}

fn claim_errors(limit: &Limit, requests: &Amounts, errors: &mut Vec<String>) {
    each(errors, &limit.min, |name, bound| min_error("PersistentVolumeClaim", name, bound, requests.get(name), None));
    each(errors, &limit.max, |name, bound| {
        let start = format!("maximum {name} usage per PersistentVolumeClaim is {bound}");
        match requests.get(name) {
            None => Some(format!("{start}.  No request is specified")),
            Some(request) if *request > bound => Some(format!("{start}, but request is {request}")),
            Some(_) => None,
        }
    });
}

fn all_errors(limit: &Limit, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    let typ = limit.typ.word();
    each(errors, &limit.min, |name, bound| min_error(typ, name, bound, requests.get(name), limits.get(name)));
    each(errors, &limit.max, |name, bound| max_error(typ, name, bound, requests.get(name), limits.get(name)));
    each(errors, &limit.ratio, |name, bound| ratio_error(typ, name, bound, requests.get(name), limits.get(name)));
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

/// What the pod takes as a whole, without what running it takes besides.
fn sum(spec: Option<&Value>, side: Side) -> Amounts {
    let sum = spec.map(|spec| match side {
        Side::Requests => podspec::requests(spec, Overhead::Excluded, &[]),
        Side::Limits => podspec::limits(spec, Overhead::Excluded),
    });
    sum.iter().flat_map(|sum| sum.iter()).map(|(name, amount)| (name.to_owned(), amount)).collect()
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

    fn range(limit: Value) -> Range {
        Range::of(&json!({"spec": {"limits": [limit]}}))
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})
    }

    #[test]
    fn defaults_fill_what_is_open() {
        let range = range(json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}));
        let mut pod = pod(json!({"limits": {"cpu": "2"}}));
        fill(&mut pod, &range, &mut ADDED_BYTES_MAX.clone());
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
            assert_eq!(Requested::by_pod(&pod(resources)).errors(&range(limit)), [why]);
        }
        let fine = json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let pod = pod(json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}));
        assert!(Requested::by_pod(&pod).errors(&range(fine)).is_empty());
    }

    #[test]
    fn ranges_and_pods_together_make_no_more_than_can_be_told_or_stored() {
        let many: serde_json::Map<String, Value> = (0..20_000).map(|i| (format!("x.io/r{i}"), "1".into())).collect();
        let range = range(json!({"type": "Container", "default": many, "min": many, "max": many}));
        let containers: Vec<Value> = (0..1000).map(|i| json!({"name": format!("c{i}")})).collect();
        let mut pod = json!({"metadata": {"name": "web"}, "spec": {"containers": containers}});
        assert_eq!(Requested::by_pod(&pod).errors(&range).len(), ERRORS_MAX);
        let mut left = ADDED_BYTES_MAX;
        fill(&mut pod, &range, &mut left);
        assert_eq!(left, 0);
        assert!(pod.to_string().len() < 3 * ADDED_BYTES_MAX);
    }

    #[test]
    fn claims_are_held_to_their_own_limits() {
        let range = range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}));
        let errors = |requests: Value| Requested::by_claim(&json!({"spec": {"resources": {"requests": requests}}})).errors(&range);
        assert!(errors(json!({"storage": "1Gi"})).is_empty());
        assert_eq!(errors(json!({"storage": "3Gi"})), ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]);
        assert_eq!(errors(json!({})).len(), 2);
        assert!(Requested::by_pod(&pod(json!({}))).errors(&range).is_empty());
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
        assert_eq!(sum(Some(&spec), Side::Requests)["cpu"].milli(), 3100);
        let mut own = spec.clone();
        own["resources"] = json!({"requests": {"cpu": "5", "hugepages-2Mi": "2Mi", "x": "1"}});
        own["overhead"] = json!({"cpu": "1"});
        let total = sum(Some(&own), Side::Requests);
        assert_eq!((total["cpu"].milli(), total["hugepages-2Mi"].units(), total.len()), (5000, 2 << 20, 2));
        // An init container that names nothing is no less than the sidecars beside it.
        let idle = json!({"containers": [], "initContainers": [{"restartPolicy": "Always", "resources": {"limits": {"cpu": "2"}}}, {}]});
        assert_eq!(sum(Some(&idle), Side::Limits)["cpu"].milli(), 2000);
    }
}
