//! A webhook configuration as it is stored -> its webhooks, ready to be asked: read once per revision.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{GroupResource, Key, selector::Labels};
use apiserver::{
    engine::{Engine, Object, Viewed},
    outbound::{Callee, Resolve},
};
use serde::Deserialize;
use serde_json::Value;

use super::rules::Rule;
use crate::{
    admission::{
        expressions::{Asks, Condition, Environment, Program, Wanted},
        policies::matching::{MatchPolicy, NamedRule},
    },
    common::{selector, webhook::bundle},
    service,
};

/// As upstream where nothing is said (`defaults.go` of admissionregistration v1).
const TIMEOUT_SECONDS: u64 = 10;
const TIMEOUT_SECONDS_MAX: u64 = 30;

/// One configuration object.
pub(super) struct Configuration {
    pub name: String,
    pub hooks: Vec<Hook>,
    bytes: usize,
}

/// One webhook of it.
pub(super) struct Hook {
    pub name: String,
    pub rules: Vec<NamedRule>,
    /// `failurePolicy: Ignore`
    pub ignores_failure: bool,
    /// An error is what is wrong with it; none selects all.
    pub namespaces: Result<Option<Labels>, String>,
    pub objects: Result<Option<Labels>, String>,
    pub side_effects: Option<String>,
    pub timeout: Duration,
    /// Of the AdmissionReview that it understands, the first that we do.
    pub version: Option<&'static str>,
    /// `reinvocationPolicy: IfNeeded`
    pub is_reinvoked: bool,
    pub match_policy: MatchPolicy,
    /// Texts of its match conditions.
    conditions: Vec<String>,
    compiled: OnceLock<Vec<Condition>>,
    client: ClientConfig,
    callee: OnceLock<Result<Arc<Callee>, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    metadata: Metadata,
    webhooks: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredHook {
    name: String,
    client_config: ClientConfig,
    rules: Option<Vec<Rule>>,
    failure_policy: Option<String>,
    namespace_selector: Option<Value>,
    object_selector: Option<Value>,
    side_effects: Option<String>,
    timeout_seconds: Option<u64>,
    admission_review_versions: Option<Vec<String>>,
    reinvocation_policy: Option<String>,
    match_conditions: Option<Vec<StoredCondition>>,
    match_policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StoredCondition {
    expression: String,
}

/// Who is called, of whatever webhook.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConfig {
    url: Option<String>,
    service: Option<ServiceReference>,
    ca_bundle: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct ServiceReference {
    namespace: String,
    name: String,
    path: Option<String>,
    port: Option<u16>,
}

impl Viewed for Configuration {
    fn read(object: &Object) -> Self {
        let stored: Stored = object.part().unwrap_or_default();
        let hooks = stored.webhooks.unwrap_or_default().into_iter().map(Hook::read).collect();
        Self { name: stored.metadata.name, hooks, bytes: object.stored().len() }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Hook {
    /// One that cannot be read (another server's) is about everything, and nobody can be asked: it fails closed.
    fn read(stored: Value) -> Self {
        let name = stored.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        Self::new(serde_json::from_value(stored).unwrap_or_else(|error| {
            tracing::error!(webhook = name, %error, "webhook cannot be read; what it may be about is refused");
            StoredHook { name, rules: Some(vec![Rule::everything()]), ..StoredHook::default() }
        }))
    }

    fn new(stored: StoredHook) -> Self {
        let known = |version: &String| ["v1", "v1beta1"].into_iter().find(|known| known == version);
        let seconds = stored.timeout_seconds.unwrap_or(TIMEOUT_SECONDS).clamp(1, TIMEOUT_SECONDS_MAX);
        Self {
            name: stored.name,
            rules: stored.rules.unwrap_or_default().into_iter().map(NamedRule::of).collect(),
            ignores_failure: stored.failure_policy.as_deref() == Some("Ignore"),
            namespaces: selector::parse(stored.namespace_selector.as_ref()),
            objects: selector::parse(stored.object_selector.as_ref()),
            side_effects: stored.side_effects,
            timeout: Duration::from_secs(seconds),
            version: stored.admission_review_versions.iter().flatten().find_map(known),
            is_reinvoked: stored.reinvocation_policy.as_deref() == Some("IfNeeded"),
            match_policy: MatchPolicy::of(stored.match_policy.as_deref().unwrap_or_default()),
            conditions: stored.match_conditions.unwrap_or_default().into_iter().map(|condition| condition.expression).collect(),
            compiled: OnceLock::new(),
            client: stored.client_config,
            callee: OnceLock::new(),
        }
    }

    /// Its match conditions, compiled when they are first asked for.
    pub fn conditions(&self) -> &[Condition] {
        self.compiled.get_or_init(|| {
            let environment = Environment::new();
            let one = |source: &String| Condition { program: Program::new(&environment, source, Wanted::Bool, Asks::Authorizer) };
            self.conditions.iter().map(one).collect()
        })
    }

    /// Path and query, with how long we wait.
    pub fn path(&self) -> String {
        self.client.path(self.timeout)
    }

    /// # Errors
    /// It names nobody who can be called.
    pub fn callee(&self, engine: &Arc<Engine>) -> Result<Arc<Callee>, String> {
        self.callee.get_or_init(|| self.client.callee(engine).map(Arc::new)).clone()
    }
}

impl ClientConfig {
    /// `WebhookClientConfig` as JSON has it.
    ///
    /// # Errors
    /// It is none.
    pub fn read(config: Value) -> Result<Self, String> {
        serde_json::from_value(config).map_err(|error| error.to_string())
    }

    /// Path and query, with how long we wait.
    pub fn path(&self, timeout: Duration) -> String {
        let path = match (&self.service, &self.url) {
            (Some(service), _) => service.path.clone().unwrap_or_default(),
            (None, Some(url)) => url.parse::<http::Uri>().map(|url| url.path().to_owned()).unwrap_or_default(),
            (None, None) => String::new(),
        };
        format!("/{}?timeout={}s", path.trim_start_matches('/'), timeout.as_secs())
    }

    /// # Errors
    /// It names nobody who can be called.
    pub fn callee(&self, engine: &Arc<Engine>) -> Result<Callee, String> {
        let ca = bundle(self.ca_bundle.as_deref().unwrap_or_default()).map_err(|error| format!("caBundle: {error}"))?;
        if let Some(service) = &self.service {
            let port = service.port.unwrap_or(443);
            let name = format!("{}.{}.svc", service.name, service.namespace);
            return Callee::new(engine.group(), &name, port, &ca, at_service(engine, service, port));
        }
        let url = self.url.as_deref().ok_or("webhook configuration must have either service or URL")?;
        let url: http::Uri = url.parse().map_err(|error| format!("Unparsable URL: {error}"))?;
        let host = url.host().ok_or("Unparsable URL: no host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_u16().unwrap_or(443);
        let named = host.clone();
        let resolve: Resolve = Arc::new(move || {
            let host = named.clone();
            Box::pin(async move { apiserver::connect::addresses(&host, port).await })
        });
        Callee::new(engine.group(), &host, port, &ca, resolve)
    }
}

/// One of the Service's ready endpoints, each time anew.
fn at_service(engine: &Arc<Engine>, reference: &ServiceReference, port: u16) -> Resolve {
    let (engine, key) = (Arc::downgrade(engine), Key::new(&reference.namespace, &reference.name));
    Arc::new(move || {
        let (engine, key) = (engine.clone(), key.clone());
        Box::pin(async move {
            let engine = engine.upgrade().ok_or_else(|| io::Error::other("the server is shutting down"))?;
            let found: Result<SocketAddr, String> = service::resolve::endpoint(&engine, &key, port);
            found.map(|address| vec![address]).map_err(io::Error::other)
        })
    })
}

pub(crate) fn resource(plural: &'static str) -> GroupResource {
    GroupResource::new("admissionregistration.k8s.io", plural)
}
