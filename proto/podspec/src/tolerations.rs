//! Taints and tolerations -> does the pod put up with it. Source: api `core/v1/toleration.go`, component-helpers `scheduling/corev1/helpers.go`.

use api::k8s::api::core::v1::{Taint, Toleration};

/// The first taint of those that are looked at that the pod does not tolerate.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration], looked_at: impl Fn(&Taint) -> bool) -> Option<&'a Taint> {
    taints.iter().find(|taint| looked_at(taint) && !is_tolerated(taint, tolerations))
}

pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// `ToleratesTaint`. An empty effect or key is any.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let is_other = |stated: &Option<String>, of_taint: &str| stated.as_deref().is_some_and(|own| !own.is_empty() && own != of_taint);
    if is_other(&toleration.effect, &taint.effect) || is_other(&toleration.key, &taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        "Exists" => true,
        // Lt and Gt: the gate TaintTolerationComparisonOperators is alpha, and off.
        _ => false,
    }
}
