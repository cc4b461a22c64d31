//! NodeVolumeLimits: a node has no more volumes of a CSI driver than its `CSINode` says that it can have. Source: `plugins/nodevolumelimits`.

use std::{collections::HashMap, sync::Arc};

use api::{Key, steps};
use reconcile::own_key;

use crate::{
    framework::{Ask, Change, EquivalenceClass, Plugin, PreFilter, PreFilterExtensions, StateData},
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    volumes::{drivers::limits, names},
};

const NAME: &str = "NodeVolumeLimits";
/// Upstream: `ErrReasonMaxVolumeCountExceeded`.
const EXCEEDED: &str = "node(s) exceed max volume count";

pub struct NodeVolumeLimits;

/// Volumes of drivers that a pod has, or will have: what they are called, and their drivers.
#[derive(Debug)]
struct Wanted(HashMap<String, String>);

impl StateData for Wanted {}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let volumes = &at.snapshot.volumes;
        if volumes.drivers.has_limits() {
            let wanted: HashMap<String, String> = names(at.pod).filter_map(|(key, _)| volumes.of_driver(&key)).collect();
            if !wanted.is_empty() {
                at.keep(Wanted(wanted));
            }
        }
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        Some(Box::new(Limits { wanted: ask.state.read()?, snapshot, moves: Vec::new() }))
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeDriversChanged(old, new) => old.is_none_or(|old| {
                let before = limits(old);
                limits(new).iter().any(|(driver, limit)| *limit > before.get(driver).copied().unwrap_or_default())
            }),
            Change::PodGone(gone, _) => names(gone).next().is_some(),
            Change::ClaimChanged(claim) => names(pod).any(|(key, _)| key == own_key(*claim)),
            Change::VolumeDetached(_) => names(pod).any(|(_, is_own)| !is_own),
            _ => false,
        }
    }
}

/// Nodes with their volumes, and what would come and go.
#[derive(Clone)]
struct Limits<'a> {
    wanted: &'a Wanted,
    snapshot: &'a Snapshot,
    /// Nodes, claims that pods would bring there, and how often; less than 0: would take along.
    moves: Vec<(Slot, Key, i64)>,
}

impl Limits<'_> {
    /// Claims of pods on the node.
    fn claims(&self, node: Slot) -> Vec<Key> {
        let volumes = &self.snapshot.volumes;
        let mut counts: HashMap<&Key, i64> =
            volumes.on_node(node).into_iter().flatten().map(|(key, count)| (key, i64::from(*count))).collect();
        for (_, key, by) in self.moves.iter().filter(|(slot, ..)| *slot == node) {
            *counts.entry(key).or_default() += by;
        }
        steps::counted(counts.into_iter()).filter(|(_, count)| *count > 0).map(|(key, _)| key.clone()).collect()
    }

    fn exceeds(&self, node: &NodeInfo, limits: &HashMap<String, i64>) -> bool {
        let volumes = &self.snapshot.volumes;
        let attached = volumes.drivers.attached(node.name());
        // No count is higher than this: most nodes are far from full.
        let most =
            volumes.on_node(node.slot).map_or(0, HashMap::len) + attached.map_or(0, HashMap::len) + self.moves.len() + self.wanted.0.len();
        let tightest = self.wanted.0.values().filter_map(|driver| limits.get(driver)).min();
        if tightest.is_none_or(|limit| i64::try_from(most).is_ok_and(|most| most <= *limit)) {
            return false;
        }
        let mut all: HashMap<String, String> = self.claims(node.slot).iter().filter_map(|key| volumes.of_driver(key)).collect();
        all.extend(attached.into_iter().flat_map(HashMap::values).filter_map(|attachment: &Arc<_>| volumes.of_attachment(attachment)));
        let mut counts = HashMap::<&str, i64>::new();
        all.values().for_each(|driver| *counts.entry(driver).or_default() += 1);
        let new: Vec<&str> = self.wanted.0.iter().filter(|(name, _)| !all.contains_key(*name)).map(|(_, driver)| driver.as_str()).collect();
        new.iter().for_each(|driver| *counts.entry(driver).or_default() += 1);
        new.iter().any(|driver| limits.get(*driver).is_some_and(|limit| counts.get(driver).is_some_and(|count| count > limit)))
    }
}

impl<'a> PreFilterExtensions<'a> for Limits<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        let node = self.snapshot.node_info(node)?;
        let limits = self.snapshot.volumes.drivers.limits(node.name())?;
        self.exceeds(node, limits).then(|| Refusal::resolvable(NAME, EXCEEDED))
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn update_with_pod(&mut self, pod: &PodInfo, node: &NodeInfo, by: i64) {
        self.moves.extend(names(pod).map(|(key, _)| (node.slot, key, by)));
    }

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim},
        storage::v1::{CSINode, StorageClass, VolumeAttachment},
    };
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::{TestCluster, pod};

    fn of<T: DeserializeOwned>(said: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(said).unwrap())
    }

    fn csi_node(node: &str, drivers: &[(&str, Option<i32>)]) -> Arc<CSINode> {
        let drivers: Vec<Value> = drivers
            .iter()
            .map(|(name, count)| json!({"name": name, "nodeID": node, "allocatable": count.map(|count| json!({"count": count}))}))
            .collect();
        of(json!({"metadata": {"name": node}, "spec": {"drivers": drivers}}))
    }

    /// Claims `a-1`, `a-2`, ... of volumes of driver `a`, and so on; `late-...` have none yet, of a class of driver `a`.
    fn cluster(limits: &[(&str, Option<i32>)]) -> TestCluster {
        let mut cluster = TestCluster::new(&[&NodeVolumeLimits]);
        cluster.node("n", json!({}));
        let volumes = &mut cluster.snapshot.volumes;
        volumes.drivers.set_node("n", Some(&csi_node("n", limits)));
        let class: Arc<StorageClass> =
            of(json!({"metadata": {"name": "late"}, "provisioner": "a", "volumeBindingMode": "WaitForFirstConsumer"}));
        volumes.set_class("late", Some(&class));
        for (driver, at) in ["a", "b"].iter().flat_map(|driver| (1..=5).map(move |at| (driver, at))) {
            let (claim, name) = (format!("{driver}-{at}"), format!("pv-{driver}-{at}"));
            let volume: Arc<PersistentVolume> =
                of(json!({"metadata": {"name": name}, "spec": {"csi": {"driver": driver, "volumeHandle": format!("h{at}")}}}));
            volumes.set_volume(&name, Some(&volume));
            set_claim(volumes, &claim, json!({"volumeName": name}));
        }
        for at in 1..=3 {
            set_claim(volumes, &format!("late-{at}"), json!({"storageClassName": "late"}));
        }
        set_claim(volumes, "plain", json!({"volumeName": "gone", "storageClassName": ""}));
        cluster
    }

    fn set_claim(volumes: &mut crate::volumes::Volumes, name: &str, spec: Value) {
        let claim: Arc<PersistentVolumeClaim> = of(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}));
        volumes.set_claim(&Key::new("default", name), Some(&claim));
    }

    fn using(claims: &[&str]) -> Value {
        let volumes: Vec<Value> = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
        json!({"spec": {"volumes": volumes}})
    }

    /// What it is about, what the node says, what its pods use, what another asks for, and whether it fits.
    type Row = (&'static str, &'static [Limit], &'static [&'static [&'static str]], &'static [&'static str], bool);
    type Limit = (&'static str, Option<i32>);

    /// Upstream: `TestCSILimits`.
    #[test]
    fn a_node_has_no_more_volumes_than_it_says() {
        const TWO: &[Limit] = &[("a", Some(2)), ("b", Some(3))];
        let rows: [Row; 13] = [
            ("fits", &[("a", Some(4))], &[&["a-1", "a-2"]], &["a-3"], true),
            ("does not fit", TWO, &[&["a-1", "a-2"]], &["a-3"], false),
            ("no limit is said", &[("a", None)], &[&["a-1", "a-2"]], &["a-3"], true),
            ("no driver is said", &[], &[&["a-1", "a-2"]], &["a-3"], true),
            ("none at all", &[("a", Some(0))], &[], &["a-1"], false),
            ("one volume counts once", TWO, &[&["a-1", "a-2"], &["a-1"]], &["a-2"], true),
            ("two new ones", TWO, &[&["a-1"]], &["a-2", "a-3"], false),
            ("another driver", TWO, &[&["a-1", "a-2"]], &["b-1"], true),
            ("both drivers, one full", TWO, &[&["a-1", "a-2"], &["b-1"]], &["b-2", "a-3"], false),
            ("one that is to be made", TWO, &[&["a-1", "a-2"]], &["late-1"], false),
            ("those that are to be made count", TWO, &[&["late-1", "late-2"]], &["a-1"], false),
            ("the same that is to be made", TWO, &[&["a-1", "late-2"]], &["late-2"], true),
            ("what has no driver", TWO, &[&["a-1", "a-2"]], &["plain"], true),
        ];
        for (what, limits, there, asked, fits) in rows {
            let mut cluster = cluster(limits);
            for (at, claims) in there.iter().enumerate() {
                cluster.bound(&format!("p{at}"), "n", using(claims));
            }
            let said = cluster.refusals(&using(asked)).remove(0).1;
            assert_eq!(said, (!fits).then(|| EXCEEDED.to_owned()), "{what}");
        }
    }

    #[test]
    fn what_is_still_attached_counts_once() {
        let mut cluster = cluster(&[("a", Some(2))]);
        let attachment = |name: &str, driver: &str, volume: Value| -> Arc<VolumeAttachment> {
            of(
                json!({"metadata": {"name": name}, "spec": {"attacher": driver, "nodeName": "n", "source": {"persistentVolumeName": volume}}}),
            )
        };
        cluster.bound("p", "n", using(&["a-1"]));
        let its = attachment("x1", "a", json!("pv-a-1"));
        cluster.snapshot.volumes.drivers.set_attachment(None, Some(&its));
        assert!(cluster.refusals(&using(&["a-2"])).remove(0).1.is_none(), "the pod's own");
        // Of nobody, of no volume, of a volume that is not there.
        for (name, volume) in [("x2", Value::Null), ("x3", json!("gone"))] {
            cluster.snapshot.volumes.drivers.set_attachment(None, Some(&attachment(name, "a", volume)));
        }
        assert!(cluster.refusals(&using(&["a-2"])).remove(0).1.is_none());
        let lingers = attachment("x4", "a", json!("pv-a-3"));
        cluster.snapshot.volumes.drivers.set_attachment(None, Some(&lingers));
        assert!(cluster.refusals(&using(&["a-2"])).remove(0).1.is_some(), "no pod has it any more");
        assert!(cluster.refusals(&using(&["a-3"])).remove(0).1.is_none(), "the very one");
        cluster.snapshot.volumes.drivers.set_attachment(Some(&lingers), None);
        assert!(cluster.refusals(&using(&["a-2"])).remove(0).1.is_none());
        cluster.unbound("p");
        assert!(cluster.refusals(&using(&["a-2", "a-4"])).remove(0).1.is_some(), "it is attached still");
    }

    #[test]
    fn weaker_pods_leave_for_a_volume() {
        let mut cluster = cluster(&[("a", Some(1))]);
        cluster.bound("weak", "n", using(&["a-1"]));
        let mut strong = using(&["a-2"]);
        strong["spec"]["priority"] = 10.into();
        let crate::plan::Outcome::Refused(refused) = cluster.plan(&strong, 0) else { panic!("the node is full") };
        assert!(matches!(refused.nomination, crate::plan::Nomination::Preempt(_)), "{refused:?}");
    }

    #[test]
    fn what_may_help_a_pod_wakes_it() {
        let pod = pod(&using(&["a-1"]));
        let limit = |count: i32| csi_node("n", &[("a", Some(count))]);
        let hint = |change: &Change<'_>| NodeVolumeLimits.queueing_hint(&pod, change);
        assert!(hint(&Change::NodeDriversChanged(None, &limit(1))));
        assert!(hint(&Change::NodeDriversChanged(Some(&limit(1)), &limit(2))));
        assert!(!hint(&Change::NodeDriversChanged(Some(&limit(2)), &limit(2))));
        assert!(!hint(&Change::NodeDriversChanged(Some(&limit(2)), &limit(1))));
        assert!(hint(&Change::PodGone(&crate::tests::pod(&using(&["other"])), None)));
        assert!(!hint(&Change::PodGone(&crate::tests::pod(&json!({})), None)));
        let attachment: Arc<VolumeAttachment> =
            of(json!({"metadata": {"name": "x"}, "spec": {"attacher": "a", "nodeName": "n", "source": {}}}));
        assert!(hint(&Change::VolumeDetached(&attachment)));
        assert!(!NodeVolumeLimits.queueing_hint(&crate::tests::pod(&json!({})), &Change::VolumeDetached(&attachment)));
    }
}
