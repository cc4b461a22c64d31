//! A pod, as it is stored -> the objects it refers to: what it gives its node to read. Nothing else of a pod is decoded, for each binding asks.
//!
//! Source: `pkg/api/v1/pod/util.go` (`VisitPodSecretNames`, `VisitPodConfigmapNames`), `graph.go` (`AddPod`).

use std::collections::BTreeSet;

use api::{Key, annotations::CONFIG_MIRROR};
use podspec::claims::name_for_pod;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{Thing, What};

/// All of a pod that matters here. Null is as good as absent everywhere.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    status: Option<State>,
}

type List<T> = Option<Vec<Option<T>>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    uid: Option<String>,
    annotations: Option<std::collections::HashMap<String, IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    image_pull_secrets: List<Named>,
    init_containers: List<Container>,
    containers: List<Container>,
    ephemeral_containers: List<Container>,
    volumes: List<Volume>,
    resource_claims: List<DeviceClaim>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct State {
    resource_claim_statuses: List<DeviceClaim>,
    extended_resource_claim_status: Option<DeviceClaim>,
}

/// `PodResourceClaim`, and what became of it (`PodResourceClaimStatus`, `PodExtendedResourceClaimStatus`).
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeviceClaim {
    name: Option<String>,
    resource_claim_name: Option<String>,
    resource_claim_template_name: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    env: List<Variable>,
    env_from: List<From>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Variable {
    value_from: Option<From>,
}

/// `env[].valueFrom` and `envFrom[]`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct From {
    #[serde(rename = "secretKeyRef", alias = "secretRef")]
    secret: Option<Named>,
    #[serde(rename = "configMapKeyRef", alias = "configMapRef")]
    config_map: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Volume {
    name: Option<String>,
    secret: Option<Secret>,
    azure_file: Option<Secret>,
    cephfs: Option<Driver>,
    cinder: Option<Driver>,
    flex_volume: Option<Driver>,
    rbd: Option<Driver>,
    #[serde(rename = "scaleIO")]
    scale_io: Option<Driver>,
    iscsi: Option<Driver>,
    storageos: Option<Driver>,
    csi: Option<Csi>,
    config_map: Option<Named>,
    persistent_volume_claim: Option<Claim>,
    ephemeral: Option<IgnoredAny>,
    projected: Option<Projected>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Secret {
    secret_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Driver {
    secret_ref: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Csi {
    node_publish_secret_ref: Option<Named>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Claim {
    claim_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Projected {
    sources: List<Source>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Source {
    secret: Option<Named>,
    config_map: Option<Named>,
}

impl Pod {
    /// What cannot be read gives nothing to read.
    pub fn read(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_else(|error| {
            tracing::warn!(%error, "a pod cannot be read: its node may read nothing for it");
            Self::default()
        })
    }

    /// # Errors
    /// A field has another type than the schema says.
    pub fn try_of(pod: &Value) -> serde_json::Result<Self> {
        Self::deserialize(pod)
    }

    #[cfg(test)]
    pub fn of(pod: &Value) -> Self {
        Self::try_of(pod).expect("the test's pod is one")
    }

    /// Empty where it is on none.
    pub fn node(&self) -> &str {
        self.spec.as_ref().map_or("", |spec| text(spec.node_name.as_ref()))
    }

    pub fn uid(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| text(metadata.uid.as_ref()))
    }

    /// All that it gives its node to read besides itself. A mirror pod gives nothing: the node made it.
    pub fn things(&self, key: &Key) -> BTreeSet<Thing> {
        let annotations = self.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
        let is_mirror = annotations.is_some_and(|all| all.contains_key(CONFIG_MIRROR));
        if is_mirror { BTreeSet::new() } else { self.references(key) }
    }

    /// All that it refers to by name.
    pub fn references(&self, key: &Key) -> BTreeSet<Thing> {
        let mut out = Found { namespace: &key.namespace, pod: &key.name, things: BTreeSet::new() };
        let Some(spec) = &self.spec else { return out.things };
        out.add(What::ServiceAccount, spec.service_account_name.as_ref());
        each(&spec.image_pull_secrets).for_each(|secret| out.add(What::Secret, secret.name.as_ref()));
        for containers in [&spec.init_containers, &spec.containers, &spec.ephemeral_containers] {
            each(containers).for_each(|container| out.container(container));
        }
        each(&spec.volumes).for_each(|volume| out.volume(volume));
        let made = || self.status.iter().flat_map(|status| each(&status.resource_claim_statuses));
        for claim in each(&spec.resource_claims) {
            match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
                (Some(name), _) => out.add(What::ResourceClaim, Some(name)),
                (None, Some(_)) => {
                    let found = made().find(|status| text(status.name.as_ref()) == text(claim.name.as_ref()));
                    out.add(What::ResourceClaim, found.and_then(|status| status.resource_claim_name.as_ref()));
                }
                (None, None) => {}
            }
        }
        let extended = self.status.as_ref().and_then(|status| status.extended_resource_claim_status.as_ref());
        out.add(What::ResourceClaim, extended.and_then(|claim| claim.resource_claim_name.as_ref()));
        out.things
    }
}

struct Found<'a> {
    namespace: &'a str,
    pod: &'a str,
    things: BTreeSet<Thing>,
}

impl Found<'_> {
    fn add(&mut self, kind: What, name: Option<&String>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.things.insert(Thing { kind, namespace: self.namespace.to_owned(), name: name.clone() });
        }
    }

    fn named(&mut self, kind: What, named: Option<&Named>) {
        self.add(kind, named.and_then(|named| named.name.as_ref()));
    }

    fn from(&mut self, from: &From) {
        self.named(What::Secret, from.secret.as_ref());
        self.named(What::ConfigMap, from.config_map.as_ref());
    }

    fn container(&mut self, container: &Container) {
        each(&container.env_from).for_each(|from| self.from(from));
        each(&container.env).filter_map(|variable| variable.value_from.as_ref()).for_each(|from| self.from(from));
    }

    fn volume(&mut self, volume: &Volume) {
        for secret in [&volume.secret, &volume.azure_file] {
            self.add(What::Secret, secret.as_ref().and_then(|secret| secret.secret_name.as_ref()));
        }
        let drivers =
            [&volume.cephfs, &volume.cinder, &volume.flex_volume, &volume.rbd, &volume.scale_io, &volume.iscsi, &volume.storageos];
        for driver in drivers.into_iter().flatten() {
            self.named(What::Secret, driver.secret_ref.as_ref());
        }
        self.named(What::Secret, volume.csi.as_ref().and_then(|csi| csi.node_publish_secret_ref.as_ref()));
        self.named(What::ConfigMap, volume.config_map.as_ref());
        self.add(What::Claim, volume.persistent_volume_claim.as_ref().and_then(|claim| claim.claim_name.as_ref()));
        if volume.ephemeral.is_some() {
            self.add(What::Claim, Some(&name_for_pod(self.pod, text(volume.name.as_ref()))));
        }
        for source in volume.projected.iter().flat_map(|projected| each(&projected.sources)) {
            self.named(What::Secret, source.secret.as_ref());
            self.named(What::ConfigMap, source.config_map.as_ref());
        }
    }
}

fn each<T>(list: &List<T>) -> impl Iterator<Item = &T> {
    list.iter().flatten().flatten()
}

fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_reference_is_found_and_nulls_are_none() {
        let named = |name: &str| json!({"name": name});
        let container = |n: &str| {
            let env = json!([{"name": "plain"}, null, {"valueFrom": {"secretKeyRef": named(&format!("s-env-{n}"))}},
                {"valueFrom": {"configMapKeyRef": named(&format!("c-env-{n}")), "secretKeyRef": null}}, {"valueFrom": {"fieldRef": {}}}]);
            let from =
                json!([{"secretRef": named(&format!("s-from-{n}"))}, {"configMapRef": named(&format!("c-from-{n}"))}, {"secretRef": {}}]);
            json!({"name": n, "image": "i", "env": env, "envFrom": from})
        };
        let with_secret = |kind: &str| json!({"name": kind, kind: {"secretRef": named(&format!("s-{kind}"))}});
        let drivers = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
        let mut volumes: Vec<Value> = drivers.iter().map(|kind| with_secret(kind)).collect();
        volumes.extend([
            json!({"name": "v", "secret": {"secretName": "s-vol", "items": [{"key": "k", "path": "p"}]}}),
            json!({"name": "v", "azureFile": {"secretName": "s-azure"}}),
            json!({"name": "v", "csi": {"nodePublishSecretRef": named("s-csi")}}),
            json!({"name": "v", "configMap": named("c-vol")}),
            json!({"name": "v", "persistentVolumeClaim": {"claimName": "p-vol"}}),
            json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}),
            json!({"name": "v", "projected": {"sources": [{"secret": named("s-proj")}, {"configMap": named("c-proj")}, null, {"secret": null}]}}),
            json!({"name": "v", "emptyDir": {}, "secret": null, "projected": null, "ephemeral": null}),
            Value::Null,
        ]);
        let pod = json!({"metadata": {"uid": "u", "annotations": null}, "spec": {
            "nodeName": "n", "serviceAccountName": "a", "imagePullSecrets": [named("s-pull"), null, {}],
            "initContainers": [container("init")], "containers": [container("main"), null], "ephemeralContainers": [container("eph")],
            "resourceClaims": [{"name": "x", "resourceClaimName": "r-named"}, {"name": "y", "resourceClaimTemplateName": "t"},
                {"name": "z", "resourceClaimTemplateName": "t"}, null],
            "volumes": volumes, "tolerations": [{"tolerationSeconds": i64::MAX}],
        }, "status": {
            "resourceClaimStatuses": [{"name": "y", "resourceClaimName": "r-made"}, {"name": "z"}, {"name": "w", "resourceClaimName": "other"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "r-extended", "requestMappings": []},
        }});
        let wanted = |what: What| {
            let of_containers =
                |kind: char| ["init", "main", "eph"].into_iter().flat_map(move |n| [format!("{kind}-env-{n}"), format!("{kind}-from-{n}")]);
            let rest: Vec<String> = match what {
                What::Secret => {
                    let drivers = drivers.iter().map(|kind| format!("s-{kind}"));
                    let others = ["s-pull", "s-vol", "s-azure", "s-csi", "s-proj"].map(str::to_owned);
                    of_containers('s').chain(drivers).chain(others).collect()
                }
                What::ConfigMap => of_containers('c').chain(["c-vol", "c-proj"].map(str::to_owned)).collect(),
                What::Claim => vec!["p-vol".into(), "pod-scratch".into()],
                What::ResourceClaim => ["r-named", "r-made", "r-extended"].map(str::to_owned).to_vec(),
                What::ServiceAccount => vec!["a".into()],
                What::Pod => Vec::new(),
            };
            rest.into_iter().map(move |name| Thing { kind: what, namespace: "ns".into(), name })
        };
        let key = Key::new("ns", "pod");
        let all = [What::Secret, What::ConfigMap, What::Claim, What::ResourceClaim, What::ServiceAccount];
        let wanted: BTreeSet<Thing> = all.into_iter().flat_map(wanted).collect();
        for read in [Pod::of(&pod), Pod::read(pod.to_string().as_bytes())] {
            assert_eq!((read.node(), read.uid()), ("n", "u"));
            assert_eq!(read.references(&key), wanted);
            assert_eq!(read.things(&key), wanted);
        }
    }

    #[test]
    fn what_cannot_be_read_gives_nothing() {
        for odd in ["", "[]", "{\"spec\": 7}", "{\"spec\": {\"volumes\": {}, \"nodeName\": \"n\"}}"] {
            let pod = Pod::read(odd.as_bytes());
            assert_eq!((pod.node(), pod.things(&Key::new("a", "b")).len()), ("", 0), "{odd}");
        }
    }
}
