//! The spec of an ingress -> what is wrong with it, in upstream's words. Source: `ValidateIngressSpec` in `pkg/apis/networking/validation`.

use std::collections::BTreeSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::{
    common::{Path, Read, name_rules, well_formed},
    net,
};

const SPEC: Path<'static> = Path::new("spec");
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
const SEQUENCES: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const SUFFIXES: &[&str] = &["/..", "/."];
const NOT_AN_IP: &str = "must be a DNS name, not an IP address";

/// What an update may keep as it was (`IngressValidationOptions`).
#[derive(Clone, Copy, Default)]
pub struct Leniency {
    secret_names: bool,
    wildcard_rules: bool,
}

impl Leniency {
    pub fn of(old: Option<&Value>) -> Self {
        let bad_secret = |tls: &Value| !secret_name(tls.text("secretName")).is_empty();
        let bad_rule = |rule: &Value| {
            let mut causes = FieldErrors::default();
            http(rule.at("http"), Path::ROOT, &mut causes);
            rule.text("host").contains('*') && !causes.is_empty()
        };
        Self { secret_names: old.list("tls").iter().any(bad_secret), wildcard_rules: old.list("rules").iter().any(bad_rule) }
    }
}

pub fn spec(spec: Option<&Value>, lenient: Leniency, causes: &mut FieldErrors) {
    let (rules, default) = (spec.list("rules"), spec.at("defaultBackend"));
    if rules.is_empty() && default.is_none() {
        let none = spec.at("rules").cloned().unwrap_or(Value::Null);
        causes.invalid(SPEC, none, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = default {
        backend(Some(default), SPEC.field("defaultBackend"), causes);
    }
    let list = SPEC.field("rules");
    for (i, rule) in rules.iter().enumerate() {
        let (at, host) = (list.index(i), rule.text("host"));
        if !host.is_empty() {
            if net::parse(host).is_some() {
                causes.invalid(at.field("host"), host, NOT_AN_IP);
            }
            self::host(host, at.field("host"), causes);
        }
        if !(host.contains('*') && lenient.wildcard_rules) {
            http(rule.at("http"), at.field("http"), causes);
        }
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        self::tls(tls, lenient, SPEC.field("tls").index(i), causes);
    }
    if let Some(class) = spec.at("ingressClassName").and_then(Value::as_str) {
        well_formed(class, name_rules::dns_subdomain(class), SPEC.field("ingressClassName"), causes);
    }
}

/// One of the load balancer's addresses; those that stand there `before` are let pass.
pub fn address(address: &Value, before: &BTreeSet<&str>, path: Path<'_>, causes: &mut FieldErrors) {
    let (ip, host) = (address.text("ip"), address.text("hostname"));
    if !ip.is_empty() && !before.contains(ip) {
        well_formed(ip, net::ip(ip), path.field("ip"), causes);
    }
    if !host.is_empty() {
        well_formed(host, name_rules::dns_subdomain(host), path.field("hostname"), causes);
        if net::parse(host).is_some() {
            causes.invalid(path.field("hostname"), host, NOT_AN_IP);
        }
    }
}

fn host(host: &str, path: Path<'_>, causes: &mut FieldErrors) {
    let errors = if host.contains('*') { name_rules::wildcard_subdomain(host) } else { name_rules::dns_subdomain(host) };
    well_formed(host, errors, path, causes);
}

fn tls(tls: &Value, lenient: Leniency, path: Path<'_>, causes: &mut FieldErrors) {
    let list = path.field("hosts");
    for (i, name) in tls.list("hosts").iter().filter_map(Value::as_str).enumerate() {
        host(name, list.index(i), causes);
    }
    let secret = tls.text("secretName");
    if !lenient.secret_names {
        well_formed(secret, secret_name(secret), path.field("secretName"), causes);
    }
}

fn secret_name(name: &str) -> Vec<String> {
    if name.is_empty() { Vec::new() } else { name_rules::dns_subdomain(name) }
}

/// `validateHTTPIngressRuleValue`
fn http(http: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(http) = http else { return };
    let (paths, list) = (http.list("paths"), path.field("paths"));
    if paths.is_empty() {
        causes.required(list, "");
    }
    for (i, one) in paths.iter().enumerate() {
        http_path(one, list.index(i), causes);
    }
}

/// `validateHTTPIngressPath`
fn http_path(one: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let (at, text) = (path.field("path"), one.text("path"));
    let Some(kind) = one.at("pathType").and_then(Value::as_str) else {
        return causes.required(path.field("pathType"), "pathType must be specified");
    };
    match kind {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                causes.invalid(at, text, "must be an absolute path");
            }
            for part in SEQUENCES.iter().filter(|part| text.contains(**part)) {
                causes.invalid(at, text, &format!("must not contain '{part}'"));
            }
            for end in SUFFIXES.iter().filter(|end| text.ends_with(**end)) {
                causes.invalid(at, text, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                causes.invalid(at, text, "must be an absolute path");
            }
        }
        other => causes.not_supported(path.field("pathType"), other, PATH_TYPES),
    }
    backend(one.at("backend"), path.field("backend"), causes);
}

/// `validateIngressBackend`
fn backend(backend: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    match (backend.at("resource"), backend.at("service")) {
        (Some(_), Some(_)) => causes.invalid(path, "", "cannot set both resource and service backends"),
        (Some(resource), None) => reference(resource, path.field("resource"), causes),
        (None, Some(service)) => self::service(service, path, causes),
        (None, None) => causes.invalid(path, "", "resource or service backend is required"),
    }
}

fn service(service: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let at = path.field("service");
    match service.text("name") {
        "" => causes.required(at.field("name"), ""),
        name => well_formed(name, name_rules::dns_label(name), at.field("name"), causes),
    }
    let (port, port_path) = (service.at("port"), at.field("port"));
    match (port.text("name"), port.int("number").unwrap_or(0)) {
        ("", 0) => causes.required(path, "port name or number is required"),
        ("", number) => {
            for error in name_rules::port_number(number) {
                causes.invalid(port_path.field("number"), number, &error);
            }
        }
        (name, 0) => well_formed(name, name_rules::port_name(name), port_path.field("name"), causes),
        _ => causes.invalid(path, "", "cannot set both port name & port number"),
    }
}

/// `validateIngressTypedLocalObjectReference`
fn reference(reference: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(group) = reference.at("apiGroup").and_then(Value::as_str) {
        well_formed(group, name_rules::dns_subdomain(group), path.field("apiGroup"), causes);
    }
    for field in ["kind", "name"] {
        match reference.text(field) {
            "" => causes.required(path.field(field), ""),
            text => well_formed(text, name_rules::path_segment(text), path.field(field), causes),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(of: &Value, lenient: Leniency) -> Vec<String> {
        let mut causes = FieldErrors::default();
        spec(Some(of), lenient, &mut causes);
        causes.0.iter().map(|c| c.text()).collect()
    }

    fn rule(host: &str, path: Value) -> Value {
        json!({"rules": [{"host": host, "http": {"paths": [path]}}]})
    }

    #[test]
    fn each_rule_has_its_words() {
        let good = json!({"service": {"name": "1s", "port": {"number": 80}}});
        let path = |text: &str, kind: &str| json!({"path": text, "pathType": kind, "backend": good});
        let at = "spec.rules[0].http.paths[0]";
        let cases: Vec<(Value, Vec<String>)> = vec![
            (rule("a.example", path("/", "Prefix")), vec![]),
            (rule("*.example", path("", "ImplementationSpecific")), vec![]),
            (json!({}), vec!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified".into()]),
            (
                rule("", path("a//b/.", "Exact")),
                vec![
                    format!("{at}.path: Invalid value: \"a//b/.\": must be an absolute path"),
                    format!("{at}.path: Invalid value: \"a//b/.\": must not contain '//'"),
                    format!("{at}.path: Invalid value: \"a//b/.\": cannot end with '/.'"),
                ],
            ),
            (rule("", json!({"backend": good})), vec![format!("{at}.pathType: Required value: pathType must be specified")]),
            (
                rule("", json!({"path": "/", "pathType": "Exact", "backend": {"service": {"port": {"name": "a", "number": 1}}}})),
                vec![
                    format!("{at}.backend.service.name: Required value"),
                    format!("{at}.backend: Invalid value: \"\": cannot set both port name & port number"),
                ],
            ),
            (
                json!({"defaultBackend": {"resource": {"kind": "..", "name": "a/b"}}, "rules": [{"http": {"paths": []}}]}),
                vec![
                    "spec.defaultBackend.resource.kind: Invalid value: \"..\": may not be '..'".into(),
                    "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'".into(),
                    "spec.rules[0].http.paths: Required value".into(),
                ],
            ),
        ];
        for (of, wanted) in cases {
            assert_eq!(texts(&of, Leniency::default()), wanted, "{of}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let old = json!({"rules": [{"host": "*.a", "http": {"paths": []}}], "tls": [{"secretName": "A"}]});
        assert_eq!(texts(&old, Leniency::default()).len(), 2);
        assert_eq!(texts(&old, Leniency::of(Some(&old))), Vec::<String>::new());
    }
}
