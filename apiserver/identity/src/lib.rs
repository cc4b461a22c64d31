//! Files that name somebody outside -> who may come in and what they may do, as those say: OpenID issuers, webhooks, files of tokens.
//!
//! What is verified from memory (client certificates, service-account tokens, RBAC, Node) stands in `kinds`; the front door puts both into one chain.
//! Sources: `pkg/kubeapiserver/{authenticator,authorizer,options}`, apiserver `plugin/pkg/{authenticator,authorizer}`, `pkg/apis/apiserver`.

mod audit_webhook;
mod authentication;
mod authorization;
mod cache;
mod duration;
mod expressions;
mod file;
mod oidc;
mod remote;
mod static_tokens;
#[cfg(test)]
mod testing;
mod token_webhook;
mod webhook_authorizer;
mod webhook_config;

pub use audit_webhook::{AuditWebhook, AuditWebhookConfig};
pub use authentication::{AuthenticationConfig, Jwts};
pub use authorization::{AlwaysAllow, AlwaysDeny, AuthorizationConfig, AuthorizerConfig, BuiltIn, Chain, Type};
pub use duration::parse as duration;
pub use file::Reload;
pub use oidc::{ClaimMappings, ClaimRule, Issuer, JwtAuthenticator, Mapping};
pub use static_tokens::StaticTokens;
pub use token_webhook::TokenWebhook;
pub use webhook_config::WebhookConfig;
