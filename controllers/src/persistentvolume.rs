//! Claims and volumes -> bound to each other; volumes whose claim is gone are released.
//!
//! A volume is written first, with the version that it was seen with, and the claim once the cache shows that the volume is its: no two claims have one
//! volume, whatever is lost between. Of what has to be written a run writes what it can at once, and the change brings it back for the rest.
//! Source: `pkg/controller/volume/persistentvolume/pv_controller.go`.

mod claim;
mod shelf;
#[cfg(test)]
mod tests;
mod volume;

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    names::segment,
};
use client::{Cache, Caches, kube, pods::Pod};
use podspec::claims::{self as rules, claim_of};
use reconcile::{Action, Controller, Plan, Wake, own_key};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    Entry, catalog,
    index::{ByClaim, claims_of},
};

pub use shelf::Shelf;
use shelf::is_pending;

const READ_BOUND: Duration = Duration::from_secs(30);
/// Where the server did not say whether an object is there.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Pods that an event names, which has room for fewer.
const CONSUMERS_TOLD: usize = 64;
/// A claim that waits is looked at again after so long, whatever happens (upstream: all of them, every 15 s).
const RESYNC: Duration = Duration::from_secs(60);

pub struct Claims {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    pods: Cache<Pod>,
    users: ByClaim,
    shelf: Shelf,
    client: kube::Client,
}

pub struct Volumes {
    volumes: Cache<PersistentVolume>,
    claims: Cache<PersistentVolumeClaim>,
    shelf: Shelf,
    client: kube::Client,
}

/// An object that another one names.
#[derive(Clone, Debug)]
pub enum Named<K> {
    Is(Arc<K>),
    Gone,
    /// The server did not say.
    Unknown,
}

impl Claims {
    /// What a row of the table has no room for.
    pub fn of(entry: &Entry<'_>) -> Self {
        Self::new(entry.caches, &entry.shelf, &entry.users, entry.client())
    }

    /// `client` reads volumes that the cache does not show.
    fn new(caches: &Caches, shelf: &Shelf, users: &ByClaim, client: kube::Client) -> Self {
        let (claims, volumes, classes, pods) = (caches.of(), caches.of(), caches.of(), caches.of());
        Self { claims, volumes, classes, pods, users: users.clone(), shelf: shelf.clone(), client }
    }

    /// A claim is not told that it lost its volume where only the cache does not show it.
    async fn named(&self, claim: &PersistentVolumeClaim) -> Named<PersistentVolume> {
        let name = rules::volume_name(claim);
        if name.is_empty() {
            return Named::Gone;
        }
        match self.volumes.get(&Key::new("", name)) {
            Some(volume) => Named::Is(volume),
            None if phase_of_claim(claim) == "Lost" => Named::Gone,
            None => read(&self.client, &format!("/api/v1/persistentvolumes/{}", segment(name)), name).await,
        }
    }

    fn unbound(&self, claim: &PersistentVolumeClaim, key: &Key) -> claim::Unbound {
        let class =
            Some(rules::class_of_claim(claim)).filter(|class| !class.is_empty()).and_then(|class| self.classes.get(&Key::new("", class)));
        let best = self.shelf.best(claim, class.as_deref().is_some_and(rules::waits_for_consumer));
        let default_class = if matches!(best, Ok(None)) && rules::stated_class(claim).is_none() {
            let all = self.classes.list();
            rules::default_class(all.iter().map(|class| &**class)).and_then(|class| class.metadata.name.clone())
        } else {
            None
        };
        // Nobody else is told for whom it waits.
        let waits = matches!(best, Ok(None)) && class.as_deref().is_some_and(rules::waits_for_consumer);
        let users = if waits { self.users.at(key) } else { Vec::new() };
        let waiting = users.into_iter().filter(|pod| !pod.is_over() && node_of(pod).is_empty()).take(CONSUMERS_TOLD);
        let consumers = waiting.filter_map(|pod| pod.metadata.name.clone()).collect();
        claim::Unbound { best, class, default_class, consumers }
    }
}

impl Controller for Claims {
    type World = claim::World;

    fn name(&self) -> &'static str {
        "persistentvolume-binder-claims"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.claims);
        wake.on(&self.volumes, |volume, wake| claim_of(volume).into_iter().for_each(wake));
        let (woken, shelf) = (wake.handle(), self.shelf.clone());
        self.volumes.on_change(move |old, new| {
            let is_new = |volume: &&Arc<PersistentVolume>| rules::is_available(volume) && !old.is_some_and(|old| rules::is_available(old));
            new.filter(is_new).into_iter().flat_map(|volume| shelf.takers(volume)).for_each(&woken);
        });
        wake.needs(&self.classes);
        let (woken, shelf) = (wake.handle(), self.shelf.clone());
        self.classes.on_change(move |_, new| {
            let Some(class) = new else { return };
            let is_default = rules::default_class(std::iter::once(&**class)).is_some();
            shelf.pending(class.metadata.name.as_deref().unwrap_or_default(), is_default).into_iter().for_each(&woken);
        });
        // Whom a claim waits for is told; nothing else.
        let claims = self.claims.clone();
        wake.on(&self.pods, move |pod, wake| {
            let waits = |key: &Key| claims.get(key).is_some_and(|claim| is_pending(&claim));
            if node_of(pod).is_empty() {
                claims_of(pod).into_iter().filter(waits).for_each(wake);
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<Self::World> {
        let claim = self.claims.get(key)?;
        let binding = if is_pending(&claim) {
            claim::Binding::Unbound(self.unbound(&claim, key))
        } else {
            claim::Binding::Named(self.named(&claim).await)
        };
        Some(claim::World { claim, binding })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        claim::plan(world)
    }
}

impl Volumes {
    /// `client` reads claims that the cache does not show.
    pub fn new(caches: &Caches, shelf: &Shelf, client: kube::Client) -> Self {
        Self { volumes: caches.of(), claims: caches.of(), shelf: shelf.clone(), client }
    }

    /// A volume is not released where only the cache does not show its claim.
    async fn claim(&self, volume: &PersistentVolume) -> Option<Named<PersistentVolumeClaim>> {
        let uid = volume.spec.as_ref()?.claim_ref.as_ref()?.uid.as_deref().filter(|uid| !uid.is_empty())?;
        let key = claim_of(volume)?;
        let is_it = |claim: &Arc<PersistentVolumeClaim>| claim.metadata.uid.as_deref() == Some(uid);
        let cached = self.claims.get(&key);
        Some(match cached.clone().filter(is_it) {
            Some(claim) => Named::Is(claim),
            None if cached.is_none() && matches!(phase_of_volume(volume), "Released" | "Failed") => Named::Gone,
            None => {
                let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}", segment(&key.namespace), segment(&key.name));
                match read(&self.client, &path, &key.name).await {
                    Named::Is(claim) if !is_it(&claim) => Named::Gone,
                    answer => answer,
                }
            }
        })
    }
}

impl Controller for Volumes {
    type World = volume::World;

    fn name(&self) -> &'static str {
        "persistentvolume-binder-volumes"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.volumes);
        let shelf = self.shelf.clone();
        wake.on(&self.claims, move |claim, wake| {
            let named = Some(rules::volume_name(claim)).filter(|name| !name.is_empty());
            named.into_iter().for_each(|name| wake(Key::new("", name)));
            let reserved = shelf.reserved(&own_key(claim)).into_iter();
            reserved.filter(|name| Some(name.as_str()) != named).for_each(|name| wake(Key::new("", &name)));
        });
    }

    async fn observe(&self, key: &Key) -> Option<Self::World> {
        let volume = self.volumes.get(key)?;
        let claim = self.claim(&volume).await;
        Some(volume::World { volume, claim })
    }

    fn plan(&self, world: &Self::World, _: &Key) -> Plan {
        volume::plan(world)
    }
}

async fn read<K: DeserializeOwned>(client: &kube::Client, path: &str, name: &str) -> Named<K> {
    match timeout(READ_BOUND, catalog::get(client, path)).await {
        Ok(Ok(object)) => match serde_json::from_value(object) {
            Ok(object) => Named::Is(Arc::new(object)),
            // It is there, and cannot be read: nobody acts on that.
            Err(_) => Named::Unknown,
        },
        // Not of a path that is not served: data are deleted on the strength of this.
        Ok(Err(error)) if catalog::is_absent(&error, name) => Named::Gone,
        Ok(Err(error)) => {
            tracing::warn!(path, %error, "failed to read what the cache does not show");
            Named::Unknown
        }
        Err(_) => Named::Unknown,
    }
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn phase_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn phase_of_volume(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The volume in that phase; `None` where it is already. Upstream: `updateVolumePhase`.
fn volume_in_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<Action> {
    if phase_of_volume(volume) == phase {
        return None;
    }
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.into());
    status.message = Some(message.to_owned()).filter(|message| !message.is_empty());
    Some(Action::update_status(&changed))
}
