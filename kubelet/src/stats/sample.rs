//! The cgroups of the pods that run here, at one time.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use api::{k8s::apimachinery::pkg::apis::meta::v1::Time, time::Timestamp};

use crate::{
    cgroups::{Manager, Usage},
    meta,
    view::PodView,
};

/// What was read.
#[derive(Debug)]
pub struct Sample {
    pub node: Measured,
    /// All pods together.
    pub all_pods: Option<Measured>,
    pub pods: Vec<PodSample>,
}

/// A cgroup's counters, and when they were read.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub at: Timestamp,
    pub usage: Usage,
}

#[derive(Debug)]
pub struct PodSample {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub started: Option<Timestamp>,
    pub usage: Option<Measured>,
    /// The one process of its sandbox; `None` where it shares the node's network.
    pub network_process: Option<u32>,
    pub containers: Vec<ContainerSample>,
}

#[derive(Debug)]
pub struct ContainerSample {
    pub name: String,
    /// The runtime's own.
    pub id: String,
    pub image: String,
    pub started: Option<Timestamp>,
    pub log_path: PathBuf,
    pub usage: Measured,
}

impl Sample {
    /// `None` where not even the node's own counters can be read.
    pub fn look(cgroups: &Manager, views: &[Arc<PodView>]) -> Option<Self> {
        let node = Measured::of(cgroups, "")?;
        let mut pods: Vec<PodSample> = views.iter().filter(|view| view.sandbox_id.is_some()).map(|view| pod(cgroups, view)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        let all_pods = cgroups.usage_of_pods().map(|usage| Measured { at: Timestamp::now(), usage });
        Some(Self { node, all_pods, pods })
    }
}

impl Measured {
    fn of(cgroups: &Manager, path: &str) -> Option<Self> {
        let usage = cgroups.usage(path)?;
        Some(Self { at: Timestamp::now(), usage })
    }
}

fn pod(cgroups: &Manager, view: &PodView) -> PodSample {
    let parent = cgroups.parent(&view.pod);
    let host_network = view.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let sandbox = view.sandbox_id.as_deref().filter(|_| !host_network);
    PodSample {
        namespace: meta::namespace(&view.pod).to_owned(),
        name: meta::name(&view.pod).to_owned(),
        uid: meta::uid(&view.pod).to_owned(),
        started: view.status().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
        usage: Measured::of(cgroups, &parent),
        network_process: sandbox.and_then(|id| cgroups.first_process(&format!("{parent}/{id}"))),
        containers: containers(cgroups, &parent, view),
    }
}

fn containers(cgroups: &Manager, parent: &str, view: &PodView) -> Vec<ContainerSample> {
    let started = starts(view);
    let image = |name: &str| {
        let spec = view.pod.spec.iter();
        let all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        all.into_iter().find(|container| container.name == name).and_then(|container| container.image.clone()).unwrap_or_default()
    };
    let running = view.containers.iter().filter(|container| container.running);
    let sampled = running.filter_map(|container| {
        // It may have ended since the runtime was asked.
        let usage = Measured::of(cgroups, &format!("{parent}/{}", container.id))?;
        Some(ContainerSample {
            name: container.name.clone(),
            id: container.id.clone(),
            image: image(&container.name),
            started: started.get(container.id.as_str()).copied(),
            log_path: container.log_path.clone(),
            usage,
        })
    });
    sampled.collect()
}

/// By the container's id in the runtime.
fn starts(view: &PodView) -> HashMap<&str, Timestamp> {
    let Some(status) = view.status() else { return HashMap::new() };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let started = all.filter_map(|container| {
        let (_, id) = container.container_id.as_deref()?.split_once("://")?;
        let Time(at) = container.state.as_ref()?.running.as_ref()?.started_at.clone()?;
        Some((id, at))
    });
    started.collect()
}
