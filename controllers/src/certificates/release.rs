//! The key that holds a node's name -> noted whether its machine came; deleted once there is no node of that name: it left, or never came.

use std::{sync::Arc, time::Duration};

use api::{
    Key, bootstrap,
    k8s::api::core::v1::{Node, Secret},
    time::Timestamp,
};
use client::{Cache, Caches, kube};
use kube::ResourceExt;
use reconcile::{Action, Controller, Plan, Wake};

use super::names;
use crate::{
    Config,
    lasted::{Ages, Lasted},
};

pub struct Release {
    keys: Cache<Secret>,
    nodes: Cache<Node>,
    ages: Ages,
}

pub struct World {
    key: Arc<Secret>,
    node: Option<Arc<Node>>,
    lasted: Lasted,
}

impl Release {
    pub fn new(caches: &Caches, config: &Config) -> Self {
        Self { keys: names::keys(caches), nodes: caches.of(), ages: Ages::new(&config.clock) }
    }
}

impl Controller for Release {
    type World = World;

    fn name(&self) -> &'static str {
        "node-key-controller"
    }

    fn watches(&self, wake: &Wake) {
        wake.on_own(&self.keys);
        wake.needs(&self.nodes);
        // Of all that happens to nodes, this alone: they come, go, fall silent and are heard of.
        let wake = wake.handle();
        self.nodes.on_change(move |old, new| {
            let is_silent = |node: Option<&Arc<Node>>| node.map(|node| names::is_silent(node));
            if let Some(node) = new.or(old).filter(|_| is_silent(old) != is_silent(new)) {
                wake(Key::new(bootstrap::NAMESPACE, &names::secret_name(&node.name_any())));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let node = names::node_of(&key.name)?;
        let claim = self.keys.get(key);
        let lasted = self.ages.of(key, claim.as_ref().and_then(|claim| names::claimed(claim)), Timestamp::now());
        Some(World { key: claim?, node: self.nodes.get(&Key::new("", node)), lasted })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        let has_come = names::has_come(&world.key);
        if let Some(node) = &world.node {
            // A silent one is not yet whom the claim is about: its name may just have become another key's.
            let comes = !has_come && !names::is_silent(node);
            return if comes { Plan::act(vec![Action::update(&names::come(&world.key, node))]) } else { Plan::rest() };
        }
        match names::left(&world.key, &world.lasted) {
            _ if has_come => Plan::act(vec![as_seen(Action::delete(&*world.key), &world.key)]),
            Duration::ZERO => Plan::act(vec![as_seen(Action::delete(&*world.key), &world.key)]),
            left => Plan::rest().again_in(left),
        }
    }
}

/// Whoever has taken the name meanwhile keeps it.
fn as_seen(delete: Action, key: &Secret) -> Action {
    match delete {
        Action::Delete { resource, path, mut options } => {
            options["preconditions"]["resourceVersion"] = key.resource_version().into();
            Action::Delete { resource, path, options }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_name_without_a_node_is_free_in_time() {
        let caches = Caches::unfollowed(kube::Client::new(tower::service_fn(nobody), "default"), api::task::Group::new());
        let release = Release::new(&caches, &Config::of_tests());
        let claimed = Timestamp::from_second(1_800_000_000).unwrap();
        let known = names::Known { name: "n", key: "k", node: None, claim: None, by: "", pending: 0, lasted: &Lasted::at(claimed) };
        let names::Verdict::Free(actions) = names::decide(&known) else { panic!() };
        let [Action::Create { object, .. }] = &actions[..] else { panic!() };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = "9".into();
        let key: Arc<Secret> = Arc::new(serde_json::from_value(object).unwrap());
        let node = |ready: &str| {
            let node = json!({"metadata": {"name": "n", "uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            Some(Arc::new(serde_json::from_value::<Node>(node).unwrap()))
        };
        let plan_of = |key: &Arc<Secret>, node: Option<Arc<Node>>, seconds: i64| {
            let lasted = Lasted::at(Timestamp::from_second(1_800_000_000 + seconds).unwrap());
            release.plan(&World { key: key.clone(), node, lasted }, &Key::new("kube-system", "n.node-key.skiff"))
        };
        let is_deleted = |plan: Plan| {
            let [Action::Delete { options, .. }] = &plan.actions[..] else { panic!("{plan:?}") };
            assert_eq!(options["preconditions"]["resourceVersion"], json!("9"));
        };
        assert_eq!(plan_of(&key, node("Unknown"), 9999), Plan::rest(), "the old node of a name that has just become another's");
        assert_eq!(plan_of(&key, None, 20), Plan::rest().again_in(Duration::from_secs(100)));
        is_deleted(plan_of(&key, None, 120));
        let came = plan_of(&key, node("True"), 20);
        let [Action::Update { object, .. }] = &came.actions[..] else { panic!("{came:?}") };
        let came: Arc<Secret> = Arc::new(serde_json::from_value(object.clone()).unwrap());
        assert_eq!(plan_of(&came, node("True"), 9999), Plan::rest());
        is_deleted(plan_of(&came, None, 20));
    }

    async fn nobody(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        Ok(http::Response::new(kube::client::Body::empty()))
    }
}
