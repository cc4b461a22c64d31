//! Pods with ephemeral volumes -> the claims that they are. Source: `pkg/controller/volume/ephemeral/controller.go`.

use std::sync::Arc;

use api::{
    Key,
    k8s::{
        api::core::v1::PersistentVolumeClaim,
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use client::{Cache, Caches, Object, kube, pods::Pod};
use podspec::claims::{is_for_pod, name_for_pod};
use reconcile::{Action, Controller, Plan, Wake, own_key};

use crate::index::ByClaim;

/// The event's reason.
const FAILED: &str = "FailedBinding";

pub struct Ephemeral {
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    users: ByClaim,
}

pub struct World {
    pod: Arc<Pod>,
    /// Of its ephemeral volumes, by the volume's place.
    claims: Vec<(usize, Option<Arc<PersistentVolumeClaim>>)>,
}

impl Ephemeral {
    pub fn new(caches: &Caches, users: &ByClaim) -> Self {
        Self { pods: caches.of(), claims: caches.of(), users: users.clone() }
    }
}

impl Controller for Ephemeral {
    type World = World;

    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn watches(&self, wake: &Wake) {
        // Few pods have any: all others wake nothing.
        wake.on(&self.pods, |pod, wake| {
            if volumes(pod).next().is_some() {
                wake(own_key(pod));
            }
        });
        // Whoever it belongs to: its name may be what a pod waits for.
        let users = self.users.clone();
        wake.on(&self.claims, move |claim, wake| {
            let of_name = users.at(&own_key(claim));
            of_name.iter().filter(|pod| volumes(pod).next().is_some()).map(|pod| own_key(&**pod)).for_each(wake);
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let pod = self.pods.get(key)?;
        if pod.metadata.deletion_timestamp.is_some() || pod.is_over() {
            return None;
        }
        let claim = |name: &str| self.claims.get(&Key::new(&key.namespace, &name_for_pod(&key.name, name)));
        let claims = volumes(&pod).map(|(at, name)| (at, claim(name))).collect();
        Some(World { pod, claims })
    }

    fn plan(&self, world: &World, key: &Key) -> Plan {
        plan(world, key)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let (Action::Create { object, .. }, kube::Error::Api(status)) = (action, error) else { return None };
        let pod = self.pods.get(key).filter(|_| status.code != 409)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let volume = name.strip_prefix(&name_for_pod(&key.name, "")).unwrap_or_default();
        Some(Action::warning(&*pod, FAILED, format!("ephemeral volume {volume}: create PVC {name}: {}", status.message)))
    }
}

/// The places and names of those that are ephemeral.
fn volumes(pod: &Pod) -> impl Iterator<Item = (usize, &str)> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).enumerate();
    all.filter(|(_, volume)| volume.persistent_volume_claim.is_none() && volume.ephemeral.is_some())
        .map(|(at, volume)| (at, volume.name.as_str()))
}

fn plan(world: &World, key: &Key) -> Plan {
    let foreign = volumes(&world.pod).zip(&world.claims).filter_map(|((_, volume), (_, claim))| {
        let why = is_for_pod(claim.as_deref()?, &key.name, world.pod.object_meta().uid).err()?;
        Some(Action::warning(&*world.pod, FAILED, format!("ephemeral volume {volume}: {why}")))
    });
    let missing = world.claims.iter().filter(|(_, claim)| claim.is_none());
    let made = missing.filter_map(|(at, _)| claim(&world.pod, key, *at)).map(|claim| Action::create(&claim));
    Plan::act(foreign.chain(made).collect())
}

fn claim(pod: &Pod, key: &Key, at: usize) -> Option<PersistentVolumeClaim> {
    let volume = pod.spec.as_ref()?.volumes.as_ref()?.get(at)?;
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let of = template.metadata.as_ref();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: key.name.clone(),
        uid: pod.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name_for_pod(&key.name, &volume.name)),
            namespace: Some(key.namespace.clone()),
            annotations: of.and_then(|meta| meta.annotations.clone()),
            labels: of.and_then(|meta| meta.labels.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_ephemeral_volume_has_a_claim_of_the_pods_own() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        let volumes = json!([
            {"name": "named", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "one", "ephemeral": {"volumeClaimTemplate": template}},
            {"name": "two", "ephemeral": {"volumeClaimTemplate": template}},
        ]);
        let pod: Arc<Pod> = serde_json::from_value::<Pod>(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [], "volumes": volumes}}),
        )
        .unwrap()
        .into();
        let key = own_key(&*pod);
        assert_eq!(super::volumes(&pod).collect::<Vec<_>>(), [(1, "one"), (2, "two")]);
        let owned = |uid: &str| -> Arc<PersistentVolumeClaim> {
            let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true});
            let metadata = json!({"name": "p-two", "namespace": "n", "ownerReferences": [owner]});
            Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
        };
        let foreign = plan(&World { pod: pod.clone(), claims: vec![(1, Some(owned("u"))), (2, Some(owned("older")))] }, &key).actions;
        let [Action::Event { reason, message, .. }] = &*foreign else { panic!("{foreign:?}") };
        let why = "ephemeral volume two: PVC n/p-two was not created for pod n/p (pod is not owner)";
        assert_eq!((*reason, message.as_str()), ("FailedBinding", why));
        let actions = plan(&World { pod, claims: vec![(1, None), (2, Some(owned("u")))] }, &key).actions;
        let [Action::Create { path, object, .. }] = &*actions else { panic!("{actions:?}") };
        assert_eq!((path.as_str(), &object["metadata"]["name"]), ("/api/v1/namespaces/n/persistentvolumeclaims", &json!("p-one")));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["uid"], &owner["controller"], &owner["kind"]), (&json!("u"), &json!(true), &json!("Pod")));
        assert_eq!(object["spec"], template["spec"]);
    }
}
