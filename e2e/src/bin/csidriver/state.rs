//! What the driver keeps: `<state>/<volume>/{data,size,node-size,attached}`, and who it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use csi::{
    tonic::{self, Request, Response, Status},
    v1::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse, PluginCapability,
        ProbeRequest, ProbeResponse,
        identity_server::Identity,
        plugin_capability::{Service, Type, service},
    },
};

pub struct State {
    pub name: String,
    pub node: String,
    dir: PathBuf,
}

impl State {
    pub fn open(name: &str, node: &str, dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { name: name.to_owned(), node: node.to_owned(), dir: dir.to_owned() })
    }

    /// The key of its topology: a directory is on its node alone.
    pub fn zone(&self) -> String {
        format!("{}/node", self.name)
    }

    /// A volume's directory. Names that lead elsewhere are none of ours.
    ///
    /// # Errors
    /// Not found.
    pub fn volume(&self, id: &str) -> Result<PathBuf, Status> {
        let good = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let dir = self.dir.join(id);
        if good && dir.is_dir() { Ok(dir) } else { Err(Status::not_found(format!("there is no volume {id:?}"))) }
    }

    /// Makes a volume where there is none of that name; its size, whoever made it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make(&self, id: &str, bytes: i64) -> Result<i64, Status> {
        if let Ok(dir) = self.volume(id) {
            return Ok(read_size(&dir.join("size")));
        }
        let dir = self.dir.join(id);
        fs::create_dir_all(dir.join("data")).map_err(failed)?;
        write_size(&dir.join("size"), bytes)?;
        write_size(&dir.join("node-size"), bytes)?;
        Ok(bytes)
    }
}

pub fn read_size(path: &Path) -> i64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// # Errors
/// What the file system says.
pub fn write_size(path: &Path, bytes: i64) -> Result<(), Status> {
    fs::write(path, format!("{bytes}\n")).map_err(failed)
}

pub fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Identity for State {
    async fn get_plugin_info(&self, _: Request<GetPluginInfoRequest>) -> Result<Response<GetPluginInfoResponse>, Status> {
        let (name, vendor_version) = (self.name.clone(), env!("CARGO_PKG_VERSION").into());
        Ok(Response::new(GetPluginInfoResponse { name, vendor_version, ..GetPluginInfoResponse::default() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let one = |what: service::Type| PluginCapability { r#type: Some(Type::Service(Service { r#type: what.into() })) };
        let capabilities = [service::Type::ControllerService, service::Type::VolumeAccessibilityConstraints].map(one).into();
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
