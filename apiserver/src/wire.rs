//! The few replies that everybody makes.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::body::{Body, Response, full};

/// The Status that a reply is, in its extensions: for who tells of it.
#[derive(Clone)]
pub(crate) struct Told(pub Arc<Value>);

pub fn reply(code: StatusCode, media_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

pub fn json(code: StatusCode, value: &Value) -> Response {
    reply(code, "application/json", full(format!("{value}\n")))
}

pub fn text(code: StatusCode, words: impl Into<Bytes>) -> Response {
    let mut response = reply(code, "text/plain; charset=utf-8", full(words));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What upstream answers to a path that nobody serves.
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// What upstream's router (go-restful) answers where a path has nothing of what is accepted.
pub fn unroutable(served: &[&str]) -> Response {
    let status = Status::new(406, "NotAcceptable", format!("406: Not Acceptable\n\nAvailable representations: {}", served.join(", ")));
    let mut body = status.body();
    body["details"] = Value::Object(serde_json::Map::new());
    told(json(StatusCode::NOT_ACCEPTABLE, &body), &status, body)
}

/// The reply to a failed request: the `metav1.Status` as JSON, with `Retry-After` where it says so.
pub fn refusal(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = status.body();
    told(json(code, &body), status, body)
}

/// The reply to a failed request, in whatever syntax: `body` is what it says.
pub fn told(mut response: Response, status: &Status, body: Value) -> Response {
    response.extensions_mut().insert(Told(Arc::new(body)));
    if let Some(seconds) = status.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
