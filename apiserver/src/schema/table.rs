//! Lines of text -> the structural table. The lines are written by `xtask` and explained there (`xtask/src/table.rs`).

use std::{borrow::Cow, collections::HashMap};

use serde_json::Value;

use super::Facets;

const ATOMIC: &str = " atomic";
const ABSENT_IF_ZERO: char = '~';
const ALWAYS: char = '!';

/// Borrowed from the binary for built-in kinds, owned for custom ones.
pub type Text = Cow<'static, str>;

/// Definitions by name, and the types that their fields have.
#[derive(Default)]
pub struct Table {
    definitions: Vec<Definition>,
    /// What lists and maps are made of.
    inner: Vec<Element>,
    names: HashMap<Text, u32>,
}

/// The fields of one object, sorted by name.
#[derive(Default)]
pub struct Definition {
    pub name: Text,
    pub fields: Vec<Field>,
    /// Fields that are not listed are kept.
    pub open: bool,
    /// Owned as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Of a custom schema's root; inner objects' stand with the field or element that holds them.
    pub facets: Option<Box<Facets>>,
}

pub struct Field {
    pub name: Text,
    pub typ: Type,
    /// A zero or empty value stands for an absent one.
    pub absent_if_zero: bool,
    /// Go writes it in any case: an object or a time that is no pointer, the zero value of a list's key. Of built-in kinds only.
    pub is_always: bool,
    pub semantics: Option<Box<Semantics>>,
    /// What custom schemas say besides; built-in kinds have strategies instead.
    pub facets: Option<Box<Facets>>,
}

/// What a list or map holds.
pub struct Element {
    pub typ: Type,
    /// Of lists of lists and the like: how the inner one merges.
    pub semantics: Option<Box<Semantics>>,
    pub facets: Option<Box<Facets>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Any,
    /// Index of a definition.
    Object(u32),
    /// Index of the element's type: see [`Table::element`].
    List(u32),
    Map(u32),
}

impl Field {
    /// Whether `value` need not be written: Go's `omitempty`.
    pub fn is_absent(&self, value: &Value) -> bool {
        self.absent_if_zero
            && match value {
                Value::Bool(value) => !value,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Null => true,
            }
    }
}

/// How a field's lists and maps merge (`x-kubernetes-list-type` and its kin).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Semantics {
    pub list_type: ListType,
    pub map_type: MapType,
    pub map_keys: Vec<Text>,
    /// What stands for a key that an item leaves out, where that is not the zero value.
    pub key_defaults: Vec<(Text, Text)>,
    /// Owned field by field although the definition is owned as a whole.
    pub is_granular: bool,
    /// Strategic merge patch: `x-kubernetes-patch-merge-key`, `x-kubernetes-patch-strategy`.
    pub merge_key: Option<Text>,
    pub merges: bool,
    pub replaces: bool,
    pub retains_keys: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    #[default]
    Granular,
    Atomic,
}

impl Table {
    /// Reads the text that `xtask` wrote. Panics if it is not such: it is part of the binary.
    pub fn parse(text: &'static str) -> Self {
        let mut table = Self::default();
        let names = text.lines().filter_map(|line| line.strip_prefix('='));
        for (at, name) in (0u32..).zip(names) {
            table.names.insert(name.trim_end_matches(ATOMIC).into(), at);
        }
        let mut seen = HashMap::new();
        for line in text.lines() {
            match line.strip_prefix('=') {
                Some(name) => {
                    let (name, atomic) = (name.trim_end_matches(ATOMIC).into(), name.ends_with(ATOMIC));
                    table.definitions.push(Definition { name, atomic, ..Definition::default() });
                }
                None => {
                    let field = table.field(line, &mut seen);
                    table.definitions.last_mut().expect("a field follows its definition's line").fields.push(field);
                }
            }
        }
        for definition in &mut table.definitions {
            definition.fields.sort_by(|a, b| a.name.cmp(&b.name));
            definition.fields.shrink_to_fit();
        }
        table
    }

    pub fn index(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub fn definition(&self, at: u32) -> &Definition {
        self.definitions.get(at as usize).expect("a type names a definition of its table")
    }

    /// The type of what a list or map type holds.
    pub fn element(&self, at: u32) -> Type {
        self.held(at).typ
    }

    /// What a list or map type holds.
    pub fn held(&self, at: u32) -> &Element {
        self.inner.get(at as usize).expect("a type names an element of its table")
    }

    pub fn definitions(&self) -> &[Definition] {
        &self.definitions
    }

    /// A definition of another table, with all that it is made of. `None` where the other has none of that name.
    pub(super) fn import(&mut self, other: &Table, name: &str) -> Option<Type> {
        other.index(name).map(|at| Type::Object(self.copy(other, at)))
    }

    fn copy(&mut self, other: &Table, at: u32) -> u32 {
        let Definition { name, fields, open, atomic, .. } = other.definition(at);
        if let Some(there) = self.index(name) {
            return there;
        }
        // Its place comes first: it may hold itself.
        let place = self.push(Definition { name: name.clone(), open: *open, atomic: *atomic, ..Definition::default() });
        let copied = |field: &Field| Field {
            name: field.name.clone(),
            typ: self.copy_type(other, field.typ),
            absent_if_zero: field.absent_if_zero,
            is_always: field.is_always,
            semantics: field.semantics.clone(),
            facets: field.facets.clone(),
        };
        let fields = fields.iter().map(copied).collect();
        self.definitions.get_mut(place as usize).expect("was just pushed").fields = fields;
        place
    }

    fn copy_type(&mut self, other: &Table, typ: Type) -> Type {
        let mut element = |at: u32| {
            let Element { typ, semantics, facets } = other.held(at);
            let typ = self.copy_type(other, *typ);
            self.push_element(Element { typ, semantics: semantics.clone(), facets: facets.clone() })
        };
        match typ {
            Type::List(at) => Type::List(element(at)),
            Type::Map(at) => Type::Map(element(at)),
            Type::Object(at) => Type::Object(self.copy(other, at)),
            plain => plain,
        }
    }

    pub(super) fn push(&mut self, definition: Definition) -> u32 {
        let at = u32::try_from(self.definitions.len()).expect("fewer than 2^32 definitions");
        self.names.insert(definition.name.clone(), at);
        self.definitions.push(definition);
        at
    }

    pub(super) fn push_element(&mut self, element: Element) -> u32 {
        self.inner.push(element);
        u32::try_from(self.inner.len() - 1).expect("fewer than 2^32 types")
    }

    fn field(&mut self, line: &'static str, seen: &mut HashMap<&'static str, Type>) -> Field {
        let mut words = line.split(' ');
        let name = words.next().expect("a line has a first word");
        let word = words.next().expect("a field has a type");
        let typ = self.typ(word.trim_start_matches([ABSENT_IF_ZERO, ALWAYS]), seen);
        let semantics = semantics(words.next(), words.next());
        let (absent_if_zero, is_always) = (word.starts_with(ABSENT_IF_ZERO), word.starts_with(ALWAYS));
        Field { name: name.into(), typ, absent_if_zero, is_always, semantics, facets: None }
    }

    fn typ(&mut self, word: &'static str, seen: &mut HashMap<&'static str, Type>) -> Type {
        if let Some(typ) = seen.get(word) {
            return *typ;
        }
        let (first, rest) = word.split_at(1);
        let typ = match first {
            "s" => Type::String,
            "b" => Type::Bool,
            "i" => Type::Int32,
            "l" => Type::Int64,
            "d" => Type::Double,
            "y" => Type::Bytes,
            "t" => Type::Time,
            "u" => Type::MicroTime,
            "q" => Type::Quantity,
            "o" => Type::IntOrString,
            "@" => Type::Object(self.index(rest).expect("a reference names a definition")),
            "[" | "{" => {
                let element = self.typ(rest, seen);
                let at = self.push_element(Element { typ: element, semantics: None, facets: None });
                if first == "[" { Type::List(at) } else { Type::Map(at) }
            }
            _ => Type::Any,
        };
        seen.insert(word, typ);
        typ
    }
}

impl Definition {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        self.fields.get(at)
    }

    /// `Container` of `io.k8s.api.core.v1.Container`.
    pub fn short(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

fn semantics(list: Option<&'static str>, patch: Option<&'static str>) -> Option<Box<Semantics>> {
    let list = list?;
    let mut out = Semantics::default();
    match list.split_once(':') {
        Some((_, keys)) => {
            out.list_type = ListType::Map;
            let halves = |key: &'static str| key.split_once('=').map_or((key, None), |(key, default)| (key, Some(default)));
            let keys = || keys.split(',').map(halves);
            out.map_keys = keys().map(|(key, _)| key.into()).collect();
            out.key_defaults = keys().filter_map(|(key, default)| Some((key.into(), default?.into()))).collect();
        }
        None if list == "set" => out.list_type = ListType::Set,
        None if list == "atomic-map" => out.map_type = MapType::Atomic,
        None if list == "granular-map" => out.is_granular = true,
        None => {}
    }
    let (strategies, key) = patch.map_or(("", None), |p| p.split_once(':').map_or((p, None), |(s, k)| (s, Some(k))));
    out.merge_key = key.map(Cow::Borrowed);
    for strategy in strategies.split(',') {
        match strategy {
            "merge" => out.merges = true,
            "replace" => out.replaces = true,
            "retainKeys" => out.retains_keys = true,
            _ => {}
        }
    }
    Some(Box::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_fields() {
        let table = Table::parse(
            "=a.v1.B\nlist [@a.v1.C map:name,kind=K merge,retainKeys:name\nmap {s atomic-map\nx i\ny !@a.v1.C\n=a.v1.C\nname s\n",
        );
        let definition = table.definition(table.index("a.v1.B").unwrap());
        let list = definition.field("list").unwrap();
        let Type::List(element) = list.typ else { panic!("{:?}", list.typ) };
        assert_eq!(table.element(element), Type::Object(1));
        let semantics = list.semantics.as_deref().unwrap();
        assert_eq!((semantics.list_type, semantics.merges, semantics.retains_keys), (ListType::Map, true, true));
        assert_eq!(semantics.map_keys, ["name", "kind"]);
        assert_eq!(semantics.key_defaults, [("kind".into(), "K".into())]);
        assert_eq!(semantics.merge_key.as_deref(), Some("name"));
        assert_eq!(definition.field("map").unwrap().semantics.as_ref().unwrap().map_type, MapType::Atomic);
        assert_eq!(definition.field("x").unwrap().typ, Type::Int32);
        let always = |name| definition.field(name).map(|field| field.is_always);
        assert_eq!([always("x"), always("y"), always("z")], [Some(false), Some(true), None]);
        assert_eq!(definition.short(), "B");
    }
}
