//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy: expressions that refuse writes or change them, without anybody being asked.
//!
//! Sources: apiserver `pkg/admission/plugin/policy/{generic,matching,validating,mutating}`. A policy is read once per revision and compiled when a write is
//! first about it; a write that none is about costs one lookup.

mod evaluation;
pub(crate) mod matching;
mod mutating;
mod params;
mod patch_errors;
pub(crate) mod policy;
pub mod type_checks;
mod validating;

use std::{collections::HashMap, sync::Arc};

use api::Status;
use apiserver::{
    engine::{Engine, Unseen, View},
    identity::Review,
};
use parking_lot::RwLock;

pub use self::{mutating::MutatingAdmissionPolicy, validating::ValidatingAdmissionPolicy};
use self::{
    params::Parsed,
    policy::{Binding, Policy},
};
use super::webhooks::resource;

/// The policies of one plugin, with their bindings.
#[derive(Default)]
struct Source {
    policies: View<Policy>,
    bindings: View<Binding>,
    joined: RwLock<Option<Joined>>,
    parsed: Parsed,
}

/// Both, and what was made of them.
struct Joined {
    policies: Arc<[Arc<Policy>]>,
    bindings: Arc<[Arc<Binding>]>,
    hooks: Arc<Hooks>,
}

/// Policies that have bindings, in the order of names, and which of them may be about a resource.
#[derive(Default)]
struct Hooks {
    all: Vec<Hook>,
    by_resource: HashMap<String, Vec<usize>>,
    everywhere: Vec<usize>,
}

/// A policy with the bindings that put it into force.
struct Hook {
    policy: Arc<Policy>,
    bindings: Vec<Arc<Binding>>,
}

impl Source {
    fn follow(&self, engine: &Arc<Engine>, policies: &'static str, bindings: &'static str) {
        self.policies.follow(engine, &resource(policies));
        self.bindings.follow(engine, &resource(bindings));
    }

    /// What may have a say in a write; `None` where nothing has.
    ///
    /// # Errors
    /// There is more of it than is looked at with one request, or some cannot be decrypted.
    fn hooks(&self, review: &Review<'_>) -> Result<Option<Arc<Hooks>>, Status> {
        if is_excluded(review) {
            return Ok(None);
        }
        let too_much = || Status::internal("there are more admission policies and bindings than can be looked at");
        let unseen = |why: Unseen| why.status(too_much);
        let engine = review.ctx.engine;
        let (policies, bindings) = (self.policies.of(engine, "").map_err(unseen)?, self.bindings.of(engine, "").map_err(unseen)?);
        if policies.is_empty() || bindings.is_empty() {
            return Ok(None);
        }
        let is_same = |joined: &&Joined| Arc::ptr_eq(&joined.policies, &policies) && Arc::ptr_eq(&joined.bindings, &bindings);
        let known = self.joined.read().as_ref().filter(is_same).map(|joined| joined.hooks.clone());
        let hooks = known.unwrap_or_else(|| {
            let hooks = Arc::new(Hooks::of(&policies, &bindings));
            *self.joined.write() = Some(Joined { policies, bindings, hooks: hooks.clone() });
            hooks
        });
        let resource: &str = &review.ctx.kind.plural;
        Ok((!hooks.everywhere.is_empty() || hooks.by_resource.contains_key(resource)).then_some(hooks))
    }
}

impl Hooks {
    fn of(policies: &[Arc<Policy>], bindings: &[Arc<Binding>]) -> Self {
        let mut by_policy: HashMap<&str, Vec<Arc<Binding>>> = HashMap::new();
        for binding in bindings {
            by_policy.entry(&binding.policy).or_default().push(binding.clone());
        }
        let mut hooks = Self::default();
        for policy in policies {
            let Some(bindings) = by_policy.remove(policy.name.as_str()) else { continue };
            let at = hooks.all.len();
            match policy.constraints.resources() {
                None => hooks.everywhere.push(at),
                Some(names) => names.into_iter().for_each(|name| hooks.by_resource.entry(name.to_owned()).or_default().push(at)),
            }
            hooks.all.push(Hook { policy: policy.clone(), bindings });
        }
        hooks
    }

    /// Those that may be about the resource, in order.
    fn about(&self, review: &Review<'_>) -> impl Iterator<Item = &Hook> {
        let resource: &str = &review.ctx.kind.plural;
        let mut places: Vec<usize> = self.by_resource.get(resource).into_iter().flatten().chain(&self.everywhere).copied().collect();
        places.sort_unstable();
        places.into_iter().filter_map(|at| self.all.get(at))
    }
}

/// Of policies and their bindings no policy sees any (nobody could mend what refuses its own mending), nor of reviews that everything else rests on, nor
/// of what the API server writes of its own.
fn is_excluded(review: &Review<'_>) -> bool {
    let kind = review.ctx.kind;
    review.ctx.is_own()
        || match &*kind.group {
            "admissionregistration.k8s.io" => ["AdmissionPolicy", "AdmissionPolicyBinding"].iter().any(|end| kind.kind.ends_with(end)),
            "authentication.k8s.io" => matches!(&*kind.plural, "selfsubjectreviews" | "tokenreviews"),
            "authorization.k8s.io" => kind.plural.ends_with("reviews"),
            _ => false,
        }
}
