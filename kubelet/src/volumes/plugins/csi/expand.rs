//! A claim whose volume its controller has made larger -> larger on this node too: before it is used, or while it is.
//!
//! A volume that several nodes have is made larger by the first of them that sees it: its status does not say of the others.
//! Source: `pkg/volume/util/operationexecutor/node_expander.go`, `pkg/volume/util/resize_util.go`, `pkg/volume/csi/expander.go`.

use std::{path::Path, sync::Arc};

use api::{
    k8s::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    names::segment,
    quantity::Quantity,
    time::{Timestamp, rfc3339},
};
use csi::v1::{CapacityRange, NodeExpandVolumeRequest};
use http::Method;
use podspec::claims::RESIZE_CONDITIONS;
use serde_json::{Map, Value, json};

use super::{
    paths, secrets,
    spec::{Recorded, Spec},
};
use crate::{
    csi::objects::MERGE_PATCH,
    meta,
    volumes::{
        claims,
        plugin::{Claimed, VolumeToMount},
    },
};

const STORAGE: &str = "storage";
const PENDING: &str = "NodeResizePending";
const IN_PROGRESS: &str = "NodeResizeInProgress";
const INFEASIBLE: &str = "NodeResizeInfeasible";

/// While the volume is made ready at `path`.
///
/// # Errors
/// Upstream's words: the volume is not for the pod then.
pub async fn before_use(volume: &VolumeToMount, path: &Path) -> Result<(), String> {
    let Some(claimed) = volume.claimed.clone() else { return Ok(()) };
    if wanted(&claimed.claim, Some(&claimed.volume)).is_none() {
        return Ok(());
    }
    let expanded = expand(volume, &claimed, path).await;
    expanded.map_err(|why| format!("MountVolume.Setup failed while expanding volume: {why}"))
}

/// While pods have the volume.
///
/// # Errors
/// Upstream's words; it is tried again.
pub async fn while_used(volume: &VolumeToMount) -> Result<(), String> {
    let claim = claims::read_claim(volume).await?;
    if wanted(&claim, None).is_none() {
        return Ok(());
    }
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let claimed = Claimed { volume: claims::read_volume(volume, &name).await?, claim };
    let mut volume = volume.clone();
    volume.claimed = Some(Arc::new(claimed.clone()));
    let Some(node) = volume.node.clone() else { return Ok(()) };
    // That it is the very volume that is here.
    if Spec::of(&volume)?.identity().handle != node.handle || Recorded::of(&node)?.is_ephemeral {
        return Ok(());
    }
    let target = paths::target(volume.mode, &volume.dir(super::NAME), &node.staging, meta::uid(volume.pod()));
    Box::pin(expand(&volume, &claimed, &target)).await.map_err(|why| format!("NodeExpandVolume.NodeExpandVolume failed: {why}"))
}

/// The size that the node is to bring about. Without the volume: whether there may be one. Upstream: `runPreCheck`, `checkForRecoveryFromExpansion`.
fn wanted(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Option<String> {
    let status = claim.status.as_ref()?;
    let said = status.allocated_resource_statuses.as_ref().and_then(|all| all.get(STORAGE)).map(String::as_str);
    let allocated = status.allocated_resources.as_ref().and_then(|all| all.get(STORAGE)).map(|quantity| quantity.0.clone());
    match said {
        Some(PENDING | IN_PROGRESS) => return allocated.or_else(|| capacity(volume?)).or(volume.is_none().then(String::new)),
        Some(_) => return None,
        None if allocated.is_some() => return None,
        None => {}
    }
    // A resizer that does not say how far it is: upstream's older one.
    let pends =
        status.conditions.iter().flatten().any(|condition| condition.type_ == "FileSystemResizePending" && condition.status == "True");
    let Some(volume) = volume else { return pends.then(String::new) };
    let has = status.capacity.as_ref().and_then(|all| all.get(STORAGE)).map(|quantity| quantity.0.clone()).unwrap_or_default();
    let size = capacity(volume)?;
    (pends && bytes(&has)? < bytes(&size)?).then_some(size)
}

fn capacity(volume: &PersistentVolume) -> Option<String> {
    volume.spec.as_ref()?.capacity.as_ref()?.get(STORAGE).map(|quantity| quantity.0.clone())
}

fn bytes(size: &str) -> Option<i64> {
    Quantity::parse(size).ok().map(Quantity::units)
}

async fn expand(volume: &VolumeToMount, claimed: &Claimed, path: &Path) -> Result<(), String> {
    let Some(size) = wanted(&claimed.claim, Some(&claimed.volume)) else { return Ok(()) };
    let (host, spec) = (volume.host(), Spec::of(volume)?);
    let required_bytes = bytes(&size).filter(|bytes| *bytes >= 0).ok_or_else(|| format!("{size:?} is no size"))?;
    if spec.read_only {
        tell(volume, claimed, Told::Failed, "MountVolume.NodeExpandVolume failed", "requested read-only file system");
        return Ok(());
    }
    let driver = host.csi.drivers.get(&spec.driver).await?;
    let supports =
        driver.supports().await.map_err(|error| format!("Expander.NodeExpand failed to check if node supports expansion : {error}"))?;
    // What is written next is about this very state of the claim.
    let claim = write(volume, &claimed.claim, &Outcome::InProgress).await?;
    if !supports.expand {
        let why = format!("NodeExpand is not supported by the CSI driver {}", spec.driver);
        write(volume, &claim, &Outcome::Failed(why.clone())).await?;
        return Err(why);
    }
    let staging = volume.node.as_ref().filter(|_| supports.stage).map(|node| paths::text(&node.staging)).transpose()?;
    let request = NodeExpandVolumeRequest {
        volume_id: spec.handle.clone(),
        volume_path: paths::text(path)?,
        capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
        staging_target_path: staging.unwrap_or_default(),
        volume_capability: Some(spec.capability(volume, supports)),
        secrets: secrets(host, spec.expand_secret.as_ref(), "NodeExpandSecretRef").await?,
    };
    match driver.node_expand_volume(request).await {
        Ok(_) => {
            write(volume, &claim, &Outcome::Done(size)).await?;
            tell(volume, claimed, Told::Done, "MountVolume.NodeExpandVolume succeeded", &host.csi.node_name);
            Ok(())
        }
        Err(error) if !error.is_final() => Err(format!("Expander.NodeExpand failed to expand the volume : {error}")),
        Err(error) => {
            let why = format!("Expander.NodeExpand failed to expand the volume : {error}");
            let outcome = if error.is_infeasible() { Outcome::Infeasible(why.clone()) } else { Outcome::Failed(why.clone()) };
            write(volume, &claim, &outcome).await?;
            tell(volume, claimed, Told::Failed, "NodeExpandVolume.NodeExpandVolume failed", &why);
            // As large as it was, it is for the pod.
            if error.is_in_use() { Ok(()) } else { Err(why) }
        }
    }
}

enum Told {
    Done,
    Failed,
}

/// Events of the pod and the claim.
fn tell(volume: &VolumeToMount, claimed: &Claimed, told: Told, what: &str, more: &str) {
    let recorder = &volume.host().csi.recorder;
    let message = format!("{what} for volume {:?} {more}", claimed.volume.metadata.name.as_deref().unwrap_or_default());
    let reference = |kind: &str, metadata: &api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta| ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.into()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    };
    for about in [reference("Pod", &volume.pod().metadata), reference("PersistentVolumeClaim", &claimed.claim.metadata)] {
        match told {
            Told::Done => recorder.normal(&about, "FileSystemResizeSuccessful", message.clone()),
            Told::Failed => recorder.warning(&about, "FileSystemResizeFailed", message.clone()),
        }
    }
}

/// What came of it.
#[derive(Debug)]
enum Outcome {
    InProgress,
    /// The size.
    Done(String),
    Failed(String),
    Infeasible(String),
}

/// Writes it into the claim's status, as that was seen; the claim after it.
async fn write(volume: &VolumeToMount, claim: &PersistentVolumeClaim, outcome: &Outcome) -> Result<PersistentVolumeClaim, String> {
    let Some(patch) = patch(claim, outcome, Timestamp::now()) else { return Ok(claim.clone()) };
    let of = &claim.metadata;
    let (namespace, name) = (of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
    let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}/status", segment(namespace), segment(name));
    let written = volume.host().csi.objects.ask(Method::PATCH, &path, MERGE_PATCH, Some(&patch)).await;
    let written = written.map_err(|failed| format!("patchPVCStatus failed to patch PVC {name:?}: {}", failed.why))?;
    serde_json::from_value(written).map_err(|error| error.to_string())
}

/// `None` where the claim says so already.
fn patch(claim: &PersistentVolumeClaim, outcome: &Outcome, now: Timestamp) -> Option<Value> {
    let status = claim.status.clone().unwrap_or_default();
    let old: Vec<Value> = status.conditions.iter().flatten().map(|condition| json!(condition)).collect();
    let is_of_resizing = |condition: &Value| RESIZE_CONDITIONS.iter().any(|known| condition["type"] == *known);
    let with_error = |why: &str| {
        let message = format!("failed to expand pvc with {why}");
        let error = json!({"type": "NodeResizeError", "status": "True", "lastTransitionTime": rfc3339(now), "message": message});
        // One that says so already stays as it is: nothing is written then.
        let is_said = |condition: &&Value| {
            condition["type"] == error["type"] && condition["status"] == "True" && condition["message"] == error["message"]
        };
        let error = old.iter().find(is_said).cloned().unwrap_or(error);
        let others = old.iter().filter(|condition| condition["type"] != "NodeResizeError").cloned();
        others.chain([error]).collect::<Vec<Value>>()
    };
    let said = status.allocated_resource_statuses.as_ref().and_then(|all| all.get(STORAGE)).map(String::as_str);
    let mut new = Map::new();
    match outcome {
        Outcome::InProgress if said == Some(IN_PROGRESS) => return None,
        Outcome::InProgress => drop(new.insert("allocatedResourceStatuses".into(), json!({STORAGE: IN_PROGRESS}))),
        Outcome::Done(size) => {
            let left: Vec<Value> = old.iter().filter(|condition| !is_of_resizing(condition)).cloned().collect();
            new.insert("capacity".into(), json!({STORAGE: size}));
            let has_others = status.allocated_resource_statuses.iter().flatten().any(|(key, _)| key != STORAGE);
            new.insert("allocatedResourceStatuses".into(), if has_others { json!({STORAGE: null}) } else { Value::Null });
            new.insert("conditions".into(), if left.is_empty() { Value::Null } else { left.into() });
        }
        Outcome::Failed(why) => drop(new.insert("conditions".into(), with_error(why).into())),
        Outcome::Infeasible(why) => {
            new.insert("allocatedResourceStatuses".into(), json!({STORAGE: INFEASIBLE}));
            new.insert("conditions".into(), with_error(why).into());
        }
    }
    Some(json!({"metadata": {"resourceVersion": claim.metadata.resource_version}, "status": new}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(status: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "resourceVersion": "7"}, "status": status})).unwrap()
    }

    fn pv(size: &str) -> PersistentVolume {
        serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": size}}})).unwrap()
    }

    #[test]
    fn a_node_makes_larger_what_the_controller_left_to_it() {
        let of = |said: Value, condition: &str| {
            claim(json!({"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
                "allocatedResourceStatuses": {"storage": said}, "conditions": [{"type": condition, "status": "True"}]}))
        };
        for said in [PENDING, IN_PROGRESS] {
            assert_eq!(wanted(&of(json!(said), "x"), Some(&pv("3Gi"))).as_deref(), Some("2Gi"), "as far as it was allocated");
        }
        for said in [INFEASIBLE, "ControllerResizeInProgress"] {
            assert_eq!(wanted(&of(json!(said), "FileSystemResizePending"), Some(&pv("3Gi"))), None, "{said}");
        }
        let older = |condition: &str| claim(json!({"capacity": {"storage": "1Gi"}, "conditions": [{"type": condition, "status": "True"}]}));
        assert_eq!(wanted(&older("FileSystemResizePending"), Some(&pv("2Gi"))).as_deref(), Some("2Gi"));
        assert_eq!(wanted(&older("FileSystemResizePending"), Some(&pv("1024Mi"))), None, "it is");
        assert_eq!((wanted(&older("Resizing"), Some(&pv("2Gi"))), wanted(&older("Resizing"), None)), (None, None));
        assert!(wanted(&older("FileSystemResizePending"), None).is_some(), "the volume is to be read");
    }

    #[test]
    fn the_status_says_what_came_of_it() {
        let pending = claim(json!({"capacity": {"storage": "1Gi"}, "allocatedResourceStatuses": {"storage": PENDING},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}, {"type": "Mine", "status": "True"}]}));
        let of = |outcome: Outcome| patch(&pending, &outcome, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            of(Outcome::InProgress),
            json!({"metadata": {"resourceVersion": "7"}, "status": {"allocatedResourceStatuses": {"storage": IN_PROGRESS}}})
        );
        let done = of(Outcome::Done("2Gi".into()));
        assert_eq!((&done["status"]["capacity"], &done["status"]["allocatedResourceStatuses"]), (&json!({"storage": "2Gi"}), &Value::Null));
        let types = |patch: &Value| patch["status"]["conditions"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect::<Vec<_>>();
        assert_eq!(types(&done), ["Mine"]);
        let failed = of(Outcome::Failed("no".into()));
        assert_eq!(types(&failed), ["FileSystemResizePending", "Mine", "NodeResizeError"]);
        assert_eq!(failed["status"]["conditions"][2]["message"], "failed to expand pvc with no");
        assert_eq!(of(Outcome::Infeasible("no".into()))["status"]["allocatedResourceStatuses"]["storage"], INFEASIBLE);
        let progressing = claim(json!({"allocatedResourceStatuses": {"storage": IN_PROGRESS}}));
        assert!(patch(&progressing, &Outcome::InProgress, Timestamp::UNIX_EPOCH).is_none());
    }
}
