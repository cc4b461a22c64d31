//! `WebhookConfiguration` of an authorization configuration: who is asked, about what, and how long the answer holds.
//!
//! Source: apiserver `pkg/apis/apiserver/v1`.

use std::{collections::HashSet, path::Path, time::Duration};

use api::field_errors::FieldErrors;
use serde::Deserialize;

use crate::{
    duration,
    expressions::{About, Makes, Program},
    token_webhook::or_default,
};

const CONDITIONS_MAX: usize = 64;
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// How long answers hold where a file does not say (`SetDefaults_WebhookConfiguration`).
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

/// `WebhookConfiguration`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookConfig {
    #[serde(rename = "authorizedTTL", deserialize_with = "duration::field")]
    pub authorized_ttl: Duration,
    pub cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL", deserialize_with = "duration::field")]
    pub unauthorized_ttl: Duration,
    pub cache_unauthorized_requests: Option<bool>,
    #[serde(deserialize_with = "duration::field")]
    pub timeout: Duration,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    #[serde(deserialize_with = "or_default")]
    pub match_conditions: Vec<MatchCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchCondition {
    pub expression: String,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            authorized_ttl: AUTHORIZED_TTL,
            cache_authorized_requests: None,
            unauthorized_ttl: UNAUTHORIZED_TTL,
            cache_unauthorized_requests: None,
            timeout: Duration::ZERO,
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionInfo::default(),
            match_conditions: Vec::new(),
        }
    }
}

impl WebhookConfig {
    /// How long an answer holds.
    pub fn ttl(&self, allowed: bool) -> Duration {
        let (ttl, default, kept) = match allowed {
            true => (self.authorized_ttl, AUTHORIZED_TTL, self.cache_authorized_requests),
            false => (self.unauthorized_ttl, UNAUTHORIZED_TTL, self.cache_unauthorized_requests),
        };
        match kept {
            Some(false) => Duration::ZERO,
            _ if ttl.is_zero() => default,
            _ => ttl,
        }
    }

    pub fn validate(&self, path: &str, causes: &mut FieldErrors) {
        if self.timeout.is_zero() {
            causes.required(format!("{path}.timeout"), "");
        } else if self.timeout > TIMEOUT_MAX {
            causes.invalid(format!("{path}.timeout"), format!("{}s", self.timeout.as_secs_f64()), "must be > 0s and <= 30s");
        }
        let one_of = |name: &str, value: &str, known: &[&str], causes: &mut FieldErrors| match value {
            "" => causes.required(format!("{path}.{name}"), ""),
            value if !known.contains(&value) => causes.not_supported(format!("{path}.{name}"), value, known),
            _ => {}
        };
        one_of("subjectAccessReviewVersion", &self.subject_access_review_version, &["v1", "v1beta1"], causes);
        match self.match_condition_subject_access_review_version.as_str() {
            "" if self.match_conditions.is_empty() => {}
            "" => causes.required(format!("{path}.matchConditionSubjectAccessReviewVersion"), "required if match conditions are specified"),
            version => one_of("matchConditionSubjectAccessReviewVersion", version, &["v1"], causes),
        }
        one_of("failurePolicy", &self.failure_policy, &["NoOpinion", "Deny"], causes);
        self.connection_info.validate(&format!("{path}.connectionInfo"), causes);
        self.validate_conditions(&format!("{path}.matchConditions"), causes);
    }

    fn validate_conditions(&self, path: &str, causes: &mut FieldErrors) {
        if self.match_conditions.len() > CONDITIONS_MAX {
            return causes.too_many(path, self.match_conditions.len(), CONDITIONS_MAX);
        }
        let mut seen = HashSet::new();
        for (index, MatchCondition { expression }) in self.match_conditions.iter().enumerate() {
            let path = format!("{path}[{index}].expression");
            match () {
                () if expression.trim().is_empty() => causes.required(path, ""),
                () if !seen.insert(expression) => causes.duplicate(path, &**expression),
                () => {
                    if let Err(why) = Program::compile(expression, About::Request, Makes::Bool) {
                        causes.invalid(path, &**expression, &why);
                    }
                }
            }
        }
    }
}

impl ConnectionInfo {
    fn validate(&self, path: &str, causes: &mut FieldErrors) {
        let file_path = format!("{path}.kubeConfigFile");
        match (self.kind.as_str(), self.kube_config_file.as_deref()) {
            ("", _) => causes.required(format!("{path}.type"), ""),
            ("InClusterConfig", _) => {
                causes.invalid(format!("{path}.type"), "InClusterConfig", "the API server runs in no pod: name a KubeConfigFile")
            }
            ("KubeConfigFile", None | Some("")) => causes.required(file_path, ""),
            ("KubeConfigFile", Some(file)) if !Path::new(file).is_absolute() => causes.invalid(file_path, file, "must be an absolute path"),
            ("KubeConfigFile", Some(file)) => match std::fs::metadata(file) {
                Err(error) => causes.invalid(file_path, file, &format!("error loading file: {error}")),
                Ok(found) if !found.is_file() => causes.invalid(file_path, file, "must be a regular file"),
                Ok(_) => {}
            },
            (other, _) => causes.not_supported(format!("{path}.type"), other, &["InClusterConfig", "KubeConfigFile"]),
        }
    }
}
