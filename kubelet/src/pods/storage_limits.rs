//! What pods may write on this node's disk (emptyDir's `sizeLimit`, containers' `ephemeral-storage`) -> those that wrote more are evicted.
//!
//! Upstream: `localStorageEviction` in `pkg/kubelet/eviction/eviction_manager.go`. Only pods that have such a limit are measured.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use api::{k8s::api::core::v1::Pod, quantity::Quantity};
use futures::{StreamExt, stream};
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
/// How often the time that measuring a pod took goes by before it is measured again.
const REST: u32 = 9;
/// Pods that are measured at a time: a slow one does not hold up all others.
const WALKS_MAX: usize = 2;
/// All directories of a pod, once.
const WALKS_BOUND: Duration = Duration::from_secs(30);
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
    let mut resting = HashMap::new();
    loop {
        this.look(&mut resting).await;
        tokio::time::sleep(LOOK_EVERY).await;
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

    /// More than that of a volume need not be found; `None` where it counts to nothing.
    fn enough(&self, own: Option<&Limit>) -> Option<u64> {
        own.into_iter().chain(&self.pod).map(|limit| limit.bytes).min()
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
    /// Looks at each pod that has limits, and is due.
    async fn look(&self, resting: &mut HashMap<String, Instant>) {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        let mut due = self.pods.list();
        due.retain(|view| !resting.contains_key(meta::uid(&view.pod)));
        let due = due.into_iter().filter_map(|view| limits(&view).map(|limits| (view, limits)));
        let looks = due.map(|(view, limits)| async move {
            let began = Instant::now();
            self.look_at(&view, &limits).await;
            (meta::uid(&view.pod).to_owned(), Instant::now() + began.elapsed() * REST)
        });
        let mut looks = pin!(stream::iter(looks).buffer_unordered(WALKS_MAX));
        while let Some((uid, until)) = looks.next().await {
            resting.insert(uid, until);
        }
    }

    async fn look_at(&self, view: &PodView, limits: &Limits) {
        let used = self.measure(view, limits).await;
        if let Some(message) = limits.exceeded(&used) {
            let _ = self.out.send(Event::Exceeded { uid: meta::uid(&view.pod).to_owned(), message }).await;
        }
    }

    async fn measure(&self, view: &PodView, limits: &Limits) -> Used {
        let volumes: Vec<(&String, u64)> =
            limits.volumes.iter().filter_map(|(name, limit)| Some((name, limits.enough(limit.as_ref())?))).collect();
        let logs = if limits.of_containers() { logs(view) } else { BTreeMap::new() };
        let mut walks = Walks { pod: &view.pod, left: WALKS_BOUND, dirs: u32::try_from(volumes.len() + logs.len()).unwrap_or(u32::MAX) };
        let mut used = Used::default();
        for (name, enough) in volumes {
            let dir = dirs::volume(&self.root_dir, meta::uid(&view.pod), "empty-dir", name);
            used.volumes.insert(name.clone(), walks.next(dir, enough).await);
        }
        if limits.of_containers() {
            let layers = self.layers(&view.pod).await;
            let told =
                |why: &String| tracing::warn!(pod = meta::format(&view.pod), why, "failed to ask what a pod's containers have on disk");
            used.containers = layers.inspect_err(told).unwrap_or_default();
        }
        for (name, dir) in logs {
            *used.containers.entry(name).or_default() += walks.next(dir, u64::MAX).await;
        }
        used
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

/// Where containers log, by name: one directory for all attempts of each.
fn logs(view: &PodView) -> BTreeMap<String, PathBuf> {
    let newest = view.containers.iter().filter(|c| view.container(&c.name).is_some_and(|newest| newest.id == c.id));
    newest.filter_map(|c| Some((c.name.clone(), c.log_path.parent()?.to_owned()))).collect()
}

/// One pod's turn: what one directory does not take of it is the others'.
struct Walks<'a> {
    pod: &'a Pod,
    left: Duration,
    /// Directories to come.
    dirs: u32,
}

impl Walks<'_> {
    /// What was found in a directory. Where it is slow, fails or changes under us, that is less than there is, and counts all the same: who writes there
    /// could bring it about.
    async fn next(&mut self, dir: PathBuf, enough: u64) -> u64 {
        let (began, bound) = (Instant::now(), self.left / self.dirs.max(1));
        let measured = blocking(move || {
            let (bytes, done) = disk_usage(&dir, enough, bound);
            Ok((bytes, done.map_err(|e| format!("{}: {e}", dir.display()))))
        });
        let (bytes, done) = measured.await.unwrap_or_else(|why| (0, Err(why)));
        self.left = self.left.saturating_sub(began.elapsed());
        self.dirs = self.dirs.saturating_sub(1);
        if let Err(why) = done {
            tracing::warn!(pod = meta::format(self.pod), why, bytes, "failed to measure all that a pod has on disk");
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

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

    #[tokio::test]
    async fn what_cannot_be_measured_hides_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (out, mut exceeded) = mpsc::channel(8);
        let runtime = cri::Runtime::at(&dir.path().join("nobody"));
        let this = StorageLimits { runtime, pods: Pods::default(), root_dir: dir.path().to_owned(), out };
        let named = |uid: &str, spec: &str| {
            let mut pod = pod(spec);
            pod.metadata.uid = Some(uid.into());
            this.pods.put(uid, PodView { pod: Arc::new(pod), ..PodView::default() });
            ["a", "b"].map(|name| dirs::volume(dir.path(), uid, "empty-dir", name))
        };
        let broken = |place: &PathBuf| {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, "").unwrap();
        };
        let full = |place: &PathBuf| {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join("file"), vec![1; 2 << 20]).unwrap();
        };
        let volumes = r#""volumes":[{"name":"a","emptyDir":{"sizeLimit":"1Mi"}},{"name":"b","emptyDir":{"sizeLimit":"1Mi"}}]"#;
        let [a, b] = named("u1", &format!(r#"{{"containers":[{{"name":"c"}}],{volumes}}}"#));
        broken(&a);
        full(&b);
        // One whose runtime does not answer beside it.
        let limited = r#"{"name":"c","resources":{"limits":{"ephemeral-storage":"1Mi"}}}"#;
        let [a, b] = named("u2", &format!(r#"{{"containers":[{limited}],{volumes}}}"#));
        full(&a);
        broken(&b);
        let mut resting = HashMap::new();
        this.look(&mut resting).await;
        let mut told = BTreeMap::new();
        while let Ok(Event::Exceeded { uid, message }) = exceeded.try_recv() {
            told.insert(uid, message);
        }
        let message = |name: &str| format!("Usage of EmptyDir volume {name:?} exceeds the limit \"1Mi\". ");
        assert_eq!(told, [("u1".to_owned(), message("b")), ("u2".to_owned(), message("a"))].into());
        // A pod that took long rests, and no other.
        resting.clear();
        resting.insert("u1".to_owned(), Instant::now() + Duration::from_secs(60));
        this.look(&mut resting).await;
        let Ok(Event::Exceeded { uid, .. }) = exceeded.try_recv() else { panic!("nothing was told") };
        assert!(uid == "u2" && exceeded.try_recv().is_err());
    }
}
