//! What an API server and the nodes would keep of a `StatefulSet`.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    k8s::api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::PersistentVolumeClaim,
    },
    time::{Timestamp, rfc3339},
};
use client::pods::Pod;
use reconcile::{Action, Plan};
use serde_json::{Value, json};

use super::super::{World, history, identity, plan};
use crate::{lasted::Lasted, revisions};

pub const NOW: i64 = 1_000_000;

pub struct Cluster {
    pub set: StatefulSet,
    pub pods: BTreeMap<String, Value>,
    pub revisions: BTreeMap<String, ControllerRevision>,
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    pub now: i64,
    /// What was written, by verb and resource.
    pub writes: BTreeMap<String, usize>,
    pub told: Vec<(&'static str, String)>,
    version: u64,
}

/// Every field of the parts is one of the spec's.
pub fn set(parts: &Value) -> StatefulSet {
    let mut spec = json!({
        "replicas": 3, "serviceName": "governing", "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "web"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
    });
    spec.as_object_mut().unwrap().extend(parts.as_object().cloned().unwrap());
    let metadata = json!({"name": "web", "namespace": "d", "uid": "set", "resourceVersion": "1", "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

pub fn with_claims() -> Value {
    json!([{"metadata": {"name": "data", "labels": {"tier": "back"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}])
}

impl Cluster {
    pub fn new(parts: &Value) -> Self {
        let (pods, revisions, claims, writes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { set: set(parts), pods, revisions, claims, now: NOW, writes, told: Vec::new(), version: 0 }
    }

    /// One whose pods run and are ready.
    pub fn settled(parts: &Value) -> Self {
        let mut cluster = Self::new(parts);
        cluster.settle();
        cluster
    }

    /// Every pod is ready as soon as it is made.
    pub fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.writes.values().sum::<usize>();
            self.ready();
            self.step();
            if self.writes.values().sum::<usize>() == before {
                return;
            }
        }
        panic!("no end");
    }

    pub fn change(&mut self, parts: &Value) {
        let mut spec = serde_json::to_value(self.set.spec.as_ref().unwrap()).unwrap();
        spec.as_object_mut().unwrap().extend(parts.as_object().cloned().unwrap());
        self.set.spec = serde_json::from_value(spec).unwrap();
        *self.set.metadata.generation.as_mut().unwrap() += 1;
    }

    pub fn image(&mut self, image: &str) {
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        self.change(&json!({"template": template}));
    }

    pub fn world(&self) -> World {
        let data = revisions::data_of(&self.set.spec.as_ref().unwrap().template);
        let mut place = history::Place { collisions: history::collisions(&self.set), occupant: None };
        loop {
            let name = revisions::name("web", &revisions::data_hash(&data, place.collisions));
            let Some(occupant) = self.revisions.get(&name) else { break };
            if revisions::are_same(revisions::data(occupant), &data) {
                place.occupant = Some(Arc::new(occupant.clone()));
                break;
            }
            place.collisions += 1;
        }
        let is_ours = |revision: &&ControllerRevision| {
            revision.metadata.owner_references.as_ref().is_none_or(|owners| owners[0].uid == "set")
                && revision.metadata.labels.as_ref().is_some_and(|labels| labels.get("app").is_some_and(|app| app == "web"))
        };
        World {
            set: Arc::new(self.set.clone()),
            pods: self.pods.values().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect(),
            revisions: self.revisions.values().filter(is_ours).cloned().map(Arc::new).collect(),
            place,
            claims: self.claims.iter().map(|(name, claim)| (name.clone(), Arc::new(claim.clone()))).collect(),
            lasted: Lasted::at(Timestamp::from_second(self.now).unwrap()),
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.world())
    }

    /// Looks and acts once: what was made and ended, in order: `+web-0`, `-web-1`.
    pub fn step(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        for action in self.plan().actions {
            self.version += 1;
            if let Action::Event { reason, message, .. } = action {
                self.told.push((reason, message));
                continue;
            }
            let (verb, resource, path) = match &action {
                Action::Create { resource, path, .. } => ("create", resource, path),
                Action::Update { resource, path, .. } => ("update", resource, path),
                Action::Patch { resource, path, .. } => ("patch", resource, path),
                Action::Delete { resource, path, .. } => ("delete", resource, path),
                other => panic!("{other:?}"),
            };
            let (resource, name) = (resource.resource.to_string(), path.trim_end_matches("/status").rsplit('/').next().unwrap().to_owned());
            *self.writes.entry(format!("{verb} {resource}")).or_default() += 1;
            match (action, resource.as_str()) {
                (Action::Create { object, .. }, "pods") => {
                    done.push(format!("+{}", object["metadata"]["name"].as_str().unwrap()));
                    self.keep_pod(object);
                }
                (Action::Delete { .. }, "pods") => {
                    done.push(format!("-{name}"));
                    self.pods.remove(&name).unwrap();
                }
                (Action::Patch { patch, .. }, "pods") => {
                    let pod = self.pods.get_mut(&name).unwrap();
                    let labels = patch["metadata"]["labels"].as_object().cloned().unwrap_or_default();
                    labels.into_iter().for_each(|(key, value)| pod["metadata"]["labels"][key] = value);
                    if let Some(volumes) = patch.pointer("/spec/volumes") {
                        pod["spec"]["volumes"] = volumes.clone();
                    }
                }
                (Action::Update { object, .. }, "statefulsets") => {
                    self.set.status = serde_json::from_value(object["status"].clone()).unwrap()
                }
                (Action::Create { object, .. } | Action::Update { object, .. }, "controllerrevisions") => {
                    let revision: ControllerRevision = serde_json::from_value(object).unwrap();
                    self.revisions.insert(revision.metadata.name.clone().unwrap(), revision);
                }
                (Action::Delete { .. }, "controllerrevisions") => drop(self.revisions.remove(&name).unwrap()),
                (Action::Create { object, .. } | Action::Update { object, .. }, "persistentvolumeclaims") => {
                    let claim: PersistentVolumeClaim = serde_json::from_value(object).unwrap();
                    self.claims.insert(claim.metadata.name.clone().unwrap(), claim);
                }
                (action, _) => panic!("{action:?}"),
            }
        }
        done
    }

    pub fn keep_pod(&mut self, mut pod: Value) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        pod["metadata"]["uid"] = format!("{name}-{}", self.version).into();
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        pod["status"] = json!({"phase": "Pending"});
        self.pods.insert(name, pod);
    }

    pub fn ready(&mut self) {
        let since = rfc3339(Timestamp::from_second(self.now).unwrap());
        for pod in self.pods.values_mut().filter(|pod| pod["status"]["phase"] == "Pending") {
            let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": since});
            pod["status"] = json!({"phase": "Running", "conditions": [ready]});
        }
    }

    pub fn status(&mut self, name: &str, status: Value) {
        self.pods.get_mut(name).unwrap()["status"] = status;
    }

    pub fn going(&mut self, name: &str) {
        self.pods.get_mut(name).unwrap()["metadata"]["deletionTimestamp"] = rfc3339(Timestamp::from_second(self.now).unwrap()).into();
    }

    pub fn view(&self, name: &str) -> Pod {
        serde_json::from_value(self.pods[name].clone()).unwrap()
    }

    /// The image of each, by ordinal.
    pub fn images(&self) -> Vec<&str> {
        let mut all: Vec<(i64, &str)> = self
            .pods
            .iter()
            .map(|(name, pod)| {
                (identity::parent_and_ordinal(name).unwrap().1.unwrap(), pod["spec"]["containers"][0]["image"].as_str().unwrap())
            })
            .collect();
        all.sort_unstable();
        all.into_iter().map(|(_, image)| image).collect()
    }

    /// Replicas, ready, available, current, updated.
    pub fn counts(&self) -> [i32; 5] {
        let status = self.set.status.clone().unwrap();
        let of = |n: Option<i32>| n.unwrap_or(0);
        [
            status.replicas,
            of(status.ready_replicas),
            of(status.available_replicas),
            of(status.current_replicas),
            of(status.updated_replicas),
        ]
    }
}
