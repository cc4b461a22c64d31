//! A node's agent that offers its connection -> the tunnel of that node, and of no other.
//!
//! Ours: upstream's is konnectivity, a program of its own at both ends.

use std::{future::ready, sync::Arc};

use api::{Status, task::Group, tunnel::PATH};
use apiserver::{
    body::Response,
    connect::Agents,
    front::user_of,
    non_resource::{Router, non_resource_routes},
    wire,
};
use http::request::Parts;

use crate::auth::node::node_name;

/// Serves [`PATH`]. Tunnels live in `group`, and `agents` are called through them.
pub fn routes(agents: &Arc<Agents>, group: &Group) -> Router {
    let (agents, group) = (agents.clone(), group.clone());
    non_resource_routes(&[format!("{PATH}{{node}}")], move |request| ready(Some(answer(&agents, &group, request))))
}

fn answer(agents: &Arc<Agents>, group: &Group, request: Parts) -> Response {
    let accepted = own(&request).and_then(|node| agents.tunnels().accept(&node, request, group));
    accepted.unwrap_or_else(|status| wire::refusal(&status))
}

/// The node that is asked for, if it is the one that asks. Roles may let others pass the authorizer: a tunnel is no right that one could give away.
fn own(request: &Parts) -> Result<String, Status> {
    let of = request.uri.path().strip_prefix(PATH).unwrap_or_default();
    match user_of(request).and_then(node_name) {
        Some(own) if own == of && !own.is_empty() => Ok(own.to_owned()),
        _ => Err(Status::new(403, "Forbidden", format!("forbidden: only node {of:?} itself opens its tunnel"))),
    }
}
