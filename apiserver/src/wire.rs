//! The few replies that everybody makes.

use std::sync::Arc;

use api::Status;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use crate::body::{Body, Response, empty, full};

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

/// 204.
pub fn nothing() -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// What upstream answers to a path that nobody serves.
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// How JSON is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    OneLine,
    Indented,
}

/// What upstream's router (go-restful) refuses itself; its details are empty.
pub(crate) fn of_router(code: u16, reason: &'static str, message: &str, layout: Layout) -> Response {
    let status = Status::new(code, reason, message);
    let mut body = status.body();
    let code_at_end = body.as_object_mut().and_then(|body| body.shift_remove("code"));
    body["details"] = Value::Object(serde_json::Map::new());
    body["code"] = code_at_end.unwrap_or_default();
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reply = match layout {
        Layout::OneLine => json(code, &body),
        Layout::Indented => reply(code, "application/json", full(serde_json::to_string_pretty(&body).unwrap_or_default())),
    };
    told(reply, &status, body)
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
