//! Owner references -> dependents deleted, orphaned or waited for. Source: `pkg/controller/garbagecollector`.
//!
//! The [`graph`] says whose turn it is; before anything is deleted, the object and its owners are looked at as they are now.

mod ask;
mod follow;
mod graph;
mod plan;
#[cfg(test)]
mod scale;

use std::{collections::HashMap, sync::Arc};

use api::{Key, task::Group};
use client::kube;
use parking_lot::Mutex;
use reconcile::{Action, Controller, Plan, Wake};

use crate::census::Census;
use ask::Found;
use graph::{Graph, Node, Owner};
use plan::{Judged, State, World};

/// Deletions that were refused because the object had changed: so many are remembered.
const CONTESTED_MAX: usize = 1000;

/// Keys are uids.
pub struct Garbage {
    client: kube::Client,
    graph: Arc<Mutex<Graph>>,
    group: Group,
    census: Census,
    tried: Mutex<HashMap<Key, Tried>>,
    wake: std::sync::OnceLock<follow::WakeUid>,
}

/// A deletion, and the owners that the object had.
struct Tried {
    owners: Arc<[Owner]>,
    refused: bool,
}

impl Garbage {
    /// What comes and goes is told to `census`, too.
    pub fn new(client: kube::Client, group: &Group, census: &Census) -> Self {
        let (tried, wake) = (Mutex::default(), std::sync::OnceLock::new());
        Self { client, graph: Arc::default(), group: group.clone(), census: census.clone(), tried, wake }
    }

    async fn doubtful(&self, key: &Key, seen: &Node) -> Option<World> {
        let object = match ask::object(&self.client, &seen.collection, &seen.key.namespace, &seen.key.name).await {
            Found::Object(object) if object.uid == seen.uid => object,
            Found::Object(_) | Found::Nothing => {
                let turn = self.graph.lock().remove(&seen.uid, true);
                turn.iter().for_each(|uid| self.wake(uid));
                return None;
            }
            Found::Silence => return Some(World::Unanswered),
        };
        // One that is being deleted has its turn when that is seen.
        if object.deleting || object.owners.is_empty() {
            return None;
        }
        let mut owners = Vec::with_capacity(object.owners.len());
        for owner in &*object.owners {
            owners.push(self.judge(owner, &object).await);
        }
        let dependents = self.graph.lock().dependents(&object.uid);
        let contested = self.note_tried(key, &object, &owners);
        Some(World::Doubtful { object, owners, dependents, contested })
    }

    async fn judge(&self, owner: &Owner, object: &Node) -> Judged {
        let (known, asked) = {
            let graph = self.graph.lock();
            (graph.known(owner, &object.key.namespace), ask::place(&graph, owner, &object.key.namespace))
        };
        let state = match (known, asked) {
            (graph::Known::Solid, _) => State::Solid,
            (graph::Known::Waiting, _) => State::Waiting,
            (_, Err(state)) => state,
            (_, Ok((collection, place))) => match ask::object(&self.client, &collection, &place.namespace, &owner.name).await {
                Found::Object(found) if *found.uid == *owner.uid => ask::state(&found),
                Found::Object(_) | Found::Nothing => {
                    self.graph.lock().note_absent(place);
                    State::Absent
                }
                Found::Silence => State::Unknown,
            },
        };
        Judged { owner: owner.clone(), state, known }
    }

    /// Whether the deletion that may follow was refused before, and the object's owners are still the same.
    fn note_tried(&self, key: &Key, object: &Node, owners: &[Judged]) -> bool {
        let mut tried = self.tried.lock();
        let before = tried.remove(key);
        if owners.iter().any(|o| o.state != State::Absent && o.state != State::Waiting) {
            return false;
        }
        if tried.len() >= CONTESTED_MAX {
            tried.clear();
        }
        tried.insert(key.clone(), Tried { owners: object.owners.clone(), refused: false });
        before.is_some_and(|before| before.refused && before.owners == object.owners)
    }

    fn wake(&self, uid: &str) {
        if let Some(wake) = self.wake.get() {
            wake(uid);
        }
    }
}

impl Controller for Garbage {
    type World = World;

    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn watches(&self, wake: &Wake) {
        let handle = wake.handle();
        let wake = self.wake.get_or_init(|| Arc::new(move |uid: &str| handle(Key::new("", uid))));
        let told = follow::Told { graph: self.graph.clone(), wake: wake.clone(), census: self.census.clone() };
        follow::follow(self.client.clone(), told, &self.group);
    }

    fn weight(&self, world: &World) -> usize {
        match world {
            World::Leaving { dependents, .. } | World::Doubtful { dependents, .. } => dependents.len(),
            _ => 0,
        }
    }

    async fn observe(&self, key: &Key) -> Option<World> {
        let seen = {
            let graph = self.graph.lock();
            let Some(seen) = graph.get(&key.name) else {
                self.tried.lock().remove(key);
                return None;
            };
            if !graph.is_in_doubt(seen) {
                return None;
            }
            if seen.deleting {
                let (object, dependents) = (Box::new(seen.clone()), graph.dependents(&key.name));
                return Some(if graph.is_whole() { World::Leaving { object, dependents } } else { World::Unanswered });
            }
            if seen.owners.iter().any(|owner| ask::is_unserved(&graph, owner)) {
                return Some(World::Unserved);
            }
            seen.clone()
        };
        self.doubtful(key, &seen).await
    }

    fn plan(&self, world: &World, _: &Key) -> Plan {
        plan::plan(world)
    }

    fn failed(&self, key: &Key, action: &Action, error: &kube::Error) -> Option<Action> {
        let refused = matches!(error, kube::Error::Api(status) if status.code == 409);
        if let Some(tried) = self.tried.lock().get_mut(key).filter(|_| refused && matches!(action, Action::Delete { .. })) {
            tried.refused = true;
        }
        None
    }
}
