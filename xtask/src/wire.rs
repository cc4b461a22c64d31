//! Upstream's Go types -> the table of protobuf field numbers: facts of the tags on their fields.
//!
//! A message is a line `=name`; then one line per field: `name number marks`, or `*definition number` where the message's fields stand in the JSON
//! object itself. Marks, none, one or several: `z` a zero value stands for an absent one (no pointer), `p` a pointer (written where it is there, and
//! only then), `o` JSON leaves a zero object out (`omitzero`), `n` a list that is a message of its own, `A` `B` `S` the forms of JSONSchemaPropsOrArray,
//! OrBool and OrStringArray.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use regex::Regex;

/// `root` is a checkout of upstream.
pub fn render(root: &Path) -> String {
    let mut packages = vec![
        ("io.k8s.apimachinery.pkg.apis.meta.v1".to_owned(), root.join("staging/src/k8s.io/apimachinery/pkg/apis/meta/v1")),
        (
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1".to_owned(),
            root.join("staging/src/k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"),
        ),
        (
            "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1".to_owned(),
            root.join("staging/src/k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"),
        ),
    ];
    let api = root.join("staging/src/k8s.io/api");
    for group in directories(&api) {
        for version in directories(&api.join(&group)) {
            packages.push((format!("io.k8s.api.{group}.{version}"), api.join(&group).join(&version)));
        }
    }
    let (mut messages, mut aliases) = (BTreeMap::new(), Vec::new());
    for (name, directory) in packages {
        for file in files(&directory) {
            let text = fs::read_to_string(&file).expect("a source file is UTF-8");
            read(&name, &text, &mut messages);
            aliases.extend(other_names(&name, &text));
        }
    }
    for (alias, name) in aliases {
        if let Some(fields) = messages.get(&name).cloned() {
            messages.entry(alias).or_insert(fields);
        }
    }
    messages.into_iter().fold(String::new(), |mut out, (name, fields)| {
        writeln!(out, "={name}\n{}", fields.join("\n")).expect("writing to memory");
        out
    })
}

fn directories(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .expect("upstream's sources can be read")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let is_one = |name: &str| name.contains("types") || matches!(name, "micro_time.go" | "group_version.go");
    let types = |name: &str| name.ends_with(".go") && is_one(name) && !name.ends_with("_test.go");
    entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.file_name().is_some_and(|n| types(&n.to_string_lossy()))).collect()
}

fn read(package: &str, text: &str, messages: &mut BTreeMap<String, Vec<String>>) {
    let begin = Regex::new(r"^type (\w+) struct \{").expect("valid");
    let field = Regex::new(r#"^\s+(?:\w+\s+)?([\w.*\[\]]+)\s+`json:"([^",]*)([^"]*)"[^`]*protobuf:"\w+,(\d+),"#).expect("valid");
    let mut current: Option<(String, Vec<String>)> = None;
    for line in text.lines() {
        if let Some(found) = begin.captures(line) {
            current = Some((format!("{package}.{}", &found[1]), Vec::new()));
        } else if line.starts_with('}') {
            messages.extend(current.take().filter(|(_, fields)| !fields.is_empty()));
        } else if let (Some((_, fields)), Some(found)) = (&mut current, field.captures(line)) {
            fields.push(entry(package, &found[1], &found[2], &found[3], &found[4]));
        }
    }
}

/// Types that are those of the group's first version under another name: `type Rule = v1.Rule`.
fn other_names(package: &str, text: &str) -> Vec<(String, String)> {
    let alias = Regex::new(r"(?m)^type (\w+) (?:= )?v1\.(\w+)$").expect("valid");
    let group = package.rsplit_once('.').map_or(package, |(group, _)| group);
    alias.captures_iter(text).map(|found| (format!("{package}.{}", &found[1]), format!("{group}.v1.{}", &found[2]))).collect()
}

fn entry(package: &str, go: &str, json: &str, options: &str, number: &str) -> String {
    if json.is_empty() {
        return format!("*{} {number}", qualified(package, go));
    }
    let absent_if_zero = !go.starts_with('*') && (options.contains("omitempty") || go.ends_with("IntOrString"));
    let marks = [
        ("z", absent_if_zero),
        ("p", go.starts_with('*')),
        ("o", options.contains("omitzero")),
        ("n", matches!(go, "Verbs" | "ExtraValue")),
        ("A", go.ends_with("JSONSchemaPropsOrArray")),
        ("B", go.ends_with("JSONSchemaPropsOrBool")),
        ("S", go.ends_with("JSONSchemaDependencies")),
    ];
    let marks: String = marks.iter().filter(|(_, holds)| *holds).map(|(mark, _)| *mark).collect();
    format!("{json} {number} {marks}").trim_end().to_owned()
}

/// `v1.PodTemplateSpec` -> `io.k8s.api.core.v1.PodTemplateSpec`.
fn qualified(package: &str, go: &str) -> String {
    let go = go.trim_start_matches('*');
    match go.split_once('.') {
        None => format!("{package}.{go}"),
        Some(("metav1", name)) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"),
        Some(("v1" | "corev1" | "core", name)) => format!("io.k8s.api.core.v1.{name}"),
        Some((other, _)) => panic!("no such package: {other}"),
    }
}
