//! `--enable-admission-plugins`, `--disable-admission-plugins` and the configuration of each plugin -> the chain. Source:
//! `pkg/kubeapiserver/options/plugins.go`, apiserver `pkg/server/options/admission.go`, `pkg/admission/config.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use apiserver::identity::Admission;
use serde_json::Value;

use super::{
    always_admit, always_deny, always_pull_images, configuration, deny_service_external_ips, event_rate_limit,
    extended_resource_toleration, limit_pod_hard_anti_affinity_topology, namespace_auto_provision, namespace_exists,
    owner_references_permission_enforcement, pod_node_selector, pod_security, pod_toleration_restriction, resource_quota,
};
use crate::common::Read;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub enable: Vec<String>,
    pub disable: Vec<String>,
    /// By the plugin's name (`AdmissionConfiguration`).
    pub configuration: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usual {
    On,
    Off,
}
use Usual::{Off, On};

/// All of upstream's, in the order in which they run. NodeRestriction is on here, as every installer has it.
const ORDER: &[(&str, Usual)] = &[
    ("AlwaysAdmit", Off),
    ("NamespaceAutoProvision", Off),
    ("NamespaceLifecycle", On),
    ("NamespaceExists", Off),
    ("LimitPodHardAntiAffinityTopology", Off),
    ("LimitRanger", On),
    ("ServiceAccount", On),
    ("NodeRestriction", On),
    ("TaintNodesByCondition", On),
    ("AlwaysPullImages", Off),
    ("ImagePolicyWebhook", Off),
    ("PodSecurity", On),
    ("PodNodeSelector", Off),
    ("Priority", On),
    ("DefaultTolerationSeconds", On),
    ("PodTolerationRestriction", Off),
    ("EventRateLimit", Off),
    ("ExtendedResourceToleration", Off),
    ("DefaultStorageClass", On),
    ("StorageObjectInUseProtection", On),
    ("PodGroupProtection", On),
    ("OwnerReferencesPermissionEnforcement", Off),
    ("PersistentVolumeClaimResize", On),
    ("RuntimeClass", On),
    ("CertificateApproval", On),
    ("CertificateSigning", On),
    ("ClusterTrustBundleAttest", On),
    ("CertificateSubjectRestriction", On),
    ("DefaultIngressClass", On),
    ("DenyServiceExternalIPs", Off),
    ("PodTopologyLabels", On),
    ("PodGroupWorkloadExists", On),
    ("NodeDeclaredFeatureValidator", On),
    ("JobValidation", On),
    ("PodResizeValidator", On),
    ("MutatingAdmissionPolicy", On),
    ("MutatingAdmissionWebhook", On),
    ("ValidatingAdmissionPolicy", On),
    ("ValidatingAdmissionWebhook", On),
    ("ResourceQuota", On),
    ("AlwaysDeny", Off),
];

impl Options {
    /// # Errors
    /// Names that are unknown, or enabled and disabled, in upstream's words.
    pub fn check(&self) -> Result<(), String> {
        let known = |name: &str| ORDER.iter().any(|(known, _)| *known == name);
        let unknown = |flag: &str, names: &[String]| -> Vec<String> {
            names.iter().filter(|name| !known(name)).map(|name| format!("{flag} plugin {name:?} is unknown")).collect()
        };
        let mut wrong = unknown("enable-admission-plugins", &self.enable);
        wrong.extend(unknown("disable-admission-plugins", &self.disable));
        let (on, off): (BTreeSet<&String>, BTreeSet<&String>) = (self.enable.iter().collect(), self.disable.iter().collect());
        let both: Vec<&str> = on.intersection(&off).map(|name| name.as_str()).collect();
        if !both.is_empty() {
            wrong.push(format!("[{}] in enable-admission-plugins and disable-admission-plugins overlapped", both.join(" ")));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join(", ")) }
    }

    /// Names in the configuration that no plugin has: nobody reads what stands there.
    pub fn unread(&self) -> Vec<&str> {
        self.configuration.keys().map(String::as_str).filter(|name| !ORDER.iter().any(|(known, _)| known == name)).collect()
    }

    fn enables(&self, name: &str, default: Usual) -> bool {
        let named = |names: &[String]| names.iter().any(|one| one == name);
        named(&self.enable) || default == On && !named(&self.disable)
    }

    /// `default` is the chain of those that are on where nothing else is asked for; what is none of upstream's stays at its end.
    ///
    /// # Errors
    /// Of [`Self::check`]; what is wrong with a configuration, or cannot be had.
    pub fn arrange(&self, default: Vec<Arc<dyn Admission>>) -> Result<Vec<Arc<dyn Admission>>, String> {
        self.check()?;
        let mut chain = Vec::new();
        for (name, _) in ORDER.iter().filter(|(name, default)| self.enables(name, *default)) {
            let config = self.configuration.get(*name);
            let about = |why: String| format!("failed to initialize admission plugin {name:?}: {why}");
            if let Some(config) = config {
                configuration::check(name, config).map_err(about)?;
            }
            let there = || default.iter().find(|plugin| plugin.name() == *name).cloned();
            chain.extend(made(name, config).map_err(about)?.or_else(there));
        }
        chain.extend(default.into_iter().filter(|plugin| !ORDER.iter().any(|(name, _)| *name == plugin.name())));
        Ok(chain)
    }
}

/// One that is off by default, or set up otherwise than by default. Those whose feature is off in 1.36 do nothing (PodGroupProtection,
/// PodGroupWorkloadExists, JobValidation, ClusterTrustBundleAttest), and are not there.
fn made(name: &str, config: Option<&Value>) -> Result<Option<Arc<dyn Admission>>, String> {
    let plugin: Arc<dyn Admission> = match name {
        "AlwaysAdmit" => Arc::new(always_admit::AlwaysAdmit),
        "NamespaceAutoProvision" => Arc::new(namespace_auto_provision::NamespaceAutoProvision),
        "NamespaceExists" => Arc::new(namespace_exists::NamespaceExists),
        "LimitPodHardAntiAffinityTopology" => Arc::new(limit_pod_hard_anti_affinity_topology::LimitPodHardAntiAffinityTopology),
        "AlwaysPullImages" => Arc::new(always_pull_images::AlwaysPullImages),
        "ImagePolicyWebhook" => return Err("image policy webhooks are not supported".into()),
        "PodSecurity" if config.is_some() => Arc::new(pod_security::PodSecurity::configured(config)?),
        "PodNodeSelector" => Arc::new(pod_node_selector::PodNodeSelector::configured(config)),
        "PodTolerationRestriction" => Arc::new(pod_toleration_restriction::PodTolerationRestriction::configured(config)?),
        "EventRateLimit" => Arc::new(event_rate_limit::EventRateLimit::configured(config)?),
        "ExtendedResourceToleration" => Arc::new(extended_resource_toleration::ExtendedResourceToleration),
        "OwnerReferencesPermissionEnforcement" => Arc::new(owner_references_permission_enforcement::OwnerReferencesPermissionEnforcement),
        "DenyServiceExternalIPs" => Arc::new(deny_service_external_ips::DenyServiceExternalIPs),
        "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" if !config.text("kubeConfigFile").is_empty() => {
            return Err("kubeConfigFile is not supported: webhooks are called without credentials".into());
        }
        "MutatingAdmissionWebhook" | "ValidatingAdmissionWebhook" | "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy"
            if !config.text("staticManifestsDir").is_empty() =>
        {
            return Err("staticManifestsDir is not supported (its feature gate is off in 1.36)".into());
        }
        "ResourceQuota" if config.is_some() => Arc::new(resource_quota::ResourceQuota::configured(config)?),
        "AlwaysDeny" => Arc::new(always_deny::AlwaysDeny),
        _ => return Ok(None),
    };
    Ok(Some(plugin))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options(enable: &[&str], disable: &[&str]) -> Options {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Options { enable: owned(enable), disable: owned(disable), configuration: BTreeMap::new() }
    }

    fn names(options: &Options) -> Vec<&'static str> {
        options.arrange(super::super::chain()).unwrap().iter().map(|plugin| plugin.name()).collect()
    }

    #[test]
    fn without_flags_it_is_the_chain() {
        let chain: Vec<&str> = super::super::chain().iter().map(|plugin| plugin.name()).collect();
        assert_eq!(names(&Options::default()), chain);
    }

    #[test]
    fn plugins_come_and_go_in_upstreams_order() {
        let found = names(&options(&["AlwaysPullImages", "NamespaceExists", "DenyServiceExternalIPs"], &["Priority", "PodSecurity"]));
        let at = |name: &str| found.iter().position(|one| *one == name);
        assert_eq!((at("Priority"), at("PodSecurity")), (None, None));
        assert!(at("NamespaceLifecycle") < at("NamespaceExists") && at("NamespaceExists") < at("LimitRanger"));
        assert!(at("TaintNodesByCondition") < at("AlwaysPullImages") && at("AlwaysPullImages") < at("DefaultTolerationSeconds"));
        // What is enabled is not turned off by its default.
        let off: Vec<&str> =
            ORDER.iter().filter(|(name, default)| *default == Off && *name != "ImagePolicyWebhook").map(|(name, _)| *name).collect();
        let mut all = options(&off, &[]);
        let limits = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration", "limits": [{"type": "Server", "qps": 1, "burst": 1}]});
        all.configuration.insert("EventRateLimit".into(), limits);
        let all = names(&all);
        assert!(off.iter().all(|name| all.contains(name)), "{all:?}");
        assert_eq!(all.last(), Some(&"AlwaysDeny"));
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        let of = |options: &Options| options.arrange(super::super::chain()).err().unwrap_or_default();
        assert_eq!(
            of(&options(&["Nothing", "Priority"], &["None", "Priority"])),
            "enable-admission-plugins plugin \"Nothing\" is unknown, disable-admission-plugins plugin \"None\" is unknown, \
             [Priority] in enable-admission-plugins and disable-admission-plugins overlapped"
        );
        assert!(of(&options(&["ImagePolicyWebhook"], &[])).contains("not supported"));
        assert!(of(&options(&["EventRateLimit"], &[])).ends_with("limits: Invalid value: []: must not be empty"));
        let mut other = Options::default();
        other.configuration.insert("PodSecurity".into(), json!({"apiVersion": "v1", "kind": "Pod"}));
        assert_eq!(of(&other), "failed to initialize admission plugin \"PodSecurity\": no kind \"Pod\" is registered for version \"v1\"");
        let security = |defaults: Value| json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration", "defaults": defaults});
        other.configuration.insert("PodSecurity".into(), security(json!({"enforce": "baseline"})));
        assert_eq!(of(&other), "");
        other.configuration.insert("PodSecurity".into(), security(json!({"enforce": "none"})));
        assert!(of(&other).contains("defaults.enforce: Invalid value: \"none\""));
        let misspelt = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration", "default": {}});
        other.configuration.insert("PodSecurity".into(), misspelt);
        assert!(of(&other).ends_with("strict decoding error: unknown field \"default\""));
        assert_eq!(other.unread(), Vec::<&str>::new());
        other.configuration.insert("PodSecurty".into(), json!({}));
        assert_eq!(other.unread(), ["PodSecurty"]);
    }
}
