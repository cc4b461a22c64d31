//! A custom resource's own schema -> a structural table like that of built-in kinds, and the definition that OpenAPI publishes.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema`, `pkg/controller/openapi/builder`.

use api::Gvk;
use serde_json::{Map, Value, json};

use super::{Definition, Element, Facets, Field, ListType, MapType, Semantics, Table, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The table and the index of its root. Objects inside get the names of their fields; metadata is that of `built_in`, where there is such.
pub fn table(name: &str, schema: &Value, built_in: Option<&Table>) -> (Table, u32) {
    let mut table = Table::default();
    if let Some(built_in) = built_in {
        table.import(built_in, META);
    }
    let root = object(&mut table, name, schema, Root::Yes);
    (table, root)
}

/// The definition's name, its group turned round: `io.example.v1.Widget` of `example.io` (`ToRESTFriendlyName`).
pub fn name(gvk: &Gvk) -> String {
    let group: Vec<&str> = gvk.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), gvk.version, gvk.kind)
}

/// The schema with what every object has.
pub fn definition(gvk: &Gvk, schema: &Value) -> Value {
    let mut out = schema.as_object().cloned().unwrap_or_default();
    out.insert("type".into(), "object".into());
    let own = json!([{"group": gvk.group, "version": gvk.version, "kind": gvk.kind}]);
    let mut properties = match out.shift_remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    };
    properties.insert("apiVersion".into(), json!({"type": "string", "description": API_VERSION}));
    properties.insert("kind".into(), json!({"type": "string", "description": KIND}));
    let metadata = json!({"$ref": format!("#/definitions/{META}"), "description": METADATA});
    properties.insert("metadata".into(), metadata);
    out.insert("properties".into(), properties.into());
    out.insert("x-kubernetes-group-version-kind".into(), own);
    out.into()
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str =
    "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

#[derive(PartialEq)]
enum Root {
    Yes,
    No,
}

fn object(table: &mut Table, name: &str, schema: &Value, root: Root) -> u32 {
    let mut fields: Vec<Field> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, _)| root == Root::No || !["apiVersion", "kind", "metadata"].contains(&field.as_str()))
        .map(|(field, property)| {
            let typ = typ(table, &format!("{name}.{field}"), property);
            let (semantics, facets) = (semantics(property), Facets::of(property));
            Field { name: field.clone().into(), typ, absent_if_zero: false, is_always: false, semantics, facets }
        })
        .collect();
    let embedded = schema["x-kubernetes-embedded-resource"] == true;
    if root == Root::Yes || embedded {
        let metadata = table.index(META).map_or(Type::Any, Type::Object);
        let own = [("apiVersion", Type::String), ("kind", Type::String), ("metadata", metadata)];
        fields.retain(|field| field.name != "metadata");
        let missing: Vec<_> = own.into_iter().filter(|(own, _)| !fields.iter().any(|f| f.name == *own)).collect();
        let plain = |(name, typ): (&'static str, Type)| Field {
            name: name.into(),
            typ,
            absent_if_zero: false,
            is_always: false,
            semantics: None,
            facets: None,
        };
        fields.extend(missing.into_iter().map(plain));
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let atomic = schema["x-kubernetes-map-type"] == "atomic";
    let facets = Facets::of(schema).filter(|_| root == Root::Yes);
    table.push(Definition { name: name.to_owned().into(), fields, open, atomic, facets })
}

fn typ(table: &mut Table, name: &str, schema: &Value) -> Type {
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    match (schema["type"].as_str(), schema["format"].as_str()) {
        (Some("string"), Some("byte")) => Type::Bytes,
        (Some("string"), _) => Type::String,
        (Some("boolean"), _) => Type::Bool,
        (Some("integer"), Some("int32")) => Type::Int32,
        (Some("integer"), _) => Type::Int64,
        (Some("number"), _) => Type::Double,
        (Some("array"), _) => Type::List(element(table, name, &schema["items"])),
        (Some("object"), _) if schema["additionalProperties"].is_object() => {
            Type::Map(element(table, name, &schema["additionalProperties"]))
        }
        (Some("object"), _) if schema["additionalProperties"] == true => Type::Any,
        (Some("object"), _) => Type::Object(object(table, name, schema, Root::No)),
        _ => Type::Any,
    }
}

fn element(table: &mut Table, name: &str, schema: &Value) -> u32 {
    let element = Element { typ: typ(table, name, schema), semantics: semantics(schema), facets: Facets::of(schema) };
    table.push_element(element)
}

fn semantics(schema: &Value) -> Option<Box<Semantics>> {
    let list_type = match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => ListType::Map,
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    };
    let map_type = if schema["x-kubernetes-map-type"] == "atomic" { MapType::Atomic } else { MapType::Granular };
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let semantics = Semantics { list_type, map_type, map_keys: keys.map(|k| k.to_owned().into()).collect(), ..Semantics::default() };
    (semantics != Semantics::default()).then(|| Box::new(semantics))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::{FieldValidation, Schema, facets::Size};

    fn widget() -> Value {
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "default": 1, "maximum": 5, "exclusiveMaximum": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            "parts": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a"}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            "words": {"type": "object", "additionalProperties": {"type": "string", "enum": ["x", "y"], "nullable": true}},
        }})
    }

    #[test]
    fn a_custom_schema_prunes_like_a_built_in_one() {
        let gvk = Gvk::new("example.io", "v1", "Widget");
        let schema = Schema::custom(&gvk, &widget(), None);
        let mut widget = json!({
            "apiVersion": "x/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"size": 1, "free": {"a": 1}, "gone": 1}, "parts": [{"name": "x", "y": 1}],
        });
        let warnings = schema.check(&gvk, &mut widget, &[], FieldValidation::Warn).unwrap();
        assert_eq!(warnings, [r#"unknown field "spec.gone""#, r#"unknown field "parts[0].y""#]);
        assert_eq!(widget["spec"], json!({"size": 1, "free": {"a": 1}}));
        let structure = schema.structure().unwrap();
        assert_eq!(structure.root().field("parts").unwrap().semantics.as_ref().unwrap().map_keys, ["name"]);
        assert_eq!(schema.strategic_merge(&mut widget, json!({})).unwrap_err().code, 415);
    }

    #[test]
    fn a_custom_schema_knows_what_it_says_of_each_value() {
        let (table, root) = table("Widget", &widget(), None);
        let field = |at: u32, name: &str| table.definition(at).field(name).unwrap_or_else(|| panic!("no field {name}"));
        let spec = field(root, "spec");
        assert_eq!(spec.facets.as_ref().unwrap().required, ["size"]);
        let Type::Object(inner) = spec.typ else { panic!("{:?}", spec.typ) };
        let size = field(inner, "size").facets.as_ref().unwrap();
        assert_eq!(
            (&size.default, size.maximum.as_ref().map(|m| (m.value.as_i64(), m.is_exclusive))),
            (&Some(json!(1)), Some((Some(5), true)))
        );
        let parts = field(root, "parts");
        assert_eq!(parts.facets.as_ref().unwrap().items, Size { min: None, max: Some(3) });
        let Type::Map(words) = field(root, "words").typ else { panic!() };
        let word = table.held(words);
        assert_eq!((word.typ, word.facets.as_ref().map(|f| (f.enumeration.len(), f.nullable))), (Type::String, Some((2, true))));
    }

    #[test]
    fn metadata_is_that_of_all_objects() {
        let lines = "=io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\nfinalizers [s set\nowners [@x.Owner map:uid\n=x.Owner\nuid s\n";
        let embedded = json!({"type": "object", "properties": {"template": {"type": "object", "x-kubernetes-embedded-resource": true}}});
        let (table, root) = table("Widget", &embedded, Some(&Table::parse(lines)));
        let of = |at: u32| match table.definition(at).field("metadata").map(|field| field.typ) {
            Some(Type::Object(at)) => at,
            other => panic!("{other:?}"),
        };
        let Some(Type::Object(template)) = table.definition(root).field("template").map(|field| field.typ) else { panic!() };
        assert_eq!(of(root), of(template));
        let metadata = table.definition(of(root));
        assert_eq!(metadata.field("finalizers").unwrap().semantics.as_ref().unwrap().list_type, ListType::Set);
        let Type::List(owners) = metadata.field("owners").unwrap().typ else { panic!() };
        let Type::Object(owner) = table.element(owners) else { panic!() };
        assert_eq!(table.definition(owner).field("uid").unwrap().typ, Type::String);
    }

    #[test]
    fn the_definition_says_what_every_object_has() {
        let gvk = Gvk::new("example.io", "v1", "Widget");
        assert_eq!(name(&gvk), "io.example.v1.Widget");
        let definition = definition(&gvk, &widget());
        assert_eq!(definition["properties"]["metadata"]["$ref"], format!("#/definitions/{META}"));
        assert_eq!(definition["x-kubernetes-group-version-kind"], json!([{"group": "example.io", "version": "v1", "kind": "Widget"}]));
        assert_eq!(definition["properties"]["parts"], widget()["properties"]["parts"]);
    }
}
