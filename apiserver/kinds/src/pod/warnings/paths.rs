//! Files of one volume -> those that stand in each other's way. Source: `warningsForOverlappingVirtualPaths`.

use std::{collections::HashMap, fmt};

use serde_json::Value;

use super::SHOWN_MAX;
use crate::common::Read;

/// A file, and what it comes from.
struct File<'v> {
    path: &'v str,
    source: String,
}

impl fmt::Display for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.source.is_empty() { write!(f, "{:?}", self.path) } else { write!(f, "{:?} ({})", self.path, self.source) }
    }
}

/// Files by the parts of their paths: one is found by the steps to it, however many there are.
struct Tree<'v>(Vec<Node<'v>>);

#[derive(Default)]
struct Node<'v> {
    below: HashMap<&'v str, usize>,
    files: Vec<usize>,
}

pub fn overlapping(volumes: &[Value], out: &mut Vec<String>) {
    for volume in volumes {
        let name = volume.text("name");
        for (kind, named) in [("configMap", "name"), ("secret", "secretName"), ("downwardAPI", "")] {
            let Some(source) = volume.at(kind) else { continue };
            let what = match kind {
                "configMap" => format!("ConfigMap {:?}", source.text(named)),
                "secret" => format!("Secret {:?}", source.text(named)),
                _ => "DownwardAPI".to_owned(),
            };
            let files = source.list("items").iter().map(|item| File::of(item.text("path"), String::new()));
            tell(name, &what, files.collect(), out);
        }
        if let Some(projected) = volume.at("projected") {
            let files: Vec<File<'_>> = projected.list("sources").iter().flat_map(|source| of_source(name, source, out)).collect();
            tell(name, "Projected", files, out);
        }
    }
}

fn of_source<'v>(volume: &str, source: &'v Value, out: &mut Vec<String>) -> Vec<File<'v>> {
    const KINDS: [&str; 6] = ["configMap", "secret", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
    let Some((kind, of)) = KINDS.into_iter().find_map(|kind| Some((kind, source.at(kind)?))) else {
        out.push(format!("volume {volume:?} (Projected) has no sources provided"));
        return Vec::new();
    };
    let items = |what: String| of.list("items").iter().map(|item| File::of(item.text("path"), what.clone())).collect();
    match kind {
        "configMap" => items(format!("ConfigMap {:?}", of.text("name"))),
        "secret" => items(format!("Secret {:?}", of.text("name"))),
        "downwardAPI" => items("DownwardAPI".to_owned()),
        "serviceAccountToken" => vec![File::of(of.text("path"), "ServiceAccountToken".to_owned())],
        "clusterTrustBundle" => {
            let name = [of.at("name"), of.at("signerName")].into_iter().flatten().next().and_then(Value::as_str).unwrap_or_default();
            vec![File::of(of.text("path"), format!("ClusterTrustBundle {name:?}"))]
        }
        _ => [("certificateChainPath", "chain"), ("keyPath", "key"), ("credentialBundlePath", "credential bundle")]
            .into_iter()
            .filter(|(field, _)| !of.text(field).is_empty())
            .map(|(field, what)| File::of(of.text(field), format!("PodCertificate {what}")))
            .collect(),
    }
}

fn tell(volume: &str, what: &str, files: Vec<File<'_>>, out: &mut Vec<String>) {
    let mut tree = Tree(vec![Node::default()]);
    for (i, file) in files.iter().enumerate().filter(|(_, file)| !file.path.is_empty()) {
        for other in tree.add(file.path, i) {
            out.push(format!("volume {volume:?} ({what}): overlapping paths: {file} with {}", files[other]));
        }
        if out.len() >= SHOWN_MAX {
            return;
        }
    }
}

impl<'v> File<'v> {
    fn of(path: &'v str, source: String) -> Self {
        Self { path: path.trim_end_matches('/'), source }
    }
}

impl<'v> Tree<'v> {
    /// Those that it is, that it is below, and that are below it, in their order; not more than can be told.
    fn add(&mut self, path: &'v str, file: usize) -> Vec<usize> {
        let (mut at, mut found) = (0, Vec::new());
        for part in path.split('/') {
            if at != 0 {
                found.extend(self.0[at].files.iter().copied().take(SHOWN_MAX));
            }
            let next = self.0.len();
            let step = *self.0[at].below.entry(part).or_insert(next);
            if step == next {
                self.0.push(Node::default());
            }
            at = step;
        }
        let mut below = vec![at];
        while let Some(next) = below.pop().filter(|_| found.len() < SHOWN_MAX) {
            found.extend(self.0[next].files.iter().copied().take(SHOWN_MAX));
            below.extend(self.0[next].below.values());
        }
        self.0[at].files.push(file);
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(volume: Value) -> Vec<String> {
        let mut out = Vec::new();
        overlapping(&[volume], &mut out);
        out
    }

    #[test]
    fn files_in_each_others_way_are_told() {
        let paths = |paths: &[&str]| json!(paths.iter().map(|path| json!({"key": "k", "path": path})).collect::<Vec<_>>());
        assert!(told(json!({"name": "v", "configMap": {"name": "c", "items": paths(&["a", "ab", "b/a", "b/b"])}})).is_empty());
        assert_eq!(
            told(json!({"name": "v", "configMap": {"name": "c", "items": paths(&["a/b", "c", "a/", "a/b/c", "c"])}})),
            [
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a" with "a/b""#,
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a/b/c" with "a/b""#,
                r#"volume "v" (ConfigMap "c"): overlapping paths: "a/b/c" with "a""#,
                r#"volume "v" (ConfigMap "c"): overlapping paths: "c" with "c""#,
            ]
        );
        let sources = json!([{"secret": {"name": "s", "items": paths(&["x"])}}, {"serviceAccountToken": {"path": "x/y"}}, {}]);
        assert_eq!(
            told(json!({"name": "v", "projected": {"sources": sources}})),
            [
                r#"volume "v" (Projected) has no sources provided"#,
                r#"volume "v" (Projected): overlapping paths: "x/y" (ServiceAccountToken) with "x" (Secret "s")"#,
            ]
        );
    }
}
