//! A pod that has its node -> what plugins take, allow and write before it is bound.
//!
//! Source: kube-scheduler `framework/interface.go` (`ReservePlugin`, `PermitPlugin`, `PreBindPlugin`), scheduler `framework/runtime/framework.go`.

use std::{sync::Arc, time::Duration};

use api::faults::{catch, catch_all};
use client::kube;
use futures::{FutureExt, future::BoxFuture};

use super::{Plugins, WaitingPods};
use crate::{cycle_state::CycleState, pod::PodInfo, refusal::Refusal, snapshot::Snapshot};

/// What a plugin has to do with a pod that was given a node. One that has nothing to do is not asked: see [`super::Plugin::binding`].
pub trait BindingPlugin: Sync {
    /// Takes what the pod will use on the node, before anybody else is given a node: no I/O, no waiting.
    ///
    /// # Errors
    /// The pod is not bound. Plugins after it do not run, and [`BindingPlugin::unreserve`] runs for all.
    fn reserve(&self, _at: &mut Reserving<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Gives it back, in the reverse order. Called whenever a later step fails, also where [`BindingPlugin::reserve`] was not called or failed,
    /// and may be called again.
    fn unreserve(&self, _at: &mut Reserving<'_>) {}

    /// Whether the pod may be bound, or waits. `waiting` are the pods that wait: the plugin may allow them or reject them now.
    fn permit(&self, _at: &mut Reserving<'_>, _waiting: &WaitingPods) -> Permit {
        Permit::Allow
    }

    /// Whether [`BindingPlugin::pre_bind`] has anything to do for this pod. A pod for which someone has is shown as nominated to its node.
    ///
    /// # Errors
    /// The pod is not bound.
    fn pre_bind_pre_flight(&self, _at: &mut Reserving<'_>) -> Result<PreFlight, String> {
        Ok(PreFlight::Skip)
    }

    /// Writes what must be there before the pod is; others are decided about and bound meanwhile. Dropped where the pod is preempted or deleted.
    ///
    /// # Errors
    /// The pod is not bound, and tried again later.
    fn pre_bind<'a>(&'a self, _at: PreBinding<'a>) -> BoxFuture<'a, Result<(), Status>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// A pod and its node, within the scheduling cycle.
pub struct Reserving<'a> {
    pub pod: &'a Arc<PodInfo>,
    pub node: &'a str,
    pub snapshot: &'a mut Snapshot,
    /// What plugins kept of the pod in this try.
    pub state: &'a mut CycleState,
}

/// A pod and its node, within the binding cycle.
pub struct PreBinding<'a> {
    pub pod: &'a Arc<PodInfo>,
    pub node: &'a str,
    pub state: &'a mut CycleState,
    pub client: &'a kube::Client,
}

/// Why a plugin does not let the pod be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The node does not do after all.
    Rejected(String),
    /// What should have worked did not.
    Error(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permit {
    Allow,
    Deny(Status),
    /// Until the plugin allows or rejects the pod, or so long: at most [`super::waiting::PERMIT_MAX`].
    Wait(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreFlight {
    Skip,
    Needed,
}

/// Why a pod that had a node was not bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It waits for what the plugin finds helpful.
    Refused(Refusal),
    /// It is tried again after a rest; the condition's reason, and the message.
    Again(&'static str, String),
}

/// Who waits, and for how long.
pub type Waits = Vec<(&'static str, Duration)>;

/// Those of the plugins that have something to do with bindings, in order, with their names.
#[derive(Clone, Debug, Default)]
pub struct BindingPlugins(Vec<NamedPlugin>);

#[derive(Clone, Copy)]
struct NamedPlugin {
    name: &'static str,
    plugin: &'static dyn BindingPlugin,
}

impl BindingPlugins {
    pub fn of(plugins: Plugins) -> Self {
        Self(plugins.iter().filter_map(|p| Some(NamedPlugin { name: p.name(), plugin: p.binding()? })).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// Of the first plugin that fails: [`BindingPlugins::unreserve`] is due.
    pub fn reserve(&self, at: &mut Reserving<'_>) -> Result<(), Failure> {
        self.0.iter().try_for_each(|named| {
            let reserved = catch(named.name, || named.plugin.reserve(at)).unwrap_or_else(|panic| Err(Status::Error(panic.to_string())));
            reserved.map_err(|status| status.unschedulable("Reserve", named.name))
        })
    }

    pub fn unreserve(&self, at: &mut Reserving<'_>) {
        for named in self.0.iter().rev() {
            if let Err(panic) = catch(named.name, || named.plugin.unreserve(at)) {
                tracing::error!(ns = at.pod.key.namespace, name = at.pod.key.name, plugin = named.name, error = %panic, "plugin panicked in Unreserve");
            }
        }
    }

    /// Who wants the pod to wait: nobody, if it may be bound.
    ///
    /// # Errors
    /// Of the first plugin that denies or fails: [`BindingPlugins::unreserve`] is due.
    pub fn permit(&self, at: &mut Reserving<'_>, waiting: &WaitingPods) -> Result<Waits, Failure> {
        let mut waits = Waits::new();
        for named in &self.0 {
            let permit = catch(named.name, || named.plugin.permit(at, waiting));
            match permit.unwrap_or_else(|panic| Permit::Deny(Status::Error(panic.to_string()))) {
                Permit::Allow => {}
                Permit::Wait(time) => waits.push((named.name, time)),
                Permit::Deny(status) => return Err(status.unschedulable("Permit", named.name)),
            }
        }
        Ok(waits)
    }

    /// Those that have something to write for this pod.
    ///
    /// # Errors
    /// Of the first plugin that fails: [`BindingPlugins::unreserve`] is due.
    pub fn pre_flight(&self, at: &mut Reserving<'_>) -> Result<Self, Failure> {
        let mut needed = Vec::new();
        for named in &self.0 {
            let asked = catch(named.name, || named.plugin.pre_bind_pre_flight(at)).unwrap_or_else(|panic| Err(panic.to_string()));
            match asked.map_err(|error| Failure::error(format!("running PreBindPreFlight {:?}: {error}", named.name)))? {
                PreFlight::Needed => needed.push(*named),
                PreFlight::Skip => {}
            }
        }
        Ok(Self(needed))
    }

    /// # Errors
    /// Of the first plugin that fails.
    pub async fn pre_bind(
        &self,
        pod: &Arc<PodInfo>,
        node: &str,
        state: &mut CycleState,
        client: &kube::Client,
        bound: Duration,
    ) -> Result<(), Failure> {
        for named in &self.0 {
            let work = catch_all(named.name, named.plugin.pre_bind(PreBinding { pod, node, state, client }));
            let done = match tokio::time::timeout(bound, work).await {
                Ok(Ok(done)) => done,
                Ok(Err(panic)) => Err(Status::Error(panic.to_string())),
                Err(_) => Err(Status::Error("context deadline exceeded".into())),
            };
            done.map_err(|status| match status {
                // From here on no node is looked for: what fails is tried again.
                Status::Rejected(reason) => Failure::Again("Unschedulable", reason),
                Status::Error(error) => Failure::error(format!("running PreBind plugin {:?}: {error}", named.name)),
            })?;
        }
        Ok(())
    }
}

impl Failure {
    pub fn error(message: String) -> Self {
        Self::Again("SchedulerError", message)
    }
}

impl Status {
    fn unschedulable(self, point: &str, plugin: &'static str) -> Failure {
        match self {
            Self::Rejected(reason) => Failure::Refused(Refusal::resolvable(plugin, &reason)),
            Self::Error(error) => Failure::error(format!("running {point} plugin {plugin:?}: {error}")),
        }
    }
}

impl std::fmt::Debug for NamedPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
