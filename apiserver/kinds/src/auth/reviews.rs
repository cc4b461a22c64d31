//! Questions about identity and rights -> answers: kinds that are kept nowhere.
//!
//! Source: `pkg/registry/{authentication,authorization}`, `pkg/apis/authorization/validation`.

use std::{borrow::Cow, sync::Arc};

use api::{
    Status,
    field_errors::FieldErrors,
    selector::{FieldTerm, Fields, Labels, Op, Requirement},
    time::{Timestamp, rfc3339},
};
use apiserver::{
    identity::{Attributes, Decision, Known, User},
    kind::{Ctx, Kind, Scope, Storage, Strategy, names},
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::common::{self, Read, read};

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// All reviews.
pub fn kinds() -> Vec<Arc<Kind>> {
    vec![
        review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", Scope::Cluster, SelfSubjectReview),
        review(AUTHENTICATION, "TokenReview", "tokenreviews", Scope::Cluster, TokenReview),
        review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews", Scope::Namespaced, AccessReview::Local),
        review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", Scope::Cluster, AccessReview::Own),
        review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", Scope::Cluster, SelfSubjectRulesReview),
        review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", Scope::Cluster, AccessReview::Any),
    ]
}

fn review(group: &'static str, name: &'static str, plural: &'static str, scope: Scope, strategy: impl Strategy + 'static) -> Arc<Kind> {
    let package = if group == AUTHENTICATION { "io.k8s.api.authentication.v1" } else { "io.k8s.api.authorization.v1" };
    Arc::new(Kind {
        scope,
        verbs: names(&["create"]),
        storage: Storage::Nowhere,
        ..common::kind(group, "v1", name, plural, package, strategy)
    })
}

struct SelfSubjectReview;

#[async_trait]
impl Strategy for SelfSubjectReview {
    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    async fn answer(&self, ctx: &Ctx<'_>, mut object: Value) -> Result<Value, Status> {
        object["metadata"] = json!({"creationTimestamp": rfc3339(ctx.now)});
        object["status"] = json!({"userInfo": user_info(ctx.user)});
        Ok(object)
    }
}

struct TokenReview;

#[async_trait]
impl Strategy for TokenReview {
    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    async fn answer(&self, ctx: &Ctx<'_>, mut object: Value) -> Result<Value, Status> {
        let token = object.at("spec").text("token").to_owned();
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences: Vec<String> = object.at("spec").list("audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
        object["status"] = self.verdict(ctx, &token, &audiences).await;
        Ok(object)
    }
}

impl TokenReview {
    async fn verdict(&self, ctx: &Ctx<'_>, token: &str, audiences: &[String]) -> Value {
        let mut errors = vec!["invalid bearer token".to_owned()];
        for authenticator in &ctx.engine.auth().authenticators {
            match authenticator.token(ctx.engine, token, audiences).await {
                Ok(None) => {}
                Ok(Some(known)) => return accepted(known),
                Err(status) => errors.push(status.message),
            }
        }
        let mut status = json!({"user": {}});
        match errors.len() {
            1 => status["error"] = errors.remove(0).into(),
            _ => status["error"] = format!("[{}]", errors.join(", ")).into(),
        }
        status
    }
}

/// How much a SubjectAccessReview may ask about.
enum AccessReview {
    Any,
    /// Of its own namespace only.
    Local,
    /// Of the asker only.
    Own,
}

#[async_trait]
impl Strategy for AccessReview {
    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    fn validate(&self, object: &Value, causes: &mut FieldErrors) {
        let spec = object.at("spec");
        let (resource, path) = (spec.at("resourceAttributes"), spec.at("nonResourceAttributes"));
        if let (Some(_), Some(path)) = (resource, path) {
            causes.invalid("spec.nonResourceAttributes", internal_path(path), "cannot be specified in combination with resourceAttributes");
        }
        if resource.is_none() && path.is_none() {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            causes.invalid("spec.resourceAttributes", Value::Null, why);
        }
        if !matches!(self, Self::Own) && spec.text("user").is_empty() && spec.list("groups").is_empty() {
            causes.invalid("spec.user", "", "at least one of user or group must be specified");
        }
        metadata_causes(object, matches!(self, Self::Local), causes);
        for selector in ["fieldSelector", "labelSelector"] {
            selector_causes(resource.at(selector), &format!("spec.resourceAttributes.{selector}"), causes);
        }
        if matches!(self, Self::Local) {
            local_causes(object, resource, path, causes);
        }
    }

    async fn answer(&self, ctx: &Ctx<'_>, mut object: Value) -> Result<Value, Status> {
        let spec = object.at("spec");
        let user = if matches!(self, Self::Own) { Cow::Borrowed(ctx.user) } else { Cow::Owned(asked_user(spec)) };
        let resource = spec.at("resourceAttributes");
        let (fields, labels) = (fields(resource.at("fieldSelector")), labels(resource.at("labelSelector")));
        let labels = Some(&labels).filter(|labels| !labels.is_empty());
        let verdict = ctx.engine.verdict(&Attributes { fields: Some(&fields), labels, ..attributes(spec, &user) }).await;
        let mut status = Map::new();
        status.insert("allowed".into(), verdict.is_allowed().into());
        if matches!(verdict.decision, Decision::Deny(_)) {
            status.insert("denied".into(), true.into());
        }
        if !verdict.reason().is_empty() {
            status.insert("reason".into(), verdict.reason().into());
        }
        if !verdict.error.is_empty() {
            status.insert("evaluationError".into(), verdict.error.into());
        }
        object["status"] = Value::Object(status);
        Ok(object)
    }
}

/// What is asked has no name or labels; of a namespace's own review its namespace is known.
fn metadata_causes(object: &Value, is_local: bool, causes: &mut FieldErrors) {
    let mut metadata = object.object("metadata").cloned().unwrap_or_default();
    let known = ["creationTimestamp", "managedFields"].into_iter().chain(is_local.then_some("namespace"));
    known.for_each(|name| drop(metadata.shift_remove(name)));
    metadata.retain(|_, value| !value.is_null());
    if !metadata.is_empty() {
        let why = if is_local { "must be empty except for namespace" } else { "must be empty" };
        causes.invalid("metadata", Value::Object(metadata), why);
    }
}

/// As upstream's internal type is written.
fn internal_path(attributes: &Value) -> Value {
    json!({"Path": attributes.text("path"), "Verb": attributes.text("verb")})
}

struct SelfSubjectRulesReview;

#[async_trait]
impl Strategy for SelfSubjectRulesReview {
    fn cells(&self, _: &Value, _: Timestamp) -> Vec<Value> {
        Vec::new()
    }

    async fn answer(&self, ctx: &Ctx<'_>, mut object: Value) -> Result<Value, Status> {
        let namespace = object.at("spec").text("namespace").to_owned();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let rules = ctx.engine.rules(ctx.user, &namespace);
        // Upstream answers with an object of its own.
        object["metadata"] = json!({});
        object["spec"] = json!({});
        object["status"] = json!({"resourceRules": Value::Null, "nonResourceRules": Value::Null, "incomplete": rules.incomplete});
        // Moved: `json!` copies.
        object["status"]["resourceRules"] = Value::Array(rules.resource);
        object["status"]["nonResourceRules"] = Value::Array(rules.non_resource);
        if !rules.error.is_empty() {
            object["status"]["evaluationError"] = rules.error.into();
        }
        Ok(object)
    }
}

fn accepted(known: Known) -> Value {
    json!({"authenticated": true, "user": user_info(&User::authenticated(known.user)), "audiences": known.audiences})
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        info["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn asked_user(spec: Option<&Value>) -> User {
    let words = |v: &[Value]| v.iter().filter_map(|g| g.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let extra = spec.object("extra").into_iter().flatten();
    User {
        name: spec.text("user").into(),
        uid: spec.text("uid").into(),
        groups: words(spec.list("groups")),
        extra: extra.map(|(k, v)| (k.to_lowercase(), words(v.as_array().map_or(&[], Vec::as_slice)))).collect(),
    }
}

fn attributes<'a>(spec: Option<&'a Value>, user: &'a User) -> Attributes<'a> {
    if let Some(path) = spec.at("nonResourceAttributes") {
        return Attributes { user, verb: path.text("verb"), path: path.text("path"), ..Attributes::default() };
    }
    let r = spec.at("resourceAttributes");
    let version = Some(r.text("version")).filter(|v| !v.is_empty()).unwrap_or("*");
    Attributes {
        user,
        verb: r.text("verb"),
        resource_request: true,
        group: r.text("group"),
        version,
        resource: r.text("resource"),
        subresource: r.text("subresource"),
        namespace: r.text("namespace"),
        name: r.text("name"),
        ..Attributes::default()
    }
}

/// The raw selector, or its requirements; what cannot be read of them is left out, which only asks for more.
fn fields(selector: Option<&Value>) -> Fields {
    let raw = selector.text("rawSelector");
    if !raw.is_empty() {
        return Fields::parse(raw).unwrap_or_default();
    }
    let terms = selector.list("requirements").iter().filter_map(|requirement| {
        let equal = match requirement.text("operator") {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        let [Value::String(value)] = requirement.list("values") else { return None };
        Some(FieldTerm { field: requirement.text("key").to_owned(), equal, value: value.clone() })
    });
    Fields(terms.collect())
}

/// The same of labels.
fn labels(selector: Option<&Value>) -> Labels {
    let raw = selector.text("rawSelector");
    if !raw.is_empty() {
        return Labels::parse(raw).unwrap_or_default();
    }
    let terms = selector.list("requirements").iter().filter_map(|requirement| {
        let mut values: Vec<String> = requirement.list("values").iter().filter_map(|value| value.as_str().map(str::to_owned)).collect();
        values.sort();
        let op = match (requirement.text("operator"), values.is_empty()) {
            ("In", false) => Op::In,
            ("NotIn", false) => Op::NotIn,
            ("Exists", true) => Op::Exists,
            ("DoesNotExist", true) => Op::DoesNotExist,
            _ => return None,
        };
        Some(Requirement { key: requirement.text("key").to_owned(), op, values })
    });
    Labels(terms.collect())
}

fn selector_causes(selector: Option<&Value>, path: &str, causes: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    let (raw, requirements) = (selector.text("rawSelector"), selector.list("requirements"));
    if !raw.is_empty() && !requirements.is_empty() {
        causes.invalid(format!("{path}.rawSelector"), raw, "may not specified at the same time as requirements");
    }
    if raw.is_empty() && requirements.is_empty() {
        causes.required(format!("{path}.requirements"), &format!("when {path} is specified, requirements or rawSelector is required"));
    }
}

fn local_causes(object: &Value, resource: Option<&Value>, path: Option<&Value>, causes: &mut FieldErrors) {
    let asked = resource.text("namespace");
    if resource.is_some() && asked != read::namespace(object) {
        causes.invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace");
    }
    if let Some(path) = path {
        causes.invalid("spec.nonResourceAttributes", internal_path(path), "disallowed on this kind of request");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(strategy: &AccessReview, object: Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        strategy.validate(&object, &mut causes);
        causes.0.iter().map(api::field_errors::FieldError::text).collect()
    }

    #[test]
    fn wrong_questions_are_refused_in_upstreams_words() {
        let good = json!({"spec": {"user": "jane", "resourceAttributes": {"verb": "get"}}});
        assert!(texts(&AccessReview::Any, good).is_empty());
        assert_eq!(
            texts(&AccessReview::Any, json!({"spec": {}})),
            [
                "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified"
            ]
        );
        let both = json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}});
        assert_eq!(texts(&AccessReview::Own, both).len(), 1);
        let elsewhere = json!({"metadata": {"namespace": "a"}, "spec": {"user": "x", "resourceAttributes": {"namespace": "b"}}});
        assert_eq!(
            texts(&AccessReview::Local, elsewhere),
            ["spec.resourceAttributes.namespace: Invalid value: \"b\": must match metadata.namespace"]
        );
    }

    #[test]
    fn a_question_becomes_attributes() {
        let spec = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}]}}});
        let nobody = User::default();
        let asked = attributes(Some(&spec), &nobody);
        assert!(asked.resource_request);
        assert_eq!(asked.version, "*");
        assert_eq!(fields(spec.get("resourceAttributes").at("fieldSelector")), Fields::one("spec.nodeName", "n"));
        let two = json!({"requirements": [{"key": "a", "operator": "In", "values": ["n,b=c"]}, {"key": "d", "operator": "In", "values": ["x", "y"]}]});
        assert_eq!(fields(Some(&two)), Fields::one("a", "n,b=c"), "a value is a value, and of several nothing is known");
        assert_eq!(fields(Some(&json!({"rawSelector": "a"}))), Fields::default());
        let spec = json!({"nonResourceAttributes": {"verb": "get", "path": "/x"}});
        let path = attributes(Some(&spec), &nobody);
        assert!(!path.resource_request && path.path == "/x");
    }
}
