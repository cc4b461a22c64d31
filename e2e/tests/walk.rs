//! The users' own notes, line by line -> proof that the real kubectl prints what they expect.
//!
//! Every step is a line as it is typed at a terminal, and what must be seen there. Each topic has a namespace of its own, so that
//! one that fails does not hide the others. `WALK=pods,services cargo test -p e2e --test walk` walks only the topics so named.

#[path = "walk/aboard.rs"]
mod aboard;
#[path = "walk/cluster.rs"]
mod cluster;
#[path = "walk/objects.rs"]
mod objects;
#[path = "walk/terminal.rs"]
mod terminal;
#[path = "walk/writing.rs"]
mod writing;

use aboard::{Kubectl, Place};

/// What needs no node.
const OBJECTS: &[aboard::Topic] = &[
    ("about", cluster::about),
    ("config", cluster::config),
    ("discovery", cluster::discovery),
    ("namespaces", objects::namespaces),
    ("create", objects::create),
    ("labels", objects::labels),
    ("qos", objects::qos),
    ("bad-input", objects::bad_input),
    ("patch", writing::patch),
    ("apply", writing::apply),
    ("prune", writing::prune),
    ("access", objects::access),
];

#[test]
fn objects_with_kubectl_1_20() {
    aboard::walk(Place::Server, Kubectl::Old, &[OBJECTS]);
}

#[test]
fn objects_with_the_newer_kubectl() {
    aboard::walk(Place::Server, Kubectl::Newer, &[OBJECTS]);
}
