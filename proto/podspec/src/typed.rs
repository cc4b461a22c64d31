//! k8s-openapi's pod -> its view.

use api::k8s::api::core::v1::{Affinity, Container, ContainerPort, PodAffinityTerm, PodSpec, ResourceRequirements};

use crate::{ContainerView, List, SpecView, Stated};

impl SpecView for PodSpec {
    type Container = Container;

    fn containers(&self) -> &[Container] {
        &self.containers
    }

    fn init_containers(&self) -> &[Container] {
        self.init_containers.as_deref().unwrap_or_default()
    }

    fn resources(&self) -> Option<Stated<'_>> {
        self.resources.as_ref().map(Stated::from)
    }

    fn overhead(&self) -> List<'_> {
        self.overhead.as_ref().into()
    }
}

impl ContainerView for Container {
    fn restart_policy(&self) -> Option<&str> {
        self.restart_policy.as_deref()
    }

    fn resources(&self) -> Stated<'_> {
        self.resources.as_ref().map(Stated::from).unwrap_or_default()
    }

    fn host_ports(&self) -> impl Iterator<Item = (i32, &str, &str)> {
        self.ports.iter().flatten().map(stated)
    }
}

impl<'a> From<&'a ResourceRequirements> for Stated<'a> {
    fn from(of: &'a ResourceRequirements) -> Self {
        Self { requests: of.requests.as_ref().into(), limits: of.limits.as_ref().into() }
    }
}

/// See [`ContainerView::host_ports`].
pub fn stated(port: &ContainerPort) -> (i32, &str, &str) {
    (port.host_port.unwrap_or(0), port.host_ip.as_deref().unwrap_or(""), port.protocol.as_deref().unwrap_or(""))
}

/// Whether a term of its affinity or anti-affinity may be about pods of other namespaces (`usesCrossNamespacePodAffinity`).
pub fn crosses_namespaces(affinity: &Affinity) -> bool {
    let crosses = |term: &PodAffinityTerm| term.namespace_selector.is_some() || term.namespaces.iter().flatten().next().is_some();
    let (with, against) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = with.and_then(|side| side.required_during_scheduling_ignored_during_execution.as_ref());
    let not = against.and_then(|side| side.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = with.and_then(|side| side.preferred_during_scheduling_ignored_during_execution.as_ref());
    let rather_not = against.and_then(|side| side.preferred_during_scheduling_ignored_during_execution.as_ref());
    let weighted = preferred.into_iter().chain(rather_not).flatten().map(|weighted| &weighted.pod_affinity_term);
    required.into_iter().chain(not).flatten().chain(weighted).any(crosses)
}
