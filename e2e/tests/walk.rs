//! The users' own notes, line by line -> proof that the real kubectl prints what they expect.
//!
//! Every step is a line as it is typed at a terminal, and what must be seen there. Each topic has a namespace of its own, so that
//! one that fails does not hide the others, and others may go on beside it. `WALK=pods,services cargo test -p e2e --test walk` walks only the topics
//! so named.

#[path = "walk/aboard.rs"]
mod aboard;
#[path = "walk/again.rs"]
mod again;
#[path = "walk/cluster.rs"]
mod cluster;
#[path = "walk/drivers.rs"]
mod drivers;
#[path = "walk/jobs.rs"]
mod jobs;
#[path = "walk/life.rs"]
mod life;
#[path = "walk/nodes.rs"]
mod nodes;
#[path = "walk/objects.rs"]
mod objects;
#[path = "walk/pods.rs"]
mod pods;
#[path = "walk/rollouts.rs"]
mod rollouts;
#[path = "walk/services.rs"]
mod services;
#[path = "walk/sets.rs"]
mod sets;
#[path = "walk/terminal.rs"]
mod terminal;
#[path = "walk/volumes.rs"]
mod volumes;
#[path = "walk/writing.rs"]
mod writing;

use aboard::{Kubectl, Place};

/// Of any server.
const CLUSTER: &[aboard::Topic] = &[("about", cluster::about), ("config", cluster::config), ("discovery", cluster::discovery)];

/// What needs no node.
const OBJECTS: &[aboard::Topic] = &[
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

/// What needs a node: root, containerd, iptables.
const PODS: &[aboard::Topic] = &[
    ("first-pod", pods::first_pod),
    ("exec", pods::exec),
    ("attach", pods::attach),
    ("run-it", pods::run_interactive),
    ("port-forward", pods::port_forward),
    ("replication-controller", sets::replication_controller),
    ("replica-set", sets::replica_set),
    ("stateful-set", sets::stateful_set),
    ("job", jobs::job),
    ("rollout", rollouts::rollout),
    ("recreate", rollouts::recreate),
    ("surge", rollouts::surge),
    ("bad-image", rollouts::bad_image),
    ("readiness", life::readiness),
    ("liveness", life::liveness),
    ("node-port", services::node_port),
    ("cluster-ip", services::cluster_ip),
    ("other-types", services::other_types),
    ("logs", pods::logs),
    ("cp", pods::cp),
    ("init-and-hooks", life::init_and_hooks),
    ("host", life::host),
    ("classes", life::classes),
    ("environment", life::environment),
    ("volumes", volumes::volumes),
    ("account", volumes::account),
];

/// What has the node, or all of skiff, for itself.
const NODE: &[aboard::Topic] = &[
    ("daemon-set", sets::daemon_set),
    ("claims", volumes::claims),
    ("node", nodes::look),
    ("top", nodes::top),
    ("taint", nodes::taint),
    ("drain", nodes::drain),
    ("restart", again::restart),
    ("killed", again::killed),
];

/// What a storage driver does here, whoever types.
const DRIVERS: &[aboard::Topic] = &[("drivers", drivers::drivers)];

/// What packets decide, where nftables leads them.
const PACKETS: &[aboard::Topic] = &[("cluster-ip", services::cluster_ip), ("node-port", services::node_port), ("tables", services::tables)];
const PACKETS_AGAIN: &[aboard::Topic] = &[("restart", again::restart)];

// A machine has one node at a time. Tests begin in the order of their names: those that need none go on beside one that does.

#[test]
fn kubectl_1_20_and_objects() {
    aboard::walk(Place::Server, Kubectl::Old, &[], &[CLUSTER, OBJECTS]);
}

#[test]
fn kubectl_1_20_and_pods() {
    aboard::walk(Place::Node, Kubectl::Old, &[CLUSTER, PODS], &[NODE]);
}

#[test]
fn the_newer_kubectl_and_objects() {
    aboard::walk(Place::Server, Kubectl::Newer, &[], &[CLUSTER, OBJECTS]);
}

#[test]
fn the_newer_kubectl_and_pods() {
    aboard::walk(Place::Node, Kubectl::Newer, &[CLUSTER, PODS], &[DRIVERS, NODE]);
}

#[test]
fn the_newer_kubectl_where_nftables_lead_packets() {
    aboard::walk(Place::NftablesNode, Kubectl::Newer, &[PACKETS], &[PACKETS_AGAIN]);
}
