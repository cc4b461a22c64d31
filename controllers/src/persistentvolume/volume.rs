//! A volume and the claim that it names -> its phase, and what becomes of it once the claim is gone.

use std::sync::Arc;

use api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use podspec::claims::{self, BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation};
use reconcile::{Action, Plan};

use super::{Named, READ_AGAIN, claim::IN_TREE, phase_of_volume, volume_in_phase};

/// A driver of CSI has it now.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

pub struct World {
    pub volume: Arc<PersistentVolume>,
    /// `None` where it names none, or one by its name alone: reserved, and not bound yet.
    pub claim: Option<Named<PersistentVolumeClaim>>,
}

/// Upstream: `syncVolume`.
pub fn plan(world: &World) -> Plan {
    let volume = &*world.volume;
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match &world.claim {
        None => phase(volume, "Available"),
        Some(Named::Unknown) => Plan::rest().again_in(READ_AGAIN),
        Some(Named::Gone) => release(volume),
        Some(Named::Is(claim)) => match claims::volume_name(claim) {
            // The claim is woken by what woke the volume, and finishes the binding.
            "" if !claims::modes_differ(claim, volume) => Plan::rest(),
            "" => mismatch(volume, claim),
            named if named == name => phase(volume, "Bound"),
            _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => release(volume),
            _ => unbind(volume),
        },
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or_default()
}

fn phase(volume: &PersistentVolume, phase: &str) -> Plan {
    Plan::act(volume_in_phase(volume, phase, "").into_iter().collect())
}

fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    let (of_claim, of_volume) = (claim.metadata.name.as_deref().unwrap_or_default(), volume.metadata.name.as_deref().unwrap_or_default());
    let told = |whom: &str, what: &str| format!("Cannot bind {whom} to requested {what} due to incompatible volumeMode.");
    let to_volume = told("PersistentVolume", &format!("PersistentVolumeClaim {of_claim:?}"));
    let to_claim = told(&format!("PersistentVolume {of_volume:?}"), "PersistentVolumeClaim");
    Plan::act(vec![Action::warning(volume, "VolumeMismatch", to_volume), Action::warning(claim, "VolumeMismatch", to_claim)])
}

/// Nobody has it any more; what follows is done once it says so. What failed stays so for the user to see.
fn release(volume: &PersistentVolume) -> Plan {
    match phase_of_volume(volume) {
        "Released" | "Failed" => reclaim(volume),
        _ => phase(volume, "Released"),
    }
}

/// Upstream: `reclaimVolume`. Nothing is deleted or recycled here: who made a volume deletes it.
fn reclaim(volume: &PersistentVolume) -> Plan {
    if annotation(&volume.metadata, MIGRATED_TO).is_some_and(|driver| !driver.is_empty()) {
        return Plan::rest();
    }
    match policy(volume) {
        "Retain" => Plan::rest(),
        "Recycle" => failed(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!"),
        "Delete" => match deleter(volume) {
            Ok(()) => Plan::rest(),
            Err(why) => failed(volume, "VolumeFailedDelete", &why),
        },
        _ => failed(volume, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"),
    }
}

/// Whether somebody else deletes it. Upstream: `findDeletablePlugin`.
fn deleter(volume: &PersistentVolume) -> Result<(), String> {
    match annotation(&volume.metadata, PROVISIONED_BY).filter(|by| !by.is_empty()) {
        Some(by) if by.starts_with(IN_TREE) => Err(format!("no volume plugin matched name: {by}")),
        Some(_) => Ok(()),
        None if volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()) => Ok(()),
        None if let Some(path) = undeletable_path(volume) => {
            Err(format!("host_path deleter only supports /tmp/.+ but received provided {path}"))
        }
        None => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            Err(format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"))
        }
    }
}

/// The path of a hostPath volume that nobody would delete. Upstream: `hostPathDeleter`.
fn undeletable_path(volume: &PersistentVolume) -> Option<&str> {
    let path = volume.spec.as_ref()?.host_path.as_ref()?.path.as_str();
    let is_temporary = path.split_once("/tmp/").is_some_and(|(_, below)| !below.is_empty());
    (!is_temporary).then_some(path)
}

fn failed(volume: &PersistentVolume, reason: &'static str, why: &str) -> Plan {
    let status = volume_in_phase(volume, "Failed", why);
    Plan::act(status.into_iter().flat_map(|status| [status, Action::warning(volume, reason, why)]).collect())
}

/// The claim has another volume: this one is to be had again, or waits for the claim that a user reserved it for. Upstream: `unbindVolume`.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut changed = volume.clone();
    let spec = changed.spec.get_or_insert_default();
    if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
        spec.claim_ref = None;
        let rest = changed.metadata.annotations.take().unwrap_or_default().into_iter().filter(|(name, _)| name != BOUND_BY_CONTROLLER);
        changed.metadata.annotations = Some(rest.collect()).filter(|rest: &std::collections::BTreeMap<_, _>| !rest.is_empty());
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
    }
    Plan::act(vec![Action::update(&changed)])
}
