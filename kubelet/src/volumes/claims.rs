//! persistentVolumeClaim and ephemeral -> the claim, and the volume that it is bound to, which this node may have.
//!
//! Source: `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go`.

use std::time::Duration;

use api::k8s::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Volume};
use client::{
    kube,
    pods::node_affinity::{NamedLabels, term_matches},
    watch,
};
use podspec::claims::{is_for_pod, name_for_pod, volume_name};

use super::plugin::{Claimed, Mode, VolumeToMount};
use crate::meta;

const READ_BOUND: Duration = Duration::from_secs(10);

/// The finalizer of a claim that pods use.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

pub fn is_claim(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
}

/// Whether the pod has its claim to read only.
pub fn is_read_only(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
}

/// What a pod's volume is bound to; `None` where it is no claim.
///
/// # Errors
/// Upstream's words.
pub async fn resolve(volume: &VolumeToMount) -> Result<Option<Claimed>, String> {
    if !is_claim(&volume.volume) {
        return Ok(None);
    }
    Box::pin(bound(volume, &Named::of(volume))).await.map(Some)
}

/// The claim that a pod's volume names.
struct Named {
    name: String,
    /// It is made for the pod.
    is_own: bool,
}

impl Named {
    fn of(volume: &VolumeToMount) -> Self {
        match &volume.volume.persistent_volume_claim {
            Some(claim) => Self { name: claim.claim_name.clone(), is_own: false },
            None => Self { name: name_for_pod(meta::name(volume.pod()), &volume.volume.name), is_own: true },
        }
    }
}

/// The volume that the claim is bound to, which this node may have.
async fn bound(volume: &VolumeToMount, claimed: &Named) -> Result<Claimed, String> {
    let (client, pod) = (&volume.host().client, volume.pod());
    let namespace = meta::namespace(pod);
    let failed = |why: String| format!("error processing PVC {namespace}/{}: {why}", claimed.name);
    let claim = get::<PersistentVolumeClaim>(client, Some(namespace), &claimed.name).await;
    let claim = claim.map_err(|why| failed(format!("failed to fetch PVC from API server: {why}")))?;
    usable(&claim).map_err(failed)?;
    if claimed.is_own {
        is_for_pod(&claim, meta::name(pod), Some(meta::uid(pod)))?;
    }
    let name = volume_name(&claim);
    let found = get::<PersistentVolume>(client, None, name)
        .await
        .map_err(|why| failed(format!("failed to fetch PV {name} from API server: {why}")))?;
    is_of(&found, &claim, volume.mode, &volume.volume.name).map_err(failed)?;
    if let Some(required) = found.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref()) {
        let node = meta::spec(pod).and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let node = get::<Node>(client, None, node).await.map_err(|why| format!("storage node affinity check failed: {why}"))?;
        let labels = node.metadata.labels.unwrap_or_default();
        let labels = NamedLabels { name: "", labels: &labels };
        if !required.node_selector_terms.iter().any(|term| term_matches(term, labels)) {
            return Err("storage node affinity check failed: no matching NodeSelectorTerms".into());
        }
    }
    Ok(Claimed { claim, volume: found })
}

/// The claim of a pod's volume as it is now.
///
/// # Errors
/// The server's words, or that it does not answer.
pub async fn read_claim(volume: &VolumeToMount) -> Result<PersistentVolumeClaim, String> {
    get(&volume.host().client, Some(meta::namespace(volume.pod())), &Named::of(volume).name).await
}

/// The volume of that name as it is now.
///
/// # Errors
/// The server's words, or that it does not answer.
pub async fn read_volume(volume: &VolumeToMount, name: &str) -> Result<PersistentVolume, String> {
    get(&volume.host().client, None, name).await
}

async fn get<K: client::Object>(client: &kube::Client, namespace: Option<&str>, name: &str) -> Result<K, String> {
    match tokio::time::timeout(READ_BOUND, watch::get::<K>(client, namespace, name)).await {
        Ok(read) => read.map(|seen| seen.object).map_err(|error| error.to_string()),
        Err(_) => Err("the API server did not answer in time".into()),
    }
}

/// One that is being deleted is for the pods that have it: those of an agent that starts again too. Upstream: `getPVCExtractPV`.
fn usable(claim: &PersistentVolumeClaim) -> Result<(), String> {
    let is_protected = || claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let why = match () {
        () if claim.metadata.deletion_timestamp.is_some() && !is_protected() => "PVC is being deleted",
        () if phase != Some("Bound") => "PVC is not bound",
        () if volume_name(claim).is_empty() => "PVC has empty pvc.Spec.VolumeName",
        () => return Ok(()),
    };
    Err(why.into())
}

/// Upstream: `getPVSpec`, and what the populator says of modes.
fn is_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim, mode: Mode, name: &str) -> Result<(), String> {
    let (of_volume, uid) = (volume.metadata.name.as_deref().unwrap_or_default(), claim.metadata.uid.as_deref().unwrap_or_default());
    let spec = volume.spec.as_ref();
    let Some(reference) = spec.and_then(|spec| spec.claim_ref.as_ref()) else {
        return Err(format!("found PV object {of_volume} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"));
    };
    let of_reference = reference.uid.as_deref().unwrap_or_default();
    if of_reference != uid {
        return Err(format!("found PV object {of_volume} but its pv.Spec.ClaimRef.UID {of_reference} does not point to claim.UID {uid}"));
    }
    let is_block = spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    match mode {
        Mode::Filesystem if is_block => Err(format!("volume {name} has volumeMode Block, but is specified in volumeMounts")),
        Mode::Block if !is_block => Err(format!("volume {name} has volumeMode Filesystem, but is specified in volumeDevices")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_claim_is_used_once_it_is_bound() {
        let claim = |said: Value| -> PersistentVolumeClaim {
            let mut whole = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
            for (part, fields) in said.as_object().unwrap() {
                whole[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
            serde_json::from_value(whole).unwrap()
        };
        let why = |said: Value| usable(&claim(said)).err();
        assert_eq!(why(json!({})), None);
        assert_eq!(why(json!({"status": {"phase": "Pending"}})).as_deref(), Some("PVC is not bound"));
        assert_eq!(why(json!({"spec": {"volumeName": ""}})).as_deref(), Some("PVC has empty pvc.Spec.VolumeName"));
        let going = |finalizer: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a", finalizer]}});
        assert_eq!(why(going("b")).as_deref(), Some("PVC is being deleted"));
        assert_eq!(why(going(PROTECTION)), None);
        let of = |uid: Value, mode: &str| volume(json!({"claimRef": {"uid": uid}, "volumeMode": mode}));
        let judged = |volume: PersistentVolume, mode| is_of(&volume, &claim(json!({})), mode, "v").err();
        assert_eq!(judged(of(json!("u"), "Filesystem"), Mode::Filesystem), None);
        assert!(judged(of(json!("x"), "Filesystem"), Mode::Filesystem).unwrap().contains("does not point to claim.UID u"));
        assert!(judged(of(json!("u"), "Block"), Mode::Filesystem).unwrap().contains("volumeMode Block"));
        assert!(judged(of(json!("u"), "Filesystem"), Mode::Block).unwrap().contains("volumeMode Filesystem"));
    }
}
