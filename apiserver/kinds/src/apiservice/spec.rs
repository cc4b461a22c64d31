//! A stored APIService -> where its group version is served, leniently: another server may have stored it.

use api::Key;
use serde_json::Value;

use crate::common::{Read, webhook::bundle};

/// As upstream where nothing is said.
const PORT: u16 = 443;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    /// None where it is this server.
    pub service: Option<ServiceReference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReference {
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// Base64, as stored.
    ca_bundle: String,
    pub insecure: bool,
}

impl Spec {
    pub fn read(object: &Value) -> Self {
        let spec = object.at("spec");
        let service = spec.at("service").map(|service| ServiceReference {
            namespace: service.text("namespace").to_owned(),
            name: service.text("name").to_owned(),
            port: service.int("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(PORT),
            ca_bundle: spec.text("caBundle").to_owned(),
            insecure: spec.is_true("insecureSkipTLSVerify"),
        });
        Self {
            group: spec.text("group").to_owned(),
            version: spec.text("version").to_owned(),
            group_priority: spec.int("groupPriorityMinimum").unwrap_or_default(),
            version_priority: spec.int("versionPriority").unwrap_or_default(),
            service,
        }
    }
}

impl Spec {
    /// Whether both are of one group version at one place.
    pub fn leads_where(&self, other: &Self) -> bool {
        self.group == other.group && self.version == other.version && self.service == other.service
    }
}

impl ServiceReference {
    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    /// Whom its certificate names.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }

    /// PEM.
    ///
    /// # Errors
    /// It is no base64.
    pub fn ca_bundle(&self) -> Result<Vec<u8>, String> {
        bundle(&self.ca_bundle).map_err(|error| format!("caBundle: {error}"))
    }
}
