//! A server and a node's certificate -> a connection that the server may open streams on.

use std::sync::Arc;

use api::{
    task::Group,
    tunnel::{PATH, PROTOCOL, SERVER},
};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::{
    client::conn::http1,
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::transport::Server;

/// Of what a server says that it is.
const ID_BYTES_MAX: usize = 64;

/// Why there is no tunnel, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum NoTunnel {
    /// Another answer than that a tunnel begins. 404: it knows none.
    #[error("the server answers {0}")]
    Refused(StatusCode),
    #[error("no answer in time")]
    Silence,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the server's URL and the node's name are no path: {0}")]
    Path(#[from] http::Error),
}

/// The connection, and who the server says that it is. Its caller waits no longer than it likes.
pub async fn open(server: &Server, tls: Arc<ClientConfig>, node: &str, group: &Group) -> Result<(Upgraded, Option<String>), NoTunnel> {
    let stream = TcpStream::connect((server.host(), server.port())).await?;
    stream.set_nodelay(true)?;
    let stream = TlsConnector::from(for_http1(&tls)).connect(server.name(), stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    group.spawn(Box::pin(async move {
        // How it ends is seen by what it became.
        let _ = connection.with_upgrades().await;
    }));
    let answer = sender.send_request(asking(server, node)?).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(NoTunnel::Refused(answer.status()));
    }
    let id = answer.headers().get(SERVER).and_then(|id| id.to_str().ok()).filter(|id| id.len() <= ID_BYTES_MAX).map(str::to_owned);
    Ok((upgrade::on(answer).await?, id))
}

fn asking(server: &Server, node: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
    let uri = server.uri(&format!("{PATH}{node}").parse()?)?;
    let host = uri.authority().map_or_else(|| server.host().to_owned(), ToString::to_string);
    Request::get(uri.path())
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Empty::new())
}

/// HTTP/2 has no upgrades, and would share its windows with the tunnel.
fn for_http1(tls: &ClientConfig) -> Arc<ClientConfig> {
    let mut tls = tls.clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(tls)
}
