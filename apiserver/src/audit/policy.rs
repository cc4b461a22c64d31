//! An audit policy file -> at which level a request is told of, and at which of its stages.
//!
//! Sources: apiserver `pkg/audit/policy/{reader,checker}.go`, `pkg/apis/audit/{v1/types.go,validation/validation.go}`.

use api::field_errors::FieldErrors;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{identity::Attributes, names, strict};

const API_VERSION: &str = "audit.k8s.io/v1";

/// `audit.k8s.io/v1` Policy: the first rule that matches a request decides; none is not to tell of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(deserialize_with = "or_nothing")]
    rules: Vec<Rule>,
    #[serde(deserialize_with = "or_nothing")]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    None,
    /// Who did what to what, when, and how it ended.
    Metadata,
    /// And the object that was sent.
    Request,
    /// And the object that was answered.
    RequestResponse,
}

/// When it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Stage {
    RequestReceived,
    /// Of streams only: when the head of the reply is sent.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What the policy says of one request (`RequestAuditConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub level: Level,
    pub omit_managed_fields: bool,
    /// A bit for each of [`STAGES`].
    omitted: u8,
}

const LEVELS: [(&str, Level); 4] =
    [("None", Level::None), ("Metadata", Level::Metadata), ("Request", Level::Request), ("RequestResponse", Level::RequestResponse)];
const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: String,
    #[serde(deserialize_with = "or_nothing")]
    users: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    user_groups: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    verbs: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    resources: Vec<GroupResources>,
    #[serde(deserialize_with = "or_nothing")]
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs", deserialize_with = "or_nothing")]
    non_resource_urls: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    #[serde(deserialize_with = "or_nothing")]
    resources: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    resource_names: Vec<String>,
}

impl Policy {
    /// Reads a policy file. Fields that nobody knows are told of and passed over, as upstream does.
    ///
    /// # Errors
    /// What is wrong with it: all of it, where it could be read.
    pub fn read(text: &str) -> Result<Self, String> {
        let (policy, unknown) = Self::decode(text).map_err(|error| format!("failed decoding: {error}"))?;
        if !unknown.is_empty() {
            tracing::warn!("Audit policy contains errors, falling back to lenient decoding: {}", strict::told(&unknown));
        }
        if policy.api_version != API_VERSION || policy.kind != "Policy" {
            return Err(format!("unknown group version field {}, Kind={} in policy", policy.api_version, policy.kind));
        }
        let mut causes = FieldErrors::default();
        policy.validate(&mut causes);
        if !causes.is_empty() {
            let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
            return Err(texts.join(", "));
        }
        if policy.rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        Ok(policy)
    }

    fn decode(text: &str) -> Result<(Self, Vec<String>), String> {
        let config: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let (policy, mut unknown) = strict::lenient::<Self>(&config)?;
        // Upstream's has it, and nobody looks at it.
        unknown.retain(|one| one != r#"unknown field "metadata""#);
        Ok((policy, unknown))
    }

    pub fn verdict(&self, asked: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.matches(asked));
        let level = rule.and_then(|rule| level(&rule.level)).unwrap_or(Level::None);
        let omit_managed_fields = rule.and_then(|rule| rule.omit_managed_fields).or(self.omit_managed_fields).unwrap_or_default();
        let stages = self.omit_stages.iter().chain(rule.into_iter().flat_map(|rule| &rule.omit_stages));
        let omitted = stages.filter_map(|name| STAGES.iter().position(|(stage, _)| stage == name)).fold(0, |bits, at| bits | 1 << at);
        Verdict { level, omit_managed_fields, omitted }
    }

    fn validate(&self, causes: &mut FieldErrors) {
        validate_stages(&self.omit_stages, "omitStages", causes);
        for (at, rule) in self.rules.iter().enumerate() {
            rule.validate(&format!("rules[{at}]"), causes);
        }
    }
}

impl Verdict {
    pub fn tells(&self, stage: Stage) -> bool {
        self.level > Level::None && STAGES.iter().position(|(_, one)| *one == stage).is_some_and(|at| self.omitted & (1 << at) == 0)
    }
}

impl Rule {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let user = asked.user;
        if !self.users.is_empty() && !self.users.contains(&user.name) {
            return false;
        }
        if !self.user_groups.is_empty() && !user.groups.iter().any(|group| self.user_groups.contains(group)) {
            return false;
        }
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.resource_request && has(&self.namespaces, asked.namespace) && self.matches_resource(asked);
        }
        self.non_resource_urls.is_empty() || !asked.resource_request && self.non_resource_urls.iter().any(|url| is_path(asked.path, url))
    }

    fn matches_resource(&self, asked: &Attributes<'_>) -> bool {
        self.resources.is_empty() || self.resources.iter().any(|resources| resources.matches(asked))
    }

    fn validate(&self, path: &str, causes: &mut FieldErrors) {
        if self.level.is_empty() {
            causes.required(format!("{path}.level"), "");
        } else if level(&self.level).is_none() {
            causes.not_supported(format!("{path}.level"), self.level.as_str(), &LEVELS.map(|(name, _)| name));
        }
        for (at, url) in self.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            let at = format!("{path}.nonResourceURLs[{at}]");
            if !url.starts_with('/') {
                causes.invalid(&at, url.as_str(), "non-resource URL rules must begin with a '/' character");
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                causes.invalid(&at, url.as_str(), "non-resource URL wildcards '*' must be the final character of the rule");
            }
        }
        for resources in &self.resources {
            resources.validate(&format!("{path}.resources"), causes);
        }
        validate_stages(&self.omit_stages, &format!("{path}.omitStages"), causes);
        if !self.non_resource_urls.is_empty() && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            let urls = Value::from(self.non_resource_urls.clone());
            causes.invalid(format!("{path}.nonResourceURLs"), urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
    }
}

impl GroupResources {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        if self.group != asked.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        has(&self.resource_names, asked.name)
            && self.resources.iter().any(|resource| is_resource(resource, asked.resource, asked.subresource))
    }

    fn validate(&self, path: &str, causes: &mut FieldErrors) {
        let is_named = !self.group.is_empty() && self.group != "*";
        if let Some(why) = names::subdomain_error(&self.group).filter(|_| is_named) {
            causes.invalid(format!("{path}.group"), self.group.as_str(), &why);
        }
        if !self.resource_names.is_empty() && self.resources.is_empty() {
            let names = serde_json::Value::from(self.resource_names.clone());
            causes.invalid(format!("{path}.resourceNames"), names, "using resourceNames requires at least one resource");
        }
    }
}

/// No list is all there is.
fn has(list: &[String], value: &str) -> bool {
    list.is_empty() || list.iter().any(|one| one == value)
}

fn level(name: &str) -> Option<Level> {
    LEVELS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
}

fn is_path(path: &str, rule: &str) -> bool {
    rule == "*" || rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// `pods`, `pods/log`, `*`, `pods/*`, `*/scale`.
fn is_resource(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        None => rule == "*" || subresource.is_empty() && rule == resource,
        Some(("*", part)) => !subresource.is_empty() && part == subresource,
        Some((whole, "*")) => whole == resource,
        Some((whole, part)) => whole == resource && part == subresource,
    }
}

fn validate_stages(stages: &[String], path: &str, causes: &mut FieldErrors) {
    let known = STAGES.map(|(name, _)| name);
    for (at, stage) in stages.iter().enumerate().filter(|(_, stage)| !known.contains(&stage.as_str())) {
        causes.invalid(format!("{path}[{at}]"), stage.as_str(), &format!("allowed stages are {}", known.join(",")));
    }
}

/// As Go reads it: null is nothing.
fn or_nothing<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::User;

    fn policy(rules: &str) -> Result<Policy, String> {
        Policy::read(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\n{rules}"))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: ["system:kube-proxy"], verbs: [watch], resources: [{group: "", resources: [endpoints, services]}]}
- {level: None, nonResourceURLs: ["/healthz*", /version]}
- {level: Request, resources: [{group: "", resources: [configmaps], resourceNames: [one]}], namespaces: [kube-system], omitManagedFields: false}
- {level: Metadata, resources: [{group: "", resources: [secrets, "pods/log", "*/status"]}], omitStages: [ResponseComplete]}
- {level: RequestResponse, userGroups: [admins], resources: [{group: apps}, {group: "*", resources: ["nodes/*"]}]}
- {level: Metadata, namespaces: [""]}
"#,
        )
        .unwrap();
        let user = |name: &str, group: &str| User { name: name.into(), groups: vec![group.into()], ..User::default() };
        let ask = |user: &User, verb: &str, group: &str, resource: &str, namespace: &str, name: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let asked =
                Attributes { user, verb, resource_request: true, group, resource, subresource, namespace, name, ..Attributes::default() };
            policy.verdict(&asked)
        };
        let (nobody, admin) = (user("x", "y"), user("a", "admins"));
        assert_eq!(ask(&user("system:kube-proxy", ""), "watch", "", "services", "", "").level, Level::None);
        assert_eq!(ask(&nobody, "watch", "", "services", "a", "").level, Level::None, "no rule");
        let one = ask(&nobody, "get", "", "configmaps", "kube-system", "one");
        assert_eq!((one.level, one.omit_managed_fields), (Level::Request, false));
        assert!(!one.tells(Stage::RequestReceived) && one.tells(Stage::ResponseComplete));
        assert_eq!(ask(&nobody, "get", "", "configmaps", "kube-system", "two").level, Level::None);
        let secret = ask(&nobody, "get", "", "secrets", "a", "s");
        assert!(secret.level == Level::Metadata && secret.omit_managed_fields);
        assert!(!secret.tells(Stage::ResponseComplete) && secret.tells(Stage::Panic));
        assert_eq!(ask(&nobody, "get", "", "pods/log", "a", "p").level, Level::Metadata);
        assert_eq!(ask(&nobody, "get", "", "pods", "a", "p").level, Level::None);
        assert_eq!(ask(&nobody, "update", "", "pods/status", "a", "p").level, Level::Metadata);
        assert_eq!(ask(&admin, "update", "apps", "deployments/scale", "a", "p").level, Level::RequestResponse);
        assert_eq!(ask(&admin, "get", "", "nodes/proxy", "", "n").level, Level::RequestResponse);
        assert_eq!(ask(&nobody, "get", "", "nodes", "", "n").level, Level::Metadata, "of no namespace");
        let path = |path: &str| policy.verdict(&Attributes { user: &nobody, verb: "get", path, ..Attributes::default() }).level;
        assert_eq!(["/healthz/x", "/version", "/api"].map(path), [Level::None; 3]);
    }

    #[test]
    fn fields_that_nobody_knows_are_told_of_and_passed_over() {
        let decoded = |text: &str| Policy::decode(text).unwrap();
        let odd = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStage: [Panic]\nrules: [{level: Metadata, user: [a], resources: [{group: a, resource: [b]}]}]";
        let (policy, unknown) = decoded(odd);
        assert_eq!(unknown, ["omitStage", "rules[0].user", "rules[0].resources[0].resource"].map(|at| format!("unknown field {at:?}")));
        assert_eq!(policy.rules[0].level, "Metadata");
        assert!(Policy::read(odd).is_ok());
        assert!(
            decoded("apiVersion: audit.k8s.io/v1\nkind: Policy\nmetadata: {name: a}\nrules: [{level: None, users: null}]").1.is_empty()
        );
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_told() {
        let says = |rules: &str| policy(rules).unwrap_err();
        assert_eq!(says("rules: []"), "loaded illegal policy with 0 rules");
        assert_eq!(says("rules:"), "loaded illegal policy with 0 rules");
        assert_eq!(says("rules: [{}]"), "rules[0].level: Required value");
        let level = says("rules: [{level: All}]");
        assert_eq!(
            level,
            r#"rules[0].level: Unsupported value: "All": supported values: "Metadata", "None", "Request", "RequestResponse""#
        );
        assert!(says("rules: [{level: None, nonResourceURLs: [x]}]").contains("must begin with a '/' character"));
        assert!(says("rules: [{level: None, nonResourceURLs: ['/*/x']}]").contains("must be the final character"));
        let both = says("rules: [{level: None, nonResourceURLs: [/x], namespaces: [a]}]");
        assert!(both.contains("rules cannot apply to both regular resources and non-resource URLs"), "{both}");
        assert!(says("rules: [{level: None, resources: [{group: a/v1}]}]").contains("rules[0].resources.group: Invalid value"));
        assert!(says("rules: [{level: None, resources: [{resourceNames: [a]}]}]").contains("requires at least one resource"));
        assert!(says("omitStages: [X]\nrules: [{level: None}]").contains("allowed stages are RequestReceived,"));
        assert!(Policy::read("kind: Policy\nrules: [{level: None}]").unwrap_err().contains("unknown group version"));
        assert!(Policy::read("[").unwrap_err().starts_with("failed decoding"));
    }
}
