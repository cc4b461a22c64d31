//! A gRPC server -> whether it says that it serves (`grpc.health.v1.Health/Check`).
//!
//! One request whose messages have one field each: written by hand. Upstream: `pkg/probe/grpc/grpc.go`.

use std::time::Duration;

use api::k8s::api::core::v1::GRPCAction;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http as plain;

/// Upstream's words for its three ways to fail.
const NOT_SERVING: &str = "service unhealthy (responded with \"NOT_SERVING\")";
const SERVING: u8 = 1;
/// A health answer has two bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// `Ok` where the service serves. Ends within `limit`.
pub async fn check(host: &str, action: &GRPCAction, limit: Duration) -> Result<(), String> {
    let address = format!("{host}:{}", action.port);
    let asked = tokio::time::timeout(limit, Box::pin(ask(host, action))).await;
    asked.unwrap_or_else(|_| Err(format!("timeout: failed to connect service \"{address}\" within {limit:?}: context deadline exceeded")))
}

async fn ask(host: &str, action: &GRPCAction) -> Result<(), String> {
    let port = u16::try_from(action.port).map_err(|e| e.to_string())?;
    let failed = |e: hyper::Error| format!("error: health rpc probe failed: {e}");
    let stream = plain::connect(host, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let request = http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message(action.service.as_deref().unwrap_or_default())))
        .map_err(|e| e.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let headers = response.headers().clone();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = trailers.get("grpc-status").or_else(|| headers.get("grpc-status"));
        verdict(code.and_then(|c| c.to_str().ok()), &body.to_bytes())
    };
    // The connection moves only while it is polled.
    tokio::pin!(answered, connection);
    tokio::select! {
        biased;
        verdict = &mut answered => verdict,
        ended = &mut connection => Err(ended.err().map_or_else(|| "error: health rpc probe failed: connection closed".into(), failed)),
    }
}

/// `HealthCheckRequest { service }` with gRPC's five bytes before it.
fn message(service: &str) -> Bytes {
    let mut field = Vec::new();
    // Lengths below 128 are one byte; a longer service name takes two.
    if let (false, Ok(length)) = (service.is_empty(), u16::try_from(service.len())) {
        field.push(0x0a);
        let (low, high) = ((length & 0x7f) as u8, (length >> 7) as u8);
        if high == 0 {
            field.push(low)
        } else {
            field.extend([low | 0x80, high])
        }
        field.extend(service.as_bytes());
    }
    let length = u32::try_from(field.len()).unwrap_or(0);
    [&[0][..], &length.to_be_bytes(), &field].concat().into()
}

fn verdict(code: Option<&str>, body: &[u8]) -> Result<(), String> {
    match code {
        Some("0") | None => {}
        Some("12") => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        Some(code) => return Err(format!("error: health rpc probe failed: rpc error: code = {code}")),
    }
    match body.get(5..) {
        Some([0x08, SERVING]) => Ok(()),
        _ => Err(NOT_SERVING.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_verdicts() {
        assert_eq!(&message("")[..], [0; 5]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(200));
        assert_eq!(long[5..8], [0x0a, 0xc8, 0x01]);
        assert!(verdict(Some("0"), &[0, 0, 0, 0, 2, 8, 1]).is_ok());
        assert!(verdict(Some("0"), &[0, 0, 0, 0, 2, 8, 2]).is_err());
        assert!(verdict(Some("12"), &[]).is_err());
        assert!(verdict(Some("0"), &[]).is_err());
    }
}
