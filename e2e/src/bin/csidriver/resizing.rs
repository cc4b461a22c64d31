//! A claim that wants more than its volume has -> the volume made larger, and the rest left to the node. What external-resizer does for others.

use anyhow::Context;
use csi::v1::{CapacityRange, ControllerExpandVolumeRequest};
use serde_json::{Value, json};

use crate::sidecar::{Sidecar, VOLUMES, bytes, capability, handle, size};

/// # Errors
/// The controller's, or the server's.
pub async fn resize(sidecar: &Sidecar, claim: &Value, volumes: &[Value]) -> anyhow::Result<()> {
    let (metadata, spec, status) = (&claim["metadata"], &claim["spec"], &claim["status"]);
    let bound =
        volumes.iter().find(|volume| volume["metadata"]["name"] == spec["volumeName"] && volume["spec"]["csi"]["driver"] == sidecar.name);
    let Some(volume) = bound.filter(|_| status["phase"] == "Bound") else { return Ok(()) };
    let wanted = &spec["resources"]["requests"]["storage"];
    let is_with_node = status["allocatedResourceStatuses"]["storage"].as_str().is_some_and(|said| said.starts_with("NodeResize"));
    if is_with_node || bytes(wanted)? <= bytes(&status["capacity"]["storage"])? {
        return Ok(());
    }
    let (namespace, name) = (metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default());
    let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}/status");
    let progress =
        json!({"allocatedResources": {"storage": wanted}, "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}});
    sidecar.request("PATCH", &path, &json!({"status": progress})).await?;
    let request = ControllerExpandVolumeRequest {
        volume_id: handle(volume)?,
        capacity_range: Some(CapacityRange { required_bytes: bytes(wanted)?, limit_bytes: 0 }),
        volume_capability: Some(capability(false)),
        ..ControllerExpandVolumeRequest::default()
    };
    let expanded = sidecar.controller.clone().controller_expand_volume(request).await?.into_inner();
    let volume_name = volume["metadata"]["name"].as_str().context("it has a name")?;
    let capacity = json!({"spec": {"capacity": {"storage": size(expanded.capacity_bytes)}}});
    sidecar.request("PATCH", &format!("{VOLUMES}/{volume_name}"), &capacity).await?;
    let left = if expanded.node_expansion_required {
        let condition = json!({"type": "FileSystemResizePending", "status": "True",
            "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node."});
        json!({"allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": [condition]})
    } else {
        json!({"capacity": {"storage": wanted}, "allocatedResourceStatuses": null, "conditions": null})
    };
    sidecar.request("PATCH", &path, &json!({"status": left})).await.map(drop)
}
