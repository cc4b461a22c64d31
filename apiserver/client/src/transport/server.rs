//! `https://10.0.0.5:6443` -> where to connect, and the name its certificate must have.

use std::{fmt, sync::Arc};

use http::Uri;
use rustls_pki_types::ServerName;

/// Where a URL names no port.
const PORT: u16 = 443;

/// One server of a cluster. Two are equal if they are reached in the same way.
#[derive(Clone, PartialEq, Eq)]
pub struct Server(Arc<Parts>);

#[derive(PartialEq, Eq)]
struct Parts {
    /// Without a slash at its end.
    url: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Why a text is no server.
#[derive(Debug, thiserror::Error)]
#[error("{url:?} is no address of a server: {why}")]
pub struct NoServer {
    url: String,
    why: &'static str,
}

impl Server {
    /// An `https` URL; its path, if there is one, comes before that of each request.
    ///
    /// # Errors
    /// It is none, or has no name that a certificate could be checked against.
    pub fn parse(url: &str) -> Result<Self, NoServer> {
        Self::named(url, None)
    }

    /// The same, with another name in its certificate (`tls-server-name` of a kubeconfig).
    ///
    /// # Errors
    /// As of [`Server::parse`].
    pub fn named(url: &str, name: Option<&str>) -> Result<Self, NoServer> {
        let no = |why| NoServer { url: url.to_owned(), why };
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|_| no("it must be a URL, as in https://10.0.0.5:6443"))?;
        if uri.scheme_str() != Some("https") {
            return Err(no("it must begin with https://"));
        }
        if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(no("it must be a host and a port, and nothing else"));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(name.map_or_else(|| host.clone(), str::to_owned));
        let name = name.map_err(|_| no("it has no name that a certificate could be checked against"))?;
        let url = uri.to_string().trim_end_matches('/').to_owned();
        Ok(Self(Arc::new(Parts { url, port: uri.port_u16().unwrap_or(PORT), host, name })))
    }

    pub fn host(&self) -> &str {
        &self.0.host
    }

    pub fn port(&self) -> u16 {
        self.0.port
    }

    pub(crate) fn name(&self) -> ServerName<'static> {
        self.0.name.clone()
    }

    /// Where a request of that path goes.
    pub(crate) fn uri(&self, of: &Uri) -> Result<Uri, http::uri::InvalidUri> {
        let path = of.path_and_query().map_or("/", |path| path.as_str());
        format!("{}{path}", self.0.url).parse()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.url)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_others_refused() {
        let cases = [
            ("https://10.0.0.5:6443", Some(("10.0.0.5", 6443, "https://10.0.0.5:6443/a?b=c"))),
            ("https://a.example/", Some(("a.example", 443, "https://a.example/a?b=c"))),
            ("https://[fd00::1]:7/k8s/c1/", Some(("fd00::1", 7, "https://[fd00::1]:7/k8s/c1/a?b=c"))),
            ("http://10.0.0.5:6443", None),
            ("10.0.0.5:6443", None),
            ("https://", None),
            ("https://u:p@a", None),
            ("https://a?x=y", None),
            ("https://a_b c", None),
            ("", None),
        ];
        for (url, wanted) in cases {
            let read = Server::parse(url);
            let seen = read.as_ref().ok().map(|s| (s.host(), s.port(), s.uri(&"/a?b=c".parse().unwrap()).unwrap().to_string()));
            assert_eq!(seen, wanted.map(|(host, port, uri)| (host, port, uri.to_owned())), "{url}: {read:?}");
        }
        assert_eq!(Server::parse("https://a:1/").unwrap(), Server::parse("https://a:1").unwrap());
    }
}
