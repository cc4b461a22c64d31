//! A request and its reply -> the stages that its auditor is told of.

use std::sync::Arc;

use api::Status;
use http::{header, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Shared, access::Access, auth, info::RequestInfo};
use crate::{
    audit::{Audit, Ended},
    body::{Response, full},
    fairness::hold,
    identity::User,
    wire::Told,
};

/// Of an object that is answered: an object has 3 MiB at most.
const TOLD_BYTES_MAX: u64 = 8 << 20;

/// What is told of a request by the user who sent it; its begin is told.
///
/// # Errors
/// 500 where that must be told and cannot be.
pub(super) async fn begun(
    front: &Shared,
    access: &Access,
    info: &RequestInfo,
    parts: &Parts,
    user: &Arc<User>,
) -> Result<Option<Arc<Audit>>, Status> {
    let Some(auditor) = &front.auditor else { return Ok(None) };
    let Some(audit) = auditor.begin(&auth::attributes(info, user), parts, user, &access.id()) else { return Ok(None) };
    let audit = Arc::new(audit.running_long(info.is_long_running()));
    // First: a request that is refused for its own event ends as refused, and not as one that nobody waited for.
    access.audited(&audit);
    audit.received().await?;
    Ok(Some(audit))
}

/// A request of nobody: its refusal alone is told (`WithFailedAuthenticationAudit`).
pub(super) async fn unauthenticated(front: &Shared, access: &Access, info: &RequestInfo, parts: &Parts, refusal: &Status) {
    if refusal.code != 401 {
        // It took too long.
        return refused(front, access, info, parts, refusal).await;
    }
    let attempted = if parts.headers.contains_key(header::AUTHORIZATION) { "bearer" } else { "" };
    let message = format!("Authentication failed, attempted: {attempted}");
    tell(front, access, info, parts, 401, &json!({"status": "Failure", "reason": "Unauthorized", "message": message})).await;
}

/// What is refused before anybody asks who sent it (`withFailedRequestAudit`).
pub(super) async fn refused(front: &Shared, access: &Access, info: &RequestInfo, parts: &Parts, refusal: &Status) {
    tell(front, access, info, parts, refusal.code, &json!({"message": refusal.message})).await;
}

async fn tell(front: &Shared, access: &Access, info: &RequestInfo, parts: &Parts, code: u16, status: &Value) {
    let (Some(auditor), nobody) = (&front.auditor, Arc::new(User::default())) else { return };
    let Some(audit) = auditor.begin(&auth::attributes(info, &nobody), parts, &nobody, &access.id()) else { return };
    audit.started(&Ended { code, status: Some(status), object: None }).await;
}

/// Tells of the end, or of the head of what goes on.
pub(super) async fn ended(audit: &Arc<Audit>, response: Response, panicked: bool) -> Response {
    let code = response.status().as_u16();
    let told = response.extensions().get::<Told>().map(|Told(status)| status.clone());
    let status = told.as_deref();
    if panicked {
        audit.panicked(&Ended { code, status, object: None }).await;
        return response;
    }
    if audit.is_long_running() {
        audit.started(&Ended { code, status, object: None }).await;
        return hold(response, AtItsEnd { audit: audit.clone(), code, status: told });
    }
    let (response, object) = if audit.wants_response() { read(response).await } else { (response, None) };
    audit.complete(&Ended { code, status, object: object.as_deref() }).await;
    response
}

/// The reply's JSON, which stays in it. (What is answered as YAML or protobuf, in pieces, or is too large, is not told.)
async fn read(response: Response) -> (Response, Option<bytes::Bytes>) {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    // More is not told: all of it would be held at once.
    let is_small = response.body().size_hint().upper().is_some_and(|bytes| bytes <= TOLD_BYTES_MAX);
    if !is_json || !is_small {
        return (response, None);
    }
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(read) => {
            let bytes = read.to_bytes();
            (Response::from_parts(parts, full(bytes.clone())), Some(bytes))
        }
        Err(error) => {
            tracing::warn!(%error, "reply could not be read for its audit event");
            (super::wire::refusal(&Status::internal("the reply could not be made")), None)
        }
    }
}

/// Tells of the end of a stream when it is dropped.
struct AtItsEnd {
    audit: Arc<Audit>,
    code: u16,
    status: Option<Arc<Value>>,
}

impl Drop for AtItsEnd {
    fn drop(&mut self) {
        self.audit.complete_now(&Ended { code: self.code, status: self.status.as_deref(), object: None });
    }
}
