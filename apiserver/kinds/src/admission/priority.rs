//! A pod's priority class -> its priority and preemption policy; and no two classes are the default.
//!
//! Source: `plugin/pkg/admission/priority/admission.go`.

use std::sync::Arc;

use api::{GroupResource, Key, Status};
use apiserver::{
    engine::{Engine, Object, View, Viewed},
    identity::{Admission, Operation, Review},
};
use async_trait::async_trait;

use super::{forbidden, is, writes};
use crate::{
    common::{Read, read},
    priorityclass::SYSTEM,
};

#[derive(Default)]
pub struct Priority {
    classes: View<PriorityClass>,
}

/// What a class gives.
#[derive(Clone)]
struct PriorityClass {
    name: String,
    value: i64,
    policy: Option<String>,
    is_default: bool,
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn start(&self, engine: &Arc<Engine>) {
        self.classes.follow(engine, &classes());
    }

    async fn admit(&self, review: &mut Review<'_>) -> Result<(), Status> {
        if is(review, "scheduling.k8s.io", "priorityclasses") && review.ctx.operation == Operation::Delete {
            return keep_system_class(review);
        }
        if !is(review, "", "pods") || !review.ctx.subresource.is_empty() {
            return Ok(());
        }
        match review.ctx.operation {
            Operation::Create => self.give(review),
            Operation::Update => {
                keep(review);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        if !is(review, "scheduling.k8s.io", "priorityclasses") || !writes(review) {
            return Ok(());
        }
        let Some(class) = review.object.as_deref().filter(|c| c.is_true("globalDefault")) else { return Ok(()) };
        match self.default_class(review.ctx.engine)? {
            Some(other) if review.ctx.operation == Operation::Create || other.name != read::name(class) => {
                let name = other.name;
                Err(forbidden(review, &format!("PriorityClass {name} is already marked as default. Only one default can exist")))
            }
            _ => Ok(()),
        }
    }
}

impl Priority {
    fn give(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let Some(pod) = review.object.as_deref() else { return Ok(()) };
        let wanted = pod.at("spec").text("priorityClassName");
        let class = if wanted.is_empty() {
            let none = || PriorityClass { name: String::new(), value: 0, policy: Some("PreemptLowerPriority".into()), is_default: false };
            self.default_class(review.ctx.engine)?.unwrap_or_else(none)
        } else {
            let found = review.ctx.engine.cached(&classes(), &Key::new("", wanted));
            let found = found.ok_or_else(|| forbidden(review, &format!("no PriorityClass with name {wanted} was found")))?;
            PriorityClass::read(&found)
        };
        give(review, class)
    }

    /// Of several the one with the lowest value.
    fn default_class(&self, engine: &Engine) -> Result<Option<PriorityClass>, Status> {
        let all = self.classes.of(engine, "");
        let all = all.map_err(|unseen| unseen.status(|| Status::internal("there are more PriorityClasses than can be looked through")))?;
        Ok(all.iter().filter(|class| class.is_default).min_by_key(|class| class.value).map(|class| PriorityClass::clone(class)))
    }
}

fn give(review: &mut Review<'_>, class: PriorityClass) -> Result<(), Status> {
    let Some(pod) = review.object.as_deref() else { return Ok(()) };
    let spec = pod.at("spec");
    let (asked, policy) = (spec.int("priority"), spec.text("preemptionPolicy"));
    let value = class.value;
    if let Some(asked) = asked.filter(|asked| *asked != value) {
        return Err(forbidden(
            review,
            &format!(
                "the integer value of priority ({asked}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            ),
        ));
    }
    if let Some(computed) = class.policy.as_deref().filter(|computed| !policy.is_empty() && *computed != policy) {
        return Err(forbidden(
            review,
            &format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
            ),
        ));
    }
    let Some(pod) = review.object.as_deref_mut() else { return Ok(()) };
    if !class.name.is_empty() {
        pod["spec"]["priorityClassName"] = class.name.into();
    }
    pod["spec"]["priority"] = value.into();
    if let Some(policy) = class.policy {
        pod["spec"]["preemptionPolicy"] = policy.into();
    }
    Ok(())
}

/// Upstream refuses this in the kind's storage (`pkg/registry/scheduling/priorityclass/storage`).
fn keep_system_class(review: &Review<'_>) -> Result<(), Status> {
    if SYSTEM.iter().any(|(name, ..)| *name == review.ctx.name) {
        return Err(forbidden(review, "this is a system priority class and cannot be deleted"));
    }
    Ok(())
}

/// A client that leaves the fields out of an update means no change.
fn keep(review: &mut Review<'_>) {
    let (Some(new), Some(old)) = (review.object.as_deref_mut(), review.old) else { return };
    for field in ["priority", "preemptionPolicy"] {
        if let (None, Some(value)) = (new.at("spec").at(field), old.at("spec").at(field)) {
            new["spec"][field] = value.clone();
        }
    }
}

fn classes() -> GroupResource {
    GroupResource::new("scheduling.k8s.io", "priorityclasses")
}

impl Viewed for PriorityClass {
    fn read(object: &Object) -> Self {
        let class = object.value();
        let policy = Some(class.text("preemptionPolicy").to_owned()).filter(|p| !p.is_empty());
        let (value, is_default) = (class.int("value").unwrap_or(0), class.is_true("globalDefault"));
        Self { name: object.key.name.clone(), value, policy, is_default }
    }

    fn bytes(&self) -> usize {
        self.name.len()
    }
}
