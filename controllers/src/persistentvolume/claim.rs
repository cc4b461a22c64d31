//! A claim and what is there for it -> the next step of its binding.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    k8s::{
        api::{
            core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
            storage::v1::StorageClass,
        },
        apimachinery::pkg::api::resource,
    },
    quantity::Quantity,
};
use podspec::claims::{
    self, BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, STORAGE_PROVISIONER, annotation,
};
use reconcile::{Action, Plan, reference};

use super::{Named, READ_AGAIN, RESYNC, phase_of_claim, volume_in_phase};

/// On volumes: what the file system has until it is resized.
const PRE_RESIZE_CAPACITY: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
/// Of volumes that Kubernetes itself made once.
pub(super) const IN_TREE: &str = "kubernetes.io/";

pub struct World {
    pub claim: Arc<PersistentVolumeClaim>,
    pub binding: Binding,
}

pub enum Binding {
    /// It names no volume, and never had one.
    Unbound(Unbound),
    /// The volume that it names; gone where it names none and had one.
    Named(Named<PersistentVolume>),
}

pub struct Unbound {
    /// Or why the claim cannot be matched with any.
    pub best: Result<Option<Arc<PersistentVolume>>, String>,
    /// The class that it names, where that is there.
    pub class: Option<Arc<StorageClass>>,
    /// For a claim that names none and finds no volume.
    pub default_class: Option<String>,
    /// Pods without a node that use it.
    pub consumers: Vec<String>,
}

pub fn plan(world: &World) -> Plan {
    let claim = &*world.claim;
    let was_bound = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match &world.binding {
        Binding::Unbound(unbound) => plan_unbound(claim, unbound),
        Binding::Named(Named::Unknown) => Plan::rest().again_in(READ_AGAIN),
        Binding::Named(Named::Is(volume)) if was_bound => plan_bound(claim, volume),
        Binding::Named(Named::Is(volume)) => plan_named(claim, volume),
        Binding::Named(Named::Gone) if was_bound => {
            let what = if claims::volume_name(claim).is_empty() { "reference to PersistentVolume" } else { "its PersistentVolume" };
            lost(claim, "ClaimLost", format!("Bound claim has lost {what}. Data on the volume is lost!"))
        }
        Binding::Named(Named::Gone) => Plan::act(in_phase(claim, "Pending", None).into_iter().collect()).again_in(RESYNC),
    }
}

/// Upstream: `syncUnboundClaim`, first half.
fn plan_unbound(claim: &PersistentVolumeClaim, unbound: &Unbound) -> Plan {
    match &unbound.best {
        Ok(Some(volume)) => return bind(volume, claim),
        Ok(None) => {}
        Err(why) => {
            tracing::warn!(ns = claim.metadata.namespace, name = claim.metadata.name, why, "a claim cannot be matched with any volume");
            return Plan::rest();
        }
    }
    if let Some(class) = &unbound.default_class {
        let mut changed = claim.clone();
        changed.spec.get_or_insert_default().storage_class_name = Some(class.clone());
        return Plan::act(vec![Action::update(&changed)]);
    }
    let (class, waits) = (claims::class_of_claim(claim), unbound.class.as_deref().is_some_and(claims::waits_for_consumer));
    let told = match () {
        () if waits && annotation(&claim.metadata, SELECTED_NODE).is_none() => waiting(claim, &unbound.consumers),
        () if !class.is_empty() => return provision(claim, unbound.class.as_deref()).again_in(RESYNC),
        () => Action::normal(claim, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"),
    };
    Plan::act(std::iter::once(told).chain(in_phase(claim, "Pending", None)).collect()).again_in(RESYNC)
}

/// Upstream: `emitEventForUnboundDelayBindingClaim`.
fn waiting(claim: &PersistentVolumeClaim, consumers: &[String]) -> Action {
    match consumers {
        [] => Action::normal(claim, "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [one] => Action::normal(claim, "WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
        more => Action::normal(claim, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", more.join(","))),
    }
}

/// Asks whoever makes volumes of the class for one. Upstream: `provisionClaim`; all provisioners are external ones here.
fn provision(claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> Plan {
    let failed = |why: String| Plan::act(vec![Action::warning(claim, "ProvisioningFailed", why)]);
    let Some(class) = class else {
        return failed(format!("storageclass.storage.k8s.io {:?} not found", claims::class_of_claim(claim)));
    };
    let provisioner = &class.provisioner;
    if provisioner.starts_with(IN_TREE) {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    let mut actions = Vec::new();
    if annotation(&claim.metadata, STORAGE_PROVISIONER) != Some(provisioner) {
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BETA_STORAGE_PROVISIONER.into(), provisioner.clone());
        annotations.insert(STORAGE_PROVISIONER.into(), provisioner.clone());
        actions.push(Action::update(&changed));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. \
         If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    actions.push(Action::normal(claim, "ExternalProvisioning", message));
    Plan::act(actions)
}

/// The claim asks for this volume. Upstream: `syncUnboundClaim`, second half.
fn plan_named(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    if claims::is_bound_to(volume, claim) {
        return bind(volume, claim);
    }
    let (reason, message) = if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        ("FailedBinding", format!("volume {name:?} already bound to a different claim."))
    } else {
        match claims::satisfies(volume, claim) {
            Ok(()) => return bind(volume, claim),
            Err(why) => ("VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}")),
        }
    };
    let told = Action::warning(claim, reason, message);
    Plan::act(std::iter::once(told).chain(in_phase(claim, "Pending", None)).collect()).again_in(RESYNC)
}

/// Upstream: `syncBoundClaim`.
fn plan_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let taken_by =
        volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).map(|reference| reference.uid.as_deref().unwrap_or_default());
    match taken_by {
        None => bind(volume, claim),
        Some(uid) if Some(uid) == claim.metadata.uid.as_deref() => bind(volume, claim),
        Some(_) => lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly".into()),
    }
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: String) -> Plan {
    let told = Action::warning(claim, reason, message);
    let is_news = phase_of_claim(claim) != "Lost";
    Plan::act(in_phase(claim, "Lost", None).filter(|_| is_news).into_iter().flat_map(|status| [status, told.clone()]).collect())
}

/// The next writes on the way to both being bound: the volume's claim; its phase and the claim's volume; the claim's phase.
/// Upstream: `bind`, which makes all of them at once.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    if let Some(changed) = taken(volume, claim) {
        return Plan::act(vec![Action::update(&changed)]);
    }
    let of_volume = volume_in_phase(volume, "Bound", "");
    let of_claim = given(claim, volume).map(|changed| Action::update(&changed)).or_else(|| in_phase(claim, "Bound", Some(volume)));
    Plan::act(of_volume.into_iter().chain(of_claim).collect())
}

/// The volume as the claim's; `None` where it is so already. Upstream: `GetBindVolumeToClaim`.
fn taken(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let has = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let of = |reference: &ObjectReference| (reference.namespace.clone(), reference.name.clone(), reference.uid.clone());
    let wanted = reference(claim);
    if has.is_some_and(|has| of(has) == of(&wanted)) {
        return None;
    }
    let mut changed = volume.clone();
    if !claims::is_bound_to(volume, claim) {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.entry(BOUND_BY_CONTROLLER.into()).or_insert_with(|| "yes".into());
    }
    changed.spec.get_or_insert_default().claim_ref = Some(wanted);
    Some(changed)
}

/// The claim as bound to the volume; `None` where it is so already. Upstream: `bindClaimToVolume`.
fn given(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let is_named = claims::volume_name(claim) == volume.metadata.name.as_deref().unwrap_or_default();
    if is_named && annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return None;
    }
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.entry(BIND_COMPLETED.into()).or_insert_with(|| "yes".into());
    if !is_named {
        annotations.entry(BOUND_BY_CONTROLLER.into()).or_insert_with(|| "yes".into());
        changed.spec.get_or_insert_default().volume_name.clone_from(&volume.metadata.name);
    }
    Some(changed)
}

/// The claim in that phase, with what its volume has; `None` where it is so already. Upstream: `updateClaimStatus`.
fn in_phase(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Option<Action> {
    let was = claim.status.clone().unwrap_or_default();
    let mut status = was.clone();
    status.phase = Some(phase.into());
    match volume {
        None => {
            status.access_modes = None;
            status.capacity = None;
            status.current_volume_attributes_class_name = None;
        }
        Some(volume) => {
            let spec = volume.spec.as_ref();
            status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
            // Later on it may differ from the volume's: a file system that is not resized yet.
            if phase_of_claim(claim) != phase {
                status.capacity = capacity(&was.capacity.unwrap_or_default(), volume);
            }
            if phase_of_claim(claim) == "Pending" {
                status.current_volume_attributes_class_name = spec.and_then(|spec| spec.volume_attributes_class_name.clone());
            }
        }
    }
    let changed = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
    (changed.status.as_ref() != Some(&claim.status.clone().unwrap_or_default())).then(|| Action::update_status(&changed))
}

type Amounts = BTreeMap<String, resource::Quantity>;

fn capacity(was: &Amounts, volume: &PersistentVolume) -> Option<Amounts> {
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
    let parsed = |amounts: &Amounts| Quantity::parse(&amounts.get("storage")?.0).ok();
    let before_resize = annotation(&volume.metadata, PRE_RESIZE_CAPACITY).filter(|text| Quantity::parse(text).is_ok());
    match before_resize {
        Some(text) => Some(was.clone().into_iter().chain([("storage".to_owned(), resource::Quantity(text.to_owned()))]).collect()),
        None if parsed(was).is_some_and(|was| of_volume.as_ref().and_then(parsed) == Some(was)) => Some(was.clone()),
        None => of_volume,
    }
}
