//! Where an object should be -> what the server has there.

use std::sync::Arc;

use api::names::is_possible;
use client::kube;

use super::{
    follow::Entry,
    graph::{FOREGROUND, Graph, Node, Owner, Place},
    plan::State,
};
use crate::catalog::{Collection, get_metadata, is_absent};

pub enum Found {
    Object(Box<Node>),
    /// The server has the collection, and nothing of this name in it.
    Nothing,
    /// The server did not say.
    Silence,
}

pub async fn object(client: &kube::Client, collection: &Arc<Collection>, namespace: &str, name: &str) -> Found {
    let path = collection.object(namespace, name);
    match get_metadata::<Entry>(client, &path).await {
        Ok(entry) => Found::Object(Box::new(entry.node(collection))),
        Err(error) if is_absent(&error, name) => Found::Nothing,
        Err(error) => {
            tracing::debug!(%error, path, "garbage collector: no answer");
            Found::Silence
        }
    }
}

/// Whether nobody can say what an owner is. One that was seen under the name of its reference is what it was.
pub fn is_unserved(graph: &Graph, owner: &Owner) -> bool {
    is_possible(&owner.name) && graph.collection(owner).is_none() && graph.get(&owner.uid).is_none()
}

/// Where an owner is to be looked for, or what it is without a look.
pub fn place(graph: &Graph, owner: &Owner, namespace: &str) -> Result<(Arc<Collection>, Place), State> {
    if !is_possible(&owner.name) {
        return Err(State::Absent);
    }
    // A kind that is not served now may have been, and may be again.
    let collection = graph.collection(owner).ok_or(State::Unserved)?;
    if collection.namespaced && namespace.is_empty() {
        return Err(State::Misplaced);
    }
    let place = owner.at(if collection.namespaced { namespace } else { "" });
    if graph.is_absent(&place) { Err(State::Absent) } else { Ok((collection, place)) }
}

/// What an owner is that is there.
pub fn state(owner: &Node) -> State {
    if owner.deleting && owner.has(FOREGROUND) { State::Waiting } else { State::Solid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Served;

    #[test]
    fn owners_are_looked_for_where_they_would_be() {
        let served = |group: &str, version: &str, kind: &str, namespaced| Served {
            collection: Collection { group: group.into(), version: version.into(), kind: kind.into(), namespaced, ..Collection::default() },
            preferred: version == "v2",
            stale: false,
        };
        let mut graph = Graph::default();
        graph.serve(&[served("", "v1", "Node", false), served("g", "v2", "K", true), served("g", "v1", "K", true)]);
        let owner =
            |api: &str, kind: &str, name: &str| Owner { api_version: api.into(), kind: kind.into(), name: name.into(), ..Owner::default() };
        let at = |owner: &Owner, namespace: &str| place(&graph, owner, namespace).map(|(c, p)| format!("{} {}", c.version, p.namespace));
        assert_eq!(at(&owner("v1", "Node", "n"), "shop"), Ok("v1 ".into()));
        assert_eq!(at(&owner("g/v1", "K", "n"), "shop"), Ok("v1 shop".into()), "in any version that is served");
        assert_eq!(at(&owner("g/v1", "K", "n"), ""), Err(State::Misplaced));
        assert_eq!(at(&owner("g/v3", "K", "n"), "shop"), Err(State::Unserved));
        assert_eq!(at(&owner("a/b/c", "K", "n"), "shop"), Err(State::Unserved));
        for nobodys in ["a/b", "..", ".", "", "%2e"] {
            assert_eq!(at(&owner("g/v1", "K", nobodys), "shop"), Err(State::Absent));
        }
        graph.note_absent(owner("g/v1", "K", "n").at("shop"));
        assert!(place(&graph, &owner("g/v1", "K", "n"), "shop") == Err(State::Absent));
        assert!(place(&graph, &owner("g/v1", "K", "n"), "other").is_ok());
    }

    #[test]
    fn odd_names_are_escaped() {
        let collection = Collection { version: "v1".into(), plural: "configmaps".into(), namespaced: true, ..Collection::default() };
        assert_eq!(collection.object("shop", "a b?c"), "/api/v1/namespaces/shop/configmaps/a%20b%3Fc");
    }
}
