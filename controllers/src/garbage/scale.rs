//! What one event costs the graph at 1,000, 10,000 and 100,000 dependents of one owner, and as many of nobody's: counted, not timed.
//!
//! Not here: an owner that begins to go gives each of its dependents its turn.

use std::{collections::BTreeMap, sync::Arc};

use api::{Key, steps};

use super::graph::{FOREGROUND, Graph, Known, Node, Owner};
use crate::catalog::Collection;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

#[test]
fn one_event_costs_the_same_however_many_objects_there_are() {
    let (mut graph, mut costs, mut count) = (Graph::default(), BTreeMap::new(), 0);
    graph.put(object("owner", false));
    for size in SIZES {
        for at in count..size {
            graph.put(object(&format!("d{at}"), true));
            graph.put(object(&format!("alone{at}"), false));
        }
        count = size;
        measure(&mut graph, &mut costs);
    }
    costs.iter().for_each(|(event, costs)| steps::must_not_grow(event, costs));
}

fn measure(graph: &mut Graph, costs: &mut BTreeMap<&'static str, Vec<u64>>) {
    let mut cost = |event, turn: &[&str], happens: &mut dyn FnMut(&mut Graph) -> Vec<Arc<str>>| {
        let (found, steps) = steps::of(|| happens(graph));
        assert_eq!(found.iter().map(|uid| &**uid).collect::<Vec<_>>(), turn, "{event}");
        costs.entry(event).or_default().push(steps);
    };
    let holding = |uid: &str, owned: bool| Node { finalizers: vec![FOREGROUND.into()], ..object(uid, owned) };
    cost("a dependent comes", &[], &mut |graph| graph.put(object("new", true)));
    cost("a dependent is written", &[], &mut |graph| graph.put(Node { revision: "8".into(), ..object("new", true) }));
    cost("a dependent changes", &[], &mut |graph| graph.put(holding("new", true)));
    cost("a dependent goes", &[], &mut |graph| graph.remove("new", true));
    cost("one of nobody's changes", &[], &mut |graph| graph.put(holding("alone0", false)));
    cost("and is as before", &[], &mut |graph| graph.put(object("alone0", false)));
    cost("the owner is written", &[], &mut |graph| graph.put(Node { revision: "8".into(), ..object("owner", false) }));
    cost("the owner changes", &[], &mut |graph| graph.put(holding("owner", false)));
    cost("an owner is asked about", &[], &mut |graph| {
        let seen = graph.get("d7").cloned().unwrap();
        assert!(!graph.is_in_doubt(&seen) && graph.known(&seen.owners[0], "d") == Known::Solid);
        Vec::new()
    });
    graph.put(Node { deleting: true, ..holding("owner", false) });
    let mut cost = |event, happens: &mut dyn FnMut(&mut Graph) -> Vec<Arc<str>>| {
        let (found, steps) = steps::of(|| happens(graph));
        assert!(found.iter().any(|uid| &**uid == "owner"), "{event}: it counts them again");
        costs.entry(event).or_default().push(steps);
    };
    cost("a dependent of one in its last rites goes", &mut |graph| graph.remove("d0", true));
    graph.put(object("owner", false));
    graph.put(object("d0", true));
}

fn object(uid: &str, owned: bool) -> Node {
    let (version, plural, kind) = ("v1".into(), "configmaps".into(), "ConfigMap".into());
    let collection = Collection { version, plural, kind, namespaced: true, ..Collection::default() };
    let owner = Owner { uid: "owner".into(), api_version: "v1".into(), kind: "ConfigMap".into(), name: "owner".into(), ..Owner::default() };
    let owners = if owned { Arc::from([owner]) } else { Arc::default() };
    Node { uid: uid.into(), collection: Arc::new(collection), key: Key::new("d", uid), revision: "7".into(), owners, ..Node::default() }
}
