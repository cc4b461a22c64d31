//! cgroups, /proc and file systems -> what the node, its pods and their containers use: `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`.
//!
//! Nothing is read before somebody asks, and nothing on behalf of the one who asks a moment after another. The container runtime is not asked: containerd
//! 1.6 wakes a process of each pod for its numbers, which are those of the same cgroups.
//! Sources: `pkg/kubelet/server/stats`, `pkg/kubelet/stats/cri_stats_provider.go`, `pkg/kubelet/metrics/collectors/resource_metrics.go`.

mod exposition;
mod network;
mod rates;
mod sample;
mod summary;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{flight::Flight, task::Group};
use parking_lot::Mutex;

use self::{rates::Rates, sample::Sample};
use crate::{cgroups, view::Pods};

/// Who asks so soon after another gets the same.
const REUSED_FOR: Duration = Duration::from_millis(500);

/// What can be told of this node. Clones share it.
#[derive(Clone)]
pub struct Stats {
    shared: Arc<Shared>,
    /// One looks at a time.
    looking: Flight<Result<Arc<Sample>, String>>,
}

#[derive(Default)]
struct Shared {
    node_name: String,
    /// On the file system that pods write on.
    dir: PathBuf,
    /// `None` where there are none: nothing is told then.
    cgroups: Option<cgroups::Manager>,
    pods: Pods,
    last: Mutex<Option<(Instant, Arc<Sample>)>>,
    rates: Mutex<Rates>,
}

/// Of a node without cgroups.
#[cfg(test)]
impl Default for Stats {
    fn default() -> Self {
        Self { shared: Arc::default(), looking: Flight::new(&Group::new()) }
    }
}

/// How much a summary tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    All,
    /// `only_cpu_and_memory=true`
    CpuAndMemory,
}

impl Stats {
    pub fn new(node_name: &str, dir: PathBuf, cgroups: cgroups::Manager, pods: Pods, group: &Group) -> Self {
        let shared = Shared { node_name: node_name.to_owned(), dir, cgroups: Some(cgroups), pods, ..Shared::default() };
        Self { shared: Arc::new(shared), looking: Flight::new(group) }
    }

    /// `/stats/summary`: JSON of upstream's `stats/v1alpha1` Summary. Rates of CPU time are there from the second time on that they are asked for.
    ///
    /// # Errors
    /// Why nothing can be told.
    pub async fn summary(&self, extent: Extent) -> Result<String, String> {
        let sample = self.sample().await?;
        let shared = self.shared.clone();
        blocking(move || {
            shared.rates.lock().follow(&sample);
            let summary = summary::of(&shared.node_name, &shared.dir, &sample, &shared.rates.lock(), extent);
            serde_json::to_string(&summary).map_err(|error| error.to_string())
        })
        .await?
    }

    /// `/metrics/resource`: never fails, but says `resource_scrape_error 1`.
    pub async fn resource(&self) -> String {
        match self.sample().await {
            Ok(sample) => exposition::resource(Some(&sample)),
            Err(error) => {
                tracing::warn!(error, "failed to read what this node uses");
                exposition::resource(None)
            }
        }
    }

    /// `/metrics/cadvisor`: of cAdvisor's families those that the cgroups have numbers for.
    ///
    /// # Errors
    /// Why nothing can be told.
    pub async fn cadvisor(&self) -> Result<String, String> {
        let sample = self.sample().await?;
        blocking(move || exposition::cadvisor(&sample)).await
    }

    async fn sample(&self) -> Result<Arc<Sample>, String> {
        let known = || {
            let last = self.shared.last.lock();
            last.as_ref().filter(|(at, _)| at.elapsed() < REUSED_FOR).map(|(_, sample)| Ok(sample.clone()))
        };
        let shared = self.shared.clone();
        let look = || blocking(move || shared.look());
        self.looking.join((), known, || async move { look().await? }).await.unwrap_or_else(|lost| Err(lost.to_string()))
    }
}

impl Shared {
    fn look(&self) -> Result<Arc<Sample>, String> {
        let cgroups = self.cgroups.as_ref().ok_or("this node has no cgroups")?;
        let sample = Arc::new(Sample::look(cgroups, &self.pods.list()).ok_or("failed to get root cgroup stats")?);
        *self.last.lock() = Some((Instant::now(), sample.clone()));
        Ok(sample)
    }
}

/// The kernel adds counters up while they are read.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}
