//! What our rooms ask of the API server -> `rest_client_*` on the page of metrics.
//!
//! Source: client-go `rest/request.go` (`updateRequestResultMetric`), component-base `metrics/prometheus/restclient`.

use std::time::Instant;

use api::metrics::Family;
use http::{Method, Request, StatusCode, Uri};

/// Seconds.
const BUCKETS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

static TOOK: Family = Family::times(
    "rest_client_request_duration_seconds",
    "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
    &["verb", "host"],
    BUCKETS,
);
static REQUESTS: Family = Family::counter(
    "rest_client_requests_total",
    "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.",
    &["code", "method", "host"],
);
static RETRIES: Family = Family::counter(
    "rest_client_request_retries_total",
    "[ALPHA] Number of request retries, partitioned by status code, verb, and host.",
    &["code", "verb", "host"],
);

/// One request under way.
pub(crate) struct Asked {
    method: Method,
    uri: Uri,
    began: Instant,
}

impl Asked {
    pub fn new<B>(request: &Request<B>) -> Self {
        Self { method: request.method().clone(), uri: request.uri().clone(), began: Instant::now() }
    }

    /// With that status, or without an answer.
    pub fn ended(&self, status: Option<StatusCode>) {
        let (method, host) = (self.method.as_str(), host_of(&self.uri));
        TOOK.took(&[method, host], self.began.elapsed());
        REQUESTS.count(&[status.as_ref().map_or("<error>", StatusCode::as_str), method, host]);
    }
}

/// A request is sent again for that answer.
pub(crate) fn repeated(status: StatusCode, method: &Method, uri: &Uri) {
    RETRIES.count(&[status.as_str(), method.as_str(), host_of(uri)]);
}

/// Requests within the process name none.
fn host_of(uri: &Uri) -> &str {
    uri.authority().map_or("localhost", |authority| authority.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let request = Request::get("https://told.test:6443/api/v1/pods").body(()).unwrap();
        Asked::new(&request).ended(Some(StatusCode::OK));
        Asked::new(&request).ended(None);
        repeated(StatusCode::TOO_MANY_REQUESTS, request.method(), request.uri());
        let mut page = String::new();
        api::metrics::text("rest_client_", &mut page);
        for line in [
            "rest_client_requests_total{code=\"200\",method=\"GET\",host=\"told.test:6443\"} 1",
            "rest_client_requests_total{code=\"<error>\",method=\"GET\",host=\"told.test:6443\"} 1",
            "rest_client_request_duration_seconds_count{verb=\"GET\",host=\"told.test:6443\"} 2",
            "rest_client_request_retries_total{code=\"429\",verb=\"GET\",host=\"told.test:6443\"} 1",
        ] {
            assert!(page.lines().any(|one| one == line), "{line}\n{page}");
        }
    }
}
