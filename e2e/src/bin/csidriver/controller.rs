//! The controller service: directories are made, attached to their node, made larger, and deleted once nobody has them.

use std::fs;

use csi::{
    tonic::{self, Request, Response, Status},
    v1::{
        ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
        ControllerGetVolumeRequest, ControllerGetVolumeResponse, ControllerModifyVolumeRequest, ControllerModifyVolumeResponse,
        ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerServiceCapability, ControllerUnpublishVolumeRequest,
        ControllerUnpublishVolumeResponse, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
        GetCapacityRequest, GetCapacityResponse, ListVolumesRequest, ListVolumesResponse, Topology, ValidateVolumeCapabilitiesRequest,
        ValidateVolumeCapabilitiesResponse, Volume,
        controller_server::Controller,
        controller_service_capability::{Rpc, Type, rpc},
    },
};

use crate::state::{State, failed, read_size, write_size};

/// Where nobody says a size.
const USUAL_BYTES: i64 = 1 << 30;

type Answer<T> = Result<Response<T>, Status>;

fn no<T>() -> Answer<T> {
    Err(Status::unimplemented("this driver does not do that"))
}

#[tonic::async_trait]
impl Controller for State {
    async fn create_volume(&self, request: Request<CreateVolumeRequest>) -> Answer<CreateVolumeResponse> {
        let request = request.into_inner();
        let wanted = request.capacity_range.unwrap_or_default();
        if request.name.is_empty() || request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("name and capabilities are required"));
        }
        let bytes = self.make(&request.name, if wanted.required_bytes > 0 { wanted.required_bytes } else { USUAL_BYTES })?;
        if bytes < wanted.required_bytes {
            return Err(Status::already_exists("a smaller volume has this name"));
        }
        let here = Topology { segments: [(self.zone(), self.node.clone())].into() };
        let volume = Volume {
            capacity_bytes: bytes,
            volume_id: request.name,
            volume_context: [("madeBy".to_owned(), self.name.clone())].into(),
            content_source: None,
            accessible_topology: vec![here],
        };
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(&self, request: Request<DeleteVolumeRequest>) -> Answer<DeleteVolumeResponse> {
        // One that is gone is deleted.
        if let Ok(dir) = self.volume(&request.into_inner().volume_id) {
            let is_used = dir.join("attached").exists() || fs::read_to_string(dir.join("staged")).is_ok();
            if is_used {
                return Err(Status::failed_precondition("the volume is in use"));
            }
            fs::remove_dir_all(dir).map_err(failed)?;
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn controller_publish_volume(&self, request: Request<ControllerPublishVolumeRequest>) -> Answer<ControllerPublishVolumeResponse> {
        let request = request.into_inner();
        let dir = self.volume(&request.volume_id)?;
        if request.node_id != self.node {
            return Err(Status::not_found(format!("there is no node {:?}", request.node_id)));
        }
        fs::write(dir.join("attached"), &request.node_id).map_err(failed)?;
        Ok(Response::new(ControllerPublishVolumeResponse { publish_context: [("attachedTo".to_owned(), request.node_id)].into() }))
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<ControllerUnpublishVolumeRequest>,
    ) -> Answer<ControllerUnpublishVolumeResponse> {
        if let Ok(dir) = self.volume(&request.into_inner().volume_id) {
            if dir.join("staged").exists() {
                return Err(Status::failed_precondition("the volume is staged: it would be torn from its pods"));
            }
            let _ = fs::remove_file(dir.join("attached"));
        }
        Ok(Response::new(ControllerUnpublishVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<ValidateVolumeCapabilitiesResponse> {
        self.volume(&request.into_inner().volume_id)?;
        Ok(Response::new(ValidateVolumeCapabilitiesResponse::default()))
    }

    async fn list_volumes(&self, _: Request<ListVolumesRequest>) -> Answer<ListVolumesResponse> {
        no()
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Answer<GetCapacityResponse> {
        no()
    }

    async fn controller_get_capabilities(&self, _: Request<ControllerGetCapabilitiesRequest>) -> Answer<ControllerGetCapabilitiesResponse> {
        let one = |what: rpc::Type| ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: what.into() })) };
        let can = [rpc::Type::CreateDeleteVolume, rpc::Type::PublishUnpublishVolume, rpc::Type::ExpandVolume];
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities: can.map(one).into() }))
    }

    async fn controller_expand_volume(&self, request: Request<ControllerExpandVolumeRequest>) -> Answer<ControllerExpandVolumeResponse> {
        let request = request.into_inner();
        let size = self.volume(&request.volume_id)?.join("size");
        let bytes = request.capacity_range.unwrap_or_default().required_bytes.max(read_size(&size));
        write_size(&size, bytes)?;
        Ok(Response::new(ControllerExpandVolumeResponse { capacity_bytes: bytes, node_expansion_required: true }))
    }

    async fn controller_get_volume(&self, _: Request<ControllerGetVolumeRequest>) -> Answer<ControllerGetVolumeResponse> {
        no()
    }

    async fn controller_modify_volume(&self, _: Request<ControllerModifyVolumeRequest>) -> Answer<ControllerModifyVolumeResponse> {
        no()
    }
}
