//! A write to a role or a binding -> refused, where it would give more than the writer has.
//!
//! Source: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased`, `escalation_check.go`.

use std::sync::Arc;

use api::{GroupResource, Status};
use apiserver::{
    engine::Engine,
    identity::{Admission, Attributes, Decision, Operation, Review, User},
};
use async_trait::async_trait;
use serde_json::Value;

use super::{
    rbac::{GROUP, Rbac},
    rules::{Rule, compacted, missing, quoted},
};
use crate::common::{Read, read};

/// Nobody grants what they do not hold, unless they may `escalate` or `bind`.
pub struct NoEscalation(pub Arc<Rbac>);

#[async_trait]
impl Admission for NoEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalationCheck"
    }

    async fn validate(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let ctx = review.ctx;
        let writes = matches!(review.operation, Operation::Create | Operation::Update);
        if ctx.kind.group != GROUP || !writes || is_master(ctx.user) {
            return Ok(());
        }
        let Some(object) = review.object.as_deref() else { return Ok(()) };
        let gr = ctx.kind.group_resource();
        let asked = Question { rbac: &self.0, engine: ctx.engine, user: ctx.user, namespace: ctx.namespace };
        let verdict = match gr.resource.as_str() {
            "roles" | "clusterroles" => asked.role(&gr, ctx.name, object, review.old),
            "rolebindings" | "clusterrolebindings" => asked.binding(object, review.old),
            _ => Ok(()),
        };
        verdict.map_err(|why| Status::forbidden(&gr, read::name(object), &why))
    }
}

struct Question<'a> {
    rbac: &'a Rbac,
    engine: &'a Arc<Engine>,
    user: &'a User,
    namespace: &'a str,
}

impl Question<'_> {
    fn role(&self, gr: &GroupResource, name: &str, new: &Value, old: Option<&Value>) -> Result<(), String> {
        let unchanged = |field: &str| old.is_some_and(|old| read::same(old.at(field), new.at(field)));
        if unchanged("rules") && unchanged("aggregationRule") || self.may("escalate", &gr.resource, name) {
            return Ok(());
        }
        if new.at("aggregationRule").is_some() && !unchanged("aggregationRule") {
            self.holds(&everything()).map_err(|_| "must have cluster-admin privileges to use an aggregationRule".to_owned())?;
        }
        self.holds(&Rule::parse_all(new))
    }

    fn binding(&self, new: &Value, old: Option<&Value>) -> Result<(), String> {
        let same = |old: &Value| read::same(old.at("subjects"), new.at("subjects")) && read::same(old.at("roleRef"), new.at("roleRef"));
        if old.is_some_and(same) {
            return Ok(());
        }
        let role = new.at("roleRef");
        let (kind, name) = (role.text("kind"), role.text("name"));
        let resource = if kind == "Role" { "roles" } else { "clusterroles" };
        if self.may("bind", resource, name) {
            return Ok(());
        }
        let rules = self.rbac.role_rules(kind, name, self.namespace)?;
        self.holds(&rules)
    }

    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let asked = Attributes {
            user: self.user.clone(),
            verb: verb.into(),
            resource_request: true,
            group: GROUP.into(),
            version: "*".into(),
            resource: resource.into(),
            namespace: self.namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        matches!(self.engine.authorize(&asked), Decision::Allow(_))
    }

    fn holds(&self, wanted: &[Rule]) -> Result<(), String> {
        let (held, errors) = self.rbac.rules_for(self.user, self.namespace);
        let lacking = missing(&held, wanted);
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

fn is_master(user: &User) -> bool {
    user.groups.iter().any(|g| g == super::MASTERS)
}

fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() }, Rule { verbs: star(), urls: star(), ..Rule::default() }]
}
