//! A write to a role or a binding -> refused, where it would give more than the writer has.
//!
//! Source: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased`, `escalation_check.go`.

use std::sync::Arc;

use api::{GroupResource, Status};
use apiserver::{
    engine::Engine,
    identity::{Admission, Attributes, Operation, Review, User},
};
use async_trait::async_trait;
use serde_json::Value;

use super::{
    covers::missing,
    rbac::{GROUP, Rbac},
    rules::{Rule, compacted, quoted},
    ruleset::RuleSet,
};
use crate::common::{Read, read};

/// Nobody grants what they do not hold, unless they may `escalate` or `bind`.
pub struct NoEscalation(pub Arc<Rbac>);

#[async_trait]
impl Admission for NoEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalationCheck"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        let writes = matches!(review.ctx.operation, Operation::Create | Operation::Update);
        if ctx.kind.group != GROUP || !writes || is_master(ctx.user) {
            return Ok(());
        }
        let Some(object) = review.object.as_deref() else { return Ok(()) };
        let gr = ctx.kind.group_resource();
        let asked = Question { rbac: &self.0, engine: ctx.engine, user: ctx.user, namespace: ctx.namespace };
        match gr.resource.as_str() {
            _ if review.old.is_some_and(|old| is_garbage_collection(object, old)) => Ok(()),
            "roles" | "clusterroles" => asked.role(&gr, ctx.name, object, review.old).await,
            "rolebindings" | "clusterrolebindings" => asked.binding(&gr, object).await,
            _ => Ok(()),
        }
    }
}

/// Whether nothing but owner references and finalizers differ (`IsOnlyMutatingGCFields`). A label is no such thing: labels aggregate.
fn is_garbage_collection(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            ["ownerReferences", "finalizers", "selfLink", "managedFields"].iter().for_each(|field| drop(metadata.shift_remove(*field)));
        }
        object
    };
    read::same(Some(&rest(new)), Some(&rest(old)))
}

struct Question<'a> {
    rbac: &'a Rbac,
    engine: &'a Arc<Engine>,
    user: &'a User,
    namespace: &'a str,
}

impl Question<'_> {
    async fn role(&self, gr: &GroupResource, name: &str, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        if self.may("escalate", &gr.resource, name).await {
            return Ok(());
        }
        let refused = |why: String| Status::forbidden(gr, read::name(new), &why);
        self.holds(&RuleSet::of_role(new)).map_err(refused)?;
        // Who aggregates gathers anything, and who ends it stops what was tightened from taking hold.
        if gr.resource == "clusterroles" && (aggregates(new) || old.is_some_and(aggregates)) {
            self.holds(&everything()).map_err(|_| refused("must have cluster-admin privileges to use the aggregationRule".into()))?;
        }
        Ok(())
    }

    async fn binding(&self, gr: &GroupResource, new: &Value) -> Result<(), Status> {
        let role = new.at("roleRef");
        let (kind, name) = (role.text("kind"), role.text("name"));
        let resource = if kind == "Role" { "roles" } else { "clusterroles" };
        if self.may("bind", resource, name).await {
            return Ok(());
        }
        // Told as of what is written: upstream's store takes the resource from the request.
        let missing = |_| Status::not_found(gr, name);
        let rules = self.rbac.role_rules(kind, name, self.namespace).map_err(missing)?;
        self.holds(&rules).map_err(|why| Status::forbidden(gr, read::name(new), &why))
    }

    async fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let asked = Attributes {
            user: self.user,
            verb,
            resource_request: true,
            group: GROUP,
            version: "*",
            resource,
            namespace: self.namespace,
            name,
            ..Attributes::default()
        };
        let verdict = self.engine.verdict(&asked).await;
        if !verdict.error.is_empty() {
            tracing::error!(user = self.user.name, verb, resource, name, error = verdict.error, "error authorizing user");
        }
        verdict.is_allowed()
    }

    fn holds(&self, wanted: &RuleSet) -> Result<(), String> {
        let (held, errors) = self.rbac.rules_for(self.user, self.namespace);
        let lacking = missing(held.iter().map(AsRef::as_ref), wanted)?;
        if lacking.is_empty() {
            return Ok(());
        }
        let mut texts: Vec<String> = compacted(lacking).iter().map(Rule::compact).collect();
        texts.sort();
        texts.dedup();
        let (name, groups) = (&self.user.name, quoted(&self.user.groups));
        let mut why =
            format!("user {name:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}", texts.join("\n"));
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: {}", quoted(&errors)));
        }
        Err(why)
    }
}

fn aggregates(role: &Value) -> bool {
    !role.at("aggregationRule").list("clusterRoleSelectors").is_empty()
}

fn is_master(user: &User) -> bool {
    user.groups.iter().any(|g| g == super::MASTERS)
}

fn everything() -> RuleSet {
    let star = || vec!["*".to_owned()];
    RuleSet::of(&[
        Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), urls: star(), ..Rule::default() },
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_garbage_collector_writes_is_free() {
        let old = json!({"metadata": {"name": "r", "labels": {"a": "b"}, "finalizers": ["f"]}, "rules": [{"verbs": ["get"]}]});
        let with = |pointer: &str, value: Value| {
            let mut new = old.clone();
            if let Some(place) = new.pointer_mut(pointer) {
                *place = value;
            }
            new
        };
        let free = [
            with("/metadata/finalizers", json!([])),
            with("/metadata", json!({"name": "r", "labels": {"a": "b"}, "ownerReferences": [{"name": "o"}], "managedFields": [{}]})),
            with("/rules/0", json!({"verbs": ["get"], "resourceNames": []})),
        ];
        assert!(free.iter().all(|new| is_garbage_collection(new, &old)));
        let checked = [
            with("/metadata/labels", json!({"a": "b", "rbac.authorization.k8s.io/aggregate-to-view": "true"})),
            with("/metadata/labels", json!({})),
            with("/metadata", json!({"name": "r", "labels": {"a": "b"}, "annotations": {"k": "v"}})),
            with("/rules", json!([])),
        ];
        assert!(checked.iter().all(|new| !is_garbage_collection(new, &old)));
    }
}
