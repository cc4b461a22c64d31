//! A protobuf body -> the JSON value it stands for, by the kinds' shapes and a table of field numbers; and the way back ([`write`]).
//!
//! The table is written by `xtask` and explained there (`xtask/src/wire.rs`). Sources: apimachinery `pkg/runtime/serializer/protobuf`,
//! `runtime.Unknown`, the `MarshalJSON` of types with a form of their own.

mod layout;
mod write;

use std::{cell::Cell, collections::HashMap};

use api::time::{Timestamp, rfc3339, rfc3339_micro};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::{Table, Type};
use crate::parse::OBJECTS_MAX;
pub(crate) use write::{ENVELOPE_END, put_bytes, put_envelope, put_head};
pub use write::{Writer, enveloped};

/// What a body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
/// Of a definition's schema, which contains itself.
const SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
const DEPTH_MAX: usize = 100;

/// Field numbers by message.
pub struct Wire {
    messages: HashMap<&'static str, HashMap<u64, Target>>,
}

#[derive(Clone, Copy)]
enum Target {
    Field {
        name: &'static str,
        marks: Marks,
    },
    /// The fields of this message stand in the object itself.
    Inline(&'static str),
}

#[derive(Clone, Copy, Default)]
struct Marks {
    /// In JSON: empty texts, lists and maps, and numbers that are zero.
    absent_if_zero: bool,
    /// In JSON, of structs too.
    omits_zero: bool,
    /// What is no pointer is always written, also where JSON has nothing.
    is_pointer: bool,
    form: Form,
}

/// What a field is that has neither the form of its type nor, for any JSON, that of its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    Plain,
    /// A list that is a message of its own.
    Wrapped,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WireError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    #[error("unexpected EOF")]
    Short,
    #[error("proto: wrong wireType = {0} for field {1}")]
    WireType(u8, String),
    #[error("proto: illegal tag or length")]
    Illegal,
    #[error("exceeded max depth")]
    Deep,
    #[error("more than {OBJECTS_MAX} objects in it")]
    Many,
    #[error("no kind \"{0}\" is registered for version \"{1}\"")]
    NoKind(String, String),
    #[error("the content encoding {} is not supported", api::quoted(.0))]
    Encoding(String),
    #[error("{0}")]
    Quantity(&'static str),
}

impl Wire {
    /// Reads the text that `xtask` wrote. Panics if it is not such: it is part of the binary.
    pub fn parse(text: &'static str) -> Self {
        let mut messages: HashMap<&'static str, HashMap<u64, Target>> = HashMap::new();
        let mut current = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('=') {
                current = name;
                continue;
            }
            let mut words = line.split(' ');
            let name = words.next().expect("a line has a first word");
            let number = words.next().and_then(|n| n.parse().ok()).expect("a field has a number");
            let target = match name.strip_prefix('*') {
                Some(message) => Target::Inline(message),
                None => Target::Field { name, marks: Marks::parse(words.next().unwrap_or_default()) },
            };
            messages.entry(current).or_default().insert(number, target);
        }
        Self { messages }
    }

    /// Fields that JSON has whatever their value is; `typ` tells the types of the message's fields.
    pub(super) fn always_in_json(&self, message: &str, typ: &dyn Fn(&str) -> Option<Type>) -> Vec<&'static str> {
        let mut names = Vec::new();
        for target in self.messages.get(message).into_iter().flat_map(HashMap::values) {
            match target {
                Target::Inline(inner) => names.extend(self.always_in_json(inner, typ)),
                Target::Field { name, marks } => {
                    let is_always = match typ(name) {
                        _ if marks.is_pointer || marks.omits_zero => false,
                        // `omitempty` knows no empty struct.
                        Some(Type::Object(_) | Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString | Type::Any) => true,
                        Some(_) => !marks.absent_if_zero,
                        None => false,
                    };
                    names.extend(is_always.then_some(*name));
                }
            }
        }
        names
    }

    /// An enveloped object, with the kind and version that the envelope says.
    pub fn read(&self, table: &Table, body: &[u8]) -> Result<Value, WireError> {
        self.read_as(table, unwrapped(body)?)
    }

    /// As [`Wire::read`], of what was in an envelope; as whatever it is said to be.
    pub(super) fn read_as(&self, table: &Table, (api_version, kind, raw): (String, String, &[u8])) -> Result<Value, WireError> {
        let definition = definition(table, &api_version, &kind).ok_or_else(|| WireError::NoKind(kind.clone(), api_version.clone()))?;
        let mut out = Map::new();
        out.insert("kind".into(), kind.into());
        out.insert("apiVersion".into(), api_version.into());
        let walk = Walk { wire: self, table, objects: Cell::new(0) };
        walk.message(&table.definition(definition).name, definition, raw, &mut out, 0)?;
        Ok(Value::Object(out))
    }
}

/// Version, kind and message of an envelope.
pub(super) fn unwrapped(body: &[u8]) -> Result<(String, String, &[u8]), WireError> {
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or(WireError::Prefix)?);
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = Default::default();
    while let Some((number, payload)) = envelope.field()? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => (api_version, kind) = type_meta(bytes)?,
            (2, Payload::Bytes(bytes)) => raw = bytes,
            (3, Payload::Bytes(bytes)) if !bytes.is_empty() => return Err(WireError::Encoding(text(bytes))),
            _ => {}
        }
    }
    Ok((api_version, kind, raw))
}

impl Marks {
    fn parse(marks: &str) -> Self {
        let form = |mark: char| match mark {
            'n' => Some(Form::Wrapped),
            'A' => Some(Form::SchemaOrArray),
            'B' => Some(Form::SchemaOrBool),
            'S' => Some(Form::SchemaOrStrings),
            _ => None,
        };
        Self {
            absent_if_zero: marks.contains('z'),
            omits_zero: marks.contains('o'),
            is_pointer: marks.contains('p'),
            form: marks.chars().find_map(form).unwrap_or_default(),
        }
    }
}

/// The definition of a kind; options of the meta group may be said to be of any group.
fn definition(table: &Table, api_version: &str, kind: &str) -> Option<u32> {
    let (group, version) = api::names::split_api_version(api_version)?;
    let group = group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    let end = format!(".{group}.{version}.{kind}");
    let found = table.definitions().iter().position(|d| d.name.ends_with(&end)).and_then(|at| u32::try_from(at).ok());
    found.or_else(|| table.index(&format!("{META}{kind}")))
}

fn type_meta(bytes: &[u8]) -> Result<(String, String), WireError> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => api_version = text(bytes),
            (2, Payload::Bytes(bytes)) => kind = text(bytes),
            _ => {}
        }
    }
    Ok((api_version, kind))
}

struct Walk<'a> {
    wire: &'a Wire,
    table: &'a Table,
    objects: Cell<usize>,
}

impl Walk<'_> {
    /// Reads `bytes` as `message` into the object `out`, whose fields are those of definition `owner`.
    fn message(&self, message: &str, owner: u32, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<(), WireError> {
        if depth > DEPTH_MAX {
            return Err(WireError::Deep);
        }
        let numbers = self.wire.messages.get(message);
        let mut reader = Reader(bytes);
        while let Some((number, payload)) = reader.field()? {
            match (numbers.and_then(|n| n.get(&number)), payload) {
                (Some(Target::Inline(inner)), Payload::Bytes(bytes)) => self.message(inner, owner, bytes, out, depth + 1)?,
                (Some(Target::Field { name, marks }), payload) => {
                    let Some(field) = self.table.definition(owner).field(name) else { continue };
                    self.field(field.typ, name, *marks, payload, out, depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn field(
        &self,
        typ: Type,
        name: &str,
        marks: Marks,
        payload: Payload<'_>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), WireError> {
        match typ {
            Type::List(at) if marks.form == Form::Wrapped => {
                let list = self.items(self.table.element(at), payload, name, depth)?;
                out.insert(name.to_owned(), list);
            }
            Type::List(at) => {
                let value = self.value(self.table.element(at), Form::Plain, payload, name, depth)?;
                if let Value::Array(list) = out.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                    list.push(value);
                }
            }
            Type::Map(at) => {
                let (key, value) = self.entry(self.table.element(at), marks.form, payload, name, depth)?;
                if let Value::Object(map) = out.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                    map.insert(key, value);
                }
            }
            typ => {
                let value = self.value(typ, marks.form, payload, name, depth)?;
                if !(value.is_null() || marks.absent_if_zero && is_zero(&value)) {
                    out.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    fn entry(&self, element: Type, form: Form, payload: Payload<'_>, name: &str, depth: usize) -> Result<(String, Value), WireError> {
        let mut key = String::new();
        let mut value = super::check::zero(element);
        let mut reader = Reader(payload.bytes(name)?);
        while let Some((number, payload)) = reader.field()? {
            match (number, element) {
                (1, _) => key = text(payload.bytes(name)?),
                // A list within a map is a message of its own: `items` is its only field.
                (2, Type::List(at)) => value = self.items(self.table.element(at), payload, name, depth)?,
                (2, _) => value = self.value(element, form, payload, name, depth)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    /// A list that is a message: its only field, over and over.
    fn items(&self, element: Type, payload: Payload<'_>, name: &str, depth: usize) -> Result<Value, WireError> {
        let mut list = Vec::new();
        let mut items = Reader(payload.bytes(name)?);
        while let Some((_, item)) = items.field()? {
            list.push(self.value(element, Form::Plain, item, name, depth)?);
        }
        Ok(Value::Array(list))
    }

    /// A schema, or what may stand in its place; `null` where there is neither. (`JSONSchemaPropsOrArray`, `OrBool` and `OrStringArray` of
    /// apiextensions v1, and their `MarshalJSON`.)
    fn schema_or(&self, form: Form, payload: Payload<'_>, name: &str, depth: usize) -> Result<Value, WireError> {
        let typ = self.table.index(SCHEMA).map_or(Type::Any, Type::Object);
        let (mut schema, mut list, mut is_allowed) = (None, Vec::new(), false);
        let mut reader = Reader(payload.bytes(name)?);
        while let Some((number, payload)) = reader.field()? {
            match (form, number) {
                (Form::SchemaOrBool, 1) => is_allowed = payload.number(name)? != 0,
                (Form::SchemaOrBool, 2) | (_, 1) => schema = Some(self.value(typ, Form::Plain, payload, name, depth + 1)?),
                (Form::SchemaOrArray, 2) => list.push(self.value(typ, Form::Plain, payload, name, depth + 1)?),
                (Form::SchemaOrStrings, 2) => list.push(text(payload.bytes(name)?).into()),
                _ => {}
            }
        }
        Ok(match (form, schema) {
            (Form::SchemaOrBool, None) => is_allowed.into(),
            (_, schema) if list.is_empty() => schema.unwrap_or_default(),
            _ => list.into(),
        })
    }

    fn value(&self, typ: Type, form: Form, payload: Payload<'_>, name: &str, depth: usize) -> Result<Value, WireError> {
        Ok(match typ {
            Type::Any if form != Form::Plain => self.schema_or(form, payload, name, depth)?,
            Type::String => text(payload.bytes(name)?).into(),
            Type::Bytes => STANDARD.encode(payload.bytes(name)?).into(),
            Type::Bool => (payload.number(name)? != 0).into(),
            Type::Int32 | Type::Int64 => payload.number(name)?.cast_signed().into(),
            Type::Double => f64::from_bits(payload.number(name)?).into(),
            Type::Time => moment(payload.bytes(name)?)?.map_or(Value::Null, |at| rfc3339(at).into()),
            Type::MicroTime => moment(payload.bytes(name)?)?.map_or(Value::Null, |at| rfc3339_micro(at).into()),
            Type::Quantity => quantity(payload.bytes(name)?)?.into(),
            Type::IntOrString => int_or_string(payload.bytes(name)?)?,
            // The bytes of embedded JSON are the first field of its message.
            Type::Any => serde_json::from_str(&first_text(payload.bytes(name)?)?).unwrap_or(Value::Null),
            Type::Object(at) => {
                self.objects.set(self.objects.get() + 1);
                if self.objects.get() > OBJECTS_MAX {
                    return Err(WireError::Many);
                }
                let mut inner = Map::new();
                self.message(&self.table.definition(at).name, at, payload.bytes(name)?, &mut inner, depth)?;
                Value::Object(inner)
            }
            Type::List(_) | Type::Map(_) => Value::Null,
        })
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn moment(bytes: &[u8]) -> Result<Option<Timestamp>, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        match number {
            1 => seconds = payload.number("seconds")?.cast_signed(),
            2 => nanos = i32::try_from(payload.number("nanos")?.cast_signed()).map_err(|_| WireError::Illegal)?,
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    Timestamp::new(seconds, nanos).map(Some).map_err(|_| WireError::Illegal)
}

fn first_text(bytes: &[u8]) -> Result<String, WireError> {
    let mut reader = Reader(bytes);
    while let Some((number, payload)) = reader.field()? {
        if number == 1 {
            return payload.bytes("value").map(text);
        }
    }
    Ok(String::new())
}

/// Spaces around it are not trimmed here (`Quantity.Unmarshal` in apimachinery `pkg/api/resource/quantity_proto.go`). What is good comes into canonical form
/// where types are checked.
fn quantity(bytes: &[u8]) -> Result<String, WireError> {
    if bytes.is_empty() {
        return Ok("0".into());
    }
    let text = first_text(bytes)?;
    api::quantity::written(&text).map_err(WireError::Quantity)?;
    Ok(text)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    let mut reader = Reader(bytes);
    while let Some((field, payload)) = reader.field()? {
        match field {
            1 => is_text = payload.number("type")? == 1,
            2 => number = payload.number("intVal")?.cast_signed(),
            3 => string = text(payload.bytes("strVal")?),
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[derive(Clone, Copy)]
enum Payload<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl<'b> Payload<'b> {
    fn bytes(self, name: &str) -> Result<&'b [u8], WireError> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            Payload::Number(_) => Err(WireError::WireType(0, name.to_owned())),
        }
    }

    fn number(self, name: &str) -> Result<u64, WireError> {
        match self {
            Payload::Number(number) => Ok(number),
            Payload::Bytes(_) => Err(WireError::WireType(2, name.to_owned())),
        }
    }
}

/// What is left of a message.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn field(&mut self) -> Result<Option<(u64, Payload<'b>)>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint()?),
            1 => Payload::Number(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Illegal)?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Number(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")).into()),
            _ => return Err(WireError::Illegal),
        };
        if tag >> 3 == 0 {
            return Err(WireError::Illegal);
        }
        Ok(Some((tag >> 3, payload)))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.take(1)?.first().expect("one byte was taken");
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::Illegal)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const STRUCTURE: &str = "=io.k8s.api.core.v1.Pod\napiVersion s\nkind s\nmetadata @io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\nspec @io.k8s.api.core.v1.Spec\n\
        =io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\nname s\nlabels {s\ncreationTimestamp t\n\
        =io.k8s.api.core.v1.Spec\nvolumes [@io.k8s.api.core.v1.Volume\ngrace l\nhost b\nport o\nlimits {q\nextra {[s\ndata y\n\
        =io.k8s.api.core.v1.Volume\nname s\nempty @io.k8s.api.core.v1.Empty\n\
        =io.k8s.api.core.v1.Empty\nmedium s\n";
    const NUMBERS: &str = "=io.k8s.api.core.v1.Pod\nmetadata 1 z\nspec 2 z\n\
        =io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta\nname 1 z\nlabels 11 z\ncreationTimestamp 8 z\n\
        =io.k8s.api.core.v1.Spec\nvolumes 1 z\ngrace 2\nhost 3 z\nport 4 z\nlimits 5 z\nextra 6 z\ndata 7 z\n\
        =io.k8s.api.core.v1.Volume\nname 1\n*io.k8s.api.core.v1.Source 2\n\
        =io.k8s.api.core.v1.Source\nempty 2\n\
        =io.k8s.api.core.v1.Empty\nmedium 1 z\n";

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut length = vec![];
        let mut left = bytes.len();
        while left > 0x7f {
            length.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
            left >>= 7;
        }
        length.push(u8::try_from(left).unwrap());
        [&[number << 3 | 2], length.as_slice(), bytes].concat()
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    fn read(body: &[u8]) -> Result<Value, WireError> {
        Wire::parse(NUMBERS).read(&Table::parse(STRUCTURE), body)
    }

    #[test]
    fn a_body_becomes_json() {
        let meta = [field(1, b"web"), field(8, b""), field(11, &[field(1, b"a"), field(2, b"b")].concat())].concat();
        let volume = [field(1, b"v"), field(2, &field(2, &field(1, b"")))].concat();
        let limits = [field(1, b"cpu"), field(2, &field(1, b"500m"))].concat();
        let extra = [field(1, b"k"), field(2, &[field(1, b"x"), field(1, b"y")].concat())].concat();
        let port = [vec![8, 1], field(3, b"http")].concat();
        let spec = [field(1, &volume), vec![16, 0, 24, 0], field(4, &port), field(5, &limits), field(6, &extra), field(7, b"hi")].concat();
        let body = envelope("v1", "Pod", &[field(1, &meta), field(2, &spec)].concat());
        assert_eq!(
            read(&body).unwrap(),
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {
                "volumes": [{"name": "v", "empty": {}}], "grace": 0, "port": "http", "limits": {"cpu": "500m"}, "extra": {"k": ["x", "y"]}, "data": "aGk=",
            }})
        );
    }

    #[test]
    fn what_is_no_such_body_is_refused() {
        assert_eq!(read(b"{}"), Err(WireError::Prefix));
        assert_eq!(read(&envelope("v1", "Foo", b"")).unwrap_err().to_string(), r#"no kind "Foo" is registered for version "v1""#);
        assert_eq!(read(&envelope("v1", "Pod", &[10, 99])), Err(WireError::Short));
        let volumes = |count: usize| envelope("v1", "Pod", &field(2, &vec![field(1, b""); count].concat()));
        assert!(read(&volumes(OBJECTS_MAX - 1)).is_ok());
        assert_eq!(read(&volumes(OBJECTS_MAX)), Err(WireError::Many));
        assert_eq!(read(&envelope("v1", "Pod", &[8, 1])).unwrap_err().to_string(), "proto: wrong wireType = 0 for field metadata");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            drop(read(&[MAGIC.as_slice(), &bytes].concat()));
            drop(read(&envelope("v1", "Pod", &bytes)));
        }
    }
}
