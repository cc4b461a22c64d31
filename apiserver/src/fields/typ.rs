//! A place in a schema: what a value there is made of, and how it is owned. Sources: structured-merge-diff `schema/elements.go`,
//! `typed/helpers.go`, kube-openapi `pkg/schemaconv`.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::Element;
use crate::schema::{Definition, ListType, MapType, Semantics, Structure, Table, Text, Type};

pub(super) static NULL: Value = Value::Null;
pub(super) static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));

/// The type of a value. Where the schema is open it is deduced from the value: maps field by field, lists as a whole.
#[derive(Clone, Copy)]
pub struct Typ<'t> {
    table: Option<&'t Table>,
    typ: Type,
    semantics: Option<&'t Semantics>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    String,
    Boolean,
    Numeric,
    Untyped,
}

/// What a value is taken for.
#[derive(Clone, Copy)]
pub(super) enum Form<'t> {
    Scalar(Scalar),
    List(ListForm<'t>),
    Map(MapForm<'t>),
}

#[derive(Clone, Copy)]
pub(super) struct ListForm<'t> {
    pub kind: ListType,
    pub element: Typ<'t>,
    semantics: Option<&'t Semantics>,
}

#[derive(Clone, Copy)]
pub(super) struct MapForm<'t> {
    pub is_atomic: bool,
    pub definition: Option<&'t Definition>,
    /// Of what has no field of its own; `None` where there may be no such.
    rest: Option<Typ<'t>>,
    table: Option<&'t Table>,
}

impl<'t> Typ<'t> {
    /// All is deduced.
    pub const OPEN: Self = Self { table: None, typ: Type::Any, semantics: None };

    pub fn of(structure: &'t Structure) -> Self {
        Self { table: Some(structure.table()), typ: structure.typ(), semantics: None }
    }

    /// What `value` is taken for: by the schema, or as what it is where that leaves it open.
    pub(super) fn form(self, value: &Value) -> Form<'t> {
        match self.typ {
            Type::String | Type::Bytes => Form::Scalar(Scalar::String),
            Type::Bool => Form::Scalar(Scalar::Boolean),
            Type::Int32 | Type::Int64 | Type::Double => Form::Scalar(Scalar::Numeric),
            Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString => Form::Scalar(Scalar::Untyped),
            Type::Any => match value {
                Value::Array(_) => Form::List(ListForm { kind: ListType::Atomic, element: Self::OPEN, semantics: None }),
                Value::Object(_) | Value::Null => {
                    let is_atomic = self.semantics.is_some_and(|semantics| semantics.map_type == MapType::Atomic);
                    Form::Map(MapForm { is_atomic, definition: None, rest: Some(Self::OPEN), table: None })
                }
                _ => Form::Scalar(Scalar::Untyped),
            },
            Type::Object(at) => Form::Map(self.object(at)),
            Type::List(at) => {
                let kind = self.semantics.map_or(ListType::Atomic, |semantics| semantics.list_type);
                Form::List(ListForm { kind, element: self.held(at), semantics: self.semantics })
            }
            Type::Map(at) => {
                let is_atomic = self.semantics.is_some_and(|semantics| semantics.map_type == MapType::Atomic);
                Form::Map(MapForm { is_atomic, definition: None, rest: Some(self.held(at)), table: self.table })
            }
        }
    }

    /// Whether values of both forms are owned the same way. Only what is deduced may differ.
    pub(super) fn is_open(self) -> bool {
        self.typ == Type::Any
    }

    fn object(self, at: u32) -> MapForm<'t> {
        let definition = self.table.map(|table| table.definition(at));
        let is_granular = self.semantics.is_some_and(|semantics| semantics.is_granular);
        let is_atomic = self.semantics.is_some_and(|semantics| semantics.map_type == MapType::Atomic)
            || definition.is_some_and(|definition| definition.atomic) && !is_granular;
        let rest = definition.is_none_or(|definition| definition.open).then_some(Self::OPEN);
        MapForm { is_atomic, definition, rest, table: self.table }
    }

    fn held(self, at: u32) -> Self {
        let Some(table) = self.table else { return Self::OPEN };
        let held = table.held(at);
        Self { table: self.table, typ: held.typ, semantics: held.semantics.as_deref() }
    }
}

impl<'t> MapForm<'t> {
    /// The type of a field; `None` where there is no such.
    pub fn typ(&self, name: &str) -> Option<Typ<'t>> {
        match self.definition.and_then(|definition| definition.field(name)) {
            Some(field) => Some(Typ { table: self.table, typ: field.typ, semantics: field.semantics.as_deref() }),
            None => self.rest,
        }
    }

    /// Whether nothing is known of what is in it.
    pub fn is_deduced(&self) -> bool {
        self.definition.is_none_or(|definition| definition.fields.is_empty()) && self.rest.is_some_and(Typ::is_open)
    }

    pub fn has_field(&self, name: &str) -> bool {
        self.definition.is_some_and(|definition| definition.field(name).is_some())
    }
}

impl<'t> ListForm<'t> {
    pub fn is_atomic(&self) -> bool {
        self.kind == ListType::Atomic
    }

    fn keys(&self) -> &'t [Text] {
        self.semantics.map_or(&[], |semantics| &semantics.map_keys)
    }

    /// How an item is found again (`listItemToPathElement`).
    ///
    /// # Errors
    /// It cannot be: upstream's words.
    pub fn element(&self, item: &Value) -> Result<Element, String> {
        if self.kind != ListType::Map || self.keys().is_empty() {
            return match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                plain => Ok(Element::Value(plain.clone())),
            };
        }
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut keys = Vec::with_capacity(self.keys().len());
        for name in self.keys() {
            if let Some(value) = map.get(name.as_ref()).cloned().or_else(|| self.default(name)) {
                keys.push((name.to_string(), value));
            }
        }
        if keys.is_empty() {
            let names: Vec<String> = self.keys().iter().map(|name| format!("{name:?}")).collect();
            let why = "associative list with keys has an element that omits all key fields";
            return Err(format!("{why} [{}] (and doesn't have default values for any key fields)", names.join(" ")));
        }
        keys.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Element::Key(keys))
    }

    /// What stands for a key field that is left out.
    fn default(&self, name: &str) -> Option<Value> {
        let given = self.semantics.and_then(|semantics| semantics.key_defaults.iter().find(|(key, _)| key == name));
        if let Some((_, value)) = given {
            return Some(value.as_ref().into());
        }
        let Form::Map(form) = self.element.form(&NOTHING) else { return None };
        let field = form.definition?.field(name)?;
        match (&field.facets, field.typ) {
            (Some(facets), _) if facets.default.is_some() => facets.default.clone(),
            // Of a built-in kind: a field that is always there has its zero value.
            (_, Type::String) if field.is_always => Some("".into()),
            (_, Type::Int32 | Type::Int64) if field.is_always => Some(0.into()),
            _ => None,
        }
    }
}
