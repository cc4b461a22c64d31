//! Changes of what pods' volumes are made of -> the snapshot, and who is woken.

use std::sync::Arc;

use api::{
    Key,
    k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment},
    },
};
use tokio::time::Instant;

use super::State;
use crate::framework::Change;

impl State {
    pub fn claim_changed(&mut self, key: &Key, new: Option<&Arc<PersistentVolumeClaim>>) {
        self.snapshot.volumes.set_claim(key, new);
        if let Some(new) = new {
            self.queue.changed(&Change::ClaimChanged(new), Instant::now());
        }
    }

    pub fn volume_changed(&mut self, name: &str, new: Option<&Arc<PersistentVolume>>) {
        self.snapshot.volumes.set_volume(name, new);
        if let Some(new) = new {
            self.queue.changed(&Change::VolumeChanged(new), Instant::now());
        }
    }

    pub fn class_changed(&mut self, name: &str, old: Option<&Arc<StorageClass>>, new: Option<&Arc<StorageClass>>) {
        self.snapshot.volumes.set_class(name, new);
        if let Some(new) = new {
            self.queue.changed(&Change::ClassChanged(old.map(Arc::as_ref), new), Instant::now());
        }
    }

    /// What a node says of the drivers that it has.
    pub fn node_drivers_changed(&mut self, name: &str, old: Option<&Arc<CSINode>>, new: Option<&Arc<CSINode>>) {
        self.snapshot.volumes.drivers.set_node(name, new.map(Arc::as_ref));
        if let Some(new) = new {
            self.queue.changed(&Change::NodeDriversChanged(old.map(Arc::as_ref), new), Instant::now());
        }
    }

    pub fn attachment_changed(&mut self, old: Option<&Arc<VolumeAttachment>>, new: Option<&Arc<VolumeAttachment>>) {
        self.snapshot.volumes.drivers.set_attachment(old, new);
        if let (Some(old), None) = (old, new) {
            self.queue.changed(&Change::VolumeDetached(old), Instant::now());
        }
    }

    pub fn driver_changed(&mut self, name: &str, old: Option<&Arc<CSIDriver>>, new: Option<&Arc<CSIDriver>>) {
        self.snapshot.volumes.drivers.set_driver(name, new.map(Arc::as_ref));
        if let Some(old) = old {
            self.queue.changed(&Change::DriverChanged(old, new.map(Arc::as_ref)), Instant::now());
        }
    }

    pub fn capacity_changed(&mut self, key: &Key, old: Option<&Arc<CSIStorageCapacity>>, new: Option<&Arc<CSIStorageCapacity>>) {
        self.snapshot.volumes.drivers.set_capacity(key, new);
        if let Some(new) = new {
            self.queue.changed(&Change::CapacityChanged(old.map(Arc::as_ref), new), Instant::now());
        }
    }
}
