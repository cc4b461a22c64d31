//! Roles and bindings that come and go -> what their subjects may.

use super::*;

fn rules(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!([{"verbs": verbs, "apiGroups": [group], "resources": resources}])
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
    let metadata = json!({"namespace": namespace, "name": name});
    json!({"metadata": metadata, "roleRef": {"kind": role.0, "name": role.1}, "subjects": subjects})
}

fn user(name: &str, groups: &[&str]) -> User {
    User { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..User::default() }
}

fn ask<'a>(user: &'a User, verb: &'a str, namespace: &'a str, resource: &'a str) -> Attributes<'a> {
    Attributes { user, verb, namespace, resource, resource_request: true, ..Attributes::default() }
}

fn house() -> Rbac {
    let rbac = Rbac::default();
    let index = rbac.index.clone();
    index.put_cluster_role(&role("", "reader", rules(&["get", "list"], "", &["pods"])));
    index.put_role(&role("a", "writer", rules(&["create"], "", &["pods"])));
    index.put_binding(&binding("", "everyone", ("ClusterRole", "reader"), json!([{"kind": "Group", "name": "staff"}])));
    let robot = json!([{"kind": "ServiceAccount", "name": "robot"}, {"kind": "User", "name": "jane"}]);
    index.put_binding(&binding("a", "writers", ("Role", "writer"), robot));
    index.put_binding(&binding("b", "lost", ("Role", "none"), json!([{"kind": "User", "name": "jane"}])));
    rbac
}

#[test]
fn bindings_give_what_their_roles_say_where_they_stand() {
    let cases = [
        (user("x", &["staff"]), "get", "a", true),
        (user("x", &["staff"]), "get", "", true),
        (user("x", &["staff"]), "create", "a", false),
        (user("x", &[]), "get", "a", false),
        (user("staff", &[]), "get", "a", false),
        (user("jane", &[]), "create", "a", true),
        (user("jane", &[]), "create", "b", false),
        (user("jane", &[]), "create", "", false),
        (user("system:serviceaccount:a:robot", &[]), "create", "a", true),
        (user("system:serviceaccount:b:robot", &[]), "create", "a", false),
    ];
    let rbac = house();
    for (user, verb, namespace, yes) in cases {
        let ask = ask(&user, verb, namespace, "pods");
        assert_eq!(matches!(rbac.authorize(&ask), Decision::Allow(_)), yes, "{ask:?}");
    }
}

#[test]
fn reasons_read_as_upstream_writes_them() {
    let rbac = house();
    let reason = |ask: Attributes<'_>| match rbac.authorize(&ask) {
        Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
    };
    let cluster = reason(ask(&user("x", &["staff"]), "get", "a", "pods"));
    assert_eq!(cluster, r#"RBAC: allowed by ClusterRoleBinding "everyone" of ClusterRole "reader" to Group "staff""#);
    let own = reason(ask(&user("system:serviceaccount:a:robot", &[]), "create", "a", "pods"));
    assert_eq!(own, r#"RBAC: allowed by RoleBinding "writers/a" of Role "writer" to ServiceAccount "robot/a""#);
    let lost = reason(ask(&user("jane", &[]), "get", "b", "pods"));
    assert_eq!(lost, r#"RBAC: role.rbac.authorization.k8s.io "none" not found"#);
}

#[test]
fn what_is_taken_away_is_gone() {
    let rbac = house();
    let jane = user("jane", &[]);
    let question = ask(&jane, "create", "a", "pods");
    assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
    let fewer = binding("a", "writers", ("Role", "writer"), json!([{"kind": "User", "name": "joe"}]));
    rbac.index.put_binding(&fewer);
    assert!(matches!(rbac.authorize(&question), Decision::NoOpinion(_)));
    assert!(matches!(rbac.authorize(&ask(&user("joe", &[]), "create", "a", "pods")), Decision::Allow(_)));
    rbac.index.remove_binding(&Key::new("a", "writers"));
    assert!(matches!(rbac.authorize(&ask(&user("joe", &[]), "create", "a", "pods")), Decision::NoOpinion(_)));
    assert!(rbac.index.is_forgotten("a"), "no scope, no binding");
}

#[test]
fn aggregated_roles_follow_what_they_select() {
    let rbac = Rbac::default();
    let labelled = |name: &str, label: &str, rules: Value| json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules});
    let aggregate = |name: &str, label: &str, of: &str| {
        json!({"metadata": {"name": name, "labels": {label: "true"}},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {of: "true"}}]}})
    };
    let put = |role: Value| rbac.index.put_cluster_role(&role);
    put(aggregate("admin", "x", "to-admin"));
    put(aggregate("edit", "to-admin", "to-edit"));
    put(labelled("one", "to-edit", rules(&["get"], "", &["pods"])));
    let of_user = json!([{"kind": "User", "name": "jane"}]);
    rbac.index.put_binding(&binding("a", "admins", ("ClusterRole", "admin"), of_user));
    let jane = user("jane", &[]);
    let question = ask(&jane, "get", "a", "pods");
    assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
    rbac.index.remove_cluster_role(&Key::new("", "one"));
    assert!(matches!(rbac.authorize(&question), Decision::NoOpinion(_)));
    put(labelled("two", "to-admin", rules(&["get"], "", &["pods"])));
    assert!(matches!(rbac.authorize(&question), Decision::Allow(_)));
}

#[test]
fn rules_are_listed_for_a_user() {
    let rules = house().rules(&user("jane", &["staff"]), "a");
    assert_eq!(rules.resource.len(), 2);
    assert!(!rules.incomplete && rules.error.is_empty());
}
