//! Who may do what: tokens of service accounts and of machines that join, RBAC, the Node authorizer, reviews, and what a fresh cluster lets whom do.

use std::sync::Arc;

use apiserver::{
    identity::{Attributes, Auth, Authorizer, Decision, Rules, User},
    kind::{Kind, Subresource},
};
use serde_json::json;

use crate::admission;

pub mod bootstrap;
pub mod bootstrap_tokens;
mod covers;
pub mod escalation;
pub mod node;
pub mod openid;
pub mod policy;
pub mod rbac;
pub mod reviews;
pub mod rules;
mod ruleset;
mod system_namespaces;
pub mod token_request;
pub mod tokens;

pub use bootstrap::{bootstrap, system_user};
pub use openid::OpenId;
pub use system_namespaces::keep_namespaces;
pub use tokens::Tokens;

/// Who issues service-account tokens, and their audience where none is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// May do anything, whatever the roles say.
pub const MASTERS: &str = "system:masters";

/// All of it in upstream's order: tokens; privileged group, Node, RBAC; the admission chain.
pub fn chain(tokens: &Arc<Tokens>) -> Auth {
    let rbac = Arc::new(rbac::Rbac::default());
    let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Privileged), Arc::new(node::NodeAuthorizer::default()), rbac.clone()];
    let mut admission = admission::chain();
    admission.push(Arc::new(escalation::NoEscalation(rbac)));
    let bootstrap = bootstrap_tokens::BootstrapTokens::new(ISSUER);
    Auth { authenticators: vec![tokens.clone(), Arc::new(bootstrap)], authorizers, admission }
}

/// The kinds of this part: reviews.
pub fn kinds() -> Vec<Arc<Kind>> {
    reviews::kinds()
}

/// The `token` subresource of service accounts.
pub fn token_subresource(tokens: &Arc<Tokens>) -> Subresource {
    token_request::subresource(tokens)
}

/// `system:masters` may do anything (`authorizerfactory.NewPrivilegedGroups`).
struct Privileged;

impl Authorizer for Privileged {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if is_master(attributes.user) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }

    fn rules(&self, user: &User, _: &str) -> Rules {
        if !is_master(user) {
            return Rules::default();
        }
        Rules {
            resource: vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            non_resource: vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        }
    }
}

fn is_master(user: &User) -> bool {
    user.groups.iter().any(|g| g == MASTERS)
}
