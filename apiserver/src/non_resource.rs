//! Paths that are about no resource -> routes of the front: health, version, metrics, discovery, OpenAPI.

use std::convert::Infallible;

use http::request::Parts;
use tower::service_fn;

pub use axum::Router;

use crate::{
    body::{Request, Response},
    front::{negotiate, query::Query},
    wire,
};

/// Routes to one handler, for [`Builder::mount`](crate::front::Builder::mount). `paths` are axum's: `/healthz/{*check}`.
///
/// `serve` gets what was authenticated and authorized (`nonResourceURLs`), its path as sent. It answers for all methods; `None` is upstream's
/// 404, in plain text. (axum's own method routes have an empty 405, and put a `content-length` into each reply that has no body.)
pub fn non_resource_routes<F, R>(paths: &[impl AsRef<str>], serve: F) -> Router
where
    F: Fn(Parts) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Option<Response>> + Send + 'static,
{
    let service = service_fn(move |request: Request| {
        let served = serve(request.into_parts().0);
        async move { Ok::<_, Infallible>(served.await.unwrap_or_else(wire::not_found)) }
    });
    paths.iter().fold(Router::new(), |router, path| router.route_service(path.as_ref(), service.clone()))
}

/// What upstream's router answers where a route gives these media types, and none of them is accepted.
pub fn unacceptable(request: &Parts, gives: &[&str]) -> Option<Response> {
    negotiate::unacceptable(&request.headers, &Query::parse(request.uri.query()), gives)
}
