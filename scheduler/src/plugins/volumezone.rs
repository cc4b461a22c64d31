//! VolumeZone: a pod goes to the zone and the region that its volumes are labelled with. Source: `plugins/volumezone`.

use std::collections::BTreeSet;

use api::k8s::api::core::v1::PersistentVolume;
use podspec::claims::{self, claim_of};
use reconcile::own_key;

use crate::{
    framework::{Ask, Change, EquivalenceClass, Plugin, PreFilter, PreFilterExtensions, StateData},
    node::{NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    volumes::{Volumes, names},
};

const NAME: &str = "VolumeZone";
/// Upstream: `ErrReasonConflict`.
const CONFLICT: &str = "node(s) had no available volume zone";
/// Each with what it is called now.
const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of one label (upstream: `LabelMultiZoneDelimiter`).
const DELIMITER: &str = "__";

pub struct VolumeZone;

/// A label, what it is called now, and the values that the volume allows.
type Zone = (&'static str, &'static str, BTreeSet<String>);

/// Of all volumes of a pod.
struct Zones(Vec<Zone>);

impl StateData for Zones {}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let mut zones = Vec::new();
        for (key, _) in names(at.pod).filter(|(_, is_own)| !is_own) {
            let volume = volume(&at.snapshot.volumes, &key).map_err(|why| Refusal::unresolvable(NAME, &why))?;
            zones.extend(volume.into_iter().flat_map(zones_of));
        }
        if !zones.is_empty() {
            at.keep(Zones(zones));
        }
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        Some(Box::new(Within { zones: ask.state.read()?, snapshot }))
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeChanged(old, new) => old.labels != new.labels,
            Change::ClaimChanged(claim) => names(pod).any(|(key, is_own)| !is_own && key == own_key(*claim)),
            Change::VolumeChanged(volume) => claim_of(volume).is_none_or(|claim| names(pod).any(|(key, _)| key == claim)),
            Change::ClassChanged(old, new) => old.is_none() && claims::waits_for_consumer(new),
            _ => false,
        }
    }
}

/// The claim's volume; none while it waits for a consumer. Upstream: `getPVbyPod`.
fn volume<'a>(volumes: &'a Volumes, key: &api::Key) -> Result<Option<&'a PersistentVolume>, String> {
    let claim = volumes.claim(key).ok_or_else(|| format!("persistentvolumeclaim {:?} not found", key.name))?;
    let (name, class) = (claims::volume_name(claim), claims::class_of_claim(claim));
    if !name.is_empty() {
        return volumes.volume(name).map(|volume| Some(&**volume)).ok_or_else(|| format!("persistentvolume {name:?} not found"));
    }
    if class.is_empty() {
        return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
    }
    let found = volumes.class(class).ok_or_else(|| format!("storageclass.storage.k8s.io {class:?} not found"))?;
    match found.volume_binding_mode {
        None => Err(format!("VolumeBindingMode not set for StorageClass {class:?}")),
        Some(_) if claims::waits_for_consumer(found) => Ok(None),
        Some(_) => Err("PersistentVolume had no name".into()),
    }
}

/// A label that cannot be read is left aside. Upstream: `getPVTopologies`.
fn zones_of(volume: &PersistentVolume) -> Vec<Zone> {
    let labels = volume.metadata.labels.as_ref();
    let zone = |(key, now): &(&'static str, &'static str)| {
        let values: BTreeSet<String> = labels?.get(*key)?.split(DELIMITER).map(|value| value.trim().to_owned()).collect();
        (!values.contains("")).then_some((*key, *now, values))
    };
    LABELS.iter().filter_map(zone).collect()
}

/// Nodes with their labels.
#[derive(Clone, Copy)]
struct Within<'a> {
    zones: &'a Zones,
    snapshot: &'a Snapshot,
}

impl<'a> PreFilterExtensions<'a> for Within<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        let labels = &self.snapshot.node_info(node)?.facts.labels;
        // In a cluster of one zone nodes may have no such labels.
        if !LABELS.iter().any(|(key, _)| labels.contains_key(*key)) {
            return None;
        }
        let fits = |(key, now, values): &Zone| labels.get(*key).or_else(|| labels.get(*now)).is_some_and(|value| values.contains(value));
        (!self.zones.0.iter().all(fits)).then(|| Refusal::unresolvable(NAME, CONFLICT))
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn update_with_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo, _by: i64) {}

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::Key;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        plan::Outcome,
        tests::{TestCluster, pod},
    };

    const ZONE: &str = "topology.kubernetes.io/zone";
    const REGION: &str = "topology.kubernetes.io/region";
    const BETA: &str = "failure-domain.beta.kubernetes.io/zone";

    fn using(claim: &str) -> Value {
        json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    fn cluster(node: Value, volume: Value) -> TestCluster {
        let mut cluster = TestCluster::new(&[&VolumeZone]);
        cluster.node("n", node);
        let volumes = &mut cluster.snapshot.volumes;
        let volume = json!({"metadata": {"name": "v", "labels": volume}});
        volumes.set_volume("v", Some(&Arc::new(serde_json::from_value(volume).unwrap())));
        for (name, spec) in [
            ("bound", json!({"volumeName": "v"})),
            ("gone", json!({"volumeName": "none"})),
            ("late", json!({"storageClassName": "late"})),
            ("now", json!({"storageClassName": "now"})),
            ("odd", json!({"storageClassName": "odd"})),
            ("missing", json!({"storageClassName": "missing"})),
            ("nothing", json!({})),
        ] {
            let claim = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
            volumes.set_claim(&Key::new("default", name), Some(&Arc::new(serde_json::from_value(claim).unwrap())));
        }
        for (name, mode) in [("late", json!("WaitForFirstConsumer")), ("now", json!("Immediate")), ("odd", Value::Null)] {
            let class = json!({"metadata": {"name": name}, "provisioner": "p", "volumeBindingMode": mode});
            volumes.set_class(name, Some(&Arc::new(serde_json::from_value(class).unwrap())));
        }
        cluster
    }

    /// Upstream: `TestSingleZone`, `TestMultiZone`.
    #[test]
    fn a_pod_goes_to_the_zone_of_its_volume() {
        let rows = [
            (json!({}), json!({ZONE: "a"}), true),
            (json!({ZONE: "a"}), json!({}), true),
            (json!({ZONE: "a", "uselessLabel": "none"}), json!({ZONE: "a"}), true),
            (json!({ZONE: "b"}), json!({ZONE: "a"}), false),
            (json!({ZONE: "b"}), json!({ZONE: "a__b"}), true),
            (json!({ZONE: "c"}), json!({ZONE: "a__ b"}), false),
            (json!({ZONE: "b"}), json!({ZONE: "a__ b"}), true),
            (json!({ZONE: "a"}), json!({ZONE: "b__"}), true),
            (json!({ZONE: "a", REGION: "r"}), json!({ZONE: "a", REGION: "r"}), true),
            (json!({ZONE: "a", REGION: "r"}), json!({ZONE: "a", REGION: "s"}), false),
            (json!({REGION: "r"}), json!({ZONE: "a"}), false),
            (json!({ZONE: "a"}), json!({BETA: "a"}), true),
            (json!({ZONE: "b"}), json!({BETA: "a"}), false),
            (json!({BETA: "a"}), json!({BETA: "a"}), true),
            (json!({BETA: "a"}), json!({ZONE: "a"}), false),
        ];
        for (node, volume, fits) in rows {
            let said = cluster(node.clone(), volume.clone()).refusals(&using("bound")).remove(0).1;
            assert_eq!(said, (!fits).then(|| CONFLICT.to_owned()), "{node} {volume}");
        }
    }

    #[test]
    fn a_claim_without_a_volume_is_told_of_in_upstreams_words() {
        let rows = [
            ("unknown", Some("persistentvolumeclaim \"unknown\" not found")),
            ("gone", Some("persistentvolume \"none\" not found")),
            ("late", None),
            ("now", Some("PersistentVolume had no name")),
            ("odd", Some("VolumeBindingMode not set for StorageClass \"odd\"")),
            ("missing", Some("storageclass.storage.k8s.io \"missing\" not found")),
            ("nothing", Some("PersistentVolumeClaim had no pv name and storageClass name")),
        ];
        for (claim, why) in rows {
            match (cluster(json!({ZONE: "a"}), json!({})).plan(&using(claim), 0), why) {
                (Outcome::Refused(refused), Some(why)) => {
                    assert!(refused.message.starts_with(&format!("0/1 nodes are available: {why}")), "{}", refused.message);
                }
                (Outcome::Bind(_), None) => {}
                (outcome, _) => panic!("{claim}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn what_may_help_a_pod_wakes_it() {
        let pod = pod(&using("mine"));
        let volume = |claim: &str| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"namespace": "default", "name": claim}}}))
                .unwrap()
        };
        assert!(VolumeZone.queueing_hint(&pod, &Change::VolumeChanged(&volume("mine"))));
        assert!(!VolumeZone.queueing_hint(&pod, &Change::VolumeChanged(&volume("other"))));
        let class =
            |mode: &str| serde_json::from_value(json!({"metadata": {"name": "s"}, "provisioner": "p", "volumeBindingMode": mode})).unwrap();
        assert!(VolumeZone.queueing_hint(&pod, &Change::ClassChanged(None, &class("WaitForFirstConsumer"))));
        assert!(!VolumeZone.queueing_hint(&pod, &Change::ClassChanged(None, &class("Immediate"))));
    }
}
