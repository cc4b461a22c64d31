//! Where a webhook is called -> what is wrong with it. Source: apiserver `pkg/util/webhook/validation.go`.

use api::field_errors::FieldErrors;
use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{Path, Read, name_rules, require};

const FORM: &str = "; desired format: https://host[/path]";

/// PEM of a `caBundle`, of base64 as Go reads it: line breaks are passed over.
///
/// # Errors
/// It is no base64.
pub fn bundle(text: &str) -> Result<Vec<u8>, DecodeError> {
    STANDARD.decode(text.replace(['\r', '\n'], ""))
}

/// A `clientConfig` with exactly one of `url` and `service`.
pub fn client(client: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    match (client.at("url").and_then(Value::as_str), client.at("service")) {
        (Some(url), None) => self::url(url, path.field("url"), causes),
        (None, Some(service)) => self::service(service, path.field("service"), causes),
        _ => causes.required(path, "exactly one of url or service is required"),
    }
}

/// `ValidateWebhookURL` of one that must be HTTPS.
pub fn url(url: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let parts = match Parts::of(url) {
        Ok(parts) => parts,
        Err(why) => return causes.required(path, &format!("url must be a valid URL: parse {url:?}: {why}{FORM}")),
    };
    if parts.scheme != "https" {
        causes.invalid(path, parts.scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parts.host.is_empty() {
        causes.invalid(path, parts.host, &format!("host must be specified{FORM}"));
    }
    let rest = [(parts.user, "user information is"), (parts.fragment, "fragments are"), (parts.query, "query parameters are")];
    for (found, what) in rest.into_iter().filter_map(|(found, what)| Some((found?, what))) {
        causes.invalid(path, found, &format!("{what} not permitted in the URL"));
    }
}

/// `ValidateWebhookService`
pub fn service(service: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    // Upstream's caller gives name and namespace in the other order; the fields are named right.
    require(service, "name", path, causes);
    require(service, "namespace", path, causes);
    port(service, path, causes);
    let Some(text) = service.at("path").and_then(Value::as_str).filter(|text| !matches!(*text, "" | "/")) else { return };
    let at = path.field("path");
    if text == "//" {
        return causes.invalid(at, text, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        causes.invalid(at, text, "must start with a '/'");
    }
    // As upstream: the first character goes, whatever it is.
    let inner = text.char_indices().nth(1).map_or("", |(second, _)| &text[second..]);
    for (i, segment) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if segment.is_empty() {
            causes.invalid(at, text, &format!("segment[{i}] may not be empty"));
            continue;
        }
        for error in name_rules::dns_subdomain(segment) {
            causes.invalid(at, text, &format!("segment[{i}]: {error}"));
        }
    }
}

/// The port of a service that is called.
pub fn port(service: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let port = service.int("port").unwrap_or(0);
    let errors = name_rules::port_number(port);
    if !errors.is_empty() {
        causes.invalid(path.field("port"), port, &format!("port is not valid: {}", errors.join(", ")));
    }
}

/// As `net/url` takes a URL apart.
struct Parts<'u> {
    scheme: &'u str,
    user: Option<&'u str>,
    host: &'u str,
    query: Option<&'u str>,
    fragment: Option<&'u str>,
}

impl<'u> Parts<'u> {
    fn of(url: &'u str) -> Result<Self, String> {
        if url.bytes().any(|b| b.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".into());
        }
        let (rest, fragment) = cut(url, '#');
        let (scheme, rest) = scheme(rest)?;
        let (rest, query) = cut(rest, '?');
        let authority = rest.strip_prefix("//").map(|rest| rest.split('/').next().unwrap_or(""));
        let (user, host) = match authority.and_then(|a| a.rsplit_once('@')) {
            Some((user, host)) => (Some(user), host),
            None => (None, authority.unwrap_or("")),
        };
        host_error(host).map_or(Ok(()), Err)?;
        let filled = |text: Option<&'u str>| text.filter(|text| !text.is_empty());
        Ok(Self { scheme, user, host, query: filled(query), fragment: filled(fragment) })
    }
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Scheme and the rest; no scheme is fine.
fn scheme(url: &str) -> Result<(&str, &str), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    match url.split_once(':') {
        Some(("", _)) => Err("missing protocol scheme".into()),
        Some((scheme, rest)) if scheme.bytes().all(is_word) => match scheme.as_bytes().first() {
            Some(first) if first.is_ascii_alphabetic() => Ok((scheme, rest)),
            _ => Err("first path segment in URL cannot contain colon".into()),
        },
        _ => Ok(("", url)),
    }
}

fn host_error(host: &str) -> Option<String> {
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}')) {
        return Some(format!("invalid character {:?} in host name", bad.to_string()));
    }
    let after = host.rfind(']').map_or(host, |end| &host[end + 1..]);
    let port = after.split_once(':').map(|(_, port)| port)?;
    let is_number = port.bytes().all(|b| b.is_ascii_digit());
    (!is_number).then(|| format!("invalid port {:?} after host", format!(":{port}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(of: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        client(Some(&of), Path::new("c"), &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    #[test]
    fn urls_are_plain() {
        let cases: [(&str, &[&str]); 9] = [
            ("https://a.example:8443/x", &[]),
            ("https://[::1]:8443", &[]),
            ("http://a", &[r#"c.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#]),
            ("https:///x", &[r#"c.url: Invalid value: "": host must be specified; desired format: https://host[/path]"#]),
            ("https://u:p@a", &[r#"c.url: Invalid value: "u:p": user information is not permitted in the URL"#]),
            (
                "https://a?x=1#f",
                &[
                    r#"c.url: Invalid value: "f": fragments are not permitted in the URL"#,
                    r#"c.url: Invalid value: "x=1": query parameters are not permitted in the URL"#,
                ],
            ),
            (
                "https://a:b",
                &[
                    r#"c.url: Required value: url must be a valid URL: parse "https://a:b": invalid port ":b" after host; desired format: https://host[/path]"#,
                ],
            ),
            (
                ":x",
                &[
                    r#"c.url: Required value: url must be a valid URL: parse ":x": missing protocol scheme; desired format: https://host[/path]"#,
                ],
            ),
            (
                "a",
                &[
                    r#"c.url: Invalid value: "": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
                    r#"c.url: Invalid value: "": host must be specified; desired format: https://host[/path]"#,
                ],
            ),
        ];
        for (url, wanted) in cases {
            assert_eq!(texts(json!({"url": url})), wanted, "{url}");
        }
    }

    #[test]
    fn services_are_whole() {
        assert_eq!(texts(json!({})), ["c: Required value: exactly one of url or service is required"]);
        let service = |more: Value| {
            let mut of = json!({"name": "s", "namespace": "n", "port": 443});
            of.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"service": of})
        };
        for path in ["", "/", "/a/b", "/a/"] {
            assert_eq!(texts(service(json!({"path": path}))), Vec::<String>::new(), "{path}");
        }
        let empty = |i: u8, text: &str| format!("c.service.path: Invalid value: {text:?}: segment[{i}] may not be empty");
        assert_eq!(texts(service(json!({"path": "//"}))), [empty(0, "//")]);
        let start = r#"c.service.path: Invalid value: "x//y": must start with a '/'"#.to_owned();
        assert_eq!(texts(service(json!({"path": "x//y"}))), [start, empty(0, "x//y"), empty(1, "x//y")]);
        assert_eq!(texts(service(json!({"path": "é"}))).len(), 2);
        assert_eq!(
            texts(service(json!({"name": "", "port": 0}))),
            [
                "c.service.name: Required value",
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ]
        );
    }
}
