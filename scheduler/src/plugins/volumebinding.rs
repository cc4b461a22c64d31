//! VolumeBinding: a pod goes where its volumes are or can be, and its claims are bound before it is. Source: `plugins/volumebinding`.

use std::{sync::Arc, time::Duration};

use api::{
    Key,
    k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    names::segment,
};
use client::kube;
use futures::{FutureExt, future::BoxFuture};
use podspec::claims::{self, BOUND_BY_CONTROLLER, SELECTED_NODE, claim_of};
use reconcile::{own_key, reference};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    act::Act,
    framework::{
        Ask, BindingPlugin, Change, EquivalenceClass, Plugin, PreBinding, PreFilter, PreFilterExtensions, PreFlight, Reserving, StateData,
        Status,
    },
    node::{Facts, NodeInfo, Slot},
    pod::PodInfo,
    refusal::Refusal,
    snapshot::Snapshot,
    volumes::{
        Found, PodClaims,
        drivers::{tells_capacity, volume_limit},
        is_reachable, names,
    },
};

const NAME: &str = "VolumeBinding";
/// Upstream: `bindTimeoutSeconds`.
const BIND_BOUND: Duration = Duration::from_secs(600);

pub struct VolumeBinding;

impl StateData for PodClaims {}

/// What a pod's claims are to have, and how they stand.
struct Decided {
    found: Found,
    node: Arc<Facts>,
    claims: Vec<(Key, watch::Receiver<Option<Arc<PersistentVolumeClaim>>>)>,
    volumes: Vec<(String, watch::Receiver<Option<Arc<PersistentVolume>>>)>,
}

impl StateData for Decided {}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_filter(&self, at: &mut PreFilter<'_>) -> Result<(), Refusal> {
        let pod = at.pod;
        if pod.spec().and_then(|spec| spec.resource_claims.as_ref()).is_some_and(|all| !all.is_empty()) {
            return Err(Refusal::unresolvable(NAME, "dynamic resource allocation is not supported"));
        }
        if names(pod).next().is_none() {
            return Ok(());
        }
        let volumes = &at.snapshot.volumes;
        if let Some(why) = names(pod).find_map(|(key, is_own)| unusable(pod, &key, volumes.claim(&key).map(Arc::as_ref), is_own)) {
            return Err(Refusal::unresolvable(NAME, &why));
        }
        let claims = volumes.of_pod(names(pod).map(|(key, _)| key));
        if claims.immediate > 0 {
            return Err(Refusal::unresolvable(NAME, "pod has unbound immediate PersistentVolumeClaims"));
        }
        at.keep(claims);
        Ok(())
    }

    fn pre_filter_extensions<'a>(
        &self,
        ask: &'a Ask,
        snapshot: &'a Snapshot,
        _class: &'a EquivalenceClass,
    ) -> Option<Box<dyn PreFilterExtensions<'a> + 'a>> {
        Some(Box::new(Reachable { claims: ask.state.read()?, snapshot }))
    }

    fn binding(&self) -> Option<&dyn BindingPlugin> {
        Some(self)
    }

    fn queueing_hint(&self, pod: &PodInfo, change: &Change<'_>) -> bool {
        let uses = |claim: &Key| names(pod).any(|(key, _)| key == *claim);
        match change {
            Change::ClaimChanged(claim) => uses(&own_key(*claim)),
            // One that another claim has helps nobody here.
            Change::VolumeChanged(volume) => claim_of(volume).is_none_or(|claim| uses(&claim)),
            Change::ClassChanged(old, new) => old.is_none_or(|old| old.allowed_topologies != new.allowed_topologies),
            Change::DriverChanged(old, new) => tells_capacity(old) && !new.is_some_and(tells_capacity),
            Change::CapacityChanged(old, new) => volume_limit(new) > old.and_then(volume_limit),
            Change::NodeAdded(_) => true,
            Change::NodeChanged(old, new) => old.labels != new.labels,
            _ => false,
        }
    }
}

/// Why a pod cannot be scheduled with a claim, wherever. Upstream: `podHasPVCs`.
fn unusable(pod: &PodInfo, key: &Key, claim: Option<&PersistentVolumeClaim>, is_own: bool) -> Option<String> {
    let name = &key.name;
    let Some(claim) = claim else {
        let not_found = format!("persistentvolumeclaim {name:?} not found");
        let awaited = format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}");
        return Some(if is_own { awaited } else { not_found });
    };
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    match () {
        () if phase == Some("Lost") => {
            Some(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}", claims::volume_name(claim)))
        }
        () if claim.metadata.deletion_timestamp.is_some() => Some(format!("persistentvolumeclaim {name:?} is being deleted")),
        () if is_own => claims::is_for_pod(claim, &pod.key.name, Some(&pod.uid)).err(),
        () => None,
    }
}

/// The nodes where a pod's volumes are, or can be.
#[derive(Clone, Copy)]
struct Reachable<'a> {
    claims: &'a PodClaims,
    snapshot: &'a Snapshot,
}

impl<'a> PreFilterExtensions<'a> for Reachable<'a> {
    fn filter(&self, node: Slot) -> Option<Refusal> {
        let facts = &self.snapshot.node_info(node)?.facts;
        let reasons = self.snapshot.volumes.find(self.claims, facts).err()?;
        Some(Refusal { plugin: NAME, resolvable: false, reasons: reasons.into_iter().map(str::to_owned).collect() })
    }

    fn is_silent(&self) -> bool {
        false
    }

    fn update_with_pod(&mut self, _pod: &PodInfo, _node: &NodeInfo, _by: i64) {}

    fn boxed(&self) -> Box<dyn PreFilterExtensions<'a> + 'a> {
        Box::new(*self)
    }
}

impl BindingPlugin for VolumeBinding {
    fn reserve(&self, at: &mut Reserving<'_>) -> Result<(), Status> {
        let Some(claims) = at.state.read::<PodClaims>() else { return Ok(()) };
        let node = at.snapshot.find(at.node).map(|node| node.facts.clone());
        let node = node.ok_or_else(|| Status::Error(format!("node {:?} not found", at.node)))?;
        let volumes = &mut at.snapshot.volumes;
        let found = volumes.find(claims, &node).map_err(|why| Status::Rejected(why.join(", ")))?;
        if found.bindings.is_empty() && found.provisions.is_empty() {
            return Ok(());
        }
        volumes.assume(&found, at.node);
        let all = found.bindings.iter().map(|(claim, _)| claim).chain(&found.provisions).map(|claim| own_key(&**claim));
        let claims = all.map(|key| (key.clone(), volumes.follow_claim(&key))).collect();
        let named = found.bindings.iter().filter_map(|(_, volume)| volume.metadata.name.clone());
        let volumes = named.map(|name| (name.clone(), volumes.follow_volume(&name))).collect();
        at.state.write(Decided { found, node, claims, volumes });
        Ok(())
    }

    fn unreserve(&self, at: &mut Reserving<'_>) {
        if let Some(decided) = at.state.read::<Decided>() {
            at.snapshot.volumes.revert(&decided.found);
        }
    }

    fn pre_bind_pre_flight(&self, at: &mut Reserving<'_>) -> Result<PreFlight, String> {
        Ok(if at.state.read::<Decided>().is_some() { PreFlight::Needed } else { PreFlight::Skip })
    }

    fn pre_bind<'a>(&'a self, at: PreBinding<'a>) -> BoxFuture<'a, Result<(), Status>> {
        async move {
            let Some(decided) = at.state.edit::<Decided>() else { return Ok(()) };
            let act = Act { client: at.client.clone() };
            let written = decided.write(&act).await.map_err(|error| Status::Error(error.to_string()))?;
            let bound = tokio::time::timeout(BIND_BOUND, decided.bound(&act, &written)).await;
            bound
                .unwrap_or_else(|_| Err("context deadline exceeded".into()))
                .map_err(|why| Status::Error(format!("binding volumes: {why}")))
        }
        .boxed()
    }
}

/// The versions in which volumes and claims were written, in their order.
#[derive(Default)]
struct Written {
    volumes: Vec<u64>,
    claims: Vec<u64>,
}

impl Decided {
    /// Reserves the volumes for their claims, and says for which node others are to be made. What was read in another version is refused.
    /// Upstream: `bindAPIUpdate`.
    async fn write(&self, act: &Act) -> Result<Written, kube::Error> {
        let mut written = Written::default();
        for (claim, volume) in &self.found.bindings {
            let path = format!("/api/v1/persistentvolumes/{}", segment(volume.metadata.name.as_deref().unwrap_or_default()));
            let mut patch = json!({"metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version}});
            if !claims::is_bound_to(volume, claim) {
                patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
            }
            patch["spec"]["claimRef"] = serde_json::to_value(reference(&**claim)).unwrap_or_default();
            written.volumes.push(revision(&act.ask("PATCH", &path, MERGE, &patch).await?));
            written.claims.push(0);
        }
        for claim in &self.found.provisions {
            if claims::annotation(&claim.metadata, SELECTED_NODE) == Some(&self.node.name) {
                written.claims.push(0);
                continue;
            }
            let key = own_key(&**claim);
            let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}", segment(&key.namespace), segment(&key.name));
            let mut patch = json!({"metadata": {"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version}});
            patch["metadata"]["annotations"][SELECTED_NODE] = self.node.name.as_str().into();
            written.claims.push(revision(&act.ask("PATCH", &path, MERGE, &patch).await?));
        }
        Ok(written)
    }

    /// Waits until all claims are bound. Upstream: `checkBindings`.
    async fn bound(&mut self, act: &Act, written: &Written) -> Result<(), String> {
        let count = self.found.bindings.len();
        for (at, (key, claim)) in self.claims.iter_mut().enumerate() {
            let since = written.claims.get(at).copied().unwrap_or_default();
            let mut volume = self.volumes.get_mut(at).filter(|_| at < count).zip(written.volumes.get(at));
            let volume_name = loop {
                let seen = claim.borrow_and_update().clone();
                if let Some(name) = judge(key, seen.as_deref(), since, (at >= count).then_some(self.node.name.as_str()))? {
                    break name;
                }
                let moved = match &mut volume {
                    None => claim.changed().await,
                    Some(((name, volume), since)) => {
                        still_its(name, volume.borrow_and_update().as_deref(), **since)?;
                        tokio::select! {
                            moved = claim.changed() => moved,
                            moved = volume.changed() => moved,
                        }
                    }
                };
                moved.map_err(|_| "the scheduler ends".to_owned())?;
            };
            reaches(act, &volume_name, &self.node).await?;
        }
        Ok(())
    }
}

const MERGE: &str = "application/merge-patch+json";

fn revision(reply: &Value) -> u64 {
    reply.pointer("/metadata/resourceVersion").and_then(Value::as_str).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn is_older(version: Option<&String>, than: u64) -> bool {
    version.and_then(|text| text.parse::<u64>().ok()).is_some_and(|version| version < than)
}

/// The claim's volume, once it is bound; `None` while it is not. `node` is where one is made for it.
fn judge(key: &Key, claim: Option<&PersistentVolumeClaim>, since: u64, node: Option<&str>) -> Result<Option<String>, String> {
    let claim = claim.ok_or_else(|| format!("failed to check binding: persistentvolumeclaim {:?} not found", key.name))?;
    if is_older(claim.metadata.resource_version.as_ref(), since) {
        return Ok(None);
    }
    // Who cannot make it there takes the node's name away.
    if node.is_some() && claims::annotation(&claim.metadata, SELECTED_NODE) != node {
        return Err(format!("provisioning failed for PVC {:?}", key.name));
    }
    Ok(claims::is_fully_bound(claim).then(|| claims::volume_name(claim).to_owned()))
}

fn still_its(name: &str, volume: Option<&PersistentVolume>, since: u64) -> Result<(), String> {
    let volume = volume.ok_or_else(|| format!("failed to check binding: persistentvolume {name:?} not found"))?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let is_bound = reference.is_some_and(|reference| reference.uid.as_deref().is_some_and(|uid| !uid.is_empty()));
    if is_bound || is_older(volume.metadata.resource_version.as_ref(), since) {
        Ok(())
    } else {
        Err(format!("ClaimRef got reset for pv {name:?}"))
    }
}

/// What was made for the claim can be had on the node.
async fn reaches(act: &Act, name: &str, node: &Facts) -> Result<(), String> {
    let path = format!("/api/v1/persistentvolumes/{}", segment(name));
    let read = act.ask("GET", &path, "application/json", &Value::Null).await;
    let volume = read.map_err(|error| format!("failed to get pv {name:?}: {error}"))?;
    let volume: PersistentVolume = serde_json::from_value(volume).map_err(|error| format!("failed to read pv {name:?}: {error}"))?;
    if is_reachable(&volume, node) {
        return Ok(());
    }
    Err(format!("pv {name:?} node affinity doesn't match node {:?}: no matching NodeSelectorTerms", node.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::Outcome,
        tests::{TestCluster, pod},
    };

    fn using(claim: &str) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    fn cluster() -> TestCluster {
        let mut cluster = TestCluster::default();
        ["a", "b"].iter().for_each(|name| cluster.node(name, json!({})));
        let volumes = &mut cluster.snapshot.volumes;
        for (name, mode) in [("now", "Immediate"), ("later", "WaitForFirstConsumer")] {
            let class = json!({"metadata": {"name": name}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": mode});
            volumes.set_class(name, Some(&Arc::new(serde_json::from_value(class).unwrap())));
        }
        cluster
    }

    fn claim(cluster: &mut TestCluster, name: &str, said: Value) {
        let mut whole = json!({"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "later"}, "status": {"phase": "Pending"}});
        for (part, fields) in said.as_object().unwrap() {
            whole[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        cluster.snapshot.volumes.set_claim(&Key::new("default", name), Some(&Arc::new(serde_json::from_value(whole).unwrap())));
    }

    fn volume(cluster: &mut TestCluster, name: &str, node: &str) {
        let terms = json!([{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
        let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "later", "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}});
        let volume = json!({"metadata": {"name": name, "uid": name}, "spec": spec, "status": {"phase": "Available"}});
        cluster.snapshot.volumes.set_volume(name, Some(&Arc::new(serde_json::from_value(volume).unwrap())));
    }

    fn message(outcome: Outcome) -> String {
        match outcome {
            Outcome::Refused(refused) => refused.message.split(". preemption").next().unwrap_or_default().to_owned(),
            Outcome::Bind(node) => format!("bound to {node}"),
        }
    }

    #[test]
    fn a_pod_waits_for_its_claims_in_upstreams_words() {
        let mut cluster = cluster();
        claim(&mut cluster, "now", json!({"spec": {"storageClassName": "now"}}));
        claim(&mut cluster, "lost", json!({"spec": {"volumeName": "gone"}, "status": {"phase": "Lost"}}));
        claim(&mut cluster, "going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        claim(&mut cluster, "p-own", json!({}));
        claim(&mut cluster, "later", json!({}));
        claim(
            &mut cluster,
            "bound",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "gone"}}),
        );
        let own = |name: &str| json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"name": name, "ephemeral": {}}]}});
        let rows = [
            (using("none"), "persistentvolumeclaim \"none\" not found"),
            (using("now"), "pod has unbound immediate PersistentVolumeClaims"),
            (using("lost"), "persistentvolumeclaim \"lost\" bound to non-existent persistentvolume \"gone\""),
            (using("going"), "persistentvolumeclaim \"going\" is being deleted"),
            (own("other"), "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-other\""),
            (own("own"), "PVC default/p-own was not created for pod default/p (pod is not owner)"),
            (using("later"), "2 node(s) didn't find available persistent volumes to bind"),
            // Said by VolumeZone, before any node is looked at.
            (using("bound"), "persistentvolume \"gone\" not found"),
        ];
        for (ask, why) in rows {
            assert_eq!(message(cluster.plan(&ask, 0)), format!("0/2 nodes are available: {why}"), "{ask}");
        }
    }

    #[test]
    fn a_pod_goes_where_its_volume_is() {
        let mut cluster = cluster();
        claim(&mut cluster, "later", json!({}));
        volume(&mut cluster, "v", "b");
        for random in 0..4 {
            assert_eq!(cluster.plan(&using("later"), random), Outcome::Bind("b".into()));
        }
        claim(
            &mut cluster,
            "later",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "v"}}),
        );
        assert_eq!(cluster.plan(&using("later"), 0), Outcome::Bind("b".into()));
        let mut pinned = using("later");
        pinned["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "a"});
        let why = "1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) didn't match Pod's node affinity/selector";
        assert_eq!(message(cluster.plan(&pinned, 0)), format!("0/2 nodes are available: {why}"));
    }

    #[test]
    fn changes_wake_those_that_they_are_about() {
        let pod = pod(&using("mine"));
        let of = |name: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}})).unwrap()
        };
        assert!(VolumeBinding.queueing_hint(&pod, &Change::ClaimChanged(&of("mine"))));
        assert!(!VolumeBinding.queueing_hint(&pod, &Change::ClaimChanged(&of("other"))));
        let volume = |reference: Value| -> PersistentVolume {
            serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": {"claimRef": reference}})).unwrap()
        };
        assert!(VolumeBinding.queueing_hint(&pod, &Change::VolumeChanged(&volume(Value::Null))));
        assert!(VolumeBinding.queueing_hint(&pod, &Change::VolumeChanged(&volume(json!({"namespace": "default", "name": "mine"})))));
        assert!(!VolumeBinding.queueing_hint(&pod, &Change::VolumeChanged(&volume(json!({"namespace": "default", "name": "other"})))));
        let driver = |tells: bool| serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"storageCapacity": tells}})).unwrap();
        assert!(VolumeBinding.queueing_hint(&pod, &Change::DriverChanged(&driver(true), Some(&driver(false)))));
        assert!(VolumeBinding.queueing_hint(&pod, &Change::DriverChanged(&driver(true), None)));
        assert!(!VolumeBinding.queueing_hint(&pod, &Change::DriverChanged(&driver(false), Some(&driver(true)))));
        let room =
            |size: &str| serde_json::from_value(json!({"metadata": {"name": "c"}, "storageClassName": "s", "capacity": size})).unwrap();
        assert!(VolumeBinding.queueing_hint(&pod, &Change::CapacityChanged(None, &room("1Gi"))));
        assert!(VolumeBinding.queueing_hint(&pod, &Change::CapacityChanged(Some(&room("1Gi")), &room("2Gi"))));
        assert!(!VolumeBinding.queueing_hint(&pod, &Change::CapacityChanged(Some(&room("2Gi")), &room("1Gi"))));
    }

    #[test]
    fn a_claim_is_judged_by_what_was_written() {
        let (key, written) = (Key::new("n", "c"), 7);
        let claim = |version: &str, node: &str, bound: bool| -> PersistentVolumeClaim {
            let mut annotations = json!({"volume.kubernetes.io/selected-node": node});
            if bound {
                annotations["pv.kubernetes.io/bind-completed"] = "yes".into();
            }
            let volume = if bound { "v" } else { "" };
            serde_json::from_value(
                json!({"metadata": {"name": "c", "resourceVersion": version, "annotations": annotations}, "spec": {"volumeName": volume}}),
            )
            .unwrap()
        };
        assert_eq!(judge(&key, Some(&claim("6", "", false)), written, Some("a")), Ok(None), "not seen yet");
        assert_eq!(judge(&key, Some(&claim("7", "a", false)), written, Some("a")), Ok(None));
        assert_eq!(judge(&key, Some(&claim("9", "a", true)), written, Some("a")), Ok(Some("v".into())));
        assert_eq!(judge(&key, Some(&claim("9", "b", false)), written, Some("a")), Err("provisioning failed for PVC \"c\"".into()));
        judge(&key, None, written, None).unwrap_err();
        still_its("v", None, 1).unwrap_err();
    }
}
