//! The shared files -> the objects in them.

use std::path::{Path, PathBuf};

use serde_json::Value;

pub fn shared(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(part)
}

/// All files below, in order; none where the shared data are not there.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return out };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(below(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// The objects of a file, those of lists one by one.
pub fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let documents = text.split("\n---").map(|document| document.trim_start_matches(['-', ' ', '\r']).to_owned());
    let is_empty = |document: &String| document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let parsed = documents
        .filter(|document| !is_empty(document))
        .map(|document| apiserver::parse::yaml(document.as_bytes()).unwrap_or_else(|why| panic!("{path:?}: {why}")).value);
    parsed
        .flat_map(|object| match object.get("items").and_then(Value::as_array) {
            Some(items) if object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => items.clone(),
            _ => vec![object],
        })
        .filter(|object| object["kind"].is_string())
        .collect()
}
