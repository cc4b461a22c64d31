//! What pods' volumes are made of, from the caches to the scheduler's state.

use std::sync::Arc;

use api::k8s::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
};
use client::{Cache, Caches, Object};
use reconcile::own_key;

use crate::state::State;

pub struct Storage {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    node_drivers: Cache<CSINode>,
    attachments: Cache<VolumeAttachment>,
    drivers: Cache<CSIDriver>,
    capacities: Cache<CSIStorageCapacity>,
}

impl Storage {
    pub fn new(caches: &Caches) -> Self {
        Self {
            claims: caches.of(),
            volumes: caches.of(),
            classes: caches.of(),
            node_drivers: caches.of(),
            attachments: caches.of(),
            drivers: caches.of(),
            capacities: caches.of(),
        }
    }

    pub async fn synced(&self) {
        tokio::join!(self.claims.synced(), self.volumes.synced(), self.classes.synced());
        tokio::join!(self.node_drivers.synced(), self.attachments.synced(), self.drivers.synced(), self.capacities.synced());
    }

    /// Each change as what it does to the state, which `apply` has.
    pub fn on_change(&self, apply: impl Fn(&dyn Fn(&mut State)) + Send + Sync + 'static) {
        let apply: Apply = Arc::new(apply);
        each(&self.classes, &apply, |state, name, old, new| state.class_changed(name, old, new));
        each(&self.volumes, &apply, |state, name, _, new| state.volume_changed(name, new));
        each(&self.node_drivers, &apply, |state, name, old, new| state.node_drivers_changed(name, old, new));
        each(&self.attachments, &apply, |state, _, old, new| state.attachment_changed(old, new));
        each(&self.drivers, &apply, |state, name, old, new| state.driver_changed(name, old, new));
        let to = apply.clone();
        self.capacities.on_change(move |old, new| {
            let Some(key) = new.or(old).map(|capacity| own_key(&**capacity)) else { return };
            to(&|state| state.capacity_changed(&key, old, new));
        });
        self.claims.on_change(move |old, new| {
            let Some(key) = new.or(old).map(|claim| own_key(&**claim)) else { return };
            apply(&|state| state.claim_changed(&key, new));
        });
    }
}

/// Has the state, and applies a change to it.
type Apply = Arc<dyn Fn(&dyn Fn(&mut State)) + Send + Sync>;
type Change<K> = fn(&mut State, &str, Option<&Arc<K>>, Option<&Arc<K>>);

fn each<K: Object>(cache: &Cache<K>, apply: &Apply, change: Change<K>) {
    let apply = apply.clone();
    cache.on_change(move |old, new| {
        let Some(object) = new.or(old) else { return };
        let name = object.object_meta().name;
        apply(&|state| change(state, name, old, new));
    });
}
