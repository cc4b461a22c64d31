//! OpenAPI v2 documents of other servers -> what of them is of one group version, and that put beside our own.
//!
//! Source: kube-openapi `pkg/aggregator` (`FilterSpecByPathsWithoutSideEffects`, `MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

const MARK: &str = "#/definitions/";

/// What others bring to a document: paths that are not ours, and definitions under names that nobody else has.
#[derive(Default)]
pub struct Merged {
    pub paths: BTreeMap<String, Value>,
    pub definitions: BTreeMap<String, Value>,
}

/// Of a document, the paths of a group version and the definitions that they need.
///
/// # Errors
/// It is no such document.
pub fn of_group_version(document: &[u8], group: &str, version: &str) -> Result<Value, String> {
    let mut document: Map<String, Value> = serde_json::from_slice(document).map_err(|error| error.to_string())?;
    let mut take = |name: &str| match document.shift_remove(name) {
        Some(Value::Object(map)) => Ok(map),
        None => Ok(Map::new()),
        Some(_) => Err(format!("{name} is no object")),
    };
    let (mut paths, mut all) = (take("paths")?, take("definitions")?);
    let prefix = format!("/apis/{group}/{version}/");
    paths.retain(|path, item| path.starts_with(&prefix) && item.is_object());
    let (mut open, mut definitions) = (Vec::new(), Map::new());
    paths.values().for_each(|item| references(item, &mut open));
    while let Some(name) = open.pop() {
        if let Some(definition) = all.shift_remove(&name) {
            references(&definition, &mut open);
            definitions.insert(name, definition);
        }
    }
    Ok(json!({"paths": paths, "definitions": definitions}))
}

/// Puts them beside `own_paths` and the definitions that `own` tells. What is the same is there once; what only has the same name gets another.
pub fn merged(documents: Vec<Value>, own_paths: &BTreeSet<String>, own: impl Fn(&str) -> Option<Value>) -> Merged {
    let mut merged = Merged::default();
    for mut document in documents {
        let mut part = |name: &str| match document.get_mut(name).map(Value::take) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let (paths, definitions) = (part("paths"), part("definitions"));
        let (mut names, mut taken) = (BTreeMap::new(), BTreeSet::new());
        for (name, definition) in &definitions {
            let there = |name: &str| own(name).or_else(|| merged.definitions.get(name).cloned());
            let fits = |name: &String| !taken.contains(name) && there(name).is_none_or(|there| there == *definition);
            let tried = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}_v{n}")));
            if let Some(free) = tried.take(definitions.len() + 64).find(fits) {
                taken.insert(free.clone());
                names.insert(name.clone(), free);
            }
        }
        for (name, mut definition) in definitions {
            let Some(name) = names.get(&name) else { continue };
            rename(&mut definition, &names);
            if own(name).is_none() {
                merged.definitions.entry(name.clone()).or_insert(definition);
            }
        }
        for (path, mut item) in paths.into_iter().filter(|(path, _)| !own_paths.contains(path)) {
            rename(&mut item, &names);
            merged.paths.entry(path).or_insert(item);
        }
    }
    merged
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(MARK)) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get_mut("$ref")
                && let Some(name) = to.strip_prefix(MARK).and_then(|name| names.get(name))
            {
                *to = format!("{MARK}{name}");
            }
            map.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(meta: &str) -> Vec<u8> {
        let reference = |name: &str| json!({"$ref": format!("{MARK}{name}")});
        json!({
            "swagger": "2.0",
            "paths": {"/apis/a/v1/things": {"get": {"schema": reference("Thing")}}, "/apis/a/v2/things": {"get": {"schema": reference("Other")}}, "/version/": {}},
            "definitions": {"Thing": {"properties": {"metadata": reference("Meta")}}, "Meta": {"description": meta}, "Other": {}},
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn only_what_is_of_the_group_version_is_taken() {
        let taken = of_group_version(&document("m"), "a", "v1").unwrap();
        assert_eq!(taken["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/apis/a/v1/things"]);
        assert_eq!(taken["definitions"].as_object().unwrap().len(), 2);
        for bad in ["[]", "{", r#"{"paths": 1}"#, "null"] {
            assert!(of_group_version(bad.as_bytes(), "a", "v1").is_err(), "{bad}");
        }
        assert_eq!(of_group_version(b"{}", "a", "v1").unwrap(), json!({"paths": {}, "definitions": {}}));
    }

    #[test]
    fn what_is_the_same_is_there_once_and_what_is_not_gets_another_name() {
        let own = |name: &str| (name == "Meta").then(|| json!({"description": "ours"}));
        let of = |meta: &str| of_group_version(&document(meta), "a", "v1").unwrap();
        let same = merged(vec![of("ours")], &BTreeSet::new(), own);
        assert_eq!(same.definitions.keys().collect::<Vec<_>>(), ["Thing"]);
        let other = merged(vec![of("theirs"), of("third")], &BTreeSet::new(), own);
        assert_eq!(other.definitions.keys().collect::<Vec<_>>(), ["Meta_v2", "Meta_v3", "Thing", "Thing_v2"]);
        assert_eq!(other.definitions["Thing"]["properties"]["metadata"]["$ref"], "#/definitions/Meta_v2");
        let ours = merged(vec![of("ours")], &BTreeSet::from(["/apis/a/v1/things".to_owned()]), own);
        assert!(ours.paths.is_empty());
    }
}
