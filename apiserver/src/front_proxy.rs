//! A client certificate of the front proxies' authority, and headers -> the user for whom a front proxy asks; and back: a user -> the headers that an
//! aggregated API server reads.
//!
//! Sources: apiserver `pkg/authentication/request/headerrequest/requestheader.go`, client-go `SetAuthProxyHeaders` (`transport/round_trippers.go`).

use std::{collections::BTreeMap, sync::Arc};

use api::Status;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{front::query::decoded, identity::User};

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Which front proxies are believed, and in which headers they say who asks (`RequestHeaderConfig`).
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// The authority of their certificates, PEM.
    pub ca: String,
    /// Common names that may speak for others; all of the authority where there is none.
    pub allowed_names: Vec<String>,
    /// The first header that has a value counts.
    pub username: Vec<HeaderName>,
    pub uid: Vec<HeaderName>,
    pub group: Vec<HeaderName>,
    /// In lower case.
    pub extra_prefixes: Vec<String>,
}

/// A connection's other end is a front proxy: in the extensions of its requests.
#[derive(Clone, Debug)]
pub(crate) struct FrontProxy {
    pub believed: Arc<RequestHeader>,
    /// The certificate's end, in seconds.
    pub not_after: i64,
}

impl RequestHeader {
    /// Upstream's headers, and kubeadm's name.
    pub fn standard(ca: String) -> Self {
        let (username, uid, group) = (vec![USER], vec![UID], vec![GROUP]);
        Self { ca, allowed_names: vec!["front-proxy-client".into()], username, uid, group, extra_prefixes: vec![EXTRA.into()] }
    }

    pub(crate) fn allows(&self, common_name: &str) -> bool {
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|name| name == common_name)
    }

    /// For whom a front proxy asks; nobody, where it asks for itself.
    ///
    /// # Errors
    /// 401 where that cannot be read: who cannot be read is nobody.
    pub(crate) fn user(&self, headers: &HeaderMap) -> Result<Option<User>, Status> {
        let first = |names: &[HeaderName]| -> Result<String, Status> {
            let value = names.iter().find_map(|name| headers.get(name).filter(|value| !value.is_empty()));
            value.map_or(Ok(String::new()), text)
        };
        let name = first(&self.username)?;
        if name.is_empty() {
            return Ok(None);
        }
        let groups = self.group.iter().flat_map(|name| headers.get_all(name)).filter(|value| !value.is_empty());
        let groups = groups.map(text).collect::<Result<_, _>>()?;
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        for prefix in &self.extra_prefixes {
            for (name, value) in headers {
                if let Some(key) = name.as_str().strip_prefix(prefix.as_str()) {
                    extra.entry(unescaped(key)).or_default().push(text(value)?);
                }
            }
        }
        Ok(Some(User { name, uid: first(&self.uid)?, groups, extra }))
    }

    /// Takes out what only a front proxy may say.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        for name in self.username.iter().chain(&self.uid).chain(&self.group) {
            headers.remove(name);
        }
        strip_prefixed(headers, self.extra_prefixes.iter().map(String::as_str));
    }
}

/// Takes out upstream's own headers.
pub(crate) fn strip_standard(headers: &mut HeaderMap) {
    for name in [USER, UID, GROUP] {
        headers.remove(name);
    }
    strip_prefixed(headers, [EXTRA].into_iter());
}

/// Says who asks, and nobody else does.
///
/// # Errors
/// 500 for a user whose words do not fit into a header: nobody else is told of in their place.
pub(crate) fn tell(headers: &mut HeaderMap, user: &User) -> Result<(), Status> {
    // Whoever reads a header takes blanks off its ends: that would be another name.
    let is_kept = |text: &str| text.trim_matches([' ', '\t']) == text;
    let value = |text: &str| {
        let value = HeaderValue::from_bytes(text.as_bytes()).ok().filter(|_| is_kept(text));
        value.ok_or_else(|| Status::internal("the user does not fit into a header"))
    };
    strip_standard(headers);
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::from_bytes(format!("{EXTRA}{}", escaped(key)).as_bytes()).map_err(Status::internal)?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

fn text(value: &HeaderValue) -> Result<String, Status> {
    std::str::from_utf8(value.as_bytes()).map(str::to_owned).map_err(|_| Status::unauthorized())
}

fn strip_prefixed<'p>(headers: &mut HeaderMap, prefixes: impl Iterator<Item = &'p str> + Clone) {
    let is_one = |name: &&HeaderName| prefixes.clone().any(|prefix| name.as_str().starts_with(prefix));
    let found: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
    found.iter().for_each(|name| drop(headers.remove(name)));
}

/// `headerKeyEscape`: a `%` and what no header's name may have.
fn escaped(key: &str) -> String {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().fold(String::new(), |mut out, byte| {
        match is_legal(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// As sent, where it cannot be decoded.
fn unescaped(key: &str) -> String {
    decoded(key).unwrap_or_else(|| key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        let mut all = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            all.append(name, value);
        }
        all
    }

    fn jane() -> User {
        let extra = BTreeMap::from([("example.com/a%b".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        User { name: "jane".into(), uid: "u-1".into(), groups: vec!["a".into(), "b".into()], extra }
    }

    #[test]
    fn what_is_told_is_what_is_read() {
        let mut told =
            headers(&[("x-remote-user", "root"), ("x-remote-group", "system:masters"), ("x-remote-extra-x", "y"), ("x-other", "z")]);
        tell(&mut told, &jane()).unwrap();
        assert_eq!(RequestHeader::standard(String::new()).user(&told).unwrap(), Some(jane()));
        assert!(told.contains_key("x-remote-extra-example.com%2fa%25b") && told.contains_key("x-other"), "{told:?}");
        strip_standard(&mut told);
        assert_eq!(told.len(), 1);
        for unfit in ["a\nb", " system:masters", "a\t"] {
            let unfit = User { name: "a".into(), groups: vec![unfit.into()], ..User::default() };
            assert_eq!(tell(&mut HeaderMap::new(), &unfit).unwrap_err().code, 500);
        }
    }

    #[test]
    fn headers_are_read_as_upstream_reads_them() {
        let mut believed = RequestHeader::standard(String::new());
        believed.username = vec!["x-first".parse().unwrap(), "x-second".parse().unwrap()];
        believed.extra_prefixes = vec!["x-a-".into(), "x-b-".into()];
        let user = |pairs: &[(&str, &str)]| believed.user(&headers(pairs));
        assert_eq!(user(&[("x-remote-user", "jane"), ("x-first", "")]).unwrap(), None, "another header than is believed");
        let read =
            user(&[("x-second", "b"), ("x-first", ""), ("x-remote-group", ""), ("x-b-%zz", "2"), ("X-A-K%2Fx", "1")]).unwrap().unwrap();
        assert_eq!((read.name.as_str(), read.groups.len(), read.uid.as_str()), ("b", 0, ""));
        assert_eq!(read.extra, BTreeMap::from([("k/x".into(), vec!["1".into()]), ("%zz".into(), vec!["2".into()])]));
        let mut unreadable = HeaderMap::new();
        unreadable.insert("x-first", HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(believed.user(&unreadable).unwrap_err().code, 401);
        let mut stripped = headers(&[("x-first", "a"), ("x-b-c", "d"), ("x-remote-uid", "e"), ("x-keep", "f")]);
        believed.strip(&mut stripped);
        assert_eq!(stripped.keys().collect::<Vec<_>>(), ["x-keep"]);
        assert!(believed.allows("front-proxy-client") && !believed.allows("jane"));
    }
}
