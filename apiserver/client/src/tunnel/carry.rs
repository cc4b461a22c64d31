//! Streams that a server opens on our connection -> connections to the one port that they may lead to.

use std::{convert::Infallible, io::Cursor, net::SocketAddr, time::Duration};

use api::{
    task::Group,
    tunnel::{AGENT, DIAL_BOUND, STREAM_WINDOW_BYTES, STREAMS_MAX, TUNNEL_WINDOW_BYTES},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::http2,
    service::service_fn,
    upgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};

use super::open::NoTunnel;
use crate::transport::InGroup;

/// After so much silence the server is asked whether it is there. Routers that translate addresses forget a silent connection after minutes.
const PING: Duration = Duration::from_secs(30);
const PONG_BOUND: Duration = Duration::from_secs(15);
/// Heads are short: they name the agent, and nothing else.
const HEADER_BYTES_MAX: u32 = 8 << 10;

/// What HTTP/2 begins with (RFC 9113 3.4).
const PREFACE_BYTES: usize = 24;
/// Until the server has begun: hyper asks whether it is there only after that.
const BEGIN_BOUND: Duration = Duration::from_secs(10);

/// Until the connection ends; it is an error where that was not in order.
pub async fn serve<C>(connection: C, agent: SocketAddr, group: &Group) -> Result<(), NoTunnel>
where
    C: Read + Write + Unpin,
{
    let (mut from, to) = tokio::io::split(TokioIo::new(connection));
    let mut preface = [0; PREFACE_BYTES];
    timeout(BEGIN_BOUND, from.read_exact(&mut preface)).await.map_err(|_| NoTunnel::Silence)??;
    let connection = TokioIo::new(tokio::io::join(Cursor::new(preface).chain(from), to));
    let mut builder = http2::Builder::new(InGroup(group.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(TUNNEL_WINDOW_BYTES)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG_BOUND);
    let service = service_fn(|request| {
        let group = group.clone();
        async move { Ok::<_, Infallible>(answer(request, agent, &group).await) }
    });
    Ok(builder.serve_connection(connection, service).await?)
}

async fn answer(request: Request<Incoming>, agent: SocketAddr, group: &Group) -> Response<Empty<Bytes>> {
    let code = match taken(request, agent, group).await {
        Ok(()) => StatusCode::OK,
        Err(code) => code,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = code;
    response
}

/// This is no proxy: whatever is asked for, there is one place to go.
async fn taken(request: Request<Incoming>, agent: SocketAddr, group: &Group) -> Result<(), StatusCode> {
    if request.method() != Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if request.uri().authority().is_none_or(|asked| asked.as_str() != AGENT) {
        return Err(StatusCode::FORBIDDEN);
    }
    let dialled = timeout(DIAL_BOUND, TcpStream::connect(agent)).await;
    let Ok(Ok(mut ours)) = dialled else {
        tracing::debug!(%agent, "a server calls through its tunnel, and the agent does not answer");
        return Err(StatusCode::BAD_GATEWAY);
    };
    let _ = ours.set_nodelay(true);
    group.spawn(Box::pin(async move {
        // How long it may be silent is the agent's to say: it ends with the agent's connection.
        let joined = async { copy_bidirectional(&mut TokioIo::new(upgrade::on(request).await?), &mut ours).await.map_err(Failed::from) };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "a stream of a tunnel ended");
        }
    }));
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Begin(#[from] hyper::Error),
    #[error(transparent)]
    Copy(#[from] std::io::Error),
}
