//! A socket -> a driver's node service to call: one method for each call that the node agent makes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::transport::Channel;

use crate::{
    call::{MESSAGE_BYTES_MAX, Result, channel, within},
    v1::{
        NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetInfoRequest, NodeGetInfoResponse,
        NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
        NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, node_client::NodeClient,
        node_service_capability::Type, node_service_capability::rpc,
    },
};

/// Upstream's `csiTimeout`: disks are made, checked and mounted meanwhile.
const CHANGE_BOUND: Duration = Duration::from_secs(120);
/// What a driver says of itself, it knows.
const LOOK_BOUND: Duration = Duration::from_secs(30);

/// A driver at its socket. Nothing is connected before a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    socket: PathBuf,
}

/// What a driver's node service can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supports {
    /// `STAGE_UNSTAGE_VOLUME`
    pub stage: bool,
    /// `EXPAND_VOLUME`
    pub expand: bool,
    /// `VOLUME_MOUNT_GROUP`
    pub mount_group: bool,
    /// `SINGLE_NODE_MULTI_WRITER`: it tells one writer from several on one node.
    pub single_node_multi_writer: bool,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident within $after:expr;)*) => {
        impl Driver {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The driver's, or that it did not answer in time.
                pub async fn $name(&self, request: $request) -> Result<$response> {
                    let mut node = self.node();
                    within($after, request, |r| async move { node.$name(r).await }).await
                }
            )*
        }
    };
}

calls! {
    /// Who this node is to the driver.
    node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse within CHANGE_BOUND;
    node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse within CHANGE_BOUND;
    node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse within CHANGE_BOUND;
    node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse within CHANGE_BOUND;
    node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse within CHANGE_BOUND;
    node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse within CHANGE_BOUND;
}

impl Driver {
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// # Errors
    /// The driver's, or that it did not answer in time.
    pub async fn supports(&self) -> Result<Supports> {
        let mut node = self.node();
        let answer = within(LOOK_BOUND, NodeGetCapabilitiesRequest {}, |r| async move { node.node_get_capabilities(r).await }).await?;
        let mut supports = Supports::default();
        for capability in answer.capabilities {
            let Some(Type::Rpc(of)) = capability.r#type else { continue };
            match of.r#type() {
                rpc::Type::StageUnstageVolume => supports.stage = true,
                rpc::Type::ExpandVolume => supports.expand = true,
                rpc::Type::VolumeMountGroup => supports.mount_group = true,
                rpc::Type::SingleNodeMultiWriter => supports.single_node_multi_writer = true,
                _ => {}
            }
        }
        Ok(supports)
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(channel(&self.socket)).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}
