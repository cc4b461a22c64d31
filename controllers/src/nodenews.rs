//! A node that comes or goes -> the events RegisteredNode and RemovingNode. Source: `pkg/controller/nodelifecycle` (`doNodeProcessingPassWorker`).

use std::{collections::HashMap, sync::Arc};

use api::{
    Key,
    k8s::api::core::v1::{Node, ObjectReference},
};
use client::{Cache, Caches, kube::ResourceExt};
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake, reference};

pub struct NodeNews {
    nodes: Cache<Node>,
    /// What is still to be told, by node: taken when its key runs.
    untold: Arc<Mutex<HashMap<String, Vec<News>>>>,
}

/// One that came, or went, as events name it.
#[derive(Clone, Debug)]
pub struct News {
    came: bool,
    node: ObjectReference,
}

impl NodeNews {
    pub fn new(caches: &Caches) -> Self {
        Self { nodes: caches.of(), untold: Arc::default() }
    }
}

impl Controller for NodeNews {
    type World = Vec<News>;

    fn name(&self) -> &'static str {
        "node-news-controller"
    }

    fn watches(&self, wake: &Wake) {
        let (untold, handle) = (self.untold.clone(), wake.handle());
        wake.needs(&self.nodes);
        self.nodes.on_change(move |old, new| {
            let is_same = old.zip(new).is_some_and(|(old, new)| old.metadata.uid == new.metadata.uid);
            let Some(name) = new.or(old).filter(|_| !is_same).map(|node| node.name_any()) else { return };
            let went = old.map(|node| News { came: false, node: named(node) });
            let came = new.map(|node| News { came: true, node: named(node) });
            untold.lock().entry(name.clone()).or_default().extend(went.into_iter().chain(came));
            handle(Key::new("", &name));
        });
    }

    async fn observe(&self, key: &Key) -> Option<Vec<News>> {
        self.untold.lock().remove(&*key.name)
    }

    fn plan(&self, news: &Vec<News>, _: &Key) -> Plan {
        plan(news)
    }
}

fn plan(news: &[News]) -> Plan {
    let told = |news: &News| {
        let name = news.node.name.as_deref().unwrap_or_default();
        let (reason, message) = if news.came {
            ("RegisteredNode", format!("Node {name} event: Registered Node {name} in Controller"))
        } else {
            ("RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"))
        };
        Action::Event { regarding: Box::new(news.node.clone()), warning: false, reason, message }
    };
    Plan::act(news.iter().map(told).collect())
}

/// As upstream names nodes in these events: without a version of the object. `RecordNodeEvent`
fn named(node: &Node) -> ObjectReference {
    ObjectReference { resource_version: None, ..reference(node) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_went_is_told_in_this_order() {
        let node = ObjectReference { kind: Some("Node".into()), name: Some("a".into()), ..ObjectReference::default() };
        let told = plan(&[false, true].map(|came| News { came, node: node.clone() }));
        let said: Vec<(&str, &str)> = told
            .actions
            .iter()
            .map(|action| match action {
                Action::Event { reason, message, warning: false, .. } => (*reason, message.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        let wanted = [
            ("RemovingNode", "Node a event: Removing Node a from Controller"),
            ("RegisteredNode", "Node a event: Registered Node a in Controller"),
        ];
        assert_eq!(said, wanted);
    }
}
