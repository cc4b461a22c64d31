//! The node agent asks who this is -> a CSI driver, and where it serves. What node-driver-registrar does for others.

use csi::{
    pluginregistration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server},
    tonic::{self, Request, Response, Status},
};

pub struct Registration {
    pub name: String,
    pub endpoint: String,
}

#[tonic::async_trait]
impl registration_server::Registration for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        let (name, endpoint) = (self.name.clone(), self.endpoint.clone());
        Ok(Response::new(PluginInfo { r#type: "CSIPlugin".into(), name, endpoint, supported_versions: vec!["1.0.0".into()] }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            println!("registered");
        } else {
            eprintln!("not registered: {}", status.error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
