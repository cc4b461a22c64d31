//! The pods here -> the cpu shares of the burstable class: what all its pods ask for.
//!
//! Upstream: `setCPUCgroupConfig` in `pkg/kubelet/cm/qos_container_manager_linux.go`.

use api::k8s::api::core::v1::Pod;

use crate::{
    cgroups,
    container_config::{
        self,
        qos::{QosClass, class},
    },
};

/// What the class was given last.
#[derive(Default)]
pub struct Burstable {
    milli: Option<i64>,
}

impl Burstable {
    /// `pods`: those that have not ended.
    pub fn fit<'a>(&mut self, pods: impl Iterator<Item = &'a Pod>, cgroups: &cgroups::Manager) {
        let burstable = pods.filter(|pod| class(pod) == QosClass::Burstable);
        let milli = burstable.map(container_config::cpu_request_milli).fold(0, i64::saturating_add);
        if self.milli == Some(milli) {
            return;
        }
        match cgroups.set_burstable(milli) {
            Ok(()) => self.milli = Some(milli),
            Err(error) => tracing::warn!(%error, "failed to update cpu shares of the burstable cgroup"),
        }
    }
}
