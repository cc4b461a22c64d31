//! `pkg/generated/openapi/zz_generated.openapi.go` of a checkout -> the enums of fields, and the descriptions that tell their values: the published
//! documents are made without them (feature gate `OpenAPIEnums`), servers have them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use regex::Regex;
use serde_json::{Value, json};

pub fn put(upstream: &Path, definitions: &mut BTreeMap<String, Value>) {
    let text = fs::read_to_string(upstream.join("pkg/generated/openapi/zz_generated.openapi.go")).expect("there are generated definitions");
    let names = names(&text);
    let function = Regex::new(r"^func (schema_\w+)\(").expect("valid");
    let property = Regex::new("^\t{5}\"([^\"]+)\": \\{$").expect("valid");
    let description = Regex::new("^(\t+)Description: +(\".*\"),$").expect("valid");
    let values = Regex::new(r"^(\t+)Enum: +\[\]interface\{\}\{(.*)\},$").expect("valid");
    let (mut definition, mut field, mut told) = ("", String::new(), String::new());
    for line in text.lines() {
        if let Some(found) = function.captures(line) {
            definition = names.get(&found[1]).map_or("", String::as_str);
        } else if let Some(found) = property.captures(line) {
            found[1].clone_into(&mut field);
            told.clear();
        } else if let Some(found) = description.captures(line).filter(|found| found[1].len() == 7) {
            told = serde_json::from_str(&found[2]).expect("a description has no escapes but JSON's");
        } else if let Some(found) = values.captures(line) {
            let Some(property) = definitions.get_mut(definition).and_then(|d| d["properties"].get_mut(&field)) else { continue };
            let list: Vec<Value> = serde_json::from_str(&format!("[{}]", &found[2])).expect("values are texts");
            let place = match property["type"].as_str() {
                Some("array") => &mut property["items"],
                Some("object") => &mut property["additionalProperties"],
                _ => &mut *property,
            };
            place["enum"] = json!(list);
            if !told.is_empty() {
                property["description"] = told.as_str().into();
            }
        }
    }
}

/// Function -> definition: `schema_k8sio_api_apps_v1_Deployment` -> `io.k8s.api.apps.v1.Deployment`.
fn names(text: &str) -> HashMap<String, String> {
    let import = Regex::new("(?m)^\t(\\w+) \"(k8s\\.io/[^\"]+)\"$").expect("valid");
    let entry = Regex::new(r"(?m)^\t\t(\w+)\.(\w+)\{\}\.OpenAPIModelName\(\): +(schema_\w+)\(ref\),").expect("valid");
    let packages: HashMap<&str, String> = import
        .captures_iter(text)
        .map(|found| (found.get(1).expect("a group").as_str(), found[2].replacen("k8s.io", "io.k8s", 1).replace('/', ".")))
        .collect();
    entry.captures_iter(text).filter_map(|found| Some((found[3].to_owned(), format!("{}.{}", packages.get(&found[1])?, &found[2])))).collect()
}
