//! A pod -> it stays five minutes on a node that is lost, unless it says otherwise.
//!
//! Source: `plugin/pkg/admission/defaulttolerationseconds/admission.go`.

use api::Status;
use apiserver::identity::{Admission, Review};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{is, writes};
use crate::common::Read;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if !is(review, "", "pods") || !review.ctx.subresource.is_empty() || !writes(review) {
            return Ok(());
        }
        if let Some(pod) = review.object.as_deref_mut() {
            tolerate(pod);
        }
        Ok(())
    }
}

fn tolerate(pod: &mut Value) {
    for taint in TAINTS {
        let tolerates = |t: &Value| {
            let (key, effect) = (t.text("key"), t.text("effect"));
            (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        if pod.at("spec").list("tolerations").iter().any(tolerates) {
            continue;
        }
        let toleration = json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
        match pod["spec"].get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) => list.push(toleration),
            None => pod["spec"]["tolerations"] = json!([toleration]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tolerated_already_is_left() {
        let count = |tolerations: Value| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            tolerate(&mut pod);
            pod["spec"]["tolerations"].as_array().unwrap().len()
        };
        assert_eq!(count(Value::Null), 2);
        assert_eq!(count(json!([{"operator": "Exists"}])), 1, "everything is tolerated");
        assert_eq!(count(json!([{"key": TAINTS[0], "effect": "NoExecute", "tolerationSeconds": 1}])), 2);
        assert_eq!(count(json!([{"key": TAINTS[0], "effect": "NoSchedule"}])), 3);
    }
}
