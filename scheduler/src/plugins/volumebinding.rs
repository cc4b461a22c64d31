//! VolumeBinding: claims do not exist here yet, so pods that need one wait for it. Source of the words: `plugins/volumebinding`.

use crate::{
    framework::{Change, Plugin, PreFilter},
    pod::PodInfo,
    refusal::Refusal,
};

pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        lacking(at.pod).map_or(Ok(()), |reason| Err(Refusal::unresolvable(self.name(), &reason)))
    }

    fn queueing_hint(&self, _pod: &PodInfo, _change: &Change<'_>) -> bool {
        false
    }
}

/// What the pod waits for.
fn lacking(pod: &PodInfo) -> Option<String> {
    let spec = pod.spec()?;
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("dynamic resource allocation is not supported".into());
    }
    let claim = spec.volumes.iter().flatten().find_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.key.name, v.name)),
        (None, None) => None,
    });
    Some(format!("persistentvolumeclaim {:?} not found", claim?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::asked;
    use serde_json::json;

    #[test]
    fn claims_are_not_found() {
        let snapshot = [
            (json!({"emptyDir": {}, "name": "v"}), None),
            (json!({"persistentVolumeClaim": {"claimName": "data"}, "name": "v"}), Some("persistentvolumeclaim \"data\" not found")),
            (json!({"ephemeral": {}, "name": "v"}), Some("persistentvolumeclaim \"p-v\" not found")),
        ];
        for (volume, want) in snapshot {
            let refusal = asked(&VolumeBinding, &json!({"metadata": {"name": "p"}, "spec": {"volumes": [volume]}})).refusal;
            assert_eq!(refusal.and_then(|r| r.reasons.first().cloned()).as_deref(), want);
        }
    }
}
