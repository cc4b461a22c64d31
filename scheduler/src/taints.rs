//! Taints and tolerations -> does the pod put up with it. Source: api `core/v1/toleration.go`.

use api::k8s::api::core::v1::{Taint, Toleration};

/// The first taint that keeps the pod off the node.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    taints.iter().find(|t| matches!(t.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerated(t, tolerations))
}

/// How many taints with effect `PreferNoSchedule` the pod does not tolerate.
pub fn disliked(taints: &[Taint], tolerations: &[Toleration]) -> usize {
    taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !tolerated(t, tolerations)).count()
}

pub fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |o: &Option<String>| o.as_deref().unwrap_or("").to_owned();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        // Lt and Gt are behind a gate that is off in 1.36.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: Taint = serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"})).unwrap();
        let snapshot = [
            (json!([]), false),
            (json!([{"key": "k", "value": "v"}]), true),
            (json!([{"key": "k", "value": "w"}]), false),
            (json!([{"key": "k", "operator": "Exists"}]), true),
            (json!([{"operator": "Exists"}]), true),
            (json!([{"operator": "Exists", "effect": "NoExecute"}]), false),
            (json!([{"key": "other", "operator": "Exists"}, {"key": "k", "operator": "Exists", "effect": "NoSchedule"}]), true),
        ];
        for (tolerations, want) in snapshot {
            let parsed: Vec<Toleration> = serde_json::from_value(tolerations.clone()).unwrap();
            assert_eq!(untolerated(std::slice::from_ref(&taint), &parsed).is_none(), want, "{tolerations}");
        }
    }
}
