//! TokenRequest -> a token for a service account: the `token` subresource.
//!
//! Source: `pkg/registry/core/serviceaccount/storage/token.go`.

use std::sync::Arc;

use api::{
    GroupResource, Gvk, Key, Status,
    field_errors::FieldErrors,
    time::{Timestamp, rfc3339},
};
use apiserver::{
    engine::Object,
    kind::{Action, Ctx, Handler, Subresource, names},
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    audiences::Audiences,
    tokens::{Bound, Claims, Reference, Tokens, TokensConfig},
};
use crate::common::{Read, edit, read};

/// A token lives this long where the asker does not say.
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// What the node's agent asks for pods: old clients may read their file once only, so such a token lives for a year and is
/// marked to be renewed (`WarnOnlyBoundTokenExpirationSeconds`).
const PROJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// The `token` subresource of service accounts.
pub fn subresource(tokens: &Arc<Tokens>) -> Subresource {
    Subresource {
        name: "token".into(),
        body: Gvk::new("authentication.k8s.io", "v1", "TokenRequest"),
        schema: crate::schema::built_in("io.k8s.api.authentication.v1.TokenRequest".into()),
        verbs: names(&["create"]),
        handler: Handler::Action(Arc::new(TokenRequest(tokens.clone()))),
    }
}

struct TokenRequest(Arc<Tokens>);

#[async_trait]
impl Action for TokenRequest {
    fn default(&self, body: &mut Value) {
        set_defaults(body);
    }

    async fn run(&self, ctx: &Ctx<'_>, mut body: Value) -> Result<(u16, Value), Status> {
        matches_url(&body, ctx)?;
        let account = get(ctx, "serviceaccounts", ctx.namespace, ctx.name).await?;
        same_uid(&body, &account, ctx)?;
        let config = self.0.config();
        let mut spec = Spec::read(&body, &config.audiences);
        spec.validate()?;
        let bound = self.bind(ctx, body.at("spec").at("boundObjectRef"), &account).await?;
        if let Some(max) = config.seconds_max.filter(|max| spec.seconds > *max) {
            ctx.warn(vec![format!("requested expiration of {} seconds shortened to {max} seconds", spec.seconds)]);
            spec.seconds = max;
        }
        let claims = claims(&spec, bound, config, ctx, uuid::Uuid::new_v4().to_string());
        let token = self.0.sign(&claims)?;
        ctx.annotate("authentication.kubernetes.io/issued-credential-id", format!("JTI={}", claims.jti));
        body["apiVersion"] = "authentication.k8s.io/v1".into();
        body["kind"] = "TokenRequest".into();
        let fields = body.at("metadata").at("managedFields").cloned();
        body["metadata"] = json!({
            "name": ctx.name, "namespace": ctx.namespace, "uid": account.uid(), "creationTimestamp": rfc3339(ctx.now),
        });
        if let Some(fields) = fields {
            body["metadata"]["managedFields"] = fields;
        }
        body["spec"]["audiences"] = json!(spec.audiences);
        body["spec"]["expirationSeconds"] = spec.seconds.into();
        if body["spec"].get("boundObjectRef").is_none() {
            body["spec"]["boundObjectRef"] = Value::Null;
        }
        let expires = Timestamp::from_second(ctx.now.as_second() + spec.seconds).unwrap_or(Timestamp::MAX);
        body["status"] = json!({"token": token, "expirationTimestamp": rfc3339(expires)});
        Ok((201, body))
    }
}

impl TokenRequest {
    async fn bind(&self, ctx: &Ctx<'_>, reference: Option<&Value>, account: &Object) -> Result<Bound, Status> {
        let mut bound = Bound {
            namespace: ctx.namespace.into(),
            serviceaccount: Reference { name: ctx.name.into(), uid: account.uid().to_owned() },
            ..Bound::default()
        };
        let Some(reference) = reference else { return Ok(bound) };
        let (kind, name, version) = (reference.text("kind"), reference.text("name"), reference.text("apiVersion"));
        let found = match (version.split_once('/'), kind) {
            (None, "Pod") => {
                let pod = get(ctx, "pods", ctx.namespace, name).await?;
                bound.node = node_of(ctx, &pod)?;
                pod
            }
            (None, "Node") => get(ctx, "nodes", "", name).await?,
            (None, "Secret") => get(ctx, "secrets", ctx.namespace, name).await?,
            _ => {
                let (group, version) = version.split_once('/').unwrap_or(("", version));
                let shown = format!("{group}/{version}, Kind={kind}");
                return Err(Status::bad_request(format!("cannot bind token to object of type {shown}")));
            }
        };
        let (wanted, uid) = (reference.text("uid"), found.uid().to_owned());
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Status::conflict(&GroupResource::new("", kind), name, &why));
        }
        let target = Some(Reference { name: name.into(), uid });
        match kind {
            "Pod" => bound.pod = target,
            "Node" => bound.node = target,
            _ => bound.secret = target,
        }
        Ok(bound)
    }
}

/// `SetDefaults_TokenRequestSpec`
fn set_defaults(body: &mut Value) {
    if let Some(spec) = edit::make_child(body, "spec") {
        edit::default_to(spec, "expirationSeconds", DEFAULT_SECONDS);
    }
}

/// What was asked for, with defaults.
struct Spec {
    audiences: Vec<String>,
    seconds: i64,
    /// True where all audiences are the API server's own.
    own: bool,
}

impl Spec {
    fn read(body: &Value, own: &[String]) -> Self {
        let spec = body.at("spec");
        let mut audiences: Vec<String> = spec.list("audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences = own.to_vec();
        }
        let own = audiences.iter().all(|audience| own.contains(audience));
        Self { audiences, seconds: spec.int("expirationSeconds").unwrap_or(DEFAULT_SECONDS), own }
    }

    fn validate(&self) -> Result<(), Status> {
        let mut causes = FieldErrors::default();
        if self.seconds < MIN_SECONDS {
            causes.invalid("spec.expirationSeconds", self.seconds, "may not specify a duration less than 10 minutes");
        }
        if self.seconds > MAX_SECONDS {
            causes.invalid("spec.expirationSeconds", self.seconds, "may not specify a duration larger than 2^32 seconds");
        }
        invalid_unless_empty(&causes, "")
    }
}

fn claims(spec: &Spec, mut bound: Bound, config: &TokensConfig, ctx: &Ctx<'_>, id: String) -> Claims {
    let now = ctx.now.as_second();
    let mut lives = spec.seconds;
    if config.extends && bound.pod.is_some() && spec.seconds == PROJECTED_SECONDS && spec.own {
        bound.warnafter = Some(now + spec.seconds);
        lives = EXTENDED_SECONDS;
    }
    Claims {
        aud: Audiences(spec.audiences.clone()),
        exp: now + lives,
        iat: now,
        iss: config.issuers.first().cloned().unwrap_or_default(),
        jti: id,
        sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
        bound,
        nbf: now,
    }
}

/// Where the pod runs; it must run as this account.
fn node_of(ctx: &Ctx<'_>, pod: &Object) -> Result<Option<Reference>, Status> {
    let value = pod.value();
    if value.at("spec").text("serviceAccountName") != ctx.name {
        let name = ctx.name;
        let why = format!("cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name.");
        return Err(Status::bad_request(why));
    }
    let node = value.at("spec").text("nodeName");
    if node.is_empty() {
        return Ok(None);
    }
    let uid = ctx.engine.cached(&GroupResource::new("", "nodes"), &Key::new("", node)).map(|n| n.uid().to_owned());
    Ok(Some(Reference { name: node.into(), uid: uid.unwrap_or_default() }))
}

/// A name or namespace in the body must be the URL's.
fn matches_url(body: &Value, ctx: &Ctx<'_>) -> Result<(), Status> {
    let mut causes = FieldErrors::default();
    let (name, namespace) = (read::name(body), read::namespace(body));
    if !name.is_empty() && name != ctx.name {
        causes.invalid("metadata.name", name, "must match the service account name if specified");
    } else if !namespace.is_empty() && namespace != ctx.namespace {
        causes.invalid("metadata.namespace", namespace, "must match the service account namespace if specified");
    }
    invalid_unless_empty(&causes, ctx.name)
}

fn same_uid(body: &Value, account: &Object, ctx: &Ctx<'_>) -> Result<(), Status> {
    let (asked, real) = (read::text_at(body, "/metadata/uid"), account.uid());
    if asked.is_empty() || asked == real {
        return Ok(());
    }
    let why = format!("the UID in the token request ({asked}) does not match the UID of the service account ({real})");
    Err(Status::conflict(&GroupResource::new("authentication.k8s.io", "TokenRequest"), ctx.name, &why))
}

fn invalid_unless_empty(causes: &FieldErrors, name: &str) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&Gvk::new("authentication.k8s.io", "v1", "TokenRequest"), name, causes))
}

async fn get(ctx: &Ctx<'_>, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
    ctx.engine.get(&GroupResource::new("", resource), &Key::new(namespace, name)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_say_how_long_asks_for_an_hour() {
        for (body, seconds) in
            [(json!({}), DEFAULT_SECONDS), (json!({"spec": null}), DEFAULT_SECONDS), (json!({"spec": {"expirationSeconds": 7}}), 7)]
        {
            let mut defaulted = body.clone();
            set_defaults(&mut defaulted);
            assert_eq!(defaulted["spec"]["expirationSeconds"], seconds, "{body}");
        }
    }

    #[test]
    fn lifetimes_have_bounds() {
        let spec = |seconds: i64| Spec::read(&json!({"spec": {"expirationSeconds": seconds}}), &["iss".into()]).validate();
        assert!(spec(600).is_ok());
        let short = spec(599).unwrap_err();
        assert_eq!(short.code, 422);
        assert_eq!(
            short.message,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes"
        );
        assert!(spec(MAX_SECONDS + 1).unwrap_err().message.contains("2^32"));
        assert_eq!(Spec::read(&json!({}), &["iss".into()]).seconds, DEFAULT_SECONDS);
        assert_eq!(Spec::read(&json!({}), &["iss".into()]).audiences, ["iss"]);
    }
}
