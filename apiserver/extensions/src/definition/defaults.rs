//! The defaults of a schema -> whether they are such values themselves. Source: `pkg/apiserver/schema/defaulting/validation.go`.

use api::field_errors::FieldErrors;
use kinds::common::{Path, Read};
use serde_json::Value;

use crate::schema::{Node, embedded, judge, prune};

/// `ValidateDefaults`. `node` is made of `schema`.
pub fn valid(schema: &Value, node: &Node, path: Path<'_>, causes: &mut FieldErrors) {
    walk(schema, node, Place::Root, path, causes);
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Root,
    Inside,
    /// Of a resource's metadata.
    Meta,
}

fn walk(schema: &Value, node: &Node, place: Place, path: Path<'_>, causes: &mut FieldErrors) {
    if let Some(default) = node.default_value().filter(|_| place != Place::Meta) {
        one(node, default, path.field("default"), causes);
    }
    if let (Some(schema), Some(items)) = (schema.at("items"), &node.items) {
        walk(schema, items, if place == Place::Meta { Place::Meta } else { Place::Inside }, path.field("items"), causes);
    }
    let is_resource = place == Place::Root || node.embedded;
    for (name, inner) in node.properties.iter() {
        let inside = match place {
            _ if is_resource && matches!(name, "metadata" | "apiVersion" | "kind") => Place::Meta,
            Place::Meta if !node.embedded => Place::Meta,
            _ => Place::Inside,
        };
        let at = path.field("properties");
        walk(schema.at("properties").at(name).unwrap_or(&Value::Null), inner, inside, at.key(name), causes);
    }
}

fn one(node: &Node, default: &Value, path: Path<'_>, causes: &mut FieldErrors) {
    let mut pruned = default.clone();
    prune::part(node, &mut pruned);
    if pruned != *default {
        return causes.invalid(path, default.clone(), "must not have unknown fields");
    }
    let before = causes.0.len();
    embedded(node, default, path, causes);
    if causes.0.len() == before {
        judge(node, default, None, &path.to_string(), causes);
    }
}
