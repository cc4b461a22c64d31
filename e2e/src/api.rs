//! Method, path, body -> what the API answers, over TLS, as the administrator or with a token.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use api::task::Group;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A request that is not answered by then has failed.
const REPLY_BOUND: Duration = Duration::from_secs(60);

type Sender = http1::SendRequest<Full<Bytes>>;

/// Talks to one API server. Clones share the idle connections.
#[derive(Clone)]
pub struct Api {
    door: Arc<Door>,
    token: Option<Arc<str>>,
    idle: Arc<Mutex<Vec<Sender>>>,
    group: Group,
}

struct Door {
    address: String,
    tls: Arc<ClientConfig>,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    what: String,
}

/// The kinds of PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    Json,
    Merge,
    Strategic,
}

/// A running watch: one event per call.
pub struct Watch {
    body: Incoming,
    read: BytesMut,
    // Without its sender the connection would be closed.
    _sender: Sender,
}

impl Api {
    /// # Errors
    /// No such file, or not one that skiff wrote: with one cluster, and certificates inside.
    pub fn from_kubeconfig(path: &Path) -> anyhow::Result<Self> {
        let config = read_kubeconfig(path)?;
        let user = &config["users"][0]["user"];
        let certificate = (data(user, "client-certificate-data")?, data(user, "client-key-data")?);
        Self::open(&config, Some(certificate))
    }

    /// The same server for somebody without a certificate.
    pub fn anonymous(kubeconfig: &Path) -> anyhow::Result<Self> {
        Self::open(&read_kubeconfig(kubeconfig)?, None)
    }

    /// The same server for the bearer of a token, and of no certificate.
    pub fn with_token(kubeconfig: &Path, token: &str) -> anyhow::Result<Self> {
        Ok(Self { token: Some(token.into()), ..Self::anonymous(kubeconfig)? })
    }

    /// The same server for the holder of a certificate (PEM: certificate, key).
    pub fn with_certificate(kubeconfig: &Path, certificate: &[u8], key: &[u8]) -> anyhow::Result<Self> {
        Self::open(&read_kubeconfig(kubeconfig)?, Some((certificate.to_vec(), key.to_vec())))
    }

    fn open(config: &Value, certificate: Option<(Vec<u8>, Vec<u8>)>) -> anyhow::Result<Self> {
        let cluster = &config["clusters"][0]["cluster"];
        let server = cluster["server"].as_str().context("a kubeconfig names the server")?;
        let address = server.strip_prefix("https://").context("the server is spoken to over TLS")?.to_owned();
        let tls = tls_config(&data(cluster, "certificate-authority-data")?, certificate)?;
        let door = Arc::new(Door { address, tls: Arc::new(tls) });
        Ok(Self { door, token: None, idle: Arc::default(), group: Group::new() })
    }

    /// A TLS connection and nothing more, for those who speak for themselves: HTTP/1.1.
    pub async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        self.dial(self.door.tls.clone()).await
    }

    /// The same for HTTP/2.
    pub async fn connect_h2(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut tls = ClientConfig::clone(&self.door.tls);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        self.dial(Arc::new(tls)).await
    }

    async fn dial(&self, tls: Arc<ClientConfig>) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.door.address).await?;
        stream.set_nodelay(true)?;
        let host = self.door.address.rsplit_once(':').context("host and port")?.0;
        Ok(TlsConnector::from(tls).connect(ServerName::try_from(host.to_owned())?, stream).await?)
    }

    /// Any request. The path may hold a query.
    ///
    /// # Errors
    /// No answer: nothing is known of the outcome. Any status is an answer.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> anyhow::Result<Reply> {
        let exchange = async {
            let (mut sender, response) = self.begin(method, path, headers, body).await?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            if sender.ready().await.is_ok() {
                self.idle.lock().push(sender);
            }
            Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body, what: format!("{method} {path}") })
        };
        tokio::time::timeout(REPLY_BOUND, exchange).await.map_err(|_| anyhow!("{method} {path}: no answer in time"))?
    }

    async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<(Sender, http::Response<Incoming>)> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", &self.door.address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let mut sender = self.sender().await?;
        let response = sender.send_request(request).await?;
        Ok((sender, response))
    }

    async fn sender(&self) -> anyhow::Result<Sender> {
        loop {
            let Some(sender) = self.idle.lock().pop() else { break };
            if sender.is_ready() {
                return Ok(sender);
            }
        }
        // 4 KiB of warnings, as many as upstream tells, can be a hundred headers.
        let (sender, connection) = http1::Builder::new().max_headers(200).handshake(TokioIo::new(self.connect().await?)).await?;
        self.group.spawn(async move {
            // How a connection ends is seen by the request on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Any request with a JSON body; panics without an answer.
    pub async fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let reply = self.send(method, path, &[("content-type", content_type)], body).await;
        reply.unwrap_or_else(|e| panic!("{method} {path}: {e:#}"))
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "application/json", &Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, "application/json", body).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.ask("PUT", path, "application/json", body).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, "application/json", &Value::Null).await
    }

    /// DELETE with `DeleteOptions`; kind and version are filled in.
    pub async fn delete_with(&self, path: &str, options: Value) -> Reply {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let (Some(body), Value::Object(options)) = (body.as_object_mut(), options) {
            body.extend(options);
        }
        self.ask("DELETE", path, "application/json", &body).await
    }

    pub async fn patch(&self, path: &str, kind: Patch, body: &Value) -> Reply {
        let content_type = match kind {
            Patch::Json => "application/json-patch+json",
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.ask("PATCH", path, content_type, body).await
    }

    /// Opens a watch (`path` holds `watch=true`).
    ///
    /// # Errors
    /// No answer, or the refusal as `status body`.
    pub async fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let begun = tokio::time::timeout(REPLY_BOUND, self.begin("GET", path, &[], Vec::new()));
        let (sender, response) = begun.await.map_err(|_| anyhow!("GET {path}: no answer in time"))??;
        let status = response.status().as_u16();
        let body = response.into_body();
        if status != 200 {
            let text = body.collect().await?.to_bytes();
            return Err(anyhow!("{status} {}", String::from_utf8_lossy(&text)));
        }
        Ok(Watch { body, read: BytesMut::new(), _sender: sender })
    }
}

impl Reply {
    /// The body, once the status is the one expected; panics otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{} answered {}: {}", self.what, self.status, self.text());
        self.json()
    }

    /// The `Status` of a refusal: the code on the wire and in it, and its reason, must be the ones expected.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Value {
        let what = self.what.clone();
        let status = self.expect(code);
        assert_eq!(status["kind"], "Status", "{what}: {status}");
        assert_eq!(status["code"], code, "{what}: {status}");
        assert_eq!(status["reason"], reason, "{what}: {status}");
        status
    }

    /// `Null` where the body is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }
}

impl Watch {
    /// The next event; `None` when the server ended the watch.
    ///
    /// # Errors
    /// The connection broke, or nothing came within `bound`.
    pub async fn next(&mut self, bound: Duration) -> anyhow::Result<Option<Value>> {
        let end = tokio::time::Instant::now() + bound;
        loop {
            if let Some(at) = self.read.iter().position(|b| *b == b'\n') {
                let line = self.read.split_to(at + 1);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            let frame = tokio::time::timeout_at(end, self.body.frame()).await;
            match frame.map_err(|_| anyhow!("no event within {bound:?}"))? {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }

    /// The next event's type and object; panics if none comes.
    pub async fn event(&mut self) -> (String, Value) {
        let next = self.next(Duration::from_secs(20)).await;
        let mut event = next.expect("an event comes").expect("the watch goes on");
        (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take())
    }
}

/// `apiVersion`, `kind`, `name` and the rest of an object.
pub fn object(api_version: &str, kind: &str, name: &str, rest: Value) -> Value {
    let mut whole = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if let (Some(whole), Value::Object(rest)) = (whole.as_object_mut(), rest) {
        for (key, value) in rest {
            match (key.as_str(), value) {
                ("metadata", Value::Object(more)) => {
                    if let Some(meta) = whole["metadata"].as_object_mut() {
                        meta.extend(more);
                    }
                }
                (_, value) => drop(whole.insert(key, value)),
            }
        }
    }
    whole
}

/// `("v1", "default", "pods")` -> `/api/v1/namespaces/default/pods`; an empty namespace is none.
pub fn path_of(api_version: &str, namespace: &str, resource: &str) -> String {
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    match namespace {
        "" => format!("{root}/{api_version}/{resource}"),
        _ => format!("{root}/{api_version}/namespaces/{namespace}/{resource}"),
    }
}

fn read_kubeconfig(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(serde_yaml::from_str(&text)?)
}

fn data(of: &Value, key: &str) -> anyhow::Result<Vec<u8>> {
    Ok(STANDARD.decode(of[key].as_str().with_context(|| format!("the kubeconfig has no {key}"))?)?)
}

fn tls_config(ca: &[u8], certificate: Option<(Vec<u8>, Vec<u8>)>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let mut config = match certificate {
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
