//! Impersonation headers -> the user that they name. Source: `processImpersonationHeaders` in `constrained_impersonation.go`.

use api::Status;
use http::{HeaderMap, HeaderName};

use crate::{front::query::decoded, identity::User};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// `None` without any such header: with one, even an empty one, a request is never its sender's.
///
/// # Errors
/// 400 for a header that is not UTF-8, and for headers that name no user.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-") && is_known(name)) {
        return Ok(None);
    }
    let first = |name: &str| texts(headers, name).map(|texts| texts.into_iter().next().unwrap_or_default());
    let mut user = User { name: first(USER)?, uid: first(UID)?, groups: texts(headers, GROUP)?, ..User::default() };
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        user.extra.entry(extra_key(key)?).or_default().extend(texts(headers, name.as_str())?);
    }
    if user.name.is_empty() {
        return Err(Status::bad_request(format!("requested {} without impersonating a user name", shown(&user))));
    }
    Ok(Some(user))
}

fn is_known(name: &HeaderName) -> bool {
    [USER, UID, GROUP].contains(&name.as_str()) || name.as_str().starts_with(EXTRA)
}

/// Go reads headers as bytes; a name is text here, so bytes must be some.
fn texts(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Status::bad_request(format!("header {name} is not UTF-8")));
    headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect()
}

/// Percent-decoded; a key that cannot be is taken as it is.
fn extra_key(key: &str) -> Result<String, Status> {
    match decoded(key) {
        Some(key) => Ok(key),
        None if crate::front::query::is_escaped(key) => Err(Status::bad_request(format!("header {EXTRA}{key} is not UTF-8"))),
        None => Ok(key.to_owned()),
    }
}

/// As Go prints a `user.DefaultInfo` with `%#v`.
fn shown(user: &User) -> String {
    let list = |words: &[String]| match words {
        [] => "[]string(nil)".to_owned(),
        words => format!("[]string{{{}}}", words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")),
    };
    let extra: Vec<String> = user.extra.iter().map(|(key, values)| format!("{key:?}:{}", list(values))).collect();
    let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{}}}", extra.join(", ")) };
    let (name, uid, groups) = (&user.name, &user.uid, list(&user.groups));
    format!("&user.DefaultInfo{{Name:{name:?}, UID:{uid:?}, Groups:{groups}, Extra:map[string][]string{extra}}}")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(pairs: &[(&str, &[u8])]) -> Result<Option<User>, Status> {
        let pairs = pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap()));
        wanted(&pairs.collect())
    }

    #[test]
    fn headers_are_bytes() {
        let user = read(&[("impersonate-user", "stra\u{df}e".as_bytes()), ("impersonate-group", "gr\u{fc}n".as_bytes())]).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("stra\u{df}e", &["gr\u{fc}n".to_owned()][..]));
        for name in ["impersonate-user", "impersonate-uid", "impersonate-group", "impersonate-extra-a"] {
            assert_eq!(read(&[("impersonate-user", b"jane"), (name, b"a\xff")]).unwrap_err().code, 400, "{name}");
            assert_eq!(read(&[(name, b"a\xff")]).unwrap_err().code, 400, "{name}");
        }
        assert_eq!(read(&[("impersonate-user", b"jane"), ("impersonate-extra-%ff", b"x")]).unwrap_err().code, 400);
    }

    #[test]
    fn who_names_nobody_is_refused() {
        assert_eq!(read(&[("accept", b"x"), ("impersonate-foo", b"x")]), Ok(None));
        let why = |pairs: &[(&str, &[u8])]| read(pairs).unwrap_err().message;
        assert_eq!(
            why(&[("impersonate-user", b"")]),
            "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string(nil), Extra:map[string][]string(nil)} without impersonating a user name"
        );
        assert_eq!(
            why(&[("impersonate-user", b""), ("impersonate-group", b"g"), ("impersonate-uid", b"u"), ("impersonate-extra-k", b"v")]),
            "requested &user.DefaultInfo{Name:\"\", UID:\"u\", Groups:[]string{\"g\"}, Extra:map[string][]string{\"k\":[]string{\"v\"}}} without impersonating a user name"
        );
        for lonely in ["impersonate-uid", "impersonate-group", "impersonate-extra-k"] {
            assert!(read(&[(lonely, b"")]).is_err() && read(&[(lonely, b"x")]).is_err(), "{lonely}");
        }
    }

    #[test]
    fn extra_keys_are_unescaped_and_joined() {
        let user = read(&[
            ("impersonate-user", b"jane"),
            ("impersonate-extra-acme.io%2fproject", b"a"),
            ("impersonate-extra-acme.io%2Fproject", b"b"),
            ("impersonate-extra-x", b"1"),
            ("impersonate-extra-%78", b"2"),
            ("impersonate-extra-%zz", b"raw"),
        ]);
        let extra = user.unwrap().unwrap().extra;
        assert_eq!((extra["acme.io/project"].len(), extra["x"].len(), extra["%zz"].len()), (2, 2, 1));
    }
}
