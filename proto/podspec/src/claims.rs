//! Claims and volumes -> which go together: what the binder, the scheduler and the node agent ask alike.
//!
//! Source: component-helpers `storage/volume/{helpers,pv_helpers}.go`, `checkVolumeSatisfyClaim` in `pkg/controller/volume/persistentvolume`.

use std::collections::BTreeMap;

use api::{
    Key,
    k8s::{
        api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm},
        api::storage::v1::StorageClass,
        apimachinery::pkg::{api::resource, apis::meta::v1::ObjectMeta},
    },
    quantity::Quantity,
    selector::Labels,
};

/// On claims: they went through binding.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims and volumes: the user did not bind them.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On claims: the node that the scheduler wants a volume on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On claims: who is to make a volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Types of a claim's conditions that are over once it has what it asked for. Upstream: `knownResizeConditions`.
pub const RESIZE_CONDITIONS: [&str; 4] = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
/// On volumes: who made them.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On claims and volumes: the class, before the field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// On classes: claims that name none get it.
pub const DEFAULT_CLASS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Who makes the volumes of the class `skiff-local`: directories of nodes.
pub const LOCAL_PROVISIONER: &str = "skiff.dev/local";
/// On nodes: the directory where these are made.
pub const LOCAL_STORAGE: &str = "skiff.dev/local-storage";
/// On these volumes: the name of the node that has them. It may read and delete them.
pub const LOCAL_NODE: &str = "skiff.dev/node";

/// Sets of access modes: few, and compared often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessModes(u8);

const MODES: [&str; 4] = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

impl AccessModes {
    /// Of a claim's or a volume's `spec.accessModes`; the API server takes no others.
    pub fn of(modes: Option<&Vec<String>>) -> Self {
        let place = |mode: &String| MODES.iter().position(|known| known == mode);
        Self(modes.into_iter().flatten().filter_map(place).fold(0, |set, at| set | 1 << at))
    }

    /// Volumes of these can be had with those.
    pub fn contains(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Only one pod may have what is had so.
    pub fn is_of_one_pod(self) -> bool {
        self.contains(Self(1 << 3))
    }
}

/// The class that a claim names; `None` where it says nothing, which is not the same as one without a class ("").
pub fn stated_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, BETA_CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// [`stated_class`], empty where there is none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    stated_class(claim).unwrap_or_default()
}

pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(&volume.metadata, BETA_CLASS).or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref()).unwrap_or_default()
}

pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// `spec.volumeName`, empty where it has none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The claim that is made for a pod's ephemeral volume. Upstream: component-helpers `storage/ephemeral` (`VolumeClaimName`).
pub fn name_for_pod(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Whether it was made for the pod of this uid.
///
/// # Errors
/// Upstream's words (`VolumeIsForPod`), `pod` being the pod's name.
pub fn is_for_pod(claim: &PersistentVolumeClaim, pod: &str, uid: Option<&str>) -> Result<(), String> {
    let ObjectMeta { namespace, name, owner_references, .. } = &claim.metadata;
    if owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid) {
        return Ok(());
    }
    let (namespace, name) = (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
    Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"))
}

/// Upstream: `isPVCFullyBound`.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Claims of the class are bound once a pod that uses them is scheduled.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether the labels of a node are such that a class allows (`allowedTopologies`). Upstream: `MatchTopologySelectorTerms`; a term that asks
/// for nothing matches nothing.
pub fn topology_matches(terms: &[TopologySelectorTerm], labels: &BTreeMap<String, String>) -> bool {
    let matches = |term: &TopologySelectorTerm| {
        let asked = term.match_label_expressions.as_deref().unwrap_or_default();
        !asked.is_empty() && asked.iter().all(|one| labels.get(&one.key).is_some_and(|value| one.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(matches)
}

/// The newest of those that are marked as the default; of several as old, the first by name.
pub fn default_class<'a>(classes: impl Iterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let is_marked = |class: &&StorageClass| DEFAULT_CLASS.iter().any(|name| annotation(&class.metadata, name) == Some("true"));
    let age = |class: &StorageClass| std::cmp::Reverse(class.metadata.creation_timestamp.as_ref().map(|at| at.0));
    classes.filter(is_marked).min_by(|a, b| age(a).cmp(&age(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name)))
}

/// The volume is reserved for the claim, or bound to it. Upstream: `IsVolumeBoundToClaim`.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The claim that a volume names.
pub fn claim_of(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(Key::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default()))
}

/// Bytes that a claim asks for, rounded up; 0 where it does not say, or nobody can read it.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    storage(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

/// Bytes that a volume has.
pub fn capacity(volume: &PersistentVolume) -> i64 {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn storage(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> i64 {
    amounts.and_then(|all| Quantity::parse(&all.get("storage")?.0).ok()).map_or(0, Quantity::units)
}

/// `Filesystem` unless it says otherwise.
fn mode(said: Option<&String>) -> &str {
    said.map(String::as_str).filter(|mode| !mode.is_empty()).unwrap_or("Filesystem")
}

/// Upstream: `CheckVolumeModeMismatches`.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let (claim, volume) = (claim.spec.as_ref(), volume.spec.as_ref());
    mode(claim.and_then(|spec| spec.volume_mode.as_ref())) != mode(volume.and_then(|spec| spec.volume_mode.as_ref()))
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default();
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or_default();
    of_claim != of_volume
}

pub fn modes_of_claim(claim: &PersistentVolumeClaim) -> AccessModes {
    AccessModes::of(claim.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()))
}

pub fn modes_of_volume(volume: &PersistentVolume) -> AccessModes {
    AccessModes::of(volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()))
}

/// Why a volume that a claim names is not for it. Upstream: `checkVolumeSatisfyClaim`.
///
/// # Errors
/// The reason, in upstream's words.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let refused = [
        (
            volume.metadata.deletion_timestamp.is_some(),
            format!("the volume is marked for deletion {:?}", volume.metadata.name.as_deref().unwrap_or_default()),
        ),
        (capacity(volume) < requested(claim), "requested PV is too small".into()),
        (class_of_volume(volume) != class_of_claim(claim), "storageClassName does not match".into()),
        (attributes_differ(claim, volume), "volumeAttributesClassName does not match".into()),
        (modes_differ(claim, volume), "incompatible volumeMode".into()),
        (!modes_of_volume(volume).contains(modes_of_claim(claim)), "incompatible accessMode".into()),
    ];
    refused.into_iter().find(|(is_refused, _)| *is_refused).map_or(Ok(()), |(_, why)| Err(why))
}

/// What a claim asks of the volumes that nobody has, read once. Upstream: `FindMatchingVolume`.
pub struct Wanted<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub class: &'a str,
    pub bytes: i64,
    pub modes: AccessModes,
    selector: Option<Labels>,
}

impl<'a> Wanted<'a> {
    /// # Errors
    /// The claim's selector cannot be read.
    pub fn of(claim: &'a PersistentVolumeClaim) -> Result<Self, String> {
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = Labels::from_selector(selector).map_err(|why| format!("error creating internal label selector for claim: {why}"))?;
        Ok(Self { claim, class: class_of_claim(claim), bytes: requested(claim), modes: modes_of_claim(claim), selector })
    }

    /// It is large enough, of the claim's kind, and stays: what one that is reserved for the claim must be, too. Access modes aside.
    pub fn could_take(&self, volume: &PersistentVolume) -> bool {
        capacity(volume) >= self.bytes
            && !modes_differ(self.claim, volume)
            && !attributes_differ(self.claim, volume)
            && volume.metadata.deletion_timestamp.is_none()
    }

    /// One that nobody has and the claim may take; where it is reachable from is not asked.
    pub fn takes(&self, volume: &PersistentVolume) -> bool {
        is_available(volume)
            && class_of_volume(volume) == self.class
            && modes_of_volume(volume).contains(self.modes)
            && self.could_take(volume)
            && self.selector.as_ref().is_none_or(|selector| selector.matches(volume.metadata.labels.as_ref()))
    }
}

/// Nobody has it, and it is ready to be had.
pub fn is_available(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
        && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
    }

    fn volume(spec: Value) -> PersistentVolume {
        serde_json::from_value(
            json!({"metadata": {"name": "v", "labels": {"tier": "fast"}}, "spec": spec, "status": {"phase": "Available"}}),
        )
        .unwrap()
    }

    fn small() -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "s"})
    }

    fn large() -> Value {
        json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "2Gi"}, "storageClassName": "s"})
    }

    fn with(mut spec: Value, field: &str, value: Value) -> Value {
        spec[field] = value;
        spec
    }

    #[test]
    fn a_claim_is_the_pods_that_controls_it() {
        let claim = |uid: &str, controller: bool| -> PersistentVolumeClaim {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": controller});
            serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name_for_pod("p", "v"), "ownerReferences": [owner]}}))
                .unwrap()
        };
        assert_eq!(is_for_pod(&claim("u", true), "p", Some("u")), Ok(()));
        let why = Err("PVC n/p-v was not created for pod n/p (pod is not owner)".to_owned());
        for (claim, uid) in [(claim("another", true), Some("u")), (claim("u", false), Some("u")), (claim("u", true), None)] {
            assert_eq!(is_for_pod(&claim, "p", uid), why);
        }
    }

    #[test]
    fn why_a_volume_is_not_for_a_claim() {
        let rows = [
            (small(), large(), None),
            (with(small(), "resources", json!({"requests": {"storage": "3Gi"}})), large(), Some("requested PV is too small")),
            (with(small(), "storageClassName", json!("")), large(), Some("storageClassName does not match")),
            (with(small(), "volumeMode", json!("Block")), large(), Some("incompatible volumeMode")),
            (with(small(), "accessModes", json!(["ReadWriteMany"])), large(), Some("incompatible accessMode")),
            (with(small(), "volumeAttributesClassName", json!("a")), large(), Some("volumeAttributesClassName does not match")),
        ];
        for (of_claim, of_volume, why) in rows {
            let (claim, volume) = (claim(of_claim.clone()), volume(of_volume));
            assert_eq!(satisfies(&volume, &claim).err().as_deref(), why, "{of_claim}");
            assert_eq!(Wanted::of(&claim).unwrap().takes(&volume), why.is_none(), "{of_claim}");
        }
        let chosen = |labels: Value| claim(with(small(), "selector", json!({"matchLabels": labels})));
        assert!(Wanted::of(&chosen(json!({"tier": "fast"}))).unwrap().takes(&volume(large())));
        assert!(!Wanted::of(&chosen(json!({"tier": "slow"}))).unwrap().takes(&volume(large())));
    }

    #[test]
    fn who_a_volume_is_reserved_for() {
        let reserved = |reference: Value| volume(with(large(), "claimRef", reference));
        let rows = [
            (json!({"name": "c", "namespace": "n"}), true),
            (json!({"name": "c", "namespace": "n", "uid": "u"}), true),
            (json!({"name": "c", "namespace": "n", "uid": "other"}), false),
            (json!({"name": "c", "namespace": "m"}), false),
            (json!({"name": "d", "namespace": "n", "uid": "u"}), false),
        ];
        for (reference, is_its) in rows {
            assert_eq!(is_bound_to(&reserved(reference.clone()), &claim(small())), is_its, "{reference}");
        }
        assert!(!is_bound_to(&volume(large()), &claim(small())));
    }

    #[test]
    fn where_a_class_allows_volumes() {
        let labels: BTreeMap<String, String> = [("zone".to_owned(), "a".to_owned())].into();
        let terms = |terms: Value| -> Vec<TopologySelectorTerm> { serde_json::from_value(terms).unwrap() };
        let of = |values: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": values}]});
        for (asked, matches) in [
            (json!([]), true),
            (json!([{}]), false),
            (json!([of(json!(["b", "a"]))]), true),
            (json!([of(json!(["b"]))]), false),
            (json!([of(json!(["b"])), of(json!(["a"]))]), true),
            (json!([{"matchLabelExpressions": [{"key": "rack", "values": ["a"]}]}]), false),
        ] {
            assert_eq!(topology_matches(&terms(asked.clone()), &labels), matches, "{asked}");
        }
    }

    #[test]
    fn the_newest_default_class_is_it() {
        let class = |name: &str, at: &str, is_default: &str| -> StorageClass {
            let annotations = json!({"storageclass.kubernetes.io/is-default-class": is_default});
            serde_json::from_value(
                json!({"metadata": {"name": name, "creationTimestamp": at, "annotations": annotations}, "provisioner": "p"}),
            )
            .unwrap()
        };
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let all = [class("a", old, "true"), class("c", new, "true"), class("b", new, "true"), class("d", new, "false")];
        assert_eq!(default_class(all.iter()).unwrap().metadata.name.as_deref(), Some("b"));
        assert_eq!(default_class(all[3..].iter()), None);
    }
}
