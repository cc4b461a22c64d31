//! A small CSI driver: directories of this machine as volumes of a cluster. For the walk, and for who wants to see one.
//!
//! `csidriver --name NAME --node NODE --state DIR --kubelet DIR --kubeconfig FILE` serves identity, controller and node at
//! `<kubelet>/plugins/NAME/csi.sock`, registers at `<kubelet>/plugins_registry/NAME-reg.sock`, and does what the sidecars of Kubernetes do for a driver
//! (external-provisioner, external-attacher, external-resizer), asking its own controller over its socket as they would.

mod controller;
mod node;
mod registration;
mod resizing;
mod sidecar;
mod state;

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use csi::{
    Services,
    pluginregistration::registration_server::RegistrationServer,
    v1::{controller_server::ControllerServer, identity_server::IdentityServer, node_server::NodeServer},
};
use e2e::Api;
use tokio::net::UnixListener;

use self::{registration::Registration, state::State};

/// What it is started with.
struct Options {
    name: String,
    node: String,
    state: PathBuf,
    kubelet: PathBuf,
    kubeconfig: PathBuf,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let options = options()?;
    let home = options.kubelet.join("plugins").join(&options.name);
    fs::create_dir_all(&home)?;
    fs::create_dir_all(options.kubelet.join("plugins_registry"))?;
    let socket = home.join("csi.sock");
    let state = Arc::new(State::open(&options.name, &options.node, &options.state)?);
    let services = Services::default()
        .with(IdentityServer::from_arc(state.clone()))
        .with(ControllerServer::from_arc(state.clone()))
        .with(NodeServer::from_arc(state.clone()));
    let serving = serve(services, socket.clone())?;
    let registration = Registration { name: options.name.clone(), endpoint: socket.display().to_string() };
    let registry = options.kubelet.join("plugins_registry").join(format!("{}-reg.sock", options.name));
    let registering = serve(Services::default().with(RegistrationServer::new(registration)), registry)?;
    let api = Api::from_kubeconfig(&options.kubeconfig)?;
    let sidecars = sidecar::run(&options.name, &socket, api);
    tokio::select! {
        () = serving => bail!("the driver ended"),
        () = registering => bail!("its registration ended"),
        ended = sidecars => ended.context("its sidecars"),
    }
}

fn options() -> anyhow::Result<Options> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let of = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag).with_context(|| format!("{flag} is missing"))?;
        args.get(at + 1).cloned().with_context(|| format!("{flag} has no value"))
    };
    Ok(Options {
        name: of("--name")?,
        node: of("--node")?,
        state: of("--state")?.into(),
        kubelet: of("--kubelet")?.into(),
        kubeconfig: of("--kubeconfig")?.into(),
    })
}

/// A socket of an earlier run is in nobody's way.
fn serve(services: Services, socket: PathBuf) -> anyhow::Result<impl Future<Output = ()>> {
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
    Ok(csi::serve(listener, services))
}
