//! A pod, however it is kept -> what it asks for, which class it is of, what it puts up with, which ports of its node it takes; and what quotas
//! count of it, and of objects of other kinds.
//!
//! One algorithm each, for all who ask: admission and strategies (JSON), schedulers and controllers (`client::pods`), node agents
//! (k8s-openapi). A representation says how its fields are read, [`SpecView`] and [`ContainerView`]; nothing else depends on it.

pub mod claims;
pub mod csi;
mod json;
mod lists;
pub mod names;
mod ports;
mod qos;
pub mod quota;
mod resources;
#[cfg(test)]
mod tests;
mod tolerations;
pub mod typed;

pub use lists::{Amounts, List, Stated};
pub use ports::{HostPort, host_ports};
pub use qos::QosClass;
pub use resources::{Overhead, Side, aggregate, is_supported_at_pod_level, limits, requests};
pub use tolerations::{is_tolerated, tolerates, untolerated};

/// What is read of a pod's `spec`.
pub trait SpecView {
    type Container: ContainerView;

    fn containers(&self) -> &[Self::Container];

    fn init_containers(&self) -> &[Self::Container];

    /// Of the pod as a whole; `None` where the field is not there.
    fn resources(&self) -> Option<Stated<'_>>;

    fn overhead(&self) -> List<'_>;
}

/// What is read of one of its containers.
pub trait ContainerView {
    fn restart_policy(&self) -> Option<&str>;

    fn resources(&self) -> Stated<'_>;

    /// As stated: hostPort, hostIP, protocol; what is absent is 0, or empty.
    fn host_ports(&self) -> impl Iterator<Item = (i32, &str, &str)>;
}

/// An init container that keeps running beside the pod's containers.
pub fn is_sidecar(container: &impl ContainerView) -> bool {
    container.restart_policy() == Some("Always")
}

/// Those that run for as long as the pod does: its containers, then its sidecars.
pub fn running<S: SpecView>(spec: &S) -> impl Iterator<Item = &S::Container> {
    spec.containers().iter().chain(spec.init_containers().iter().filter(|c| is_sidecar(*c)))
}

/// A condition `Ready` that says `True`, of these (type, status). Upstream: `IsPodReady`; of equal types the first counts.
pub fn is_ready<'a>(mut conditions: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    conditions.find(|(kind, _)| *kind == "Ready").is_some_and(|(_, status)| status == "True")
}
