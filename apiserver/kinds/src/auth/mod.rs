//! Who may do what: tokens of service accounts and of machines that join, RBAC, the Node authorizer, reviews, and what a fresh cluster lets whom do.

use std::sync::Arc;

use apiserver::{
    identity::{Admission, Attributes, Auth, Authenticator, Authorizer, Decision, Rules, User},
    kind::{Kind, Subresource},
};
use serde_json::json;

use crate::admission;

pub mod audiences;
pub mod bootstrap;
pub mod bootstrap_tokens;
mod covers;
pub mod escalation;
pub mod legacy;
pub mod legacy_tracking;
pub mod node;
pub mod openid;
pub mod policy;
pub mod rbac;
pub mod reviews;
pub mod rules;
mod ruleset;
mod system_namespaces;
pub mod token_request;
mod token_secrets;
pub mod tokens;

pub use bootstrap::{bootstrap, system_user};
pub use openid::OpenId;
pub use system_namespaces::keep_namespaces;
pub use token_secrets::keep_token_secrets;
pub use tokens::{Tokens, TokensConfig};

/// Who issues service-account tokens, and their audience where none is asked for.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// May do anything, whatever the roles say.
pub const MASTERS: &str = "system:masters";

/// All of it in upstream's order: tokens; privileged group, Node, RBAC; the admission chain.
pub fn chain(tokens: &Arc<Tokens>) -> Auth {
    let Parts { authenticators, privileged, node, rbac, admission } = parts(tokens);
    Auth { authenticators, authorizers: vec![privileged, node, rbac], admission, ..Auth::default() }
}

/// What a chain is made of.
pub struct Parts {
    /// Those of tokens that are verified here.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub privileged: Arc<dyn Authorizer>,
    pub node: Arc<dyn Authorizer>,
    pub rbac: Arc<dyn Authorizer>,
    pub admission: Vec<Arc<dyn Admission>>,
}

/// For who puts the chain together in another way.
pub fn parts(tokens: &Arc<Tokens>) -> Parts {
    let rbac = Arc::new(rbac::Rbac::default());
    let mut admission = admission::chain();
    admission.push(Arc::new(escalation::NoEscalation(rbac.clone())));
    let bootstrap = bootstrap_tokens::BootstrapTokens::new(&tokens.config().audiences);
    let authenticators: Vec<Arc<dyn Authenticator>> = vec![tokens.clone(), Arc::new(bootstrap)];
    Parts { authenticators, privileged: Arc::new(Privileged), node: Arc::new(node::NodeAuthorizer::default()), rbac, admission }
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
