//! The described definitions, gzip -> the ones that a document needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    sync::Arc,
};

use flate2::read::GzDecoder;
use serde_json::{Value, json, value::RawValue};

use crate::kind::{Kind, Subresource};

pub const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const MARK: &str = "#/definitions/";

/// Definitions by name, as text that is parsed only where needed.
pub struct Definitions<'t> {
    all: BTreeMap<&'t str, &'t RawValue>,
    /// Of kinds that the binary does not have.
    custom: BTreeSet<&'t str>,
}

/// The definitions of the built-in kinds, where there are such among `kinds`.
pub fn inflate(kinds: &[Arc<Kind>]) -> io::Result<String> {
    let Some(tables) = kinds.iter().find_map(|kind| kind.schema.tables()) else { return Ok("{}".into()) };
    let mut text = String::new();
    GzDecoder::new(tables.definitions()).read_to_string(&mut text)?;
    Ok(text)
}

impl<'t> Definitions<'t> {
    /// Those of `text`, and those that kinds bring themselves (name and text).
    pub fn of(text: &'t str, own: &'t [(&str, String)]) -> io::Result<Self> {
        let mut all: BTreeMap<&str, &RawValue> = serde_json::from_str(text)?;
        for (name, definition) in own {
            all.insert(*name, serde_json::from_str(definition)?);
        }
        Ok(Self { all, custom: own.iter().map(|(name, _)| *name).collect() })
    }

    pub fn text(&self, name: &str) -> Option<&'t str> {
        self.all.get(name).map(|raw| raw.get())
    }

    pub fn value(&self, name: &str) -> Option<Value> {
        self.text(name).and_then(|text| serde_json::from_str(text).ok())
    }

    /// As version 2 has it: it knows no defaults. Custom ones have been made for it.
    pub fn value_in_v2(&self, name: &str) -> Option<Value> {
        let mut value = self.value(name)?;
        if !self.custom.contains(name) {
            without_defaults(&mut value);
        }
        Some(value)
    }

    /// The definition of a subresource's body: its own, or that of the object.
    pub fn of_body(&self, kind: &Kind, sub: &Subresource) -> Option<&'t str> {
        let schema = if sub.body == kind.gvk() { &kind.schema } else { &sub.schema };
        self.all.get_key_value(schema.name()).map(|(name, _)| *name)
    }

    /// `roots`, with what their definitions refer to.
    pub fn needed<'r>(&self, roots: impl IntoIterator<Item = &'r str>) -> BTreeSet<&'t str> {
        let known = |name: &str| self.all.get_key_value(name).map(|(name, _)| *name);
        let mut open: Vec<&str> = roots.into_iter().filter_map(known).collect();
        let mut found = BTreeSet::new();
        while let Some(name) = open.pop() {
            if found.insert(name) {
                open.extend(self.text(name).into_iter().flat_map(references).filter_map(known));
            }
        }
        found
    }
}

/// Definitions of the lists of custom kinds: their own definitions tell nothing of them.
pub fn custom_lists(all: &Definitions<'_>, kinds: &[Arc<Kind>]) -> Vec<(String, Value)> {
    let has_none = |kind: &&Arc<Kind>| {
        kind.serves("list") && all.text(kind.schema.name()).is_some() && all.text(&format!("{}List", kind.schema.name())).is_none()
    };
    kinds.iter().filter(has_none).map(|kind| list(kind)).collect()
}

fn list(kind: &Kind) -> (String, Value) {
    let name = format!("{}List", kind.schema.name());
    let own = kind.kind.as_ref();
    let value = json!({
        "description": format!("{own}List is a list of {own}"),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this representation of the list."},
            "items": {
                "type": "array", "items": {"$ref": format!("{MARK}{}", kind.schema.name())},
                "description": format!("List of {}.", kind.plural),
            },
            "kind": {"type": "string", "description": "The kind of the list."},
            "metadata": {"$ref": format!("{MARK}{META}ListMeta"), "description": "Standard list metadata."},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind()}],
    });
    (name, value)
}

/// Of a schema and those within it; a property may have that name itself.
fn without_defaults(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    map.shift_remove("default");
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(without_defaults);
    }
    for within in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(within) {
            without_defaults(schema);
        }
    }
}

fn references(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).skip(1).filter_map(|rest| rest.split('"').next())
}
