//! A node's taints -> what they mean for where a pod may go. Source: `plugins/tainttoleration`.

use api::k8s::api::core::v1::{Taint, Toleration};
use podspec::is_tolerated;

/// The first taint that keeps the pod off the node.
pub fn untolerated<'a>(taints: &'a [Taint], tolerations: &[Toleration]) -> Option<&'a Taint> {
    podspec::untolerated(taints, tolerations, |taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
}

/// How many taints with effect `PreferNoSchedule` the pod does not tolerate.
pub fn disliked(taints: &[Taint], tolerations: &[Toleration]) -> usize {
    taints.iter().filter(|t| t.effect == "PreferNoSchedule" && !is_tolerated(t, tolerations)).count()
}
