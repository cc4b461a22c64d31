//! Text, JSON or a stream -> the response that carries it.

use std::io;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::StreamBody;

pub type Body = axum::body::Body;
pub type Request = http::Request<Body>;
pub type Reply = Response<Body>;

/// Plain text, as upstream's kubelet answers most things.
pub fn text(code: StatusCode, message: impl Into<String>) -> Reply {
    whole(code, "text/plain; charset=utf-8", message.into().into_bytes())
}

pub fn json(text: String) -> Reply {
    whole(StatusCode::OK, "application/json", text.into_bytes())
}

/// Prometheus' text form.
pub fn exposition(text: String) -> Reply {
    whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

/// Chunks as they come.
pub fn stream(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Reply {
    let body = StreamBody::new(chunks.map_ok(Frame::data));
    with_type(Response::new(Body::new(body)), "text/plain; charset=utf-8")
}

/// No body at all.
pub fn empty() -> Body {
    bytes_body(Bytes::new())
}

pub fn bytes_body(bytes: Bytes) -> Body {
    Body::from(bytes)
}

fn whole(code: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Reply {
    let mut reply = Response::new(bytes_body(bytes.into()));
    *reply.status_mut() = code;
    with_type(reply, content_type)
}

fn with_type(mut reply: Reply, content_type: &'static str) -> Reply {
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
