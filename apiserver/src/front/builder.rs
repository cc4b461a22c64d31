//! An engine, and what is served beside it -> the front.

use std::sync::Arc;

use axum::Router;
use tower::service_fn;

use super::{Front, Shared, Timeouts, debug, tree};
use crate::{
    audit::Auditor,
    connect::Agents,
    engine::Engine,
    fairness::{Config, Fairness, Limits},
    lane::Lane,
    metrics::Metrics,
};

/// Puts a [`Front`] together. What is not said is as upstream has it by default.
pub struct Builder {
    engine: Arc<Engine>,
    fairness: Option<Config>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    auditor: Option<Arc<Auditor>>,
    timeouts: Timeouts,
    routes: Router,
}

impl Builder {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        let (metrics, timeouts, routes) = (Metrics::new(), Timeouts::default(), Router::new());
        Self { engine, fairness: None, metrics, agents: Arc::default(), auditor: None, timeouts, routes }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How requests share the server; upstream's mandatory configuration otherwise.
    #[must_use]
    pub fn fairness(self, config: Config) -> Self {
        Self { fairness: Some(config), ..self }
    }

    /// Where requests are counted.
    #[must_use]
    pub fn metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// How node agents are called; they are not called otherwise.
    #[must_use]
    pub fn agents(self, agents: Arc<Agents>) -> Self {
        Self { agents, ..self }
    }

    /// Who is told of requests; nobody otherwise.
    #[must_use]
    pub fn auditor(self, auditor: Option<Arc<Auditor>>) -> Self {
        Self { auditor, ..self }
    }

    /// How long requests may take; upstream's defaults otherwise.
    #[must_use]
    pub fn timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Adds routes ([`non_resource_routes`](crate::non_resource::non_resource_routes)). What comes to their handlers was authorized under the very path that they see.
    ///
    /// # Panics
    /// Where a path has a route already.
    #[must_use]
    pub fn mount(self, routes: Router) -> Self {
        Self { routes: self.routes.merge(routes), ..self }
    }

    pub fn build(self) -> Front {
        let Self { engine, fairness, metrics, agents, auditor, timeouts, routes } = self;
        let fairness = Fairness::new(&fairness.unwrap_or_else(|| Config::mandatory(Limits::default())));
        let told = fairness.clone();
        metrics.part(move |out| told.text(out));
        if let Some(told) = auditor.clone() {
            metrics.part(move |out| told.text(out));
        }
        let tunnels = agents.tunnels().clone();
        let count = move || f64::from(u32::try_from(tunnels.len()).unwrap_or(u32::MAX));
        metrics.gauge("skiff_tunnels", "Nodes whose agents hold a tunnel to this server.", count);
        let dumps = debug::routes(&fairness);
        Front {
            shared: Arc::new(Shared { engine, fairness, metrics, lane: Lane::new(), agents, auditor, timeouts }),
            router: routes.merge(dumps).fallback_service(service_fn(tree)),
        }
    }
}
