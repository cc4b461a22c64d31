//! Definitions and operations -> the OpenAPI v2 document as protobuf, in gnostic's form.
//!
//! Source of the field numbers: google/gnostic `openapiv2/OpenAPIv2.proto`.

use std::{io, sync::Arc};

use serde_json::{Map, Value};

use super::{
    definitions::{Definitions, custom_lists},
    merge::Merged,
    operations::{self, Operation},
    v2,
};
use crate::kind::Kind;

/// `operations` are [`v2::operations`].
pub fn encode(all: &Definitions<'_>, kinds: &[Arc<Kind>], operations: Vec<Operation>, others: &Merged) -> io::Result<Vec<u8>> {
    let needed = all.needed(operations::named(&operations).into_iter().chain([v2::list_meta().as_str()]));
    let mut document = Message::default();
    document.text(1, "2.0");
    document.nested(2, |m| {
        let info = v2::info();
        m.text(1, str_of(&info, "title"));
        m.text(2, str_of(&info, "version"));
    });
    document.nested(8, |m| {
        for (path, item) in operations::paths(operations) {
            let item = v2::path_item(&item, &mut |parameter| parameter);
            m.named(2, &path, |m| path_item(m, &item));
        }
        for (path, item) in &others.paths {
            m.named(2, path, |m| path_item(m, item));
        }
    });
    document.nested(9, |m| {
        for name in needed {
            let value = all.value_in_v2(name).unwrap_or_default();
            m.named(1, name, |m| schema(m, &value));
        }
        for (name, value) in custom_lists(all, kinds) {
            m.named(1, &name, |m| schema(m, &value));
        }
        for (name, value) in &others.definitions {
            m.named(1, name, |m| schema(m, value));
        }
    });
    // Ours stand where they are used.
    if !others.parameters.is_empty() {
        document.nested(10, |m| others.parameters.iter().for_each(|(name, value)| m.named(1, name, |m| parameter(m, value))));
    }
    Ok(document.0)
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).expect("seven bits"));
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u64, value: &Value) {
        if value == true {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn texts(&mut self, field: u64, list: &Value) {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).for_each(|text| self.bytes(field, text.as_bytes()));
    }

    fn nested(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// An entry of a map: its name and its value.
    fn named(&mut self, field: u64, name: &str, write: impl FnOnce(&mut Message)) {
        self.nested(field, |entry| {
            entry.text(1, name);
            entry.nested(2, write);
        });
    }

    /// `Any`, whose text is YAML; JSON is YAML too.
    fn any(&mut self, field: u64, value: &Value) {
        self.nested(field, |m| m.text(2, &value.to_string()));
    }

    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.nested(field, |entry| {
                entry.text(1, name);
                entry.any(2, value);
            });
        }
    }
}

fn str_of<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn schema(m: &mut Message, value: &Value) {
    m.text(1, str_of(value, "$ref"));
    m.text(2, str_of(value, "format"));
    m.text(4, str_of(value, "description"));
    m.texts(19, &value["required"]);
    value["enum"].as_array().into_iter().flatten().for_each(|one| m.any(20, one));
    match &value["additionalProperties"] {
        Value::Null => {}
        Value::Bool(allowed) => m.nested(21, |m| m.flag(2, &Value::Bool(*allowed))),
        inner => m.nested(21, |m| m.nested(1, |m| schema(m, inner))),
    }
    if let Some(typ) = value["type"].as_str() {
        m.nested(22, |m| m.text(1, typ));
    }
    if value["items"].is_object() {
        m.nested(23, |m| m.nested(1, |m| schema(m, &value["items"])));
    }
    if let Some(properties) = value["properties"].as_object() {
        m.nested(25, |m| properties.iter().for_each(|(name, property)| m.named(1, name, |m| schema(m, property))));
    }
    m.extensions(31, value);
}

fn path_item(m: &mut Message, item: &Value) {
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if item[method].is_object() {
            m.nested(field, |m| operation(m, &item[method]));
        }
    }
    parameters(m, 9, &item["parameters"]);
}

fn operation(m: &mut Message, value: &Value) {
    m.texts(1, &value["tags"]);
    m.text(3, str_of(value, "description"));
    m.text(5, str_of(value, "operationId"));
    m.texts(6, &value["produces"]);
    m.texts(7, &value["consumes"]);
    parameters(m, 8, &value["parameters"]);
    m.nested(9, |m| responses(m, value["responses"].as_object()));
    m.texts(10, &value["schemes"]);
    m.extensions(13, value);
}

fn responses(m: &mut Message, codes: Option<&Map<String, Value>>) {
    for (code, reply) in codes.into_iter().flatten() {
        m.named(1, code, |m| {
            m.nested(1, |m| {
                m.text(1, str_of(reply, "description"));
                if reply["schema"].is_object() {
                    m.nested(2, |m| m.nested(1, |m| schema(m, &reply["schema"])));
                }
            });
        });
    }
}

fn parameters(m: &mut Message, field: u64, list: &Value) {
    for value in list.as_array().into_iter().flatten() {
        match value["$ref"].as_str() {
            None => m.nested(field, |item| item.nested(1, |m| parameter(m, value))),
            Some(to) => m.nested(field, |item| item.nested(2, |m| m.text(1, to))),
        }
    }
}

fn parameter(m: &mut Message, value: &Value) {
    match str_of(value, "in") {
        "body" => m.nested(1, |m| {
            m.text(2, str_of(value, "name"));
            m.text(3, "body");
            m.flag(4, &value["required"]);
            m.nested(5, |m| schema(m, &value["schema"]));
        }),
        // Non-body parameters: 3 is the query's, 4 the path's; after the name their numbers differ by one.
        "query" => m.nested(2, |m| m.nested(3, |m| non_body(m, value, 6, 20))),
        _ => m.nested(2, |m| m.nested(4, |m| non_body(m, value, 5, 19))),
    }
}

fn non_body(m: &mut Message, value: &Value, type_field: u64, unique_field: u64) {
    m.flag(1, &value["required"]);
    m.text(2, str_of(value, "in"));
    m.text(3, str_of(value, "description"));
    m.text(4, str_of(value, "name"));
    m.text(type_field, str_of(value, "type"));
    m.flag(unique_field, &value["uniqueItems"]);
}
