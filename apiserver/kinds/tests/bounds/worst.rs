//! The shape of a kind -> objects that are as bad as they can be in one place: one list, map or text of them is as large as asked for.

use apiserver::schema::{Definition, Structure, Table, Type};
use serde_json::{Map, Value, json};

/// From the root to what is blown up. Lists on the way have one element.
#[derive(Clone, Debug)]
pub struct Place {
    pub path: Vec<String>,
    pub typ: Type,
}

/// How the elements differ from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// In one field, the others are not there.
    Few,
    /// Not at all.
    Same,
    /// In all fields.
    Full,
}

pub const ELEMENTS: [Elements; 3] = [Elements::Few, Elements::Same, Elements::Full];

/// What a large text is made of.
pub const TEXTS: [&str; 8] = ["a", "a.", "-", "$(", "a,", "/a/..", "\u{e4}", "1"];

/// All lists and maps, and all texts, of a kind.
pub fn places(schema: &Structure) -> Vec<Place> {
    let mut walk = Walk { table: schema.table(), on_path: Vec::new(), path: Vec::new(), found: Vec::new() };
    walk.enter(schema.typ());
    walk.found
}

/// The JSON of an object that is `size` bytes large, about, at `place`.
pub fn object(schema: &Structure, place: &Place, elements: Elements, size: usize) -> Value {
    around(schema, place, large(schema.table(), place.typ, elements, size))
}

/// As [`object`], with the elements in reversed order.
pub fn reversed(schema: &Structure, place: &Place, elements: Elements, size: usize) -> Value {
    let mut value = large(schema.table(), place.typ, elements, size);
    match &mut value {
        Value::Array(list) => list.reverse(),
        Value::Object(map) => *map = std::mem::take(map).into_iter().rev().collect(),
        _ => {}
    }
    around(schema, place, value)
}

/// As [`object`], of a text.
pub fn text(schema: &Structure, place: &Place, part: &str, size: usize) -> Value {
    around(schema, place, part.repeat(size / part.len()).into())
}

fn around(schema: &Structure, place: &Place, value: Value) -> Value {
    let mut object = json!({"metadata": {"name": "x", "namespace": "default"}});
    put(schema.table(), schema.typ(), &mut object, &place.path, value);
    object
}

struct Walk<'a> {
    table: &'a Table,
    on_path: Vec<u32>,
    path: Vec<String>,
    found: Vec<Place>,
}

impl Walk<'_> {
    fn enter(&mut self, typ: Type) {
        let at = match typ {
            Type::Object(at) => at,
            Type::List(at) | Type::Map(at) => return self.inner(typ, self.table.element(at)),
            Type::String | Type::Quantity => return self.found.push(Place { path: self.path.clone(), typ }),
            _ => return,
        };
        if self.on_path.contains(&at) {
            return;
        }
        self.on_path.push(at);
        let table = self.table;
        for field in &table.definition(at).fields {
            if self.path.is_empty() && matches!(field.name.as_ref(), "kind" | "apiVersion") {
                continue;
            }
            self.path.push(field.name.to_string());
            self.enter(field.typ);
            self.path.pop();
        }
        self.on_path.pop();
    }

    fn inner(&mut self, typ: Type, element: Type) {
        self.found.push(Place { path: self.path.clone(), typ });
        self.path.push("*".into());
        self.enter(element);
        self.path.pop();
    }
}

/// Puts `value` at `path`, making what is on the way.
fn put(table: &Table, typ: Type, into: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *into = value;
        return;
    };
    match typ {
        Type::List(at) => {
            let mut one = sample(table, table.element(at), 0);
            put(table, table.element(at), &mut one, rest, value);
            *into = json!([one]);
        }
        Type::Map(at) => {
            let mut one = sample(table, table.element(at), 0);
            put(table, table.element(at), &mut one, rest, value);
            *into = json!({"k": one});
        }
        Type::Object(at) => {
            let Some(field) = table.definition(at).field(first) else { return };
            if !into.is_object() {
                *into = json!({});
            }
            put(table, field.typ, &mut into[first.as_str()], rest, value);
        }
        _ => {}
    }
}

fn large(table: &Table, typ: Type, elements: Elements, size: usize) -> Value {
    let one = |i: usize, element: Type| match elements {
        Elements::Few => few(table, element, i),
        Elements::Same => few(table, element, 0),
        Elements::Full => sample(table, element, i),
    };
    let mut left = size;
    let mut spend = |bytes: usize| {
        let was = left;
        left = left.saturating_sub(bytes + 1);
        was > 0
    };
    match typ {
        Type::List(at) => {
            let all = (0..).map(|i| one(i, table.element(at))).take_while(|value| spend(value.to_string().len()));
            Value::Array(all.collect())
        }
        Type::Map(at) => {
            let all = (0..).map(|i| (format!("k{i}"), one(i, table.element(at))));
            Value::Object(all.take_while(|(key, value)| spend(key.len() + 3 + value.to_string().len())).collect())
        }
        _ => "a".repeat(size).into(),
    }
}

/// An element that is told by one field.
fn few(table: &Table, typ: Type, i: usize) -> Value {
    let Type::Object(at) = typ else { return scalar("", typ, i) };
    let definition = table.definition(at);
    let usual = ["name", "key", "ip", "type", "containerPort", "port", "path", "uid", "mountPath", "topologyKey"];
    let first = usual.iter().find_map(|name| definition.field(name)).or_else(|| definition.fields.iter().find(|f| is_scalar(f.typ)));
    first.map_or_else(|| json!({}), |field| json!({field.name.as_ref(): scalar("", field.typ, i)}))
}

/// An element with all its scalars, and those below it.
fn sample(table: &Table, typ: Type, i: usize) -> Value {
    match typ {
        Type::Object(at) => Value::Object(fields(table, table.definition(at), i, 0)),
        Type::List(_) => json!([]),
        Type::Map(_) => json!({}),
        scalar_type => scalar("", scalar_type, i),
    }
}

fn fields(table: &Table, definition: &Definition, i: usize, depth: usize) -> Map<String, Value> {
    let mut out = Map::new();
    for field in &definition.fields {
        match field.typ {
            Type::Object(at) if depth < 1 && definition.fields.len() < 8 => {
                let below = fields(table, table.definition(at), i, depth + 1);
                out.insert(field.name.to_string(), Value::Object(below));
            }
            typ if is_scalar(typ) => drop(out.insert(field.name.to_string(), scalar(&field.name, typ, i))),
            _ => {}
        }
    }
    out
}

fn is_scalar(typ: Type) -> bool {
    !matches!(typ, Type::Object(_) | Type::List(_) | Type::Map(_) | Type::Any)
}

/// Words that let an element past the first look at it.
fn scalar(name: &str, typ: Type, i: usize) -> Value {
    match (name, typ) {
        ("operator", Type::String) => "Exists".into(),
        ("protocol", Type::String) => "TCP".into(),
        ("effect", Type::String) => "NoSchedule".into(),
        ("status", Type::String) => "True".into(),
        ("whenUnsatisfiable", Type::String) => "DoNotSchedule".into(),
        (_, Type::String) => format!("a{i}").into(),
        (_, Type::Bool) => true.into(),
        (_, Type::Int32 | Type::Int64 | Type::IntOrString) => (i % 60_000 + 1).into(),
        (_, Type::Double) => 0.5.into(),
        (_, Type::Bytes) => "aGk=".into(),
        (_, Type::Quantity) => "1".into(),
        (_, Type::Time) => "2026-01-01T00:00:00Z".into(),
        (_, Type::MicroTime) => "2026-01-01T00:00:00.000000Z".into(),
        _ => Value::Null,
    }
}
