//! What one event and one question cost the Node authorizer at 1,000, 10,000 and 100,000 pods that share a secret: counted, not timed.

use std::collections::BTreeMap;

use api::steps;
use serde_json::{Value, json};

use super::*;

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const ON_A_NODE: usize = 20;

#[test]
fn one_event_costs_the_same_however_many_pods_there_are() {
    let (house, mut costs, mut count) = (NodeAuthorizer::default(), BTreeMap::new(), 0);
    for size in SIZES {
        (count..size).for_each(|at| house.graph.write().put(&key(at), &Pod::of(&pod(at))));
        count = size;
        measure(&house, count, &mut costs);
    }
    costs.iter().for_each(|(event, costs)| steps::must_not_grow(event, costs));
}

fn measure(house: &NodeAuthorizer, count: usize, costs: &mut BTreeMap<&'static str, Vec<u64>>) {
    let mut cost = |event, happens: &mut dyn FnMut()| costs.entry(event).or_default().push(steps::of(happens).1);
    cost("a pod is bound", &mut || house.graph.write().put(&key(count), &Pod::of(&pod(count))));
    cost("a pod gets another container", &mut || house.graph.write().put(&key(count), &Pod::of(&pod(count))));
    cost("a pod goes", &mut || house.graph.write().remove(&key(count)));
    cost("a pod's status changes", &mut || assert!(house.graph.read().is_settled(&key(7), "7")));
    let mut asks = |event, what: &str, name: &str, allowed: bool| {
        cost(event, &mut || assert_eq!(house.authorize(&ask(&node(), what, name)) == yes(), allowed, "{event}"));
    };
    asks("a shared secret is read", "secrets", "shared", true);
    asks("a pod's own secret is read", "secrets", "own-7", true);
    asks("a secret of another node's is read", "secrets", "own-999", false);
    asks("a pod is read", "pods", "p7", true);
    asks("a pod of another node's is read", "pods", "p999", false);
}

fn key(at: usize) -> Key {
    Key::new("d", &format!("p{at}"))
}

fn pod(at: usize) -> Value {
    let volumes =
        json!([{"secret": {"secretName": "shared"}}, {"secret": {"secretName": format!("own-{at}")}}, {"configMap": {"name": "root"}}]);
    json!({"metadata": {"uid": at.to_string()}, "spec": {"nodeName": format!("n{}", at / ON_A_NODE), "serviceAccountName": "default", "volumes": volumes}})
}

fn ask<'a>(user: &'a User, resource: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes { user, verb: "get", resource_request: true, resource, namespace: "d", name, ..Attributes::default() }
}

fn node() -> User {
    User { name: "system:node:n0".into(), groups: vec!["system:nodes".into()], ..User::default() }
}
