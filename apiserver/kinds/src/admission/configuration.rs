//! The configuration of a plugin -> whether it is of a kind that the plugin has, and, where upstream is strict, of its fields alone.
//!
//! Sources: the packages `apis` and `load` of each plugin; pod-security-admission `admission/api/{v1,scheme}`, apiserver
//! `pkg/admission/plugin/{resourcequota,webhook/config,policy/config}`. EventRateLimit's and PodTolerationRestriction's are read leniently there.
#![expect(dead_code, reason = "what is asked of these types is whether a text can be read as one; plugins read the text")]

use apiserver::strict::strict;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::common::Read;

const CONFIG_V1: &str = "apiserver.config.k8s.io/v1";

/// The kind of a plugin's configuration, the versions that it is read in, and how.
struct Known {
    plugin: &'static str,
    kind: &'static str,
    versions: &'static [&'static str],
    check: fn(&Value) -> Result<(), String>,
}

const KNOWN: &[Known] = &[
    of("EventRateLimit", "Configuration", &["eventratelimit.admission.k8s.io/v1alpha1"], any),
    of("PodTolerationRestriction", "Configuration", &["podtolerationrestriction.admission.k8s.io/v1alpha1"], any),
    of(
        "PodSecurity",
        "PodSecurityConfiguration",
        &[
            "pod-security.admission.config.k8s.io/v1",
            "pod-security.admission.config.k8s.io/v1beta1",
            "pod-security.admission.config.k8s.io/v1alpha1",
        ],
        as_one::<PodSecurity>,
    ),
    of("ResourceQuota", "ResourceQuotaConfiguration", &[CONFIG_V1], as_one::<ResourceQuota>),
    of(
        "ResourceQuota",
        "Configuration",
        &["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"],
        as_one::<ResourceQuota>,
    ),
    of("MutatingAdmissionWebhook", "WebhookAdmissionConfiguration", &[CONFIG_V1], as_one::<Webhook>),
    of("ValidatingAdmissionWebhook", "WebhookAdmissionConfiguration", &[CONFIG_V1], as_one::<Webhook>),
    of("MutatingAdmissionPolicy", "MutatingAdmissionPolicyConfiguration", &[CONFIG_V1], as_one::<Policy>),
    of("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyConfiguration", &[CONFIG_V1], as_one::<Policy>),
];

const fn of(plugin: &'static str, kind: &'static str, versions: &'static [&'static str], check: fn(&Value) -> Result<(), String>) -> Known {
    Known { plugin, kind, versions, check }
}

/// # Errors
/// It is of another kind, or has what that kind has not; in upstream's words.
pub(super) fn check(plugin: &str, config: &Value) -> Result<(), String> {
    let mut of_plugin = KNOWN.iter().filter(|known| known.plugin == plugin).peekable();
    if of_plugin.peek().is_none() {
        return Ok(());
    }
    let (version, kind) = (config.text("apiVersion"), config.text("kind"));
    let found = of_plugin.find(|known| known.kind == kind && known.versions.contains(&version));
    let found = found.ok_or_else(|| format!("no kind {kind:?} is registered for version {version:?}"))?;
    (found.check)(config)
}

fn any(_: &Value) -> Result<(), String> {
    Ok(())
}

fn as_one<T: DeserializeOwned>(config: &Value) -> Result<(), String> {
    strict::<T>(config).map(drop)
}

#[derive(Deserialize)]
struct PodSecurity {
    defaults: Option<Defaults>,
    exemptions: Option<Exemptions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Defaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exemptions {
    usernames: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
    runtime_classes: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceQuota {
    limited_resources: Option<Vec<LimitedResource>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LimitedResource {
    api_group: Option<String>,
    resource: Option<String>,
    match_contains: Option<Vec<String>>,
    match_scopes: Option<Vec<MatchScope>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MatchScope {
    scope_name: Option<String>,
    operator: Option<String>,
    values: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    kube_config_file: Option<String>,
    static_manifests_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    static_manifests_dir: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn misspelt_fields_are_refused_where_upstream_refuses_them() {
        let why = |plugin: &str, version: &str, kind: &str, more: Value| {
            let mut config = json!({"apiVersion": version, "kind": kind});
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            check(plugin, &config).err().unwrap_or_default()
        };
        let security = |more: Value| why("PodSecurity", "pod-security.admission.config.k8s.io/v1", "PodSecurityConfiguration", more);
        let unknown = |at: &str| format!("strict decoding error: unknown field {at:?}");
        assert_eq!(security(json!({"default": {"enforce": "baseline"}})), unknown("default"));
        assert_eq!(security(json!({"exemptons": {}})), unknown("exemptons"));
        assert_eq!(security(json!({"defaults": {"enforceVersion": "latest"}})), unknown("defaults.enforceVersion"));
        assert_eq!(security(json!({"exemptions": {"namespace": ["a"]}})), unknown("exemptions.namespace"));
        assert!(security(json!({"defaults": "enforce"})).contains("invalid type"));
        let whole = json!({
            "defaults": {"enforce": "baseline", "enforce-version": "latest", "audit": "", "audit-version": null, "warn": "", "warn-version": ""},
            "exemptions": {"usernames": [], "namespaces": null, "runtimeClasses": ["a"]},
        });
        assert_eq!(security(whole), "");
        let quota = |more: Value| why("ResourceQuota", CONFIG_V1, "ResourceQuotaConfiguration", more);
        assert_eq!(quota(json!({"limitedResorces": []})), unknown("limitedResorces"));
        assert_eq!(quota(json!({"limitedResources": [{"resource": "pods"}, {"resorce": "pods"}]})), unknown("limitedResources[1].resorce"));
        let scope = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["a"]});
        let limited = json!({"apiGroup": "", "resource": "pods", "matchContains": ["cpu"], "matchScopes": [scope]});
        assert_eq!(quota(json!({"limitedResources": [limited]})), "");
        assert_eq!(
            why("MutatingAdmissionWebhook", CONFIG_V1, "WebhookAdmissionConfiguration", json!({"kubeconfigFile": ""})),
            unknown("kubeconfigFile")
        );
        assert_eq!(why("ValidatingAdmissionPolicy", CONFIG_V1, "ValidatingAdmissionPolicyConfiguration", json!({"x": 1})), unknown("x"));
        // Upstream reads this one leniently, and looks at no configuration of a plugin that has none.
        assert_eq!(why("EventRateLimit", "eventratelimit.admission.k8s.io/v1alpha1", "Configuration", json!({"limit": []})), "");
        assert_eq!(why("Priority", "v1", "Pod", json!({"x": 1})), "");
    }
}
