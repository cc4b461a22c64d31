//! Flags -> which front proxies are believed, and as whom aggregated API servers are called. Names are kube-apiserver's
//! (apiserver `pkg/server/options/authentication.go`, `pkg/controlplane/apiserver/options`), the defaults kubeadm's: without files they are this server's own.

use std::{path::PathBuf, sync::Arc};

use anyhow::bail;
use api::certificate::Identity;
use apiserver::{certs::Certs, front_proxy::RequestHeader};
use clap::Args;
use http::HeaderName;

use crate::machine::given_file::GivenFile;

/// Of front proxies, and of aggregated API servers.
#[derive(Args, Clone, Debug)]
pub struct FrontProxyFlags {
    /// The authority of front proxies, who may say for whom they ask [default: this server's own, front-proxy-ca.crt]
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of client certificates that may do so; empty: all of that authority
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "front-proxy-client")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers that name the user; the first that is there counts
    #[arg(long, value_name = "HEADER", value_delimiter = ',', default_value = "X-Remote-User", value_parser = header)]
    pub requestheader_username_headers: Vec<HeaderName>,
    /// Headers that name the user's UID
    #[arg(long, value_name = "HEADER", value_delimiter = ',', default_value = "X-Remote-Uid", value_parser = header)]
    pub requestheader_uid_headers: Vec<HeaderName>,
    /// Headers that name the user's groups
    #[arg(long, value_name = "HEADER", value_delimiter = ',', default_value = "X-Remote-Group", value_parser = header)]
    pub requestheader_group_headers: Vec<HeaderName>,
    /// What the names of headers begin with that say more of the user
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', default_value = "X-Remote-Extra-", value_parser = header)]
    pub requestheader_extra_headers_prefix: Vec<HeaderName>,
    /// Client certificate that aggregated API servers are shown [default: this server's own, front-proxy-client.crt]
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
}

impl FrontProxyFlags {
    /// Which front proxies are believed.
    ///
    /// # Errors
    /// The file cannot be read; or it is the authority of all clients, any of which could then be anybody.
    pub fn believed(&self, certs: &Certs) -> anyhow::Result<Arc<RequestHeader>> {
        let ca = match &self.requestheader_client_ca_file {
            Some(file) => GivenFile::new("--requestheader-client-ca-file", file).text()?,
            None => certs.front_proxy_ca().to_owned(),
        };
        let allowed_names: Vec<String> = self.requestheader_allowed_names.iter().filter(|name| !name.is_empty()).cloned().collect();
        if allowed_names.is_empty() && ca.trim() == certs.ca().trim() {
            bail!(
                "--requestheader-client-ca-file is the cluster's own authority: name who may speak for others with --requestheader-allowed-names"
            );
        }
        let extra_prefixes = self.requestheader_extra_headers_prefix.iter().map(|prefix| prefix.as_str().to_owned()).collect();
        Ok(Arc::new(RequestHeader {
            ca,
            allowed_names,
            username: self.requestheader_username_headers.clone(),
            uid: self.requestheader_uid_headers.clone(),
            group: self.requestheader_group_headers.clone(),
            extra_prefixes,
        }))
    }

    /// As whom aggregated API servers are called; `None`: as this server's own front proxy.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn shown(&self) -> anyhow::Result<Option<Identity>> {
        let (Some(cert), Some(key)) = (&self.proxy_client_cert_file, &self.proxy_client_key_file) else { return Ok(None) };
        let chain_pem = GivenFile::new("--proxy-client-cert-file", cert).text()?;
        Ok(Some(Identity { chain_pem, key_pem: GivenFile::new("--proxy-client-key-file", key).text()? }))
    }
}

fn header(text: &str) -> Result<HeaderName, String> {
    text.trim().parse::<HeaderName>().map_err(|_| format!("{text:?} is no name of a header"))
}

#[cfg(test)]
mod tests {
    use apiserver::certs::ServingNames;

    use super::*;

    fn flags() -> FrontProxyFlags {
        FrontProxyFlags {
            requestheader_client_ca_file: None,
            requestheader_allowed_names: vec![String::new()],
            requestheader_username_headers: vec![header("X-Remote-User").unwrap()],
            requestheader_uid_headers: Vec::new(),
            requestheader_group_headers: Vec::new(),
            requestheader_extra_headers_prefix: vec![header(" X-Remote-Extra-").unwrap()],
            proxy_client_cert_file: None,
            proxy_client_key_file: None,
        }
    }

    #[test]
    fn not_every_client_may_be_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certs::open(dir.path(), &ServingNames::default()).unwrap();
        let own = flags().believed(&certs).unwrap();
        assert_eq!(
            (own.ca.as_str(), own.allowed_names.len(), own.extra_prefixes[0].as_str()),
            (certs.front_proxy_ca(), 0, "x-remote-extra-")
        );
        let cluster = Some(dir.path().join("ca.crt"));
        let all = FrontProxyFlags { requestheader_client_ca_file: cluster.clone(), ..flags() };
        assert!(all.believed(&certs).unwrap_err().to_string().contains("--requestheader-allowed-names"));
        let named = FrontProxyFlags { requestheader_client_ca_file: cluster, requestheader_allowed_names: vec!["a".into()], ..flags() };
        assert_eq!(named.believed(&certs).unwrap().ca, certs.ca());
        assert!(header("a b").is_err() && flags().shown().unwrap().is_none());
    }
}
