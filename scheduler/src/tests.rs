//! What the tests of this crate share: objects from JSON, and a small cluster to ask.

use std::sync::Arc;

use api::k8s::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::{
    ask::Ask,
    cycle::Cycle,
    memo::Memo,
    node::{Facts, Row},
    plan::{Outcome, fits, plan},
    plugins::{PLUGINS, Plugin},
    pod::PodInfo,
    table::Table,
};

/// A table that is asked as the loop asks it.
#[derive(Default)]
pub struct World {
    pub table: Table,
    memo: Memo,
}

/// A pod in namespace `default`, named `p` with a uid unless it says otherwise.
pub fn pod(said: &Value) -> PodInfo {
    let mut whole =
        json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    merge(&mut whole, said);
    PodInfo::new(&Arc::new(serde_json::from_value::<Pod>(whole).unwrap()))
}

pub fn node(said: &Value) -> Node {
    serde_json::from_value(said.clone()).unwrap()
}

/// A node without pods.
pub fn row(said: &Value) -> Row {
    Row { facts: Arc::new(Facts::new(&node(said))), exists: true, ..Row::default() }
}

impl World {
    /// A node with 4 cores, 8 GiB and room for 10 pods; labels that are null are left out.
    pub fn node(&mut self, name: &str, mut labels: Value) {
        labels["kubernetes.io/hostname"] = name.into();
        labels.as_object_mut().unwrap().retain(|_, v| !v.is_null());
        let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "10"});
        self.set(&json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}));
    }

    pub fn set(&mut self, said: &Value) {
        self.table.set_node(Facts::new(&node(said)));
    }

    pub fn bound(&mut self, name: &str, node: &str, mut said: Value) {
        said["metadata"]["name"] = name.into();
        self.table.put_pod(Arc::new(pod(&said)), node);
    }

    pub fn unbound(&mut self, name: &str) {
        self.table.take_pod(&api::Key::new("default", name));
    }

    pub fn plan(&mut self, said: &Value, dice: u64) -> Outcome {
        let ask = Ask::new(&mut self.table, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.table, &ask);
        plan(&self.table, class, &ask, dice)
    }

    /// Each node's first reason against the pod.
    pub fn refusals(&mut self, said: &Value) -> Vec<(String, Option<String>)> {
        let ask = Ask::new(&mut self.table, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.table, &ask);
        // The plugins at hand are not about room.
        let cycle = Cycle::new(&self.table, class, &ask);
        let told = |row: &Row| (row.name().to_owned(), fits(&cycle, row).map(|r| r.reasons.join(", ")));
        self.table.nodes().map(told).collect()
    }

    pub fn fitting(&mut self, said: &Value) -> Vec<String> {
        self.refusals(said).into_iter().filter(|(_, refusal)| refusal.is_none()).map(|(node, _)| node).collect()
    }

    pub fn scores(&mut self, plugin: &dyn Plugin, said: &Value) -> Vec<(String, i64)> {
        let ask = Ask::new(&mut self.table, Arc::new(pod(said)), None);
        let class = self.memo.class(&self.table, &ask);
        let cycle = Cycle::new(&self.table, class, &ask);
        let at = PLUGINS.iter().position(|p| p.name() == plugin.name()).unwrap();
        let nodes: Vec<usize> = self.table.nodes().map(|r| r.slot).collect();
        let mut scores: Vec<i64> = nodes.iter().map(|slot| class.cell(*slot).unwrap().scores[at]).collect();
        plugin.compare(&cycle, &nodes, &mut scores);
        self.table.nodes().map(|r| r.name().to_owned()).zip(scores).collect()
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
