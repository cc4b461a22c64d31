//! The token signer -> OpenID discovery, so that others can verify our tokens (`pkg/serviceaccount/openidmetadata.go`).

use std::{future::ready, sync::Arc};

use apiserver::{
    body::{Response, full},
    non_resource::{Router, non_resource_routes},
};
use http::{HeaderValue, header, request::Parts};
use serde_json::json;

use super::tokens::Tokens;

/// Serves `/.well-known/openid-configuration` and `/openid/v1/jwks`.
#[derive(Clone)]
pub struct OpenId {
    tokens: Arc<Tokens>,
    jwks_uri: String,
}

impl OpenId {
    /// `server_url` is how the API server is reached from outside: `https://10.0.0.1:6443`.
    pub fn new(tokens: &Arc<Tokens>, server_url: &str) -> Self {
        Self { tokens: tokens.clone(), jwks_uri: format!("{}/openid/v1/jwks", server_url.trim_end_matches('/')) }
    }

    pub fn routes(self) -> Router {
        // Slashes at the end change nothing.
        let of = |path: &str| ["", "/", "/{*slashes}"].map(|end| format!("{path}{end}"));
        let paths = [of("/.well-known/openid-configuration"), of("/openid/v1/jwks")].concat();
        non_resource_routes(&paths, move |request| ready(self.reply(&request)))
    }

    fn reply(&self, request: &Parts) -> Option<Response> {
        let (typ, body) = match request.uri.path().trim_end_matches('/') {
            "/openid/v1/jwks" => ("application/jwk-set+json", self.tokens.jwks()),
            "/.well-known/openid-configuration" => {
                let body = json!({
                    "issuer": self.tokens.issuer(), "jwks_uri": self.jwks_uri, "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
                });
                ("application/json", body)
            }
            _ => return None,
        };
        let mut response = Response::new(full(body.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(typ));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        Some(response)
    }
}
