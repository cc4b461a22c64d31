//! The described definitions, gzip -> the ones that a document needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    sync::Arc,
};

use flate2::read::GzDecoder;
use serde_json::{Value, json, value::RawValue};

use crate::kind::{Kind, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const MARK: &str = "#/definitions/";

/// Definitions by name, as text that is parsed only where needed.
pub struct Definitions<'t> {
    all: BTreeMap<&'t str, &'t RawValue>,
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
        Ok(Self { all })
    }

    pub fn text(&self, name: &str) -> Option<&'t str> {
        self.all.get(name).map(|raw| raw.get())
    }

    pub fn value(&self, name: &str) -> Option<Value> {
        self.text(name).and_then(|text| serde_json::from_str(text).ok())
    }

    /// The definition of a subresource's body: its own, or that of the object.
    pub fn of_body(&self, kind: &Kind, sub: &Subresource) -> Option<&'t str> {
        let schema = if sub.body == kind.gvk() { &kind.schema } else { &sub.schema };
        self.all.get_key_value(schema.name()).map(|(name, _)| *name)
    }

    /// All that `kinds` need, with what their definitions refer to.
    pub fn needed(&self, kinds: &[Arc<Kind>]) -> BTreeSet<&str> {
        let own = ["DeleteOptions", "Status", "Patch", "ListMeta"].map(|name| format!("{META}{name}"));
        let mut open: Vec<&str> = own.iter().filter_map(|name| self.all.get_key_value(name.as_str()).map(|(name, _)| *name)).collect();
        for kind in kinds {
            open.extend(self.all.get_key_value(kind.schema.name()).map(|(name, _)| *name));
            open.extend(kind.subresources.iter().filter_map(|sub| self.of_body(kind, sub)));
        }
        let mut found = BTreeSet::new();
        while let Some(name) = open.pop() {
            if found.insert(name) {
                let known = |name: &str| self.all.get_key_value(name).map(|(name, _)| *name);
                open.extend(self.text(name).into_iter().flat_map(references).filter_map(known));
            }
        }
        found
    }
}

/// The definition of a kind's list, which the published types do not describe.
pub fn list(kind: &Kind) -> (String, Value) {
    let name = format!("{}List", kind.schema.name());
    let own = kind.kind.as_ref();
    let value = json!({
        "description": format!("{own}List is a list of {own} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this representation of the list."},
            "items": {"type": "array", "items": {"$ref": format!("{MARK}{}", kind.schema.name())}, "description": format!("The {} objects.", own)},
            "kind": {"type": "string", "description": "The kind of the list."},
            "metadata": {"$ref": format!("{MARK}{META}ListMeta"), "description": "Standard list metadata."},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind()}],
    });
    (name, value)
}

/// Lists of the kinds that can be listed and have a definition.
pub fn lists(all: &Definitions<'_>, kinds: &[Arc<Kind>]) -> Vec<(String, Value)> {
    let listable = |kind: &&Arc<Kind>| kind.serves("list") && all.text(kind.schema.name()).is_some();
    kinds.iter().filter(listable).map(|kind| list(kind)).collect()
}

fn references(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).skip(1).filter_map(|rest| rest.split('"').next())
}
