//! Headers of a request -> those that go on, and of a reply -> those that come back.

use api::Status;
use http::{HeaderMap, HeaderValue, header};

use super::{HOP, Outgoing, has_body, host_of};
use crate::{
    body::{Request, empty},
    front_proxy,
    identity::Peer,
    kind::Target,
};

/// WebSocket protocols that containerd's streaming server speaks.
const WEBSOCKET: [&str; 5] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io", ""];

pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get(header::CONNECTION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    connection.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade")) && headers.contains_key(header::UPGRADE)
}

/// Newer clients offer only v5 of the channel protocol, or SPDY tunnelled through a WebSocket; told no, they fall back to SPDY.
pub fn refuse_unsupported(headers: &HeaderMap) -> Result<(), Status> {
    let websocket = headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket {
        return Ok(());
    }
    let offered: Vec<_> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    let offered: Vec<&str> = offered.iter().flat_map(|line| line.split(',')).map(str::trim).collect();
    if offered.is_empty() || offered.iter().any(|protocol| WEBSOCKET.contains(protocol)) {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "unable to upgrade: none of the requested protocols {offered:?} is supported over WebSocket; use SPDY/3.1"
    )))
}

/// The request as the other end gets it: its own path, no credentials, where it came from.
pub fn outgoing(target: &Target, request: Request) -> Result<Outgoing, Status> {
    let upgrade = wants_upgrade(request.headers());
    let (mut parts, body) = request.into_parts();
    let original_host =
        parts.headers.remove(header::HOST).or_else(|| parts.uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok()));
    let mut builder = http::Request::builder().method(parts.method.clone()).uri(&target.path_and_query);
    if let Some(headers) = builder.headers_mut() {
        *headers = std::mem::take(&mut parts.headers);
        // Authentication was between the caller and us.
        headers.remove(header::AUTHORIZATION);
        let impersonation: Vec<_> = headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
        impersonation.iter().for_each(|name| drop(headers.remove(name)));
        front_proxy::strip_standard(headers);
        forwarded_for(headers, &parts.extensions);
        HOP.iter().for_each(|name| drop(headers.remove(name)));
        if !upgrade {
            headers.remove(header::CONNECTION);
            headers.remove(header::UPGRADE);
        }
        headers.insert(header::HOST, HeaderValue::from_str(&host_of(target)).map_err(Status::internal)?);
        if let (Some(prefix), Some(host)) = (&target.rewrite_prefix, original_host) {
            headers.insert(
                "x-forwarded-uri",
                HeaderValue::from_str(&forwarded_uri(prefix, &target.path_and_query)).map_err(Status::internal)?,
            );
            headers.insert("x-forwarded-host", host);
            headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        }
    }
    let body = if has_body(&parts.method) && !upgrade { body } else { empty() };
    builder.body(body).map_err(Status::internal)
}

/// The path as the caller knows it, without the query.
fn forwarded_uri(prefix: &str, path_and_query: &str) -> String {
    let path = path_and_query.split('?').next().unwrap_or_default();
    format!("{}/{}", prefix.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// Adds the caller's address to those that were there (`utilnet.AppendForwardedForHeader`).
pub fn forwarded_for(headers: &mut HeaderMap, extensions: &http::Extensions) {
    let Some(address) = extensions.get::<Peer>().and_then(|peer| peer.address) else { return };
    let own = address.ip().to_string();
    let before = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    let all = before.chain([own.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
    if let Ok(value) = HeaderValue::from_bytes(&all) {
        headers.insert("x-forwarded-for", value);
    }
}

/// A redirect within what is proxied stays within it.
pub fn incoming(target: &Target, headers: &mut HeaderMap) {
    HOP.iter().for_each(|name| drop(headers.remove(name)));
    headers.remove(header::CONNECTION);
    let Some(prefix) = &target.rewrite_prefix else { return };
    let Some(location) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) else { return };
    let here = format!("{}://{}", target.scheme, host_of(target));
    let path = location.strip_prefix(&here).unwrap_or(location);
    // Another host (also as `//host/path`), a relative path and one that is right already stay as they are.
    let elsewhere = !path.starts_with('/') || path.starts_with("//") || path.starts_with(prefix.as_str());
    if !elsewhere && let Ok(value) = HeaderValue::from_str(&format!("{}{path}", prefix.trim_end_matches('/'))) {
        headers.insert(header::LOCATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn websocket(protocols: &str) -> HeaderMap {
        let pairs = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", protocols)];
        pairs.into_iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect::<HeaderMap<HeaderValue>>()
    }

    #[test]
    fn clients_that_offer_only_newer_protocols_are_told_to_fall_back() {
        assert!(wants_upgrade(&websocket("v5.channel.k8s.io")));
        assert!(refuse_unsupported(&websocket("v5.channel.k8s.io")).is_err());
        assert!(refuse_unsupported(&websocket("SPDY/3.1+portforward.k8s.io")).is_err());
        assert!(refuse_unsupported(&websocket("v5.channel.k8s.io, v4.channel.k8s.io")).is_ok());
        assert!(refuse_unsupported(&HeaderMap::new()).is_ok());
    }

    fn target(rewrite_prefix: Option<&str>) -> Target {
        Target {
            scheme: "http",
            host: "10.0.0.1".into(),
            port: 80,
            path_and_query: "/x?y=1".into(),
            node_agent: None,
            rewrite_prefix: rewrite_prefix.map(Into::into),
        }
    }

    #[test]
    fn credentials_stay_here() {
        let request =
            http::Request::builder().header("authorization", "Bearer t").header("host", "api").header("te", "x").body(empty()).unwrap();
        let sent = outgoing(&target(Some("/p")), request).unwrap();
        assert_eq!(sent.uri(), "/x?y=1");
        assert!(!sent.headers().contains_key("authorization") && !sent.headers().contains_key("te"));
        assert_eq!(
            (&sent.headers()["host"], &sent.headers()["x-forwarded-host"]),
            (&HeaderValue::from_static("10.0.0.1:80"), &HeaderValue::from_static("api"))
        );
    }

    #[test]
    fn redirects_stay_within_what_is_proxied() {
        for (location, expected) in [("http://10.0.0.1:80/a", "/p/a"), ("/b", "/p/b"), ("http://other/c", "http://other/c")] {
            let mut headers: HeaderMap = [(header::LOCATION, location.parse().unwrap())].into_iter().collect();
            incoming(&target(Some("/p/")), &mut headers);
            assert_eq!(headers[header::LOCATION], expected);
        }
    }
}
