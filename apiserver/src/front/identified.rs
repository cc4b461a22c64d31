//! A request -> the user that it runs as, in the time that it may take. Source: apiserver `DefaultBuildHandlerChain` (`pkg/server/config.go`): the
//! deadline is set before anybody is asked who sends it.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use api::{Status, time::go_duration};
use http::request::Parts;
use tokio::time::Instant;

use super::{Shared, access::Access, audited, auth, impersonate, info::RequestInfo, query::Query};
use crate::{audit::Audit, identity::User, metrics::Metrics};

/// When a request began, and how long it may take.
#[derive(Clone, Copy)]
pub(super) struct Allotted {
    pub began: Instant,
    pub lasts: Duration,
    /// Watches and streams go on.
    is_long: bool,
}

/// Who sends it is known, and may be who it runs as.
pub(super) struct Identified {
    pub user: Arc<User>,
    pub audit: Option<Arc<Audit>>,
}

impl Allotted {
    /// Of a request that begins now: as long as it says itself (`WithRequestDeadline`), and never longer than the server has it.
    ///
    /// # Errors
    /// 400 where it says no duration.
    pub fn of(info: &RequestInfo, query: &Query, max: Duration) -> Result<Self, Status> {
        let is_long = info.is_long_running();
        Ok(Self { began: Instant::now(), lasts: if is_long { max } else { asked(query, max)? }, is_long })
    }

    /// `work` stays where it is: what a request does is kilobytes large, and each of these would move it twice.
    ///
    /// # Errors
    /// Its own, or 504 when the time is over.
    pub async fn bounds<T>(self, work: Pin<&mut impl Future<Output = Result<T, Status>>>) -> Result<T, Status> {
        if self.is_long {
            return work.await;
        }
        // Not tower-http's layer: it knows nothing of streams, and answers 408 without a body.
        let done = tokio::time::timeout_at(self.began + self.lasts, work).await;
        done.unwrap_or_else(|_| Err(Status::timeout("Timeout: request did not complete within the allotted timeout")))
    }
}

fn asked(query: &Query, max: Duration) -> Result<Duration, Status> {
    let text = query.get("timeout");
    if text.is_empty() {
        return Ok(max);
    }
    let nanos = go_duration(text).map_err(|why| Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))?;
    let asked = u64::try_from(nanos).map_or(Duration::ZERO, Duration::from_nanos);
    Ok(if asked.is_zero() { max } else { asked.min(max) })
}

/// Authenticates, tells the auditor, and lets the sender be somebody else.
///
/// # Errors
/// 401, 403, 504, and 500 where its begin must be told and cannot be.
pub(super) async fn identified(
    front: &Shared,
    access: &Access,
    info: &RequestInfo,
    parts: &mut Parts,
    allotted: Allotted,
) -> Result<Identified, Status> {
    let arrived = Instant::now();
    let authenticated = allotted.bounds(pin!(auth::authenticate(&front.engine, parts))).await;
    Metrics::authenticated(authenticated.as_ref().ok().map(|user| user.name.as_str()), arrived.elapsed());
    let sender = match authenticated {
        Ok(user) => user,
        Err(status) => {
            audited::unauthenticated(front, access, info, parts, &status).await;
            return Err(status);
        }
    };
    auth::forget(&mut parts.headers, front.delegations.believed().as_deref());
    let audit = audited::begun(front, access, info, parts, &sender).await?;
    let acting = allotted.bounds(pin!(impersonate::acting(&front.engine, info, &parts.headers, &sender))).await?;
    let user = match acting {
        None => sender,
        Some(acting) => {
            if let Some(audit) = &audit {
                audit.impersonates(&acting.user, acting.constraint);
            }
            acting.user
        }
    };
    access.is_of(&user);
    Ok(Identified { user, audit })
}
