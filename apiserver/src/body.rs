//! Bodies of requests and replies -> one type, whatever the transport.

use bytes::Bytes;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every request that enters and of every reply that leaves the service: axum's own, so that routes box nothing a second time.
pub type Body = axum::body::Body;
/// What may go wrong with one.
pub type BodyError = axum::Error;
pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// Boxes any body of bytes; one that is boxed stays as it is.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Body::new(body)
}

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Body::from(bytes.into())
}

pub fn empty() -> Body {
    full(Bytes::new())
}
