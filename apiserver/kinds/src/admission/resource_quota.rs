//! A write into a namespace -> counted against its quotas, or refused where they are exhausted.
//!
//! Source: apiserver `pkg/admission/plugin/resourcequota/controller.go`. What is used stands in each quota's status and is raised there, in a write that
//! fails where somebody else was faster and is then worked out anew; what goes is taken back by the quota controller.

mod limited;
mod usage;

use std::{collections::BTreeMap, sync::Arc};

use api::{GroupResource, Key, Status, quantity::Quantity};
use apiserver::{
    engine::{Engine, Object, Unseen, View, Viewed},
    identity::{Admission, Operation, Review},
    kind::Storage,
};
use async_trait::async_trait;
use serde_json::Value;

use self::{limited::Limited, usage::Evaluator};
use super::forbidden;
use crate::common::{
    Read,
    edit::{make_child, set},
    read,
    resources::quantity,
};

/// What an entry counts in the view besides its texts.
const ENTRY_BYTES: usize = 32;

/// Resources by name.
type Amounts = BTreeMap<String, Quantity>;

#[derive(Default)]
pub struct ResourceQuota {
    quotas: View<Quota>,
    limited: Vec<Limited>,
}

impl ResourceQuota {
    /// `ResourceQuotaConfiguration`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn configured(config: Option<&Value>) -> Result<Self, String> {
        Ok(Self { limited: limited::read(config)?, ..Self::default() })
    }
}

/// What of a quota is looked at: its status, and whom it is for.
struct Quota {
    name: String,
    scopes: Vec<Scope>,
    hard: Amounts,
    used: Amounts,
}

/// One requirement: a scope by itself, or of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

impl Viewed for Quota {
    fn read(object: &Object) -> Self {
        Self::of(&object.value())
    }

    fn bytes(&self) -> usize {
        let amounts = [&self.hard, &self.used].into_iter().flatten().map(|(name, _)| name.len() + ENTRY_BYTES);
        let scopes = self.scopes.iter().map(|s| s.name.len() + s.values.iter().map(|v| v.len() + ENTRY_BYTES).sum::<usize>() + ENTRY_BYTES);
        amounts.chain(scopes).sum()
    }
}

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.quotas.follow(engine, &resource());
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(object) = review.object.as_deref().filter(|_| concerns(review)) else { return Ok(()) };
        let why = "the ResourceQuotas of this namespace are too large to be looked through";
        let (quotas, locked) = match self.quotas.of(review.ctx.engine, review.ctx.namespace) {
            Ok(quotas) => (quotas, None),
            // A server whose quotas cannot be decrypted must start all the same.
            Err(Unseen::Locked(_)) if review.ctx.is_own() => return Ok(()),
            Err(Unseen::Locked(status)) => (Arc::default(), Some(status)),
            Err(Unseen::TooMuch) => return Err(forbidden(review, why)),
        };
        if locked.is_none() && quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let evaluator = Evaluator::of(review.ctx.kind);
        if !evaluator.handles(review.ctx, object, review.old) {
            return Ok(());
        }
        if let Some(locked) = locked {
            return Err(locked);
        }
        let asked = Asked::new(evaluator, object, review.old.filter(|_| review.ctx.operation == Operation::Update));
        limited::check(&self.limited, &asked, &quotas, review)?;
        // All are asked before any is charged.
        let charged = quotas.iter().map(|quota| Ok((quota, asked.of(quota, review)?))).collect::<Result<Vec<_>, Status>>()?;
        if review.ctx.dry_run {
            return Ok(());
        }
        for (quota, delta) in charged {
            if !delta.is_empty() {
                charge(review, &quota.name, &asked).await?;
            }
        }
        Ok(())
    }
}

/// Objects that are kept in namespaces, but for events, which were never counted.
fn concerns(review: &Review<'_>) -> bool {
    let kind = review.ctx.kind;
    let is_event = kind.plural == "events" && matches!(kind.group.as_ref(), "" | "events.k8s.io");
    !review.ctx.namespace.is_empty() && !is_event && kind.storage != Storage::Nowhere
}

fn resource() -> GroupResource {
    GroupResource::new("", "resourcequotas")
}

/// Raises what is used of a quota, as it is now.
async fn charge(review: &Review<'_>, name: &str, asked: &Asked<'_>) -> Result<(), Status> {
    let change = |object: &mut Value| {
        let quota = Quota::of(object);
        let delta = asked.of(&quota, review)?;
        let status = make_child(object, "status").and_then(|status| make_child(status, "used"));
        let Some(used) = status else { return Ok(()) };
        for (resource, more) in &delta {
            let before = quota.used.get(resource).copied().unwrap_or_else(|| more.minus(*more));
            set(used, resource, before.plus(*more).to_string());
        }
        Ok(())
    };
    let key = Key::new(review.ctx.namespace, name);
    match review.ctx.update(&resource(), &key, "status", &change).await {
        // It was deleted meanwhile, and limits nothing any more.
        Err(status) if status.code == 404 => Ok(()),
        done => done.map(drop),
    }
}

/// What one write takes.
struct Asked<'v> {
    evaluator: Evaluator,
    object: &'v Value,
    old: Option<&'v Value>,
    now: Amounts,
    before: Option<Amounts>,
}

impl<'v> Asked<'v> {
    fn new(evaluator: Evaluator, object: &'v Value, old: Option<&'v Value>) -> Self {
        let (now, before) = (evaluator.usage(object), old.map(|old| evaluator.usage(old)));
        Self { evaluator, object, old, now, before }
    }

    /// What is to be added to the quota: nothing where it is not about the object.
    ///
    /// # Errors
    /// 403 in upstream's words.
    fn of(&self, quota: &Quota, review: &Review<'_>) -> Result<Amounts, Status> {
        let restricted: Vec<&str> = quota.hard.keys().map(String::as_str).filter(|name| self.evaluator.counts(name)).collect();
        let is_in = |object: &Value| quota.scopes.iter().all(|scope| self.evaluator.is_in(scope, object));
        if restricted.is_empty() || !is_in(self.object) {
            return Ok(Amounts::new());
        }
        if let Some(missing) = self.evaluator.missing(&restricted, self.object) {
            return Err(forbidden(review, &format!("failed quota: {}: must specify {missing}", quota.name)));
        }
        if restricted.iter().any(|name| !quota.used.contains_key(*name)) {
            let why = format!("status unknown for quota: {}, resources: {}", quota.name, restricted.join(","));
            return Err(forbidden(review, &why));
        }
        let negative: Vec<&str> = self.now.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            return Err(forbidden(review, &format!("quota usage is negative for resource(s): {}", negative.join(","))));
        }
        let before = self.before.as_ref().filter(|_| self.old.is_some_and(is_in));
        let delta = self.delta(quota, before);
        let exceeded: Vec<&str> = delta
            .iter()
            .filter(|(name, more)| {
                let used = quota.used.get(*name).map_or(**more, |used| used.plus(**more));
                quota.hard.get(*name).is_some_and(|hard| used > *hard)
            })
            .map(|(name, _)| name.as_str())
            .collect();
        if exceeded.is_empty() {
            return Ok(delta);
        }
        let print = |amounts: &Amounts| {
            let of = |name: &&&str| amounts.get(**name).map(|amount| format!("{name}={amount}"));
            exceeded.iter().filter_map(|name| of(&name)).collect::<Vec<_>>().join(",")
        };
        let (requested, used, limited) = (print(&delta), print(&quota.used), print(&quota.hard));
        let why = format!("exceeded quota: {}, requested: {requested}, used: {used}, limited: {limited}", quota.name);
        Err(forbidden(review, &why))
    }

    /// Of what the quota limits, that by which it is more than `before`.
    fn delta(&self, quota: &Quota, before: Option<&Amounts>) -> Amounts {
        let more = |name: &String, amount: &Quantity| before.and_then(|before| before.get(name)).map_or(*amount, |was| amount.minus(*was));
        let all =
            self.now.iter().filter(|(name, _)| quota.hard.contains_key(*name)).map(|(name, amount)| (name.clone(), more(name, amount)));
        all.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).collect()
    }
}

impl Quota {
    fn of(object: &Value) -> Self {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let plain = spec.list("scopes").iter().filter_map(Value::as_str);
        let plain = plain.map(|name| Scope { name: name.to_owned(), operator: "Exists".to_owned(), values: Vec::new() });
        let selected = spec.at("scopeSelector").list("matchExpressions").iter().map(Scope::of);
        let amounts = |list: &str| {
            let all = status.object(list).into_iter().flatten();
            all.filter_map(|(name, amount)| Some((name.clone(), quantity(amount)?))).collect()
        };
        Self { name: read::name(object).to_owned(), scopes: plain.chain(selected).collect(), hard: amounts("hard"), used: amounts("used") }
    }
}

impl Scope {
    /// Of a `ScopedResourceSelectorRequirement`.
    fn of(expression: &Value) -> Self {
        Self {
            name: expression.text("scopeName").to_owned(),
            operator: expression.text("operator").to_owned(),
            values: expression.list("values").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }

    /// Whether one of the names fits, or none where there is none to fit.
    fn selects(&self, names: &[&str]) -> bool {
        let is_named = |name: &&str| self.values.iter().any(|value| value == name);
        match self.operator.as_str() {
            "In" => names.iter().any(is_named),
            "NotIn" => names.is_empty() || names.iter().any(|name| !is_named(name)),
            "Exists" => !names.is_empty(),
            "DoesNotExist" => names.is_empty(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_choose_by_names() {
        let scope = |operator: &str| Scope { name: "PriorityClass".into(), operator: operator.into(), values: vec!["a".into()] };
        let cases = [
            ("In", &["a"][..], true),
            ("In", &["b"], false),
            ("In", &[], false),
            ("NotIn", &["b"], true),
            ("NotIn", &["a"], false),
            ("NotIn", &[], true),
            ("Exists", &[], false),
            ("DoesNotExist", &[], true),
        ];
        for (operator, names, wanted) in cases {
            assert_eq!(scope(operator).selects(names), wanted, "{operator} {names:?}");
        }
    }

    #[test]
    fn an_update_takes_the_difference() {
        let quota = Quota::of(
            &json!({"metadata": {"name": "q"}, "status": {"hard": {"requests.storage": "5Gi", "persistentvolumeclaims": "1"}, "used": {}}}),
        );
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let (new, old) = (claim("3Gi"), claim("1Gi"));
        let asked = Asked::new(Evaluator::Claims, &new, Some(&old));
        let delta = asked.delta(&quota, asked.before.as_ref());
        assert_eq!(delta.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>(), ["requests.storage=2Gi"]);
        assert!(Asked::new(Evaluator::Claims, &old, Some(&new)).delta(&quota, Some(&Evaluator::Claims.usage(&new))).is_empty());
    }
}
