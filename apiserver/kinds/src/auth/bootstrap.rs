//! A fresh cluster -> namespaces, priority classes, roles and bindings: made where missing, mended where less than it must be.
//!
//! Source: `pkg/registry/rbac/rest/storage_rbac.go`, `component-helpers/auth/rbac/reconciliation`, the system namespaces
//! controller and `pkg/registry/scheduling/rest`.

use std::sync::Arc;

use api::{GroupResource, Key, Status};
use apiserver::{
    engine::{Engine, OWN_USER},
    identity::User,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    covers::missing,
    policy::{Wanted, wanted},
    rbac::GROUP,
    rules::Rule,
    ruleset::RuleSet,
};
use crate::{
    apiservice,
    common::{Read, read},
    flow,
    priorityclass::system_classes,
};

/// Namespaces that every cluster has; they cannot be deleted but for the last, and come back ([`super::keep_namespaces`]).
pub const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Writes in flight at one time: the store puts them into one commit.
const PARALLEL: usize = 64;
/// `rbac.authorization.kubernetes.io/autoupdate: "false"` keeps our hands off.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Makes what must be there. Runs at each start, before the server says it is ready.
///
/// # Errors
/// The first write that failed of those that the server cannot do without.
pub async fn bootstrap(engine: &Arc<Engine>) -> Result<(), Status> {
    make_namespaces(engine).await?;
    let classes = GroupResource::new("scheduling.k8s.io", "priorityclasses");
    let classes = system_classes().into_iter().map(|class| make(engine, classes.clone(), class));
    stream::iter(classes).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    let system = system_user();
    // Their keepers try again; nothing else waits for them.
    let (flows, services) = futures::join!(flow::keep::ensure(engine, &system), apiservice::register::register(engine, &system));
    for (what, done) in [("levels and flow schemas", flows), ("APIServices", services)] {
        if let Err(status) = done {
            tracing::warn!(error = status.message, what, "not all is there yet; it is tried again");
        }
    }
    stream::iter(wanted().into_iter().map(|w| reconcile(engine, w))).buffer_unordered(PARALLEL).try_collect::<()>().await
}

/// Makes the system namespaces that are not there.
pub async fn make_namespaces(engine: &Arc<Engine>) -> Result<(), Status> {
    let missing = NAMESPACES.map(|name| make(engine, GroupResource::new("", "namespaces"), namespace(name)));
    futures::future::try_join_all(missing).await.map(drop)
}

/// Who the API server is to itself.
pub fn system_user() -> User {
    User { name: OWN_USER.into(), groups: vec![super::MASTERS.into(), "system:authenticated".into()], ..User::default() }
}

async fn make(engine: &Arc<Engine>, gr: GroupResource, object: Value) -> Result<(), Status> {
    let key = Key::new("", read::name(&object));
    if engine.cached(&gr, &key).is_some() {
        return Ok(());
    }
    match engine.create(&gr, "", object, &system_user()).await {
        Err(status) if status.reason != "AlreadyExists" => Err(status),
        _ => Ok(()),
    }
}

async fn reconcile(engine: &Arc<Engine>, mut wanted: Wanted) -> Result<(), Status> {
    let gr = GroupResource::new(GROUP, wanted.resource);
    let key = Key::new(&wanted.namespace, read::name(&wanted.object));
    let found = match engine.cached(&gr, &key) {
        Some(found) => Some(found.value()),
        None => engine.get(&gr, &key).await.ok().map(|found| found.value()),
    };
    let Some(found) = found else {
        give_aggregated_rules(&mut wanted.object);
        return match engine.create(&gr, &wanted.namespace, wanted.object, &system_user()).await {
            Err(status) if status.reason != "AlreadyExists" => Err(status),
            _ => Ok(()),
        };
    };
    if found.at("metadata").at("annotations").text(AUTO_UPDATE) == "false" {
        return Ok(());
    }
    if !read::same(found.at("roleRef"), wanted.object.at("roleRef")) {
        // A binding's role cannot be changed: it is made anew.
        engine.delete(&gr, &key, json!({}), &system_user()).await?;
        return engine.create(&gr, &wanted.namespace, wanted.object, &system_user()).await.map(drop);
    }
    let mut mended = found.clone();
    mend(&mut mended, &wanted.object);
    if mended == found {
        return Ok(());
    }
    let change = |object: &mut Value| {
        mend(object, &wanted.object);
        Ok(())
    };
    engine.update(&gr, &key, "", &system_user(), &change).await.map(drop)
}

/// Adds to `object` what of `wanted` it lacks: labels, annotations, rules, subjects, selectors. What is there stays.
fn mend(object: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        for (key, value) in wanted.at("metadata").entries(field) {
            if object.at("metadata").at(field).at(key).is_none() {
                object["metadata"][field][key] = value.into();
            }
        }
    }
    if wanted.at("aggregationRule").is_none() {
        let lacking = missing([&RuleSet::of_role(object)], &RuleSet::of_role(wanted)).unwrap_or_else(|_| Rule::parse_all(wanted));
        append(object, "rules", lacking.iter().map(Rule::json).collect());
    }
    let absent = |field: &str, of: &Value| -> Vec<Value> {
        let have = object_list(object, field);
        of.list("subjects").iter().filter(|s| !have.iter().any(|h| read::same(Some(h), Some(s)))).cloned().collect()
    };
    let subjects = absent("subjects", wanted);
    append(object, "subjects", subjects);
    if object.at("aggregationRule").is_none()
        && let Some(rule) = wanted.at("aggregationRule")
    {
        object["aggregationRule"] = rule.clone();
    }
}

fn object_list(object: &Value, field: &str) -> Vec<Value> {
    object.list(field).to_vec()
}

fn append(object: &mut Value, field: &str, more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    let mut all = object_list(object, field);
    all.extend(more);
    object[field] = Value::Array(all);
}

/// What the aggregation controller would write, so that a fresh cluster shows whole roles at once.
fn give_aggregated_rules(role: &mut Value) {
    if role.at("aggregationRule").is_none() {
        return;
    }
    let all = wanted();
    let mut rules: Vec<Rule> = Vec::new();
    gather(role, &all, &mut rules, 0);
    role["rules"] = rules.iter().map(Rule::json).collect();
}

fn gather(role: &Value, all: &[Wanted], rules: &mut Vec<Rule>, depth: usize) {
    const DEPTH_MAX: usize = 8;
    let selectors = role.at("aggregationRule").list("clusterRoleSelectors");
    let roles = all.iter().filter(|w| w.resource == "clusterroles").map(|w| &w.object);
    for other in roles.filter(|r| selectors.iter().any(|s| selected(s, r))) {
        if other.at("aggregationRule").is_some() && depth < DEPTH_MAX {
            gather(other, all, rules, depth + 1);
        }
        for rule in Rule::parse_all(other) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
}

fn selected(selector: &Value, role: &Value) -> bool {
    crate::common::selector::matches(Some(selector), role.at("metadata").at("labels")).unwrap_or(false)
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mending_adds_and_never_takes_away() {
        let wanted = json!({
            "metadata": {"labels": {"a": "1"}, "annotations": {"b": "2"}},
            "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}],
        });
        let mut found = json!({
            "metadata": {"labels": {"a": "mine", "x": "y"}},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, {"verbs": ["*"], "apiGroups": ["x"], "resources": ["*"]}],
        });
        mend(&mut found, &wanted);
        assert_eq!(found["metadata"]["labels"], json!({"a": "mine", "x": "y"}));
        assert_eq!(found["metadata"]["annotations"], json!({"b": "2"}));
        assert_eq!(found["rules"].as_array().unwrap().len(), 3);
        assert_eq!(found["rules"][2], json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}));
        let before = found.clone();
        mend(&mut found, &wanted);
        assert_eq!(found, before, "a second time changes nothing");
    }

    #[test]
    fn bindings_get_back_their_subjects() {
        let group = json!({"kind": "Group", "name": "g"});
        let (mut found, wanted) = (json!({"subjects": [{"kind": "User", "name": "u"}]}), json!({"subjects": [group]}));
        mend(&mut found, &wanted);
        assert_eq!(found["subjects"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn aggregated_roles_are_whole_from_the_start() {
        let mut admin = wanted().into_iter().find(|w| read::name(&w.object) == "admin").unwrap().object;
        give_aggregated_rules(&mut admin);
        let rules = RuleSet::of_role(&admin);
        let all = |verb: &str, group: &str, resource: &str| {
            let ask = apiserver::identity::Attributes { verb, resource_request: true, group, resource, ..Default::default() };
            rules.allows(&ask)
        };
        assert!(all("create", GROUP, "roles"), "admin's own");
        assert!(all("delete", "apps", "deployments"), "edit's");
        assert!(all("get", "", "limitranges"), "view's");
        assert!(!all("create", "", "limitranges"));
    }
}
