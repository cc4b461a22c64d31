//! Whom this server believes -> the ConfigMap `extension-apiserver-authentication`, from which aggregated API servers learn whom they may believe.
//!
//! Source: `pkg/controlplane/controller/clusterauthenticationtrust`. What other servers have written stays, but for certificates that have expired.

use std::sync::Arc;

use api::time::Timestamp;
use apiserver::{certs::look, engine::Engine, front_proxy::RequestHeader, identity::User};
use serde_json::json;

use crate::common::kept::{self, Data};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// An authority counts for so long after it has expired.
const SLACK_SECONDS: i64 = 5 * 60;
const END: &str = "-----END CERTIFICATE-----";

/// Whom this server believes.
#[derive(Clone)]
pub struct Trust {
    /// The authority of client certificates, PEM.
    pub client_ca: String,
    pub request_header: Arc<RequestHeader>,
}

/// Looks after it for as long as the server runs: whenever somebody has changed it.
pub async fn keep(engine: Arc<Engine>, user: User, trust: Trust) {
    kept::keep(engine, user, (NAMESPACE, NAME), move |found, now| combined(found, &trust, now)).await;
}

/// What stands there, and what is this server's.
fn combined(found: &Data, trust: &Trust, now: Timestamp) -> Data {
    let of = |key: &str| found.get(key).map(String::as_str).unwrap_or_default();
    let believed = &trust.request_header;
    let names = |list: &[http::HeaderName]| list.iter().map(|name| canonical(name.as_str())).collect::<Vec<_>>();
    let prefixes = believed.extra_prefixes.iter().map(|prefix| canonical(prefix)).collect();
    let mut data = Data::from([
        ("client-ca-file".to_owned(), certificates(&[of("client-ca-file"), &trust.client_ca], now)),
        ("requestheader-client-ca-file".to_owned(), certificates(&[of("requestheader-client-ca-file"), &believed.ca], now)),
    ]);
    for (key, own) in [
        ("requestheader-username-headers", names(&believed.username)),
        ("requestheader-uid-headers", names(&believed.uid)),
        ("requestheader-group-headers", names(&believed.group)),
        ("requestheader-extra-headers-prefix", prefixes),
        ("requestheader-allowed-names", believed.allowed_names.clone()),
    ] {
        let mut all: Vec<String> = Vec::new();
        let there: Vec<String> = serde_json::from_str(of(key)).unwrap_or_default();
        there.into_iter().chain(own).for_each(|word| {
            if !all.contains(&word) {
                all.push(word)
            }
        });
        if !(all.is_empty() && key == "requestheader-uid-headers") {
            data.insert(key.to_owned(), json!(all).to_string());
        }
    }
    data
}

/// Each certificate once, without those that have expired.
fn certificates(bundles: &[&str], now: Timestamp) -> String {
    let mut all: Vec<&str> = Vec::new();
    for block in bundles.iter().flat_map(|bundle| bundle.split_inclusive(END)) {
        let Some(block) = block.find("-----BEGIN CERTIFICATE-----").and_then(|at| block.get(at..)) else { continue };
        let is_good = look(block).is_ok_and(|seen| seen.not_after + SLACK_SECONDS > now.as_second());
        if is_good && !all.contains(&block) {
            all.push(block);
        }
    }
    all.iter().map(|block| format!("{block}\n")).collect()
}

/// As Go writes the names of headers.
fn canonical(name: &str) -> String {
    let mut is_first = true;
    let letter = |c: char| if std::mem::replace(&mut is_first, c == '-') { c.to_ascii_uppercase() } else { c };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use apiserver::certs::issue;

    use super::*;

    #[test]
    fn what_several_servers_believe_stands_there_once() {
        let now = Timestamp::now();
        let [a, b, own] = ["a", "b", "own"].map(|name| issue::authority(name, now).unwrap().chain_pem);
        let trust = |ca: &str| Trust { client_ca: own.clone(), request_header: Arc::new(RequestHeader::standard(ca.to_owned())) };
        let first = combined(&Data::new(), &trust(&a), now);
        assert_eq!(first["requestheader-username-headers"], r#"["X-Remote-User"]"#);
        assert_eq!(first["requestheader-extra-headers-prefix"], r#"["X-Remote-Extra-"]"#);
        assert_eq!((&first["client-ca-file"], &first["requestheader-client-ca-file"]), (&own, &a));
        assert_eq!(combined(&first, &trust(&a), now), first);
        let second = combined(&first, &trust(&b), now);
        assert_eq!(second["requestheader-client-ca-file"], format!("{a}{b}"));
        assert_eq!(second["requestheader-allowed-names"], r#"["front-proxy-client"]"#);
        assert_eq!(combined(&second, &trust(&a), now), second, "two servers agree");
        let later = Timestamp::from_second(now.as_second() + 11 * 365 * 24 * 3600).unwrap();
        assert_eq!(combined(&second, &trust(&a), later)["requestheader-client-ca-file"], "");
        let odd = Data::from([("client-ca-file".to_owned(), "x".to_owned()), ("requestheader-group-headers".to_owned(), "{".to_owned())]);
        assert_eq!(combined(&odd, &trust(&a), now), first, "what cannot be read is nothing");
    }
}
