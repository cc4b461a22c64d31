//! An engine, and what is served beside it -> the front.

use std::sync::Arc;

use super::{Front, Shared};
use crate::{
    connect::Agents,
    engine::Engine,
    fairness::{Config, Fairness, Limits},
    metrics::Metrics,
    non_resource::NonResourceHandler,
};

/// Puts a [`Front`] together. What is not said is as upstream has it by default.
pub struct Builder {
    engine: Arc<Engine>,
    fairness: Option<Config>,
    metrics: Arc<Metrics>,
    agents: Arc<Agents>,
    handlers: Vec<Arc<dyn NonResourceHandler>>,
}

impl Builder {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, fairness: None, metrics: Metrics::new(), agents: Arc::default(), handlers: Vec::new() }
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

    /// Adds a server of non-resource paths. Handlers are asked in the order they were mounted.
    #[must_use]
    pub fn mount(mut self, handler: Arc<dyn NonResourceHandler>) -> Self {
        self.handlers.push(handler);
        self
    }

    pub fn build(self) -> Front {
        let Self { engine, fairness, metrics, agents, handlers } = self;
        let fairness = Fairness::new(&fairness.unwrap_or_else(|| Config::mandatory(Limits::default())));
        let told = fairness.clone();
        metrics.part(move |out| told.text(out));
        Front(Arc::new(Shared { engine, fairness, metrics, agents, handlers }))
    }
}
