//! A connect request -> the node or pod it leads to: a request passed on, or a tunnel.
//!
//! Upgraded connections (SPDY, WebSocket) pass through byte for byte. Source of errors and headers: apimachinery `pkg/util/proxy`.

mod dial;
pub(crate) mod headers;
mod lookups;
mod of_node;
mod page;
mod tunnel;

use std::time::Duration;

use api::{Status, task::Group};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::{client::conn::http1, upgrade};
use hyper_util::rt::TokioIo;

use crate::{
    body::{Body, Request, Response, boxed, empty},
    kind::Target,
    stall::Patient,
    wire,
};

pub use dial::{Agents, addresses, is_global_unicast};
pub(crate) use dial::{Anybody, plain as go_words};
pub use page::page;
pub use tunnel::Tunnels;

/// How long the other end may take until its reply begins. Streams begin at once; a proxied page may think.
const REPLY_BOUND: Duration = Duration::from_secs(60);
/// What of an agent's error text is passed on.
const ERROR_BYTES_MAX: usize = 2048;

/// Sends `request` on to `target` and brings the reply back, upgrades and all. The connection lives in `group`.
pub async fn forward(agents: &Agents, group: &Group, target: Target, request: Request) -> Response {
    let sent = Box::pin(send(agents, group, &target, request)).await;
    // A refusal of our own is an answer like any other.
    let mut response = match sent {
        Ok(response) => response,
        Err(status) => return wire::refusal(&status),
    };
    response.extensions_mut().insert(Patient);
    response
}

async fn send(agents: &Agents, group: &Group, target: &Target, mut request: Request) -> Result<Response, Status> {
    if target.rewrite_prefix.is_none() {
        headers::refuse_unsupported(request.headers())?;
    }
    let asked = headers::wants_upgrade(request.headers());
    let ours = asked.then(|| upgrade::on(&mut request));
    let stream = dial::dial(agents, target).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(target, &error))?;
    group.spawn(async move {
        // A peer that goes away in the middle is how most streams end.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a node or pod ended");
        }
    });
    let reply = tokio::time::timeout(REPLY_BOUND, sender.send_request(headers::outgoing(target, request)?)).await;
    let mut reply = reply.map_err(|_| unreachable(target, &"no reply in time"))?.map_err(|error| unreachable(target, &error))?;
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = upgrade::on(&mut reply);
        if let Some(ours) = ours {
            group.spawn(Box::pin(tunnel(ours, theirs)));
        }
        return Ok(reply.map(|_| empty()));
    }
    if target.node_agent.is_some() && target.rewrite_prefix.is_none() && !reply.status().is_success() {
        return Err(agent_error(reply).await);
    }
    headers::incoming(target, reply.headers_mut());
    Ok(reply.map(boxed))
}

/// Passes bytes both ways until one end is gone.
pub(crate) async fn tunnel(ours: upgrade::OnUpgrade, theirs: upgrade::OnUpgrade) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
        return tracing::debug!("an upgraded connection went away before it began");
    };
    // How long a stream may be idle is the node agent's to say (upstream: `--streaming-connection-idle-timeout`, 4 h).
    if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(ours), &mut TokioIo::new(theirs)).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

/// The agent's refusal as a Status (`generic/rest/response_checker.go`).
async fn agent_error(reply: http::Response<hyper::body::Incoming>) -> Status {
    let code = reply.status();
    let body = Limited::new(reply.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", format!("the server could not find the requested resource ({text})")),
        code => Status::new(code.as_u16(), "InternalError", text),
    }
}

fn unreachable(target: &Target, why: &dyn std::fmt::Display) -> Status {
    let (host, port) = (&target.host, target.port);
    if target.rewrite_prefix.is_some() {
        return Status::unavailable(format!("error trying to reach service: dial tcp {host}:{port}: {why}"));
    }
    Status::new(500, "InternalError", format!("error dialing backend: dial tcp {host}:{port}: {why}"))
}

/// What [`headers::outgoing`] makes: the body type is the service's own.
type Outgoing = http::Request<Body>;

fn has_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn host_of(target: &Target) -> String {
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    format!("{host}:{}", target.port)
}

/// Headers that belong to one hop (RFC 9110 7.6.1), upgrades apart.
pub(crate) const HOP: [header::HeaderName; 5] =
    [header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION];
