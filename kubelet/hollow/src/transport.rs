//! kubeconfig -> a client on one HTTP/2 connection, opened again when it breaks.

use api::task::Group;
use client::{
    kube::{self, Client, client::ConfigExt},
    transport::{NoServer, Server, Transport},
};
use tower::ServiceBuilder;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Kube(#[from] kube::Error),
    #[error("the kubeconfig's server: {0}")]
    Server(#[from] NoServer),
}

/// A client for the server of a kubeconfig: its certificate is verified, and ours or our token is shown. Over plain HTTP or a proxy it is
/// kube's own client.
///
/// # Errors
/// Certificates or credentials that cannot be read. A closed port shows with the first request.
pub fn client(config: kube::Config, group: &Group) -> Result<Client, Error> {
    if config.cluster_url.scheme_str() != Some("https") || config.proxy_url.is_some() {
        return Ok(Client::try_from(config)?);
    }
    let server = Server::named(&config.cluster_url.to_string(), config.tls_server_name.as_deref())?;
    let transport = Transport::new(vec![server], config.rustls_client_config()?, group);
    let layers = ServiceBuilder::new().option_layer(config.auth_layer()?).layer(config.extra_headers_layer()?);
    Ok(Client::new(layers.service(transport), config.default_namespace))
}
