//! OpenAPI v2 documents of other servers -> what of them is of one group version, and that put beside our own.
//!
//! Source: kube-openapi `pkg/aggregator` (`FilterSpecByPathsWithoutSideEffects`, `MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";

/// What others bring to a document: paths that are not ours, and definitions and shared parameters under names that nobody else has.
#[derive(Default)]
pub struct Merged {
    pub paths: BTreeMap<String, Value>,
    pub definitions: BTreeMap<String, Value>,
    pub parameters: BTreeMap<String, Value>,
}

/// What a document has before others are put beside it.
pub struct Own<'o, D> {
    pub paths: &'o Map<String, Value>,
    pub parameters: &'o BTreeMap<String, Value>,
    /// By its name.
    pub definition: D,
}

/// Of a document, the paths of a group version, its shared parameters, and the definitions that they need.
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
    let (mut paths, parameters, mut all) = (take("paths")?, take("parameters")?, take("definitions")?);
    let prefix = format!("/apis/{group}/{version}/");
    paths.retain(|path, item| path.starts_with(&prefix) && item.is_object());
    let (mut open, mut definitions) = (Vec::new(), Map::new());
    paths.values().chain(parameters.values()).for_each(|item| references(item, &mut open));
    while let Some(name) = open.pop() {
        if let Some(definition) = all.shift_remove(&name) {
            references(&definition, &mut open);
            definitions.insert(name, definition);
        }
    }
    Ok(json!({"paths": paths, "parameters": parameters, "definitions": definitions}))
}

/// Puts them beside our own. What is the same is there once; what only has the same name gets another.
pub fn merged(documents: Vec<Value>, own: &Own<'_, impl Fn(&str) -> Option<Value>>) -> Merged {
    let mut merged = Merged::default();
    for mut document in documents {
        let mut part = |name: &str| match document.get_mut(name).map(Value::take) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let (paths, parameters, definitions) = (part("paths"), part("parameters"), part("definitions"));
        let mut names = Names {
            definitions: free_names(&definitions, |name| (own.definition)(name).or_else(|| merged.definitions.get(name).cloned())),
            parameters: BTreeMap::new(),
        };
        for (name, mut definition) in definitions {
            let Some(name) = names.definitions.get(&name) else { continue };
            names.rename(&mut definition);
            if (own.definition)(name).is_none() {
                merged.definitions.entry(name.clone()).or_insert(definition);
            }
        }
        // What they refer to has its name of now: only then they may be the same as others.
        let mut parameters = parameters;
        parameters.values_mut().for_each(|parameter| names.rename(parameter));
        let there = |name: &str| own.parameters.get(name).or_else(|| merged.parameters.get(name)).cloned();
        names.parameters = free_names(&parameters, there);
        for (name, parameter) in parameters {
            let Some(name) = names.parameters.get(&name) else { continue };
            if !own.parameters.contains_key(name) {
                merged.parameters.entry(name.clone()).or_insert(parameter);
            }
        }
        for (path, mut item) in paths.into_iter().filter(|(path, _)| !own.paths.contains_key(path)) {
            names.rename(&mut item);
            merged.paths.entry(path).or_insert(item);
        }
    }
    merged
}

/// For each the name that it gets: its own, or the first after it that is free or stands for the same.
fn free_names(values: &Map<String, Value>, there: impl Fn(&str) -> Option<Value>) -> BTreeMap<String, String> {
    let (mut names, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for (name, value) in values {
        let fits = |name: &String| !taken.contains(name) && there(name).is_none_or(|there| there == *value);
        let tried = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}_v{n}")));
        if let Some(free) = tried.take(values.len() + 64).find(fits) {
            taken.insert(free.clone());
            names.insert(name.clone(), free);
        }
    }
    names
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(DEFINITIONS)) {
                found.push(name.to_owned());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// The names that a document's parts get.
struct Names {
    definitions: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
}

impl Names {
    fn rename(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get_mut("$ref") {
                    for (mark, names) in [(DEFINITIONS, &self.definitions), (PARAMETERS, &self.parameters)] {
                        if let Some(name) = to.strip_prefix(mark).and_then(|name| names.get(name)) {
                            *to = format!("{mark}{name}");
                            break;
                        }
                    }
                }
                map.values_mut().for_each(|value| self.rename(value));
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.rename(value)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(meta: &str) -> Vec<u8> {
        let reference = |name: &str| json!({"$ref": format!("{DEFINITIONS}{name}")});
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
        assert_eq!(of_group_version(b"{}", "a", "v1").unwrap(), json!({"paths": {}, "parameters": {}, "definitions": {}}));
    }

    /// Beside one definition of our own, and one shared parameter.
    fn beside(documents: Vec<Value>, paths: &[&str]) -> Merged {
        let paths = paths.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
        let parameters = BTreeMap::from([("limit-a".to_owned(), json!({"name": "limit"}))]);
        let definition = |name: &str| (name == "Meta").then(|| json!({"description": "ours"}));
        merged(documents, &Own { paths: &paths, parameters: &parameters, definition })
    }

    #[test]
    fn what_is_the_same_is_there_once_and_what_is_not_gets_another_name() {
        let of = |meta: &str| of_group_version(&document(meta), "a", "v1").unwrap();
        let same = beside(vec![of("ours")], &[]);
        assert_eq!(same.definitions.keys().collect::<Vec<_>>(), ["Thing"]);
        let other = beside(vec![of("theirs"), of("third")], &[]);
        assert_eq!(other.definitions.keys().collect::<Vec<_>>(), ["Meta_v2", "Meta_v3", "Thing", "Thing_v2"]);
        assert_eq!(other.definitions["Thing"]["properties"]["metadata"]["$ref"], "#/definitions/Meta_v2");
        let ours = beside(vec![of("ours")], &["/apis/a/v1/things"]);
        assert!(ours.paths.is_empty());
    }

    #[test]
    fn shared_parameters_come_along() {
        let of = |version: &str, limit: Value, meta: &str| {
            let reference = |name: &str| json!({"$ref": format!("{PARAMETERS}{name}")});
            let path = format!("/apis/a/{version}/things");
            let document = json!({
                "paths": {path: {"parameters": [reference("limit-a")], "post": {"parameters": [reference("body-b")]}}},
                "parameters": {"limit-a": limit, "body-b": {"name": "body", "schema": {"$ref": format!("{DEFINITIONS}Meta")}}},
                "definitions": {"Meta": {"description": meta}},
            });
            of_group_version(document.to_string().as_bytes(), "a", version).unwrap()
        };
        let same = beside(vec![of("v1", json!({"name": "limit"}), "ours")], &[]);
        assert_eq!(same.parameters.keys().collect::<Vec<_>>(), ["body-b"]);
        assert_eq!(same.parameters["body-b"]["schema"]["$ref"], "#/definitions/Meta");
        let other = |version: &str, limit: &str| of(version, json!({"name": "limit", "type": limit}), "theirs");
        let all = beside(vec![other("v1", "string"), other("v2", "string"), other("v3", "integer")], &[]);
        assert_eq!(all.parameters.keys().collect::<Vec<_>>(), ["body-b", "limit-a_v2", "limit-a_v3"]);
        assert_eq!(all.parameters["body-b"]["schema"]["$ref"], "#/definitions/Meta_v2");
        let of_path = |version: &str| all.paths[&format!("/apis/a/{version}/things")]["parameters"][0]["$ref"].clone();
        assert_eq!(
            [of_path("v1"), of_path("v2"), of_path("v3")],
            ["limit-a_v2", "limit-a_v2", "limit-a_v3"].map(|n| format!("{PARAMETERS}{n}"))
        );
    }
}
