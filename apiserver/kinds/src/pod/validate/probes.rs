//! Probes and lifecycle hooks -> what is wrong with them.

use api::field_errors::FieldErrors;
use serde_json::Value;

use super::{Whole, ports};
use crate::common::{Path, Read, name_rules, not_negative, not_supported, well_formed};

const NUMBERS: [&str; 5] = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// Hooks and the three probes of a container that keeps running.
pub fn all(container: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(lifecycle) = container.at("lifecycle") {
        hooks(lifecycle, whole, path.field("lifecycle"), causes);
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(found) = container.at(name) else { continue };
        let at = path.field(name);
        probe(found, whole, at, causes);
        let successes = found.int("successThreshold").unwrap_or(0);
        if name != "readinessProbe" && successes != 1 {
            causes.invalid(at.field("successThreshold"), successes, "must be 1");
        }
        if name == "readinessProbe"
            && let Some(seconds) = found.int("terminationGracePeriodSeconds")
        {
            causes.invalid(at.field("terminationGracePeriodSeconds"), seconds, "must not be set for readinessProbes");
        }
    }
}

/// `validateProbe`
fn probe(probe: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], whole, path, causes);
    for name in NUMBERS {
        not_negative(probe.int(name), path.field(name), causes);
    }
    if let Some(seconds) = probe.int("terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        causes.invalid(path.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

/// `validateLifecycle`
fn hooks(lifecycle: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    for name in ["postStart", "preStop"] {
        if let Some(hook) = lifecycle.at(name) {
            handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], whole, path.field(name), causes);
        }
    }
}

/// `validateHandler`: one of `types`, and that one well-formed.
fn handler(handler: &Value, types: &[&str], whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let mut found = types.iter().filter_map(|t| Some((*t, handler.at(t)?)));
    match found.next() {
        None => return causes.required(path, "must specify a handler type"),
        Some((name, action)) => check(name, action, whole, path.field(name), causes),
    }
    for (name, _) in found {
        causes.forbidden(path.field(name), "may not specify more than 1 handler type");
    }
}

fn check(name: &str, action: &Value, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    match name {
        "exec" if action.list("command").is_empty() => causes.required(path.field("command"), ""),
        "httpGet" => http_get(action, path, causes),
        "tcpSocket" | "grpc" => ports::number_or_name(action.at("port"), path.field("port"), causes),
        "sleep" => sleep(action.int("seconds").unwrap_or(0), whole, path, causes),
        _ => {}
    }
}

/// `validateHTTPGetAction`
fn http_get(action: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    if action.text("path").is_empty() {
        causes.required(path.field("path"), "");
    }
    ports::number_or_name(action.at("port"), path.field("port"), causes);
    let scheme = action.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        not_supported(scheme, &["HTTP", "HTTPS"], path.field("scheme"), causes);
    }
    for header in action.list("httpHeaders") {
        let name = header.text("name");
        well_formed(name, name_rules::header_name(name), path.field("httpHeaders"), causes);
    }
}

/// `validateSleepAction`
fn sleep(seconds: i64, whole: &Whole<'_>, path: Path<'_>, causes: &mut FieldErrors) {
    let Some(grace) = whole.grace_seconds() else { return };
    if seconds < 0 || seconds > grace {
        let text = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        causes.invalid(path, seconds, &text);
    }
}
