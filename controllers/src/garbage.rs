//! Owner references -> dependents deleted, orphaned or waited for. Source: `pkg/controller/garbagecollector`.

mod graph;

use std::{sync::Arc, time::Duration};

use api::{Key, task::Group};
use client::kube;
use parking_lot::Mutex;
use reconcile::{Action, Loop, Plan, Wake};
use serde_json::{Value, json};

use crate::catalog::get;
use graph::{Graph, Node, Owner};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Until a server that did not say what an owner is may be asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Keys are uids.
pub struct Garbage {
    client: kube::Client,
    graph: Arc<Mutex<Graph>>,
    group: Group,
}

/// One object, its owners and its dependents.
pub struct World {
    node: Node,
    owners: Vec<(Owner, State)>,
    dependents: Vec<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Solid,
    /// No such object, or another one of that name.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// The server did not say.
    Unknown,
}

impl Garbage {
    pub fn new(client: kube::Client, group: &Group) -> Self {
        Self { client, graph: Arc::default(), group: group.clone() }
    }

    /// What an owner is, asked of the server where the graph does not know it.
    async fn state(&self, owner: &Owner, namespace: &str) -> State {
        let path = {
            let graph = self.graph.lock();
            if let Some(known) = graph.get(&owner.uid) {
                return if known.deleting && known.has(FOREGROUND) { State::Waiting } else { State::Solid };
            }
            if graph.is_gone(&owner.uid) {
                return State::Absent;
            }
            graph.path(owner, namespace)
        };
        let Some(path) = path else { return State::Unknown };
        match get(&self.client, &path).await {
            Ok(object) if object.pointer("/metadata/uid").and_then(Value::as_str) == Some(&owner.uid) => State::Solid,
            Err(kube::Error::Api(status)) if status.code != 404 => State::Unknown,
            Ok(_) | Err(kube::Error::Api(_)) => {
                self.graph.lock().note_gone(&owner.uid);
                State::Absent
            }
            Err(_) => State::Unknown,
        }
    }
}

impl Loop for Garbage {
    type World = World;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn wire(&self, wake: &Wake) {
        let handle = wake.handle();
        graph::follow(self.client.clone(), self.graph.clone(), Arc::new(move |uid: &str| handle(Key::new("", uid))), &self.group);
    }

    async fn look(&self, key: &Key) -> Option<World> {
        let (node, dependents) = {
            let graph = self.graph.lock();
            (graph.get(&key.name)?.clone(), graph.dependents(&key.name))
        };
        if node.owners.is_empty() && !node.deleting {
            return None;
        }
        let mut owners = Vec::new();
        // What is being deleted goes whatever becomes of its owners.
        for owner in node.owners.iter().filter(|_| !node.deleting) {
            owners.push((owner.clone(), self.state(owner, &node.key.namespace).await));
        }
        Some(World { node, owners, dependents })
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan(world)
    }
}

fn plan(world: &World) -> Plan {
    let node = &world.node;
    if node.deleting {
        return deleting(world);
    }
    if world.owners.is_empty() {
        return Plan::rest();
    }
    if world.owners.iter().any(|(_, state)| *state == State::Unknown) {
        return Plan::rest().again_in(ASK_AGAIN);
    }
    let with = |wanted: State| world.owners.iter().filter(move |(_, state)| *state == wanted);
    let (solid, waiting) = (with(State::Solid).count(), with(State::Waiting).count());
    if solid > 0 {
        let gone: Vec<&str> = world.owners.iter().filter(|(_, s)| *s != State::Solid).map(|(o, _)| &*o.uid).collect();
        return if gone.is_empty() { Plan::rest() } else { Plan::act(vec![node.without_owners(&gone)]) };
    }
    // An owner that waits for us wants us gone with all that is ours.
    let foreground = waiting > 0 && world.dependents.iter().any(|d| !d.deleting);
    let policy = if foreground {
        "Foreground"
    } else if node.has(ORPHAN) {
        "Orphan"
    } else {
        "Background"
    };
    Plan::act(vec![node.delete(policy)])
}

fn deleting(world: &World) -> Plan {
    let node = &world.node;
    if node.has(ORPHAN) {
        let mut actions: Vec<Action> = world.dependents.iter().map(|d| d.without_owners(&[&node.uid])).collect();
        if actions.is_empty() {
            actions.push(node.without_finalizer(ORPHAN));
        }
        // The last one that is let go brings the turn of the owner itself.
        return Plan::act(actions);
    }
    if !node.has(FOREGROUND) {
        return Plan::rest();
    }
    let blocks = |d: &&Node| d.owners.iter().any(|o| *o.uid == *node.uid && o.blocks);
    let blocking: Vec<&Node> = world.dependents.iter().filter(blocks).collect();
    if blocking.is_empty() {
        return Plan::act(vec![node.without_finalizer(FOREGROUND)]);
    }
    // Their own turn decides whether another owner keeps them: it comes with this deletion's event.
    Plan::rest()
}

impl Node {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    fn delete(&self, policy: &str) -> Action {
        let options = json!({"propagationPolicy": policy, "preconditions": {"uid": *self.uid}});
        Action::Delete { resource: "", path: self.path(), options }
    }

    fn without_owners(&self, uids: &[&str]) -> Action {
        let kept = self.owners.iter().filter(|o| !uids.contains(&&*o.uid));
        let kept: Vec<Value> = kept.filter_map(|o| serde_json::from_str(&o.reference).ok()).collect();
        self.patch(json!({"ownerReferences": if kept.is_empty() { Value::Null } else { json!(kept) }}))
    }

    fn without_finalizer(&self, finalizer: &str) -> Action {
        let kept: Vec<&String> = self.finalizers.iter().filter(|f| *f != finalizer).collect();
        self.patch(json!({"finalizers": if kept.is_empty() { Value::Null } else { json!(kept) }}))
    }

    /// The revision guards what others put into the list meanwhile.
    fn patch(&self, mut metadata: Value) -> Action {
        metadata["uid"] = (*self.uid).into();
        metadata["resourceVersion"] = (*self.revision).into();
        Action::Patch { resource: "", path: self.path(), patch: json!({"metadata": metadata}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[&str]) -> Node {
        let owner =
            |uid: &&str| Owner { uid: (*uid).into(), blocks: true, reference: json!({"uid": uid}).to_string().into(), ..Owner::default() };
        Node { uid: uid.into(), key: Key::new("", uid), owners: owners.iter().map(owner).collect(), ..Node::default() }
    }

    fn world(states: &[(&'static str, State)]) -> World {
        let uids: Vec<&str> = states.iter().map(|(uid, _)| *uid).collect();
        let node = node("me", &uids);
        let owners = node.owners.iter().cloned().zip(states.iter().map(|(_, s)| *s)).collect();
        World { node, owners, dependents: Vec::new() }
    }

    fn policy(plan: &Plan) -> Option<&Value> {
        let Some(Action::Delete { options, .. }) = plan.actions.first() else { return None };
        options.get("propagationPolicy")
    }

    #[test]
    fn what_has_no_owner_left_goes() {
        assert_eq!(policy(&plan(&world(&[("a", State::Absent)]))), Some(&json!("Background")));
        assert_eq!(plan(&world(&[("a", State::Solid)])), Plan::rest());
        assert_eq!(plan(&world(&[("a", State::Absent), ("b", State::Unknown)])), Plan::rest().again_in(ASK_AGAIN), "never on a guess");
    }

    #[test]
    fn a_lost_owner_is_struck_off_while_another_is_left() {
        let plan = plan(&world(&[("a", State::Absent), ("b", State::Solid)]));
        let [Action::Patch { patch, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"], json!([{"uid": "b"}]));
    }

    #[test]
    fn a_foreground_deletion_waits_for_blocking_dependents() {
        let mut waiting = world(&[]);
        waiting.node.deleting = true;
        waiting.node.finalizers = vec![FOREGROUND.into()];
        waiting.dependents = vec![node("child", &["me"])];
        assert_eq!(plan(&waiting), Plan::rest());
        let mut child = World { node: node("child", &["me"]), owners: vec![], dependents: vec![node("grandchild", &["child"])] };
        child.owners = vec![(child.node.owners[0].clone(), State::Waiting)];
        assert_eq!(policy(&plan(&child)), Some(&json!("Foreground")));
        waiting.dependents.clear();
        let done = plan(&waiting);
        let [Action::Patch { patch, .. }] = done.actions.as_slice() else { panic!("{done:?}") };
        assert_eq!(patch["metadata"]["finalizers"], Value::Null);
    }

    #[test]
    fn orphans_are_let_go() {
        let mut leaving = world(&[]);
        leaving.node.deleting = true;
        leaving.node.finalizers = vec![ORPHAN.into(), "x".into()];
        leaving.dependents = vec![node("child", &["me", "other"])];
        let first = plan(&leaving);
        let [Action::Patch { patch: child, .. }] = first.actions.as_slice() else { panic!("{first:?}") };
        assert_eq!(child["metadata"]["ownerReferences"], json!([{"uid": "other"}]));
        leaving.dependents.clear();
        let then = plan(&leaving);
        let [Action::Patch { patch: me, .. }] = then.actions.as_slice() else { panic!("{then:?}") };
        assert_eq!(me["metadata"]["finalizers"], json!(["x"]));
    }
}
