//! What nodes say and what the kernel has -> the kernel as it should be: look, plan, act.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use api::{faults::catch_all, k8s::api::networking::v1::ServiceCIDR, task::Group};
use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    Config, LINK_PREFIX, PodNetwork,
    facts::{Claim, NodeFacts},
    kernel::{Device, Done, Kernel},
    mtu::{pod_mtu, underlay},
    peers::{Own, Peers},
    plan::{self, By, Change, Entries, Underlay, Way, vtep_address, vtep_mac},
    watch::{Wanted, Watch},
};
use crate::{Error, iptables::watch::Watch as RulesWatch, nftables::Guard, sysctl};

/// What comes within this time after a change is done together with it.
const REST: Duration = Duration::from_millis(100);
/// After a failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Rules seldom change alone: we look once for all within this time.
const RULES_REST: Duration = Duration::from_secs(1);
/// Loose (RFC 3704): what a node sends from its own address comes by VXLAN, while we would answer it without.
const LOOSE: &str = "2";

/// What caches told since it was last looked at: of each node, what it says now. Bounded by the number of nodes. Cloning shares it.
#[derive(Clone, Default)]
pub struct Inbox {
    inner: Arc<Mutex<Told>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Told {
    /// `None`: it is gone.
    nodes: BTreeMap<String, Option<Claim>>,
    /// By name; all there are.
    service_cidrs: BTreeMap<String, Vec<Ipv4Net>>,
    services_changed: bool,
}

/// The pod network of this node.
pub struct Driver {
    config: Config,
    node_ip: Ipv4Addr,
    inbox: Inbox,
    kernel: Kernel,
    watch: Watch,
    guard: Option<Guard>,
    /// Where the guard stands: whether it still does.
    rules_watch: Option<RulesWatch>,
    peers: Peers,
    underlay: Option<Underlay>,
    /// Of the underlay, in bytes.
    mtu: u32,
    ways: BTreeMap<String, Way>,
    /// What was last said of a node that packets do not come to, or perhaps not.
    told: BTreeMap<String, String>,
    /// The guard has the nodes of `ways`.
    guarded: bool,
    /// A table of an earlier run may be there.
    is_table_left: bool,
    /// How many of the ways are by VXLAN.
    vxlans: usize,
    wanted: Wanted,
    /// What the kernel has is not known: all is looked at.
    unknown: bool,
}

impl Inbox {
    pub fn node(&self, old: Option<&NodeFacts>, new: Option<&NodeFacts>) {
        let Some(name) = new.or(old).map(|facts| facts.metadata.name.clone()) else { return };
        let (before, now) = (old.map(NodeFacts::claim), new.map(NodeFacts::claim));
        // Most of what a node tells (that it lives) is not for us.
        if before != now {
            self.inner.lock().nodes.insert(name, now);
            self.changed.notify_one();
        }
    }

    pub fn service_cidr(&self, old: Option<&ServiceCIDR>, new: Option<&ServiceCIDR>) {
        let Some(name) = new.or(old).and_then(|range| range.metadata.name.clone()) else { return };
        let nets = |range: &ServiceCIDR| {
            let all = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
            four(&all.filter_map(|text| text.parse().ok()).collect::<Vec<IpNet>>())
        };
        let mut told = self.inner.lock();
        match new {
            Some(range) => drop(told.service_cidrs.insert(name, nets(range))),
            None => drop(told.service_cidrs.remove(&name)),
        }
        told.services_changed = true;
        drop(told);
        self.changed.notify_one();
    }
}

impl Driver {
    /// # Errors
    /// Where the kernel does not open its netlink.
    pub fn new(config: &Config, node_ip: Ipv4Addr, inbox: Inbox, group: &Group) -> Result<Self, Error> {
        let watch = Watch::open().map_err(crate::netlink::Error::Io)?;
        let mut peers = Peers::default();
        peers.set_own(Own { name: config.node_name.clone(), cluster_cidrs: four(&config.cluster_cidrs), ..Own::default() });
        Ok(Self {
            node_ip,
            inbox,
            kernel: Kernel::open(group)?,
            watch,
            // Nobody needs it where no pair needs VXLAN.
            guard: Guard::open().inspect_err(|error| tracing::debug!(%error, "kernel does not support nf_tables")).ok(),
            rules_watch: None,
            peers,
            underlay: None,
            mtu: 0,
            ways: BTreeMap::new(),
            told: BTreeMap::new(),
            guarded: false,
            is_table_left: true,
            vxlans: 0,
            wanted: Wanted::default(),
            unknown: true,
            config: config.clone(),
        })
    }

    /// Goes on for ever: rests until nodes change, or another program changes what is ours.
    pub async fn keep_on(mut self) {
        let mut retry = RETRY;
        loop {
            let mut again = None;
            match self.once().await {
                Ok(()) => retry = RETRY,
                Err(error) => {
                    tracing::error!(%error, "failed to bring up all of the pod network; retrying");
                    again = Some(retry);
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
            sleep(REST).await;
            tokio::select! {
                () = after(again) => {}
                () = self.inbox.changed.notified() => {}
                () = self.watch.disturbed(&self.wanted) => self.unknown = true,
                () = disturbed(self.rules_watch.as_ref()) => {
                    sleep(RULES_REST).await;
                    self.rules_watch.iter().for_each(RulesWatch::drain);
                    self.unknown |= self.guard.as_ref().is_some_and(|guard| !guard.is_whole());
                }
            }
        }
    }

    /// One look, plan and act.
    ///
    /// # Errors
    /// Where the kernel would not; the next call looks at everything. What it refuses of one node keeps the others' from nobody.
    async fn once(&mut self) -> Result<(), Error> {
        let full = std::mem::replace(&mut self.unknown, true);
        let done = catch_all("pod network", self.apply(full)).await;
        done.unwrap_or_else(|panic| Err(Error::Panicked(panic)))
    }

    async fn apply(&mut self, full: bool) -> Result<(), Error> {
        if full {
            self.watch.drain();
            self.look().await?;
        }
        let (names, full) = self.take(full);
        let Some(underlay) = self.underlay.clone() else {
            self.unknown = false;
            return Ok(());
        };
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for name in names {
            old.extend(self.ways.remove(&name));
            if let Some(way) = self.judge(&name, &underlay) {
                new.push(way.clone());
                self.ways.insert(name, way);
            }
        }
        let by_vxlan = |ways: &[Way]| ways.iter().filter(|way| way.by == By::Vxlan).count();
        self.vxlans = self.vxlans + by_vxlan(&new) - by_vxlan(&old);
        // Who is reached without the device does not wait for it.
        let (device, outcome) = match self.device(full, &old, &new).await {
            Ok(device) => (device, Ok(())),
            Err(error) => (self.wanted.device, Err(error)),
        };
        let full = full || device != self.wanted.device;
        self.wanted.device = device;
        let own_range = self.peers.own_range();
        let entries = |ways: &[Way]| {
            let mut all = Entries::default();
            let each = |own| ways.iter().map(move |way| (way, own));
            own_range.into_iter().flat_map(each).for_each(|(way, own)| all.extend(Entries::of(way, &underlay, own, device)));
            all
        };
        let (there, wanted) = if full {
            self.wanted.entries = entries(&self.ways.values().cloned().collect::<Vec<_>>());
            (self.kernel.read(device).await?, self.wanted.entries.clone())
        } else {
            let (there, wanted) = (entries(&old), entries(&new));
            self.wanted.entries.replace(&there, wanted.clone());
            (there, wanted)
        };
        self.act(&there.steps_to(&wanted)).await.and(outcome)?;
        self.unknown = false;
        Ok(())
    }

    /// All of it, also where one is refused: the last refusal.
    async fn act(&self, changes: &[Change]) -> Result<(), Error> {
        let mut outcome = Ok(());
        for change in changes {
            match self.kernel.apply(change, self.wanted.device).await {
                Ok(Done::Yes) => {}
                Ok(Done::Foreign) => {
                    tracing::warn!(?change, "another program has a route of its own to the pods of a node; it is left alone");
                }
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }

    /// This machine, as it is now.
    async fn look(&mut self) -> Result<(), Error> {
        let all = self.kernel.interfaces().await?;
        let nets = || all.iter().filter(|link| !link.name.starts_with(LINK_PREFIX)).flat_map(|link| &link.addresses);
        let mut addresses: BTreeSet<Ipv4Addr> = nets().map(Ipv4Net::addr).collect();
        addresses.insert(self.node_ip);
        let subnets = nets().map(Ipv4Net::trunc).collect();
        self.peers.set_own(Own { addresses, subnets, ..self.peers.own().clone() });
        self.underlay = underlay(&all, self.node_ip).map(|link| {
            let subnet = link.addresses.iter().find(|net| net.addr() == self.node_ip);
            self.mtu = link.mtu;
            let alone = Ipv4Net::from(self.node_ip);
            Underlay { link: link.index, address: self.node_ip, subnet: subnet.copied().unwrap_or(alone), is_ours: subnet.is_some() }
        });
        self.wanted.underlay = self.underlay.as_ref().map(|underlay| underlay.link);
        if self.underlay.is_none() {
            tracing::warn!(node_ip = %self.node_ip, "no interface leads to other nodes");
        }
        Ok(())
    }

    /// Takes what was told; the nodes that are to be judged again, and whether that is all of them.
    fn take(&mut self, full: bool) -> (BTreeSet<String>, bool) {
        let (nodes, services) = {
            let mut told = self.inbox.inner.lock();
            let services = std::mem::take(&mut told.services_changed);
            (std::mem::take(&mut told.nodes), services.then(|| told.service_cidrs.values().flatten().copied().collect()))
        };
        let own_range = self.peers.own_range();
        let mut touched = BTreeSet::new();
        for (name, claim) in nodes {
            touched.extend(self.peers.set(&name, claim));
        }
        let ranges_differ = services.is_some_and(|service_cidrs| self.peers.set_own(Own { service_cidrs, ..self.peers.own().clone() }));
        let all = full || ranges_differ || own_range != self.peers.own_range();
        if all {
            touched.extend(self.peers.names().chain(self.ways.keys()).cloned());
        }
        (touched, all)
    }

    /// The way to a node; why there is none is told once.
    fn judge(&mut self, name: &str, underlay: &Underlay) -> Option<Way> {
        let why = match self.peers.judge(name) {
            None => None,
            Some(Ok(peer)) => match plan::way(&peer, self.config.mode, underlay) {
                Some(way) => {
                    let other = self.peers.sharing(name).next();
                    let shared = other.map(|other| format!("its InternalIP {} is that of node {other} as well", peer.address));
                    self.tell(name, shared, "pods of a node may not be reached");
                    return Some(way);
                }
                None => Some(format!("{} is not on our subnet {}, and --pod-network is route", peer.address, underlay.subnet)),
            },
            Some(Err(refusal)) if refusal.is_for_now() => None,
            Some(Err(refusal)) => Some(refusal.to_string()),
        };
        self.tell(name, why, "pods of a node are not reached");
        None
    }

    /// Once, until it is something else.
    fn tell(&mut self, name: &str, why: Option<String>, what: &'static str) {
        match why {
            Some(why) if self.told.get(name) != Some(&why) => {
                tracing::warn!(node = name, why, "{what}");
                self.told.insert(name.to_owned(), why);
            }
            Some(_) => {}
            None => drop(self.told.remove(name)),
        }
    }

    /// The VXLAN device's index, if any pair needs it. Its port is guarded before anybody listens there.
    async fn device(&mut self, full: bool, old: &[Way], new: &[Way]) -> Result<Option<u32>, Error> {
        let name = format!("{LINK_PREFIX}{}", self.config.vni);
        let Some(own_range) = self.peers.own_range().filter(|_| self.vxlans > 0) else {
            if full || self.wanted.device.is_some() {
                self.kernel.delete_device(&name).await?;
            }
            if self.is_table_left && self.guard.is_some() {
                Guard::remove()?;
                self.is_table_left = false;
            }
            (self.guarded, self.rules_watch) = (false, None);
            return Ok(None);
        };
        if let Err(error) = self.guard(full, old, new) {
            if !self.guard.as_ref().is_some_and(Guard::is_whole) {
                self.kernel.delete_device(&name).await?;
            }
            return Err(error);
        }
        if let (Some(index), false) = (self.wanted.device, full) {
            return Ok(Some(index));
        }
        let is_ours = self.underlay.as_ref().is_some_and(|underlay| underlay.is_ours);
        let wanted = Device {
            vni: self.config.vni,
            port: self.config.port,
            local: is_ours.then_some(self.node_ip),
            mac: vtep_mac(own_range),
            mtu: pod_mtu(PodNetwork::Vxlan, self.mtu, self.node_ip.into()),
            address: vtep_address(own_range),
            name,
        };
        let index = self.kernel.ensure_device(&wanted).await?;
        if let Err(error) = sysctl::set(&PathBuf::from(format!("net/ipv4/conf/{}/rp_filter", wanted.name)), LOOSE) {
            tracing::warn!(%error, device = wanted.name, "rp_filter cannot be set; what nodes send from their own addresses may be dropped");
        }
        Ok(Some(index))
    }

    /// Who may send to the VXLAN port: those that packets are sent to, by whatever way.
    fn guard(&mut self, full: bool, old: &[Way], new: &[Way]) -> Result<(), Error> {
        // Before it is written, so that nothing is missed.
        self.rules_watch.get_or_insert_with(RulesWatch::new);
        let guard = match self.guard.take() {
            Some(guard) => guard,
            None => Guard::open()?,
        };
        let written = if full || !self.guarded {
            guard.write(self.config.port, self.ways.values().map(|way| way.node))
        } else {
            let (before, now): (BTreeSet<Ipv4Addr>, BTreeSet<Ipv4Addr>) =
                (old.iter().map(|w| w.node).collect(), new.iter().map(|w| w.node).collect());
            // An address may be that of several nodes: it stays while one of them has it.
            let is_another = |ip: &Ipv4Addr| self.peers.at(*ip).any(|name| self.ways.get(name).is_some_and(|way| way.node == *ip));
            let come: Vec<Ipv4Addr> = now.difference(&before).copied().collect();
            let gone: Vec<Ipv4Addr> = before.difference(&now).copied().filter(|ip| !is_another(ip)).collect();
            guard.change(&come, &gone)
        };
        self.guard = Some(guard);
        (self.guarded, self.is_table_left) = (written.is_ok(), true);
        Ok(written?)
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}

async fn disturbed(rules: Option<&RulesWatch>) {
    match rules {
        Some(rules) => rules.disturbed().await,
        None => pending().await,
    }
}

fn four(nets: &[IpNet]) -> Vec<Ipv4Net> {
    nets.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(net.trunc()) } else { None }).collect()
}
