//! Secret: the strategy of what is kept in confidence: types with the keys they require, `stringData` folded into `data`, immutability.
//!
//! Source: `pkg/registry/core/secret/strategy.go`, `pkg/apis/core/validation`, `ValidateSecret`.

use std::borrow::Cow;

use api::{field_errors::FieldErrors, time::Timestamp};
use apiserver::kind::{Column, Ctx, Field, Kind, MetaCheck, Strategy};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use crate::{
    common::{self, Path, Read, edit, read, table},
    configmap::{SIZE_MAX, bytes_map, immutable},
};

const COLUMNS: &[Column] = &[
    table::NAME_COLUMN,
    table::column("Type", "string", "Used to facilitate programmatic handling of secret data."),
    table::column("Data", "string", "Data contains the secret data. Keys consist of alphanumeric characters, '-', '_' or '.'."),
    table::AGE_COLUMN,
];
const FIELDS: &[Field] = &[table::field("type", "/type", "")];

pub fn kind() -> Kind {
    Kind {
        columns: Cow::Borrowed(COLUMNS),
        fields: Cow::Borrowed(FIELDS),
        ..common::kind("", "v1", "Secret", "secrets", "io.k8s.api.core.v1", Secrets)
    }
}

struct Secrets;

impl Strategy for Secrets {
    fn default(&self, object: &mut Value) {
        edit::default_text(object, "type", "Opaque");
        fold_string_data(object);
    }

    fn prepare_update(&self, _ctx: &Ctx<'_>, new: &mut Value, old: &Value) {
        let kept = old.text("type").to_owned();
        edit::default_text(new, "type", &kept);
    }

    fn validate_create(&self, object: &Value, causes: &mut FieldErrors) {
        if bytes_map(object, "data", causes) > SIZE_MAX {
            causes.too_long("data", SIZE_MAX);
        }
        required(object, causes);
    }

    /// What has changed comes first.
    fn validate_update(&self, new: &Value, old: &Value, causes: &mut FieldErrors) {
        common::unchanged(new.at("type"), old.at("type"), Path::new("type"), causes);
        immutable(new, old, &["data"], causes);
        self.validate_create(new, causes);
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        (new.text("type") == "kubernetes.io/tls").then(|| no_pem(new)).flatten().into_iter().collect()
    }

    fn meta_check(&self) -> MetaCheck {
        MetaCheck::Both
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = object.object("data").map_or(0, Map::len);
        vec![read::name(object).into(), object.text("type").into(), count.into(), table::age(object, now)]
    }
}

/// What of `X509KeyPair` needs no parser: a TLS secret in which there is no certificate, or no key.
fn no_pem(secret: &Value) -> Option<String> {
    let has = |key: &str| {
        let bytes = BASE64_STANDARD.decode(secret.at("data").text(key)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().any(|line| line.starts_with("-----BEGIN "))
    };
    let input = [("tls.crt", "certificate"), ("tls.key", "key")].into_iter().find(|(key, _)| !has(key))?.1;
    Some(format!("tls: failed to find any PEM data in {input} input"))
}

/// `stringData` is written only: its values win over those of `data` and are stored there.
fn fold_string_data(object: &mut Value) {
    let Some(strings) = object.as_object_mut().and_then(|o| o.shift_remove("stringData")) else { return };
    let Some(strings) = strings.as_object().filter(|s| !s.is_empty()) else { return };
    let Some(data) = edit::make_child(object, "data") else { return };
    for (key, value) in strings {
        edit::set(data, key, BASE64_STANDARD.encode(value.as_str().unwrap_or("")));
    }
}

/// What each type cannot be without.
fn required(object: &Value, causes: &mut FieldErrors) {
    let has = |key: &str| object.at("data").at(key).is_some();
    let data = Path::new("data");
    let need = |key: &str, causes: &mut FieldErrors| {
        if !has(key) {
            causes.required(data.key(key), "");
        }
    };
    match object.text("type") {
        "kubernetes.io/service-account-token" => service_account_name(object, causes),
        "kubernetes.io/dockercfg" => docker_config(object, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => docker_config(object, ".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username", causes);
            need("password", causes);
        }
        "kubernetes.io/ssh-auth" if object.at("data").text("ssh-privatekey").is_empty() => causes.required(data.key("ssh-privatekey"), ""),
        "kubernetes.io/tls" => {
            need("tls.crt", causes);
            need("tls.key", causes);
        }
        _ => {}
    }
}

fn service_account_name(object: &Value, causes: &mut FieldErrors) {
    const NAME: &str = "kubernetes.io/service-account.name";
    if object.at("metadata").at("annotations").text(NAME).is_empty() {
        causes.required(Path::new("metadata.annotations").key(NAME), "");
    }
}

/// The value is a JSON object.
fn docker_config(object: &Value, key: &str, causes: &mut FieldErrors) {
    let path = Path::new("data");
    let Some(value) = object.at("data").at(key).and_then(Value::as_str) else { return causes.required(path.key(key), "") };
    let bytes = BASE64_STANDARD.decode(value).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        causes.invalid(path.key(key), "<secret contents redacted>", &error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(object: &Value) -> Vec<String> {
        let mut causes = FieldErrors::default();
        Secrets.validate_create(object, &mut causes);
        causes.0.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn string_data_wins_and_goes() {
        let mut secret = json!({"stringData": {"a": "new", "b": "x"}, "data": {"a": "b2xk", "c": "Yw=="}});
        Secrets.default(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "bmV3", "c": "Yw==", "b": "eA=="}, "type": "Opaque"}));
        let once = secret.clone();
        Secrets.default(&mut secret);
        assert_eq!(secret, once);
    }

    #[test]
    fn types_require_their_keys() {
        let cases: [(Value, &[&str]); 10] = [
            (json!({"type": "Opaque"}), &[]),
            (json!({"type": "kubernetes.io/service-account-token"}), &["metadata.annotations[kubernetes.io/service-account.name]"]),
            (json!({"type": "kubernetes.io/dockercfg"}), &["data[.dockercfg]"]),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "W10="}}), &["data[.dockerconfigjson]"]),
            (json!({"type": "kubernetes.io/basic-auth"}), &["data[username]", "data[password]"]),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), &[]),
            (json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}), &["data[ssh-privatekey]"]),
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), &["data[tls.key]"]),
            (json!({"type": "x", "data": {"a b": "?"}}), &["data[a b]", "data[a b]"]),
        ];
        for (object, wanted) in cases {
            assert_eq!(fields(&object), wanted, "{object}");
        }
    }

    #[test]
    fn the_type_stays() {
        let (new, old) = (json!({"type": "Opaque"}), json!({"type": "a"}));
        let mut causes = FieldErrors::default();
        Secrets.validate_update(&new, &old, &mut causes);
        assert_eq!(causes.0[0].text(), r#"type: Invalid value: "Opaque": field is immutable"#);
    }

    #[test]
    fn what_has_changed_is_told_first() {
        let mut causes = FieldErrors::default();
        Secrets.validate_update(&json!({"type": "kubernetes.io/tls"}), &json!({"type": "Opaque"}), &mut causes);
        assert_eq!(causes.0.into_iter().map(|c| c.field).collect::<Vec<_>>(), ["type", "data[tls.crt]", "data[tls.key]"]);
    }

    #[test]
    fn a_tls_secret_without_pem_is_warned_of() {
        let told = |certificate: &str, key: &str| {
            let data = json!({"tls.crt": BASE64_STANDARD.encode(certificate), "tls.key": BASE64_STANDARD.encode(key)});
            Secrets.warnings(&json!({"type": "kubernetes.io/tls", "data": data}), None)
        };
        let pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";
        assert_eq!(told("x", "y"), ["tls: failed to find any PEM data in certificate input"]);
        assert_eq!(told(pem, "y"), ["tls: failed to find any PEM data in key input"]);
        assert!(told(pem, pem).is_empty());
        assert!(Secrets.warnings(&json!({"type": "Opaque"}), None).is_empty());
    }

    #[test]
    fn cells_show_the_number_of_keys() {
        let cells = Secrets.cells(&json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"a": ""}}), Timestamp::UNIX_EPOCH);
        assert_eq!(cells, [json!("s"), json!("Opaque"), json!(1), json!("<unknown>")]);
    }
}
