//! Somebody outside, in a test's own process: a real TLS server with an authority of its own.

use std::{convert::Infallible, future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use api::task::Group;
use apiserver::{engine::Engine, identity::Auth};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What was asked: path, bearer token, JSON.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub bearer: Option<String>,
    pub body: Value,
}

pub type Handler = Arc<dyn Fn(Asked) -> BoxFuture<'static, Response<Full<Bytes>>> + Send + Sync>;

pub struct Outside {
    pub address: SocketAddr,
    /// PEM.
    pub authority: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub group: Group,
    pub dir: TempDir,
}

pub fn json_response(value: &Value) -> Response<Full<Bytes>> {
    Response::new(Full::new(value.to_string().into()))
}

pub fn status(code: u16) -> Response<Full<Bytes>> {
    Response::builder().status(code).body(Full::new(Bytes::from_static(b"no"))).unwrap()
}

impl Outside {
    /// Answers with what `answer` makes of each question.
    pub async fn start<F: Future<Output = Response<Full<Bytes>>> + Send + 'static>(
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        let authority = {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let config = config.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked, group) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Asked>>>::default(), Group::new());
        let handler: Handler = Arc::new(move |asked| Box::pin(answer(asked)));
        group.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), handler, asked.clone(), group.clone()));
        Self { address, authority: authority.pem(), asked, group, dir: tempfile::tempdir().unwrap() }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn calls(&self) -> usize {
        self.asked.lock().len()
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A kubeconfig that names it, with a token.
    pub fn kubeconfig(&self, path: &str) -> PathBuf {
        let ca = self.file("ca.pem", &self.authority);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "x", "user": "u"}}],
            "clusters": [{"name": "x", "cluster": {"server": format!("{}{path}", self.url()), "certificate-authority": ca}}],
            "users": [{"name": "u", "user": {"token": "ours"}}],
        });
        self.file("kubeconfig", &config.to_string())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.group.stop();
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, handler: Handler, asked: Arc<Mutex<Vec<Asked>>>, group: Group) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, handler, asked) = (acceptor.clone(), handler.clone(), asked.clone());
        group.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let (handler, asked) = (handler.clone(), asked.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                    let bearer = parts.headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
                    let one = Asked {
                        path: parts.uri.to_string(),
                        bearer: bearer.map(str::to_owned),
                        body: serde_json::from_slice(&body).unwrap_or_default(),
                    };
                    asked.lock().push(one.clone());
                    Ok::<_, Infallible>(handler(one).await)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// An engine that serves nothing.
pub fn engine(group: &Group) -> Arc<Engine> {
    Engine::new(Arc::new(store::memory::Memory::new()), Vec::new(), Auth::default(), group.clone())
}

/// Waits for a condition, 30 s at most.
pub async fn eventually(mut is: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come true");
}
