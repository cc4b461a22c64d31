//! Claims that ask for more than they have -> told to whoever enlarges their volumes; those of `skiff-local` are enlarged here.
//!
//! What a directory may hold is what its volume says: nothing has to be done on the node. Source: `pkg/controller/volume/expand`, `pkg/volume/util/resize_util.go`.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Key,
    k8s::{
        api::core::v1::{PersistentVolume, PersistentVolumeClaim},
        apimachinery::pkg::api::resource,
    },
    quantity::Quantity,
};
use client::{Cache, Caches};
use podspec::claims::{LOCAL_PROVISIONER, PROVISIONED_BY, RESIZE_CONDITIONS, annotation, is_bound_to, volume_name};
use reconcile::{Action, Controller, Matters, Plan, Wake};

const STORAGE: &str = "storage";

pub struct Expansion {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
}

pub struct World {
    claim: Arc<PersistentVolumeClaim>,
    volume: Arc<PersistentVolume>,
}

impl Expansion {
    pub fn new(caches: &Caches) -> Self {
        Self { claims: caches.of(), volumes: caches.of() }
    }
}

impl Controller for Expansion {
    type World = World;

    fn name(&self) -> &'static str {
        "persistentvolume-expander-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own_if(&self.claims, |old, new| if grows(old, new) { Matters::Somewhat } else { Matters::Not });
        wake.on(&self.volumes, |_, _| {});
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let claim = self.claims.get(key)?;
        let volume = self.volumes.get(&Key::new("", volume_name(&claim)))?;
        Some(World { claim, volume })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(&world.claim, &world.volume)
    }
}

/// It asks for more than before, or was given more: that, too, may be less than it asks for.
fn grows(old: Option<&PersistentVolumeClaim>, new: Option<&PersistentVolumeClaim>) -> bool {
    let Some(new) = new.filter(|new| is_bound(new)) else { return false };
    old.is_none_or(|old| asked(new) > asked(old) || given(new) > given(old))
}

fn plan(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let (Some(size), true) = (asked(claim), is_bound(claim) && is_its(volume, claim)) else { return Plan::rest() };
    if Some(size) <= given(claim) {
        return Plan::rest();
    }
    let is_ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(LOCAL_PROVISIONER);
    if !is_ours || volume.spec.as_ref().is_none_or(|spec| spec.local.is_none()) {
        let told = Action::normal(claim, "ExternalExpanding", "waiting for an external controller to expand this PVC");
        return Plan::act(vec![told]);
    }
    let Some(text) = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get(STORAGE)) else {
        return Plan::rest();
    };
    let has = amount(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()));
    let enlarged = (has < Some(size)).then(|| {
        let mut changed = volume.clone();
        changed.spec.get_or_insert_default().capacity.get_or_insert_default().insert(STORAGE.into(), text.clone());
        Action::update(&changed)
    });
    let meta = &claim.metadata;
    let name = format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    let told = Action::normal(claim, "VolumeResizeSuccessful", format!("ExpandVolume succeeded for volume {name}"));
    // The volume first: what is lost between is done again, since the claim still asks for more than it has.
    Plan::act(enlarged.into_iter().chain([has_size(claim, text), told]).collect())
}

/// Upstream: `MarkFSResizeFinished`.
fn has_size(claim: &PersistentVolumeClaim, size: &resource::Quantity) -> Action {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    for amounts in [&mut status.capacity, &mut status.allocated_resources] {
        amounts.get_or_insert_default().insert(STORAGE.into(), size.clone());
    }
    if let Some(statuses) = &mut status.allocated_resource_statuses {
        statuses.remove(STORAGE);
    }
    status.allocated_resource_statuses = status.allocated_resource_statuses.take().filter(|statuses| !statuses.is_empty());
    let rest = status.conditions.take().into_iter().flatten().filter(|one| !RESIZE_CONDITIONS.contains(&one.type_.as_str()));
    status.conditions = Some(rest.collect::<Vec<_>>()).filter(|rest| !rest.is_empty());
    Action::update_status(&changed)
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

fn is_its(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let uid = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.as_deref()).unwrap_or_default();
    !uid.is_empty() && is_bound_to(volume, claim)
}

fn asked(claim: &PersistentVolumeClaim) -> Option<i64> {
    amount(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

fn given(claim: &PersistentVolumeClaim) -> Option<i64> {
    amount(claim.status.as_ref().and_then(|status| status.capacity.as_ref()))
}

/// Bytes, rounded up; `None` where nothing is said, or nobody can read it: less than any.
fn amount(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> Option<i64> {
    Quantity::parse(&amounts?.get(STORAGE)?.0).ok().map(Quantity::units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(asks: &str, has: &str, more: Value) -> PersistentVolumeClaim {
        let mut status = json!({"phase": "Bound", "capacity": {"storage": has}});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = json!({"volumeName": "v", "resources": {"requests": {"storage": asks}}});
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec, "status": status})).unwrap()
    }

    fn volume(size: &str, by: &str, source: Value) -> PersistentVolume {
        let mut spec = json!({"capacity": {"storage": size}, "claimRef": {"name": "c", "namespace": "n", "uid": "u"}});
        spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}}, "spec": spec})).unwrap()
    }

    fn local(size: &str) -> PersistentVolume {
        volume(size, LOCAL_PROVISIONER, json!({"local": {"path": "/data"}}))
    }

    #[test]
    fn a_directory_grows_with_its_claim() {
        let conditions = json!([{"type": "Resizing", "status": "True"}, {"type": "ModifyingVolume", "status": "True"}]);
        let before = json!({"conditions": conditions, "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}});
        let plan = plan(&claim("2Gi", "1Gi", before), &local("1Gi"));
        let [Action::Update { object: volume, .. }, Action::Update { path, object: claim, .. }, Action::Event { reason, message, .. }] =
            &*plan.actions
        else {
            panic!("{plan:?}")
        };
        assert_eq!((&volume["spec"]["capacity"]["storage"], &claim["status"]["capacity"]["storage"]), (&json!("2Gi"), &json!("2Gi")));
        assert!(path.ends_with("/persistentvolumeclaims/c/status"));
        assert_eq!(claim["status"]["conditions"], json!([{"type": "ModifyingVolume", "status": "True"}]));
        assert_eq!(
            (&claim["status"]["allocatedResources"]["storage"], claim["status"].get("allocatedResourceStatuses")),
            (&json!("2Gi"), None)
        );
        assert_eq!((*reason, message.as_str()), ("VolumeResizeSuccessful", "ExpandVolume succeeded for volume n/c"));
        // The volume was written, and the claim was not.
        assert_eq!(super::plan(&claim_of("2Gi", "1Gi"), &local("2Gi")).actions.len(), 2);
    }

    fn claim_of(asks: &str, has: &str) -> PersistentVolumeClaim {
        claim(asks, has, json!({}))
    }

    #[test]
    fn others_are_enlarged_by_others() {
        for volume in [
            volume("1Gi", "ebs.csi.aws.com", json!({"csi": {"driver": "ebs.csi.aws.com", "volumeHandle": "h"}})),
            volume("1Gi", "somebody", json!({"local": {"path": "/data"}})),
            volume("1Gi", LOCAL_PROVISIONER, json!({"hostPath": {"path": "/data"}})),
        ] {
            let plan = plan(&claim_of("2Gi", "1Gi"), &volume);
            let [Action::Event { reason, message, warning: false, .. }] = &*plan.actions else { panic!("{plan:?}") };
            assert_eq!((*reason, message.as_str()), ("ExternalExpanding", "waiting for an external controller to expand this PVC"));
        }
    }

    #[test]
    fn nothing_is_done_where_nothing_is_asked() {
        let mut foreign = local("1Gi");
        foreign.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = Some("other".into());
        let mut reserved = local("1Gi");
        reserved.spec.as_mut().unwrap().claim_ref.as_mut().unwrap().uid = None;
        let pending: PersistentVolumeClaim = claim("2Gi", "1Gi", json!({"phase": "Pending"}));
        for (claim, volume) in [
            (claim_of("1Gi", "1Gi"), local("1Gi")),
            (claim_of("1Gi", "2Gi"), local("2Gi")),
            (claim_of("2Gi", "1Gi"), foreign),
            (claim_of("2Gi", "1Gi"), reserved),
            (pending, local("1Gi")),
        ] {
            assert!(plan(&claim, &volume).actions.is_empty(), "{claim:?}");
        }
    }

    #[test]
    fn only_what_grows_is_looked_at() {
        let rows = [(("1Gi", "1Gi"), false), (("2Gi", "1Gi"), true), (("1Gi", "2Gi"), true), (("512Mi", "1Gi"), false)];
        for ((asks, has), wakes) in rows {
            assert_eq!(grows(Some(&claim_of("1Gi", "1Gi")), Some(&claim_of(asks, has))), wakes, "{asks} {has}");
        }
        assert!(grows(None, Some(&claim_of("1Gi", "1Gi"))) && !grows(Some(&claim_of("1Gi", "1Gi")), None));
    }
}
