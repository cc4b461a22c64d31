//! Values while a rule runs: those of the object are read where they stand.

use std::{collections::HashMap, fmt, net::IpAddr, ops::Deref, rc::Rc, sync::Arc};

use api::{quantity::Quantity, read::Read, time::Timestamp};
use serde_json::{Map, Value};

use super::{
    judge::{Authority, Check, Verdict},
    syntax::Literal,
    types::unescaped,
};
use crate::schema::{Node, Type, formats, pattern::Pattern};

#[derive(Clone, Debug)]
pub enum V<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'v>),
    Bytes(Arc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(Rc<Vec<V<'v>>>),
    Map(Rc<Vec<(V<'v>, V<'v>)>>),
    /// A list of the object, and what its schema says of the elements.
    Array(&'v [Value], Option<&'v Node>),
    /// An object or a map of it.
    Fields(&'v Map<String, Value>, Option<&'v Node>),
    Optional(Option<Rc<V<'v>>>),
    Type(&'static str),
    Quantity(Quantity),
    Ip(IpAddr),
    /// Address and length of the prefix.
    Cidr(IpAddr, u8),
    Url(Text<'v>),
    Semver(Rc<Semver>),
    /// A format by name.
    Format(Rc<str>),
    Authorizer(Authority<'v>),
    Check(Authority<'v>, Rc<Check>),
    Decision(Rc<Verdict>),
    /// A literal with a name, and its fields.
    Message(Rc<Message<'v>>),
    /// What composed expressions are selected from.
    Variables(Rc<dyn Variables<'v> + 'v>),
}

/// Expressions with names, worked out when they are asked for.
pub trait Variables<'v>: fmt::Debug {
    /// # Errors
    /// It does not compile, has no value, or does too much.
    fn get(self: Rc<Self>, name: &str) -> Evaluated<'v>;
}

/// `Object.spec{replicas: 1}`
#[derive(Debug)]
pub struct Message<'v> {
    pub name: Rc<str>,
    pub fields: Vec<(Rc<str>, V<'v>)>,
}

#[derive(Clone, Debug)]
pub enum Text<'v> {
    Borrowed(&'v str),
    Shared(Arc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Semver {
    pub numbers: [u64; 3],
    pub pre: Vec<String>,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    Error(String),
    /// It does too much.
    Cost,
}

pub type Evaluated<'v> = Result<V<'v>, Failure>;

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl Failure {
    pub fn of<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Error(why.into()))
    }

    pub fn no_overload<T>() -> Result<T, Self> {
        Self::of("no such overload")
    }
}

impl<'v> V<'v> {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(Text::Shared(text.into()))
    }

    pub fn list(list: Vec<V<'v>>) -> Self {
        Self::List(Rc::new(list))
    }

    pub fn some(value: V<'v>) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    pub fn literal(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Uint(value) => Self::Uint(*value),
            Literal::Double(value) => Self::Double(*value),
            Literal::Text(text) => Self::Text(Text::Shared(text.clone())),
            Literal::Bytes(bytes) => Self::Bytes(bytes.clone()),
        }
    }

    /// A part of the object, as its schema has it (`UnstructuredToVal`).
    pub fn of(value: &'v Value, node: Option<&'v Node>) -> Self {
        let typ = node.map_or(Type::Unset, |node| node.typ);
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (typ, number.as_i64()) {
                (Type::Number, _) | (_, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
                (_, Some(value)) => Self::Int(value),
            },
            Value::String(text) => Self::string(text, node),
            Value::Array(list) => Self::Array(list, node.and_then(|node| node.items.as_deref())),
            Value::Object(map) => Self::Fields(map, node),
        }
    }

    fn string(text: &'v str, node: Option<&'v Node>) -> Self {
        let plain = Self::Text(Text::Borrowed(text));
        let Some(node) = node.filter(|node| node.typ == Type::String) else { return plain };
        match node.limits().format.as_str() {
            "duration" => formats::go_duration(text).map_or(plain, Self::Duration),
            "date" => api::time::parse(&format!("{text}T00:00:00Z")).map_or(plain, Self::Timestamp),
            "date-time" => api::time::parse(text).map_or(plain, Self::Timestamp),
            "byte" => {
                let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
                decoded.map_or(plain, |bytes| Self::Bytes(bytes.into()))
            }
            _ => plain,
        }
    }

    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) | Self::Array(..) => "list",
            Self::Map(_) | Self::Fields(..) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Check(_, check) => check.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
            Self::Message(message) if *message.name == *"JSONPatch" => "JSONPatch",
            Self::Message(_) => "Object",
            Self::Variables(_) => "kubernetes.variables",
        }
    }

    /// How many a list or a map has.
    pub fn length(&self) -> Option<usize> {
        match self {
            Self::List(list) => Some(list.len()),
            Self::Array(list, _) => Some(list.len()),
            Self::Map(map) => Some(map.len()),
            Self::Fields(map, ..) => Some(map.len()),
            _ => None,
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Array(..))
    }

    /// Whether it may be the key of a map.
    pub fn is_key(&self) -> bool {
        matches!(self, Self::Bool(_) | Self::Int(_) | Self::Uint(_) | Self::Text(_))
    }

    /// An element of a list.
    pub fn element(&self, at: usize) -> Option<V<'v>> {
        match self {
            Self::List(list) => list.get(at).cloned(),
            Self::Array(list, items) => list.get(at).map(|value| Self::of(value, *items)),
            _ => None,
        }
    }

    pub fn elements(&self) -> impl Iterator<Item = V<'v>> + '_ {
        let length = if self.is_list() { self.length().unwrap_or(0) } else { 0 };
        (0..length).filter_map(|at| self.element(at))
    }

    /// Entries of a map, keys in order.
    pub fn entries(&self) -> Vec<(V<'v>, V<'v>)> {
        self.pairs().collect()
    }

    /// The same, one by one.
    pub fn pairs(&self) -> impl Iterator<Item = (V<'v>, V<'v>)> + '_ {
        let made: &[(V<'v>, V<'v>)] = if let Self::Map(map) = self { map } else { &[] };
        let fields = if let Self::Fields(map, node) = self { Some((*map, *node)) } else { None };
        let read = fields.into_iter().flat_map(|(map, node)| {
            map.iter().map(move |(key, value)| (Self::Text(Text::Borrowed(key)), Self::of(value, node.and_then(|node| node.field(key)))))
        });
        made.iter().cloned().chain(read)
    }

    /// The field of an object or the entry of a map, by a name in a rule. `None`: there is none.
    pub fn select(&self, name: &str) -> Option<V<'v>> {
        match self {
            Self::Fields(map, None) if map.at(name).is_some() => map.get(name).map(|value| Self::of(value, None)),
            Self::Message(message) => message.fields.iter().find(|(field, _)| **field == *name).map(|(_, value)| value.clone()),
            Self::Fields(map, node) => {
                let is_map = node.is_some_and(|node| node.properties.is_empty());
                let name = if is_map { name.into() } else { unescaped(name)? };
                let value = (*map).at(&name).or_else(|| map.get(&*name))?;
                let inner = node.and_then(|node| node.field(&name));
                // A null that nobody allowed is none.
                if value.is_null() && inner.is_some_and(|inner| !inner.nullable) {
                    return None;
                }
                Some(Self::of(value, inner))
            }
            Self::Map(_) => self.entry(&Self::Text(Text::Shared(name.into()))),
            _ => None,
        }
    }
}

/// What is left to spend, and what was paid for before.
pub struct Meter {
    pub left: u64,
    pub patterns: Patterns,
    /// What the function that is called was given stands in the rule itself, but for what it is called on.
    pub is_literal: bool,
}

/// Compiled, by their texts.
pub type Patterns = HashMap<String, Pattern>;

impl Meter {
    /// The value under a key, paid for: the keys of what a rule has made are gone through one by one.
    ///
    /// # Errors
    /// As [`Meter::spend`].
    pub fn entry<'v>(&mut self, held: &V<'v>, key: &V<'v>) -> Result<Option<V<'v>>, Failure> {
        let length = match key {
            V::Text(text) => text.len(),
            _ => 0,
        };
        self.find(held, length)?;
        Ok(held.entry(key))
    }

    /// The same for a name in a rule.
    ///
    /// # Errors
    /// As [`Meter::spend`].
    pub fn select<'v>(&mut self, held: &V<'v>, name: &str) -> Result<Option<V<'v>>, Failure> {
        self.find(held, name.len())?;
        Ok(held.select(name))
    }

    fn find(&mut self, held: &V<'_>, length: usize) -> Result<(), Failure> {
        let keys = if let V::Map(map) = held { map.len() / 8 } else { 0 };
        self.spend(keys + length / 10)
    }

    /// # Errors
    /// [`Failure::Cost`] where there is not so much left.
    pub fn spend(&mut self, cost: usize) -> Result<(), Failure> {
        match self.left.checked_sub(cost as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(Failure::Cost)
            }
        }
    }
}
