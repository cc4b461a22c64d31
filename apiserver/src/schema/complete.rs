//! An object -> the same with what Go writes where nothing was said: zero values of fields that are no pointers. Source: `encoding/json`
//! (`omitempty` knows no empty struct), and the types' tags by `xtask`'s table.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::{Table, Text, Type, wire::Wire};

/// What each definition has even where an object does not say so. Worked out where it is first asked for.
pub(super) struct Zeros(Vec<OnceLock<Vec<(Text, Value)>>>);

impl Zeros {
    pub fn new(table: &Table) -> Self {
        Self(table.definitions().iter().map(|_| OnceLock::new()).collect())
    }

    fn of(&self, table: &Table, wire: &Wire, at: u32) -> &[(Text, Value)] {
        let zeros = self.0.get(at as usize).expect("a type names a definition of its table");
        zeros.get_or_init(|| {
            let definition = table.definition(at);
            let mut names = wire.always_in_json(&definition.name, &|name| definition.field(name).map(|field| field.typ));
            names.sort_unstable();
            let fields = definition.fields.iter().filter(|field| names.binary_search(&field.name.as_ref()).is_ok());
            fields.map(|field| (field.name.clone(), self.zero(table, wire, field.typ))).collect()
        })
    }

    fn zero(&self, table: &Table, wire: &Wire, typ: Type) -> Value {
        match typ {
            Type::String => "".into(),
            Type::Bool => false.into(),
            Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
            Type::Quantity => "0".into(),
            Type::Object(at) => Value::Object(self.of(table, wire, at).iter().cloned().map(|(name, value)| (name.into(), value)).collect()),
            Type::Bytes | Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) => Value::Null,
        }
    }
}

fn is_many(typ: Type) -> bool {
    matches!(typ, Type::List(_) | Type::Map(_))
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Completes an object of definition `at`.
pub(super) struct Completer<'t> {
    pub table: &'t Table,
    pub wire: &'t Wire,
    pub zeros: &'t Zeros,
}

impl Completer<'_> {
    pub fn object(&self, at: u32, map: &mut Map<String, Value>) {
        let definition = self.table.definition(at);
        for (name, value) in map.iter_mut() {
            if let Some(field) = definition.field(name) {
                self.value(field.typ, value);
            }
        }
        for (name, zero) in self.zeros.of(self.table, self.wire, at) {
            match map.get_mut(name.as_ref()) {
                None => drop(map.insert(name.to_string(), zero.clone())),
                // What is kept as protobuf comes back without: Go knows no empty lists there.
                Some(value) if zero.is_null() && is_empty(value) && definition.field(name).is_some_and(|field| is_many(field.typ)) => {
                    *value = Value::Null;
                }
                Some(_) => {}
            }
        }
    }

    fn value(&self, typ: Type, value: &mut Value) {
        match (typ, value) {
            (Type::Object(at), Value::Object(map)) => self.object(at, map),
            (Type::List(at), Value::Array(list)) => {
                let element = self.table.element(at);
                if matches!(element, Type::Object(_)) {
                    list.iter_mut().for_each(|value| self.value(element, value));
                }
            }
            (Type::Map(at), Value::Object(map)) => {
                let element = self.table.element(at);
                if matches!(element, Type::Object(_) | Type::List(_)) {
                    map.values_mut().for_each(|value| self.value(element, value));
                }
            }
            _ => {}
        }
    }
}
