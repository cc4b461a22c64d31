//! The node service: a volume's directory is bound to where it is staged, and from there to each pod.

use std::{fs, path::Path};

use csi::{
    tonic::{self, Request, Response, Status},
    v1::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
        NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology,
        node_server::Node,
        node_service_capability::{Rpc, Type, rpc},
        volume_capability::AccessType,
    },
};
use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
};

use crate::state::{State, failed, read_size, write_size};

/// Volumes that one node may have.
const VOLUMES_MAX: i64 = 16;

type Answer<T> = Result<Response<T>, Status>;

/// The device of a mount differs from that of the directory around it, or the directory is the same one twice.
fn is_bound(from: &Path, to: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |path: &Path| fs::metadata(path).map(|there| (there.dev(), there.ino())).ok();
    of(to).is_some() && of(from) == of(to)
}

fn bind(from: &Path, to: &Path) -> Result<(), Status> {
    fs::create_dir_all(to).map_err(failed)?;
    if is_bound(from, to) { Ok(()) } else { mount_bind(from, to).map_err(failed) }
}

/// What is not mounted, or not there, is released.
fn release(path: &str) -> Result<(), Status> {
    match unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[tonic::async_trait]
impl Node for State {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        let dir = self.volume(&request.volume_id)?;
        if matches!(request.volume_capability.and_then(|capability| capability.access_type), Some(AccessType::Block(_))) {
            return Err(Status::invalid_argument("directories are no block devices"));
        }
        fs::write(dir.join("staged"), &request.staging_target_path).map_err(failed)?;
        bind(&dir.join("data"), Path::new(&request.staging_target_path))?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(&self, request: Request<NodeUnstageVolumeRequest>) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        release(&request.staging_target_path)?;
        if let Ok(dir) = self.volume(&request.volume_id) {
            let _ = fs::remove_file(dir.join("staged"));
        }
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(&self, request: Request<NodePublishVolumeRequest>) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        let target = Path::new(&request.target_path);
        if request.volume_context.get("csi.storage.k8s.io/ephemeral").is_some_and(|said| said == "true") {
            self.make(&request.volume_id, 0)?;
            let data = self.volume(&request.volume_id)?.join("data");
            let name = request.volume_context.get("csi.storage.k8s.io/pod.name").cloned().unwrap_or_default();
            fs::write(data.join("pod"), name).map_err(failed)?;
            bind(&data, target)?;
        } else {
            self.volume(&request.volume_id)?;
            bind(Path::new(&request.staging_target_path), target)?;
        }
        if request.readonly {
            mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "").map_err(failed)?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(&self, request: Request<NodeUnpublishVolumeRequest>) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        release(&request.target_path)?;
        let _ = fs::remove_dir(&request.target_path);
        // One that stood in the pod goes with it: nobody else deletes it.
        if let Ok(dir) = self.volume(&request.volume_id)
            && request.volume_id.starts_with("csi-")
        {
            fs::remove_dir_all(dir).map_err(failed)?;
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(&self, _: Request<NodeGetVolumeStatsRequest>) -> Answer<NodeGetVolumeStatsResponse> {
        Err(Status::unimplemented("this driver does not do that"))
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let dir = self.volume(&request.volume_id)?;
        if !Path::new(&request.volume_path).is_dir() {
            return Err(Status::not_found(format!("{} is not there", request.volume_path)));
        }
        let bytes = read_size(&dir.join("size"));
        write_size(&dir.join("node-size"), bytes)?;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(&self, _: Request<NodeGetCapabilitiesRequest>) -> Answer<NodeGetCapabilitiesResponse> {
        let one = |what: rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: what.into() })) };
        let capabilities = [rpc::Type::StageUnstageVolume, rpc::Type::ExpandVolume].map(one).into();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        let accessible_topology = Some(Topology { segments: [(self.zone(), self.node.clone())].into() });
        Ok(Response::new(NodeGetInfoResponse { node_id: self.node.clone(), max_volumes_per_node: VOLUMES_MAX, accessible_topology }))
    }
}
