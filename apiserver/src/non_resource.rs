//! Paths that are about no resource: health, version, metrics, discovery, OpenAPI. Each is a handler; the front door asks them in turn.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;

use crate::{body::Response, engine::Engine, identity::User};

/// Serves some of the non-resource paths. Asked after authentication and authorization (`nonResourceURLs`), in the order of
/// [`Builder::mount`](crate::front::Builder::mount). `request.uri.path()` is the path as sent.
#[async_trait]
pub trait NonResourceHandler: Send + Sync {
    /// `None`: the path is not of this handler.
    async fn serve(&self, engine: &Arc<Engine>, request: &Parts, user: &User) -> Option<Response>;
}
