//! Ports of containers, and ports that probes name -> what is wrong with them.

use std::collections::HashSet;

use api::field_errors::FieldErrors;
use serde_json::Value;

use crate::common::{Path, Read, name_rules, one_of, well_formed};

/// `validateContainerPorts`
pub fn container(ports: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        name(port.text("name"), &mut names, at.field("name"), causes);
        match port.int("containerPort").unwrap_or(0) {
            0 => causes.required(at.field("containerPort"), ""),
            n => number(n, at.field("containerPort"), causes),
        }
        if let Some(host) = port.int("hostPort").filter(|p| *p != 0) {
            number(host, at.field("hostPort"), causes);
        }
        one_of(port.text("protocol"), &["SCTP", "TCP", "UDP"], at.field("protocol"), causes);
    }
}

/// `checkHostPortConflicts`: a host port is used once per protocol and host address.
pub fn host_conflicts(containers: &[Value], path: Path<'_>, causes: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        let list = at.field("ports");
        for (j, port) in container.list("ports").iter().enumerate() {
            let Some(number) = port.int("hostPort").filter(|p| *p != 0) else { continue };
            let used = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if !seen.insert(used.clone()) {
                causes.duplicate(list.index(j).field("hostPort"), used);
            }
        }
    }
}

/// `ValidatePortNumOrName`
pub fn number_or_name(port: Option<&Value>, path: Path<'_>, causes: &mut FieldErrors) {
    match port {
        Some(Value::String(name)) => well_formed(name, name_rules::port_name(name), path, causes),
        other => number(other.and_then(Value::as_i64).unwrap_or(0), path, causes),
    }
}

pub fn number(port: i64, path: Path<'_>, causes: &mut FieldErrors) {
    for error in name_rules::port_number(port) {
        causes.invalid(path, port, &error);
    }
}

fn name<'v>(name: &'v str, names: &mut HashSet<&'v str>, path: Path<'_>, causes: &mut FieldErrors) {
    if name.is_empty() {
        return;
    }
    let errors = name_rules::port_name(name);
    if !errors.is_empty() {
        well_formed(name, errors, path, causes);
    } else if !names.insert(name) {
        causes.duplicate(path, name);
    }
}
