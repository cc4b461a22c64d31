//! Changed services -> one transaction of rules: look, plan, act.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use api::{Key, faults::catch_all, task::Group};
use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{
    Error, Family, Mode,
    backend::Backend,
    cni::link::Net,
    conntrack,
    iptables::{jump, watch::Watch},
    late::{self, Late},
    model::{Node, NodeNetwork, Protocol, ServicePort, service_ports},
    service_tracker::{Entry, ServiceTracker},
};

/// What changes within this time after a sync goes into one transaction. A program runs for each one of iptables.
const REST_IPTABLES: Duration = Duration::from_millis(100);
const REST_NFTABLES: Duration = Duration::from_millis(1);
/// ... or within this time for each endpoint of the services that were planned: a change of one of ten thousand endpoints means a look at all, so
/// that a stream of changes costs the same each, however large the service is...
const REST_EACH: Duration = Duration::from_micros(10);
/// ... and no longer than this, which is upstream's default for all services (`minSyncPeriod`).
const REST_MAX: Duration = Duration::from_secs(1);
/// After a failure to write, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Rules seldom change alone: after a change, we look once for all within this time.
const CHECK_REST: Duration = Duration::from_secs(1);

/// The rules of this node for one family, and what they were made from. Upstream makes one proxier for each family as well.
pub struct Proxier {
    tracker: ServiceTracker,
    node: Arc<RwLock<Node>>,
    backend: Backend,
    mode: Mode,
    family: Family,
    cluster_cidr: Option<IpNet>,
    /// Of each service, those service ports whose flows may have to be forgotten.
    udp: HashMap<Key, Vec<ServicePort>>,
    /// Services whose rules could not be worked out.
    late: Late,
    planner: Planner,
    group: Group,
    /// What the kernel holds is not known: the next transaction writes everything.
    unknown: bool,
    /// What is forwarded passed the node's firewall when all was last written, as far as that can be seen.
    is_open: bool,
    /// Endpoints of the services of the last transaction.
    looked_at: usize,
}

/// What one service asks for in one family. Pure.
pub type Planner = fn(&Entry, &Node, Family) -> Vec<ServicePort>;

impl Proxier {
    /// Of `cluster_cidrs`, that of the family counts.
    ///
    /// # Errors
    /// [`Error::NotServed`].
    pub fn new(
        mode: Mode,
        family: Family,
        tracker: ServiceTracker,
        node: Arc<RwLock<Node>>,
        cluster_cidrs: &[IpNet],
        group: Group,
    ) -> Result<Self, Error> {
        let (backend, cluster_cidr) = (Backend::new(mode, family)?, family.pick_net(cluster_cidrs));
        let (udp, late) = (HashMap::new(), Late::default());
        Ok(Self {
            tracker,
            node,
            backend,
            mode,
            family,
            cluster_cidr,
            udp,
            late,
            planner: plan,
            group,
            unknown: true,
            is_open: false,
            looked_at: 0,
        })
    }

    /// Another that plans in place of ours: one that panics.
    #[cfg(test)]
    pub fn planned_by(self, planner: Planner) -> Self {
        Self { planner, ..self }
    }

    /// One look, plan and act.
    ///
    /// # Errors
    /// Where the rules could not be written; what changed is marked again, and the next call writes everything. A service that makes the work
    /// panic is no error: it is left as it is and tried again by itself, all others are written.
    pub async fn once(&mut self) -> Result<(), Error> {
        let mut changed = self.tracker.take_changed();
        changed.extend(self.late.take_due(Instant::now()));
        match catch_all("service proxy", self.apply(&changed)).await {
            Ok(Ok(left)) => {
                let (now, left) = (Instant::now(), left.into_iter().collect::<HashSet<Key>>());
                changed.difference(&left).for_each(|key| self.late.succeeded(key));
                left.into_iter().for_each(|key| self.late.failed(key, now));
                Ok(())
            }
            failed => {
                self.unknown = true;
                self.tracker.mark_changed(changed);
                failed.unwrap_or_else(|panic| Err(Error::Panicked(panic))).map(drop)
            }
        }
    }

    /// Goes on for ever: rests until services change, or another program removed our rules.
    pub async fn keep_on(mut self) {
        let watch = Watch::new();
        let (mut retry, mut look_at) = (RETRY, None);
        loop {
            let late = until(self.late.next());
            let look = async move { tokio::time::sleep_until(look_at.unwrap_or_else(Instant::now)).await };
            tokio::select! {
                () = self.tracker.changed() => {}
                () = late => {}
                () = watch.disturbed(), if look_at.is_none() => {
                    look_at = Some(Instant::now() + CHECK_REST);
                    continue;
                }
                () = look, if look_at.is_some() => {
                    look_at = None;
                    watch.drain();
                    if self.is_whole().await {
                        continue;
                    }
                }
            }
            match self.once().await {
                Ok(()) => {
                    retry = RETRY;
                    tokio::time::sleep(rest(self.mode, self.looked_at)).await;
                }
                Err(error) => {
                    tracing::error!(%error, "failed to sync proxy rules; retrying");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn is_whole(&mut self) -> bool {
        let whole = self.backend.is_whole().await && (!self.is_open || jump::stands(self.family));
        if !whole {
            tracing::warn!("another program removed proxy rules; writing them again");
            self.unknown = true;
        }
        whole
    }

    /// The services that were left out, because their rules could not be worked out.
    async fn apply(&mut self, changed: &HashSet<Key>) -> Result<Vec<Key>, Error> {
        let (planned, mut left) =
            late::each(changed.iter().cloned(), |key| (self.planner)(&self.tracker.entry(key), &self.node.read(), self.family));
        self.looked_at =
            planned.iter().flat_map(|(_, service_ports)| service_ports).map(|p| p.backends.cluster.len() + p.backends.local.len()).sum();
        if self.unknown {
            let node_network = self.node_network().await?;
            left.extend(self.backend.write_all(node_network, &planned).await?);
            (self.unknown, self.is_open) = (false, jump::stands(self.family));
        } else {
            left.extend(self.backend.write(&planned).await?);
        }
        self.forget_flows(planned).await;
        Ok(left)
    }

    async fn node_network(&self) -> Result<NodeNetwork, Error> {
        let node_ips = self.node_ips().await?;
        let node = self.node.read();
        let answered_here = self.family.pick(node.answered_here.iter().copied());
        Ok(NodeNetwork { family: self.family, cluster_cidr: self.cluster_cidr, node_ips, answered_here, vxlan_port: node.vxlan_port })
    }

    /// A failure is logged, not retried: flows end by themselves in the end.
    async fn forget_flows(&mut self, planned: Vec<(Key, Vec<ServicePort>)>) {
        let (mut due, mut gone) = (Vec::new(), Vec::new());
        for (key, service_ports) in planned {
            let new: Vec<ServicePort> = service_ports.into_iter().filter(|p| p.protocol == Protocol::Udp).collect();
            let old = if new.is_empty() { self.udp.remove(&key) } else { self.udp.insert(key, new.clone()) }.unwrap_or_default();
            if conntrack::is_due(&old, &new) {
                due.extend(new);
                gone.extend(old);
            }
        }
        if due.is_empty() && gone.is_empty() {
            return;
        }
        let cleaned = match self.node_ips().await {
            Ok(node_ips) => conntrack::clean(self.family, due, gone, node_ips).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = cleaned {
            tracing::warn!(%error, "failed to delete stale UDP conntrack entries");
        }
    }

    async fn node_ips(&self) -> Result<Vec<IpAddr>, Error> {
        let addresses = Net::here(&self.group.child())?.addresses(None).await?;
        Ok(self.family.pick(addresses.iter().map(IpNet::addr)))
    }
}

pub fn plan(entry: &Entry, node: &Node, family: Family) -> Vec<ServicePort> {
    let Some(service) = &entry.service else { return Vec::new() };
    service_ports(service, entry.slices.values().map(|s| &**s), node, family)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// How long to wait after a transaction for whose services so many endpoints were looked at.
pub(crate) fn rest(mode: Mode, endpoints: usize) -> Duration {
    let least = match mode {
        Mode::Iptables => REST_IPTABLES,
        Mode::Nftables => REST_NFTABLES,
    };
    REST_EACH.saturating_mul(u32::try_from(endpoints).unwrap_or(u32::MAX)).clamp(least, REST_MAX)
}
