//! A new node -> tainted as not ready, until the node lifecycle controller finds it ready.
//!
//! Source: `plugin/pkg/admission/nodetaint/admission.go`.

use api::Status;
use apiserver::identity::{Admission, Operation, Review};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::is;
use crate::common::{
    Read,
    edit::{default_to, make_child},
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

pub struct TaintNodesByCondition;

#[async_trait]
impl Admission for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if review.ctx.operation == Operation::Create
            && is(review, "", "nodes")
            && review.ctx.subresource.is_empty()
            && let Some(node) = review.object.as_deref_mut()
        {
            taint(node);
        }
        Ok(())
    }
}

fn taint(node: &mut Value) {
    let Some(spec) = make_child(node, "spec") else { return };
    let has = |taint: &Value| taint.text("key") == NOT_READY && taint.text("effect") == EFFECT;
    if spec.list("taints").iter().any(has) {
        return;
    }
    default_to(spec, "taints", json!([]));
    if let Some(taints) = spec.get_mut("taints").and_then(Value::as_array_mut) {
        taints.push(json!({"key": NOT_READY, "effect": EFFECT}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_is_put_once() {
        let ours = json!({"key": NOT_READY, "effect": EFFECT});
        let cases = [
            (json!({}), json!([ours])),
            (json!({"spec": {"taints": null}}), json!([ours])),
            (
                json!({"spec": {"taints": [{"key": NOT_READY, "effect": "NoExecute"}]}}),
                json!([{"key": NOT_READY, "effect": "NoExecute"}, ours]),
            ),
            (json!({"spec": {"taints": [ours]}}), json!([ours])),
        ];
        for (mut node, wanted) in cases {
            taint(&mut node);
            assert_eq!(node["spec"]["taints"], wanted);
        }
    }
}
