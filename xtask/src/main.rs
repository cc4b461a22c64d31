//! k8s-openapi's types -> the data files of `kinds/src/schema`: described definitions (gzip) and a bare table of their structure.
//!
//! Run: `cargo run --manifest-path xtask/Cargo.toml [upstream's checkout]` from the repository's root. With a checkout, the table of protobuf
//! field numbers is written anew too.

mod patches;
mod table;
mod wire;

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use flate2::{Compression, GzBuilder};
use k8s_openapi::Resource;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

/// Field, list type, keys: as the published crate merges it.
type Lists = &'static [(&'static str, &'static str, &'static [&'static str])];

struct Type {
    name: String,
    gvk: Option<[&'static str; 3]>,
    lists: Lists,
}

macro_rules! gvk {
    (kind $t:ty) => {
        Some([<$t as Resource>::GROUP, <$t as Resource>::VERSION, <$t as Resource>::KIND])
    };
    (plain $t:ty) => {
        None
    };
}

macro_rules! types {
    ($($what:ident $t:ty = [$($list:expr),* $(,)?];)*) => {
        fn types(generator: &mut SchemaGenerator) -> Vec<Type> {
            vec![$({
                generator.subschema_for::<$t>();
                Type { name: <$t as schemars::JsonSchema>::schema_name().into_owned(), gvk: gvk!($what $t), lists: &[$($list),*] }
            }),*]
        }
    };
}

include!(concat!(env!("OUT_DIR"), "/types.rs"));

fn main() {
    let definitions = definitions();
    let out = Path::new("apiserver/kinds/src/schema");
    fs::create_dir_all(out).expect("run from the repository's root");
    let text = serde_json::to_vec(&definitions).expect("JSON values can be written");
    let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gz.write_all(&text).expect("writing to memory");
    let packed = gz.finish().expect("writing to memory");
    if let Some(upstream) = std::env::args_os().nth(1) {
        fs::write(out.join("wire.txt"), wire::render(Path::new(&upstream))).expect("the directory can be written");
    }
    let wire = fs::read_to_string(out.join("wire.txt")).expect("there is a wire table; give upstream's checkout to write it");
    let table = table::render(&definitions, &wire);
    println!("{} definitions, {} bytes described ({} packed), {} bytes bare", definitions.len(), text.len(), packed.len(), table.len());
    fs::write(out.join("definitions.json.gz"), packed).expect("the directory can be written");
    fs::write(out.join("structure.txt"), table).expect("the directory can be written");
}

fn definitions() -> BTreeMap<String, Value> {
    let mut generator = SchemaGenerator::default();
    let types = types(&mut generator);
    let mut definitions: BTreeMap<String, Value> = generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, mut schema)| {
            rewrite(&mut schema);
            (name, schema)
        })
        .collect();
    for t in &types {
        let definition = definitions.get_mut(&t.name).and_then(Value::as_object_mut).expect("each type was asked for");
        finish(t, definition);
    }
    patches::apply(&mut definitions);
    definitions
}

/// References as upstream's document has them.
fn rewrite(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get_mut("$ref") {
                *to = to.replace("#/$defs/", "#/definitions/");
            }
            map.values_mut().for_each(rewrite);
        }
        Value::Array(list) => list.iter_mut().for_each(rewrite),
        _ => {}
    }
}

fn finish(t: &Type, definition: &mut Map<String, Value>) {
    if definition.remove("x-kubernetes-int-or-string").is_some() {
        definition.insert("type".into(), "string".into());
        if t.name.ends_with(".IntOrString") {
            definition.insert("format".into(), "int-or-string".into());
        }
    }
    if let Some([group, version, kind]) = t.gvk {
        definition.insert("x-kubernetes-group-version-kind".into(), json!([{"group": group, "kind": kind, "version": version}]));
        // A kind's metadata may be left out; the crate's type cannot say so.
        if let Some(Value::Array(required)) = definition.get_mut("required") {
            required.retain(|r| r != "metadata");
            if required.is_empty() {
                definition.remove("required");
            }
        }
    }
    for (field, list_type, keys) in t.lists {
        let Some(property) = definition.get_mut("properties").and_then(|p| p.get_mut(*field)).and_then(Value::as_object_mut) else {
            continue;
        };
        property.insert("x-kubernetes-list-type".into(), (*list_type).into());
        if *list_type == "map" {
            property.insert("x-kubernetes-list-map-keys".into(), json!(keys));
        }
    }
}
