//! Ever more bindings and rules -> a question that costs the same.

use std::sync::Arc;

use api::steps;
use apiserver::identity::{Attributes, Authorizer, Decision, User};
use serde_json::{Value, json};

use super::{RULES_BYTES_MAX, Rbac};

fn anonymous() -> User {
    User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() }
}

fn ask<'a>(user: &'a User, resource: &'a str) -> Attributes<'a> {
    Attributes { user, verb: "get", namespace: "ten", resource, resource_request: true, ..Attributes::default() }
}

fn big(rules: usize) -> Value {
    let rules: Vec<Value> = (0..rules).map(|i| json!({"verbs": ["get"], "apiGroups": [""], "resources": [format!("r{i}")]})).collect();
    json!({"metadata": {"name": "big", "namespace": "ten"}, "rules": rules})
}

fn binding(name: &str, role: &str) -> Value {
    let groups = ["system:unauthenticated", "system:authenticated"].map(|group| json!({"kind": "Group", "name": group}));
    json!({"metadata": {"name": name, "namespace": "ten"}, "roleRef": {"kind": "Role", "name": role}, "subjects": groups})
}

fn bind(rbac: &Rbac, bindings: std::ops::Range<usize>) {
    bindings.for_each(|i| rbac.index.put_binding(&binding(&format!("b{i}"), "big")));
}

#[test]
fn a_question_costs_no_more_where_bindings_are_many() {
    let rbac = Rbac::default();
    rbac.index.put_role(&big(50_000));
    let (mut costs, mut bound) = (Vec::new(), 0);
    for count in [1, 100, 10_000] {
        bind(&rbac, bound..count);
        bound = count;
        let nobody = anonymous();
        let (answers, steps) = steps::of(|| ["none", "r49999"].map(|resource| ask(&nobody, resource)).map(|asked| rbac.authorize(&asked)));
        assert!(matches!(answers, [Decision::NoOpinion(_), Decision::Allow(_)]), "{answers:?}");
        costs.push(steps);
    }
    steps::must_not_grow("two questions", &costs);
}

#[test]
fn bindings_of_others_are_not_looked_at() {
    let rbac = Rbac::default();
    rbac.index.put_role(&big(5_000));
    let mut costs = Vec::new();
    for count in [1, 100, 3_000] {
        for i in 0..count {
            let mut other = binding(&format!("o{i}"), &format!("other{i}"));
            other["subjects"] = json!([{"kind": "User", "name": format!("u{i}")}, {"kind": "ServiceAccount", "name": format!("s{i}")}]);
            rbac.index.put_binding(&other);
        }
        costs.push(steps::of(|| rbac.authorize(&ask(&anonymous(), "none"))).1);
    }
    steps::must_not_grow("a question", &costs);
}

#[test]
fn nothing_is_locked_while_rules_are_looked_at() {
    let rbac = Rbac::default();
    rbac.index.put_role(&big(5_000));
    bind(&rbac, 0..2);
    let mut seen = 0;
    rbac.index.visit(&anonymous(), "ten", &mut |_, rules| {
        assert!(rules.is_some() && rbac.index.is_free("ten"));
        seen += 1;
        true
    });
    assert_eq!(seen, 1, "two bindings are one role");
}

#[test]
fn a_list_of_rules_has_an_end() {
    let rbac = Rbac::default();
    rbac.index.put_role(&big(5_000));
    bind(&rbac, 0..16);
    let (rules, steps) = steps::of(|| rbac.rules(&anonymous(), "ten"));
    assert!(rules.incomplete && !rules.error.is_empty(), "{}", rules.error);
    let bytes: usize = rules.resource.iter().map(|rule| rule.to_string().len()).sum();
    assert!(!rules.resource.is_empty() && bytes < RULES_BYTES_MAX, "{bytes} bytes");
    assert!(steps < 10_000, "{steps} steps");
}

#[test]
fn each_role_is_listed_once() {
    let rbac = Rbac::default();
    rbac.index.put_role(&json!({"metadata": {"name": "small", "namespace": "ten"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}));
    for name in ["a", "b", "c"] {
        rbac.index.put_binding(&binding(name, "small"));
    }
    let both = User { groups: vec!["system:unauthenticated".into(), "system:authenticated".into()], ..anonymous() };
    let rules = rbac.rules(&both, "ten");
    assert_eq!((rules.resource.len(), rules.incomplete), (1, false));
}

#[test]
fn roles_that_are_lost_are_told_in_part() {
    let rbac = Rbac::default();
    (0..1_000).for_each(|i| rbac.index.put_binding(&binding(&format!("b{i}"), &format!("lost{i}"))));
    let Decision::NoOpinion(reason) = rbac.authorize(&ask(&anonymous(), "pods")) else { panic!("nothing is allowed") };
    assert_eq!(reason.matches("not found").count(), super::ERRORS_MAX);
}

#[test]
fn the_reason_names_a_binding_that_is_there() {
    let rbac = Rbac::default();
    rbac.index.put_role(&big(5_000));
    bind(&rbac, 0..3);
    for gone in ["b0", "b1"] {
        rbac.index.remove_binding(&api::Key::new("ten", gone));
        let Decision::Allow(reason) = rbac.authorize(&ask(&anonymous(), "r1")) else { panic!("two of three are left") };
        assert!(!reason.contains(&format!("{gone}/")), "{reason}");
    }
    rbac.index.remove_binding(&api::Key::new("ten", "b2"));
    rbac.index.remove_role(&api::Key::new("ten", "big"));
    assert_eq!(rbac.authorize(&ask(&anonymous(), "r1")), Decision::NoOpinion(String::new()));
    assert!(rbac.index.is_forgotten("ten"));
    assert_eq!(Arc::strong_count(&rbac.index), 1);
}
