//! What every worker needs; shared by all.

use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Service};
use client::{Cache, Recorder, kube::Client};
use cri::Runtime;

use super::{images::Images, start_limiter::StartLimiter};
use crate::{NodeContext, cgroups, metrics::Metrics, volumes};

pub struct Deps {
    pub runtime: Runtime,
    pub node: Arc<NodeContext>,
    pub client: Client,
    pub recorder: Recorder,
    pub volumes: volumes::Manager,
    pub cgroups: cgroups::Manager,
    pub images: Images,
    pub services: Cache<Service>,
    pub nodes: Cache<Node>,
    pub metrics: Metrics,
    pub start_limiter: StartLimiter,
}
