//! The workspace's manifests -> the arrows between rooms; each must be one of the floor plan (ARCHITECTURE.md), and each is used.

use std::{collections::HashSet, fs};

use crate::source::{Source, root, sources, tracked, words};

/// Who may know whom. Tests (dev-dependencies) may have real neighbours.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("cri", &[]),
    ("csi", &[]),
    ("etcdpb", &[]),
    ("podspec", &["api"]),
    ("cel", &["api"]),
    ("store", &["etcdpb"]),
    ("client", &["api", "podspec"]),
    ("apiserver", &["api", "store"]),
    ("kinds", &["api", "apiserver", "cel", "podspec"]),
    ("apiextensions", &["api", "apiserver", "cel", "kinds"]),
    ("identity", &["api", "apiserver", "cel"]),
    // For tests: nobody may know it but as a dev-dependency.
    ("door", &["api", "apiextensions", "apiserver", "client", "kinds", "store"]),
    ("reconcile", &["api", "client"]),
    ("controllers", &["api", "client", "podspec", "reconcile"]),
    ("scheduler", &["api", "client", "podspec", "reconcile"]),
    ("kubelet", &["api", "client", "cri", "csi", "podspec", "reconcile"]),
    ("hollow", &["api", "client"]),
    ("proxy", &["api", "client", "reconcile"]),
    ("pages", &[]),
    (
        "e2e",
        &["api", "apiserver", "client", "controllers", "csi", "hollow", "kinds", "kubelet", "proxy", "reconcile", "scheduler", "store"],
    ),
    (
        "skiff",
        &[
            "api",
            "apiextensions",
            "apiserver",
            "client",
            "controllers",
            "hollow",
            "identity",
            "kinds",
            "kubelet",
            "pages",
            "proxy",
            "reconcile",
            "scheduler",
            "store",
        ],
    ),
];

/// Named by code that is generated, or there for its features.
const UNNAMED: &[(&str, &str)] = &[
    ("cri", "prost-types"),
    ("cri", "tonic-prost"),
    ("csi", "prost"),
    ("csi", "tonic-prost"),
    ("etcdpb", "prost"),
    ("etcdpb", "tonic-prost"),
    ("proxy", "idna_adapter"),
];

pub fn offences() -> Vec<String> {
    manifests().flat_map(|(_, text)| of_manifest(&text)).collect()
}

/// Dependencies that no line of the crate names, tests and comments aside.
pub fn unused() -> Vec<String> {
    let sources = sources();
    manifests().flat_map(|(dir, text)| unused_of(&dir, &text, &sources)).collect()
}

/// The folder (with a slash at its end, or empty) and the text of each.
fn manifests() -> impl Iterator<Item = (String, String)> {
    let manifests = tracked().into_iter().filter(|p| p.ends_with("Cargo.toml") && !p.starts_with("xtask/"));
    manifests.map(|path| (path.trim_end_matches("Cargo.toml").to_owned(), fs::read_to_string(root().join(path)).unwrap()))
}

fn unused_of(dir: &str, manifest: &str, sources: &[Source]) -> Vec<String> {
    let (name, dependencies) = read(manifest);
    let (src, build) = (format!("{dir}src/"), format!("{dir}build.rs"));
    let own = sources.iter().filter(|s| !s.is_test && (s.path.starts_with(&src) || s.path == build));
    let named: HashSet<&str> = own.flat_map(Source::code).flat_map(|(_, line)| words(line)).collect();
    let unnamed = dependencies.iter().filter(|d| !named.contains(d.replace('-', "_").as_str()) && !UNNAMED.contains(&(&name, d)));
    unnamed.map(|d| format!("{name} -> {d}: nothing in {src} names it")).collect()
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

#[test]
fn a_dependency_that_only_tests_name_is_an_offence() {
    let manifest =
        "[package]\nname = \"x\"\n[dependencies]\nserde_json.workspace = true\ntokio-util.workspace = true\nrand.workspace = true\n";
    let text = "use serde_json::json;\n// rand is good\n#[cfg(test)]\nmod tests {\n    use tokio_util::io;\n}\n";
    let own = Source { path: "x/src/lib.rs".into(), text: text.into(), is_test: false };
    let of_other = Source { path: "y/src/lib.rs".into(), text: "use rand::Rng;\n".into(), is_test: false };
    let found = unused_of("x/", manifest, &[own, of_other]);
    assert_eq!(found, ["x -> tokio-util: nothing in x/src/ names it", "x -> rand: nothing in x/src/ names it"]);
}
