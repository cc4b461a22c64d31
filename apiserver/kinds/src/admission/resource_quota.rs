//! A write into a namespace -> counted against its quotas, or refused where they are exhausted.
//!
//! Source: apiserver `pkg/admission/plugin/resourcequota/controller.go`. What is used stands in each quota's status and is raised there, in a write that
//! fails where somebody else was faster and is then worked out anew; what goes is taken back by the quota controller.

mod limited;

use std::sync::Arc;

use api::{GroupResource, Key, Status, quantity::Quantity};
use apiserver::{
    engine::{Engine, Object, Unseen, View, Viewed},
    identity::{Admission, Operation, Review},
    kind::{Ctx, Storage},
};
use async_trait::async_trait;
use podspec::quota::{Evaluator, Measure, Scope, Standing, Usage, is_terminating};
use serde_json::Value;

use self::limited::Limited;
use super::forbidden;
use crate::common::{
    Read,
    edit::{make_child, set},
    read,
    resources::quantity,
};

/// What an entry counts in the view besides its texts.
const ENTRY_BYTES: usize = 32;

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
    hard: Usage,
    used: Usage,
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
        let evaluator = Evaluator::of(&review.ctx.kind.group, &review.ctx.kind.plural);
        if !handles(&evaluator, review.ctx, object, review.old) {
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

/// Whether the write changes what is taken.
fn handles(evaluator: &Evaluator, ctx: &Ctx<'_>, object: &Value, old: Option<&Value>) -> bool {
    let (creates, updates) = (ctx.operation == Operation::Create, ctx.operation == Operation::Update);
    let terminates = |pod: &Value| is_terminating(pod.at("spec").int("activeDeadlineSeconds"));
    match (evaluator, ctx.subresource) {
        (Evaluator::Pods, "") => creates || updates && old.is_some_and(|old| terminates(old) != terminates(object)),
        (Evaluator::Pods, "resize") | (Evaluator::Claims, "status") => updates,
        (Evaluator::Services | Evaluator::Claims | Evaluator::DeviceClaims, "") => creates || updates,
        (Evaluator::Count(_), "") => creates,
        _ => false,
    }
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
            let sum = quota.used.get(resource).map_or(*more, |before| before.plus(*more));
            set(used, resource, sum.to_string());
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
    now: Measure,
    before: Option<Measure>,
}

impl<'v> Asked<'v> {
    fn new(evaluator: Evaluator, object: &'v Value, old: Option<&'v Value>) -> Self {
        let (now, before) = (evaluator.measure(object), old.map(|old| evaluator.measure(old)));
        Self { evaluator, object, now, before }
    }

    /// Whether the object is in the scope.
    fn is_in(&self, scope: &Scope) -> bool {
        scope.has(&self.now.standing)
    }

    /// What is to be added to the quota: nothing where it is not about the object.
    ///
    /// # Errors
    /// 403 in upstream's words.
    fn of(&self, quota: &Quota, review: &Review<'_>) -> Result<Usage, Status> {
        let restricted: Vec<&str> = quota.hard.keys().map(String::as_str).filter(|name| self.evaluator.counts(name)).collect();
        let is_in = |standing: &Standing| quota.scopes.iter().all(|scope| scope.has(standing));
        if restricted.is_empty() || !is_in(&self.now.standing) {
            return Ok(Usage::new());
        }
        if let Some(missing) = self.evaluator.missing(&restricted, self.object) {
            return Err(forbidden(review, &format!("failed quota: {}: must specify {missing}", quota.name)));
        }
        if restricted.iter().any(|name| !quota.used.contains_key(*name)) {
            let why = format!("status unknown for quota: {}, resources: {}", quota.name, restricted.join(","));
            return Err(forbidden(review, &why));
        }
        let negative: Vec<&str> = self.now.usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            return Err(forbidden(review, &format!("quota usage is negative for resource(s): {}", negative.join(","))));
        }
        let before = self.before.as_ref().filter(|before| is_in(&before.standing)).map(|before| &before.usage);
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
        let print = |amounts: &Usage| {
            let of = |name: &&&str| amounts.get(**name).map(|amount| format!("{name}={amount}"));
            exceeded.iter().filter_map(|name| of(&name)).collect::<Vec<_>>().join(",")
        };
        let (requested, used, limited) = (print(&delta), print(&quota.used), print(&quota.hard));
        let why = format!("exceeded quota: {}, requested: {requested}, used: {used}, limited: {limited}", quota.name);
        Err(forbidden(review, &why))
    }

    /// Of what the quota limits, that by which it is more than `before`.
    fn delta(&self, quota: &Quota, before: Option<&Usage>) -> Usage {
        let more = |name: &String, amount: &Quantity| before.and_then(|before| before.get(name)).map_or(*amount, |was| amount.minus(*was));
        let all = self
            .now
            .usage
            .iter()
            .filter(|(name, _)| quota.hard.contains_key(*name))
            .map(|(name, amount)| (name.clone(), more(name, amount)));
        all.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).collect()
    }
}

impl Quota {
    fn of(object: &Value) -> Self {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let amounts = |list: &str| {
            let all = status.object(list).into_iter().flatten();
            all.filter_map(|(name, amount)| Some((name.clone(), quantity(amount)?))).collect()
        };
        Self { name: read::name(object).to_owned(), scopes: Scope::all(spec), hard: amounts("hard"), used: amounts("used") }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_takes_the_difference() {
        let quota = Quota::of(
            &json!({"metadata": {"name": "q"}, "status": {"hard": {"requests.storage": "5Gi", "persistentvolumeclaims": "1"}, "used": {}}}),
        );
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let (new, old) = (claim("3Gi"), claim("1Gi"));
        let asked = Asked::new(Evaluator::Claims, &new, Some(&old));
        let delta = asked.delta(&quota, asked.before.as_ref().map(|before| &before.usage));
        assert_eq!(delta.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>(), ["requests.storage=2Gi"]);
        assert!(Asked::new(Evaluator::Claims, &old, Some(&new)).delta(&quota, Some(&Evaluator::Claims.measure(&new).usage)).is_empty());
    }
}
