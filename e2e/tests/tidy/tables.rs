//! The visible tables: what has a file has a line, and a line is one line.

use std::{fs, sync::LazyLock};

use regex::Regex;

use crate::source::{Source, root, sources};

/// Words that only a kind has. Words of the engine's own trade (namespace, event, scale, status, node of a tree) are not here, nor
/// `serviceaccounts`: it is also the name of a group of users.
const KINDS: &[&str] = &[
    "Pod",
    "Pods",
    "ConfigMap",
    "Deployment",
    "ReplicaSet",
    "ReplicationController",
    "Secret",
    "Endpoints",
    "EndpointSlice",
    "LimitRange",
    "PriorityClass",
    "PodTemplate",
    "DaemonSet",
    "StatefulSet",
    "CronJob",
    "Ingress",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "StorageClass",
    "ResourceQuota",
    "ClusterRole",
    "ClusterRoleBinding",
    "RoleBinding",
    "CertificateSigningRequest",
];

pub fn names_a_kind(word: &str) -> bool {
    static PLURALS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let plural = |kind: &&str| match kind.to_lowercase() {
            k if k.ends_with('s') => k,
            k if k.ends_with('y') => format!("{}ies", &k[..k.len() - 1]),
            k => format!("{k}s"),
        };
        KINDS.iter().filter(|k| !k.ends_with("ss")).map(plural).collect()
    });
    KINDS.contains(&word) || PLURALS.iter().any(|p| p == word)
}

pub fn offences() -> Vec<String> {
    let sources: Vec<Source> = sources().into_iter().filter(|s| !s.is_test).collect();
    let mut found = Vec::new();
    found.extend(missing(
        &sources,
        "apiserver/kinds/src/",
        "apiserver/kinds/src/lib.rs",
        "TABLE",
        r"(?m)^pub fn kind\((config: &Config)?\) -> Kind",
    ));
    found.extend(missing(&sources, "controllers/src/", "controllers/src/lib.rs", "TABLE", r"(?m)^impl Controller for \w+"));
    found.extend(missing(&sources, "scheduler/src/plugins/", "scheduler/src/plugins/mod.rs", "PLUGINS", r"(?m)^impl Plugin for \w+"));
    found.extend(missing(
        &sources,
        "kubelet/src/volumes/plugins/",
        "kubelet/src/volumes/plugins.rs",
        "TABLE",
        r"(?m)^impl VolumePlugin for \w+",
    ));
    found
}

/// Files under `dir` that match `sign`, but are not named in the table.
fn missing(sources: &[Source], dir: &str, file: &str, table: &str, sign: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let begin = text.find(&format!("{table}: ")).unwrap_or_else(|| panic!("{file} has no {table}"));
    let end = text[begin..].find("\n];").map_or(text.len(), |n| begin + n);
    let rows: Vec<&str> = text[begin..end].lines().skip(1).map(str::trim).filter(|l| !l.starts_with("//")).collect();
    let sign = Regex::new(sign).unwrap();
    let of_dir = sources.iter().filter(|s| s.path.starts_with(dir) && s.path != file && sign.is_match(&s.text));
    // `mod` of a file directly in the folder; deeper ones are parts of one.
    let modules: Vec<&str> = of_dir.filter_map(|s| s.path[dir.len()..].strip_suffix(".rs")).filter(|m| !m.contains('/')).collect();
    assert!(!modules.is_empty(), "no file of {dir} matches {sign}: the rule checks nothing");
    let mut found: Vec<String> = modules
        .iter()
        .filter(|m| !rows.iter().any(|r| r.contains(&format!("{m}::"))))
        .map(|m| format!("{dir}{m}.rs is not in {table} of {file}"))
        .collect();
    found.extend(
        rows.iter().filter(|r| !r.is_empty() && !r.ends_with(',')).map(|r| format!("{file}: a row of {table} is not one line: {r}")),
    );
    found
}
