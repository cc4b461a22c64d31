//! A connect request -> the node or pod it leads to.

use std::sync::Arc;

use api::Status;

use crate::{
    body::{Request, Response},
    engine::Engine,
    kind::Target,
    wire,
};

/// Sends `request` on to `target` and brings the reply back, upgrades and all.
pub async fn forward(_engine: &Arc<Engine>, _target: Target, _request: Request) -> Response {
    wire::refusal(&Status::unavailable("streaming to nodes is not served yet"))
}
