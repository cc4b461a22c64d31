//! A request -> its audit id, and a line of the log when it is answered, in a span of its own: at `debug`, and free where that is off.
//!
//! Sources: apiserver `pkg/endpoints/filters/audit_init.go`, `pkg/server/httplog/httplog.go`. Not tower-http's layers: its request ids would be
//! sent on to nodes and pods as a header, its tracing boxes each body once more.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tracing::{Level, Span};
use uuid::{Builder, fmt::Hyphenated};

use super::info::RequestInfo;
use crate::{
    audit::Audit,
    body::{Request, Response},
    fairness::Classification,
    identity::{Peer, User},
};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// `ResponseHeaderMatchedPriorityLevelConfigurationUID` and `ResponseHeaderMatchedFlowSchemaUID`
const UIDS: [HeaderName; 2] =
    [HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"), HeaderName::from_static("x-kubernetes-pf-flowschema-uid")];
/// Of an audit id in the log (upstream: `maxAuditIDLength`).
const TOLD_BYTES_MAX: usize = 64;

pub(super) struct Access {
    /// The sender's, or one that is made here.
    id: HeaderValue,
    /// What is told of it to auditors, once it is known who asks.
    audit: OnceLock<Arc<Audit>>,
    /// The uids of its level and flow schema, once they are known.
    uids: OnceLock<[HeaderValue; 2]>,
    /// Where it is told.
    line: Option<Box<Line>>,
}

struct Line {
    began: Instant,
    method: Method,
    /// Without the query, which may have a token in it.
    path: String,
    agent: Option<HeaderValue>,
    source: Option<SocketAddr>,
    /// The request, once it could be read.
    info: OnceLock<Arc<RequestInfo>>,
    /// Who is served, once that is known.
    user: OnceLock<String>,
}

impl Access {
    pub fn of(request: &Request) -> Self {
        let headers = request.headers();
        let id = headers.get(AUDIT_ID).filter(|id| !id.is_empty()).cloned().unwrap_or_else(new_id);
        let line = tracing::enabled!(Level::DEBUG).then(|| {
            Box::new(Line {
                began: Instant::now(),
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                agent: headers.get(header::USER_AGENT).cloned(),
                source: request.extensions().get::<Peer>().and_then(|peer| peer.address),
                info: OnceLock::new(),
                user: OnceLock::new(),
            })
        });
        Self { id, audit: OnceLock::new(), uids: OnceLock::new(), line }
    }

    /// What is done for the request belongs to it.
    pub fn span(&self) -> Span {
        let Some(line) = &self.line else { return Span::none() };
        tracing::debug_span!("request", audit_id = self.told(), method = %line.method, path = line.path)
    }

    pub fn asks(&self, info: &Arc<RequestInfo>) {
        if let Some(line) = &self.line {
            line.info.get_or_init(|| info.clone());
        }
    }

    pub fn audited(&self, audit: &Arc<Audit>) {
        self.audit.get_or_init(|| audit.clone());
    }

    pub fn audit(&self) -> Option<&Arc<Audit>> {
        self.audit.get()
    }

    /// The audit id.
    pub fn id(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.id.as_bytes())
    }

    pub fn is_of(&self, user: &User) {
        if let Some(line) = &self.line {
            line.user.get_or_init(|| user.name.clone());
        }
    }

    /// What the reply says of it.
    pub fn is_classified(&self, class: &Classification) {
        self.uids.get_or_init(|| class.uids().map(Clone::clone));
    }

    /// Says the request's id in the reply, and tells of both. (Of a stream: when it begins.)
    pub fn answered(self, response: &mut Response) {
        if let Some(line) = &self.line {
            let verb = line.info.get().map_or("", |info| info.verb.as_str());
            let (method, path) = (&line.method, line.path.as_str());
            let (user, code) = (line.user.get().map_or("", String::as_str), response.status().as_u16());
            let (elapsed, agent, source) = (line.began.elapsed(), &line.agent, &line.source);
            tracing::debug!(verb, %method, path, user, code, ?elapsed, ?agent, ?source, audit_id = self.told(), "HTTP");
        }
        // Of what is a tunnel from here on, the other end has the word.
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().entry(AUDIT_ID).or_insert(self.id);
            for (name, uid) in UIDS.into_iter().zip(self.uids.into_inner().into_iter().flatten()) {
                response.headers_mut().insert(name, uid);
            }
        }
    }

    fn told(&self) -> &str {
        let id = self.id.to_str().unwrap_or_default();
        id.get(..id.len().min(TOLD_BYTES_MAX)).unwrap_or_default()
    }
}

fn new_id() -> HeaderValue {
    // Not `new_v4`, which asks the kernel each time.
    let id = Builder::from_random_bytes(rand::random()).into_uuid();
    let mut text = [0; Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    let mut id = HeaderValue::from_str(text).expect("hexadecimal digits are fit for a header");
    // HTTP/2 would keep it, for the next reply, in a table that is for what comes again.
    id.set_sensitive(true);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{empty, full};

    fn answered(audit_id: Option<&str>, status: u16) -> Option<String> {
        let mut request = Request::new(empty());
        if let Some(id) = audit_id {
            request.headers_mut().insert(AUDIT_ID, id.parse().unwrap());
        }
        let mut response = Response::new(full("x"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Access::of(&request).answered(&mut response);
        response.headers().get(AUDIT_ID).map(|id| id.to_str().unwrap().to_owned())
    }

    #[test]
    fn an_id_is_the_senders_or_a_new_one() {
        let long = "x".repeat(1000);
        for given in ["a", "12345678-aaaa", long.as_str()] {
            assert_eq!(answered(Some(given), 200).as_deref(), Some(given));
        }
        let made: std::collections::HashSet<String> = [None, None, Some(""), Some("")].map(|id| answered(id, 404).unwrap()).into();
        assert_eq!(made.len(), 4);
        assert!(made.iter().all(|id| id.len() == 36 && id.as_bytes()[14] == b'4'), "{made:?}");
        assert_eq!(answered(None, 101), None);
    }

    #[test]
    fn the_proxied_replys_own_id_stays() {
        let mut response = Response::new(empty());
        response.headers_mut().insert(AUDIT_ID, HeaderValue::from_static("theirs"));
        Access::of(&Request::new(empty())).answered(&mut response);
        assert_eq!(response.headers()[AUDIT_ID], "theirs");
    }
}
