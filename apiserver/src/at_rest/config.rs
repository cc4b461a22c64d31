//! `EncryptionConfiguration` (apiserver.config.k8s.io/v1): read strictly, and judged.
//!
//! Sources: apiserver `pkg/apis/apiserver/v1/types_encryption.go`, `pkg/apis/apiserver/validation/validation_encryption.go`.

use std::{collections::HashSet, time::Duration};

use api::field_errors::FieldErrors;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
/// `defaultTimeout` of a KMS.
const TIMEOUT: SignedDuration = SignedDuration::from_secs(3);
const AES_KEYS: &[usize] = &[16, 24, 32];
const SECRETBOX_KEYS: &[usize] = &[32];

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Config {
    api_version: String,
    kind: String,
    #[serde(deserialize_with = "or_nothing")]
    pub resources: Vec<Rule>,
}

/// `ResourceConfiguration`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(deserialize_with = "or_nothing")]
    pub resources: Vec<String>,
    #[serde(deserialize_with = "or_nothing")]
    pub providers: Vec<ProviderConfig>,
}

/// `ProviderConfiguration`: one of them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct ProviderConfig {
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub identity: Option<Identity>,
    pub kms: Option<KmsConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Keys {
    #[serde(deserialize_with = "or_nothing")]
    keys: Vec<KeyConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct KeyConfig {
    name: String,
    secret: String,
}

/// `KMSConfiguration`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct KmsConfig {
    pub api_version: String,
    pub name: String,
    #[serde(rename = "cachesize")]
    cache_size: Option<i32>,
    pub endpoint: String,
    timeout: Option<String>,
}

/// Null is a zero value, as Go reads it.
fn or_nothing<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Option::deserialize(reader).map(Option::unwrap_or_default)
}

impl std::fmt::Debug for KeyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {:?}", self.name)
    }
}

impl Config {
    /// `path` is what errors name. `reload`: names of KMSs must be unique.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(path: &str, text: &str, reload: bool) -> Result<Self, String> {
        if text.is_empty() {
            return Err(format!("error while loading file: encryption provider configuration file {path:?} is empty"));
        }
        let undecoded = |why: String| format!("error decoding encryption provider configuration file {path:?}: {why}");
        let parsed = crate::parse::yaml(text.as_bytes()).map_err(undecoded)?;
        let word = |name: &str| parsed.value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        for (name, value) in [("Kind", &kind), ("apiVersion", &api_version)] {
            if value.is_empty() {
                return Err(undecoded(format!("Object '{name}' is missing in '{}'", parsed.value)));
            }
        }
        if api_version != API_VERSION || kind != "EncryptionConfiguration" {
            return Err(undecoded(format!("no kind {kind:?} is registered for version {api_version:?}")));
        }
        if let Some(path) = parsed.duplicates.first() {
            return Err(undecoded(format!("strict decoding error: key {path:?} already set in map")));
        }
        let config: Self = serde_json::from_value(parsed.value).map_err(|error| undecoded(format!("strict decoding error: {error}")))?;
        let mut causes = FieldErrors::default();
        config.validate(reload, &mut causes);
        let texts: Vec<String> = causes.0.iter().map(|cause| cause.text()).collect();
        match texts.as_slice() {
            [] => Ok(config),
            [one] => Err(one.clone()),
            all => Err(format!("[{}]", all.join(", "))),
        }
    }

    fn validate(&self, reload: bool, causes: &mut FieldErrors) {
        if self.resources.is_empty() {
            return causes.required("resources", "at least one resources is required");
        }
        let mut kms_names = HashSet::new();
        for (at, rule) in self.resources.iter().enumerate() {
            let (resources, providers) = (format!("resources[{at}].resources"), format!("resources[{at}].providers"));
            if rule.resources.is_empty() {
                causes.required(resources.as_str(), &format!("at least one {resources} is required"));
            }
            overlaps(&rule.resources, &resources, causes);
            names(&rule.resources, &resources, causes);
            if rule.providers.is_empty() {
                causes.required(providers.as_str(), &format!("at least one {providers} is required"));
            }
            for (at, provider) in rule.providers.iter().enumerate() {
                provider.validate(&format!("{providers}[{at}]"), reload, &mut kms_names, causes);
            }
        }
    }
}

/// `validateResourceOverlap`
fn overlaps(resources: &[String], path: &str, causes: &mut FieldErrors) {
    let parsed: Vec<(String, String)> = resources.iter().map(|name| parse_resource(name)).collect();
    let (mut duplicate, mut overlap) = (false, false);
    for (at, (group, resource)) in parsed.iter().enumerate() {
        for (_, (other_group, other)) in parsed.iter().enumerate().filter(|(other, _)| *other != at) {
            if group == other_group && resource == other && !duplicate {
                duplicate = true;
                continue;
            }
            let is_all = group == "*" && resource == "*";
            overlap |= is_all || group == other_group && (resource == "*" || other == "*");
        }
    }
    if duplicate {
        causes.invalid(path, resources.to_vec(), "the same resource cannot be specified multiple times");
    }
    if overlap {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        causes.invalid(path, resources.to_vec(), why);
    }
}

/// `validateResourceNames`
fn names(resources: &[String], path: &str, causes: &mut FieldErrors) {
    for (at, name) in resources.iter().enumerate() {
        let (group, resource) = parse_resource(name);
        let why = if name.to_lowercase() != *name {
            "resource name should not contain capital letters"
        } else if name == "*" {
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
        } else if matches!(name.as_str(), "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
            "resources which do not have REST API/s cannot be encrypted"
        } else if group == "events.k8s.io" {
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
        } else if group == "extensions" {
            "'extensions' group has been removed and cannot be used for encryption"
        } else if group == "*" && resource != "*" {
            "encrypting the same resource across groups is not supported"
        } else {
            continue;
        };
        causes.invalid(format!("{path}[{at}]"), name.as_str(), why);
    }
}

impl ProviderConfig {
    fn validate(&self, path: &str, reload: bool, kms_names: &mut HashSet<String>, causes: &mut FieldErrors) {
        let given = [self.aesgcm.is_some(), self.aescbc.is_some(), self.secretbox.is_some(), self.identity.is_some(), self.kms.is_some()];
        let what = |why: &str, causes: &mut FieldErrors| causes.invalid(path, "provider", why);
        match given.iter().filter(|given| **given).count() {
            0 => what("provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity", causes),
            1 => {}
            _ => what("more than one provider specified in a single element, should split into different list elements", causes),
        }
        if let Some(kms) = &self.kms {
            kms.validate(&format!("{path}.kms"), reload, kms_names, causes);
            kms_names.insert(kms.name.clone());
        } else if let Some(keys) = &self.aesgcm {
            keys.validate(&format!("{path}.aesgcm.keys"), AES_KEYS, causes);
        } else if let Some(keys) = &self.aescbc {
            keys.validate(&format!("{path}.aescbc.keys"), AES_KEYS, causes);
        } else if let Some(keys) = &self.secretbox {
            keys.validate(&format!("{path}.secretbox.keys"), SECRETBOX_KEYS, causes);
        }
    }
}

impl Keys {
    /// `validateKeys`. No key is told.
    fn validate(&self, path: &str, lengths: &[usize], causes: &mut FieldErrors) {
        if self.keys.is_empty() {
            causes.required(path, "at least one keys is required");
        }
        for (at, key) in self.keys.iter().enumerate() {
            if key.name.is_empty() {
                causes.required(format!("{path}[{at}].name"), "name is a mandatory field for a key");
            }
            let secret = format!("{path}[{at}].secret");
            match STANDARD.decode(&key.secret) {
                _ if key.secret.is_empty() => causes.required(secret, "secret is a mandatory field for a key"),
                Err(_) => causes.invalid(secret, "REDACTED", "secrets must be base64 encoded"),
                Ok(bytes) if !lengths.contains(&bytes.len()) => {
                    let words: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                    let why = format!("secret is not of the expected length, got {}, expected one of [{}]", bytes.len(), words.join(" "));
                    causes.invalid(secret, "REDACTED", &why);
                }
                Ok(_) => {}
            }
        }
    }

    /// Names and keys, of what has been validated.
    pub fn decoded(&self) -> impl Iterator<Item = (&str, Vec<u8>)> {
        self.keys.iter().map(|key| (key.name.as_str(), STANDARD.decode(&key.secret).unwrap_or_default()))
    }
}

impl KmsConfig {
    /// v1 where nothing is said.
    pub fn version(&self) -> &str {
        if self.api_version.is_empty() { "v1" } else { &self.api_version }
    }

    /// How long each call may take; 3 s where nothing is said.
    pub fn timeout(&self) -> Duration {
        self.given_timeout().and_then(|timeout| timeout.try_into().ok()).unwrap_or_default()
    }

    fn given_timeout(&self) -> Option<SignedDuration> {
        match self.timeout.as_deref() {
            None => Some(TIMEOUT),
            Some(text) => text.parse().ok(),
        }
    }

    /// The socket's path; an abstract one begins with a null.
    pub fn socket(&self) -> String {
        let rest = self.endpoint.strip_prefix("unix:").unwrap_or_default();
        let path = rest.strip_prefix("//").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(rest);
        path.strip_prefix("/@").map_or_else(|| path.to_owned(), |name| format!("\0{name}"))
    }

    /// `validateKMSConfiguration`
    fn validate(&self, path: &str, reload: bool, others: &HashSet<String>, causes: &mut FieldErrors) {
        let name = format!("{path}.name");
        if self.name.is_empty() {
            causes.required(name.as_str(), "name is a mandatory field for a provider");
        }
        if self.version() != "v1" && self.name.contains(':') {
            causes.invalid(name.as_str(), self.name.as_str(), &format!("invalid KMS provider name {}, must not contain ':'", self.name));
        }
        if (reload || self.version() != "v1") && others.contains(&self.name) {
            causes.invalid(name, self.name.as_str(), &format!("duplicate KMS provider name {}, names must be unique", self.name));
        }
        if self.given_timeout().is_none_or(|timeout| !timeout.is_positive()) {
            causes.invalid(format!("{path}.timeout"), self.timeout.as_deref().unwrap_or_default(), "timeout should be a positive value");
        }
        let endpoint = format!("{path}.endpoint");
        match self.endpoint.split_once(':').map(|(scheme, _)| scheme) {
            _ if self.endpoint.is_empty() => causes.invalid(endpoint, "", "endpoint is a mandatory field for a kms"),
            Some("unix") => {}
            scheme => {
                let why = format!("unsupported scheme {:?} for KMS provider, only unix is supported", scheme.unwrap_or_default());
                causes.invalid(endpoint, self.endpoint.as_str(), &why);
            }
        }
        match (self.version(), self.cache_size) {
            ("v1", Some(0)) => {
                causes.invalid(format!("{path}.cachesize"), 0, "cachesize should be a positive value, or negative to disable");
            }
            ("v1", _) | (_, None) => {}
            (_, Some(size)) => causes.invalid(format!("{path}.cachesize"), size, "cachesize is not supported in v2"),
        }
        if !matches!(self.version(), "v1" | "v2") {
            let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
            causes.invalid(format!("{path}.apiVersion"), self.version(), why);
        }
    }
}

/// `schema.ParseGroupResource`: group and resource.
pub(super) fn parse_resource(name: &str) -> (String, String) {
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    (group.to_owned(), resource.to_owned())
}

/// As it is written in the file.
pub(super) fn yaml_name(group: &str, resource: &str) -> String {
    match (group, resource) {
        ("", "*") => "*.".to_owned(),
        ("", resource) => resource.to_owned(),
        (group, resource) => format!("{resource}.{group}"),
    }
}
