//! Calls -> an etcd: the messages of its API, version 3, and raw clients on one connection.

/// Messages and raw clients, generated from `rpc.proto` (see `tests/generated.rs`).
#[allow(clippy::all, clippy::pedantic)]
mod generated {
    include!("generated/etcdserverpb.rs");
}

use std::time::Duration;

pub use generated::*;
use tonic::{
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

/// A connection, made when it is first used and again after it broke; all who share it wait for it meanwhile.
///
/// Each request says that the member must have a leader: one that has lost its own says so at once, and ends its watches
/// (etcd's `MetadataRequireLeaderKey`).
pub type Wire = InterceptedService<Channel, fn(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>>;

/// How a member is reached.
#[derive(Clone, Debug)]
pub struct Options {
    pub connect_timeout: Duration,
    /// A connection on which nothing comes is asked after the first, and given up after the second.
    pub keep_alive: (Duration, Duration),
    pub tls: Option<ClientTlsConfig>,
}

/// Dials nobody yet. `server` is a URL, or a host and port: then the scheme is as the TLS options say.
///
/// # Errors
/// It is no URL, or does not go with the TLS options.
pub fn wire(server: &str, options: &Options) -> Result<Wire, tonic::transport::Error> {
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let url = if server.contains("://") { server.to_owned() } else { format!("{scheme}://{server}") };
    let mut endpoint = Endpoint::from_shared(url)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive.0)
        .keep_alive_timeout(options.keep_alive.1)
        .keep_alive_while_idle(true);
    if let Some(tls) = &options.tls {
        endpoint = endpoint.tls_config(tls.clone())?;
    }
    // Of one: requests wait while it connects again. (A lazy channel would refuse them with the last error.)
    let channel = Channel::balance_list(std::iter::once(endpoint));
    Ok(InterceptedService::new(channel, require_leader))
}

#[allow(clippy::result_large_err, clippy::unnecessary_wraps)] // The shape of an interceptor.
fn require_leader(mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    Ok(request)
}
