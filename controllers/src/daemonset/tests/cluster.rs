//! What an API server and the nodes would keep of a `DaemonSet`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::{
    k8s::api::{
        apps::v1::{ControllerRevision, DaemonSet},
        core::v1::Node,
    },
    time::{Timestamp, rfc3339},
};
use client::pods::Pod;
use reconcile::{Action, Plan};
use serde_json::{Value, json};

use super::super::{World, history, nodes::Asked, plan};
use crate::{lasted::Lasted, revisions};

pub const NOW: i64 = 1_000_000;

pub struct Cluster {
    pub set: DaemonSet,
    pub nodes: BTreeMap<String, Node>,
    pub pods: BTreeMap<String, Value>,
    pub revisions: BTreeMap<String, ControllerRevision>,
    pub waits: BTreeMap<String, Duration>,
    pub now: i64,
    /// What was written, by verb and resource.
    pub writes: BTreeMap<String, usize>,
    pub told: Vec<(&'static str, String)>,
    pub was_refused: bool,
    version: u64,
}

pub fn at(second: i64) -> String {
    rfc3339(Timestamp::from_second(second).unwrap())
}

pub fn node(name: &str, labels: &Value, taints: &Value) -> Node {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})).unwrap()
}

pub fn set(strategy: &Value) -> DaemonSet {
    let annotations = json!({"deprecated.daemonset.template.generation": "1"});
    serde_json::from_value(json!({
        "metadata": {"name": "foo", "namespace": "d", "uid": "ds", "resourceVersion": "1", "generation": 1, "annotations": annotations},
        "spec": {
            "updateStrategy": strategy, "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "foo"}},
            "template": {"metadata": {"labels": {"app": "foo"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
        },
    }))
    .unwrap()
}

pub fn unavailable(most: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most, "maxSurge": 0}})
}

pub fn surging(most: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": most}})
}

impl Cluster {
    pub fn new(nodes: usize, strategy: &Value) -> Self {
        let nodes = (0..nodes).map(|n| format!("node-{n}")).map(|name| (name.clone(), node(&name, &json!({}), &json!([])))).collect();
        Self {
            set: set(strategy),
            nodes,
            pods: BTreeMap::new(),
            revisions: BTreeMap::new(),
            waits: BTreeMap::new(),
            now: NOW,
            writes: BTreeMap::new(),
            told: Vec::new(),
            was_refused: false,
            version: 0,
        }
    }

    /// One whose pods run and are ready.
    pub fn settled(nodes: usize, strategy: &Value) -> Self {
        let mut cluster = Self::new(nodes, strategy);
        assert_eq!(cluster.sync(), (nodes, 0));
        cluster.ready();
        assert_eq!(cluster.sync(), (0, 0));
        cluster
    }

    pub fn image(&mut self, image: &str) {
        let spec = self.set.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.set.metadata.generation.as_mut().unwrap() += 1;
        let number = self.set.metadata.annotations.as_mut().unwrap().values_mut().next().unwrap();
        *number = (number.parse::<i64>().unwrap() + 1).to_string();
    }

    pub fn strategy(&mut self, strategy: Value) {
        self.set.spec.as_mut().unwrap().update_strategy = serde_json::from_value(strategy).unwrap();
    }

    pub fn world(&self) -> World {
        let asked = Asked::by(&self.set);
        let data = revisions::data_of(&self.set.spec.as_ref().unwrap().template);
        let is_current = |revision: &ControllerRevision| revisions::are_same(revisions::data(revision), &data);
        let occupant = self.revisions.get(&*history::next_key(&self.set).name).filter(|_| !self.revisions.values().any(is_current));
        World {
            set: Arc::new(self.set.clone()),
            nodes: Arc::new(self.nodes.iter().map(|(name, node)| (name.as_str().into(), asked.of(node))).collect()),
            pods: self.pods.values().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect(),
            revisions: self.revisions.values().cloned().map(Arc::new).collect(),
            occupant: occupant.cloned().map(Arc::new),
            data: Arc::new(data),
            waits: self.waits.clone(),
            lasted: Lasted::at(Timestamp::from_second(self.now).unwrap()),
            was_refused: self.was_refused,
            random: self.version,
        }
    }

    pub fn plan(&self) -> Plan {
        plan(&self.world())
    }

    /// Looks and acts once: pods made, and pods deleted.
    pub fn step(&mut self) -> (usize, usize) {
        let (mut made, mut deleted) = (0, 0);
        for action in self.plan().actions {
            self.version += 1;
            if let Action::Event { reason, message, .. } = action {
                self.told.push((reason, message));
                continue;
            }
            let (verb, resource) = match &action {
                Action::Create { resource, .. } => ("create", resource),
                Action::Update { resource, .. } => ("update", resource),
                Action::Patch { resource, .. } => ("patch", resource),
                Action::Delete { resource, .. } => ("delete", resource),
                other => panic!("{other:?}"),
            };
            *self.writes.entry(format!("{verb} {}", resource.resource)).or_default() += 1;
            match action {
                Action::Create { resource, object, .. } if resource.resource == "pods" => {
                    made += 1;
                    self.keep_pod(object);
                }
                Action::Delete { resource, path, .. } if resource.resource == "pods" => {
                    deleted += 1;
                    self.pods.remove(path.rsplit('/').next().unwrap()).unwrap();
                }
                Action::Delete { path, .. } => drop(self.revisions.remove(path.rsplit('/').next().unwrap()).unwrap()),
                Action::Update { resource, object, .. } if resource.resource == "daemonsets" => {
                    self.set.status = serde_json::from_value(object["status"].clone()).unwrap();
                }
                Action::Create { object, .. } | Action::Update { object, .. } => self.keep_revision(&object),
                Action::Patch { path, patch, .. } => {
                    let pod = self.pods.get_mut(path.rsplit('/').next().unwrap()).unwrap();
                    patch["metadata"]["labels"].as_object().unwrap().iter().for_each(|(k, v)| pod["metadata"]["labels"][k] = v.clone());
                }
                _ => unreachable!(),
            }
        }
        (made, deleted)
    }

    /// Until there is nothing more to do: pods made and deleted.
    pub fn sync(&mut self) -> (usize, usize) {
        let (mut made, mut deleted) = (0, 0);
        for _ in 0..20 {
            let before = self.writes.values().sum::<usize>();
            let (m, d) = self.step();
            (made, deleted) = (made + m, deleted + d);
            if self.writes.values().sum::<usize>() == before {
                return (made, deleted);
            }
        }
        panic!("no end");
    }

    fn keep_pod(&mut self, mut pod: Value) {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        pod["metadata"]["uid"] = name.clone().into();
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        pod["metadata"]["creationTimestamp"] = at(self.now).into();
        pod["status"] = json!({"phase": "Pending"});
        self.pods.insert(name, pod);
    }

    fn keep_revision(&mut self, object: &Value) {
        let mut revision: ControllerRevision = serde_json::from_value(object.clone()).unwrap();
        let name = revision.metadata.name.clone().unwrap();
        revision.metadata.uid = Some(name.clone());
        self.revisions.insert(name, revision);
    }

    /// The scheduler binds and the nodes run all that there is.
    pub fn ready(&mut self) {
        let names: Vec<String> = self.pods.keys().cloned().collect();
        names.iter().for_each(|name| self.ready_one(name, self.now));
    }

    pub fn ready_one(&mut self, name: &str, since: i64) {
        let view: Pod = self.view(name);
        let node = super::super::pods::target(&view).unwrap().to_owned();
        let pod = self.pods.get_mut(name).unwrap();
        pod["spec"]["nodeName"] = node.into();
        if pod.pointer("/status/conditions").is_none() {
            pod["status"] =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at(since)}]});
        }
    }

    pub fn view(&self, name: &str) -> Pod {
        serde_json::from_value(self.pods[name].clone()).unwrap()
    }

    /// A pod that somebody made, of the `DaemonSet`, on that node.
    pub fn add(&mut self, name: &str, node: &str, hash: Option<&str>, made: i64, ready: bool) {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "foo", "uid": "ds", "controller": true}]);
        let labels = json!({"app": "foo", "controller-revision-hash": hash.unwrap_or("other")});
        self.keep_pod(json!({"metadata": {"name": name, "namespace": "d", "labels": labels, "ownerReferences": owner},
            "spec": {"nodeName": node, "containers": []}}));
        let pod = self.pods.get_mut(name).unwrap();
        pod["metadata"]["creationTimestamp"] = at(made).into();
        if ready {
            self.ready_one(name, made);
        }
    }

    /// The hash that new pods bear.
    pub fn hash(&self) -> String {
        history::next_key(&self.set).name.strip_prefix("foo-").unwrap().to_owned()
    }

    /// By image.
    pub fn images(&self) -> BTreeMap<String, usize> {
        let mut images = BTreeMap::new();
        for pod in self.pods.values() {
            *images.entry(pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        images
    }
}
