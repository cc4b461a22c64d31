//! A server elsewhere that whole requests are handed on to: several addresses, one name in its certificate, and ours shown to it.
//!
//! Source: kube-aggregator `BuildTransportConfig` (`pkg/controllers/status/remote/remote_available_controller.go`).

use std::{net::IpAddr, sync::Arc};

use api::{certificate::Identity, task::Group};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::{Connector, IDLE_BOUND, InGroup, Way, innermost, roots};
use crate::{body::Body, connect::Anybody, tls};

/// Idle connections to one address: of requests that came together the next ones need not shake hands.
const IDLE_MAX: usize = 32;
/// Of the head of an answer.
const HEAD_BYTES_MAX: usize = 128 << 10;

/// Who is taken for the server, and as whom we come.
pub struct Trusts<'a> {
    /// Whom its certificate must name.
    pub server_name: &'a str,
    /// PEM. Where it is empty nobody is trusted.
    pub ca_bundle: &'a [u8],
    /// Any certificate is taken.
    pub insecure: bool,
    /// Our client certificate.
    pub shown: Option<&'a Identity>,
    /// Whether an address may be called: names are looked up when they are dialled.
    pub may_be_called: fn(IpAddr) -> bool,
}

/// See the module.
pub struct Origin(Client<Connector, Body>);

impl Origin {
    /// Connections are tasks of `group`.
    ///
    /// # Errors
    /// What of it cannot be used.
    pub fn new(group: &Group, trusts: &Trusts<'_>) -> Result<Self, String> {
        let name = ServerName::try_from(trusts.server_name.to_owned()).map_err(|error| error.to_string())?;
        let connector = Connector { tls: Arc::new(config(trusts)?), name, way: Way::Named(trusts.may_be_called) };
        let client = Client::builder(InGroup(group.clone()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_BOUND)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .set_host(false)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request to the address in its URL. The caller bounds the wait.
    ///
    /// # Errors
    /// Why there is no answer, in Go's words where users know them.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, String> {
        self.0.request(request).await.map_err(|error| innermost(&error))
    }
}

fn config(trusts: &Trusts<'_>) -> Result<ClientConfig, String> {
    let text = |error: rustls::Error| error.to_string();
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions().map_err(text)?;
    let builder = match trusts.insecure {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)),
        false => builder.with_root_certificates(roots(trusts.ca_bundle)?),
    };
    let mut config = match trusts.shown {
        Some(shown) => {
            let (chain, key) = tls::parse(shown).map_err(|error| error.to_string())?;
            builder.with_client_auth_cert(chain, key).map_err(text)?
        }
        None => builder.with_no_client_auth(),
    };
    // Upgrades exist in HTTP/1.1 only.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
