//! Pods, claims, volumes, attachments and nodes as the caches show them -> who wants a volume where, and where it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    Key,
    k8s::api::{
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSIDriver, VolumeAttachment},
    },
};
use client::{Cache, Caches, pods::Pod};
use podspec::{
    claims::{annotation, claim_of, is_for_pod, volume_name},
    csi,
};
use reconcile::own_key;
use tokio::time::Instant;

use super::{
    memory::{Listing, Memories},
    told,
};
use crate::index::{ByClaim, ByNode, Index, claims_of};

/// On nodes: this controller attaches volumes to it. Upstream: `ControllerManagedAttachAnnotation`.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// After so long a volume that nobody wants is detached from a node that is not ready, mounted or not. Upstream: `ReconcilerMaxWaitForUnmountDuration`.
const UNMOUNT_BOUND: Duration = Duration::from_secs(6 * 60);

/// What both loops look at. Cloning shares it.
#[derive(Clone)]
pub struct View {
    pub pods: Cache<Pod>,
    pub claims: Cache<PersistentVolumeClaim>,
    pub volumes: Cache<PersistentVolume>,
    pub nodes: Cache<Node>,
    pub drivers: Cache<CSIDriver>,
    pub attachments: Cache<VolumeAttachment>,
    users: ByClaim,
    on_node: ByNode,
    /// By what nodes call them.
    by_name: Index<PersistentVolume, String>,
    /// By the volume that they name, and by the node.
    by_volume: Index<VolumeAttachment, String>,
    by_node: Index<VolumeAttachment, String>,
    /// Nodes by the volumes that are listed as attached to them.
    listing: Index<Node, String>,
    memory: Memories,
    /// Wakes the loop of nodes.
    pub relist: Arc<OnceLock<Relist>>,
}

pub type Relist = Box<dyn Fn(Key) + Send + Sync>;

/// A volume and a node.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// Pods of the node that use the volume.
    pub pods: Vec<Arc<Pod>>,
    pub attachment: Option<Arc<VolumeAttachment>>,
    pub node: Option<Arc<Node>>,
    /// How long nobody has wanted it there.
    pub unwanted_for: Duration,
    /// It is being detached.
    pub is_leaving: bool,
}

/// Whether a volume that nobody wants on a node may be detached from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detach {
    /// The node has it mounted: not before that changes, or so long has passed.
    Wait(Option<Duration>),
    /// If the server, too, says that it is not mounted.
    Safe,
    /// Whether it is mounted or not; why, as the metric says it.
    Forced(&'static str),
}

impl View {
    pub fn new(caches: &Caches, users: &ByClaim, on_node: &ByNode) -> Self {
        let (volumes, attachments, nodes) = (caches.of(), caches.of(), caches.of());
        Self {
            pods: caches.of(),
            claims: caches.of(),
            drivers: caches.of(),
            users: users.clone(),
            on_node: on_node.clone(),
            by_name: Index::new(&volumes, |volume| csi::name_of(volume).into_iter().collect()),
            by_volume: Index::new(&attachments, |attachment: &VolumeAttachment| {
                attachment.spec.source.persistent_volume_name.clone().into_iter().collect()
            }),
            by_node: Index::new(&attachments, |attachment| vec![attachment.spec.node_name.clone()]),
            listing: Index::new(&nodes, |node| listed(node).into_iter().map(str::to_owned).collect()),
            memory: told::memories(),
            relist: Arc::default(),
            volumes,
            attachments,
            nodes,
        }
    }

    /// The first of the objects that are this volume.
    pub fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.by_name.at(&name.to_owned()).into_iter().next()
    }

    /// Where it is wanted, attached, or listed as attached. Costs as much as there are pods that use the volume.
    pub fn sites(&self, name: &str, now: Instant) -> BTreeMap<String, Site> {
        let (Some((driver, handle)), name) = (csi::split(name), name.to_owned()) else { return BTreeMap::new() };
        let (volumes, mut sites) = (self.by_name.at(&name), BTreeMap::<String, Site>::new());
        if self.is_attachable(driver) {
            for (pod, node) in volumes.iter().flat_map(|volume| self.users_of(volume)) {
                sites.entry(node).or_default().pods.push(pod);
            }
        }
        let named = volumes.iter().filter_map(|volume| volume.metadata.name.clone());
        for attachment in named.flat_map(|volume| self.by_volume.at(&volume)) {
            let node = &attachment.spec.node_name;
            if attachment.metadata.name.as_deref() == Some(&csi::attachment_name(handle, driver, node)) {
                sites.entry(node.clone()).or_default();
            }
        }
        for node in self.listing.at(&name) {
            sites.entry(node.metadata.name.clone().unwrap_or_default()).or_default();
        }
        for (node, site) in &mut sites {
            (site.attachment, site.node) = (self.attachment(driver, handle, node), self.nodes.get(&Key::new("", node)));
        }
        self.remember(&name, &mut sites, now);
        sites
    }

    /// The volumes that are wanted on one node, attached to it, or listed as attached. Costs as much as the node has pods.
    pub fn on_node(&self, node: &str, now: Instant) -> BTreeMap<String, Site> {
        let mut sites = BTreeMap::<String, Site>::new();
        for pod in self.on_node.at(&node.to_owned()).into_iter().filter(|pod| !pod.is_over()) {
            let names = self.used_by(&pod);
            let attachable = names.into_iter().filter(|name| csi::split(name).is_some_and(|(driver, _)| self.is_attachable(driver)));
            attachable.for_each(|name| sites.entry(name).or_default().pods.push(pod.clone()));
        }
        let attached = self.by_node.at(&node.to_owned());
        for name in attached.iter().flat_map(|attachment| self.names_of(attachment)) {
            sites.entry(name).or_default();
        }
        let object = self.nodes.get(&Key::new("", node));
        for name in object.iter().flat_map(|node| listed(node)) {
            sites.entry(name.to_owned()).or_default();
        }
        let memory = self.memory.lock();
        for (name, site) in &mut sites {
            let Some((driver, handle)) = csi::split(name) else { continue };
            (site.attachment, site.node) = (self.attachment(driver, handle, node), object.clone());
            let since = memory.volumes.get(name).and_then(|memory| memory.unwanted.get(node));
            site.unwanted_for = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(*since));
        }
        sites
    }

    /// Marks where the volume is about to be detached: from then on no list names it. To be done before the server is asked what the node lists and has
    /// mounted. Where a list is being written that may name it, it stays. What the last look marked ends here: the runner looks again once the cache shows what was deleted.
    /// Upstream has one loop, one pending operation for each volume, and `RemoveVolumeFromReportAsAttached`.
    pub fn leave(&self, name: &str, sites: &mut BTreeMap<String, Site>) {
        let mut memories = self.memory.lock();
        let known = &mut *memories;
        let Some(memory) = known.volumes.get_mut(name) else { return };
        let before = std::mem::take(&mut memory.leaving);
        for (node, site) in sites.iter_mut().filter(|(_, site)| site.is_to_go(name)) {
            site.is_leaving = known.listing.get(node).is_none_or(|names| !names.contains(name));
            memory.leaving.extend(site.is_leaving.then(|| node.clone()));
        }
        let stays: Vec<Key> = before.difference(&memory.leaving).map(|node| Key::new("", node)).collect();
        drop(memories);
        if let Some(relist) = self.relist.get() {
            stays.into_iter().for_each(relist);
        }
    }

    /// Begins to write the list of a node: none of the volumes that it may name is detached before that has ended, and it names none that is being detached.
    pub fn list(&self, node: &str, sites: &mut BTreeMap<String, Site>) -> Listing {
        let mut known = self.memory.lock();
        for (name, site) in &mut *sites {
            site.is_leaving = known.volumes.get(name).is_some_and(|memory| memory.leaving.contains(node));
        }
        let names = sites.iter().filter(|(name, site)| site.is_to_be_listed(name)).map(|(name, _)| name.clone()).collect();
        known.listing.insert(node.to_owned(), names);
        Listing::new(&self.memory, node)
    }

    /// What nodes call the volumes of drivers that a pod uses.
    pub fn used_by(&self, pod: &Pod) -> BTreeSet<String> {
        let names = claims_of(pod).into_iter().filter_map(|key| {
            let claim = self.claims.get(&key)?;
            let volume = self.volumes.get(&Key::new("", volume_name(&claim)))?;
            (is_of(&volume, &claim) && uses(pod, &claim)).then(|| csi::name_of(&volume)).flatten()
        });
        names.collect()
    }

    /// What the node of an attachment calls the volume; nothing where it is none of ours. One whose volume is gone is known by what the node lists.
    pub fn names_of(&self, attachment: &VolumeAttachment) -> Vec<String> {
        let (node, name) = (&attachment.spec.node_name, attachment.metadata.name.as_deref());
        let is_it = |of: &str| csi::split(of).is_some_and(|(driver, handle)| name == Some(&csi::attachment_name(handle, driver, node)));
        let volume = attachment.spec.source.persistent_volume_name.as_deref().and_then(|volume| self.volumes.get(&Key::new("", volume)));
        match volume {
            Some(volume) => csi::name_of(&volume).filter(|of| is_it(of)).into_iter().collect(),
            None => {
                let node = self.nodes.get(&Key::new("", node));
                node.iter().flat_map(|node| listed(node)).filter(|of| is_it(of)).map(str::to_owned).collect()
            }
        }
    }

    /// What is attached to the node, or listed as attached to it.
    pub fn names_at(&self, node: &str) -> BTreeSet<String> {
        let attached = self.by_node.at(&node.to_owned());
        let object = self.nodes.get(&Key::new("", node));
        let listed = object.iter().flat_map(|node| listed(node)).map(str::to_owned);
        attached.iter().flat_map(|attachment| self.names_of(attachment)).chain(listed).collect()
    }

    /// What the pods of the node use.
    pub fn used_at(&self, node: &str) -> BTreeSet<String> {
        self.on_node.at(&node.to_owned()).iter().flat_map(|pod| self.used_by(pod)).collect()
    }

    /// The nodes that a volume of this name is attached to by somebody.
    pub fn nodes_of(&self, volume: &str) -> BTreeSet<String> {
        self.by_volume.at(&volume.to_owned()).iter().map(|attachment| attachment.spec.node_name.clone()).collect()
    }

    /// Those whose pods were told that the volume is attached elsewhere.
    pub fn told(&self, name: &str) -> HashSet<String> {
        self.memory.lock().volumes.get(name).map(|memory| memory.told.clone()).unwrap_or_default()
    }

    pub fn tell(&self, name: &str, nodes: HashSet<String>) {
        if let Some(memory) = self.memory.lock().volumes.get_mut(name) {
            memory.told = nodes;
        }
    }

    fn is_attachable(&self, driver: &str) -> bool {
        csi::is_attachable(self.drivers.get(&Key::new("", driver)).as_deref().map(|driver| &driver.spec))
    }

    /// The pods on nodes that use the volume, with their nodes.
    fn users_of(&self, volume: &PersistentVolume) -> Vec<(Arc<Pod>, String)> {
        let Some((key, claim)) = claim_of(volume).and_then(|key| Some((key.clone(), self.claims.get(&key)?))) else { return Vec::new() };
        if !is_of(volume, &claim) {
            return Vec::new();
        }
        let users = self.users.at(&key).into_iter().filter(|pod| !node_of(pod).is_empty() && !pod.is_over() && uses(pod, &claim));
        users.map(|pod| (pod.clone(), node_of(&pod).to_owned())).collect()
    }

    /// Only one that is what its name says: anybody who may write attachments can write any.
    fn attachment(&self, driver: &str, handle: &str, node: &str) -> Option<Arc<VolumeAttachment>> {
        let found = self.attachments.get(&Key::new("", &csi::attachment_name(handle, driver, node)))?;
        (found.spec.attacher == driver && found.spec.node_name == node).then_some(found)
    }

    /// Since when nobody wants the volume somewhere, and how often it is wanted and attached.
    fn remember(&self, name: &str, sites: &mut BTreeMap<String, Site>, now: Instant) {
        let mut memories = self.memory.lock();
        let mut memory = memories.volumes.remove(name).unwrap_or_default();
        let before = std::mem::take(&mut memory.unwanted);
        for (node, site) in sites.iter_mut().filter(|(_, site)| site.pods.is_empty()) {
            let since = before.get(node).copied().unwrap_or(now);
            site.unwanted_for = now.saturating_duration_since(since);
            memory.unwanted.insert(node.clone(), since);
        }
        memory.told.retain(|node| sites.get(node).is_some_and(|site| !site.pods.is_empty()));
        memory.wanted = sites.values().filter(|site| !site.pods.is_empty()).count();
        memory.attached = sites.values().filter(|site| site.is_attached()).count();
        if !sites.is_empty() {
            memories.volumes.insert(name.to_owned(), memory);
        }
    }
}

impl Site {
    /// The driver says so, and it stays.
    pub fn is_attached(&self) -> bool {
        let attachment = self.attachment.as_ref().filter(|attachment| attachment.metadata.deletion_timestamp.is_none());
        attachment.is_some_and(|attachment| attachment.status.as_ref().is_some_and(|status| status.attached))
    }

    /// Whether the node is one that this controller attaches volumes to.
    pub fn is_managed(&self) -> bool {
        self.node.as_ref().is_some_and(|node| annotation(&node.metadata, MANAGED).is_some())
    }

    /// Asked where nobody wants the volume on the node. Of a node that is not there nobody knows what it has mounted. Upstream: `reconcile`.
    pub fn detach(&self, name: &str) -> Detach {
        let node = self.node.as_deref();
        let (is_ready, is_out) = (node.is_some_and(is_ready), node.is_some_and(is_out_of_service));
        let is_mounted = node.is_none_or(|node| is_in_use(node, name));
        let left = UNMOUNT_BOUND.saturating_sub(self.unwanted_for);
        match () {
            () if is_mounted && !is_out && (is_ready || !left.is_zero()) => Detach::Wait((!is_ready).then_some(left)),
            () if left.is_zero() => Detach::Forced("timeout"),
            () if is_out => Detach::Forced("out-of-service"),
            () => Detach::Safe,
        }
    }

    /// It is attached, nobody wants it there any more, the node does not list it either, and what the node has mounted does not keep it.
    pub fn is_to_go(&self, name: &str) -> bool {
        let is_listed = self.node.as_ref().is_some_and(|node| listed(node).contains(&name));
        let stays = |attachment: &Arc<VolumeAttachment>| attachment.metadata.deletion_timestamp.is_none();
        let is_unlisted = self.pods.is_empty() && !is_listed && self.attachment.as_ref().is_some_and(stays);
        is_unlisted && !matches!(self.detach(name), Detach::Wait(_))
    }

    /// Whether the node may take the volume for attached.
    pub fn is_to_be_listed(&self, name: &str) -> bool {
        self.is_attached() && !self.is_leaving && (!self.pods.is_empty() || matches!(self.detach(name), Detach::Wait(_)))
    }
}

/// Volumes of drivers that are listed as attached to the node.
pub fn listed(node: &Node) -> Vec<&str> {
    let all = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
    all.map(|attached| attached.name.as_str()).filter(|name| csi::split(name).is_some()).collect()
}

/// The node has it mounted, or is about to mount it.
pub fn is_in_use(node: &Node, name: &str) -> bool {
    node.status.iter().flat_map(|status| status.volumes_in_use.iter().flatten()).any(|used| used == name)
}

/// Whether the node differs in what decides about all of its volumes.
pub fn stands_otherwise(old: Option<&Node>, new: Option<&Node>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    let of = |node: &Node| (annotation(&node.metadata, MANAGED).is_some(), is_ready(node), is_out_of_service(node));
    old.metadata.uid != new.metadata.uid || of(old) != of(new)
}

/// The volumes that one of them lists or has mounted, and the other does not.
pub fn changed(old: Option<&Node>, new: Option<&Node>) -> HashSet<String> {
    let of = |node: Option<&Node>| -> HashSet<(bool, String)> {
        let lists = node.into_iter().flat_map(listed).map(|name| (true, name.to_owned()));
        let used = node.and_then(|node| node.status.as_ref()).into_iter().flat_map(|status| status.volumes_in_use.iter().flatten());
        lists.chain(used.map(|name| (false, name.clone()))).collect()
    };
    of(old).symmetric_difference(&of(new)).map(|(_, name)| name.clone()).collect()
}

/// Whether the pods differ in whether they use volumes, and where.
pub fn moved(old: Option<&Arc<Pod>>, new: Option<&Arc<Pod>>) -> bool {
    let of = |pod: &Arc<Pod>| (pod.metadata.uid.clone(), node_of(pod).to_owned(), pod.is_over());
    let has = |pod: &Arc<Pod>| !node_of(pod).is_empty() && !claims_of(pod).is_empty();
    old.map(of) != new.map(of) && (old.is_some_and(has) || new.is_some_and(has))
}

pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn is_ready(node: &Node) -> bool {
    node.status.iter().flat_map(|status| status.conditions.iter().flatten()).any(|one| one.type_ == "Ready" && one.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

/// They are bound to each other. Upstream: `getPVCFromCache`, `getPVSpecFromCache`.
fn is_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        && Some(volume_name(claim)) == volume.metadata.name.as_deref()
        && reference.is_some_and(|reference| reference.uid == claim.metadata.uid)
        && claim_of(volume) == Some(own_key(claim))
}

/// One of the pod's volumes is the claim: a claim that bears the name of an ephemeral volume's must be the pod's own.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(|volume| volume.claim(name));
    let mut its = volumes.filter(|(of, _)| Some(of) == claim.metadata.name.as_ref());
    its.any(|(_, is_own)| !is_own || is_for_pod(claim, name, pod.metadata.uid.as_deref()).is_ok())
}
