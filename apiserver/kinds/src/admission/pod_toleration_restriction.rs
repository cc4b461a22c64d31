//! A pod -> it tolerates what its namespace has for all, and nothing that the namespace does not allow (annotations
//! `scheduler.alpha.kubernetes.io/defaultTolerations` and `.../tolerationsWhitelist`, else the configuration). Source:
//! `plugin/pkg/admission/podtolerationrestriction`, `pkg/util/tolerations`.

use api::{Status, field_errors::FieldErrors};
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use podspec::QosClass;
use serde_json::{Value, json};

use super::{namespace_annotations, written_pod};
use crate::{
    common::{
        Path, Read,
        edit::{self, make_child},
        read,
    },
    pod::validate::tolerations,
};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What holds where a namespace says nothing.
#[derive(Default)]
pub struct PodTolerationRestriction {
    default: Vec<Value>,
    allowed: Vec<Value>,
}

impl PodTolerationRestriction {
    /// # Errors
    /// What is wrong with the tolerations.
    pub fn configured(config: Option<&Value>) -> Result<Self, String> {
        let (default, allowed) = (config.list("default"), config.list("whitelist"));
        let (path, mut causes) = (Path::new("podtolerationrestriction"), FieldErrors::default());
        tolerations(default, path.field("default"), &mut causes);
        tolerations(allowed, path.field("whitelist"), &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        if texts.is_empty() {
            Ok(Self { default: default.to_vec(), allowed: allowed.to_vec() })
        } else {
            Err(format!("invalid config: [{}]", texts.join(", ")))
        }
    }

    async fn check(&self, review: &Review<'_>, pod: &Value) -> Result<(), Status> {
        let asked = pod.at("spec").list("tolerations");
        if asked.is_empty() {
            return Ok(());
        }
        let own = of_namespace(review, ALLOWED).await?;
        let (allowed, scope) = own.as_deref().map_or((&*self.allowed, "cluster"), |own| (own, "namespace"));
        if allowed.is_empty() || asked.iter().all(|one| allowed.iter().any(|wide| covers(wide, one))) {
            return Ok(());
        }
        let why = format!("pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist");
        Err(Status::new(500, "", why))
    }
}

#[async_trait]
impl Admission for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if written_pod(review).is_none() {
            return Ok(());
        }
        let mut more = Vec::new();
        if review.ctx.operation == Operation::Create {
            more = of_namespace(review, DEFAULTS).await?.unwrap_or_else(|| self.default.clone());
        }
        let spec = review.object.as_deref_mut().and_then(|pod| make_child(pod, "spec"));
        if let Some(spec) = spec {
            if QosClass::of(&*spec) != QosClass::BestEffort {
                more.push(json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}));
            }
            if !more.is_empty() {
                let all = merged(spec.list("tolerations").iter().chain(&more).collect());
                edit::set(spec, "tolerations", all);
            }
        }
        match review.object.as_deref() {
            Some(pod) => self.check(review, pod).await,
            None => Ok(()),
        }
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        match written_pod(review) {
            Some(pod) => self.check(review, pod).await,
            None => Ok(()),
        }
    }
}

/// `extractNSTolerations`: `None` where the namespace does not say.
async fn of_namespace(review: &Review<'_>, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
    match namespace_annotations(review).await?.get(annotation).map(String::as_str) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str::<Option<Vec<Value>>>(text)
            .map(|found| Some(found.unwrap_or_default()))
            .map_err(|error| Status::new(500, "", error.to_string())),
    }
}

/// `MergeTolerations`: of two of which one covers the other the wider stays.
fn merged(all: Vec<&Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for (i, one) in all.iter().copied().enumerate() {
        let is_wider = |other: &&Value| !read::same(Some(one), Some(*other)) && covers(other, one);
        if !out.iter().any(|kept| covers(kept, one)) && !all[i + 1..].iter().any(is_wider) {
            out.push(one.clone());
        }
    }
    out
}

/// `isSuperset`: whether `wide` tolerates all that `one` does.
fn covers(wide: &Value, one: &Value) -> bool {
    if read::same(Some(wide), Some(one)) {
        return true;
    }
    let takes_all = wide.text("key").is_empty() && wide.text("operator") == "Exists";
    if one.text("key") != wide.text("key") && !takes_all {
        return false;
    }
    let effect = wide.text("effect");
    if !effect.is_empty() && one.text("effect") != effect {
        return false;
    }
    if let Some(most) = wide.int("tolerationSeconds").filter(|_| effect == "NoExecute")
        && one.int("tolerationSeconds").is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match wide.text("operator") {
        "Exists" => true,
        "Equal" | "" => one.text("operator") == "Equal" && one.text("value") == wide.text("value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(key: &str, operator: &str, value: &str, effect: &str) -> Value {
        json!({"key": key, "operator": operator, "value": value, "effect": effect})
    }

    #[test]
    fn the_wider_covers_the_narrower() {
        let cases = [
            (of("a", "Exists", "", ""), of("a", "Equal", "x", "NoSchedule"), true),
            (of("", "Exists", "", ""), of("a", "Equal", "x", "NoSchedule"), true),
            (of("", "Equal", "", ""), of("a", "Equal", "", ""), false),
            (of("a", "Equal", "x", ""), of("a", "Equal", "y", ""), false),
            (of("a", "Equal", "x", ""), of("a", "Exists", "", ""), false),
            (of("a", "Exists", "", "NoSchedule"), of("a", "Exists", "", "NoExecute"), false),
            (of("b", "Exists", "", ""), of("a", "Exists", "", ""), false),
        ];
        for (wide, one, wanted) in cases {
            assert_eq!(covers(&wide, &one), wanted, "{wide} {one}");
        }
        let for_seconds =
            |seconds: Option<i64>| json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert!(covers(&for_seconds(Some(9)), &for_seconds(Some(5))) && !covers(&for_seconds(Some(9)), &for_seconds(None)));
    }

    #[test]
    fn what_is_covered_goes_and_equals_stay_once() {
        let (all, narrow) = (of("a", "Exists", "", ""), of("a", "Equal", "x", ""));
        assert_eq!(merged(vec![&narrow, &all, &all]), std::slice::from_ref(&all));
        assert_eq!(merged(vec![&narrow, &narrow]), [narrow]);
    }
}
