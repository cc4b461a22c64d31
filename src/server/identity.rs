//! Flags -> the chain that each request passes: who it is, and whether it may.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use api::task::Group;
use apiserver::{
    identity::{Anonymous, Auth, Authenticator},
    jws::Algorithm,
};
use identity::{AuthenticationConfig, BuiltIn, Chain, Jwts, Reload, StaticTokens, TokenWebhook};
use kinds::auth::{Parts, Tokens, parts};

use crate::{
    flags::{AuthenticationFlags, AuthorizationFlags},
    machine::given_file::GivenFile,
};

/// In upstream's order: files of tokens, service accounts and machines that join, issuers of JWTs, the webhook.
///
/// # Errors
/// What is wrong with flags or files.
pub async fn chain(
    authentication: &AuthenticationFlags,
    authorization: &AuthorizationFlags,
    tokens: &Arc<Tokens>,
    group: &Group,
) -> anyhow::Result<Auth> {
    let Parts { authenticators: own, privileged, node, rbac, admission } = parts(tokens);
    let audiences = &tokens.config().audiences;
    let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
    if let Some(file) = &authentication.token_auth_file {
        authenticators.push(Arc::new(StaticTokens::open(file, audiences).map_err(anyhow::Error::msg).context("--token-auth-file")?));
    }
    authenticators.extend(own);
    let (jwts, of_file) = jwts(authentication, tokens, group)?;
    authenticators.extend(jwts);
    if let Some(file) = &authentication.authentication_token_webhook_config_file {
        let (version, ttl) = (&authentication.authentication_token_webhook_version, authentication.authentication_token_webhook_cache_ttl);
        let webhook = TokenWebhook::open(file, version, ttl, audiences, group).await.map_err(anyhow::Error::msg);
        let webhook = webhook.context("--authentication-token-webhook-config-file")?;
        authenticators.push(Arc::new(webhook));
    }
    let anonymous = anonymous(authentication, authorization, of_file)?;
    let (config, text) = authorization.config()?;
    let kinds = config.authorizers.iter().map(|one| one.kind.as_str());
    if text.is_none() && kinds.eq(["Node", "RBAC"]) {
        // All of them answer from memory, and for ever.
        return Ok(Auth { authenticators, authorizers: vec![privileged, node, rbac], admission, anonymous });
    }
    let chain = Chain::new(&config, BuiltIn { privileged, node, rbac }, group).await.map_err(anyhow::Error::msg)?;
    if let (Some(file), Some(text)) = (&authorization.authorization_config, text) {
        group.spawn_loop("authorization configuration", Reload { file: file.clone(), text, take: chain.take() }.follow());
    }
    Ok(Auth { authenticators, authorizers: vec![chain], admission, anonymous })
}

/// Who knows bearers of JWTs, and who comes in as nobody in particular.
type Jwted = (Option<Arc<dyn Authenticator>>, Option<Anonymous>);

/// Those of the file, which is followed, or of the flags; and what the file says of nobody in particular.
fn jwts(flags: &AuthenticationFlags, tokens: &Tokens, group: &Group) -> anyhow::Result<Jwted> {
    let (audiences, issuers) = (&tokens.config().audiences, &tokens.config().issuers);
    let made = |config: &AuthenticationConfig, algorithms: &[Algorithm]| {
        Jwts::new(config, algorithms, audiences, issuers, group).map_err(anyhow::Error::msg)
    };
    if let Some((config, algorithms)) = flags.oidc(issuers)? {
        let jwts = made(&config, &algorithms)?;
        return Ok((Some(jwts), None));
    }
    let Some(file) = &flags.authentication_config else { return Ok((None, None)) };
    let text = GivenFile::new("--authentication-config", file).text()?;
    let config = AuthenticationConfig::parse(&text, issuers);
    let config = config.map_err(|why| anyhow!("invalid authentication configuration {}: {why}", file.display()))?;
    let (jwts, anonymous) = (made(&config, &Algorithm::ALL)?, config.anonymous());
    group.spawn_loop("authentication configuration", Reload { file: file.clone(), text, take: jwts.take() }.follow());
    Ok((Some(jwts), anonymous))
}

fn anonymous(flags: &AuthenticationFlags, authorization: &AuthorizationFlags, of_file: Option<Anonymous>) -> anyhow::Result<Anonymous> {
    if of_file.is_some() && flags.anonymous_auth.is_some() {
        return Err(anyhow!(
            "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
        ));
    }
    let allowed = flags.anonymous_auth.unwrap_or(true);
    let of_flag = if allowed { Anonymous::Everywhere } else { Anonymous::Nowhere };
    if authorization.allows_all() && of_file.is_none() && allowed {
        tracing::warn!(
            "AnonymousAuth is not allowed with the AlwaysAllow authorizer. Resetting AnonymousAuth to false. You should use a different authorizer"
        );
        return Ok(Anonymous::Nowhere);
    }
    Ok(of_file.unwrap_or(of_flag))
}
