//! VolumeBinding: claims do not exist here yet, so pods that need one wait for it. Source of the words: `plugins/volumebinding`.

use super::{Change, Plugin};
use crate::{pod::PodInfo, refusal::Refusal};

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, pod: &PodInfo) -> Option<Refusal> {
        let spec = pod.spec()?;
        if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
            return Some(Refusal::unresolvable(self.name(), "dynamic resource allocation is not supported"));
        }
        let claim = spec.volumes.iter().flatten().find_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.key.name, v.name)),
            (None, None) => None,
        });
        Some(Refusal::unresolvable(self.name(), &format!("persistentvolumeclaim {:?} not found", claim?)))
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;
    use serde_json::json;

    #[test]
    fn claims_are_not_found() {
        let snapshot = [
            (json!({"emptyDir": {}, "name": "v"}), None),
            (json!({"persistentVolumeClaim": {"claimName": "data"}, "name": "v"}), Some("persistentvolumeclaim \"data\" not found")),
            (json!({"ephemeral": {}, "name": "v"}), Some("persistentvolumeclaim \"p-v\" not found")),
        ];
        for (volume, want) in snapshot {
            let refusal = VolumeBinding.pre_filter(&pod(&json!({"metadata": {"name": "p"}, "spec": {"volumes": [volume]}})));
            assert_eq!(refusal.and_then(|r| r.reasons.first().cloned()).as_deref(), want);
        }
    }
}
