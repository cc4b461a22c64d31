//! Who waits and who is served, as tables: `/debug/api_priority_and_fairness/`. Source: apiserver `pkg/util/flowcontrol/apf_controller_debug.go`.

use std::{future::ready, sync::Arc};

use http::StatusCode;

use super::query::Query;
use crate::{
    body::full,
    fairness::Fairness,
    non_resource::{Router, non_resource_routes},
    wire,
};

const PATHS: [&str; 3] = ["dump_priority_levels", "dump_queues", "dump_requests"];

/// None where the server is first come, first served: upstream has no such paths then.
pub(super) fn routes(fairness: &Arc<Fairness>) -> Router {
    if !fairness.is_fair() {
        return Router::new();
    }
    let (fairness, paths) = (fairness.clone(), PATHS.map(|path| format!("/debug/api_priority_and_fairness/{path}")));
    non_resource_routes(&paths, move |parts| {
        let details = !Query::parse(parts.uri.query()).get("includeRequestDetails").is_empty();
        let table = match parts.uri.path().rsplit('/').next() {
            Some("dump_priority_levels") => fairness.dump_priority_levels(),
            Some("dump_queues") => fairness.dump_queues(),
            _ => fairness.dump_requests(details),
        };
        ready(Some(wire::reply(StatusCode::OK, "text/plain; charset=utf-8", full(table))))
    })
}
