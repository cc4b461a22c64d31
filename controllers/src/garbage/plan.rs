//! An object, its owners and its dependents as they are -> what is done about it. Source: `attemptToDeleteItem`, `attemptToOrphanWorker`.

use std::time::Duration;

use api::k8s::api::core::v1::ObjectReference;
use reconcile::{Action, PatchType, Plan};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, Known, Node, ORPHAN, Owner};

/// Until a server that did not say what an object is may be asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Until an owner that the server has, but no watch has brought, is asked for again; the same for a kind that is not served.
const UNSEEN_AGAIN: Duration = Duration::from_secs(30);

pub enum World {
    /// Being deleted, with a finalizer of ours.
    Leaving { object: Box<Node>, dependents: Vec<Node> },
    /// The object as it is now. `contested`: it was to be deleted before, and had changed, but not its owners.
    Doubtful { object: Box<Node>, owners: Vec<Judged>, dependents: Vec<Node>, contested: bool },
    /// Not enough is known yet.
    Unanswered,
    /// One of its owners is of a kind that is not served: nothing is done until it is, or is no more an owner.
    Unserved,
}

/// An owner, what it is, and what the graph knew of it.
pub struct Judged {
    pub owner: Owner,
    pub state: State,
    pub known: Known,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Solid,
    /// No such object, or another one of that name.
    Absent,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// The server did not say.
    Unknown,
    /// Of a kind that is not served.
    Unserved,
    /// In a namespace, where the object is in none: it cannot be looked for.
    Misplaced,
}

pub fn plan(world: &World) -> Plan {
    match world {
        World::Unanswered => Plan::rest().again_in(ASK_AGAIN),
        World::Unserved => Plan::rest().again_in(UNSEEN_AGAIN),
        World::Leaving { object, dependents } => leaving(object, dependents),
        World::Doubtful { object, owners, dependents, contested } => {
            let mut plan = doubtful(object, owners, dependents, *contested);
            // Told once, when something follows from it or nothing ever will.
            let is_last_word = !plan.actions.is_empty() || owners.iter().any(|o| o.state == State::Misplaced);
            let foreign = owners.iter().filter(|o| is_last_word && o.known == Known::Foreign);
            plan.actions.splice(0..0, foreign.map(|judged| object.names_foreigner(&judged.owner)));
            plan
        }
    }
}

fn doubtful(object: &Node, owners: &[Judged], dependents: &[Node], contested: bool) -> Plan {
    let any = |state: State| owners.iter().any(|o| o.state == state);
    if any(State::Misplaced) {
        // Nothing that could come makes it right.
        return Plan::rest();
    }
    if any(State::Unknown) || any(State::Unserved) {
        return Plan::rest().again_in(if any(State::Unknown) { ASK_AGAIN } else { UNSEEN_AGAIN });
    }
    if any(State::Solid) {
        let gone: Vec<&str> = owners.iter().filter(|o| o.state != State::Solid).map(|o| &*o.owner.uid).collect();
        let unseen = owners.iter().any(|o| o.state == State::Solid && o.known == Known::Unseen);
        let plan = if gone.is_empty() { Plan::rest() } else { Plan::act(vec![object.without_owners(&gone)]) };
        return if unseen { plan.again_in(UNSEEN_AGAIN) } else { plan };
    }
    // An owner that waits for us wants us gone with all that is ours.
    if any(State::Waiting) && !dependents.is_empty() {
        let cycle = dependents.iter().any(|d| d.deleting && d.has(FOREGROUND));
        if cycle && object.owners.iter().any(|o| o.blocks) {
            // In a circle everybody would wait for everybody.
            return Plan::act(vec![object.without_blocks()]);
        }
        return Plan::act(vec![object.delete("Foreground", contested)]);
    }
    let policy = match object {
        _ if object.has(ORPHAN) => "Orphan",
        _ if object.has(FOREGROUND) => "Foreground",
        _ => "Background",
    };
    Plan::act(vec![object.delete(policy, contested)])
}

fn leaving(object: &Node, dependents: &[Node]) -> Plan {
    if object.has(ORPHAN) {
        let mut actions: Vec<Action> = dependents.iter().map(|d| d.without_owners(&[&object.uid])).collect();
        if actions.is_empty() {
            actions.push(object.without_finalizer(ORPHAN));
        }
        // The last one that is let go brings the turn of the owner itself.
        return Plan::act(actions);
    }
    let blocks = |d: &&Node| d.owners.iter().any(|o| *o.uid == *object.uid && o.blocks);
    if !object.has(FOREGROUND) || dependents.iter().any(|d| blocks(&d)) {
        // Their own turn decides whether another owner keeps them: it comes with this deletion's event.
        return Plan::rest();
    }
    Plan::act(vec![object.without_finalizer(FOREGROUND)])
}

impl Node {
    /// Deletes this object as it was looked at; `contested`: however it has changed since.
    fn delete(&self, policy: &str, contested: bool) -> Action {
        let mut preconditions = json!({"uid": *self.uid});
        if !contested {
            preconditions["resourceVersion"] = (*self.revision).into();
        }
        let options = json!({"propagationPolicy": policy, "preconditions": preconditions});
        Action::Delete { resource: self.collection.gvr(), path: self.path(), options }
    }

    fn without_owners(&self, uids: &[&str]) -> Action {
        self.with_owners(self.owners.iter().filter(|o| !uids.contains(&&*o.uid)).filter_map(|o| serde_json::from_str(&o.reference).ok()))
    }

    fn without_blocks(&self) -> Action {
        self.with_owners(self.owners.iter().filter_map(|o| serde_json::from_str::<Value>(&o.reference).ok()).map(|mut reference| {
            if reference["blockOwnerDeletion"] == true {
                reference["blockOwnerDeletion"] = false.into();
            }
            reference
        }))
    }

    fn with_owners(&self, references: impl Iterator<Item = Value>) -> Action {
        let kept: Vec<Value> = references.collect();
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
        Action::Patch { resource: self.collection.gvr(), path: self.path(), form: PatchType::Merge, patch: json!({"metadata": metadata}) }
    }

    /// Tells that an owner is in another namespace, which is as good as absent.
    fn names_foreigner(&self, owner: &Owner) -> Action {
        let Owner { api_version, kind, name, uid, .. } = owner;
        let namespace = &self.key.namespace;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace {namespace:?}"
        );
        let regarding = ObjectReference {
            api_version: Some(self.collection.api_version()),
            kind: Some(self.collection.kind.clone()),
            name: Some(self.key.name.clone()),
            namespace: Some(namespace.clone()).filter(|ns| !ns.is_empty()),
            uid: Some(self.uid.to_string()),
            ..ObjectReference::default()
        };
        Action::Event { regarding: Box::new(regarding), warning: true, reason: "OwnerRefInvalidNamespace", message }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::Key;

    use super::*;

    fn node(uid: &str, owners: &[&str]) -> Node {
        let owner = |uid: &&str| {
            let reference = json!({"uid": uid, "blockOwnerDeletion": true}).to_string().into();
            let (api_version, kind, name) = ("v1".into(), "K".into(), (*uid).into());
            Owner { uid: (*uid).into(), blocks: true, reference, api_version, kind, name }
        };
        let owners: Arc<[Owner]> = owners.iter().map(owner).collect();
        Node { uid: uid.into(), key: Key::new("shop", uid), revision: "7".into(), owners, ..Node::default() }
    }

    fn world(states: &[(&str, State)]) -> World {
        let uids: Vec<&str> = states.iter().map(|(uid, _)| *uid).collect();
        let object = Box::new(node("me", &uids));
        let known = |state: State| if state == State::Solid { Known::Solid } else { Known::Unseen };
        let judged = object.owners.iter().zip(states).map(|(owner, (_, state))| Judged {
            owner: owner.clone(),
            state: *state,
            known: known(*state),
        });
        let owners = judged.collect();
        World::Doubtful { object, owners, dependents: Vec::new(), contested: false }
    }

    fn deletion(plan: &Plan) -> Option<&Value> {
        plan.actions.iter().find_map(|a| if let Action::Delete { options, .. } = a { Some(options) } else { None })
    }

    fn policy(plan: &Plan) -> Option<&Value> {
        deletion(plan).map(|options| &options["propagationPolicy"])
    }

    #[test]
    fn what_has_no_owner_left_goes_as_it_was_seen() {
        let alone = plan(&world(&[("a", State::Absent)]));
        let wanted = json!({"propagationPolicy": "Background", "preconditions": {"uid": "me", "resourceVersion": "7"}});
        assert_eq!(deletion(&alone), Some(&wanted));
        let mut again = world(&[("a", State::Absent)]);
        if let World::Doubtful { contested, .. } = &mut again {
            *contested = true;
        }
        assert_eq!(
            deletion(&plan(&again)).map(|o| &o["preconditions"]),
            Some(&json!({"uid": "me"})),
            "nobody can hold it by writing often"
        );
    }

    /// Whatever else is known: never on a guess.
    #[test]
    fn nothing_is_done_while_something_is_not_known() {
        let others = [State::Solid, State::Absent, State::Waiting];
        for other in others {
            assert_eq!(plan(&world(&[("a", other), ("b", State::Unknown)])), Plan::rest().again_in(ASK_AGAIN));
            assert_eq!(plan(&world(&[("a", other), ("b", State::Unserved)])), Plan::rest().again_in(UNSEEN_AGAIN));
            assert_eq!(plan(&world(&[("a", other), ("b", State::Misplaced)])), Plan::rest());
        }
        assert_eq!(plan(&World::Unanswered), Plan::rest().again_in(ASK_AGAIN));
        assert_eq!(plan(&World::Unserved), Plan::rest().again_in(UNSEEN_AGAIN));
    }

    #[test]
    fn a_lost_owner_is_struck_off_while_another_is_left() {
        assert_eq!(plan(&world(&[("a", State::Solid)])), Plan::rest());
        let plan = plan(&world(&[("a", State::Absent), ("b", State::Solid), ("c", State::Waiting)]));
        let [Action::Patch { patch, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"], json!([{"uid": "b", "blockOwnerDeletion": true}]));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn an_owner_in_another_namespace_is_told_of() {
        let foreign = |states: &[(&str, State)]| {
            let mut world = world(states);
            if let World::Doubtful { owners, .. } = &mut world {
                owners[0].known = Known::Foreign;
            }
            plan(&world)
        };
        assert!(foreign(&[("a", State::Absent), ("b", State::Unknown)]).actions.is_empty(), "not each time");
        assert_eq!(foreign(&[("a", State::Misplaced)]).actions.len(), 1);
        let plan = foreign(&[("a", State::Absent)]);
        let [Action::Event { reason: "OwnerRefInvalidNamespace", warning: true, message, .. }, Action::Delete { .. }] = &plan.actions[..]
        else {
            panic!("{plan:?}")
        };
        assert_eq!(message, r#"ownerRef [v1/K, namespace: shop, name: a, uid: a] does not exist in namespace "shop""#);
    }

    #[test]
    fn finalizers_that_are_there_choose_the_policy() {
        for (finalizer, wanted) in [(ORPHAN, "Orphan"), (FOREGROUND, "Foreground"), ("x", "Background")] {
            let mut world = world(&[("a", State::Absent)]);
            if let World::Doubtful { object, .. } = &mut world {
                object.finalizers = vec![finalizer.into()];
            }
            assert_eq!(policy(&plan(&world)), Some(&json!(wanted)));
        }
    }

    #[test]
    fn a_foreground_deletion_waits_for_blocking_dependents() {
        let object = Box::new(Node { deleting: true, finalizers: vec![FOREGROUND.into()], ..node("me", &[]) });
        assert_eq!(plan(&World::Leaving { object: object.clone(), dependents: vec![node("child", &["me"])] }), Plan::rest());
        let mut child = world(&[("owner", State::Waiting)]);
        if let World::Doubtful { dependents, .. } = &mut child {
            dependents.push(node("grandchild", &["me"]));
        }
        assert_eq!(policy(&plan(&child)), Some(&json!("Foreground")));
        let done = plan(&World::Leaving { object, dependents: Vec::new() });
        let [Action::Patch { patch, .. }] = done.actions.as_slice() else { panic!("{done:?}") };
        assert_eq!(patch["metadata"]["finalizers"], Value::Null);
    }

    #[test]
    fn a_circle_is_broken() {
        let mut circle = world(&[("owner", State::Waiting)]);
        if let World::Doubtful { dependents, .. } = &mut circle {
            dependents.push(Node { deleting: true, finalizers: vec![FOREGROUND.into()], ..node("owner", &["me"]) });
        }
        let first = plan(&circle);
        let [Action::Patch { patch, .. }] = first.actions.as_slice() else { panic!("{first:?}") };
        assert_eq!(patch["metadata"]["ownerReferences"], json!([{"uid": "owner", "blockOwnerDeletion": false}]));
        if let World::Doubtful { object, .. } = &mut circle {
            object.owners = object.owners.iter().map(|o| Owner { blocks: false, ..o.clone() }).collect();
        }
        assert_eq!(policy(&plan(&circle)), Some(&json!("Foreground")));
    }

    #[test]
    fn orphans_are_let_go() {
        let object = Box::new(Node { deleting: true, finalizers: vec![ORPHAN.into(), "x".into()], ..node("me", &[]) });
        let first = plan(&World::Leaving { object: object.clone(), dependents: vec![node("child", &["me", "other"])] });
        let [Action::Patch { patch: child, .. }] = first.actions.as_slice() else { panic!("{first:?}") };
        assert_eq!(child["metadata"]["ownerReferences"], json!([{"uid": "other", "blockOwnerDeletion": true}]));
        let then = plan(&World::Leaving { object, dependents: Vec::new() });
        let [Action::Patch { patch: me, .. }] = then.actions.as_slice() else { panic!("{then:?}") };
        assert_eq!(me["metadata"]["finalizers"], json!(["x"]));
    }
}
