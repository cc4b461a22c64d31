//! The workspace's manifests -> the arrows between rooms; each must be one of the floor plan (ARCHITECTURE.md).

use std::fs;

use crate::source::{root, tracked};

/// Who may know whom. Tests (dev-dependencies) may have real neighbours.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("cri", &[]),
    ("store", &[]),
    ("client", &["api"]),
    ("apiserver", &["api", "store"]),
    ("kinds", &["api", "apiserver"]),
    // For tests: nobody may know it but as a dev-dependency.
    ("door", &["api", "apiserver", "client", "kinds", "store"]),
    ("reconcile", &["api", "client"]),
    ("controllers", &["api", "client", "reconcile"]),
    ("scheduler", &["api", "client", "reconcile"]),
    ("kubelet", &["api", "client", "cri", "reconcile"]),
    ("hollow", &["api", "client"]),
    ("proxy", &["api", "client", "reconcile"]),
    ("e2e", &["api", "apiserver", "client", "controllers", "hollow", "kinds", "kubelet", "proxy", "reconcile", "scheduler", "store"]),
    ("skiff", &["api", "apiserver", "client", "controllers", "hollow", "kinds", "kubelet", "proxy", "reconcile", "scheduler", "store"]),
];

pub fn offences() -> Vec<String> {
    let manifests = tracked().into_iter().filter(|p| p.ends_with("Cargo.toml") && !p.starts_with("xtask/"));
    manifests.flat_map(|path| of_manifest(&fs::read_to_string(root().join(path)).unwrap())).collect()
}

fn of_manifest(text: &str) -> Vec<String> {
    let (name, dependencies) = read(text);
    let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == name) else {
        return vec![format!("crate {name:?} is not in the floor plan")];
    };
    let rooms = dependencies.iter().filter(|d| ARROWS.iter().any(|(room, _)| room == d));
    rooms.filter(|d| !allowed.contains(&d.as_str())).map(|d| format!("{name} -> {d}: no such arrow in the floor plan")).collect()
}

/// The package's name and the names in `[dependencies]`.
fn read(text: &str) -> (String, Vec<String>) {
    let (mut section, mut name, mut dependencies) = (String::new(), String::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            header.trim_end_matches(']').clone_into(&mut section);
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        match section.as_str() {
            "package" if key.trim() == "name" => value.trim().trim_matches('"').clone_into(&mut name),
            "dependencies" => dependencies.push(key.trim().split('.').next().unwrap().to_owned()),
            _ => {}
        }
    }
    (name, dependencies)
}

#[test]
fn an_arrow_sideways_is_an_offence() {
    let manifest = "[package]\nname = \"scheduler\"\n[dependencies]\nkubelet.workspace = true\nclient = { path = \"x\" }\n[dev-dependencies]\nkinds.workspace = true\n";
    assert_eq!(of_manifest(manifest), ["scheduler -> kubelet: no such arrow in the floor plan"]);
}
