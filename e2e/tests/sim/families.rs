//! Random numbers -> objects that own each other, and the ends of their owners.

use rand::{Rng, seq::IndexedRandom};
use serde_json::{Value, json};

use crate::{
    invariants::text,
    losses::{FAMILY, owners},
    user::{NAMESPACES, User},
};

/// Owners that nobody has ended yet: namespace, name.
#[derive(Default)]
pub struct Families {
    made: u64,
    owners: Vec<(String, String)>,
}

impl User {
    /// A family is made, or an owner ends while somebody frees one of its dependents.
    pub async fn family(&mut self, namespace: &str) {
        if self.families.owners.len() < 3 || self.random.random_ratio(1, 2) {
            self.make_family(namespace).await;
        } else {
            let number = self.random.random_range(0..self.families.owners.len());
            let (namespace, name) = self.families.owners.swap_remove(number);
            self.end(&namespace, &name).await;
        }
    }

    async fn make_family(&mut self, namespace: &str) {
        let number = self.families.made;
        self.families.made += 1;
        let name = format!("family-{number}");
        self.member(namespace, &name, json!([])).await;
        let Some(owner) = self.stored(namespace, &name) else { return };
        self.families.owners.push((namespace.to_owned(), name.clone()));
        for child in 0..self.random.random_range(1..5) {
            let mut references = vec![reference(&owner, self.random.random_ratio(1, 2))];
            references.extend(self.another_owner(namespace));
            self.member(namespace, &format!("{name}-{child}"), json!(references)).await;
        }
        let elsewhere = *NAMESPACES.choose(&mut self.random).unwrap();
        let mut odd = reference(&owner, false);
        match self.random.random_range(0..6) {
            // Nobody has such a name, or it is another's.
            0 => odd["name"] = (*["a b", "a/b", "..", "A?x=y#z"].choose(&mut self.random).unwrap()).into(),
            1 => odd["uid"] = "00000000-0000-4000-8000-000000000000".into(),
            // In its own namespace this is an owner like any other.
            2 => return self.member(elsewhere, &format!("{name}-odd"), json!([odd])).await,
            _ => return,
        }
        self.member(namespace, &format!("{name}-odd"), json!([odd])).await;
    }

    fn another_owner(&mut self, namespace: &str) -> Option<Value> {
        let others: Vec<&(String, String)> = self.families.owners.iter().filter(|(ns, _)| ns == namespace).collect();
        let (_, name) = others.choose(&mut self.random).filter(|_| self.families.made.is_multiple_of(3))?;
        let (name, blocks) = (name.clone(), self.random.random_ratio(1, 2));
        self.stored(namespace, &name).map(|owner| reference(&owner, blocks))
    }

    async fn member(&mut self, namespace: &str, name: &str, references: Value) {
        let body = json!({"metadata": {"name": name, "labels": {FAMILY: "yes"}, "ownerReferences": references}});
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let done = self.asker.ask("POST", &collection, &body).await;
        self.note("create", &format!("{namespace}/{name}"), &body["metadata"]["ownerReferences"].to_string(), &done);
    }

    async fn end(&mut self, namespace: &str, name: &str) {
        let key = |name: &str| format!("/registry/configmaps/{namespace}/{name}");
        let Some(owner) = self.stored(namespace, name) else { return };
        let policy = *["Background", "Background", "Foreground", "Orphan"].choose(&mut self.random).unwrap();
        let children: Vec<Value> = {
            let state = self.watched.lock();
            let is_child = |o: &&Value| owners(o).any(|r| r["uid"] == owner["metadata"]["uid"]);
            state.of("configmaps", namespace).filter(is_child).cloned().collect()
        };
        self.watched.lock().may_go(&key(name));
        let only_ours = |child: &&Value| owners(child).count() == 1 && owners(child).all(|r| r["name"] == owner["metadata"]["name"]);
        for child in children.iter().filter(only_ours).filter(|_| policy == "Orphan") {
            self.watched.lock().losses.keep(&key(text(child, "/metadata/name")));
        }
        let path = |name: &str| format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        let freed = children.choose(&mut self.random).map(|child| path(text(child, "/metadata/name")));
        let ends = async { self.asker.ask("DELETE", &path(name), &json!({"propagationPolicy": policy})).await };
        let free = async {
            match &freed {
                Some(path) => Some(self.asker.ask("PATCH", path, &json!({"metadata": {"ownerReferences": null}})).await),
                None => None,
            }
        };
        let (ended, free) = tokio::join!(ends, free);
        self.note("delete", &path(name), policy, &ended);
        if let (Some(path), Some(done)) = (freed, free) {
            self.note("free", &path, "", &done);
        }
    }

    fn stored(&self, namespace: &str, name: &str) -> Option<Value> {
        self.watched.lock().objects.get(&format!("/registry/configmaps/{namespace}/{name}")).map(|s| s.value.clone())
    }
}

fn reference(owner: &Value, blocks: bool) -> Value {
    let metadata = &owner["metadata"];
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": metadata["name"], "uid": metadata["uid"], "blockOwnerDeletion": blocks})
}
