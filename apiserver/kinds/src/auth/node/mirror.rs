//! A mirror pod -> the first thing of the API that it refers to, which it may not: its node made it. Source: `podutil.HasAPIObjectReference`.

use api::Key;
use serde_json::Value;

use super::{What, references::Pod};
use crate::common::Read;

/// Volumes that need nothing of the API besides secrets, which are looked for apart.
const PLAIN: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// The others, in upstream's order, and what they refer to.
const VOLUMES: &[(&str, &str)] = &[
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
const SOURCES: &[(&str, &str)] = &[
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// `None` where the pod stands on its own. What cannot be read, or is not known, may refer to anything.
pub fn first_reference(pod: &Value) -> Option<&'static str> {
    let Ok(read) = Pod::try_of(pod) else { return Some("secrets") };
    let things = read.references(&Key::default());
    let names = [(What::ServiceAccount, "serviceaccounts"), (What::Secret, "secrets"), (What::ConfigMap, "configmaps")];
    if let Some((_, word)) = names.into_iter().find(|(what, _)| things.iter().any(|thing| thing.kind == *what)) {
        return Some(word);
    }
    let spec = pod.at("spec");
    if !spec.list("resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    spec.list("volumes").iter().find_map(volume)
}

/// Whether it refers to a secret by name (`VisitPodSecretNames`). What cannot be read may.
pub fn names_secret(pod: &Value) -> bool {
    Pod::try_of(pod).map_or(true, |pod| pod.references(&Key::default()).iter().any(|thing| thing.kind == What::Secret))
}

fn volume(volume: &Value) -> Option<&'static str> {
    let has = |name: &str| volume.at(name).is_some();
    if PLAIN.iter().any(|name| has(name)) {
        return None;
    }
    if let Some((_, word)) = VOLUMES.iter().find(|(name, _)| has(name)) {
        return Some(word);
    }
    if !has("projected") {
        return Some("an unknown volume type");
    }
    volume.at("projected").list("sources").iter().find_map(|source| {
        let known = SOURCES.iter().find(|(name, _)| source.at(name).is_some()).map(|(_, word)| *word);
        known.or_else(|| source.at("downwardAPI").is_none().then_some("an unknown source of a projected volume"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_on_its_own_is_told_from_what_does_not() {
        let of = |volume: Value| first_reference(&json!({"spec": {"volumes": [{"emptyDir": {}}, volume]}}));
        assert_eq!(of(json!({"hostPath": {"path": "/"}})), None);
        assert_eq!(of(json!({"projected": {"sources": [{"downwardAPI": {}}]}})), None);
        assert_eq!(of(json!({"projected": {"sources": [{"serviceAccountToken": {}}]}})), Some("serviceaccounts (via projected volumes)"));
        assert_eq!(of(json!({"csi": {"driver": "d"}})), Some("csidrivers (via CSI volumes)"));
        assert_eq!(of(json!({"rbd": {"secretRef": {"name": "x"}}})), Some("secrets"));
        assert!(of(json!({"name": "new"})).is_some());
        assert_eq!(first_reference(&json!({"spec": {"resourceClaims": [{"name": "c"}]}})), Some("resourceclaims"));
        assert_eq!(
            first_reference(&json!({"spec": {"serviceAccountName": "a", "imagePullSecrets": [{"name": "x"}]}})),
            Some("serviceaccounts")
        );
    }

    #[test]
    fn a_pod_that_cannot_be_read_may_refer_to_anything() {
        assert_eq!(first_reference(&json!({"spec": {"volumes": {}}})), Some("secrets"));
    }
}
