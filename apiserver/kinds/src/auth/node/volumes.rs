//! PersistentVolumes and VolumeAttachments, as they change -> what a node may read for a claim, and which attachments are its own.
//!
//! Source: `plugin/pkg/auth/authorizer/node/graph.go` (`AddPV`, `AddVolumeAttachment`), `pkg/api/v1/persistentvolume/util.go` (`VisitPVSecretNames`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use api::{GroupResource, Key};
use apiserver::engine::{Change, Engine};
use parking_lot::RwLock;
use podspec::claims::{LOCAL_NODE, LOCAL_PROVISIONER, PROVISIONED_BY};
use serde_json::Value;

use crate::common::Read;

/// Types whose secret stands in `secretRef`, in upstream's order; only the first that is there counts.
const WITH_SECRETS: [&str; 7] = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
/// Types whose secret has the claim's namespace where it names none.
const IN_CLAIMS_NAMESPACE: [&str; 5] = ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi"];
/// Secrets of a CSI volume that nodes use.
const OF_NODES: [&str; 3] = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];

#[derive(Default)]
pub(super) struct Volumes {
    /// Volumes that are meant for a claim, by name.
    volumes: HashMap<Box<str>, Volume>,
    /// Directories of nodes, the node of each, and whether it is to go.
    local: HashMap<Box<str>, (Box<str>, bool)>,
    /// The volumes that name a secret.
    by_secret: HashMap<Key, BTreeSet<Box<str>>>,
    /// Attachments, and the node of each.
    attachments: HashMap<Box<str>, Box<str>>,
}

struct Volume {
    claim: Key,
    secrets: BTreeSet<Key>,
}

impl Volumes {
    pub fn follow(this: &Arc<RwLock<Self>>, engine: &Arc<Engine>) {
        let volumes = this.clone();
        let on = move |change: &Change| match (&change.new, &change.old) {
            (Some(new), _) => volumes.write().put(&new.key.name, &new.value()),
            (None, Some(old)) => volumes.write().remove(&old.key.name),
            (None, None) => {}
        };
        engine.on_change(&GroupResource::new("", "persistentvolumes"), Arc::new(on));
        let attachments = this.clone();
        let on = move |change: &Change| match (&change.new, &change.old) {
            (Some(new), _) => attachments.write().attach(&new.key.name, &new.value()),
            (None, Some(old)) => drop(attachments.write().attachments.remove(old.key.name.as_str())),
            (None, None) => {}
        };
        engine.on_change(&GroupResource::new("storage.k8s.io", "volumeattachments"), Arc::new(on));
    }

    /// The claim that a volume is meant for.
    pub fn claim(&self, volume: &str) -> Option<&Key> {
        self.volumes.get(volume).map(|volume| &volume.claim)
    }

    /// The claims whose volumes name a secret.
    pub fn claims_of_secret(&self, secret: &Key) -> impl Iterator<Item = &Key> {
        self.by_secret.get(secret).into_iter().flatten().filter_map(|volume| self.claim(volume))
    }

    /// The volume is a directory of the node, made for a claim.
    pub fn is_local_to(&self, volume: &str, node: &str) -> bool {
        self.local.get(volume).is_some_and(|(of, _)| **of == *node)
    }

    /// It is, and the claim is gone: the node deletes both.
    pub fn is_over_on(&self, volume: &str, node: &str) -> bool {
        self.local.get(volume).is_some_and(|(of, is_over)| **of == *node && *is_over)
    }

    pub fn is_attached_to(&self, attachment: &str, node: &str) -> bool {
        self.attachments.get(attachment).is_some_and(|of| **of == *node)
    }

    pub fn put(&mut self, name: &str, volume: &Value) {
        self.remove(name);
        let (spec, annotations) = (volume.at("spec"), volume.at("metadata").at("annotations"));
        let is_local = spec.at("local").is_some() && annotations.text(PROVISIONED_BY) == LOCAL_PROVISIONER;
        let is_over = volume.at("status").text("phase") == "Released" && spec.text("persistentVolumeReclaimPolicy") == "Delete";
        if let Some(node) = annotations.at(LOCAL_NODE).and_then(Value::as_str).filter(|_| is_local) {
            self.local.insert(name.into(), (node.into(), is_over));
        }
        let Some(claim) = volume.at("spec").at("claimRef") else { return };
        let claim = Key::new(claim.text("namespace"), claim.text("name"));
        let secrets = secrets(volume.at("spec"), &claim.namespace);
        for secret in &secrets {
            self.by_secret.entry(secret.clone()).or_default().insert(name.into());
        }
        self.volumes.insert(name.into(), Volume { claim, secrets });
    }

    pub fn remove(&mut self, name: &str) {
        self.local.remove(name);
        let Some(old) = self.volumes.remove(name) else { return };
        for secret in old.secrets {
            if let Some(volumes) = self.by_secret.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.by_secret.remove(&secret);
                }
            }
        }
    }

    pub fn attach(&mut self, name: &str, attachment: &Value) {
        self.attachments.insert(name.into(), attachment.at("spec").text("nodeName").into());
    }
}

/// Secrets of a volume that the node needs which mounts it.
fn secrets(spec: Option<&Value>, claims_namespace: &str) -> BTreeSet<Key> {
    let named = |of: Option<&Value>, fallback: &str| {
        let namespace = [of.text("namespace"), fallback].into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        Key::new(namespace, of.text("name"))
    };
    let mut found = BTreeSet::new();
    if let Some(file) = spec.at("azureFile") {
        let namespace = [file.text("secretNamespace"), claims_namespace].into_iter().find(|text| !text.is_empty());
        found.insert(Key::new(namespace.unwrap_or_default(), file.text("secretName")));
    } else if let Some((name, source)) = WITH_SECRETS.into_iter().find_map(|name| Some((name, spec.at(name)?))) {
        let fallback = if IN_CLAIMS_NAMESPACE.contains(&name) { claims_namespace } else { "" };
        found.insert(named(source.at("secretRef"), fallback));
    } else {
        found.extend(OF_NODES.iter().map(|field| named(spec.at("csi").at(field), "")));
    }
    found.retain(|secret| !secret.name.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_leads_from_its_claim_to_its_secrets() {
        let of = |mut source: Value| {
            source["claimRef"] = json!({"namespace": "n", "name": "c"});
            json!({"spec": source})
        };
        let csi = of(json!({"csi": {
            "controllerPublishSecretRef": {"namespace": "a", "name": "controller"},
            "nodeStageSecretRef": {"namespace": "a", "name": "stage"}, "nodePublishSecretRef": {"namespace": "", "name": ""}}}));
        let mut volumes = Volumes::default();
        volumes.put("pv", &csi);
        let claims = |volumes: &Volumes, namespace: &str, name: &str| volumes.claims_of_secret(&Key::new(namespace, name)).count();
        assert_eq!(volumes.claim("pv"), Some(&Key::new("n", "c")));
        assert_eq!((claims(&volumes, "a", "stage"), claims(&volumes, "a", "controller")), (1, 0));
        volumes.put("pv", &of(json!({"rbd": {"secretRef": {"name": "r"}}})));
        assert_eq!((claims(&volumes, "a", "stage"), claims(&volumes, "n", "r")), (0, 1));
        volumes.put("file", &of(json!({"azureFile": {"secretName": "r"}})));
        assert_eq!(claims(&volumes, "n", "r"), 2);
        volumes.remove("file");
        volumes.put("pv", &json!({"spec": {"rbd": {"secretRef": {"name": "r"}}}}));
        assert!(volumes.volumes.is_empty() && volumes.by_secret.is_empty());
    }

    #[test]
    fn a_directory_of_a_node_is_that_nodes() {
        let mut volumes = Volumes::default();
        let made = |by: &str, source: &str| json!({"metadata": {"annotations": {PROVISIONED_BY: by, LOCAL_NODE: "n1"}}, "spec": {source: {"path": "/p"}}});
        volumes.put("v", &made(LOCAL_PROVISIONER, "local"));
        assert!(volumes.is_local_to("v", "n1") && !volumes.is_local_to("v", "n2") && !volumes.is_local_to("w", "n1"));
        for other in [made("example.com/p", "local"), made(LOCAL_PROVISIONER, "hostPath")] {
            volumes.put("v", &other);
            assert!(!volumes.is_local_to("v", "n1"), "{other}");
        }
    }

    #[test]
    fn a_node_deletes_its_volumes_once_their_claims_are_gone() {
        let mut volumes = Volumes::default();
        let mut volume =
            json!({"metadata": {"annotations": {PROVISIONED_BY: LOCAL_PROVISIONER, LOCAL_NODE: "n1"}}, "spec": {"local": {"path": "/p"}}});
        for (phase, policy, is_over) in [
            ("Bound", "Delete", false),
            ("Released", "Retain", false),
            ("", "", false),
            ("Failed", "Delete", false),
            ("Released", "Delete", true),
        ] {
            volume["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
            volume["status"] = json!({"phase": phase});
            volumes.put("v", &volume);
            assert_eq!(volumes.is_over_on("v", "n1"), is_over, "{phase} {policy}");
            assert!(volumes.is_local_to("v", "n1") && !volumes.is_over_on("v", "n2"));
        }
    }

    #[test]
    fn attachments_have_one_node() {
        let mut volumes = Volumes::default();
        volumes.attach("a", &json!({"spec": {"nodeName": "n1"}}));
        assert!(volumes.is_attached_to("a", "n1") && !volumes.is_attached_to("a", "n2") && !volumes.is_attached_to("b", ""));
    }
}
