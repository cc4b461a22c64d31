//! This machine and its runtime -> the Node object: registered, kept current, with a lease that says that we live.
//!
//! Upstream: `pkg/kubelet/kubelet_node_status.go`, `pkg/kubelet/nodestatus/setters.go`.

mod lease;
mod status;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{
    Key,
    k8s::api::core::v1::{Node, NodeStatus, ObjectReference},
    task::Group,
};
use client::{
    Cache, Recorder,
    kube::{
        self, Api, Client,
        api::{Patch, PatchParams, PostParams},
    },
};
use cri::Runtime;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::{Config, csi::Csi, machine::Machine};
use status::Facts;
pub use status::allocatable_amounts as allocatable;

/// Upstream's `nodeStatusUpdateFrequency` and `nodeStatusReportFrequency`.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// While the node is not ready, so that it becomes so without delay.
const LOOK_EVERY_UNREADY: Duration = Duration::from_millis(200);
/// After that long, the machine is given some rest.
const HURRY_MAX: Duration = Duration::from_secs(60);
/// Registering at start: until the API answers.
const REGISTER_MAX: Duration = Duration::from_secs(60);
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// Which new pods do not tolerate, put on nodes that are not Ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// What keeps the Node object current.
pub struct Reporter {
    pub config: Arc<Config>,
    pub client: Client,
    pub runtime: Runtime,
    pub nodes: Cache<Node>,
    pub recorder: Recorder,
    pub machine: Machine,
    pub csi: Arc<Csi>,
    pub ready: watch::Sender<bool>,
}

/// The node, as a server has it, or had it.
pub struct Registered {
    node: Node,
    /// A server has taken what we are now.
    is_fitted: bool,
}

/// What was last done.
#[derive(Default)]
struct Done {
    status: Option<NodeStatus>,
    at: Option<Instant>,
    pod_cidr: Option<String>,
    /// The status of each condition, for events.
    condition_statuses: BTreeMap<String, String>,
}

impl Reporter {
    /// Creates the node, or fits an old object of it to what we are now. Where no server answers and the cache has the node as it was, that does for
    /// the time being: it is fitted once one does.
    ///
    /// # Errors
    /// What the API says, where it does not take the node within a minute.
    pub async fn register(&self) -> Result<Registered, String> {
        let began = Instant::now();
        loop {
            match Box::pin(self.try_register()).await {
                Ok(node) => return Ok(Registered { node, is_fitted: true }),
                Err(kube::Error::Api(status)) if status.code == 403 || status.code == 422 => return Err(status.message.clone()),
                Err(error) if client::is_open(&error) && self.as_it_was().is_some() => {
                    tracing::warn!(%error, "no server answers; going on with the node as it was");
                    let node = self.as_it_was().map(|node| (*node).clone()).unwrap_or_default();
                    return Ok(Registered { node, is_fitted: false });
                }
                Err(error) if began.elapsed() > REGISTER_MAX => return Err(error.to_string()),
                Err(error) => tracing::debug!(%error, "failed to register node; retrying"),
            }
            tokio::time::sleep(REGISTER_PAUSE).await;
        }
    }

    /// Keeps status and lease current while `group` lives.
    pub fn start(self, registered: Registered, group: &Group) {
        let Registered { node: registered, is_fitted } = registered;
        self.recorder.normal(&self.reference(), "Starting", "Starting kubelet.");
        let name = self.config.node_name.clone();
        group.spawn_loop(
            "node lease",
            Box::pin(lease::renew(self.client.clone(), name, registered.metadata.uid.clone().unwrap_or_default())),
        );
        let boot_id = registered.status.as_ref().and_then(|s| s.node_info.as_ref()).map(|i| i.boot_id.clone()).unwrap_or_default();
        if !boot_id.is_empty() && boot_id != self.machine.boot_id {
            let message = format!("Node {} has been rebooted, boot id: {}", self.config.node_name, self.machine.boot_id);
            self.recorder.warning(&self.reference(), "Rebooted", message);
        }
        group.spawn_loop("node status", Box::pin(self.follow(registered.status.unwrap_or_default(), is_fitted)));
    }

    fn as_it_was(&self) -> Option<Arc<Node>> {
        self.nodes.get(&Key::new("", &self.config.node_name))
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        let (name, wanted) = (&self.config.node_name, status::node(&self.config, &self.machine));
        match client::watch::get::<Node>(&self.client, None, name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return self.api().create(&PostParams::default(), &wanted).await,
            there => drop(there?),
        }
        let metadata = json!({"labels": wanted.metadata.labels, "annotations": wanted.metadata.annotations});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let request = client::watch::requests::<Node>(None).patch(name, &PatchParams::default(), &patch);
        client::watch::send(&self.client, request.map_err(kube::Error::BuildRequest)?).await.map(|node| node.object)
    }

    /// `before`: what was last said of the node, perhaps by an earlier run.
    async fn follow(self, before: NodeStatus, mut is_fitted: bool) {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        self.nodes.on_change(move |_, new| {
            if new.is_some() {
                notify.notify_one();
            }
        });
        let mut done = Done::default();
        let ready = before.conditions.iter().flatten().filter(|c| c.type_ == "Ready");
        done.condition_statuses = ready.map(|c| (c.type_.clone(), c.status.clone())).collect();
        let began = Instant::now();
        loop {
            if !is_fitted {
                is_fitted = Box::pin(self.try_register()).await.is_ok();
            }
            let ready = Box::pin(self.once(&mut done)).await;
            let hurry = !ready && began.elapsed() < HURRY_MAX;
            let pause = if hurry { LOOK_EVERY_UNREADY } else { LOOK_EVERY };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed.notified() => {}
                () = self.csi.in_use.changed.notified() => {}
            }
        }
    }

    /// Looks, and writes what differs. True where the API knows that the node is ready.
    async fn once(&self, done: &mut Done) -> bool {
        let Some(node) = self.nodes.get(&Key::new("", &self.config.node_name)) else {
            return self.lost().await;
        };
        self.network(&node, done);
        let there = node.status.clone().unwrap_or_default();
        let facts = Facts::look(&self.config, &self.runtime).await;
        let mut wanted = status::status(&self.config, &self.machine, &facts, &there);
        wanted.volumes_in_use = self.csi.in_use.shown(there.volumes_in_use.as_ref());
        let changes = status::changes(&there, &wanted);
        let is_ready = status::is_ready(&wanted);
        let repeated = done.status.as_ref().is_some_and(|last| status::changes(last, &wanted).is_none());
        let due = done.at.is_none_or(|at| at.elapsed() >= REPORT_EVERY);
        if !due && (changes.is_none() || repeated && status::conditions_equal(&there, &wanted)) {
            self.settle(&node, is_ready);
            return is_ready;
        }
        let body = json!({"metadata": {"uid": node.metadata.uid}, "status": status::whole(changes, &wanted)});
        match self.patch(body).await {
            Ok(()) => {
                self.tell(&wanted, done);
                (done.status, done.at) = (Some(wanted), Some(Instant::now()));
                self.settle(&node, is_ready);
                is_ready
            }
            Err(error) => {
                tracing::warn!(%error, "failed to update node status");
                false
            }
        }
    }

    /// Whoever waits for the node wants pods on it: it is Ready, and the controllers have taken away what kept pods off while it was not.
    fn settle(&self, node: &Node, is_ready: bool) {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        let settled = is_ready && !taints.into_iter().flatten().any(|taint| taint.key == NOT_READY);
        self.ready.send_if_modified(|was| std::mem::replace(was, settled) != settled);
    }

    async fn patch(&self, body: Value) -> Result<(), kube::Error> {
        let requests = client::watch::requests::<Node>(None);
        let request = requests.patch_subresource("status", &self.config.node_name, &PatchParams::default(), &Patch::Strategic(body));
        self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
    }

    /// The object is not there: deleted, or not seen yet.
    async fn lost(&self) -> bool {
        if self.nodes.is_synced()
            && let Err(error) = Box::pin(self.try_register()).await
        {
            tracing::warn!(%error, "failed to register node");
        }
        false
    }

    /// Hands on the pod network's address range once it is known.
    fn network(&self, node: &Node, done: &mut Done) {
        let Some(cidr) = node.spec.as_ref().and_then(|s| s.pod_cidr.clone()).filter(|c| !c.is_empty()) else { return };
        if done.pod_cidr.as_ref() == Some(&cidr) {
            return;
        }
        match (self.config.on_pod_cidr)(&cidr, &self.config.layout().cni_conf_dir) {
            Ok(()) => done.pod_cidr = Some(cidr),
            Err(error) => tracing::error!(cidr, error, "failed to configure the pod network"),
        }
    }

    /// Events for conditions that changed.
    fn tell(&self, status: &NodeStatus, done: &mut Done) {
        for condition in status.conditions.iter().flatten() {
            let before = done.condition_statuses.insert(condition.type_.clone(), condition.status.clone());
            if before.as_ref() == Some(&condition.status) {
                continue;
            }
            let Some(word) = status::event(&condition.type_, &condition.status) else { continue };
            let message = format!("Node {} status is now: {word}", self.config.node_name);
            self.recorder.normal(&self.reference(), word, message);
        }
    }

    /// As upstream's kubelet refers to its node: by name in place of the uid.
    fn reference(&self) -> ObjectReference {
        reference(&self.config.node_name)
    }
}

pub fn reference(node_name: &str) -> ObjectReference {
    ObjectReference { kind: Some("Node".into()), name: Some(node_name.into()), uid: Some(node_name.into()), ..ObjectReference::default() }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use client::Caches;

    use super::*;

    /// A node agent whose server answers with that code.
    fn reporter(code: u16, dir: &std::path::Path, group: &Group) -> Reporter {
        let answer = move |_: http::Request<kube::client::Body>| {
            let status =
                format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},"reason":"So","message":"so it is"}}"#);
            let answer = http::Response::builder().status(code).body(kube::client::Body::from(status.into_bytes()));
            std::future::ready(Ok::<_, Infallible>(answer.expect("it is one")))
        };
        let client = Client::new(tower::service_fn(answer), "default");
        let config = Config::new(dir.to_owned(), "a".into(), Arc::new(|_, _| Ok(())));
        Reporter {
            machine: Machine::look(&config.agent_dir),
            csi: crate::volumes::testing::csi(&client, group),
            config: Arc::new(config),
            runtime: Runtime::at(&dir.join("nobody")),
            nodes: Caches::unfollowed(client.clone(), group.clone()).of(),
            recorder: Recorder::new(client.clone(), "kubelet", None, group),
            client,
            ready: watch::channel(false).0,
        }
    }

    #[tokio::test]
    async fn a_node_that_was_one_goes_on_as_it_was_where_no_server_has_a_say() {
        let (dir, group) = (tempfile::tempdir().expect("a directory"), Group::new());
        let was = || {
            let mut node = Node::default();
            node.metadata.name = Some("a".into());
            node.metadata.uid = Some("u".into());
            node
        };
        let away = reporter(503, dir.path(), &group);
        away.nodes.feed(was(), false);
        let registered = away.register().await.expect("it was a node before");
        assert_eq!((registered.node.metadata.uid.as_deref(), registered.is_fitted), (Some("u"), false));
        let refusing = reporter(403, dir.path(), &group);
        refusing.nodes.feed(was(), false);
        assert_eq!(refusing.register().await.err().expect("a server that refuses has its say"), "so it is");
        group.stop();
    }
}
