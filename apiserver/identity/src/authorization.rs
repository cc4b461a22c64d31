//! `AuthorizationConfiguration` -> who is asked whether something may be done, in which order; exchanged as a whole when the file changes.
//!
//! Sources: `pkg/kubeapiserver/{authorizer/{config,reload}.go,options/authorization.go}`, apiserver `pkg/apis/apiserver/{v1,validation}`, KEP-3221.

use std::{collections::HashSet, sync::Arc};

use api::{field_errors::FieldErrors, task::Group};
use apiserver::{
    engine::Engine,
    identity::{Attributes, Authorizer, Decision, Rules, User, Verdict},
    union,
};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;

use crate::{
    file::{self, Take, Wrong},
    token_webhook::or_default,
    webhook_authorizer::WebhookAuthorizer,
    webhook_config::WebhookConfig,
};

/// The file, read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationConfig {
    #[serde(deserialize_with = "or_default")]
    pub authorizers: Vec<AuthorizerConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizerConfig {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub webhook: Option<WebhookConfig>,
}

/// The types that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook,
}

impl Type {
    /// # Errors
    /// It is none, or one that is not served.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "AlwaysDeny" => Ok(Self::AlwaysDeny),
            "Node" => Ok(Self::Node),
            "RBAC" => Ok(Self::Rbac),
            "Webhook" => Ok(Self::Webhook),
            "ABAC" => Err("authorization-mode ABAC is not supported: say the same in roles and bindings, with mode RBAC".into()),
            other => Err(format!("authorization-mode {other:?} is not a valid mode")),
        }
    }
}

impl AuthorizationConfig {
    /// Reads and validates it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = file::parse(text, "AuthorizationConfiguration")?;
        let mut causes = FieldErrors::default();
        config.validate(&mut causes);
        if causes.is_empty() {
            return Ok(config);
        }
        Err(causes.0.iter().map(api::field_errors::FieldError::text).collect::<Vec<_>>().join(", "))
    }

    fn validate(&self, causes: &mut FieldErrors) {
        if self.authorizers.is_empty() {
            causes.required("authorizers", "at least one authorization mode must be defined");
        }
        let (mut types, mut names) = (HashSet::new(), HashSet::new());
        for (index, one) in self.authorizers.iter().enumerate() {
            let path = format!("authorizers[{index}]");
            if one.kind.is_empty() {
                causes.required(format!("{path}.type"), "");
                continue;
            }
            if Type::parse(&one.kind).is_err() {
                causes.not_supported(format!("{path}.type"), &*one.kind, &["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"]);
                continue;
            }
            if !types.insert(&one.kind) && one.kind != "Webhook" {
                causes.duplicate(format!("{path}.type"), &*one.kind);
                continue;
            }
            let name = format!("{path}.name");
            match apiserver::names::subdomain_error(&one.name) {
                _ if one.name.is_empty() => causes.required(name, ""),
                _ if !names.insert(&one.name) => causes.duplicate(name, &*one.name),
                Some(why) => causes.invalid(name, &*one.name, &format!("authorizer name is invalid: {why}")),
                None => {}
            }
            match (&one.webhook, one.kind == "Webhook") {
                (None, true) => causes.required(format!("{path}.webhook"), "required when type=Webhook"),
                // As upstream: without a word of the webhook itself.
                (Some(webhook), true) => webhook.validate(&path, causes),
                (Some(_), false) => causes.invalid(format!("{path}.webhook"), "non-null", "may only be specified when type=Webhook"),
                (None, false) => {}
            }
        }
    }
}

/// Those that answer from memory, made elsewhere; they go on while configurations change.
#[derive(Clone)]
pub struct BuiltIn {
    /// Comes before all that is configured.
    pub privileged: Arc<dyn Authorizer>,
    pub node: Arc<dyn Authorizer>,
    pub rbac: Arc<dyn Authorizer>,
}

/// The authorizers of now.
pub struct Chain {
    now: ArcSwap<Vec<Arc<dyn Authorizer>>>,
    built_in: BuiltIn,
    /// What was there at the start: Node and RBAC cannot come later.
    started: HashSet<String>,
    group: Group,
}

impl Chain {
    /// `config` is valid.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig of a webhook.
    pub async fn new(config: &AuthorizationConfig, built_in: BuiltIn, group: &Group) -> Result<Arc<Self>, String> {
        let started = config.authorizers.iter().map(|one| one.kind.clone()).collect();
        let this = Self { now: ArcSwap::default(), built_in, started, group: group.clone() };
        let made = this.made(config).await?;
        this.now.store(Arc::new(made));
        Ok(Arc::new(this))
    }

    async fn made(&self, config: &AuthorizationConfig) -> Result<Vec<Arc<dyn Authorizer>>, String> {
        let mut made = vec![self.built_in.privileged.clone()];
        for one in &config.authorizers {
            made.push(match Type::parse(&one.kind)? {
                Type::AlwaysAllow => Arc::new(AlwaysAllow),
                Type::AlwaysDeny => Arc::new(AlwaysDeny),
                Type::Node | Type::Rbac if !self.started.contains(&one.kind) => {
                    return Err(format!("authorizer type {} is not allowed if it was not enabled at initial server startup", one.kind));
                }
                Type::Node => self.built_in.node.clone(),
                Type::Rbac => self.built_in.rbac.clone(),
                Type::Webhook => {
                    let webhook = WebhookAuthorizer::open(&one.name, one.webhook.clone().unwrap_or_default(), &self.group).await;
                    Arc::new(webhook.map_err(|why| format!("authorizer {:?}: {why}", one.name))?)
                }
            });
        }
        Ok(made)
    }

    /// Takes a new text of the file.
    pub fn take(self: &Arc<Self>) -> Take {
        let this = self.clone();
        Arc::new(move |text| {
            let this = this.clone();
            Box::pin(async move {
                let config = AuthorizationConfig::parse(&text).map_err(Wrong::Text)?;
                let made = this.made(&config).await.map_err(Wrong::Text)?;
                this.now.store(Arc::new(made));
                Ok(())
            })
        })
    }
}

impl Authorizer for Chain {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.at_once(attributes).decision
    }

    fn at_once(&self, attributes: &Attributes<'_>) -> Verdict {
        // Not a guard: a webhook may be waited for.
        union::verdict_at_once(&self.now.load_full(), attributes)
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> Option<BoxFuture<'a, Verdict>> {
        Some(Box::pin(async move { union::verdict(&self.now.load_full(), attributes).await }))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        union::rules(&self.now.load(), user, namespace)
    }

    fn start(&self, engine: &Arc<Engine>) {
        if self.started.contains("Node") {
            self.built_in.node.start(engine);
        }
        // Who asks what a role allows (`RBACEscalationCheck`) asks in every mode.
        self.built_in.rbac.start(engine);
    }
}

/// `authorizerfactory.NewAlwaysAllowAuthorizer`
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(String::new())
    }

    fn rules(&self, _: &User, _: &str) -> Rules {
        Rules {
            resource: vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
            non_resource: vec![json!({"verbs": ["*"], "nonResourceURLs": ["*"]})],
            ..Rules::default()
        }
    }
}

/// `authorizerfactory.NewAlwaysDenyAuthorizer`: the others are asked all the same.
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".into())
    }
}

#[cfg(test)]
mod tests;
