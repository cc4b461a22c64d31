//! A driver for tests: directories below one of its own, bound to where it is told, over sockets as any other.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::task::Group;
use csi::{
    Services,
    pluginregistration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    },
    tonic::{Request, Response, Status},
    v1::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
        NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology,
        node_server::{Node, NodeServer},
        node_service_capability::{Rpc, Type, rpc},
    },
};
use parking_lot::Mutex;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use tokio::net::UnixListener;

pub const NAME: &str = "disks.example.com";

type Answer<T> = Result<Response<T>, Status>;

/// What it was asked is in [`TestDriver::calls`].
pub struct TestDriver {
    dir: PathBuf,
    can: Vec<rpc::Type>,
    calls: Mutex<Vec<String>>,
    /// Calls that fail.
    fails: Mutex<HashMap<&'static str, Status>>,
    published: Mutex<Vec<NodePublishVolumeRequest>>,
    /// Publishes a link in place of a directory.
    lies: Mutex<bool>,
    told: Mutex<Vec<RegistrationStatus>>,
}

impl TestDriver {
    /// Below `dir`, which is made.
    pub fn new(dir: &Path, can: &[rpc::Type]) -> Arc<Self> {
        fs::create_dir_all(dir).unwrap();
        Arc::new(Self {
            dir: dir.to_owned(),
            can: can.to_vec(),
            calls: Mutex::default(),
            fails: Mutex::default(),
            published: Mutex::default(),
            lies: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Serves at `csi.sock` in its directory, until the group stops.
    pub fn serve(self: &Arc<Self>, group: &Group) -> PathBuf {
        let socket = self.dir.join("csi.sock");
        listen(&socket, Services::default().with(NodeServer::from_arc(self.clone())), group);
        socket
    }

    /// Makes itself known at a socket below `plugins_registry`.
    pub fn register(self: &Arc<Self>, socket: &Path, group: &Group) {
        listen(socket, Services::default().with(RegistrationServer::from_arc(self.clone())), group);
    }

    pub fn fail(&self, call: &'static str, status: Option<Status>) {
        match status {
            Some(status) => drop(self.fails.lock().insert(call, status)),
            None => drop(self.fails.lock().remove(call)),
        }
    }

    pub fn lie(&self) {
        *self.lies.lock() = true;
    }

    /// Since it was last asked.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }

    pub fn published(&self) -> Vec<NodePublishVolumeRequest> {
        std::mem::take(&mut *self.published.lock())
    }

    pub fn told(&self) -> Vec<RegistrationStatus> {
        self.told.lock().clone()
    }

    pub fn data(&self, volume: &str) -> PathBuf {
        let dir = self.dir.join("volumes").join(volume);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn called(&self, call: &'static str, volume: &str) -> Result<(), Status> {
        self.calls.lock().push(format!("{call} {volume}"));
        self.fails.lock().get(call).cloned().map_or(Ok(()), Err)
    }
}

fn listen(socket: &Path, services: Services, group: &Group) {
    let listener = UnixListener::bind(socket).unwrap();
    group.spawn(Box::pin(csi::serve(listener, services)));
}

fn bind(from: &Path, to: &str) -> Result<(), Status> {
    fs::create_dir_all(to).map_err(|error| Status::internal(error.to_string()))?;
    if crate::volumes::is_mounted(Path::new(to)) {
        return Ok(());
    }
    mount_bind(from, to).map_err(|error| Status::internal(error.to_string()))
}

fn release(path: &str) {
    let _ = unmount(path, UnmountFlags::NOFOLLOW);
    let _ = fs::remove_dir(path);
}

#[async_trait::async_trait]
impl Node for TestDriver {
    async fn node_stage_volume(&self, request: Request<NodeStageVolumeRequest>) -> Answer<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.called("stage", &request.volume_id)?;
        bind(&self.data(&request.volume_id), &request.staging_target_path)?;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(&self, request: Request<NodeUnstageVolumeRequest>) -> Answer<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.called("unstage", &request.volume_id)?;
        let _ = unmount(request.staging_target_path, UnmountFlags::NOFOLLOW);
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(&self, request: Request<NodePublishVolumeRequest>) -> Answer<NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.called("publish", &request.volume_id)?;
        self.published.lock().push(request.clone());
        if *self.lies.lock() {
            std::os::unix::fs::symlink("/etc", &request.target_path).map_err(|error| Status::internal(error.to_string()))?;
        } else if request.staging_target_path.is_empty() {
            bind(&self.data(&request.volume_id), &request.target_path)?;
        } else {
            bind(Path::new(&request.staging_target_path), &request.target_path)?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(&self, request: Request<NodeUnpublishVolumeRequest>) -> Answer<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.called("unpublish", &request.volume_id)?;
        release(&request.target_path);
        if *self.lies.lock() {
            let _ = fs::remove_file(&request.target_path);
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(&self, _: Request<NodeGetVolumeStatsRequest>) -> Answer<NodeGetVolumeStatsResponse> {
        Err(Status::unimplemented("no stats"))
    }

    async fn node_expand_volume(&self, request: Request<NodeExpandVolumeRequest>) -> Answer<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let bytes = request.capacity_range.map(|range| range.required_bytes).unwrap_or_default();
        let is_there = crate::volumes::is_mounted(Path::new(&request.volume_path));
        self.called("expand", &format!("{} {bytes} {is_there}", request.volume_id))?;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes: bytes }))
    }

    async fn node_get_capabilities(&self, _: Request<NodeGetCapabilitiesRequest>) -> Answer<NodeGetCapabilitiesResponse> {
        let one = |can: &rpc::Type| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: (*can).into() })) };
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities: self.can.iter().map(one).collect() }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        self.called("info", "")?;
        let segments = [("disks.example.com/zone".to_owned(), "a".to_owned())].into();
        let accessible_topology = Some(Topology { segments });
        Ok(Response::new(NodeGetInfoResponse { node_id: "node-1".into(), max_volumes_per_node: 7, accessible_topology }))
    }
}

#[async_trait::async_trait]
impl Registration for TestDriver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Answer<PluginInfo> {
        let endpoint = self.dir.join("csi.sock").display().to_string();
        let kind = if self.can.is_empty() { "DevicePlugin" } else { "CSIPlugin" };
        Ok(Response::new(PluginInfo { r#type: kind.into(), name: NAME.into(), endpoint, supported_versions: vec!["1.0.0".into()] }))
    }

    async fn notify_registration_status(&self, request: Request<RegistrationStatus>) -> Answer<RegistrationStatusResponse> {
        self.told.lock().push(request.into_inner());
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
