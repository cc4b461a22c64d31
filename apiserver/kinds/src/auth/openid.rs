//! The token signer -> OpenID discovery, so that others can verify our tokens (`pkg/serviceaccount/openidmetadata.go`).

use std::{collections::BTreeSet, future::ready};

use apiserver::{
    body::{Response, full},
    jws::PublicKey,
    non_resource::{Router, non_resource_routes, unacceptable},
};
use http::{HeaderValue, Uri, header, request::Parts};
use serde_json::json;

use super::tokens::Tokens;

/// Serves `/.well-known/openid-configuration` and `/openid/v1/jwks`.
#[derive(Clone)]
pub struct OpenId {
    configuration: String,
    keys: String,
}

impl OpenId {
    /// `server_url` is how the API server is reached from outside: `https://10.0.0.1:6443`. `jwks_uri` is said instead of its own address. `None`,
    /// and said why, where the issuer's name is none that discovery may have.
    pub fn new(tokens: &Tokens, server_url: &str, jwks_uri: Option<&str>) -> Option<Self> {
        if let Err(why) = issuer_error(tokens.issuer()) {
            tracing::error!(why, "discovery of the issuer of service-account tokens is not served");
            return None;
        }
        let own = || format!("{}/openid/v1/jwks", server_url.trim_end_matches('/'));
        let algorithms: BTreeSet<&str> = tokens.config().keys.iter().map(PublicKey::algorithm).map(|algorithm| algorithm.name()).collect();
        let configuration = json!({
            "issuer": tokens.issuer(), "jwks_uri": jwks_uri.map_or_else(own, str::to_owned), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms,
        });
        Some(Self { configuration: configuration.to_string(), keys: tokens.jwks().to_string() })
    }

    pub fn routes(self) -> Router {
        // Slashes at the end change nothing.
        let of = |path: &str| ["", "/", "/{*slashes}"].map(|end| format!("{path}{end}"));
        let paths = [of("/.well-known/openid-configuration"), of("/openid/v1/jwks")].concat();
        non_resource_routes(&paths, move |request| ready(self.reply(&request)))
    }

    fn reply(&self, request: &Parts) -> Option<Response> {
        let (typ, body) = match request.uri.path().trim_end_matches('/') {
            "/openid/v1/jwks" => ("application/jwk-set+json", &self.keys),
            "/.well-known/openid-configuration" => ("application/json", &self.configuration),
            _ => return None,
        };
        if let Some(refusal) = unacceptable(request, &[typ]) {
            return Some(refusal);
        }
        let mut response = Response::new(full(body.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(typ));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }
}

/// What OpenID asks of an issuer's name.
fn issuer_error(issuer: &str) -> Result<(), String> {
    if issuer.is_empty() {
        return Err("empty issuer URL".into());
    }
    let parsed = issuer.parse::<Uri>().ok();
    if parsed.is_none_or(|uri| uri.scheme_str() != Some("https")) {
        return Err(format!("issuer URL must use https scheme, got: {issuer}"));
    }
    match () {
        () if issuer.contains('#') => Err(format!("issuer URL may not include a fragment, got: {issuer}")),
        () if issuer.contains('?') => Err(format!("issuer URL may not include a query, got: {issuer}")),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, StatusCode};

    use super::{OpenId, issuer_error};

    #[test]
    fn keys_are_given_as_keys_alone() {
        let openid = OpenId { configuration: "{}".into(), keys: "{}".into() };
        let code = |path: &str, accept: &str| {
            let (parts, ()) = Request::get(path).header("accept", accept).body(()).unwrap().into_parts();
            openid.reply(&parts).map(|response| response.status())
        };
        let (keys, configuration) = ("/openid/v1/jwks", "/.well-known/openid-configuration");
        assert_eq!(
            [code(keys, "application/json"), code(configuration, "application/json")],
            [Some(StatusCode::NOT_ACCEPTABLE), Some(StatusCode::OK)]
        );
        assert_eq!([code(keys, "*/*"), code(keys, "application/jwk-set+json")], [Some(StatusCode::OK); 2]);
    }

    #[test]
    fn an_issuer_is_a_url_of_https() {
        assert_eq!(issuer_error("https://kubernetes.default.svc.cluster.local"), Ok(()));
        for bad in ["", "api", "http://x", "kubernetes/serviceaccount", "https://x?y=z", "https://x#y"] {
            assert!(issuer_error(bad).is_err(), "{bad}");
        }
    }
}
