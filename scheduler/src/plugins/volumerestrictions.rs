//! VolumeRestrictions: a claim with `ReadWriteOncePod` is had by one pod, and a disk that pods name themselves by those of a node that may share it.
//! Source: `plugins/volumerestrictions`.

use std::collections::{HashMap, HashSet};

use api::Key;
use client::pods::Disk;
use podspec::claims::modes_of_claim;

use crate::{
    framework::{Ask, Change, EquivalenceClass, Plugin, PreFilter, PreFilterExtensions, StateData},
    node::{NodeInfo, Slot},
    plugins::sign,
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    volumes::names,
};

const NAME: &str = "VolumeRestrictions";
/// Upstream: `ErrReasonReadWriteOncePodConflict`.
const CONFLICT: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";

/// Upstream: `ErrReasonDiskConflict`.
const DISK_CONFLICT: &str = "node(s) had no available disk";

pub struct VolumeRestrictions;

/// The claims of one pod that only one may have, and how many others have each.
#[derive(Clone)]
struct Conflicts {
    claims: HashSet<Key>,
    count: i64,
}

impl StateData for Conflicts {}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sign(&self, pod: &PodInfo, signature: &mut Vec<u8>) {
        let all: Vec<&Disk> = disks(pod).collect();
        sign(signature, &all);
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Refusal> {
        let mut others = node.pods.iter().flat_map(|other| disks(other)).peekable();
        if others.peek().is_none() || disks(pod).next().is_none() {
            return None;
        }
        let held = Held::by(pod);
        let taken = others.any(|other| held.conflicts(other));
        taken.then(|| Refusal::resolvable(NAME, DISK_CONFLICT))
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let volumes = &at.snapshot.volumes;
        let is_alone = |key: &Key| volumes.claim(key).is_some_and(|claim| modes_of_claim(claim).is_of_one_pod());
        let claims: HashSet<Key> = names(at.pod).filter(|(_, is_own)| !is_own).map(|(key, _)| key).filter(is_alone).collect();
        let count = i64::try_from(claims.iter().filter(|key| volumes.is_used(key)).count()).unwrap_or(i64::MAX);
        if count > 0 {
            at.keep(Conflicts { claims, count });
        }
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        _snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        Some(Box::new(ask.state.read::<Conflicts>()?.clone()))
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::PodGone(gone, _) => {
                names(pod).any(|(key, _)| names(gone).any(|(other, _)| other == key))
                    || disks(gone).next().is_some() && {
                        let held = Held::by(pod);
                        disks(gone).any(|disk| held.conflicts(disk))
                    }
            }
            Change::ClaimChanged(claim) => names(pod).any(|(key, _)| key == reconcile::own_key(*claim)),
            _ => false,
        }
    }
}

fn disks(pod: &PodInfo) -> impl Iterator<Item = &Disk> {
    pod.spec().into_iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(|volume| volume.disk.as_deref())
}

/// The disks of one pod, by what they are: a pod may name tens of thousands, and each of them as many monitors, and so may every other.
#[derive(Default)]
struct Held<'a> {
    /// Whether one is written to.
    disks: HashMap<(Sort, &'a str), bool>,
    /// By pool and image, and by monitor.
    images: HashMap<(&'a str, &'a str), HashMap<&'a str, bool>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Sort {
    Gce,
    Aws,
    Iscsi,
}

impl<'a> Held<'a> {
    fn by(pod: &'a PodInfo) -> Self {
        let mut held = Self::default();
        for disk in disks(pod) {
            if let Some((sort, name, writes)) = named(disk) {
                *held.disks.entry((sort, name)).or_default() |= writes;
            } else if let Disk::Rbd { monitors, pool, image, read_only } = disk {
                let by_monitor = held.images.entry((pool, image)).or_default();
                monitors.iter().for_each(|monitor| *by_monitor.entry(monitor).or_default() |= !read_only);
            }
        }
        held
    }

    /// Whether another pod of the node cannot have this one beside them. Upstream: `isVolumeConflict`.
    fn conflicts(&self, other: &Disk) -> bool {
        if let Some((sort, name, writes)) = named(other) {
            return self.disks.get(&(sort, name)).is_some_and(|held| *held || writes);
        }
        let Disk::Rbd { monitors, pool, image, read_only } = other else { return false };
        let Some(by_monitor) = self.images.get(&(pool.as_str(), image.as_str())) else { return false };
        monitors.iter().any(|monitor| by_monitor.get(monitor.as_str()).is_some_and(|writes| *writes || !read_only))
    }
}

/// One that its name alone tells apart, and whether it counts as written to.
fn named(disk: &Disk) -> Option<(Sort, &str, bool)> {
    match disk {
        Disk::Gce { name, read_only } => Some((Sort::Gce, name, !read_only)),
        Disk::Iscsi { iqn, read_only } => Some((Sort::Iscsi, iqn, !read_only)),
        // It is had by one, whoever only reads.
        Disk::Aws { id } => Some((Sort::Aws, id, true)),
        Disk::Rbd { .. } => None,
    }
}

impl<'a> PreFilterExtensions<'a> for Conflicts {
    fn filter(&self, _node: Slot) -> Option<Refusal> {
        (self.count > 0).then(|| Refusal::resolvable(NAME, CONFLICT))
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn update_with_pod(&mut self, pod: &PodInfo, _node: &NodeInfo, by: i64) {
        self.count += by * i64::try_from(names(pod).filter(|(key, _)| self.claims.contains(key)).count()).unwrap_or_default();
    }

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{plan::Outcome, tests::TestCluster};
    use serde_json::{Value, json};

    fn using(name: &str, claim: &str) -> Value {
        json!({"metadata": {"name": name}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    /// Upstream: `TestGCEDiskConflicts`, `TestAWSDiskConflicts`, `TestRBDDiskConflicts`, `TestISCSIDiskConflicts`.
    #[test]
    fn a_disk_is_had_by_those_who_may_share_it() {
        let with = |source: &str, more: &Value| {
            let mut disk = json!({"pdName": "d", "volumeID": "d", "iqn": "d", "lun": 0, "targetPortal": "t", "monitors": ["a", "b"], "pool": "p", "image": "d"});
            disk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"spec": {"volumes": [{"name": "v", source: disk}]}})
        };
        let (mine, read) = (json!({}), json!({"readOnly": true}));
        let other = json!({"pdName": "o", "volumeID": "o", "iqn": "o", "image": "o"});
        let apart = json!({"monitors": ["c"]});
        for source in ["gcePersistentDisk", "awsElasticBlockStore", "iscsi", "rbd"] {
            let shares = source != "awsElasticBlockStore";
            let rows = [
                (&mine, &mine, false),
                (&mine, &other, true),
                (&mine, &read, false),
                (&read, &read, shares),
                (&apart, &mine, source == "rbd"),
            ];
            for (there, asked, fits) in rows {
                let mut cluster = TestCluster::new(&[&VolumeRestrictions]);
                cluster.node("n", json!({}));
                cluster.bound("first", "n", with(source, there));
                let said = cluster.refusals(&with(source, asked)).remove(0).1;
                assert_eq!(said, (!fits).then(|| DISK_CONFLICT.to_owned()), "{source} {there} {asked}");
            }
        }
        let mut cluster = TestCluster::new(&[&VolumeRestrictions]);
        cluster.node("n", json!({}));
        cluster.bound("first", "n", with("iscsi", &mine));
        assert_eq!(cluster.fitting(&with("rbd", &mine)), ["n"]);
        let (pod, gone) = (crate::tests::pod(&with("iscsi", &mine)), crate::tests::pod(&with("iscsi", &mine)));
        assert!(VolumeRestrictions.queueing_hint(&pod, &Change::PodGone(&gone, None)));
        assert!(!VolumeRestrictions.queueing_hint(&pod, &Change::PodGone(&crate::tests::pod(&with("rbd", &mine)), None)));
    }

    /// Compared one by one they would take hours.
    #[test]
    fn pods_that_name_very_many_disks_cost_no_more_than_they_name() {
        const MANY: usize = 10_000;
        let disks = |monitors: &str| {
            let rbd: Vec<String> = (0..MANY).map(|n| format!("{monitors}{n}")).collect();
            let iscsi = (0..MANY)
                .map(|n| json!({"name": format!("v{n}"), "iscsi": {"iqn": monitors, "lun": 0, "targetPortal": "t", "readOnly": true}}));
            let rbd = json!({"name": "v", "rbd": {"monitors": rbd, "image": "i"}});
            json!({"spec": {"volumes": iscsi.chain([rbd]).collect::<Vec<_>>()}})
        };
        let mut cluster = TestCluster::new(&[&VolumeRestrictions]);
        cluster.node("n", json!({}));
        cluster.bound("first", "n", disks("a"));
        assert_eq!(cluster.fitting(&disks("b")), ["n"]);
        assert!(cluster.fitting(&disks("a")).is_empty());
    }

    #[test]
    fn one_pod_has_it_and_the_next_once_that_is_gone() {
        let mut cluster = TestCluster::new(&[&VolumeRestrictions]);
        ["a", "b"].iter().for_each(|name| cluster.node(name, json!({})));
        for (name, mode) in [("one", "ReadWriteOncePod"), ("many", "ReadWriteOnce")] {
            let claim = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"accessModes": [mode]}});
            cluster.snapshot.volumes.set_claim(&Key::new("default", name), Some(&Arc::new(serde_json::from_value(claim).unwrap())));
        }
        cluster.bound("first", "a", using("first", "one"));
        cluster.bound("other", "a", using("other", "many"));
        assert!(cluster.fitting(&using("p", "one")).is_empty());
        let Outcome::Refused(refused) = cluster.plan(&using("p", "one"), 0) else { panic!("it is had by another") };
        let why = "0/2 nodes are available: 2 node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
        assert!(refused.message.starts_with(why), "{}", refused.message);
        assert_eq!(cluster.fitting(&using("p", "many")).len(), 2);
        cluster.unbound("first");
        assert_eq!(cluster.fitting(&using("p", "one")).len(), 2);
    }
}
