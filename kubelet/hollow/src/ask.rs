//! Method, path, body -> the API server's answer, whatever its code.

use std::time::Duration;

use bytes::Bytes;
use client::kube::{Client, client::Body};
use http::{Method, Request, Response};
use http_body_util::BodyExt;

/// A request that is not answered by then has failed.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

pub const JSON: &str = "application/json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Bytes,
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub content: &'static str,
    pub body: Vec<u8>,
}

/// # Errors
/// No answer, in words: nothing is known of the outcome.
pub async fn ask(client: Client, request: Ask) -> Result<Answer, String> {
    let exchange = async {
        let (parts, body) = begin(&client, request).await?.into_parts();
        let body = body.collect().await.map_err(|e| words(&e))?.to_bytes();
        Ok(Answer { code: parts.status.as_u16(), body })
    };
    tokio::time::timeout(ANSWER_BOUND, exchange).await.map_err(|_| "no answer in time".to_owned())?
}

/// Resolves with the head of the answer: for watches.
///
/// # Errors
/// No answer, in words.
pub async fn begin(client: &Client, request: Ask) -> Result<Response<Body>, String> {
    let built = Request::builder().method(request.method).uri(request.path).header("accept", JSON).header("content-type", request.content);
    let built = built.body(Body::from(request.body)).map_err(|e| e.to_string())?;
    let answer = tokio::time::timeout(ANSWER_BOUND, client.send(built)).await;
    answer.map_err(|_| "no answer in time".to_owned())?.map_err(|e| words(&e))
}

/// An error with its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}
