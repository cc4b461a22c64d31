//! A pod's `status` as it is served -> what is kept of it.

use std::borrow::Cow;

use api::k8s::{api::core::v1::PodIP, apimachinery::pkg::apis::meta::v1::Time};
use serde::{Deserialize, Deserializer};

use super::{CONDITIONS, ContainerStatus, PodCondition, PodStatus};

/// How a container of the pod ended that does not run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub container: Box<str>,
    pub role: Role,
    pub code: i32,
    pub finished_at: Option<Time>,
}

/// One pointer to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exits(pub Box<[Exit]>);

/// Which list of the pod's spec names a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Main,
    Init,
}

/// As it is on the wire. Vectors grow to more than they hold; boxed slices do not.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire<'a> {
    conditions: Option<Vec<PodCondition>>,
    #[serde(borrow)]
    container_statuses: Option<Vec<WireContainer<'a>>>,
    #[serde(borrow)]
    init_container_statuses: Option<Vec<WireContainer<'a>>>,
    nominated_node_name: Option<String>,
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Box<[PodIP]>>,
    start_time: Option<Time>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireContainer<'a> {
    #[serde(borrow)]
    name: Option<Name<'a>>,
    restart_count: Option<i32>,
    state: Option<State>,
}

/// Most are only looked at.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: Option<i32>,
    finished_at: Option<Time>,
}

impl<'de> Deserialize<'de> for PodStatus {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Wire::deserialize(from).map(Self::from)
    }
}

impl From<Wire<'_>> for PodStatus {
    fn from(wire: Wire<'_>) -> Self {
        let (main, init) = (wire.container_statuses, wire.init_container_statuses);
        let mut exits: Vec<Exit> = main.iter().flatten().filter_map(|c| c.exit(Role::Main)).collect();
        exits.extend(init.iter().flatten().filter_map(|c| c.exit(Role::Init)));
        let restarts = |c: &WireContainer<'_>| c.restart_count.unwrap_or(0);
        let init_restarts = init.iter().flatten().fold(0, |sum: i32, c| sum.saturating_add(restarts(c)));
        let kept = |c: WireContainer<'_>| ContainerStatus { restart_count: restarts(&c) };
        // Why a pod failed may be told by a condition of any type.
        let is_failed = wire.phase.as_deref() == Some("Failed");
        Self {
            conditions: wire.conditions.map(|all| if is_failed { all } else { of_interest(all) }),
            container_statuses: main.map(|all| all.into_iter().map(kept).collect()),
            exits: (!exits.is_empty()).then(|| Box::new(Exits(exits.into()))),
            init_restarts,
            nominated_node_name: wire.nominated_node_name,
            phase: wire.phase,
            pod_ip: wire.pod_ip,
            pod_ips: wire.pod_ips.map(<[PodIP]>::into_vec),
            start_time: wire.start_time,
        }
    }
}

impl WireContainer<'_> {
    fn exit(&self, role: Role) -> Option<Exit> {
        let terminated = self.state.as_ref()?.terminated.as_ref()?;
        let container = self.name.as_ref().map_or("", |name| &name.0).into();
        Some(Exit { container, role, code: terminated.exit_code.unwrap_or(0), finished_at: terminated.finished_at.clone() })
    }
}

fn of_interest(mut all: Vec<PodCondition>) -> Vec<PodCondition> {
    all.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
    all.into_boxed_slice().into_vec()
}
