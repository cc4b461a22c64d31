//! What health checks came to -> `/metrics/slis`.
//!
//! Source: component-base `metrics/prometheus/slis` (KEP-3466). A check is counted each time that somebody asks for it, as upstream does.

use std::{collections::BTreeMap, fmt::Write, future::ready};

use http::StatusCode;
use parking_lot::Mutex;

use crate::{
    body::full,
    metrics::head,
    non_resource::{Router, non_resource_routes},
    wire,
};

/// By check and endpoint: what it came to last, and how often it was good and bad. Bounded by the checks that the code names.
static CHECKS: Mutex<BTreeMap<(String, &'static str), Counts>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy, Default)]
struct Counts {
    is_good: bool,
    good: u64,
    bad: u64,
}

pub(super) fn told(name: &str, endpoint: &str, is_good: bool) {
    let Some(endpoint) = super::ENDPOINTS.into_iter().find(|known| *known == endpoint) else { return };
    let mut checks = CHECKS.lock();
    let counts = checks.entry((name.to_owned(), endpoint)).or_default();
    counts.is_good = is_good;
    *(if is_good { &mut counts.good } else { &mut counts.bad }) += 1;
}

/// Serves `/metrics/slis`.
pub fn routes() -> Router {
    non_resource_routes(&["/metrics/slis"], |_| ready(Some(wire::reply(StatusCode::OK, crate::metrics::TEXT, full(text())))))
}

fn text() -> String {
    let (mut out, checks) = (String::new(), CHECKS.lock());
    head(&mut out, "kubernetes_healthcheck", "gauge", "[STABLE] This metric records the result of a single healthcheck.");
    for ((name, endpoint), counts) in &*checks {
        // Writing to a string does not fail, here and below.
        let _ = writeln!(out, "kubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint}\"}} {}", u8::from(counts.is_good));
    }
    head(&mut out, "kubernetes_healthchecks_total", "counter", "[STABLE] This metric records the results of all healthcheck.");
    for ((name, endpoint), counts) in &*checks {
        for (status, count) in [("error", counts.bad), ("success", counts.good)].into_iter().filter(|(_, count)| *count > 0) {
            let _ = writeln!(out, "kubernetes_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"{endpoint}\"}} {count}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted_by_what_they_came_to() {
        for is_good in [true, false, false] {
            told("slis-test", "livez", is_good);
        }
        told("slis-test", "elsewhere", true);
        let text = text();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("slis-test")).collect();
        let wanted = [
            "kubernetes_healthcheck{name=\"slis-test\",type=\"livez\"} 0",
            "kubernetes_healthchecks_total{name=\"slis-test\",status=\"error\",type=\"livez\"} 2",
            "kubernetes_healthchecks_total{name=\"slis-test\",status=\"success\",type=\"livez\"} 1",
        ];
        assert_eq!(lines, wanted);
    }
}
