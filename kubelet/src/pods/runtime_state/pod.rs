//! What the runtime says -> one pod's sandboxes and containers, in our words.

use std::path::PathBuf;

use api::time::Timestamp;
use cri::{
    ContainerFilter, ContainerStatus, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest, NamespaceMode,
    PodSandboxFilter, PodSandboxStatusRequest, Runtime,
};
use futures::future::try_join_all;

use super::termination;
use crate::labels;

/// All that the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimePod {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest first.
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: Timestamp,
    /// Empty on the host's network, and before the network plugin has answered.
    pub ips: Vec<String>,
    pub host_network: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    /// How often it was restarted before.
    pub restart_count: u32,
    pub state: State,
    pub created_at: Timestamp,
    /// The image as the pod names it.
    pub image: String,
    /// The image's digest reference.
    pub image_ref: String,
    /// Of the container's spec when it was created.
    pub hash: String,
    pub log_path: PathBuf,
    pub user: Option<(i64, i64, Vec<i64>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Created,
    Running { started_at: Timestamp },
    Exited(Exit),
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    pub code: i32,
    pub reason: String,
    pub message: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

/// What a call has made, as the runtime showed it right after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    Sandbox(Sandbox),
    Container(Box<Container>),
}

impl RuntimePod {
    /// The newest container of that name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == name)
    }

    pub fn by_id(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|c| c.id == id)
    }

    /// The sandbox that containers can be started in.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// Whether something of that id, a container or a sandbox, is not known to have ended.
    pub fn runs(&self, id: &str) -> bool {
        self.by_id(id).is_some_and(|c| c.exit().is_none()) || self.sandboxes.iter().any(|s| s.id == id && s.ready)
    }

    pub fn has(&self, id: &str) -> bool {
        self.by_id(id).is_some() || self.sandboxes.iter().any(|s| s.id == id)
    }

    /// Puts what was just made beside what was known.
    pub fn merge(&mut self, made: Made) {
        match made {
            Made::Sandbox(sandbox) => {
                self.sandboxes.retain(|s| s.id != sandbox.id);
                self.sandboxes.push(sandbox);
            }
            Made::Container(container) => {
                self.containers.retain(|c| c.id != container.id);
                self.containers.push(*container);
            }
        }
        self.sort();
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.restart_count)));
    }

    /// True once nothing of the pod runs: neither containers nor sandboxes. What was created and never started cannot be stopped, and
    /// does not start without a sandbox.
    pub fn is_stopped(&self) -> bool {
        !self.containers.iter().any(Container::may_run) && self.sandboxes.iter().all(|s| !s.ready)
    }
}

impl Container {
    /// One that was started after the runtime was last looked at.
    pub fn named(id: &str, name: &str) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            sandbox_id: String::new(),
            restart_count: 0,
            state: State::Unknown,
            created_at: Timestamp::UNIX_EPOCH,
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            log_path: PathBuf::new(),
            user: None,
        }
    }

    /// It runs, or the runtime does not know.
    pub fn may_run(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Asks the runtime for all of one pod. Costs two lists and one status call for each part.
pub async fn inspect(runtime: &Runtime, uid: &str) -> cri::Result<RuntimePod> {
    let selector = [(labels::POD_UID.to_owned(), uid.to_owned())];
    let filter = PodSandboxFilter { label_selector: selector.clone().into(), ..PodSandboxFilter::default() };
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) });
    let filter = ContainerFilter { label_selector: selector.into(), ..ContainerFilter::default() };
    let containers = runtime.list_containers(ListContainersRequest { filter: Some(filter) });
    let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
    let sandboxes = try_join_all(sandboxes.items.iter().map(|s| Box::pin(inspect_sandbox(runtime, &s.id))));
    let containers = containers.containers.iter().map(|c| Box::pin(inspect_container(runtime, &c.id, &c.pod_sandbox_id)));
    let (sandboxes, containers) = tokio::try_join!(sandboxes, try_join_all(containers))?;
    let (sandboxes, containers) = (sandboxes.into_iter().flatten().collect(), containers.into_iter().flatten().collect());
    let mut pod = RuntimePod { sandboxes, containers };
    pod.sort();
    Ok(pod)
}

/// One sandbox; `None` where there is none of that id.
pub async fn inspect_sandbox(runtime: &Runtime, id: &str) -> cri::Result<Option<Sandbox>> {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
    let status = match runtime.pod_sandbox_status(request).await {
        Err(error) if error.is_not_found() => return Ok(None),
        answer => answer?.status,
    };
    Ok(status.map(|status| {
        let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
        let host_network = options.is_some_and(|o| o.network() == NamespaceMode::Node);
        let network = status.network.clone().unwrap_or_default();
        let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
        Sandbox {
            attempt: status.metadata.as_ref().map_or(0, |m| m.attempt),
            ready: status.state() == cri::PodSandboxState::SandboxReady,
            created_at: instant(status.created_at).unwrap_or_default(),
            ips: if host_network { Vec::new() } else { ips.filter(|ip| !ip.is_empty()).collect() },
            host_network,
            id: status.id,
        }
    }))
}

/// One container; `None` where there is none of that id.
pub async fn inspect_container(runtime: &Runtime, id: &str, sandbox_id: &str) -> cri::Result<Option<Container>> {
    let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
    let status = match runtime.container_status(request).await {
        Err(error) if error.is_not_found() => return Ok(None),
        answer => answer?.status,
    };
    let Some(status) = status else { return Ok(None) };
    let exit_message = termination::message(&status).await;
    Ok(Some(container(status, sandbox_id, exit_message)))
}

fn container(status: ContainerStatus, sandbox_id: &str, exit_message: String) -> Container {
    let name = status.labels.get(labels::CONTAINER_NAME).cloned();
    let count = status.annotations.get(labels::CONTAINER_RESTART_COUNT).and_then(|n| n.parse().ok());
    let metadata = status.metadata.clone().unwrap_or_default();
    let image = status.image.clone().unwrap_or_default();
    let user = status.user.as_ref().and_then(|u| u.linux.as_ref());
    Container {
        state: state(&status, exit_message),
        name: name.unwrap_or(metadata.name),
        sandbox_id: sandbox_id.into(),
        restart_count: count.unwrap_or(metadata.attempt),
        created_at: instant(status.created_at).unwrap_or_default(),
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_ref: status.image_ref,
        hash: status.annotations.get(labels::CONTAINER_HASH).cloned().unwrap_or_default(),
        log_path: status.log_path.into(),
        user: user.map(|u| (u.uid, u.gid, u.supplemental_groups.clone())),
        id: status.id,
    }
}

fn state(status: &ContainerStatus, message: String) -> State {
    match status.state() {
        cri::ContainerState::ContainerCreated => State::Created,
        cri::ContainerState::ContainerRunning => State::Running { started_at: instant(status.started_at).unwrap_or_default() },
        cri::ContainerState::ContainerExited => State::Exited(Exit {
            code: status.exit_code,
            reason: status.reason.clone(),
            message,
            started_at: instant(status.started_at),
            finished_at: instant(status.finished_at).unwrap_or_default(),
        }),
        cri::ContainerState::ContainerUnknown => State::Unknown,
    }
}

/// Nanoseconds since the epoch; zero and less mean never.
fn instant(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}
