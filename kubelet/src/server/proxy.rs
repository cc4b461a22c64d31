//! An upgrade request + the runtime's streaming URL -> the two connections joined, byte for byte.
//!
//! SPDY and WebSocket pass alike: what they carry is not looked at. Source: `proxyStream` in `pkg/kubelet/server/server.go`.

use std::{io, time::Duration};

use api::task::Group;
use http::{
    HeaderMap, Request, StatusCode, Uri,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::Instant,
};

use super::reply::{Reply, bytes_body, empty, text};

/// Upstream's `streamingConnectionIdleTimeout`.
pub const IDLE: Duration = Duration::from_secs(4 * 3600);
/// After one end has closed: how long the other may still speak.
const LINGER: Duration = Duration::from_secs(10);
/// To connect to the runtime, and for its answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Of an answer that is no upgrade.
const REFUSAL_MAX: usize = 64 << 10;
const CHUNK: usize = 32 << 10;

/// What containerd's streaming server can speak over WebSocket. Clients that ask for something else then fall back to SPDY.
const SUBPROTOCOLS: [&str; 5] = ["", "channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// Sends the request on to `url` and joins the connections if it is accepted. The joined connection lives in `group`.
pub async fn forward<B: Send>(request: Request<B>, url: &str, group: &Group) -> Reply {
    if !request.headers().contains_key(UPGRADE) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    if let Some(unknown) = unknown_subprotocol(request.headers()) {
        let message = format!("the container runtime of this node does not speak the WebSocket subprotocol {unknown}; use SPDY");
        return text(StatusCode::BAD_REQUEST, message);
    }
    let Ok(url) = url.parse::<Uri>() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the runtime gave no streaming URL");
    };
    match tokio::time::timeout(ANSWER_WAIT, joined(request, &url, group)).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => text(StatusCode::BAD_GATEWAY, format!("error dialing the container runtime: {error}")),
        Err(_) => text(StatusCode::GATEWAY_TIMEOUT, "the container runtime did not answer in time"),
    }
}

async fn joined<B: Send>(mut request: Request<B>, url: &Uri, group: &Group) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let authority = url.authority().ok_or("the streaming URL has no host")?;
    let socket = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .handshake::<_, super::reply::Body>(TokioIo::new(socket))
        .await?;
    group.spawn(Box::pin(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "runtime connection ended");
        }
    }));
    let answer = sender.send_request(onward(&request, url)?).await?;
    let (head, body) = answer.into_parts();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(body, REFUSAL_MAX).collect().await?.to_bytes();
        let mut reply = Reply::new(bytes_body(body));
        *reply.status_mut() = head.status;
        copy_headers(&head.headers, reply.headers_mut(), &[CONNECTION, UPGRADE, TRANSFER_ENCODING, CONTENT_LENGTH]);
        return Ok(reply);
    }
    let mut reply = Reply::new(empty());
    *reply.status_mut() = head.status;
    copy_headers(&head.headers, reply.headers_mut(), &[TRANSFER_ENCODING, CONTENT_LENGTH]);
    let theirs = hyper::upgrade::on(http::Response::from_parts(head, body));
    let ours = hyper::upgrade::on(&mut request);
    group.spawn(Box::pin(async move {
        let ends = tokio::time::timeout(ANSWER_WAIT, async { tokio::try_join!(ours, theirs) }).await;
        match ends {
            Ok(Ok((ours, theirs))) => join(ours, theirs).await,
            Ok(Err(error)) => tracing::debug!(%error, "upgrade failed"),
            Err(_) => tracing::debug!("upgrade timed out"),
        }
    }));
    Ok(reply)
}

/// The same request for the runtime: its own path, without our caller's credentials.
fn onward<B>(request: &Request<B>, url: &Uri) -> Result<Request<super::reply::Body>, http::Error> {
    let path = url.path_and_query().map_or("/", |p| p.as_str());
    let host = url.authority().map_or("", |a| a.as_str());
    let mut onward = Request::builder().method(request.method()).uri(path).body(empty())?;
    copy_headers(request.headers(), onward.headers_mut(), &[AUTHORIZATION, HOST, TRANSFER_ENCODING, CONTENT_LENGTH]);
    onward.headers_mut().insert(HOST, HeaderValue::from_str(host)?);
    Ok(onward)
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, but: &[HeaderName]) {
    for (name, value) in from.iter().filter(|(name, _)| !but.contains(name)) {
        to.append(name, value.clone());
    }
}

/// The first subprotocol, where none of those that are offered can be spoken.
fn unknown_subprotocol(headers: &HeaderMap) -> Option<String> {
    let websocket = headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
    let spoken = offered.is_empty() || offered.iter().any(|p| SUBPROTOCOLS.contains(p));
    (websocket && !spoken).then(|| offered[0].to_owned())
}

async fn join(ours: Upgraded, theirs: Upgraded) {
    join_streams(TokioIo::new(ours), TokioIo::new(theirs), IDLE).await;
}

/// Copies both ways until both ends have closed, or nothing has moved for `idle`.
async fn join_streams<A, B>(a: A, b: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let ((from_a, to_a), (from_b, to_b)) = (tokio::io::split(a), tokio::io::split(b));
    let (moved, last) = watch::channel(Instant::now());
    let mut there = std::pin::pin!(pump(from_a, to_b, &moved));
    let mut back = std::pin::pin!(pump(from_b, to_a, &moved));
    let both = async {
        tokio::select! {
            _ = &mut there => drop(tokio::time::timeout(LINGER, back).await),
            _ = &mut back => drop(tokio::time::timeout(LINGER, there).await),
        }
    };
    tokio::select! {
        () = both => {}
        () = idled(last, idle) => tracing::debug!("idle stream closed"),
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &watch::Sender<Instant>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        let Some(data) = chunk.get(..count).filter(|d| !d.is_empty()) else { return to.shutdown().await };
        moved.send_replace(Instant::now());
        to.write_all(data).await?;
        to.flush().await?;
    }
}

async fn idled(last: watch::Receiver<Instant>, idle: Duration) {
    loop {
        let until = *last.borrow() + idle;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_runtime_speaks_is_sent_on() {
        let headers = |upgrade: &str, protocols: &[&str]| {
            let mut map = HeaderMap::new();
            map.insert(UPGRADE, upgrade.parse().unwrap());
            for protocol in protocols {
                map.append(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
            }
            unknown_subprotocol(&map)
        };
        assert_eq!(headers("SPDY/3.1", &["v5.channel.k8s.io"]), None);
        assert_eq!(headers("websocket", &[]), None);
        assert_eq!(headers("websocket", &["v5.channel.k8s.io, v4.channel.k8s.io"]), None);
        assert_eq!(headers("WebSocket", &["v5.channel.k8s.io"]).as_deref(), Some("v5.channel.k8s.io"));
        assert_eq!(headers("websocket", &["SPDY/3.1+portforward.k8s.io"]).as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
    }

    #[tokio::test]
    async fn silence_ends_a_stream() {
        let ((mut ours, a), (mut theirs, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let group = Group::new();
        group.spawn(join_streams(a, b, Duration::from_millis(200)));
        ours.write_all(b"x").await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "x");
    }

    #[tokio::test]
    async fn an_end_is_passed_on() {
        let ((mut ours, a), (mut theirs, b)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        let group = Group::new();
        group.spawn(join_streams(a, b, IDLE));
        ours.write_all(b"bye").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }
}
