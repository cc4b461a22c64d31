//! A question -> a SubjectAccessReview that somebody outside answers. Source: apiserver `plugin/pkg/authorizer/webhook/webhook.go`.

use std::{sync::Arc, time::Duration};

use api::{
    selector::{Labels, Op},
    task::Group,
};
use apiserver::identity::{Attributes, Authorizer, Decision, Rules, User, Verdict};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::block_in_place,
};

use crate::{
    cache::Answers,
    expressions::{About, Makes, Program},
    remote::Remote,
    token_webhook::or_default,
    webhook_config::WebhookConfig,
};

/// Of what who asks chooses: what is longer is not kept (`maxControlledAttrCacheSize`).
const KEPT_BYTES_MAX: usize = 10_000;
/// How long one request waits, attempts and all.
const WAIT_BOUND: Duration = Duration::from_secs(30);
/// Questions that are asked at once by threads that wait for them, as validation does: fewer than there are threads.
const THREADS_MAX: usize = 16;
static AT_ONCE: Semaphore = Semaphore::const_new(THREADS_MAX);

/// One webhook.
pub struct WebhookAuthorizer {
    name: String,
    config: WebhookConfig,
    remote: Arc<Remote>,
    conditions: Vec<Program>,
    answers: Answers<Result<Answer, String>>,
}

/// `SubjectAccessReviewStatus`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    #[serde(deserialize_with = "or_default")]
    allowed: bool,
    #[serde(deserialize_with = "or_default")]
    denied: bool,
    #[serde(deserialize_with = "or_default")]
    reason: String,
}

#[derive(Deserialize)]
struct Review {
    status: Option<Answer>,
}

impl WebhookAuthorizer {
    /// `config` is valid; `name` is for the log.
    ///
    /// # Errors
    /// What is wrong with its kubeconfig.
    pub async fn open(name: &str, config: WebhookConfig, group: &Group) -> Result<Self, String> {
        let file = config.connection_info.kube_config_file.clone().unwrap_or_default();
        let remote = Arc::new(Remote::of_kubeconfig(file.as_ref(), group).await?);
        let compiled = config.match_conditions.iter().map(|one| Program::compile(&one.expression, About::Request, Makes::Bool));
        Ok(Self { name: name.to_owned(), conditions: compiled.collect::<Result<_, _>>()?, config, remote, answers: Answers::new(group) })
    }

    async fn verdict(&self, attributes: &Attributes<'_>) -> Verdict {
        let spec = spec(attributes);
        match self.matches(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()).into(),
            Err(error) => return self.failed(error),
        }
        let asked = self.answers.asked([spec.to_string().as_bytes()]);
        let is_kept = chosen_bytes(attributes) < KEPT_BYTES_MAX;
        let (allowed, refused) = (self.config.ttl(true), self.config.ttl(false));
        let keep = move |answer: &Result<Answer, String>| match answer {
            Ok(answer) if is_kept => {
                if answer.allowed {
                    allowed
                } else {
                    refused
                }
            }
            _ => Duration::ZERO,
        };
        let answer = self.answers.get(asked, keep, self.review(spec)).await;
        match answer.unwrap_or_else(|lost| Err(lost.to_string())) {
            Err(error) => self.failed(error),
            Ok(Answer { denied: true, allowed, reason }) => {
                let error = if allowed { "webhook subject access review returned both allow and deny response" } else { "" };
                Verdict { decision: Decision::Deny(reason), error: error.into() }
            }
            Ok(Answer { allowed: true, reason, .. }) => Decision::Allow(reason).into(),
            Ok(Answer { reason, .. }) => Decision::NoOpinion(reason).into(),
        }
    }

    /// By the failure policy.
    fn failed(&self, error: String) -> Verdict {
        let decision =
            if self.config.failure_policy == "Deny" { Decision::Deny(String::new()) } else { Decision::NoOpinion(String::new()) };
        Verdict { decision, error }
    }

    /// Needs nobody to wait for it.
    fn review(&self, spec: Value) -> impl Future<Output = Result<Answer, String>> + Send + use<> {
        let version = &self.config.subject_access_review_version;
        let mut review = json!({
            "apiVersion": format!("authorization.k8s.io/{version}"), "kind": "SubjectAccessReview", "metadata": {"creationTimestamp": null},
            "spec": null, "status": {"allowed": false},
        });
        review["spec"] = spec;
        if version == "v1beta1"
            && let Some(groups) = review["spec"].as_object_mut().and_then(|spec| spec.shift_remove("groups"))
        {
            review["spec"]["group"] = groups;
        }
        let bound = if self.config.timeout.is_zero() { WAIT_BOUND } else { self.config.timeout };
        let (name, remote) = (self.name.clone(), self.remote.clone());
        async move {
            let answered = remote.post(&review, bound, WAIT_BOUND).await.map_err(|error| {
                tracing::error!(authorizer = name, url = remote.url(), %error, "failed to make webhook authorizer request");
                error.why
            })?;
            let review: Review = serde_json::from_value(answered).map_err(|error| error.to_string())?;
            Ok(review.status.unwrap_or_default())
        }
    }

    /// Whether it is asked about this. One condition that does not hold is enough; errors count where none says no (`CELMatcher.Eval`).
    fn matches(&self, spec: &Value) -> Result<bool, String> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let about = completed(spec);
        let mut errors = Vec::new();
        for condition in &self.conditions {
            match condition.run(&about) {
                Ok(Value::Bool(true)) => {}
                Ok(_) => return Ok(false),
                Err(error) => errors.push(format!("cel evaluation error: {error}")),
            }
        }
        if errors.is_empty() { Ok(true) } else { Err(apiserver::union::aggregated(errors)) }
    }
}

impl Authorizer for WebhookAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.at_once(attributes).decision
    }

    fn at_once(&self, attributes: &Attributes<'_>) -> Verdict {
        let handle = Handle::current();
        if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
            // Nobody else would run meanwhile.
            return self.failed("the authorization webhook cannot be waited for".into());
        }
        // A thread that waits here drives no connection: were all of them here, no answer would ever be read.
        let Ok(_place) = AT_ONCE.try_acquire() else {
            return self.failed("too many questions wait for the authorization webhook".into());
        };
        block_in_place(|| handle.block_on(self.verdict(attributes)))
    }

    fn ask<'a>(&'a self, attributes: &'a Attributes<'a>) -> Option<BoxFuture<'a, Verdict>> {
        Some(Box::pin(self.verdict(attributes)))
    }

    fn rules(&self, _: &User, _: &str) -> Rules {
        Rules { incomplete: true, error: "webhook authorizer does not support user rule resolution".into(), ..Rules::default() }
    }
}

fn chosen_bytes(a: &Attributes<'_>) -> usize {
    [a.namespace, a.verb, a.group, a.version, a.resource, a.subresource, a.name, a.path].into_iter().map(str::len).sum()
}

/// `SubjectAccessReviewSpec`; what is empty is left out.
fn spec(a: &Attributes<'_>) -> Value {
    let mut out = Map::new();
    if a.resource_request {
        let texts = [
            ("namespace", a.namespace),
            ("verb", a.verb),
            ("group", a.group),
            ("version", a.version),
            ("resource", a.resource),
            ("subresource", a.subresource),
            ("name", a.name),
        ];
        let mut resource: Map<String, Value> =
            texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name.to_owned(), text.into())).collect();
        let fields: Vec<Value> = a.fields.map_or(&[][..], |fields| &fields.0).iter().map(field).collect();
        for (name, requirements) in [("fieldSelector", fields), ("labelSelector", a.labels.map(labels).unwrap_or_default())] {
            if !requirements.is_empty() {
                resource.insert(name.into(), json!({"requirements": requirements}));
            }
        }
        out.insert("resourceAttributes".into(), Value::Object(resource));
    } else {
        out.insert("nonResourceAttributes".into(), json!({"path": a.path, "verb": a.verb}));
    }
    for (name, text) in [("user", &a.user.name), ("uid", &a.user.uid)] {
        if !text.is_empty() {
            out.insert(name.into(), text.as_str().into());
        }
    }
    if !a.user.groups.is_empty() {
        out.insert("groups".into(), json!(a.user.groups));
    }
    if !a.user.extra.is_empty() {
        out.insert("extra".into(), json!(a.user.extra));
    }
    Value::Object(out)
}

fn field(term: &api::selector::FieldTerm) -> Value {
    json!({"key": term.field, "operator": if term.equal { "In" } else { "NotIn" }, "values": [term.value]})
}

/// What cannot be said is left out: it only asks for more.
fn labels(labels: &Labels) -> Vec<Value> {
    let one = |requirement: &api::selector::Requirement| {
        let operator = match requirement.op {
            Op::In => "In",
            Op::NotIn => "NotIn",
            Op::Exists => "Exists",
            Op::DoesNotExist => "DoesNotExist",
            Op::Gt | Op::Lt => return None,
        };
        let mut out = json!({"key": requirement.key, "operator": operator});
        if !requirement.values.is_empty() {
            out["values"] = json!(requirement.values);
        }
        Some(out)
    };
    labels.0.iter().filter_map(one).collect()
}

/// As conditions see it: with all of its texts (`convertObjectToUnstructured`).
fn completed(spec: &Value) -> Value {
    let mut about = spec.clone();
    let complete = |object: &mut Value, names: &[&str], empty: &Value| {
        if let Some(map) = object.as_object_mut() {
            for name in names {
                map.entry(*name).or_insert_with(|| empty.clone());
            }
        }
    };
    complete(&mut about, &["user", "uid"], &"".into());
    complete(&mut about, &["groups"], &json!([]));
    complete(&mut about, &["extra"], &json!({}));
    if let Some(resource) = about.get_mut("resourceAttributes") {
        complete(resource, &["namespace", "verb", "group", "version", "resource", "subresource", "name"], &"".into());
    }
    about
}
