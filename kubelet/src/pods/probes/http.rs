//! A handler's httpGet -> one request, as probes and hooks make it.
//!
//! Upstream: `pkg/probe/http`. Certificates are not checked, redirects to other hosts are not followed.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use api::k8s::{
    api::core::v1::{Container, HTTPGetAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// What of an answer is read. Upstream: `maxRespBodyLength`.
const BODY_BYTES_MAX: usize = 10 << 10;

/// Made once, and only where a probe asks for TLS. A pod's own certificate is its clients' business alone: probes only check whether it answers.
static UNCHECKED: LazyLock<Result<Arc<ClientConfig>, rustls::Error>> = LazyLock::new(|| {
    let mut config = client::transport::unchecked()?;
    // Each probe is a connection of its own, as upstream's: nothing of the last is to be remembered.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
});

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Target {
    /// `host` is the pod's address, used where the action names none.
    pub fn of(get: &HTTPGetAction, container: &Container, host: &str) -> Result<Self, String> {
        let path = get.path.clone().unwrap_or_default();
        Ok(Self {
            tls: get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")),
            host: get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| host.into()),
            port: port(&get.port, container)?,
            path: if path.starts_with('/') { path } else { format!("/{path}") },
            headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// A port by number, or by its name in the container.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let shown = || match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {}", shown()))
}

/// Asks, and reads the beginning of the answer. Errors read as Go's client words them.
pub async fn get(target: &Target, limit: Duration) -> Result<(StatusCode, String), String> {
    let asked = tokio::time::timeout(limit, Box::pin(ask(target))).await;
    let late = || Err("context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned());
    asked.unwrap_or_else(|_| late()).map_err(|error| format!("Get \"{}\": {error}", target.url()))
}

/// Connects; for tcp probes too.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {address}: {why}")
    })
}

async fn ask(target: &Target) -> Result<(StatusCode, String), String> {
    let stream = connect(&target.host, target.port).await?;
    if !target.tls {
        return send(target, stream).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|e| e.to_string())?;
    let config = UNCHECKED.clone().map_err(|e| e.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, stream).await.map_err(|e| format!("tls: {e}"))?;
    send(target, stream).await
}

async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(target: &Target, stream: S) -> Result<(StatusCode, String), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request(target)?).await.map_err(|e| e.to_string())?;
        let status = response.status();
        // A body that is longer is cut; one that breaks off does not unmake the status.
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
        Ok((status, String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()))
    };
    // Polled beside the exchange, so that no task of its own is needed.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Err(error) => Err(error.to_string()),
            Ok(()) => exchange.await,
        },
    }
}

fn request(target: &Target) -> Result<Request<Empty<Bytes>>, String> {
    let uri: Uri = target.path.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let has = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut request = Request::get(uri).header("Connection", "close");
    for (name, value) in [("User-Agent", "kube-probe/1.36".to_owned()), ("Accept", "*/*".to_owned()), ("Host", target.authority())] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    // An Accept header without a value asks for none to be sent.
    for (name, value) in target.headers.iter().filter(|(n, v)| !(n.eq_ignore_ascii_case("accept") && v.is_empty())) {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn target(port: u16) -> Target {
        Target { tls: false, host: "127.0.0.1".into(), port, path: "/healthz".into(), headers: Vec::new() }
    }

    #[tokio::test]
    async fn answers_and_refusals_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            let n = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nbad").await.unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        };
        let probe = target(port);
        let (head, answer) = tokio::join!(serve, get(&probe, Duration::from_secs(5)));
        assert!(head.starts_with("GET /healthz HTTP/1.1"), "{head}");
        assert_eq!(answer, Ok((StatusCode::SERVICE_UNAVAILABLE, "bad".into())));
        drop(listener);
        let error = get(&target(port), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, format!("Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }

    #[test]
    fn ports_by_name() {
        let ports = vec![api::k8s::api::core::v1::ContainerPort { name: Some("web".into()), container_port: 80, ..Default::default() }];
        let container = Container { ports: Some(ports), ..Container::default() };
        assert_eq!(port(&IntOrString::String("web".into()), &container), Ok(80));
        assert_eq!(port(&IntOrString::Int(8080), &container), Ok(8080));
        assert!(port(&IntOrString::String("nope".into()), &container).is_err());
    }
}
