//! What is known of CSI drivers: how many volumes a node may have of each, what is attached to it, and where there is room for new ones.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api::{
    Key,
    k8s::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment},
    quantity::Quantity,
    selector::Labels,
    steps,
};

use super::shelf::{Shelf, pin_of_selector};
use crate::node::Facts;

/// As the caches show them.
#[derive(Debug, Default)]
pub struct Drivers {
    /// By node and driver; of nodes that say how many.
    limits: HashMap<String, HashMap<String, i64>>,
    /// By node and its own name.
    attached: HashMap<String, HashMap<String, Arc<VolumeAttachment>>>,
    /// Drivers that tell of their room.
    told_by: HashSet<String>,
    /// Where there is room, by class.
    rooms: HashMap<String, Shelf<Key>>,
    capacities: HashMap<Key, Capacity>,
}

#[derive(Debug)]
struct Capacity {
    object: Arc<CSIStorageCapacity>,
    /// Of one volume, in bytes.
    limit: i64,
    nodes: Labels,
}

impl Drivers {
    /// `None`: it is gone.
    pub fn set_node(&mut self, name: &str, node: Option<&CSINode>) {
        let limits = node.map(limits).unwrap_or_default();
        if limits.is_empty() {
            self.limits.remove(name);
        } else {
            self.limits.insert(name.to_owned(), limits);
        }
    }

    /// As it was, and as it is.
    pub fn set_attachment(&mut self, old: Option<&Arc<VolumeAttachment>>, new: Option<&Arc<VolumeAttachment>>) {
        let name = |attachment: &VolumeAttachment| attachment.metadata.name.clone().unwrap_or_default();
        if let Some(old) = old
            && let Some(all) = self.attached.get_mut(&old.spec.node_name)
        {
            all.remove(&name(old));
            if all.is_empty() {
                self.attached.remove(&old.spec.node_name);
            }
        }
        if let Some(new) = new {
            self.attached.entry(new.spec.node_name.clone()).or_default().insert(name(new), new.clone());
        }
    }

    /// `None`: it is gone.
    pub fn set_driver(&mut self, name: &str, driver: Option<&CSIDriver>) {
        if driver.is_some_and(tells_capacity) {
            self.told_by.insert(name.to_owned());
        } else {
            self.told_by.remove(name);
        }
    }

    /// `None`: it is gone.
    pub fn set_capacity(&mut self, key: &Key, object: Option<&Arc<CSIStorageCapacity>>) {
        if let Some(old) = self.capacities.remove(key) {
            let class = &old.object.storage_class_name;
            if let Some(rooms) = self.rooms.get_mut(class) {
                rooms.remove(old.object.node_topology.as_ref().and_then(pin_of_selector), key);
                if rooms.is_empty() {
                    self.rooms.remove(class);
                }
            }
        }
        // One without any topology is of no node, and one without a size has no room.
        let Some(new) = object.and_then(Capacity::of) else { return };
        let pin = new.object.node_topology.as_ref().and_then(pin_of_selector);
        self.rooms.entry(new.object.storage_class_name.clone()).or_default().insert(pin, key.clone());
        self.capacities.insert(key.clone(), new);
    }

    /// Whether any node says how many volumes it may have.
    pub fn has_limits(&self) -> bool {
        !self.limits.is_empty()
    }

    /// By driver; a driver that is not there has no limit.
    pub fn limits(&self, node: &str) -> Option<&HashMap<String, i64>> {
        self.limits.get(node)
    }

    /// What is attached to the node, or is to be.
    pub fn attached(&self, node: &str) -> Option<&HashMap<String, Arc<VolumeAttachment>>> {
        self.attached.get(node)
    }

    /// Whether a volume of so many bytes of the class can be made on the node, as far as its driver tells. Upstream: `hasEnoughCapacity`.
    pub fn has_room(&self, driver: &str, class: &str, bytes: Option<i64>, node: &Facts) -> bool {
        let Some(bytes) = bytes.filter(|_| self.told_by.contains(driver)) else { return true };
        let rooms = self.rooms.get(class).into_iter().flat_map(|rooms| rooms.of(&node.labels));
        steps::counted(rooms.flatten()).any(|key| {
            let capacity = self.capacities.get(key);
            capacity.is_some_and(|capacity| capacity.limit >= bytes && capacity.nodes.matches(Some(&node.labels)))
        })
    }
}

impl Capacity {
    fn of(object: &Arc<CSIStorageCapacity>) -> Option<Self> {
        let nodes = Labels::from_selector(object.node_topology.as_ref()).ok()??;
        Some(Self { limit: volume_limit(object)?, nodes, object: object.clone() })
    }
}

/// Bytes of the largest volume that fits. Upstream: `volumeLimit`.
pub fn volume_limit(capacity: &CSIStorageCapacity) -> Option<i64> {
    let said = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref())?;
    Quantity::parse(&said.0).ok().map(Quantity::units)
}

/// It tells of its room by `CSIStorageCapacity`.
pub fn tells_capacity(driver: &CSIDriver) -> bool {
    driver.spec.storage_capacity == Some(true)
}

/// By driver, where it says so. Upstream: `getVolumeLimits`.
pub fn limits(node: &CSINode) -> HashMap<String, i64> {
    let count =
        |driver: &api::k8s::api::storage::v1::CSINodeDriver| Some((driver.name.clone(), driver.allocatable.as_ref()?.count?.into()));
    node.spec.drivers.iter().filter_map(count).collect()
}
