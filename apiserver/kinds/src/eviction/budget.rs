//! A pod to be evicted -> whether its budget allows it; what is allowed is taken from the budget at once.

use api::{
    GroupResource, Key, Status,
    selector::Labels,
    time::{Timestamp, rfc3339},
};
use apiserver::{
    engine::{Object, Unseen, View, Viewed},
    kind::Ctx,
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    common::{
        Read,
        edit::{make_child, set},
        read, selector,
    },
    poddisruptionbudget::{ALLOWED, tell_allowed},
};

/// So many evictions may wait for the controller to see them.
const DISRUPTED_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Of a budget, whom it guards.
pub(super) struct Guard {
    name: String,
    /// `None` guards nobody.
    selector: Option<Labels>,
    bytes: usize,
}

impl Viewed for Guard {
    fn read(object: &Object) -> Self {
        #[derive(Deserialize)]
        struct Budget {
            spec: Option<Spec>,
        }
        #[derive(Deserialize)]
        struct Spec {
            selector: Option<Value>,
        }
        let found = object.part::<Budget>().ok().and_then(|budget| budget.spec?.selector);
        let bytes = object.key.name.len() + found.as_ref().map_or(0, |selector| selector.to_string().len());
        Self { name: object.key.name.clone(), selector: selector::parse(found.as_ref()).ok().flatten(), bytes }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Guard {
    fn guards(&self, pod: &Value) -> bool {
        let labels = pod.at("metadata").at("labels");
        self.selector.as_ref().is_some_and(|s| s.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str)))
    }
}

pub(super) enum Answer {
    Allowed,
    /// The pod is not healthy, so that the budget (by name) loses nothing: it may go as long as it stays so.
    Unhealthy(String),
}

/// Asks the budget of a pod, and takes one disruption from it unless `dry`.
///
/// # Errors
/// 429 where the budget does not allow it, 500 where there are several budgets.
pub(super) async fn ask(ctx: &Ctx<'_>, guards: &View<Guard>, pod: &Value, dry: bool) -> Result<Answer, Status> {
    let too_much = || Status::new(500, "", "The PodDisruptionBudgets of this namespace are too large to be looked through.");
    let all = guards.of(ctx.engine, ctx.namespace).map_err(|unseen: Unseen| unseen.status(too_much))?;
    let mut guarding = all.iter().filter(|guard| guard.guards(pod)).map(|guard| guard.name.as_str());
    let name = match (guarding.next(), guarding.next()) {
        (None, _) => return Ok(Answer::Allowed),
        (Some(one), None) => one,
        _ => {
            let words = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", words));
        }
    };
    // It may have gone since.
    let Some(budget) = ctx.engine.cached(&budgets(), &Key::new(ctx.namespace, name)) else { return Ok(Answer::Allowed) };
    if !is_ready(pod) && spares_unhealthy(&budget.value()) {
        return Ok(Answer::Unhealthy(name.to_owned()));
    }
    take(ctx, name, read::name(pod), dry).await.map(|()| Answer::Allowed)
}

/// The budget has changed under our hands, or its controller has not seen it yet.
pub(super) fn busy(name: &str) -> Status {
    let words = format!("The disruption budget {name} is still being processed by the server.");
    Status::too_many_requests(REFUSED, 10).cause("DisruptionBudget", &words, "")
}

async fn take(ctx: &Ctx<'_>, name: &str, pod: &str, dry: bool) -> Result<(), Status> {
    let key = Key::new(ctx.namespace, name);
    if dry {
        let mut budget = ctx.engine.get(&budgets(), &key).await?.value();
        return decrement(&mut budget, pod, ctx.now);
    }
    let change = |budget: &mut Value| decrement(budget, pod, ctx.now);
    match ctx.update(&budgets(), &key, "status", &change).await {
        Err(status) if status.reason == "Conflict" => {
            let mut late = Status::timeout(format!("couldn't update PodDisruptionBudget {name:?} due to conflicts"));
            late.detail("retryAfterSeconds", 10);
            Err(late)
        }
        done => done.map(drop),
    }
}

/// `checkAndDecrement`
fn decrement(budget: &mut Value, pod: &str, now: Timestamp) -> Result<(), Status> {
    let (name, status) = (read::name(budget).to_owned(), budget.at("status"));
    let allowed = status.int("disruptionsAllowed").unwrap_or(0);
    let forbidden = |why: &str| Err(Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), &name, why));
    if status.int("observedGeneration").unwrap_or(0) < budget.at("metadata").int("generation").unwrap_or(0) {
        return Err(busy(&name));
    }
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status.object("disruptedPods").is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(Status::new(429, "TooManyRequests", REFUSED).cause("DisruptionBudget", &why_not(&name, status), ""));
    }
    let Some(status) = make_child(budget, "status") else { return Ok(()) };
    set(status, "disruptionsAllowed", allowed - 1);
    if allowed == 1 {
        tell_allowed(status, now);
    }
    if let Some(pods) = make_child(status, "disruptedPods") {
        set(pods, pod, rfc3339(now));
    }
    Ok(())
}

fn why_not(name: &str, status: Option<&Value>) -> String {
    let condition = status.list("conditions").iter().find(|c| c.text("type") == ALLOWED && c.text("status") == "False");
    let (reason, message) = (condition.text("reason"), condition.text("message"));
    let (current, desired) = (status.int("currentHealthy").unwrap_or(0), status.int("desiredHealthy").unwrap_or(0));
    let not_now = format!("The disruption budget {name} does not allow evicting pods currently");
    match () {
        () if reason == "SyncFailed" && !message.is_empty() => format!("{not_now} because it failed sync: {message}"),
        () if current <= desired => format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
        () if !message.is_empty() => format!("{not_now} ({reason}): {message}"),
        () => not_now,
    }
}

/// An unhealthy pod may go where the budget says so, or where enough others are healthy.
fn spares_unhealthy(budget: &Value) -> bool {
    let (current, desired) = (read::count(budget, "/status/currentHealthy"), read::count(budget, "/status/desiredHealthy"));
    budget.at("spec").text("unhealthyPodEvictionPolicy") == "AlwaysAllow" || (current >= desired && desired > 0)
}

fn is_ready(pod: &Value) -> bool {
    podspec::is_ready(pod.at("status").list("conditions").iter().map(|c| (c.text("type"), c.text("status"))))
}

pub(super) fn budgets() -> GroupResource {
    GroupResource::new("policy", "poddisruptionbudgets")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": status})
    }

    #[test]
    fn what_is_allowed_is_taken() {
        let now = api::time::parse("2026-01-01T00:00:00Z").unwrap();
        let mut budget = budget(json!({"observedGeneration": 2, "disruptionsAllowed": 2}));
        decrement(&mut budget, "p", now).unwrap();
        assert_eq!((&budget["status"]["disruptionsAllowed"], &budget["status"]["conditions"]), (&json!(1), &Value::Null));
        decrement(&mut budget, "q", now).unwrap();
        assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
        assert_eq!(budget["status"]["disruptedPods"], json!({"p": "2026-01-01T00:00:00Z", "q": "2026-01-01T00:00:00Z"}));
        assert_eq!(decrement(&mut budget, "r", now).unwrap_err().code, 429);
    }

    #[test]
    fn refusals_say_why() {
        let now = Timestamp::UNIX_EPOCH;
        let failed = json!([{"type": ALLOWED, "status": "False", "reason": "SyncFailed", "message": "found no controllers for pod \"p\""}]);
        let cases = [
            (
                json!({"observedGeneration": 1, "disruptionsAllowed": 1}),
                429,
                "The disruption budget b is still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 2, "currentHealthy": 1, "desiredHealthy": 2}),
                429,
                "The disruption budget b needs 2 healthy pods and has 1 currently",
            ),
            (
                json!({"observedGeneration": 2, "conditions": failed}),
                429,
                "The disruption budget b does not allow evicting pods currently because it failed sync: found no controllers for pod \"p\"",
            ),
            (
                json!({"observedGeneration": 2, "currentHealthy": 2, "desiredHealthy": 1}),
                429,
                "The disruption budget b does not allow evicting pods currently",
            ),
        ];
        for (status, code, words) in cases {
            let refused = decrement(&mut budget(status), "p", now).unwrap_err();
            assert_eq!((refused.code, refused.body()["details"]["causes"][0]["message"].as_str()), (code, Some(words)));
            assert_eq!(refused.message, REFUSED);
        }
        let refused = decrement(&mut budget(json!({"observedGeneration": 2, "disruptionsAllowed": -1})), "p", now).unwrap_err();
        assert_eq!(refused.message, r#"poddisruptionbudget.policy "b" is forbidden: pdb disruptions allowed is negative"#);
    }

    #[test]
    fn the_unhealthy_are_spared_nothing_where_others_suffice() {
        let with = |policy: &str, current: i64, desired: i64| json!({"spec": {"unhealthyPodEvictionPolicy": policy}, "status": {"currentHealthy": current, "desiredHealthy": desired}});
        let cases =
            [(with("AlwaysAllow", 0, 2), true), (with("IfHealthyBudget", 1, 2), false), (with("", 2, 2), true), (with("", 0, 0), false)];
        for (budget, wanted) in cases {
            assert_eq!(spares_unhealthy(&budget), wanted, "{budget}");
        }
    }
}
