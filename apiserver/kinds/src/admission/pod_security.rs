//! A pod, or what makes pods -> held to the level that its namespace is labelled with. Source: `pod-security-admission/admission/admission.go`.
//!
//! Nothing of a namespace is parsed: its labels stand in the head of the cached object.

mod checks;
mod policy;

use std::collections::{BTreeMap, HashSet};

use api::{GroupResource, Key, Status, field_errors::FieldErrors};
use apiserver::{
    engine::Object,
    identity::{Admission, Operation, Review},
    pace::{LOOK_BYTES, Turn},
};
use async_trait::async_trait;
use serde_json::Value;

use self::{
    checks::{Findings, Pod},
    policy::{Level, LevelVersion, Policy},
};
use super::{is, writes};
use crate::common::{Read, name_rules, read};

/// Existing pods that are looked at when a namespace becomes stricter (`defaultNamespaceMaxPodsToCheck`).
const PODS_MAX: usize = 3000;
/// Subresources of pods that change nothing of what the levels are about.
const IGNORED: &[&str] = &["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];
/// What makes pods, and where its template stands.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

/// What holds where a namespace's labels say nothing, and who is not held to anything.
#[derive(Default)]
pub struct PodSecurity {
    defaults: Policy,
    namespaces: HashSet<String>,
    users: HashSet<String>,
    runtime_classes: HashSet<String>,
}

impl PodSecurity {
    /// `PodSecurityConfiguration`.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn configured(config: Option<&Value>) -> Result<Self, String> {
        let mut causes = FieldErrors::default();
        let defaults = Policy::configured(config.at("defaults"), &mut causes);
        let exemptions = config.at("exemptions");
        let mut exempt = |field: &str, rule: fn(&str) -> Vec<String>| {
            let at = format!("exemptions.{field}");
            let mut out = HashSet::new();
            for (i, name) in exemptions.list(field).iter().filter_map(Value::as_str).enumerate() {
                let (at, wrong) = (format!("{at}[{i}]"), rule(name));
                if !wrong.is_empty() {
                    causes.invalid(at, name, &wrong.join(", "));
                } else if !out.insert(name.to_owned()) {
                    causes.duplicate(at, name);
                }
            }
            out
        };
        let named = |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
        let namespaces = exempt("namespaces", name_rules::dns_label);
        let runtime_classes = exempt("runtimeClasses", name_rules::dns_subdomain);
        let users = exempt("usernames", named);
        let told: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        if told.is_empty() { Ok(Self { defaults, namespaces, users, runtime_classes }) } else { Err(told.join(", ")) }
    }

    /// Why nobody looks at what is written, as audit tells it.
    fn exempt(&self, review: &Review<'_>) -> Option<&'static str> {
        let is_namespace = self.namespaces.contains(review.ctx.namespace);
        is_namespace.then_some("namespace").or_else(|| self.users.contains(&review.ctx.user.name).then_some("user"))
    }

    fn exempts_class(&self, spec: Option<&Value>) -> bool {
        self.runtime_classes.contains(spec.text("runtimeClassName"))
    }
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, review: &Review<'_>) -> Result<(), Status> {
        let Some(object) = review.object.as_deref().filter(|_| writes(review)) else { return Ok(()) };
        if is(review, "", "namespaces") {
            return if review.ctx.subresource.is_empty() { self.namespace(review, object).await } else { Ok(()) };
        }
        if is(review, "", "pods") {
            let is_ignored = IGNORED.contains(&review.ctx.subresource);
            return if is_ignored || review.old.is_some_and(|old| !is_significant(object, old)) {
                Ok(())
            } else {
                self.pod(review, object)
            };
        }
        let kind = review.ctx.kind;
        let pointer = TEMPLATES.iter().find(|(group, plural, _)| kind.group == *group && kind.plural == *plural);
        if let Some(template) = pointer.filter(|_| review.ctx.subresource.is_empty()).and_then(|(.., pointer)| object.pointer(pointer)) {
            self.maker(review, template);
        }
        Ok(())
    }
}

impl PodSecurity {
    /// The policy of the review's namespace, and what of its labels cannot be read. `None`: there is no such namespace.
    fn policy_of(&self, review: &Review<'_>) -> Option<(Policy, FieldErrors)> {
        let namespace = review.ctx.engine.cached(&GroupResource::new("", "namespaces"), &Key::new("", review.ctx.namespace))?;
        let mut causes = FieldErrors::default();
        Some((self.defaults.of(|key| namespace.label(key), &mut causes), causes))
    }

    fn pod(&self, review: &Review<'_>, object: &Value) -> Result<(), Status> {
        if let Some(why) = self.exempt(review) {
            note(review, "exempt", why.into());
            return Ok(());
        }
        let Some((policy, causes)) = self.policy_of(review) else {
            return Err(Status::internal(format!("failed to lookup namespace {:?}", review.ctx.namespace)));
        };
        if causes.is_empty() && policy.is_fully_privileged() {
            note(review, "enforce-policy", "privileged:latest".into());
            return Ok(());
        }
        if self.exempts_class(object.at("spec")) {
            note(review, "exempt", "runtimeClass".into());
            return Ok(());
        }
        note(review, "enforce-policy", policy.enforce.to_string());
        let parts = parts(object);
        let found = Findings::of(&parts, policy.enforce);
        let told = found.is_empty();
        evaluate(review, &parts, &policy, &causes, if told { Warn::Yes } else { Warn::No });
        if told {
            return Ok(());
        }
        let why = format!("violates PodSecurity {:?}: {}", policy.enforce.to_string(), found.details());
        Err(Status::forbidden(&review.ctx.kind.group_resource(), review.ctx.name, &why))
    }

    /// A template is told about, and never refused.
    fn maker(&self, review: &Review<'_>, template: &Value) {
        if let Some(why) = self.exempt(review).or_else(|| self.exempts_class(template.at("spec")).then_some("runtimeClass")) {
            return note(review, "exempt", why.into());
        }
        let Some((policy, causes)) = self.policy_of(review) else { return };
        if !causes.is_empty() || policy.warn.level != Level::Privileged || policy.audit.level != Level::Privileged {
            evaluate(review, &parts(template), &policy, &causes, Warn::Yes);
        }
    }

    /// The labels of a namespace must be readable; of a stricter one the pods that it no longer allows are told.
    async fn namespace(&self, review: &Review<'_>, new: &Value) -> Result<(), Status> {
        let read = |object: &Value| {
            let mut causes = FieldErrors::default();
            let labels = object.at("metadata").at("labels");
            (self.defaults.of(|key| labels.at(key).and_then(Value::as_str), &mut causes), causes)
        };
        let (policy, causes) = read(new);
        let before = review.old.map(read);
        if !causes.is_empty() && before.as_ref().is_none_or(|(_, old)| *old != causes) {
            return Err(Status::invalid(&review.ctx.kind.gvk(), review.ctx.name, &causes));
        }
        let exempt = self.namespaces.contains(review.ctx.name).then(|| self.exempt_warning(review, new, &policy));
        let (Some((old, _)), Operation::Update) = (before, review.ctx.operation) else {
            review.ctx.warn(exempt.flatten().into_iter().collect());
            return Ok(());
        };
        let (now, was) = (policy.enforce, old.enforce);
        let is_laxer = now.version == was.version && now.level <= was.level;
        if now == was || now.level == Level::Privileged || is_laxer {
            return Ok(());
        }
        match exempt {
            Some(warning) => review.ctx.warn(warning.into_iter().collect()),
            None => review.ctx.warn(self.existing(review, now).await),
        }
        Ok(())
    }

    /// `exemptNamespaceWarning`
    fn exempt_warning(&self, review: &Review<'_>, new: &Value, policy: &Policy) -> Option<String> {
        if policy.is_fully_privileged() || *policy == self.defaults {
            return None;
        }
        let labels = new.at("metadata").at("labels");
        let told = policy.told(|key| labels.at(key).and_then(Value::as_str));
        Some(format!("namespace {:?} is exempt from Pod Security, and the policy ({told}) will be ignored", review.ctx.name))
    }

    /// `EvaluatePodsInNamespace`
    async fn existing(&self, review: &Review<'_>, enforce: LevelVersion) -> Vec<String> {
        let name = review.ctx.name;
        let pods = review.ctx.engine.cached_list(&GroupResource::new("", "pods"), Some(name));
        let (mut told, mut turn) = (BTreeMap::<String, (String, usize)>::new(), Turn::default());
        let (mut first, mut replicas, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for pod in &pods {
            turn.took(LOOK_BYTES);
            turn.rest().await;
            let owner = controller(pod);
            if owner.is_none_or(|uid| seen.insert(uid)) { first.push(pod) } else { replicas.push(pod) }
        }
        for pod in first.into_iter().chain(replicas).take(PODS_MAX) {
            let value = pod.value();
            let found = Findings::of(&parts(&value), enforce);
            if !found.is_empty() && !self.exempts_class(value.at("spec")) {
                let name = read::name(&value);
                let entry = told.entry(found.reasons()).or_insert_with(|| (name.to_owned(), 0));
                entry.0 = entry.0.as_str().min(name).to_owned();
                entry.1 += 1;
            }
            turn.took(pod.stored().len());
            turn.rest().await;
        }
        let mut out = Vec::new();
        if pods.len() > PODS_MAX {
            out.push(format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods", pods.len()));
        }
        if !told.is_empty() {
            out.push(format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}", enforce.to_string()));
        }
        let mut lines: Vec<String> = told
            .into_iter()
            .map(|(reasons, (pod, count))| match count {
                1 => format!("{pod}: {reasons}"),
                2 => format!("{pod} (and 1 other pod): {reasons}"),
                _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
            })
            .collect();
        lines.sort();
        out.extend(lines);
        out
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Warn {
    Yes,
    No,
}

fn evaluate(review: &Review<'_>, pod: &Pod<'_>, policy: &Policy, causes: &FieldErrors, warn: Warn) {
    if !causes.is_empty() {
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        let all = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
        note(review, "error", format!("Failed to parse policy: {all}"));
    }
    let told = |lv: LevelVersion| {
        let found = Findings::of(pod, lv);
        (!found.is_empty()).then(|| format!("would violate PodSecurity {:?}: {}", lv.to_string(), found.details()))
    };
    if let Some(text) = told(policy.audit) {
        note(review, "audit-violations", text);
    }
    if warn == Warn::Yes {
        review.ctx.warn(told(policy.warn).into_iter().collect());
    }
}

fn note(review: &Review<'_>, key: &str, value: String) {
    review.ctx.annotate(&format!("pod-security.kubernetes.io/{key}"), value);
}

fn parts(pod: &Value) -> Pod<'_> {
    Pod { annotations: pod.at("metadata").at("annotations"), spec: pod.at("spec") }
}

/// `isSignificantPodUpdate`: containers came, or run another image.
fn is_significant(new: &Value, old: &Value) -> bool {
    let (spec, before) = (new.at("spec"), old.at("spec"));
    let changed = |list: &str| {
        let (now, was) = (spec.list(list), before.list(list));
        now.len() != was.len() || now.iter().zip(was).any(|(now, was)| now.text("image") != was.text("image"))
    };
    let known: BTreeMap<&str, &str> = before.list("ephemeralContainers").iter().map(|c| (c.text("name"), c.text("image"))).collect();
    let is_new = |container: &Value| known.get(container.text("name")) != Some(&container.text("image"));
    changed("containers") || changed("initContainers") || spec.list("ephemeralContainers").iter().any(is_new)
}

/// The UID of the pod's controller.
fn controller(pod: &Object) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Typed {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        owner_references: Option<Vec<Owner>>,
    }
    #[derive(serde::Deserialize)]
    struct Owner {
        uid: Option<String>,
        controller: Option<bool>,
    }
    let owners = pod.part::<Typed>().ok()?.metadata.owner_references?;
    owners.into_iter().find(|owner| owner.controller == Some(true))?.uid
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn other_images_and_new_containers_are_significant() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "1"}], "ephemeralContainers": [{"name": "d", "image": "1"}]}});
        type Change = fn(&mut Value);
        let cases: [(Change, bool); 5] = [
            (|_| {}, false),
            (|pod| pod["spec"]["containers"][0]["image"] = json!("2"), true),
            (|pod| pod["spec"]["initContainers"] = json!([{"name": "i"}]), true),
            (|pod| pod["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "1"}]), true),
            (|pod| pod["spec"]["activeDeadlineSeconds"] = json!(1), false),
        ];
        for (i, (change, wanted)) in cases.into_iter().enumerate() {
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(is_significant(&new, &old), wanted, "change {i}");
        }
    }
}
