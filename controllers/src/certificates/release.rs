//! The key that holds a node's name -> deleted once there is no node of that name: it left, or never came.

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

pub struct Release {
    keys: Cache<Secret>,
    nodes: Cache<Node>,
}

pub struct World {
    key: Arc<Secret>,
    is_there: bool,
    now: Timestamp,
}

impl Release {
    pub fn new(caches: &Caches) -> Self {
        Self { keys: names::keys(caches), nodes: caches.of() }
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
        // Of all that happens to nodes, this alone.
        let wake = wake.handle();
        self.nodes.on_change(move |old, new| {
            if let (Some(gone), None) = (old, new) {
                wake(Key::new(bootstrap::NAMESPACE, &names::secret_name(&gone.name_any())));
            }
        });
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let node = names::node_of(&key.name)?;
        let is_there = self.nodes.get(&Key::new("", node)).is_some();
        Some(World { key: self.keys.get(key)?, is_there, now: Timestamp::now() })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        if world.is_there {
            return Plan::rest();
        }
        match names::left(&world.key, world.now) {
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
        let release = Release::new(&caches);
        let claimed = Timestamp::from_second(1_800_000_000).unwrap();
        let known = names::Known { name: "n", key: "k", node: None, claim: None, now: claimed };
        let names::Verdict::Free(actions) = names::decide(&known) else { panic!() };
        let [Action::Create { object, .. }] = &actions[..] else { panic!() };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = "9".into();
        let key: Arc<Secret> = Arc::new(serde_json::from_value(object).unwrap());
        let plan = |is_there, seconds: i64| {
            let now = Timestamp::from_second(1_800_000_000 + seconds).unwrap();
            release.plan(&World { key: key.clone(), is_there, now }, &Key::new("kube-system", "n.node-key.skiff"))
        };
        assert_eq!(plan(true, 9999), Plan::rest());
        assert_eq!(plan(false, 20), Plan::rest().again_in(Duration::from_secs(100)));
        let gone = plan(false, 120);
        let [Action::Delete { options, .. }] = &gone.actions[..] else { panic!("{gone:?}") };
        assert_eq!(options["preconditions"]["resourceVersion"], json!("9"));
    }

    async fn nobody(_: http::Request<kube::client::Body>) -> Result<http::Response<kube::client::Body>, std::convert::Infallible> {
        Ok(http::Response::new(kube::client::Body::empty()))
    }
}
