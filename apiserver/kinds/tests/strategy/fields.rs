//! The sources of the strategies -> every field that they read or write by its name exists in the schema: a misspelt one would be read as absent.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

/// Methods and functions of `common::{read, edit}` that take a field's name, as the last text before the bracket or comma behind it.
const METHODS: [&str; 8] = ["at", "text", "int", "flag", "is_true", "list", "object", "entries"];
const FUNCTIONS: [&str; 10] =
    ["child", "make_child", "default_to", "default_text", "default_number", "each", "set", "remove", "carry", "part"];
/// Keys of maps, a field of RangeAllocation, which is stored and never served, and what configurations of admission plugins and the annotation
/// `preferAvoidPods` name.
const NO_FIELDS: &[&str] = &[
    "endpoints.kubernetes.io/managed-by",
    "endpointslice.kubernetes.io/managed-by",
    "ssh-privatekey",
    "range",
    "ca.crt",
    "usage",
    "window",
    "cacheSize",
    "defaults",
    "exemptions",
    "kubeConfigFile",
    "limitedResources",
    "matchScopes",
    "podNodeSelectorPluginConfig",
    "staticManifestsDir",
    "preferAvoidPods",
    "podSignature",
    "podController",
    "whitelist",
];

fn sources(dir: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            all.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
}

/// The text that begins right behind `at`, if one does.
fn literal(text: &str, at: usize) -> Option<&str> {
    text.get(at..)?.strip_prefix('"')?.split('"').next()
}

/// Names of fields in a source.
fn named(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for method in METHODS {
        let call = format!(".{method}(");
        found.extend(text.match_indices(&call).filter_map(|(at, _)| literal(text, at + call.len())));
    }
    for function in FUNCTIONS {
        let call = format!("{function}(");
        for (at, _) in text.match_indices(&call) {
            let is_whole = !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
            let arguments = text[at + call.len()..].split([')', ';', '{']).next().unwrap_or_default();
            let name = arguments.find(", \"").and_then(|comma| literal(arguments, comma + 2));
            found.extend(name.filter(|_| is_whole));
        }
    }
    found
}

#[test]
fn every_field_that_is_named_exists() {
    let fields: HashSet<&str> =
        kinds::schema::TABLES.table().definitions().iter().flat_map(|d| &d.fields).map(|field| &*field.name).collect();
    let mut texts = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let names: BTreeSet<&str> = texts.iter().flat_map(|text| named(text)).collect();
    assert!(names.len() > 200, "{} names", names.len());
    let unknown: Vec<&&str> = names.iter().filter(|name| !fields.contains(**name) && !NO_FIELDS.contains(name)).collect();
    assert!(unknown.is_empty(), "no field of any kind: {unknown:?}");
    let idle: Vec<&&str> = NO_FIELDS.iter().filter(|name| !names.contains(**name)).collect();
    assert!(idle.is_empty(), "named nowhere: {idle:?}");
}

#[test]
fn names_are_found_in_calls() {
    let text = "pod.at(\"spec\").text(\"nodeNmae\"); set(spec, \"hostname\", x); reset(a, \"b\"); default_to(&mut x[\"y\"], \"z\", 1)";
    assert_eq!(named(text).into_iter().collect::<Vec<_>>(), ["hostname", "nodeNmae", "spec", "z"]);
}
