//! The CustomResourceDefinitions that this server sees -> the kinds it serves, their conditions, and the end of their objects.
//!
//! Every server does this by itself: what is written is the same whoever writes it. Source: apiextensions-apiserver `pkg/controller`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use api::{GroupResource, Gvr, Key, Status, time::Timestamp};
use apiserver::{
    engine::{Engine, Object},
    kind::Kind,
};
use futures::StreamExt;
use kinds::{
    auth::system_user,
    common::{Read, edit, is_of_the_store},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::{
    definition::{GROUP, PLURAL},
    naming::{self, FINALIZER, Taken},
    resource,
};

/// First pause, and longest, before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Objects of a definition that goes which are deleted at one time.
const DELETIONS_MAX: usize = 32;

/// Serves what the definitions say, from now on: those that are there are served when this returns.
pub async fn start(engine: &Arc<Engine>) {
    let serving = Serving::of(engine);
    let changed = serving.changed.clone();
    engine.on_change(&definitions(), Arc::new(move |_| changed.notify_one()));
    let outcome = serving.sync().await;
    engine.group().spawn_loop("custom resource definitions", serving.run(outcome));
}

struct Serving {
    engine: Arc<Engine>,
    changed: Arc<Notify>,
    /// No definition comes in the place of these.
    built_in: HashSet<GroupResource>,
    known: Mutex<HashMap<String, Known>>,
    /// By group.
    names: Mutex<HashMap<String, Names>>,
    /// Definitions whose objects are being deleted.
    ending: Mutex<HashSet<String>>,
}

/// A definition as it was last seen.
struct Known {
    rev: u64,
    served: Vec<Gvr>,
    /// A hash of what its kinds are made of: they are not made anew of the same.
    made_of: [u8; 32],
    group: String,
}

/// The kinds of a definition, those that it had and has no more, and its place among those looked at.
struct Exchange {
    at: usize,
    kinds: Vec<Arc<Kind>>,
    gone: Vec<Gvr>,
}

#[derive(PartialEq)]
enum Outcome {
    Done,
    Again,
}

fn definitions() -> GroupResource {
    GroupResource::new(GROUP, PLURAL)
}

impl Serving {
    fn of(engine: &Arc<Engine>) -> Arc<Self> {
        Arc::new(Self {
            engine: engine.clone(),
            changed: Arc::default(),
            built_in: engine.kinds().iter().map(|kind| kind.group_resource()).collect(),
            known: Mutex::default(),
            names: Mutex::default(),
            ending: Mutex::default(),
        })
    }

    /// What failed is tried again after a pause, or with the next change: it holds up no other.
    async fn run(self: Arc<Self>, mut outcome: Outcome) {
        let mut pause = RETRY.0;
        loop {
            if outcome == Outcome::Again {
                let _is_change = tokio::time::timeout(pause, self.changed.notified()).await;
                pause = (pause * 2).min(RETRY.1);
            } else {
                self.changed.notified().await;
                pause = RETRY.0;
            }
            outcome = self.sync().await;
        }
    }

    /// Takes over all that changed since the last time.
    async fn sync(self: &Arc<Self>) -> Outcome {
        let all = self.engine.cached_list(&definitions(), None);
        let (fresh, gone) = self.news(&all);
        if fresh.is_empty() && gone.is_empty() {
            return Outcome::Done;
        }
        let is_less = !gone.is_empty();
        let mut outcome = self.withdraw(&gone).await;
        let mut wanted = Vec::new();
        // A name that was given up may be what others of the group wait for.
        let looked_at: Vec<&Arc<Object>> = if is_less { all.iter().collect() } else { fresh.iter().collect() };
        for object in looked_at {
            let mut definition = object.value();
            let name = object.key.name.clone();
            let group = definition.at("spec").text("group").to_owned();
            let before = definition.clone();
            {
                let mut names = self.names.lock();
                let others = names.entry(group).or_default();
                naming::settle(&mut definition, &others.without(&name), Timestamp::now());
                others.put(&name, &definition);
            }
            wanted.push((object.clone(), before != definition, definition));
        }
        let failed = self.serve(&wanted).await;
        // A store that does not answer one is not asked for each of the others in turn.
        let mut is_away = false;
        for (at, (object, is_changed, definition)) in wanted.iter().enumerate() {
            let is_failed = failed.contains(&at);
            let is_written = match () {
                () if !is_changed => true,
                () if is_away => false,
                () => self.write(object, definition, is_failed).await.inspect_err(|status| is_away = is_of_the_store(status)).is_ok(),
            };
            if is_failed || !is_written {
                self.forget(&object.key.name);
                outcome = Outcome::Again;
            }
            if object.is_deleting() {
                self.end(object);
            }
        }
        outcome
    }

    /// Those that are not as they were, and the names of those that are gone.
    fn news(&self, all: &[Arc<Object>]) -> (Vec<Arc<Object>>, Vec<String>) {
        let known = self.known.lock();
        let is_fresh = |object: &&Arc<Object>| known.get(&object.key.name).is_none_or(|known| known.rev != object.rev);
        let fresh = all.iter().filter(is_fresh).cloned().collect();
        let there: HashSet<&str> = all.iter().map(|object| object.key.name.as_str()).collect();
        let gone = known.keys().filter(|name| !there.contains(name.as_str())).cloned().collect();
        (fresh, gone)
    }

    fn forget(&self, name: &str) {
        if let Some(known) = self.known.lock().get_mut(name) {
            known.rev = 0;
        }
    }

    async fn withdraw(&self, names: &[String]) -> Outcome {
        let gone: Vec<Gvr> = names.iter().flat_map(|name| self.served(name)).collect();
        if let Err(error) = self.engine.withdraw(&gone).await {
            tracing::warn!(%error, "kinds of definitions that are gone are still served");
            return Outcome::Again;
        }
        let (mut known, mut groups) = (self.known.lock(), self.names.lock());
        for name in names {
            let Some(known) = known.remove(name) else { continue };
            if let Some(others) = groups.get_mut(&known.group) {
                others.0.remove(name);
            }
        }
        Outcome::Done
    }

    fn served(&self, name: &str) -> Vec<Gvr> {
        self.known.lock().get(name).map(|known| known.served.clone()).unwrap_or_default()
    }

    /// Serves what is established, all that is new at once; what cannot be served does not keep others from it. Gives the places of what cannot.
    async fn serve(&self, wanted: &[(Arc<Object>, bool, Value)]) -> HashSet<usize> {
        let mut made: Vec<Exchange> = Vec::new();
        for (at, (object, _, definition)) in wanted.iter().enumerate() {
            let made_of = made_of(definition);
            let is_same = self.known.lock().get(&object.key.name).is_some_and(|known| known.made_of == made_of);
            // One that came again under its name may not be served, and what was is not its.
            let (may_serve, mut gone) = (self.may_serve(definition), self.served(&object.key.name));
            if !is_same && (may_serve || !gone.is_empty()) {
                let kinds = if may_serve { resource::kinds(definition, &self.engine) } else { Vec::new() };
                let kinds: Vec<Arc<Kind>> = kinds.into_iter().map(Arc::new).collect();
                gone.retain(|gvr| kinds.iter().all(|kind| kind.gvr() != *gvr));
                made.push(Exchange { at, kinds, gone });
            }
        }
        let all: Vec<Arc<Kind>> = made.iter().flat_map(|one| one.kinds.iter().cloned()).collect();
        let gone: Vec<Gvr> = made.iter().flat_map(|one| one.gone.iter().cloned()).collect();
        let together = if made.is_empty() { Ok(()) } else { self.engine.exchange(all, &gone).await };
        let (mut failed, mut away) = (HashSet::new(), None::<Status>);
        let mut served: HashMap<usize, Vec<Gvr>> = HashMap::new();
        for Exchange { at, kinds, gone } in made {
            let gvrs = kinds.iter().map(|kind| kind.gvr()).collect();
            let alone = match (&together, &away) {
                (Ok(()), _) => Ok(()),
                (Err(_), Some(status)) => Err(status.clone()),
                // All of them may have been too much for it, and one is not.
                (Err(_), None) => self.engine.exchange(kinds, &gone).await,
            };
            match alone {
                Ok(()) => drop(served.insert(at, gvrs)),
                Err(error) => {
                    // What ails one ails the others.
                    away = away.or_else(|| Some(error.clone()).filter(is_of_the_store));
                    let name = wanted.get(at).map_or("", |(object, ..)| object.key.name.as_str());
                    tracing::warn!(name, %error, "a definition cannot be served");
                    failed.insert(at);
                }
            }
        }
        let mut known = self.known.lock();
        for (at, (object, _, definition)) in wanted.iter().enumerate() {
            let entry = known.entry(object.key.name.clone()).or_insert_with(|| Known {
                rev: 0,
                served: Vec::new(),
                made_of: [0; 32],
                group: String::new(),
            });
            entry.rev = object.rev;
            definition.at("spec").text("group").clone_into(&mut entry.group);
            if let Some(gvrs) = served.remove(&at) {
                (entry.served, entry.made_of) = (gvrs, made_of(definition));
            }
        }
        failed
    }

    fn may_serve(&self, definition: &Value) -> bool {
        let names = definition.at("status").at("acceptedNames");
        let resource = GroupResource::new(definition.at("spec").text("group"), names.text("plural"));
        naming::is_true(definition, "Established") && !self.built_in.contains(&resource)
    }

    /// What was found out, into the object as it is now. Nobody is told that it is established where it could not be served.
    async fn write(&self, object: &Object, found: &Value, is_failed: bool) -> Result<(), Status> {
        let status = found.at("status").cloned().unwrap_or_default();
        let (uid, names) = (object.uid().to_owned(), found.at("spec").at("names").cloned());
        let change = |value: &mut Value| {
            // Changed meanwhile: it is looked at again.
            if value.at("metadata").text("uid") != uid || value.at("spec").at("names") != names.as_ref() {
                return Ok(());
            }
            let Some(part) = edit::make_child(value, "status") else { return Ok(()) };
            edit::carry(part, &status, "acceptedNames");
            for condition in status.list("conditions") {
                let words = [condition.text("status"), condition.text("reason"), condition.text("message")];
                let at = api::time::parse(condition.text("lastTransitionTime")).unwrap_or_else(Timestamp::now);
                if condition.text("type") != "Terminating" && !(is_failed && condition.text("type") == "Established") {
                    naming::set_condition(value, condition.text("type"), words, at);
                }
            }
            Ok(())
        };
        self.update(&object.key, &change).await
    }

    async fn update(&self, key: &Key, change: &(dyn for<'a> Fn(&'a mut Value) -> Result<(), Status> + Send + Sync)) -> Result<(), Status> {
        match self.engine.update(&definitions(), key, "status", &system_user(), change).await {
            Ok(_) => Ok(()),
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => {
                tracing::warn!(name = key.name, %status, "the status of a definition was not written");
                Err(status)
            }
        }
    }

    /// Deletes all objects of a definition, and then lets it go; once at a time.
    fn end(self: &Arc<Self>, object: &Arc<Object>) {
        let is_held = object.value().at("metadata").list("finalizers").iter().any(|finalizer| finalizer == FINALIZER);
        if !is_held || !self.ending.lock().insert(object.key.name.clone()) {
            return;
        }
        let (serving, key) = (self.clone(), object.key.clone());
        self.engine.group().spawn(async move {
            let mut pause = RETRY.0;
            while serving.ended(&key).await == Outcome::Again {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            serving.ending.lock().remove(&key.name);
            // It may have come again under the same name.
            serving.forget(&key.name);
            serving.changed.notify_one();
        });
    }

    async fn ended(&self, key: &Key) -> Outcome {
        let Some(object) = self.engine.cached(&definitions(), key).filter(|object| object.is_deleting()) else { return Outcome::Done };
        let definition = object.value();
        let plural = definition.at("status").at("acceptedNames").text("plural");
        let resource = GroupResource::new(definition.at("spec").text("group"), plural);
        let words = match () {
            () if self.built_in.contains(&resource) => {
                ["False", "OverlappingBuiltInResource", "instances overlap with built-in resources in storage"]
            }
            () if !naming::is_true(&definition, "Established") => ["False", "NeverEstablished", "resource was never established"],
            () => {
                let words = ["True", "InstanceDeletionInProgress", "CustomResource deletion is in progress"];
                let begun = |value: &mut Value| {
                    naming::set_condition(value, "Terminating", words, Timestamp::now());
                    Ok(())
                };
                if self.update(key, &begun).await.is_err() || self.delete_all(&resource).await == Outcome::Again {
                    return Outcome::Again;
                }
                ["False", "InstanceDeletionCompleted", "removed all instances"]
            }
        };
        let uid = object.uid().to_owned();
        let finished = |value: &mut Value| {
            if value.at("metadata").text("uid") != uid {
                return Ok(());
            }
            naming::set_condition(value, "Terminating", words, Timestamp::now());
            if let Some(finalizers) = value.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            Ok(())
        };
        if self.update(key, &finished).await.is_ok() { Outcome::Done } else { Outcome::Again }
    }

    /// Done: none is left.
    async fn delete_all(&self, resource: &GroupResource) -> Outcome {
        // Another server may have made some just now, and what cannot be decrypted is there although it is not cached.
        if self.engine.fresh().await.is_err() || self.engine.whole(resource).is_err() {
            return Outcome::Again;
        }
        let there = self.engine.cached_list(resource, None).into_iter().filter(|object| !object.is_deleting());
        let deletions = futures::stream::iter(there).map(|object| {
            let (engine, resource) = (self.engine.clone(), resource.clone());
            async move { engine.delete(&resource, &object.key, json!({}), &system_user()).await }
        });
        let failed = deletions
            .buffer_unordered(DELETIONS_MAX)
            .filter(|done| std::future::ready(done.as_ref().is_err_and(|status| status.code != 404)))
            .count()
            .await;
        let is_empty = self.engine.whole(resource).is_ok() && self.engine.cached_list(resource, None).is_empty();
        if failed == 0 && is_empty { Outcome::Done } else { Outcome::Again }
    }
}

/// The names of the definitions of one group.
#[derive(Default)]
struct Names(HashMap<String, Value>);

impl Names {
    fn put(&mut self, name: &str, definition: &Value) {
        let names = definition.at("status").at("acceptedNames").cloned().unwrap_or_default();
        self.0.insert(name.to_owned(), json!({"status": {"acceptedNames": names}}));
    }

    fn without(&self, name: &str) -> Taken {
        let mut taken = Taken::default();
        self.0.iter().filter(|(other, _)| *other != name).for_each(|(_, names)| taken.add(names));
        taken
    }
}

/// Of all of a definition that its kinds are made of.
fn made_of(definition: &Value) -> [u8; 32] {
    let names = definition.at("status").at("acceptedNames");
    let is_ending = definition.at("metadata").at("deletionTimestamp").is_some();
    let parts = json!([definition.at("metadata").text("uid"), definition.at("spec"), names, is_ending]);
    Sha256::digest(parts.to_string()).into()
}
