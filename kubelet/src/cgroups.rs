//! Pods -> cgroups: one above each pod's containers, under its class, with its shares and limits.
//!
//! The cgroupfs driver: we make the directories ourselves, runc makes the containers' below them.
//! Source: `pkg/kubelet/cm/pod_container_manager_linux.go`, `qos_container_manager_linux.go`, `cgroup_v{1,2}_manager_linux.go`.

mod files;
mod usage;
mod v1;
mod v2;

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use api::k8s::api::core::v1::Pod;

use crate::{
    container_config::{Limits, QosClass, class, shares},
    meta,
};

pub use usage::{Memory, Usage};

/// Where everything starts in a kubelet of its own (`--cgroup-root` `/`, `kubepods` below it).
pub const ROOT: &str = "kubepods";

/// Something that could not be done to a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cgroup {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("no cgroup hierarchy is mounted at {0}")]
    NotMounted(String),
    #[error("cgroup {0} still has processes")]
    Busy(String),
}

/// The two kernel interfaces.
#[derive(Clone, Debug)]
enum Hierarchy {
    V1(v1::Controllers),
    V2(v2::Unified),
}

/// The cgroups of this node's pods.
#[derive(Clone, Debug)]
pub struct Manager {
    hierarchy: Hierarchy,
    root: String,
}

impl Manager {
    /// Finds what the kernel has mounted. `root` names our top cgroup: [`ROOT`], but for tests.
    ///
    /// # Errors
    /// [`Error::NotMounted`] where there is neither v1 nor v2 under `/sys/fs/cgroup`.
    pub fn detect(root: &str) -> Result<Self, Error> {
        let mount = PathBuf::from("/sys/fs/cgroup");
        let hierarchy = match v2::Unified::at(&mount) {
            Some(unified) => Hierarchy::V2(unified),
            None => Hierarchy::V1(v1::Controllers::find()?),
        };
        Ok(Self { hierarchy, root: root.trim_matches('/').to_owned() })
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        if matches!(self.hierarchy, Hierarchy::V1(_)) { 1 } else { 2 }
    }

    /// The cgroup parent of a pod, as the CRI takes it: `/kubepods/burstable/pod<uid>`.
    pub fn parent(&self, pod: &Pod) -> String {
        parent(&self.root, pod)
    }

    /// Makes the top cgroup and those of the classes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn setup(&self) -> Result<(), Error> {
        for path in [self.root.clone(), self.class(QosClass::Burstable), self.class(QosClass::BestEffort)] {
            self.create(&path)?;
        }
        self.set(&self.class(QosClass::BestEffort), Limits { cpu_shares: shares(0), ..Limits::default() })
    }

    /// Gives all pods together what is allocatable on the node. A new cgroup's shares are few: without this, pods starve beside the system.
    ///
    /// # Errors
    /// What the kernel refused: more memory may be in use already; ask again later.
    pub fn set_allocatable(&self, cpu_milli: i64, memory_bytes: i64) -> Result<(), Error> {
        let memory_bytes = Some(memory_bytes).filter(|bytes| *bytes > 0);
        self.set(&self.root, Limits { cpu_shares: shares(cpu_milli), cpu_quota_us: None, memory_bytes })
    }

    /// Gives the burstable class the shares of all its pods together, in thousandths of a cpu.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_burstable(&self, cpu_request_milli: i64) -> Result<(), Error> {
        let limits = Limits { cpu_shares: shares(cpu_request_milli), ..Limits::default() };
        self.set(&self.class(QosClass::Burstable), limits)
    }

    /// Makes a pod's cgroup, or brings its limits up to date.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn create_pod(&self, pod: &Pod) -> Result<(), Error> {
        let path = self.path(class(pod), meta::uid(pod));
        self.create(&path)?;
        self.set(&path, Limits::of_pod(pod))
    }

    /// Kills what is left in a pod's cgroups and removes them. [`Error::Busy`]: killed, but not gone yet; ask again.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn remove_pod(&self, uid: &str) -> Result<(), Error> {
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            self.remove(&self.path(class, uid))?;
        }
        Ok(())
    }

    /// The pods that have a cgroup: uid -> class.
    pub fn pods(&self) -> BTreeMap<String, QosClass> {
        let mut found = BTreeMap::new();
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            for dir in self.directories(&self.class(class)) {
                let names = fs::read_dir(dir).into_iter().flatten().flatten();
                let names = names.filter_map(|e| e.file_name().into_string().ok());
                found.extend(names.filter_map(|n| n.strip_prefix("pod").map(|uid| (uid.to_owned(), class))));
            }
        }
        found
    }

    /// What a cgroup uses, its path as of [`Manager::parent`]; empty is the whole machine. `None` where there is none.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        let path = path.trim_matches('/');
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.usage(path),
            Hierarchy::V2(unified) => unified.usage(path),
        }
    }

    /// A process of the cgroup itself, those below it apart.
    pub fn first_process(&self, path: &str) -> Option<u32> {
        self.directories(path.trim_matches('/')).iter().find_map(|dir| files::first_process(dir))
    }

    /// What all pods together use.
    pub fn usage_of_pods(&self) -> Option<Usage> {
        self.usage(&self.root)
    }

    /// Removes the top cgroup and all below (`skiff reset`).
    ///
    /// # Errors
    /// [`Error::Busy`] as in [`Manager::remove_pod`].
    pub fn remove_all(&self) -> Result<(), Error> {
        self.remove(&self.root)
    }

    fn class(&self, class: QosClass) -> String {
        match class {
            QosClass::Guaranteed => self.root.clone(),
            QosClass::Burstable => format!("{}/burstable", self.root),
            QosClass::BestEffort => format!("{}/besteffort", self.root),
        }
    }

    fn path(&self, class: QosClass, uid: &str) -> String {
        format!("{}/pod{uid}", self.class(class))
    }

    fn create(&self, path: &str) -> Result<(), Error> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.create(path),
            Hierarchy::V2(unified) => unified.create(path),
        }
    }

    fn set(&self, path: &str, limits: Limits) -> Result<(), Error> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.set(path, limits),
            Hierarchy::V2(unified) => unified.set(path, limits),
        }
    }

    fn directories(&self, path: &str) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.directories(path),
            Hierarchy::V2(unified) => vec![unified.directory(path)],
        }
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        self.directories(path).iter().try_for_each(|dir| files::remove(dir))
    }
}

/// The cgroup parent of a pod below the top cgroup `root`.
pub fn parent(root: &str, pod: &Pod) -> String {
    let root = root.trim_matches('/');
    match class(pod) {
        QosClass::Guaranteed => format!("/{root}/pod{}", meta::uid(pod)),
        QosClass::Burstable => format!("/{root}/burstable/pod{}", meta::uid(pod)),
        QosClass::BestEffort => format!("/{root}/besteffort/pod{}", meta::uid(pod)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container_config::testing::pod;

    #[test]
    fn parents_are_upstreams() {
        let manager = Manager { hierarchy: Hierarchy::V2(v2::Unified::fake("/nowhere")), root: "kubepods".into() };
        let burstable = pod(r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1"}}}]}"#);
        let guaranteed =
            pod(r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1"},"limits":{"cpu":"1","memory":"1"}}}]}"#);
        assert_eq!(manager.parent(&pod(r#"{"containers":[]}"#)), "/kubepods/besteffort/podu1");
        assert_eq!(manager.parent(&burstable), "/kubepods/burstable/podu1");
        assert_eq!(manager.parent(&guaranteed), "/kubepods/podu1");
    }

    /// Against the real kernel.
    #[test]
    fn a_pods_cgroup_comes_and_goes() {
        let manager = Manager::detect(&format!("skiff-test-{}", std::process::id())).unwrap();
        manager.setup().unwrap();
        let spec = r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"500m"},"limits":{"cpu":"1","memory":"64Mi"}}}]}"#;
        let p = pod(spec);
        manager.create_pod(&p).unwrap();
        manager.create_pod(&p).unwrap();
        manager.set_burstable(1500).unwrap();
        manager.set_allocatable(2000, 1 << 30).unwrap();
        let dirs = manager.directories(manager.parent(&p).trim_start_matches('/'));
        let read = |file: &str| dirs.iter().find_map(|d| fs::read_to_string(d.join(file)).ok()).unwrap_or_default();
        if manager.version() == 1 {
            assert_eq!(read("cpu.shares").trim(), "512");
            assert_eq!(read("cpu.cfs_quota_us").trim(), "100000");
            assert_eq!(read("memory.limit_in_bytes").trim(), (64u64 << 20).to_string());
        } else {
            assert_eq!(read("cpu.max").trim(), "100000 100000");
            assert_eq!(read("memory.max").trim(), (64u64 << 20).to_string());
        }
        assert_eq!(manager.pods(), [("u1".to_owned(), QosClass::Burstable)].into());
        manager.remove_pod("u1").unwrap();
        manager.remove_pod("u1").unwrap();
        assert!(manager.pods().is_empty());
        manager.remove_all().unwrap();
        assert!(dirs.iter().all(|d| !d.exists()));
    }
}
