//! A kubeconfig -> where the server is, how it is spoken to over TLS, and requests as bytes.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// One API server, seen by one user (a client certificate or a token).
pub struct Door {
    address: String,
    host: ServerName<'static>,
    connector: TlsConnector,
    /// A header line, or nothing.
    authorization: String,
}

impl Door {
    /// # Errors
    /// No such file, or one that names no server, no CA or no user of its current context.
    pub fn open(kubeconfig: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
        let config: Value = serde_yaml::from_str(&text)?;
        let base = kubeconfig.parent().unwrap_or(Path::new("."));
        let current = config["current-context"].as_str().unwrap_or_default();
        let context = named(&config["contexts"], current, "context")?;
        let cluster = named(&config["clusters"], context["cluster"].as_str().unwrap_or_default(), "cluster")?;
        let user = named(&config["users"], context["user"].as_str().unwrap_or_default(), "user")?;
        let server = cluster["server"].as_str().context("the kubeconfig names no server")?;
        let address = server.strip_prefix("https://").context("the server must be spoken to over TLS")?.trim_end_matches('/');
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:443") };
        let name = cluster["tls-server-name"].as_str().or(address.rsplit_once(':').map(|a| a.0)).unwrap_or_default().to_owned();
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(fs::read_to_string(base.join(file))?.trim().to_owned()),
            (None, None) => None,
        };
        Ok(Self {
            host: ServerName::try_from(name.trim_matches(['[', ']']).to_owned())?,
            connector: TlsConnector::from(Arc::new(tls(cluster, user, base)?)),
            authorization: token.map(|t| format!("authorization: Bearer {t}\r\n")).unwrap_or_default(),
            address,
        })
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub async fn connect(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(self.connector.connect(self.host.clone(), stream).await?)
    }

    /// A whole GET, DELETE, ... without a body.
    pub fn bare(&self, method: &str, path: &str, accept: &str) -> Vec<u8> {
        let (host, authorization) = (&self.address, &self.authorization);
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}accept: {accept}\r\n\r\n").into_bytes()
    }

    /// A whole request with a body, put into `out`.
    pub fn full(&self, method: &str, path: &str, content_type: &str, body: &[u8], out: &mut Vec<u8>) {
        let (host, authorization, length) = (&self.address, &self.authorization, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{authorization}accept: {JSON}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        out.clear();
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }
}

/// An element of a kubeconfig's list; the key it is under is the list's name in the singular.
fn named<'a>(list: &'a Value, name: &str, key: &str) -> anyhow::Result<&'a Value> {
    let found = list.as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    Ok(&found.with_context(|| format!("the kubeconfig has no {key} {name:?}"))?[key])
}

/// `<key>-data`, else the file that `<key>` names.
fn data(of: &Value, key: &str, base: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    if let Some(text) = of[format!("{key}-data")].as_str() {
        return Ok(Some(STANDARD.decode(text)?));
    }
    of[key].as_str().map(|file| fs::read(base.join(file)).with_context(|| file.to_owned())).transpose()
}

fn tls(cluster: &Value, user: &Value, base: &Path) -> anyhow::Result<ClientConfig> {
    let Some(ca) = data(cluster, "certificate-authority", base)? else {
        bail!("the kubeconfig has no certificate authority; without one nothing is measured");
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&ca) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let mut config = match (data(user, "client-certificate", base)?, data(user, "client-key", base)?) {
        (Some(chain), Some(key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
        }
        _ => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
