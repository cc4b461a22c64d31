//! Certificate files -> TLS to etcd; and, where etcd does not answer, the reason in words.
//!
//! The client library tries again for as long as it may and says only that time is up. So a server that did not answer is dialled once
//! more, by hand, to learn why.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::Error;

const DIAL_BOUND: Duration = Duration::from_secs(3);
/// What an HTTP/2 client says first (RFC 9113, 3.4), with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Files (PEM) for TLS to etcd; without a CA the connection is plain.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The files, read.
pub(super) struct Files {
    ca: Vec<u8>,
    /// Certificate (chain) and key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    /// `None` for plain connections.
    ///
    /// # Errors
    /// A file cannot be read or holds something else; or the servers and the files do not go together.
    pub fn read(servers: &[String], tls: &Tls) -> Result<Option<Self>, Error> {
        let identity = match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => Some((certificates(cert)?, private_key(key)?)),
            (None, None) => None,
            _ => return Err(unusable("a client certificate for etcd and its key go together: one of the two files is not named")),
        };
        match &tls.ca {
            Some(_) if servers.iter().any(|s| s.starts_with("http://")) => {
                Err(unusable("a CA for etcd is named, but a server begins with http://: TLS servers begin with https://"))
            }
            Some(ca) => {
                let files = Self { ca: certificates(ca)?, identity };
                files.config().map_err(Error::Unusable)?;
                Ok(Some(files))
            }
            None if identity.is_some() || servers.iter().any(|s| s.starts_with("https://")) => {
                Err(unusable("TLS to etcd needs the CA that signed its certificate: the machine's own authorities are not asked"))
            }
            None => Ok(None),
        }
    }

    pub fn options(&self) -> ClientTlsConfig {
        let options = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        match &self.identity {
            Some((cert, key)) => options.identity(Identity::from_pem(cert, key)),
            None => options,
        }
    }

    fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&self.ca).flatten());
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?.with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = CertificateDer::pem_slice_iter(cert).flatten().collect();
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| e.to_string())?;
                builder.with_client_auth_cert(chain, key).map_err(|e| format!("the client certificate and its key do not fit: {e}"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// Why `server` does not answer; `None` if a connection can be had.
pub(super) async fn diagnose(server: &str, files: Option<&Files>) -> Option<String> {
    match timeout(DIAL_BOUND, dial(server, files)).await {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some(format!("no answer within {} s", DIAL_BOUND.as_secs())),
    }
}

async fn dial(server: &str, files: Option<&Files>) -> Result<(), String> {
    let address = server.split_once("://").map_or(server, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let Some(files) = files else { return Ok(()) };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(files.config()?));
    let mut tls = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
    // With TLS 1.3 the server looks at our certificate when we think that all is done: only what it says next tells.
    let heard = async {
        tls.write_all(PREFACE).await?;
        tls.read_u8().await
    };
    match heard.await {
        Ok(_) => Ok(()),
        Err(error) if files.identity.is_none() && error.to_string().contains("alert") => {
            Err(format!("{error}: it wants a client certificate, and none was named"))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::Unusable(format!("{}: {e}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(path)?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        _ => Err(Error::Unusable(format!("{}: there is no PEM certificate in it", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<Vec<u8>, Error> {
    let pem = read(path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(_) => Err(Error::Unusable(format!("{}: there is no PEM private key in it", path.display()))),
    }
}

fn unusable(text: &str) -> Error {
    Error::Unusable(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(servers: &[&str], tls: &Tls) -> String {
        let servers: Vec<String> = servers.iter().map(|s| (*s).to_owned()).collect();
        Files::read(&servers, tls).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_go_together_is_refused_before_anything_is_dialled() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, gone) = (dir.path().join("empty"), dir.path().join("gone"));
        std::fs::write(&empty, "no PEM").unwrap();
        let (some, https) = (Some(empty.clone()), ["https://a:1"]);
        assert!(refused(&https, &Tls::default()).contains("needs the CA"));
        assert!(refused(&https, &Tls { cert: some.clone(), ..Tls::default() }).contains("go together"));
        assert!(refused(&https, &Tls { ca: some.clone(), ..Tls::default() }).contains("no PEM certificate"));
        assert!(refused(&https, &Tls { ca: Some(gone.clone()), ..Tls::default() }).contains(&gone.display().to_string()));
        assert!(refused(&["http://a:1"], &Tls { ca: some, ..Tls::default() }).contains("https://"));
        assert!(Files::read(&["http://a:1".to_owned()], &Tls::default()).unwrap().is_none());
    }
}
