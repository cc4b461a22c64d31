//! What pods may write on this node's disk (emptyDir's `sizeLimit`, containers' `ephemeral-storage`) -> those that wrote more are evicted.
//!
//! Upstream: `localStorageEviction` in `pkg/kubelet/eviction/eviction_manager.go`. Only pods that have such a limit are measured.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use api::{k8s::api::core::v1::Pod, quantity::Quantity};
use podspec::{ContainerView, Overhead};
use tokio::sync::mpsc;

use super::event::Event;
use crate::{
    PodView, Pods,
    container_config::qos,
    dirs, labels, meta,
    volumes::{blocking, disk_usage},
};

/// Between two looks. Upstream: `monitoringInterval`.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What measuring takes of the time at most: one part of so many.
const REST: u32 = 9;
const RESOURCE: &str = "ephemeral-storage";

/// Who looks.
pub struct StorageLimits {
    pub runtime: cri::Runtime,
    pub pods: Pods,
    pub root_dir: PathBuf,
    pub out: mpsc::Sender<Event>,
}

/// Runs until its task ends.
pub async fn follow(this: StorageLimits) {
    loop {
        let began = Instant::now();
        for view in this.pods.list() {
            let Some(limits) = limits(&view) else { continue };
            match this.measure(&view, &limits).await {
                Ok(used) => {
                    if let Some(message) = limits.exceeded(&used) {
                        let _ = this.out.send(Event::Exceeded { uid: meta::uid(&view.pod).to_owned(), message }).await;
                    }
                }
                Err(why) => tracing::warn!(pod = meta::format(&view.pod), why, "failed to measure what a pod has on disk"),
            }
        }
        tokio::time::sleep(LOOK_EVERY.max(began.elapsed() * REST)).await;
    }
}

/// What a pod may have, by name and as it is written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    /// emptyDirs on disk: `None` of those without a limit of their own.
    volumes: Vec<(String, Option<Limit>)>,
    containers: Vec<(String, Limit)>,
    /// Of all containers, which the pod's volumes and logs count to.
    pod: Option<Limit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Limit {
    bytes: u64,
    text: String,
}

/// In bytes.
#[derive(Debug, Default)]
struct Used {
    volumes: BTreeMap<String, u64>,
    /// What containers wrote beside their volumes, logs included.
    containers: BTreeMap<String, u64>,
}

/// `None` where it has none, has ended or ends, or may not be evicted.
fn limits(view: &PodView) -> Option<Limits> {
    let (pod, spec) = (&view.pod, meta::spec(&view.pod)?);
    let phase = view.status().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) || pod.metadata.deletion_timestamp.is_some() || qos::is_critical(pod) {
        return None;
    }
    let on_disk = spec.volumes.iter().flatten().filter_map(|volume| Some((volume, volume.empty_dir.as_ref()?)));
    let on_disk = on_disk.filter(|(_, source)| source.medium.as_deref().unwrap_or_default().is_empty());
    let size = |text: &str| Quantity::parse(text).ok().filter(|size| !size.is_negative() && !size.is_zero()).map(limit);
    let volumes = on_disk.map(|(volume, source)| (volume.name.clone(), source.size_limit.as_ref().and_then(|q| size(&q.0)))).collect();
    let of_container = |c: &api::k8s::api::core::v1::Container| ContainerView::resources(c).limits.get(RESOURCE).filter(|q| !q.is_zero());
    let containers = spec.containers.iter().filter_map(|c| Some((c.name.clone(), limit(of_container(c)?)))).collect();
    let pod = podspec::limits(spec, Overhead::Included).get(RESOURCE).map(limit);
    let limits = Limits { volumes, containers, pod };
    limits.is_any().then_some(limits)
}

fn limit(amount: Quantity) -> Limit {
    Limit { bytes: u64::try_from(amount.units()).unwrap_or(0), text: amount.to_string() }
}

impl Limits {
    fn is_any(&self) -> bool {
        self.pod.is_some() || !self.containers.is_empty() || self.volumes.iter().any(|(_, limit)| limit.is_some())
    }

    /// Whether what containers write is measured.
    fn of_containers(&self) -> bool {
        self.pod.is_some() || !self.containers.is_empty()
    }

    /// What the pod had too much of, in upstream's words.
    fn exceeded(&self, used: &Used) -> Option<String> {
        let (volumes, containers) = (&used.volumes, &used.containers);
        let over = |used: &BTreeMap<String, u64>, name: &str, limit: &Limit| used.get(name).is_some_and(|bytes| *bytes > limit.bytes);
        for (name, limit) in self.volumes.iter().filter_map(|(name, limit)| Some((name, limit.as_ref()?))) {
            if over(volumes, name, limit) {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.text));
            }
        }
        let all = volumes.values().chain(containers.values()).fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        if let Some(limit) = self.pod.as_ref().filter(|limit| all > limit.bytes) {
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", limit.text));
        }
        let mut own = self.containers.iter().filter(|(name, limit)| over(containers, name, limit));
        own.next().map(|(name, limit)| format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.text))
    }
}

impl StorageLimits {
    async fn measure(&self, view: &Arc<PodView>, limits: &Limits) -> Result<Used, String> {
        let mut used = Used::default();
        for (name, limit) in &limits.volumes {
            if limit.is_none() && limits.pod.is_none() {
                continue;
            }
            let dir = dirs::volume(&self.root_dir, meta::uid(&view.pod), "empty-dir", name);
            let enough = limit.iter().chain(&limits.pod).map(|limit| limit.bytes).min().unwrap_or(u64::MAX);
            used.volumes.insert(name.clone(), measured(dir, enough).await?);
        }
        if !limits.of_containers() {
            return Ok(used);
        }
        used.containers = self.layers(&view.pod).await?;
        for container in &view.containers {
            // One directory for all attempts.
            let Some(dir) = container.log_path.parent().map(Path::to_owned) else { continue };
            if view.container(&container.name).is_some_and(|newest| newest.id == container.id) {
                *used.containers.entry(container.name.clone()).or_default() += measured(dir, u64::MAX).await?;
            }
        }
        Ok(used)
    }

    /// What the pod's containers have written to their own root file systems, by name.
    async fn layers(&self, pod: &Pod) -> Result<BTreeMap<String, u64>, String> {
        let label_selector = [(labels::POD_UID.to_owned(), meta::uid(pod).to_owned())].into();
        let filter = Some(cri::ContainerStatsFilter { label_selector, ..Default::default() });
        let answer = self.runtime.list_container_stats(cri::ListContainerStatsRequest { filter }).await.map_err(|e| e.to_string())?;
        let mut layers = BTreeMap::new();
        for stats in answer.stats {
            let name = stats.attributes.and_then(|a| a.metadata).map(|m| m.name).unwrap_or_default();
            let bytes = stats.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
            // Of one name those that ended are there, too.
            let most = layers.entry(name).or_default();
            *most = bytes.max(*most);
        }
        Ok(layers)
    }
}

async fn measured(dir: PathBuf, enough: u64) -> Result<u64, String> {
    blocking(move || disk_usage(&dir, enough).map_err(|e| format!("{}: {e}", dir.display()))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    fn of(spec: &str) -> Option<Limits> {
        limits(&PodView { pod: Arc::new(pod(spec)), ..PodView::default() })
    }

    #[test]
    fn only_pods_with_limits_are_measured() {
        for none in [
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","emptyDir":{}}]}"#,
            r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}}]}"#,
            r#"{"containers":[{"name":"a","resources":{"limits":{"memory":"1Mi"}}}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"0"}}]}"#,
            r#"{"priority":2000000000,"containers":[{"name":"a"}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}}]}"#,
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        assert!(of(r#"{"containers":[{"name":"a"}],"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}}]}"#).is_some());
    }

    #[test]
    fn what_is_exceeded_is_told_in_upstreams_words() {
        let limits = of(r#"{"containers":[{"name":"a","resources":{"limits":{"ephemeral-storage":"1Mi"}}},{"name":"b","resources":{"limits":{"ephemeral-storage":"1Mi"}}}],
            "volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}},{"name":"w","emptyDir":{}}]}"#)
        .unwrap();
        let told = |v: u64, w: u64, a: u64| {
            let volumes = [("v".to_owned(), v), ("w".to_owned(), w)].into();
            limits.exceeded(&Used { volumes, containers: [("a".to_owned(), a)].into() })
        };
        let mib = 1 << 20;
        assert_eq!(told(mib, mib, 0), None);
        assert_eq!(told(mib + 1, 0, 0).as_deref(), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "));
        assert_eq!(told(mib, mib, 1).as_deref(), Some("Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "));
        assert_eq!(told(0, 0, mib + 1).as_deref(), Some("Container a exceeded its local ephemeral storage limit \"1Mi\". "));
    }
}
