//! Claims, volumes and classes as they change -> what the claims of a pod have, and what they could have on a node.
//!
//! What a pod is going to be given is nobody else's from then on (`assume`), until the caches show it or it is given back.
//! Source: `plugins/volumebinding/{binder,assume_cache}.go`.

pub mod drivers;
mod shelf;
#[cfg(test)]
mod tests;

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use api::{
    Key,
    k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::{StorageClass, VolumeAttachment},
    },
    steps,
};
use client::pods::node_affinity::{NamedLabels, term_matches};
use podspec::{
    claims::{self, Wanted, claim_of},
    csi,
};
use reconcile::own_key;
use tokio::sync::watch;

use self::{
    drivers::Drivers,
    shelf::{Shelf, pin_of_volume},
};
use crate::{
    node::{Facts, Slot},
    pod::PodInfo,
};

pub const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
pub const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
pub const NO_SPACE: &str = "node(s) did not have enough free storage";
pub const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

type Claim = Arc<PersistentVolumeClaim>;
type Volume = Arc<PersistentVolume>;

/// As the caches show them, and what was assumed since.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: HashMap<Key, Claim>,
    volumes: HashMap<String, Volume>,
    classes: HashMap<String, Arc<StorageClass>>,
    pub drivers: Drivers,
    /// Those without a `claimRef`, by class and by their nodes: bytes and name.
    free: HashMap<String, Shelf<(i64, String)>>,
    /// The others, by their claim.
    reserved: HashMap<Key, BTreeSet<String>>,
    /// What claims are about to be given.
    assumed: HashMap<Key, Assumed>,
    assumed_volumes: HashMap<String, Key>,
    /// Who waits for a change of a claim, or of a volume. Each goes with the first change after its last listener.
    claim_waits: HashMap<Key, watch::Sender<Option<Claim>>>,
    volume_waits: HashMap<String, watch::Sender<Option<Volume>>>,
    /// The pods on nodes that use a claim.
    users: HashMap<Key, HashSet<Key>>,
    /// The claims that pods of a node use, and how many pods each.
    on_node: HashMap<Slot, HashMap<Key, u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Assumed {
    Volume(String),
    /// A volume is to be made for that node.
    Node(String),
}

/// The claims of one pod.
#[derive(Clone, Debug, Default)]
pub struct PodClaims {
    pub bound: Vec<Claim>,
    /// Of classes that wait for a consumer; the smallest first.
    pub delayed: Vec<Claim>,
    /// Others that have no volume yet.
    pub immediate: usize,
}

/// What the unbound claims of a pod can have on a node.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub bindings: Vec<(Claim, Volume)>,
    /// A volume is to be made for these.
    pub provisions: Vec<Claim>,
}

/// The names of the claims that a pod's volumes are, and whether it is made for the pod.
pub fn names(pod: &PodInfo) -> impl Iterator<Item = (Key, bool)> + '_ {
    let volumes = pod.spec().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let named = volumes.iter().filter_map(|volume| volume.claim(&pod.key.name));
    named.map(|(name, is_own)| (Key::new(&pod.key.namespace, &name), is_own))
}

impl Volumes {
    /// `None`: it is gone.
    pub fn set_claim(&mut self, key: &Key, claim: Option<&Claim>) {
        match claim {
            Some(claim) => drop(self.claims.insert(key.clone(), claim.clone())),
            None => drop(self.claims.remove(key)),
        }
        let shows =
            |claim: &Claim| !claims::volume_name(claim).is_empty() || claims::annotation(&claim.metadata, claims::SELECTED_NODE).is_some();
        if claim.is_none_or(shows) {
            self.forget(key);
        }
        tell(&mut self.claim_waits, key, claim.cloned());
    }

    /// `None`: it is gone.
    pub fn set_volume(&mut self, name: &str, volume: Option<&Volume>) {
        let old = match volume {
            Some(volume) => self.volumes.insert(name.to_owned(), volume.clone()),
            None => self.volumes.remove(name),
        };
        if let Some(old) = old {
            self.take_off(name, &old);
        }
        if let Some(volume) = volume {
            self.put_on(name, volume);
        }
        if volume.is_none_or(|volume| claim_of(volume).is_some())
            && let Some(claim) = self.assumed_volumes.get(name).cloned()
        {
            self.forget(&claim);
        }
        tell(&mut self.volume_waits, name, volume.cloned());
    }

    pub fn set_class(&mut self, name: &str, class: Option<&Arc<StorageClass>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.to_owned(), class.clone())),
            None => drop(self.classes.remove(name)),
        }
    }

    pub fn claim(&self, key: &Key) -> Option<&Claim> {
        self.claims.get(key)
    }

    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    pub fn class(&self, name: &str) -> Option<&StorageClass> {
        self.classes.get(name).map(Arc::as_ref)
    }

    /// The claims that pods of the node use, and how many pods each.
    pub fn on_node(&self, node: Slot) -> Option<&HashMap<Key, u32>> {
        self.on_node.get(&node)
    }

    /// The driver of a claim's volume, after what the volume is called; one that is still to be made is called by its claim. Upstream:
    /// `getCSIDriverInfo`.
    pub fn of_driver(&self, claim: &Key) -> Option<(String, String)> {
        let claim = self.claims.get(claim)?;
        match self.volumes.get(claims::volume_name(claim)) {
            Some(volume) => Some((csi::name_of(volume)?, csi::source(volume)?.driver.clone())),
            None => {
                let (class, key) = (self.class(claims::class_of_claim(claim))?, own_key(&**claim));
                // No handle begins so.
                Some((format!("{}/\0{key}", class.provisioner), class.provisioner.clone()))
            }
        }
    }

    /// As [`Volumes::of_driver`], of what is attached. Upstream: `getNodeVolumeAttachmentInfo`.
    pub fn of_attachment(&self, attachment: &VolumeAttachment) -> Option<(String, String)> {
        let volume = self.volumes.get(attachment.spec.source.persistent_volume_name.as_ref()?)?;
        let driver = &attachment.spec.attacher;
        Some((csi::unique_name(driver, &csi::source(volume)?.volume_handle), driver.clone()))
    }

    /// The claim as it changes from now on.
    pub fn follow_claim(&mut self, key: &Key) -> watch::Receiver<Option<Claim>> {
        let now = self.claims.get(key).cloned();
        self.claim_waits.entry(key.clone()).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// As [`Volumes::follow_claim`].
    pub fn follow_volume(&mut self, name: &str) -> watch::Receiver<Option<Volume>> {
        let now = self.volumes.get(name).cloned();
        self.volume_waits.entry(name.to_owned()).or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// A pod came to a node (`by` > 0), or left it.
    pub fn used(&mut self, pod: &PodInfo, node: Slot, by: i32) {
        for (claim, _) in names(pod) {
            self.used_on(node, &claim, by);
            if by > 0 {
                self.users.entry(claim).or_default().insert(pod.key.clone());
            } else if let Some(users) = self.users.get_mut(&claim) {
                users.remove(&pod.key);
                if users.is_empty() {
                    self.users.remove(&claim);
                }
            }
        }
    }

    fn used_on(&mut self, node: Slot, claim: &Key, by: i32) {
        if by > 0 {
            *self.on_node.entry(node).or_default().entry(claim.clone()).or_default() += 1;
        } else if let Some(claims) = self.on_node.get_mut(&node) {
            if let Some(count) = claims.get_mut(claim) {
                *count = count.saturating_sub(1);
            }
            if claims.get(claim) == Some(&0) {
                claims.remove(claim);
            }
            if claims.is_empty() {
                self.on_node.remove(&node);
            }
        }
    }

    /// A pod on a node uses the claim.
    pub fn is_used(&self, claim: &Key) -> bool {
        self.users.contains_key(claim)
    }

    /// Sorts the claims of a pod, which are all there, by how far they are. Upstream: `GetPodVolumeClaims`.
    pub fn of_pod(&self, keys: impl Iterator<Item = Key>) -> PodClaims {
        let mut all = PodClaims::default();
        for claim in keys.filter_map(|key| self.claims.get(&key)) {
            let waits = || self.classes.get(claims::class_of_claim(claim)).is_some_and(|class| claims::waits_for_consumer(class));
            match () {
                () if claims::is_fully_bound(claim) => all.bound.push(claim.clone()),
                () if claims::volume_name(claim).is_empty() && waits() => all.delayed.push(claim.clone()),
                () => all.immediate += 1,
            }
        }
        all.delayed.sort_by_key(|claim| claims::requested(claim));
        all
    }

    /// What the pod's claims can have on the node. Upstream: `FindPodVolumes`.
    ///
    /// # Errors
    /// Why the node does not do.
    pub fn find(&self, pod: &PodClaims, node: &Facts) -> Result<Found, Vec<&'static str>> {
        let bound = pod.bound.iter().try_for_each(|claim| match self.volumes.get(claims::volume_name(claim)) {
            None => Err(NO_VOLUME),
            Some(volume) if !is_reachable(volume, node) => Err(NODE_CONFLICT),
            Some(_) => Ok(()),
        });
        let found = self.find_unbound(&pod.delayed, node);
        match (bound, found) {
            (Ok(()), Ok(found)) => Ok(found),
            (Ok(()), Err(why)) | (Err(why), Ok(_)) => Err(vec![why]),
            (Err(NODE_CONFLICT), Err(why)) => Err(vec![NODE_CONFLICT, why]),
            (Err(missing), Err(why)) => Err(vec![why, missing]),
        }
    }

    fn find_unbound(&self, delayed: &[Claim], node: &Facts) -> Result<Found, &'static str> {
        let (mut found, mut chosen) = (Found::default(), HashSet::new());
        for claim in delayed {
            match self.selected_node(claim) {
                Some(other) if other != node.name => return Err(BIND_CONFLICT),
                Some(_) => found.provisions.push(claim.clone()),
                None => match self.matching(claim, node, &chosen) {
                    Some(volume) => {
                        chosen.insert(volume.metadata.name.as_deref().unwrap_or_default());
                        found.bindings.push((claim.clone(), volume.clone()));
                    }
                    None => found.provisions.push(claim.clone()),
                },
            }
        }
        found.provisions.iter().try_for_each(|claim| self.can_be_made(claim, node))?;
        Ok(found)
    }

    fn selected_node<'a>(&'a self, claim: &'a PersistentVolumeClaim) -> Option<&'a str> {
        match self.assumed.get(&own_key(claim)) {
            Some(Assumed::Node(node)) => Some(node),
            _ => claims::annotation(&claim.metadata, claims::SELECTED_NODE),
        }
    }

    /// Upstream: `FindMatchingVolume`, as the scheduler asks it.
    fn matching(&self, claim: &PersistentVolumeClaim, node: &Facts, chosen: &HashSet<&str>) -> Option<&Volume> {
        let (wanted, key) = (Wanted::of(claim).ok()?, own_key(claim));
        let assumed = match self.assumed.get(&key) {
            Some(Assumed::Volume(name)) => Some(name),
            _ => None,
        };
        let its = self.reserved.get(&key).into_iter().flatten().chain(assumed);
        let is_its = |volume: &&Volume| {
            let is_bound = claims::is_bound_to(volume, claim) || assumed == volume.metadata.name.as_ref();
            is_bound && claims::class_of_volume(volume) == wanted.class && wanted.could_take(volume)
        };
        if let Some(volume) = its.filter_map(|name| self.volumes.get(name)).find(is_its) {
            return Some(volume).filter(|volume| is_reachable(volume, node));
        }
        let is_open = |name: &String| !chosen.contains(name.as_str()) && !self.assumed_volumes.contains_key(name);
        let fits = |name: &String| {
            is_open(name) && self.volumes.get(name).is_some_and(|volume| wanted.takes(volume) && is_reachable(volume, node))
        };
        let first = |set: &'_ BTreeSet<(i64, String)>| {
            let mut large_enough = steps::counted(set.range((wanted.bytes, String::new())..));
            large_enough.find(|(_, name)| fits(name)).cloned()
        };
        // The smallest of those of the node and of those that any node could have.
        let (_, smallest) = self.free.get(wanted.class)?.of(&node.labels).filter_map(first).min()?;
        self.volumes.get(&smallest)
    }

    /// Upstream: `checkVolumeProvisions`.
    fn can_be_made(&self, claim: &PersistentVolumeClaim, node: &Facts) -> Result<(), &'static str> {
        let name = claims::class_of_claim(claim);
        let class = self.class(name).ok_or(BIND_CONFLICT)?;
        let is_made = !class.provisioner.is_empty() && class.provisioner != claims::NO_PROVISIONER;
        if !is_made || !claims::topology_matches(class.allowed_topologies.as_deref().unwrap_or_default(), &node.labels) {
            return Err(BIND_CONFLICT);
        }
        let asks = claim.spec.as_ref().is_some_and(|spec| {
            spec.resources.as_ref().is_some_and(|all| all.requests.as_ref().is_some_and(|all| all.contains_key("storage")))
        });
        let has_room = self.drivers.has_room(&class.provisioner, name, asks.then(|| claims::requested(claim)), node);
        if has_room { Ok(()) } else { Err(NO_SPACE) }
    }

    /// Nobody else is given what was found.
    pub fn assume(&mut self, found: &Found, node: &str) {
        for (claim, volume) in &found.bindings {
            let (key, name) = (own_key(&**claim), volume.metadata.name.clone().unwrap_or_default());
            self.assumed_volumes.insert(name.clone(), key.clone());
            self.assumed.insert(key, Assumed::Volume(name));
        }
        for claim in &found.provisions {
            self.assumed.insert(own_key(&**claim), Assumed::Node(node.to_owned()));
        }
    }

    /// It is given back; may be called again, and where the caches show it already.
    pub fn revert(&mut self, found: &Found) {
        let all = found.bindings.iter().map(|(claim, _)| claim).chain(&found.provisions);
        all.for_each(|claim| self.forget(&own_key(&**claim)));
    }

    fn forget(&mut self, claim: &Key) {
        if let Some(Assumed::Volume(name)) = self.assumed.remove(claim) {
            self.assumed_volumes.remove(&name);
        }
    }

    fn put_on(&mut self, name: &str, volume: &PersistentVolume) {
        match claim_of(volume) {
            Some(claim) => drop(self.reserved.entry(claim).or_default().insert(name.to_owned())),
            None => {
                let of_class = self.free.entry(claims::class_of_volume(volume).to_owned()).or_default();
                of_class.insert(pin_of_volume(volume), (claims::capacity(volume), name.to_owned()));
            }
        }
    }

    fn take_off(&mut self, name: &str, volume: &PersistentVolume) {
        if let Some(claim) = claim_of(volume) {
            if let Some(names) = self.reserved.get_mut(&claim) {
                names.remove(name);
                if names.is_empty() {
                    self.reserved.remove(&claim);
                }
            }
        } else if let Some(names) = self.free.get_mut(claims::class_of_volume(volume)) {
            names.remove(pin_of_volume(volume), &(claims::capacity(volume), name.to_owned()));
            if names.is_empty() {
                self.free.remove(claims::class_of_volume(volume));
            }
        }
    }
}

fn tell<K, Q, V>(waits: &mut HashMap<K, watch::Sender<Option<V>>>, key: &Q, now: Option<V>)
where
    K: Borrow<Q> + Hash + Eq,
    Q: Hash + Eq + ?Sized,
{
    if let Some(sender) = waits.get(key) {
        sender.send_replace(now);
        if sender.receiver_count() == 0 {
            waits.remove(key);
        }
    }
}

/// The volume can be had on the node. Upstream: `CheckNodeAffinity`, which knows the node's labels alone.
pub fn is_reachable(volume: &PersistentVolume, node: &Facts) -> bool {
    let required = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    let node = NamedLabels { name: "", labels: &node.labels };
    required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)))
}
